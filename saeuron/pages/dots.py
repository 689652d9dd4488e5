"""Plots of dots as SVG: figures with their intervals, and candidates by two figures."""

import textwrap
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from saeuron.pages.plots import COLOURS, INK, LINE, SOFT, label, svg, text, ticks

_WIDTH, _ROW, _TOP, _LEFT, _RIGHT = 400, 18, 26, 128, 14
_LONGEST = 21
"""Letters of a name that fit left of the plot."""


class Dot(NamedTuple):
    """One figure with its interval, as fractions."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    main: bool = True
    """Whether it is what the plot is about, and not something to compare with."""


def intervals(dots: Sequence[Dot], title: str, *, span: tuple[float, float] = (0.0, 1.0)) -> str:
    """Figures in percent below one another, each with the line of its interval.

    Args:
        span: fractions at the left and right end; it grows to hold every dot.
    """
    ends = [end for d in dots for end in (d.value, d.low, d.high) if end is not None]
    low, high = min([span[0], *ends]), max([span[1], *ends])
    marks = [mark for mark in ticks(100 * low, 100 * high, 4) if 100 * low - 1e-6 <= mark <= 100 * high + 1e-6]
    bottom = _TOP + _ROW * len(dots)

    def x(fraction: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (fraction - low) / ((high - low) or 1.0)

    parts = [text(4, 14, title, anchor="start", weight="600", colour=INK)]
    for mark in marks:
        stroke = SOFT if mark == 0 and low < 0 else LINE
        parts.append(f'<line x1="{x(mark / 100):.1f}" x2="{x(mark / 100):.1f}" y1="{_TOP}" y2="{bottom}" '
                     f'stroke="{stroke}"/>')  # fmt: skip
        parts.append(text(x(mark / 100), bottom + 14, label(mark)))
    for i, dot in enumerate(dots):
        y, colour = _TOP + _ROW * (i + 0.5), COLOURS[0] if dot.main else SOFT
        parts.append(text(_LEFT - 8, y + 4, _short(dot.name), anchor="end", colour=INK if dot.main else SOFT))
        said = f"{escape(dot.name)}: {100 * dot.value:.1f}"
        if dot.low is not None and dot.high is not None:
            said += f" ({100 * dot.low:.1f} to {100 * dot.high:.1f})"
            parts.append(
                f'<line x1="{x(dot.low):.1f}" x2="{x(dot.high):.1f}" y1="{y}" y2="{y}" stroke="{colour}" '
                'stroke-width="2"/>'
            )
        parts.append(f'<circle cx="{x(dot.value):.1f}" cy="{y}" r="4" fill="{colour}"><title>{said}</title></circle>')
    return svg(parts, title, bottom + 20)


def tradeoff(
    points: Sequence[tuple[str, float, float, bool]],
    title: str,
    x_name: str,
    y_name: str,
    *,
    scale: tuple[float, float] = (100.0, 100.0),
    best: Sequence[tuple[float, float]] = (),
) -> str:
    """Candidates by two figures.

    Args:
        points: (name, x, y, chosen).
        scale: what the figures are multiplied by; of fractions that gives percent.
        best: the points that no other one beats, from left to right; a line joins them.
    """
    height, left, top, bottom = 236, 46, 48, 200
    xs, ys = [scale[0] * p[1] for p in points], [scale[1] * p[2] for p in points]
    across, up = ticks(min(xs), max(xs)), ticks(min(ys), max(ys))

    def place(x: float, y: float) -> tuple[float, float]:
        share = (x - across[0]) / (across[-1] - across[0]), (y - up[0]) / (up[-1] - up[0])
        return left + (_WIDTH - left - _RIGHT) * share[0], bottom - (bottom - top) * share[1]

    parts = [text(4, 14, title, anchor="start", weight="600", colour=INK)]
    parts.append(text(4, 30, f"{y_name}, upwards", anchor="start"))
    for mark in up:
        y = place(across[0], mark)[1]
        parts.append(f'<line x1="{left}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="{LINE}"/>')
        parts.append(text(left - 6, y + 4, label(mark), anchor="end"))
    parts += [text(place(mark, up[0])[0], bottom + 15, label(mark)) for mark in across]
    parts.append(text((left + _WIDTH) / 2, height - 4, x_name))
    if len(best) > 1:
        path = " ".join("{:.1f},{:.1f}".format(*place(scale[0] * x, scale[1] * y)) for x, y in best)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{SOFT}" stroke-dasharray="4 3"/>')
    for name, x, y, chosen in sorted(points, key=lambda p: p[3]):
        cx, cy = place(scale[0] * x, scale[1] * y)
        colour, radius = (COLOURS[1], 6) if chosen else (COLOURS[0], 4)
        said = f"{escape(name)}: {scale[0] * x:.1f}, {scale[1] * y:.1f}{', chosen' if chosen else ''}"
        parts.append(
            f'<circle cx="{cx:.1f}" cy="{cy:.1f}" r="{radius}" fill="{colour}" fill-opacity="0.8">'
            f"<title>{said}</title></circle>"
        )
    return svg(parts, title, height)


def _short(name: str) -> str:
    return textwrap.shorten(name, _LONGEST, placeholder="...") if " " in name else name[:_LONGEST]
