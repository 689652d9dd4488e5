"""Objects as glyphs of DejaVu Sans: symbol characters turned into signed distance fields.

The font is the one that matplotlib installs beside itself, so the project ships no drawing. It is free to use and to
copy (the licence of Bitstream Vera, https://dejavu-fonts.github.io/License.html).
"""

from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

PIXELS = 400
"""Size at which the font is drawn before it is cropped and scaled."""
FINE = 2
"""Distances are measured on a grid this many times finer than the one they are averaged down to."""


@cache
def _font() -> ImageFont.FreeTypeFont:
    import matplotlib

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), PIXELS)


def squared_distance(inside: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The exact squared distance of every pixel to the nearest pixel that is inside; of a grid that has one.

    Separable, as in Felzenszwalb and Huttenlocher 2012 ("Distance transforms of sampled functions"), but each row's
    lower envelope is found by trying every column: O(n^3) on an n x n grid, no Python loop over pixels.

    Args:
        inside: bool [H, W].

    Returns:
        float32 [H, W], in pixels squared; 0 inside.
    """
    height, width = inside.shape
    far = float(height + width)
    column = np.where(inside, 0.0, far).astype(np.float32)
    for rows in (range(1, height), range(height - 2, -1, -1)):
        for y in rows:
            before = column[y - rows.step]
            np.minimum(column[y], before + 1, out=column[y])
    offsets = np.arange(width, dtype=np.float32)
    across = (offsets[:, None] - offsets[None, :]) ** 2
    return np.stack([(across + row[None, :] ** 2).min(1) for row in column])


def signed_distance(inside: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Distance to the edge in pixels, negative inside: float32 [H, W]; the edge lies between two pixels' centres."""
    outer, inner = np.sqrt(squared_distance(inside)), np.sqrt(squared_distance(~inside))
    return np.where(inside, 0.5 - inner, outer - 0.5).astype(np.float32)


def glyph(code: int, resolution: int, extent: float, thicken: float = 0.0) -> NDArray[np.float32]:
    """The signed distance template of one character, as `shapes.templates` wants it.

    Args:
        code: Unicode code point.
        resolution: pixels per side of the template.
        extent: the template covers [-extent, extent]; the glyph's longer side fills [-1, 1].
        thicken: subtracted from the distance; the glyph is drawn smaller by as much, so that it still fills [-1, 1].

    Returns:
        float32 [resolution, resolution], in units of the template's coordinates, negative inside.
    """
    grey = Image.new("L", (3 * PIXELS, 3 * PIXELS))
    ImageDraw.Draw(grey).text((PIXELS, PIXELS), chr(code), fill=255, font=_font())
    grey = grey.crop(grey.getbbox())
    size = resolution * FINE
    scale = (1 - thicken) * size / extent / max(grey.size)
    width, height = (max(1, round(side * scale)) for side in grey.size)
    small = np.asarray(grey.resize((width, height), Image.Resampling.BOX)) > 127
    inside = np.zeros((size, size), dtype=bool)
    top, left = (size - height) // 2, (size - width) // 2
    inside[top : top + height, left : left + width] = small
    distance = signed_distance(inside) * (2 * extent / size) - thicken
    return distance.reshape(resolution, FINE, resolution, FINE).mean((1, 3))
