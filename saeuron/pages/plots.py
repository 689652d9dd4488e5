"""Small plots as SVG text for HTML pages; they scale with their column and need no scripts."""

import math
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

COLOURS = tuple(f"var(--c{i})" for i in range(6))
INK, SOFT, LINE = "var(--ink)", "var(--soft)", "var(--line)"
"""Colours by the names of `templates/style.css`, which has them for light and for dark."""
_WIDTH, _HEIGHT = 400, 236
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 38, 40

_APART = 50
"""Ratio of two curves' heights above which the axis becomes logarithmic."""

Series = tuple[str, Sequence[float | None]]
"""(name, one value per x; None if missing)."""


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """About `count` round numbers that span [low, high]; the first is <= low and the last >= high."""
    if not high > low:
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    raw = (high - low) / count
    scale = 10.0 ** math.floor(math.log10(raw))
    step = next(s * scale for s in (1, 2, 2.5, 5, 10) if s * scale >= raw * (1 - 1e-9))
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def label(value: float) -> str:
    """A number with three digits, as short as possible."""
    return f"{value:.3g}".replace("e-0", "e-").replace("e+0", "e")


def lines(
    xs: Sequence[int], series: Sequence[Series], title: str, *, x_name: str = "timestep, from noise to image"
) -> str:
    """Curves over denoising steps.

    Args:
        xs: timesteps, descending; plotted from left to right.
    """
    axis = _axis(series)
    x_of = {x: _LEFT + (_WIDTH - _LEFT - _RIGHT) * (i / max(len(xs) - 1, 1)) for i, x in enumerate(xs)}
    parts = _frame(title, axis)
    every = max(1, math.ceil(len(xs) / 6))
    parts += [text(x_of[x], _HEIGHT - 24, str(x)) for i, x in enumerate(xs) if i % every == 0]
    parts.append(text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 7, x_name))
    legend = float(_LEFT)
    for (name, values), colour in zip(series, COLOURS, strict=False):
        points = [(x_of[x], axis.y(v), x, v) for x, v in zip(xs, values, strict=True) if v is not None]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _, _ in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6" fill="{colour}">'
            f"<title>{escape(name)}, t {at}: {label(v)}</title></circle>"
            for x, y, at, v in points
        ]
        if len(series) > 1:
            parts.append(f'<rect x="{legend:.0f}" y="20" width="10" height="3" fill="{colour}"/>')
            parts.append(text(legend + 14, 25, name, anchor="start"))
            legend += 24 + 6.1 * len(name)
    return svg(parts, title)


def histogram(
    values: Sequence[float] | NDArray[Any],
    title: str,
    x_name: str,
    *,
    bins: int = 24,
    span: tuple[float, float] | None = None,
) -> str:
    """A histogram of the values, in `bins` equal parts of their span."""
    found = np.asarray(values, dtype=np.float64)
    low, high = span or ((float(found.min()), float(found.max())) if len(found) else (0.0, 1.0))
    if not high > low:
        low, high = low - 0.5, high + 0.5
    counts, edges = np.histogram(found, bins=bins, range=(low, high))
    axis = _Axis(ticks(0, max(int(counts.max()), 1)))
    inner = _WIDTH - _LEFT - _RIGHT
    parts = _frame(title, axis)
    for count, left, right in zip(counts, edges, edges[1:], strict=False):
        x = _LEFT + inner * (left - low) / (high - low)
        y = axis.y(float(count))
        parts.append(
            f'<rect x="{x + 0.5:.1f}" y="{y:.1f}" width="{inner / bins - 1:.1f}" '
            f'height="{_HEIGHT - _BOTTOM - y:.1f}" fill="{COLOURS[0]}">'
            f"<title>{label(left)} to {label(right)}: {count}</title></rect>"
        )
    for mark in ticks(low, high, 5):
        if low <= mark <= high:
            parts.append(text(_LEFT + inner * (mark - low) / (high - low), _HEIGHT - 24, label(mark)))
    parts.append(text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 7, x_name))
    return svg(parts, title)


def bars(items: Sequence[tuple[str, float]], title: str) -> str:
    """A horizontal bar for each (name, value), starting at zero."""
    row, left = 17, 112
    height = _TOP + row * len(items) + 6
    low, high = min([0.0, *(v for _, v in items)]), max([0.0, *(v for _, v in items)])
    scale = (_WIDTH - left - 52) / ((high - low) or 1)
    zero = left - low * scale
    parts = [text(4, 14, title, anchor="start", weight="600", colour=INK)]
    for i, (name, value) in enumerate(items):
        y = _TOP + row * i
        x = zero if value >= 0 else zero + value * scale
        colour = COLOURS[0] if value >= 0 else SOFT
        parts.append(text(left - 6, y + 11, name, anchor="end", colour=INK))
        parts.append(
            f'<rect x="{x:.1f}" y="{y + 2}" width="{max(abs(value) * scale, 0.5):.1f}" height="{row - 5}" '
            f'fill="{colour}"><title>{escape(name)}: {value:.4f}</title></rect>'
        )
        parts.append(text(max(x + abs(value) * scale, zero) + 4, y + 11, f"{value:.3f}", anchor="start"))
    parts.append(f'<line x1="{zero:.1f}" x2="{zero:.1f}" y1="{_TOP}" y2="{height - 4}" stroke="{SOFT}"/>')
    return svg(parts, title, height)


class _Axis:
    """The vertical axis, from the first mark to the last."""

    def __init__(self, marks: Sequence[float], *, logarithmic: bool = False) -> None:
        self.marks = marks
        self._of = math.log10 if logarithmic else float
        self._low, self._high = self._of(marks[0]), self._of(marks[-1])

    def y(self, value: float) -> float:
        """Position of a value in the plot, in pixels from the top."""
        inner = _HEIGHT - _TOP - _BOTTOM
        return _HEIGHT - _BOTTOM - inner * (self._of(value) - self._low) / (self._high - self._low)


def _axis(series: Sequence[Series]) -> _Axis:
    """An axis that starts at zero, or a logarithmic one if a curve would otherwise be flat."""
    curves = [[v for v in values if v is not None] for _, values in series]
    known = [v for curve in curves for v in curve]
    highest = [max(curve) for curve in curves if curve]
    if known and min(known) > 0 and max(highest) > _APART * min(highest):
        first, last = math.floor(math.log10(min(known))), math.ceil(math.log10(max(known)))
        every = max(1, math.ceil((last - first) / 6))
        return _Axis([10.0**i for i in range(first, last + every, every)], logarithmic=True)
    return _Axis(ticks(min([0.0, *known]), max(known, default=1.0)))


def _frame(title: str, axis: _Axis) -> list[str]:
    """Title, horizontal lines and their labels."""
    parts = [text(4, 14, title, anchor="start", weight="600", colour=INK)]
    for mark in axis.marks:
        y = axis.y(mark)
        stroke = SOFT if mark == 0 else LINE
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="{stroke}"/>')
        parts.append(text(_LEFT - 6, y + 4, label(mark), anchor="end"))
    return parts


def text(x: float, y: float, words: str, *, anchor: str = "middle", weight: str = "400", colour: str = SOFT) -> str:
    """Words at a place."""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}" fill="{colour}">'
        f"{escape(words)}</text>"
    )


def svg(parts: Sequence[str], title: str, height: float = _HEIGHT) -> str:
    """The parts as one picture, 400 units wide."""
    return Markup(
        f'<svg viewBox="0 0 {_WIDTH} {height:.0f}" role="img" aria-label="{escape(title)}" '
        f'font-size="11.5" xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
    )
