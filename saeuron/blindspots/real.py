"""Real pictures: drawn by canvas's renderer, or of a folder, with captions in a table beside them."""

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from saeuron.canvas.renderer import render
from saeuron.canvas.vocabularies import VOCABULARIES, Vocabulary
from saeuron.canvas.vocabulary import UNSTYLED
from saeuron.errors import BadPrompts, ConfigError, UnknownName
from saeuron.noise import generator
from saeuron.prompts import Prompt
from saeuron.prompts.rows import heading, rows_of

KINDS = (".png", ".jpg", ".jpeg", ".webp")
CAPTIONS = "captions.csv"
"""The table of captions that is looked for in a folder where none is named."""
FILE, TEXT = "file", "text"


class Picture(NamedTuple):
    """A real picture."""

    name: str
    """Its file, or of a render its number and what it shows."""
    pixels: NDArray[np.uint8]
    """[H, W, 3]."""
    labels: Mapping[str, str | None]
    """{domain: what it shows}, as far as that is known."""
    text: str = ""
    """Its caption; empty: none."""


def check(spec: str) -> None:
    """Raise UnknownName or ConfigError unless `spec` is a name of a renderer or a folder."""
    if spec in VOCABULARIES:
        return
    path = Path(spec).expanduser()
    if not path.exists() and path.parent == Path() and get_close_matches(spec, VOCABULARIES):
        raise UnknownName("source of real pictures", spec, VOCABULARIES, "Or give a folder of pictures.")
    if not path.is_dir():
        raise ConfigError(f"no such folder: {spec!r}; expected {' or '.join(VOCABULARIES)}, or a folder of pictures.")


@dataclass(frozen=True)
class Rendered:
    """Renders of what prompts ask for; the concepts of the domains `object` and `style`."""

    vocabulary: Vocabulary

    def labels(self, prompt: Prompt) -> dict[str, str | None]:
        """The contents of a prompt's render.

        Raises:
            BadPrompts: it asks for no object, for something else beside, or for what the renderer does not know.
        """
        known = {"object": self.vocabulary.objects, "style": self.vocabulary.style_classes}
        for domain, concept in prompt.concepts.items():
            if domain not in known or concept not in known[domain]:
                raise BadPrompts(
                    f"the renderer {self.vocabulary.name!r} cannot draw {domain} {concept!r} of the prompt "
                    f"{prompt.text!r}; expected its own objects and styles, or a folder as --real."
                )
        if "object" not in prompt.concepts:
            raise BadPrompts(f"the prompt {prompt.text!r} asks for no object; the renderer draws one each.")
        return {"object": prompt.concepts["object"], "style": prompt.concepts.get("style", UNSTYLED)}

    def draw(self, prompts: Sequence[Prompt], *seed: object) -> list[Picture]:
        """A render for each prompt; other seeds, other poses and colours."""
        labels = [self.labels(p) for p in prompts]
        objects = torch.tensor([self.vocabulary.objects.index(str(each["object"])) for each in labels])
        styles = torch.tensor([self.vocabulary.style_classes.index(str(each["style"])) for each in labels])
        chance = generator("real", *seed)
        drawn = render(objects, styles, chance, self.vocabulary.objects) if labels else torch.zeros(0, 3, 32, 32)
        pixels = ((drawn + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        return [
            Picture(f"{i:04d} {' '.join(str(v) for v in shown.values())}", picture, shown, prompt.text)
            for i, (prompt, picture, shown) in enumerate(zip(prompts, pixels, labels, strict=True))
        ]


@dataclass(frozen=True)
class Row:
    """One file of a folder."""

    path: Path
    text: str = ""
    labels: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def prompt(self) -> Prompt:
        """Its caption as a prompt."""
        return Prompt(self.text, "test", {k: v for k, v in self.labels.items() if v})


@dataclass(frozen=True)
class Folder:
    """The pictures of a folder, in the order of their names, and the captions of a table beside them.

    The table has the columns `file` and `text`; further columns are domains, and say what a picture shows. Pictures
    that it does not name are left out.
    """

    path: Path
    captions: Path | None = None
    """CSV, JSONL or Parquet; None: `captions.csv` of the folder, if it is there."""

    @functools.cached_property
    def table(self) -> Path | None:
        """The table of captions."""
        there = self.path / CAPTIONS
        return self.captions if self.captions is not None else there if there.is_file() else None

    @functools.cached_property
    def files(self) -> list[Row]:
        """(file, caption, labels) of every picture.

        Raises:
            ConfigError: the folder has no picture.
            BadPrompts: the table lacks a column or a caption, or names a file twice or one that is not there.
        """
        there = sorted(p for p in self.path.iterdir() if p.suffix.lower() in KINDS)
        if not there:
            raise ConfigError(f"{self.path} holds no picture; expected files that end in {', '.join(KINDS)}.")
        if self.table is None:
            return [Row(path) for path in there]
        found: dict[Path, Row] = {}
        for number, row in enumerate(rows_of(self.table), 1):
            where = f"{self.table}, row {number}"
            cells = {heading(str(k)): str(v or "").strip() for k, v in row.items() if k is not None}
            for column in (FILE, TEXT):
                if column not in cells:
                    raise BadPrompts(f"{self.table} has no column {column!r}; expected {FILE} and {TEXT}.")
                if not cells[column]:
                    raise BadPrompts(f"{where}: no {column}; expected the name of a picture and what it shows.")
            path = self.path / cells.pop(FILE)
            if path not in there:
                near = get_close_matches(path.name, [p.name for p in there], n=1)
                also = f"; did you mean {near[0]!r}?" if near else f" in {self.path}."
                raise BadPrompts(f"{where}: no picture {path.name!r}{also}")
            if path in found:
                raise BadPrompts(f"{where}: {path.name!r} stands twice; give each picture one caption.")
            text = cells.pop(TEXT)
            found[path] = Row(path, text, {k: v for k, v in cells.items() if v})
        return list(found.values())

    @property
    def content(self) -> str:
        """Hash of the pictures and of the table."""
        digest = hashlib.sha256()
        for path in [*(row.path for row in self.files), *([self.table] if self.table else [])]:
            with path.open("rb") as file:
                digest.update(path.name.encode() + b"\0" + hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    def pictures(self, rows: Sequence[Row], size: tuple[int, int]) -> list[Picture]:
        """Pictures, cut to the shape of generated ones about their middle, and scaled to their size (height, width).

        Otherwise every latent that knows sizes and shapes would count as a blind spot.

        Raises:
            ConfigError: a file cannot be read as a picture.
        """
        found = []
        for row in rows:
            try:
                with Image.open(row.path) as image:
                    found.append(Picture(row.path.name, fitted(image.convert("RGB"), size), row.labels, row.text))
            except (OSError, UnidentifiedImageError) as error:
                said = str(error).splitlines()[0]
                raise ConfigError(f"{row.path} cannot be read as a picture: {said}; mend it, or take it out.") from None
        return found


def fitted(image: Image.Image, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The middle of a picture in the shape of `size` (height, width), scaled to it; uint8 [H, W, 3]."""
    height, width = size
    scale = min(image.width / width, image.height / height)
    across, down = width * scale, height * scale
    left, top = (image.width - across) / 2, (image.height - down) / 2
    box = (left, top, left + across, top + down)
    return np.asarray(image.resize((width, height), Image.Resampling.LANCZOS, box=box))
