r"""Tables as plain text that stays readable at any width.

Columns are aligned where they fit. Where they do not, each row becomes a block of `name | value` lines, as psql's
`\x` prints it. Names are never cut, and nothing is lost but what the caller allows.
"""

import re
import shutil
import textwrap
from collections.abc import Collection, Iterator, Sequence
from itertools import chain, zip_longest

FEW = 4
"""Names that are listed one by one."""
NO_BREAK = "\N{NO-BREAK SPACE}"
_GAP = "  "
_NARROWEST = 20
"""Columns that may become narrower keep this many letters."""


def few(names: Sequence[str], most: int = FEW, between: str = ", ") -> str:
    """The first names, and how many more there are: `a, b, c, d and 3 more`."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return between.join(names[:most]) + more


def table(
    names: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: Collection[int] = (),
    wrapped: Collection[str] = (),
    optional: Sequence[str] = (),
    width: int | None = None,
) -> str:
    """An aligned table of at most `width` letters, or one block a row where that is impossible.

    Args:
        names: of the columns; two may be equal.
        rows: cells as text, as many as there are names; unprintable characters become spaces.
        right: positions of the columns that are aligned to the right.
        wrapped: columns whose cells may continue on the next line. Paths too: cut short, those of two hookpoints can
            look the same.
        optional: columns that may be left out, the least important first; a last line names those that were. None of
            them is left out for which there is room.
        width: the terminal's if None; 80 where there is no terminal. The environment variable COLUMNS wins.
    """
    width = width or terminal_width()
    head, cells = [printable(name) for name in names], [[printable(cell) for cell in row] for row in rows]
    full = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    flexible = [i for i, name in enumerate(names) if name in wrapped]
    shown, left_out = list(range(len(names))), list[str]()
    for name in (None, *(name for name in optional if name in names)):
        if name is not None:
            shown.remove(names.index(name))
            left_out.append(name)
        if widths := _narrowed(head, full, shown, flexible, width):
            break
    else:
        return _blocks(head, cells, width)
    # Without a wide one that went last, one that went before it may fit after all.
    for name in reversed(left_out[:-1]):
        more = sorted([*shown, names.index(name)])
        if fits := _narrowed(head, full, more, flexible, width):
            shown, widths = more, fits
            left_out.remove(name)

    def line(row: Sequence[str]) -> Iterator[str]:
        """The printed lines of one row."""
        parts = [_wrapped(row[i], widths[i]) for i in shown]
        for pieces in zip_longest(*parts, fillvalue=""):
            aligned = (
                piece.rjust(widths[i]) if i in right else piece.ljust(widths[i])
                for i, piece in zip(shown, pieces, strict=True)
            )
            yield _GAP.join(aligned).rstrip()

    lines = [*line(head), _GAP.join("-" * widths[i] for i in shown), *(part for row in cells for part in line(row))]
    if left_out:
        lines.append(f"(left out to fit {width} letters: {', '.join(left_out)})")
    return "\n".join(lines)


def terminal_width() -> int:
    """Letters in a line of the terminal; 80 where there is none."""
    return shutil.get_terminal_size((80, 24)).columns


def filled(line: str, indent: str = "  ") -> str:
    """A sentence in lines that fit the terminal, all but the first indented; words and paths are never cut.

    A no-break space is printed as a space at which no line ends.
    """
    held = NO_BREAK.join(map(printable, line.split(NO_BREAK)))
    lines = textwrap.fill(
        held, terminal_width(), subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    return lines.replace(NO_BREAK, " ")


def _narrowed(
    head: Sequence[str], full: Sequence[int], shown: Sequence[int], flexible: Collection[int], width: int
) -> list[int]:
    """Widths at which the shown columns fit, the widest flexible ones made narrower; empty if there are none."""
    widths = list(full)
    excess = sum(widths[i] for i in shown) + len(_GAP) * (len(shown) - 1) - width
    while excess > 0:
        wide = [i for i in shown if i in flexible and widths[i] > max(_NARROWEST, len(head[i]))]
        if not wide:
            return []
        widths[max(wide, key=lambda i: widths[i])] -= 1
        excess -= 1
    return widths


def _blocks(head: Sequence[str], cells: Sequence[Sequence[str]], width: int) -> str:
    """One block a row; long values continue on the next line. Without rows, the names alone."""
    if not cells:
        return "\n".join(_wrapped(f"columns: {', '.join(head)}", width))
    margin = max(map(len, head))
    room = max(width - margin - 3, _NARROWEST)
    lines = []
    for number, row in enumerate(cells, 1):
        lines.append(f"-[ {number} ]".ljust(margin + 3, "-"))
        for name, value in zip(head, row, strict=True):
            pairs = zip_longest([name], _wrapped(value, room), fillvalue="")
            lines += [f"{label:{margin}} | {piece}".rstrip() for label, piece in pairs]
    return "\n".join(lines)


def printable(cell: str) -> str:
    """One line without the codes that a terminal obeys: the text of a prompt may hold any."""
    return cell if cell.isprintable() else "".join(letter if letter.isprintable() else " " for letter in cell)


def _wrapped(cell: str, width: int) -> list[str]:
    """Lines of at most `width` letters, broken at spaces and slashes, else before the names of a path."""
    if len(cell) <= width:
        return [cell]
    lines = [""]
    # A file's name stays whole where it fits: a dot is a place to break only in what is too long for a line.
    dots = re.compile(r"(?<=\.)(?=[^\W\d])")
    words = re.split(r"(?<=[ /])", cell)
    for word in chain.from_iterable(dots.split(each) if len(each) > width else [each] for each in words):
        if lines[-1] and len(lines[-1]) + len(word.rstrip()) > width:
            lines.append("")
        while len(word.rstrip()) > width:
            lines[-1:] = [word[:width], ""]
            word = word[width:]
        lines[-1] += word
    return [line.rstrip() for line in lines]
