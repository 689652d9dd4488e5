"""How well `saeuron.canvas.realism` tells planted pictures, which no removal made, from new renders of canvas.

python -m benchmarks.pictures.realism
"""

import math

import torch
from torch import Tensor

from saeuron.canvas.realism import realism, renders
from saeuron.canvas.renderer import render_shapes
from saeuron.canvas.shapes import polygon
from saeuron.canvas.vocabularies import CANVAS

SEED = 7
CHECKS = 8
"""Pixels per side of the squares in which two styles take turns."""


def plants(generator: torch.Generator) -> dict[str, Tensor]:
    """{kind: pictures [n, 3, 32, 32]}."""
    pictures, objects, styles = renders(CANVAS, 1, SEED)
    order = torch.randperm(len(pictures), generator=generator)
    other = pictures[order]
    objects_differ, styles_differ = objects != objects[order], styles != styles[order]
    axis = torch.arange(32) // CHECKS
    squares = (axis[:, None] + axis) % 2 == 0
    halves = torch.cat([pictures[..., :16], other[..., 16:]], -1)
    planted = {
        "noise": torch.randn(300, 3, 32, 32, generator=generator).clamp(-1, 1),
        "blank": (torch.rand(300, 3, 1, 1, generator=generator) * 2 - 1).expand(-1, -1, 32, 32),
        "two objects, halves": halves[objects_differ],
        "two pictures blended": ((pictures + other) / 2)[objects_differ & styles_differ],
        "two styles in squares": torch.where(squares, pictures, other)[styles_differ],
    }
    return planted | {"polygons": polygons(300, generator)}


def polygons(count: int, generator: torch.Generator) -> Tensor:
    """Pictures of polygons that are no object of canvas, in styles drawn at random: 5 to 9 corners in random places."""
    shapes = []
    for corners in torch.randint(5, 10, (count,), generator=generator).tolist():
        angles = (torch.rand(corners, generator=generator) * 0.8 + torch.arange(corners)) * 2 * math.pi / corners
        far = torch.rand(corners, generator=generator) * 0.85 + 0.25
        places = torch.stack([far * angles.cos(), far * angles.sin()], 1).tolist()
        shapes.append(polygon([(x, y) for x, y in places]))
    styles = torch.randint(len(CANVAS.style_classes), (count,), generator=generator)
    return render_shapes(torch.stack(shapes), styles, generator)


def auroc(ordinary: Tensor, planted: Tensor) -> float:
    """Chance that a planted picture's distance is larger than an ordinary one's."""
    ranks = torch.cat([ordinary, planted]).argsort().argsort()[len(ordinary) :]
    n, m = len(ordinary), len(planted)
    return float(ranks.sum() - m * (m - 1) / 2) / (n * m)


def main() -> None:
    """Print a table."""
    found, generator = realism(CANVAS), torch.Generator().manual_seed(SEED)
    ordinary = found.distance(renders(CANVAS, 1, SEED + 1)[0])
    print(f"new renders: {100 * (ordinary > found.threshold).float().mean():.1f} % of {len(ordinary)} flagged")
    for kind, pictures in plants(generator).items():
        away = found.distance(pictures)
        flagged = 100 * (away > found.threshold).float().mean()
        print(f"{kind:<24} AUROC {auroc(ordinary, away):.3f}, flagged {flagged:.0f} % of {len(pictures)}")


if __name__ == "__main__":
    main()
