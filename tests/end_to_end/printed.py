"""The words on each page of a PDF that Chromium printed."""

import re
import zlib


def pages(pdf: bytes) -> list[str]:
    """The text of each page, without spaces: glyphs are placed one by one, and spaces are often left out.

    Fonts of a page are subsets that number glyphs as they please; each brings a table from its numbers to letters.
    """
    objects = {int(n): body for n, body in re.findall(rb"(?m)^(\d+) 0 obj\b(.*?)^endobj", pdf, re.DOTALL)}
    found = []
    for body in objects.values():
        if b"/Resources" not in body or b"/Contents" not in body:
            continue
        fonts = {
            name: _letters(objects, int(number))
            for name, number in re.findall(rb"/(F\d+) (\d+) 0 R", _of(objects, body, b"Resources"))
        }
        found.append(_shown(_stream(_of(objects, body, b"Contents")), fonts))
    return found


def _of(objects: dict[int, bytes], body: bytes, name: bytes) -> bytes:
    """What an object says under a name, or the object that it names."""
    named = re.search(rb"/" + name + rb" (\d+) 0 R", body)
    return objects[int(named[1])] if named else body


def _stream(body: bytes) -> bytes:
    data = body.partition(b"stream")[2].lstrip(b"\r\n").rpartition(b"endstream")[0]
    return zlib.decompressobj().decompress(data) if b"/FlateDecode" in body else data


def _letters(objects: dict[int, bytes], font: int) -> dict[int, str]:
    """{number of a glyph: its letters} of a font."""
    if b"/ToUnicode" not in objects[font]:
        return {}
    table, found = _stream(_of(objects, objects[font], b"ToUnicode")).decode("latin-1"), dict[int, str]()
    for part in re.findall(r"beginbfchar(.*?)endbfchar", table, re.DOTALL):
        for glyph, letters in re.findall(r"<([0-9A-Fa-f]+)>\s*<([0-9A-Fa-f]+)>", part):
            found[int(glyph, 16)] = bytes.fromhex(letters).decode("utf-16-be")
    for part in re.findall(r"beginbfrange(.*?)endbfrange", table, re.DOTALL):
        for low, high, first in re.findall(r"<([0-9A-Fa-f]+)>\s*<([0-9A-Fa-f]+)>\s*<([0-9A-Fa-f]+)>", part):
            start = int(first, 16)
            found |= {int(low, 16) + i: chr(start + i) for i in range(int(high, 16) - int(low, 16) + 1)}
    return found


def _shown(content: bytes, fonts: dict[bytes, dict[int, str]]) -> str:
    text, letters = "", dict[int, str]()
    for font, hexed in re.findall(rb"/(F\d+) [\d.]+ Tf|<([0-9A-Fa-f]+)>", content):
        if font:
            letters = fonts.get(font, {})
        else:
            numbers = [int(hexed[i : i + 4], 16) for i in range(0, len(hexed), 4)]
            text += "".join(letters.get(n, "") for n in numbers)
    return re.sub(r"\s", "", text)
