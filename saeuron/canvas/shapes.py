"""Objects as signed distance fields, drawn once on a grid: twenty from primitives, the others from glyphs.

Coordinates: x to the right, y down, the object fills about [-1, 1]. A distance is negative inside. The primitives are
the usual exact ones (Inigo Quilez, "2D distance functions"); unions and differences by min and max keep the sign and
the zero line exact, which is all that filling and outlining need.
"""

import math
from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

from saeuron.canvas.glyphs import glyph
from saeuron.canvas.hundred import GLYPHS
from saeuron.canvas.vocabulary import OBJECTS

RESOLUTION = 160
EXTENT = 2.4
"""The template grid covers [-EXTENT, EXTENT] in both axes, so that placing an object never samples outside it."""

Points = tuple[Tensor, Tensor]


def _disc(p: Points, cx: float, cy: float, r: float) -> Tensor:
    return torch.hypot(p[0] - cx, p[1] - cy) - r


def _box(p: Points, cx: float, cy: float, hx: float, hy: float) -> Tensor:
    dx, dy = (p[0] - cx).abs() - hx, (p[1] - cy).abs() - hy
    return torch.hypot(dx.clamp(min=0), dy.clamp(min=0)) + torch.maximum(dx, dy).clamp(max=0)


def _ellipse(p: Points, cx: float, cy: float, rx: float, ry: float) -> Tensor:
    # First-order distance: exact on the zero line and to first order beside it.
    x, y = p[0] - cx, p[1] - cy
    k1 = torch.hypot(x / rx, y / ry)
    k2 = torch.hypot(x / rx**2, y / ry**2).clamp(min=1e-6)
    return k1 * (k1 - 1) / k2


def _ring(p: Points, cx: float, cy: float, r: float, half_width: float) -> Tensor:
    return _disc(p, cx, cy, r).abs() - half_width


def _polygon(p: Points, vertices: Sequence[tuple[float, float]]) -> Tensor:
    px, py = p
    d2 = torch.full_like(px, math.inf)
    sign = torch.ones_like(px)
    for (ax, ay), (bx, by) in zip(vertices, [*vertices[1:], vertices[0]], strict=True):
        ex, ey = bx - ax, by - ay
        wx, wy = px - ax, py - ay
        t = ((wx * ex + wy * ey) / (ex * ex + ey * ey)).clamp(0, 1)
        d2 = torch.minimum(d2, (wx - t * ex) ** 2 + (wy - t * ey) ** 2)
        crosses = (py >= ay) != (py >= by)
        side = (px - ax) * (by - ay) < (py - ay) * (bx - ax)
        flip = crosses & (side == (by > ay))
        sign = torch.where(flip, -sign, sign)
    return sign * d2.sqrt()


def _union(*parts: Tensor) -> Tensor:
    return torch.stack(parts).amin(0)


def _minus(shape: Tensor, *holes: Tensor) -> Tensor:
    return torch.maximum(shape, -_union(*holes))


def _regular(n: int, radius: float, inner: float | None = None) -> list[tuple[float, float]]:
    """Vertices of a regular polygon, or of a star where `inner` is given, one point up."""
    m = n if inner is None else 2 * n
    radii = [radius if inner is None or i % 2 == 0 else inner for i in range(m)]
    return [(r * math.sin(2 * math.pi * i / m), -r * math.cos(2 * math.pi * i / m)) for i, r in enumerate(radii)]


def _heart(p: Points) -> Tensor:
    t = [2 * math.pi * i / 60 for i in range(60)]
    curve = [
        (
            16 * math.sin(a) ** 3 / 17,
            -(13 * math.cos(a) - 5 * math.cos(2 * a) - 2 * math.cos(3 * a) - math.cos(4 * a)) / 15 - 0.12,
        )
        for a in t
    ]
    return _polygon(p, curve)


def _flower(p: Points) -> Tensor:
    petals = [_disc(p, 0.58 * math.sin(a), -0.58 * math.cos(a), 0.37) for a in (2 * math.pi * i / 5 for i in range(5))]
    return _minus(_union(_disc(p, 0, 0, 0.45), *petals), _disc(p, 0, 0, 0.24))


def _tree(p: Points) -> Tensor:
    return _union(
        _polygon(p, [(0, -1.0), (0.52, -0.3), (-0.52, -0.3)]),
        _polygon(p, [(0, -0.6), (0.72, 0.5), (-0.72, 0.5)]),
        _box(p, 0, 0.74, 0.2, 0.28),
    )


def _umbrella(p: Points) -> Tensor:
    canopy = torch.maximum(_disc(p, 0, 0.0, 0.98), p[1] - 0.0)
    hook = torch.maximum(_ring(p, 0.24, 0.66, 0.24, 0.12), -(p[1] - 0.66))
    return _union(canopy, _box(p, 0, 0.35, 0.12, 0.36), hook)


