"""Test images under the names of UnlearnCanvas, so that the benchmark's own scripts can score them."""

import io
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from saeuron.errors import ConfigError
from storage import Workspace
from storage.files import write_atomic
from tasks import images

SEEDS = (188, 288, 588, 688, 888)
"""The benchmark's seeds, which its image names hold. Our images only take the names: their noise is another."""


def image_name(asked: dict[str, str], index: int) -> str | None:
    """`Artist_Sketch_Cats_seed188.jpg`, or `Cats_seed188.jpg` without a style, as SAeUron's script reads it.

    Args:
        asked: {domain: concept that the prompt asks for}.
        index: number of the image among those of its prompt, from 0.

    Returns:
        None for an image that asks for no object, or with an index beyond the five seeds.
    """
    if "object" not in asked or index >= len(SEEDS):
        return None
    parts = [asked[domain].replace(" ", "_") for domain in ("style", "object") if domain in asked]
    return f"{'_'.join(parts)}_seed{SEEDS[index]}.jpg"


def export(workspace: Workspace, image_sets: Iterable[str], folder: Path) -> list[str]:
    """Write the images of some sets as JPEGs, and return their names, sorted. Existing files are replaced.

    Raises:
        ConfigError: no image asks for an object, so these are not the benchmark's domains.
    """
    written: list[str] = []
    folder.mkdir(parents=True, exist_ok=True)
    for image_set in image_sets:
        for rows, pictures in images.batches(workspace, image_set, images.index(workspace, image_set)):
            for row, picture in zip(rows, pictures, strict=True):
                if (name := image_name(dict(row["asked"]), row["image_index"])) is None:
                    continue
                data = io.BytesIO()
                # Pillow's own quality, as the benchmark's sampling scripts write.
                Image.fromarray(picture).save(data, "JPEG")
                write_atomic(folder / name, data.getvalue())
                written.append(name)
    if not written:
        raise ConfigError("no image names an object; UnlearnCanvas's names need the domains style and object.")
    return sorted(written)
