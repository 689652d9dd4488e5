"""Pictures in rows and columns, as PNG."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from saeuron.pages.pictures import Picture, enlarge, save_png

_GAP, _LINE, _HEAD = 4, 18, 30


def grid(
    bands: Sequence[tuple[str, Sequence[str], Sequence[tuple[str, Sequence[Picture]]]]],
    title: str,
    path: Path,
    side: int = 96,
) -> Path:
    """Draw bands of pictures of one size; returns `path`.

    Args:
        bands: (heading, names of the columns, rows), a row being (caption, its pictures).
        side: the shorter side of a picture, in pixels.
    """
    font, small = ImageFont.load_default(14), ImageFont.load_default(11)
    every = [picture for _, _, rows in bands for _, pictures in rows for picture in pictures]
    if not every:
        raise ValueError("a grid needs at least one picture")
    width, height = enlarge(every[0], side).size
    across = max(len(columns) for _, columns, _ in bands)
    measured = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    told = [title, *(heading for heading, _, _ in bands)]
    captions = [caption for _, _, rows in bands for caption, _ in rows]
    wide = max(
        across * (width + _GAP),
        *(measured.textlength(text, font=font) for text in told),
        *(measured.textlength(text, font=small) for text in captions),
    )
    tall = _HEAD + sum(2 * _LINE + len(rows) * (height + _LINE + _GAP) for _, _, rows in bands)
    sheet = Image.new("RGB", (int(wide) + 4 * _GAP, tall + _GAP), "white")
    draw, y = ImageDraw.Draw(sheet), _HEAD
    draw.text((2 * _GAP, 6), title, fill="black", font=font)
    for heading, columns, rows in bands:
        draw.text((2 * _GAP, y), heading, fill="black", font=font)
        for i, name in enumerate(columns):
            draw.text((2 * _GAP + i * (width + _GAP), y + _LINE), name, fill="#333333", font=small)
        y += 2 * _LINE
        for caption, pictures in rows:
            for i, picture in enumerate(pictures):
                sheet.paste(enlarge(picture, side), (2 * _GAP + i * (width + _GAP), y))
            draw.text((2 * _GAP, y + height + 1), caption, fill="#333333", font=small)
            y += height + _LINE + _GAP
    return save_png(path, sheet)