def _mushroom(p: Points) -> Tensor:
    cap = torch.maximum(_ellipse(p, 0, 0.05, 0.98, 0.95), p[1] - 0.08)
    spots = (_disc(p, -0.42, -0.3, 0.2), _disc(p, 0.42, -0.3, 0.2))
    return _union(_minus(cap, *spots), _box(p, 0, 0.5, 0.3, 0.45))


def _cat(p: Points) -> Tensor:
    head = _union(
        _ellipse(p, 0, 0.2, 0.88, 0.72),
        _polygon(p, [(-0.85, -0.95), (-0.12, -0.42), (-0.8, 0.1)]),
        _polygon(p, [(0.85, -0.95), (0.8, 0.1), (0.12, -0.42)]),
    )
    return _minus(head, _disc(p, -0.34, 0.12, 0.18), _disc(p, 0.34, 0.12, 0.18))


def _boat(p: Points) -> Tensor:
    return _union(
        _polygon(p, [(-0.98, 0.4), (0.98, 0.4), (0.6, 0.92), (-0.6, 0.92)]),
        _polygon(p, [(0.1, -1.0), (0.85, 0.22), (0.1, 0.22)]),
        _polygon(p, [(-0.08, -0.75), (-0.08, 0.22), (-0.7, 0.22)]),
        _box(p, 0.0, 0.0, 0.09, 0.5),
    )


def _key(p: Points) -> Tensor:
    return _union(
        _ring(p, -0.55, 0, 0.32, 0.15),
        _box(p, 0.38, 0, 0.62, 0.14),
        _box(p, 0.5, 0.27, 0.12, 0.2),
        _box(p, 0.87, 0.27, 0.12, 0.2),
    )


_DRAW: dict[str, Callable[[Points], Tensor]] = {
    "circle": lambda p: _disc(p, 0, 0, 0.9),
    "square": lambda p: _box(p, 0, 0, 0.78, 0.78),
    "triangle": lambda p: _polygon(p, [(0, -0.98), (0.98, 0.75), (-0.98, 0.75)]),
    "star": lambda p: _polygon(p, _regular(5, 1.1, 0.45)),
    "cross": lambda p: _union(_box(p, 0, 0, 0.95, 0.3), _box(p, 0, 0, 0.3, 0.95)),
    "ring": lambda p: _ring(p, 0, 0, 0.68, 0.24),
    "heart": _heart,
    "moon": lambda p: _minus(_disc(p, -0.05, 0, 0.98), _disc(p, 0.5, -0.1, 0.78)),
    "tree": _tree,
    "house": lambda p: _minus(
        _polygon(p, [(0, -1.0), (1.0, -0.08), (0.72, -0.08), (0.72, 0.9), (-0.72, 0.9), (-0.72, -0.08), (-1.0, -0.08)]),
        _box(p, 0, 0.6, 0.22, 0.34),
    ),
    "fish": lambda p: _minus(
        _union(_ellipse(p, 0.2, 0, 0.8, 0.52), _polygon(p, [(-0.4, 0), (-1.05, -0.55), (-1.05, 0.55)])),
        _disc(p, 0.55, -0.12, 0.15),
    ),
    "flower": _flower,
    "cup": lambda p: _union(_box(p, -0.2, 0.05, 0.6, 0.78), _ring(p, 0.5, 0.0, 0.36, 0.13)),
    "key": _key,
    "arrow": lambda p: _polygon(
        p, [(-1.0, -0.26), (0.1, -0.26), (0.1, -0.72), (1.05, 0), (0.1, 0.72), (0.1, 0.26), (-1.0, 0.26)]
    ),
    "bolt": lambda p: _polygon(
        p, [(0.3, -1.05), (-0.62, 0.15), (-0.05, 0.15), (-0.3, 1.05), (0.65, -0.25), (0.08, -0.25)]
    ),
    "umbrella": _umbrella,
    "mushroom": _mushroom,
    "boat": _boat,
    "cat": _cat,
}  # fmt: skip


@cache
def templates(objects: tuple[str, ...] = OBJECTS) -> Tensor:
    """Distance templates of these objects, float32 [n_objects, 1, RESOLUTION, RESOLUTION], in their order."""

    def draw(name: str) -> Tensor:
        if name in _DRAW:
            return _DRAW[name](_points())
        code, thicken = GLYPHS[name]
        return torch.from_numpy(glyph(code, RESOLUTION, EXTENT, thicken))

    return torch.stack([draw(name) for name in objects])[:, None]


def polygon(vertices: Sequence[tuple[float, float]]) -> Tensor:
    """A template of the polygon with these vertices (x, y), float32 [1, RESOLUTION, RESOLUTION]."""
    return _polygon(_points(), vertices)[None]


def _points() -> Points:
    axis = (torch.arange(RESOLUTION, dtype=torch.float32) + 0.5) / RESOLUTION * 2 * EXTENT - EXTENT
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return x, y
