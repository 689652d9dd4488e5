"""HTML pages with every picture embedded in the file, and model cards, from templates."""

import base64
import io
from collections.abc import Mapping
from typing import Any

import jinja2
import numpy as np
import yaml
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from saeuron.canvas import FOLDERS
from saeuron.pages.pictures import Picture
from saeuron.sae.interchange import seems_hub_id

THUMBNAIL = 160
"""Larger pictures are scaled down to this shorter side, in pixels, and stored as JPEG."""
SMALL_MAP = 16
"""Longer side, in cells, of maps that are shown about 40 pixels wide."""
_HARD = 64
"""Pictures up to this shorter side, in pixels, are enlarged without smoothing."""

_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("saeuron.pages"),
    autoescape=jinja2.select_autoescape(["html"]),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


def render(template: str, **records: Any) -> str:
    """A page of `templates/`; a missing name is an error. In HTML everything but `Markup` is escaped.

    Filters: the functions below, and `yaml`. Tests: `hub_id`, `shipped`.
    """
    return _TEMPLATES.get_template(template).render(records)


def number(value: float | None, form: str = ".3g") -> str:
    """A formatted number, or a dash for None."""
    return "-" if value is None else format(value, form)


def percent(value: float | None) -> str:
    """A fraction in percent, or a dash for None."""
    return "-" if value is None else f"{100 * value:.1f} %"


def hundred(value: float | None) -> str:
    """A fraction in percent, without the sign: for tables."""
    return "-" if value is None else f"{100 * value:.1f}"


def interval(low: float | None, high: float | None) -> str:
    """Two fractions in percent, or a dash."""
    return "-" if low is None or high is None else f"{hundred(low)} to {hundred(high)}"


def plain(value: Any) -> str:
    """A configuration value as text: keys and values of a mapping, numbers with five digits."""
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {plain(v)}" for k, v in value.items())
    return f"{value:.5g}" if isinstance(value, float) else str(value)


class Gallery:
    """The pictures of a page, each stored once in the style sheet, however often it is shown."""

    def __init__(self) -> None:
        self._classes: dict[str, str] = {}
        self._rules: list[str] = []

    def add(self, key: str, picture: Picture) -> str:
        """The CSS classes of an element that shows the picture; one key stands for one picture."""
        height, width = picture.shape[:2]
        if key not in self._classes:
            name = f"i{len(self._classes)}"
            self._classes[key] = f"im hard {name}" if is_small(picture) else f"im {name}"
            self._rules.append(f".{name} {{ background-image: url({inlined(picture)}); --ratio: {width} / {height}; }}")
        return self._classes[key]

    @property
    def style(self) -> Markup:
        """The CSS rules that hold the pictures."""
        return Markup("\n".join(self._rules))


def is_small(picture: Picture) -> bool:
    """Whether a picture is enlarged without smoothing."""
    return min(picture.shape[:2]) <= _HARD


def inlined(picture: Picture) -> str:
    """A picture as a data URI, scaled down to THUMBNAIL where it is larger."""
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
    """Colours for a map [h, w] to lay over a picture, RGBA [h, w, 4]: transparent at 0, yellow, red at 255."""
    share = heat.astype(np.float64) / 255
    colours = np.stack([np.full_like(share, 255), 215 * (1 - share) ** 0.8, 20 * share, 185 * share], axis=-1)
    return colours.round().astype(np.uint8)


def overlay(heat: NDArray[np.uint8], most: int | None = None) -> str:
    """The map as a data URI, to be stretched over a picture; browsers smooth it.

    Args:
        most: a map whose longer side is more than this is scaled down to it, to means over its cells.
    """
    if most is not None and max(heat.shape) > most:
        height, width = (max(1, round(side * most / max(heat.shape))) for side in heat.shape)
        heat = np.asarray(Image.fromarray(heat).resize((width, height), Image.Resampling.BOX))
    return encoded(Image.fromarray(heat_colours(heat), "RGBA"), "PNG", optimize=True)


_TEMPLATES.filters.update(number=number, percent=percent, hundred=hundred, plain=plain, overlay=overlay)
_TEMPLATES.filters["yaml"] = lambda value: yaml.safe_dump(dict(value), sort_keys=True)
_TEMPLATES.globals.update(interval=interval, SMALL_MAP=SMALL_MAP)
_TEMPLATES.tests.update(hub_id=seems_hub_id, shipped=FOLDERS.__contains__)
