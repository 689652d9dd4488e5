"""The frame of an HTML page: its style, tables that scroll, pictures that are inside the file."""

import base64
import io
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from saeuron.pages.pictures import Picture

THUMBNAIL = 160
"""Shorter side in pixels above which a picture is made smaller, and a JPEG."""
_HARD = 64
"""Shorter side up to which a picture keeps its hard pixels."""

STYLE = """
:root { color-scheme: light; --ink: #1c2430; --soft: #5b6675; --line: #e3e7ed; --panel: #f6f8fa; --blue: #2563a8; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 20px 16px 64px; max-width: 1120px; background: #fff; color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.55rem; line-height: 1.25; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 44px 0 8px; padding-top: 14px; border-top: 1px solid var(--line); }
h3 { font-size: 1.02rem; margin: 0 0 2px; }
p { margin: 6px 0; max-width: 76ch; }
a { color: var(--blue); }
code, .id { font: 0.86em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
code { white-space: nowrap; }
.id { overflow-wrap: anywhere; }
.soft { color: var(--soft); font-size: 0.9rem; }
nav { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 14px 0; font-size: 0.93rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(45%, 230px), 1fr)); gap: 10px;
  margin: 16px 0; }
.tile { background: var(--panel); border-radius: 8px; padding: 10px 12px; }
.tile b { display: block; font-size: 1.4rem; line-height: 1.25; font-variant-numeric: tabular-nums; }
.tile span { color: var(--soft); font-size: 0.83rem; line-height: 1.35; display: block; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 330px), 1fr)); gap: 12px 26px;
  margin: 12px 0; align-items: start; }
.plots svg, .pair svg { width: 100%; max-width: 520px; height: auto; display: block; }
.scroll { overflow-x: auto; margin: 10px 0; }
table { border-collapse: collapse; font-size: 0.88rem; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 14px 4px 0; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; vertical-align: bottom; }
th.left, td.left { text-align: left; }
details { margin: 8px 0; }
summary { cursor: pointer; }
.latent { border-top: 1px solid var(--line); padding: 16px 0; scroll-margin-top: 8px; }
.strip { display: grid; grid-template-columns: repeat(auto-fit, minmax(96px, 1fr)); gap: 12px 10px; margin: 10px 0; }
.strip figure { margin: 0; min-width: 0; max-width: 160px; }
.strip figcaption { color: var(--soft); font-size: 0.74rem; line-height: 1.35; margin-top: 3px;
  overflow-wrap: anywhere; }
.im { aspect-ratio: var(--ratio, 1); background-size: 100% 100%; border-radius: 3px; }
.im.hard { image-rendering: pixelated; }
.over { position: relative; margin-top: 3px; overflow: hidden; border-radius: 3px; }
.over .im { filter: grayscale(1) brightness(0.82); }
.over img { position: absolute; inset: 0; width: 100%; height: 100%; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 330px), 1fr)); gap: 8px 26px;
  align-items: start; }
@media (max-width: 520px) { .strip { grid-template-columns: repeat(4, 1fr); gap: 8px 6px; } h1 { font-size: 1.25rem; } }
@media print { .latent { break-inside: avoid; } }
"""


def document(title: str, body: Sequence[str], style: str = "") -> str:
    """A whole page; `style` is added to the common one."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}{style}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def number(value: float | None, form: str = ".3g") -> str:
    """A figure, or a dash where there is none."""
    return "-" if value is None else format(value, form)


def percent(value: float | None) -> str:
    """A share in percent, or a dash."""
    return "-" if value is None else f"{100 * value:.1f} %"


def table(header: Sequence[str], rows: Sequence[Sequence[Any]], *, left: int = 1) -> str:
    """A table that scrolls sideways where it is too wide; cells that are HTML already are `Markup`.

    Args:
        left: how many of the first columns hold words.
    """

    def cell(tag: str, i: int, value: Any) -> str:
        text = value.text if isinstance(value, Markup) else escape(str(value))
        return f"<{tag}{' class=left' if i < left else ''}>{text}</{tag}>"

    head = "".join(cell("th", i, name) for i, name in enumerate(header))
    body = "".join("<tr>" + "".join(cell("td", i, v) for i, v in enumerate(row)) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


class Markup:
    """Text that is HTML already."""

    def __init__(self, text: str) -> None:
        self.text = text


def tiles(items: Sequence[tuple[str, str]]) -> str:
    """Key figures: (value, what it is)."""
    return (
        '<div class="tiles">'
        + "".join(f'<div class="tile"><b>{escape(v)}</b><span>{escape(what)}</span></div>' for v, what in items)
        + "</div>"
    )


class Gallery:
    """The pictures of a page, each once however often it is shown: as classes of the style sheet."""

    def __init__(self) -> None:
        self._classes: dict[str, str] = {}
        self._rules: list[str] = []

    def show(self, key: str, picture: Picture, said: str) -> str:
        """An element that shows a picture; `said` is read out in its place."""
        height, width = picture.shape[:2]
        hard = min(height, width) <= _HARD
        if key not in self._classes:
            name = f"i{len(self._classes)}"
            self._classes[key] = name
            self._rules.append(f".{name} {{ background-image: url({_data(picture)}); --ratio: {width} / {height}; }}")
        kind = "im hard" if hard else "im"
        return f'<div class="{kind} {self._classes[key]}" role="img" aria-label="{escape(said)}"></div>'

    @property
    def style(self) -> str:
        """The rules that hold the pictures."""
        return "\n".join(self._rules)


def _data(picture: Picture) -> str:
    image = Image.fromarray(picture)
    if min(image.size) <= THUMBNAIL:
        return encoded(image, "PNG")
    scale = THUMBNAIL / min(image.size)
    size = (round(image.width * scale), round(image.height * scale))
    return encoded(image.resize(size, Image.Resampling.LANCZOS), "JPEG", quality=88)


def encoded(image: Image.Image, kind: str, **how: Any) -> str:
    """An image as a data URI."""
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **how)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def heat_colours(heat: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A map [h, w] as colours to lay over a picture, RGBA [h, w, 4]: clear at 0, yellow, then red at 255."""
    share = heat.astype(np.float64) / 255
    colours = np.stack([np.full_like(share, 255), 215 * (1 - share) ** 0.8, 20 * share, 185 * share], axis=-1)
    return colours.round().astype(np.uint8)


def overlay(heat: NDArray[np.uint8]) -> str:
    """The map as an image to be stretched over a picture; browsers smooth what they enlarge."""
    return f'<img alt="" src="{encoded(Image.fromarray(heat_colours(heat), "RGBA"), "PNG", optimize=True)}">'
