"""Test images under the names of UnlearnCanvas, so that the benchmark's own scripts can score them."""

import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from saeuron.errors import ConfigError
from saeuron.judges.unlearncanvas import OBJECTS, STYLES
from storage import Workspace
from storage.files import write_atomic
from tasks import images

SEEDS = (188, 288, 588, 688, 888)
"""The benchmark's seeds, which its image names hold. Our images only take the names: their noise is another."""
PHOTOGRAPHS = "Seed_Images"
"""The benchmark's name for images without a style, which its own scripts read as one more style."""


def read_by_script() -> list[str]:
    """The names that the benchmark's accuracy.py opens for its style head, in its order; it stops at a missing one."""
    return [f"{style}_{name}_seed{seed}.jpg" for style in STYLES for seed in SEEDS for name in OBJECTS]


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
    """Write the images of some sets as JPEGs, and return the files' names, sorted. Existing files are replaced.

    An image without a style is written twice: as `Cats_seed188.jpg`, and as `Seed_Images_Cats_seed188.jpg` unless an
    image was asked for in a style of that name.

    Raises:
        ConfigError: no image asks for an object, so these are not the benchmark's domains.
    """
    found = {image_set: images.index(workspace, image_set) for image_set in image_sets}
    names = {_name(row) for rows in found.values() for row in rows} - {None}
    if not names:
        raise ConfigError("no image names an object; UnlearnCanvas's names need the domains style and object.")
    written: set[str] = set()
    folder.mkdir(parents=True, exist_ok=True)
    for image_set, index in found.items():
        for rows, pictures in images.batches(workspace, image_set, index):
            for row, picture in zip(rows, pictures, strict=True):
                if (name := _name(row)) is None:
                    continue
                data = io.BytesIO()
                # Pillow's own quality, as the benchmark's sampling scripts write.
                Image.fromarray(picture).save(data, "JPEG")
                unstyled = f"{PHOTOGRAPHS}_{name}"
                for each in (name,) if "style" in dict(row["asked"]) or unstyled in names else (name, unstyled):
                    write_atomic(folder / each, data.getvalue())
                    written.add(each)
    return sorted(written)


def _name(row: Mapping[str, Any]) -> str | None:
    return image_name(dict(row["asked"]), row["image_index"])
