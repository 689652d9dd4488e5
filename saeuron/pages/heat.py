"""Heat maps as PNG: a figure for each row and column."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from saeuron.pages.pictures import save_png

_CELL, _LINE, _GAP, _HEAD = 34, 20, 10, 58
_COLD, _WHITE, _HOT = (44, 92, 160), (255, 255, 255), (186, 38, 38)


def heat_map(
    rows: Sequence[str],
    columns: Sequence[str],
    values: NDArray[np.float64],
    title: str,
    across: str,
    path: Path,
    breaks: Sequence[int] = (),
) -> Path:
    """Draw figures as colours, in percent: white is 0, red the largest, blue below 0.

    Args:
        values: [rows, columns], fractions.
        across: what the columns are.
        breaks: rows before which a line is drawn.
    """
    font, small = ImageFont.load_default(13), ImageFont.load_default(11)
    measured = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    left = int(max(measured.textlength(name, font=font) for name in rows)) + 2 * _GAP
    width = max(left + _CELL * len(columns) + _GAP, int(measured.textlength(title, font=font)) + 2 * _GAP)
    image = Image.new("RGB", (width, _HEAD + _LINE * len(rows) + _LINE + _GAP), _WHITE)
    draw = ImageDraw.Draw(image)
    draw.text((_GAP, 8), title, fill="black", font=font)
    most = float(np.abs(values).max()) or 1.0
    for j, name in enumerate(columns):
        draw.text((left + _CELL * (j + 0.5), _HEAD - 14), name, fill="black", font=small, anchor="mm")
    for i, name in enumerate(rows):
        top = _HEAD + _LINE * i
        draw.text((left - _GAP, top + _LINE / 2), name, fill="black", font=font, anchor="rm")
        for j, value in enumerate(values[i]):
            share = float(value) / most
            end = _HOT if share > 0 else _COLD
            colour = tuple(round(w + (e - w) * abs(share)) for w, e in zip(_WHITE, end, strict=True))
            x = left + _CELL * j
            draw.rectangle((x, top, x + _CELL - 2, top + _LINE - 2), fill=colour)
            ink = "white" if abs(share) > 0.6 else "black"
            draw.text((x + _CELL / 2, top + _LINE / 2), f"{100 * value:.0f}", fill=ink, font=small, anchor="mm")
    for i in breaks:
        y = _HEAD + _LINE * i - 2
        draw.line((_GAP, y, width - _GAP, y), fill="grey")
    draw.text((left, _HEAD + _LINE * len(rows) + 4), across, fill="black", font=small)
    return save_png(path, image)
