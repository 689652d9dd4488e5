"""Pictures as PNG: their bytes, contact sheets and plots."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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


Words = Sequence[tuple[str, bool]]
"""Judgements of a picture, one word per domain, and whether they are what was asked for."""


@dataclass(frozen=True)
class Shot:
    """One request on a contact sheet: a caption, and the pictures of one size without and with the removal."""

    caption: str
    unedited: Picture
    edited: Picture
    seen_unedited: Words = ()
    seen_edited: Words = ()


_GAP, _LINE, _HEAD, _LEFT = 4, 16, 48, 66
_GREY, _RED = "#333333", "#b00000"


def contact_sheet(
    bands: Sequence[tuple[str, Sequence[Shot]]],
    title: str,
    path: Path,
    *,
    side: int = 112,
    across: int = 10,
    names: tuple[str, str] = ("unedited", "removed"),
) -> Path:
    """A PNG of unedited above edited pictures, what judges see below each; returns `path`.

    Args:
        bands: (heading, shots), each wrapped into rows of `across`; those without a shot are left out.
        title: of the whole sheet.
        path: where to write it.
        side: the shorter side of a picture, in pixels.
        across: shots beside one another.
        names: what stands beside the upper and the lower row.
    """
    rows = [
        (heading if start == 0 else "", shots[start : start + across])
        for heading, shots in bands
        for start in range(0, len(shots), across)
    ]
    if not rows:
        raise ValueError("a contact sheet needs at least one image")
    judged = any(shot.seen_unedited or shot.seen_edited for _, shots in rows for shot in shots)
    below = _LINE if judged else 0
    height = _LINE + 2 * (side + below + _GAP) + _GAP
    width = _LEFT + max(len(shots) for _, shots in rows) * (side + _GAP) + _GAP
    sheet = Image.new("RGB", (width, _HEAD + sum(height + _LINE * bool(heading) for heading, _ in rows)), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((8, 6), _fitted(draw, title, width - 16, _font(14)), fill="black", font=_font(14))
    if judged:
        legend = "below each picture: what the judge sees, red where it was not asked for"
        draw.text((8, 25), _fitted(draw, legend, width - 16, _font(11)), fill=_GREY, font=_font(11))
    top = _HEAD
    for heading, shots in rows:
        if heading:
            draw.text((8, top), _fitted(draw, heading, width - 16, _font(12)), fill="black", font=_font(12))
            top += _LINE
        for name, y, colour in ((names[0], top + _LINE, _GREY), (names[1], top + _LINE + side + below + _GAP, _RED)):
            draw.text((8, y + side // 2 - 6), name, fill=colour, font=_font(12))
        for i, shot in enumerate(shots):
            x, y = _LEFT + i * (side + _GAP), top + _LINE
            draw.text((x + 2, top), _fitted(draw, shot.caption, side, _font(11)), fill=_GREY, font=_font(11))
            for picture, words in ((shot.unedited, shot.seen_unedited), (shot.edited, shot.seen_edited)):
                sheet.paste(enlarge(picture, side), (x, y))
                _words(draw, words, x + 2, y + side, side - 2)
                y += side + below + _GAP
        top += height
    return save_png(path, sheet)


def _words(draw: ImageDraw.ImageDraw, words: Words, x: float, y: float, width: float) -> None:
    """The words in one line of at most `width` pixels, wrong ones in red; without the right ones if all do not fit."""
    font, end = _font(11), x + width
    if draw.textlength(" ".join(word for word, _ in words), font=font) > width:
        words = [word for word in words if not word[1]] or words
    for word, right in words:
        shown = _fitted(draw, word, max(0, int(end - x)), font)
        draw.text((x, y), shown, fill=_GREY if right else _RED, font=font)
        x += draw.textlength(shown + " ", font=font)


def side_by_side(unedited: Picture, edited: Picture, path: Path, *, side: int = 256) -> Path:
    """A PNG of one prompt and noise without and with the removal; returns `path`."""
    left, right = enlarge(unedited, side), enlarge(edited, side)
    sheet = Image.new("RGB", (left.width + right.width + 12, left.height + 24), "white")
    draw = ImageDraw.Draw(sheet)
    for x, image, text in ((0, left, "unedited"), (left.width + 12, right, "removed")):
        draw.text((x + 4, 3), text, fill="black", font=_font(14))
        sheet.paste(image, (x, 24))
    return save_png(path, sheet)


Dots = Mapping[str, tuple[float | None, float | None, float | None]]
"""{metric: (value, low, high)}, fractions."""


def method_plot(rows: Sequence[tuple[str, Dots]], title: str, path: Path) -> Path:
    """A PNG of methods beside one another: a panel for each metric, with 95 % intervals; returns `path`.

    Args:
        rows: (method, figures) from top to bottom; all have the same metrics.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    metrics = list(rows[0][1])
    size = (2.4 * len(metrics) + 1.4, 1.2 + 0.3 * len(rows))
    figure, found = pyplot.subplots(1, len(metrics), figsize=size, dpi=110, layout="constrained", sharey=True)
    for axes, metric in zip(np.atleast_1d(found), metrics, strict=True):
        for place, (_, dots) in enumerate(rows):
            value, low, high = dots[metric]
            if value is None:
                continue
            if low is not None and high is not None:
                axes.plot([100 * low, 100 * high], [place, place], color="#999999", linewidth=2)
            axes.plot([100 * value], [place], marker="o", color="#1f5fa8")
        axes.set_title(f"{metric}, %", fontsize=9)
        axes.grid(axis="x", color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    first = np.atleast_1d(found)[0]
    first.set_yticks(range(len(rows)), [name for name, _ in rows], fontsize=8)
    first.set_ylim(len(rows) - 0.5, -0.5)
    figure.suptitle(title, fontsize=10)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})
    pyplot.close(figure)
    return path


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
