"""Pictures as PNG: their bytes, contact sheets and plots."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from saeuron.files import atomic_path

Picture = NDArray[np.uint8]
"""uint8 [H, W, 3]."""


def _font(size: int) -> Any:
    return ImageFont.load_default(size)


def png_of(picture: Picture) -> bytes:
    """A picture as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    return buffer.getvalue()


def picture_of(png: bytes) -> Picture:
    """The picture of an image file's bytes."""
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def save_png(path: Path, image: Image.Image) -> Path:
    """Write a PNG file, atomically."""
    with atomic_path(path) as temporary:
        image.save(temporary, format="PNG")
    return path


def enlarge(picture: Picture, side: int) -> Image.Image:
    """A picture scaled to a shorter side of `side` pixels; enlarging does not smooth."""
    image = Image.fromarray(picture)
    small = min(image.size) < side
    scale = side / min(image.size)
    size = (round(image.width * scale), round(image.height * scale))
    return image.resize(size, Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS)


def _fitted(draw: ImageDraw.ImageDraw, text: str, width: int, font: Any) -> str:
    """The text, shortened to at most `width` pixels."""
    if draw.textlength(text, font=font) <= width:
        return text
    while text and draw.textlength(text + "...", font=font) > width:
        text = text[:-1]
    return text + "..."


def contact_sheet(
    columns: Sequence[tuple[str, Picture, Picture]], title: str, path: Path, *, side: int = 96, across: int = 10
) -> Path:
    """A PNG of unedited above edited images, one column each, wrapped into bands of `across`; returns `path`.

    Args:
        columns: (caption, unedited, edited), pictures of one size.
    """
    if not columns:
        raise ValueError("a contact sheet needs at least one image")
    gap, label, head, left = 4, 16, 30, 66
    across = min(across, len(columns))
    bands = -(-len(columns) // across)
    band = label + 2 * (side + gap) + 10
    sheet = Image.new("RGB", (left + across * (side + gap) + gap, head + bands * band), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((8, 7), title, fill="black", font=_font(14))
    for i, (caption, unedited, edited) in enumerate(columns):
        x, y = left + (i % across) * (side + gap), head + (i // across) * band
        draw.text((x + 2, y), _fitted(draw, caption, side, _font(11)), fill="#333333", font=_font(11))
        sheet.paste(enlarge(unedited, side), (x, y + label))
        sheet.paste(enlarge(edited, side), (x, y + label + side + gap))
        if i % across == 0:
            draw.text((8, y + label + side // 2 - 6), "unedited", fill="#333333", font=_font(12))
            draw.text((8, y + label + side + gap + side // 2 - 6), "removed", fill="#a00000", font=_font(12))
    return save_png(path, sheet)


def side_by_side(unedited: Picture, edited: Picture, path: Path, *, side: int = 256) -> Path:
    """A PNG of one prompt and noise without and with the removal; returns `path`."""
    left, right = enlarge(unedited, side), enlarge(edited, side)
    sheet = Image.new("RGB", (left.width + right.width + 12, left.height + 24), "white")
    draw = ImageDraw.Draw(sheet)
    for x, image, text in ((0, left, "unedited"), (left.width + 12, right, "removed")):
        draw.text((x + 4, 3), text, fill="black", font=_font(14))
        sheet.paste(image, (x, 24))
    return save_png(path, sheet)


Curves = Sequence[tuple[str, Sequence[float]]]
"""(label, [T] scores) of each latent shown."""


def score_plot(panels: Sequence[tuple[str, Sequence[int], Curves]], title: str, path: Path) -> Path:
    """A PNG of the scores of a concept's best latents at each step, from noise (left) to image (right).

    Args:
        panels: (name, timesteps [T] descending, curves) of each hookpoint, side by side on one scale.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    size = (max(7.2, 4.2 * len(panels)), 3.6)
    figure, found = pyplot.subplots(
        1, len(panels), figsize=size, dpi=110, layout="constrained", sharey=True, squeeze=False
    )
    for axes, (name, timesteps, curves) in zip(found[0], panels, strict=True):
        for label, values in curves:
            axes.plot(timesteps, values, marker="o", markersize=3, linewidth=1.4, label=label)
        axes.invert_xaxis()
        axes.axhline(0, color="#999999", linewidth=0.8)
        axes.set_xlabel("timestep (noise to image)")
        axes.set_title(name, fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=8, frameon=False, title="latent", title_fontsize=8)
    found[0][0].set_ylabel("score s(i, t, c)")
    figure.suptitle(title, fontsize=11)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})
    pyplot.close(figure)
    return path
