"""How much the objects of canvas look alike before any model draws them: overlaps of the renderer's templates."""

import numpy as np
from numpy.typing import NDArray

from saeuron.canvas.shapes import templates


def overlaps(objects: tuple[str, ...]) -> NDArray[np.float64]:
    """Intersection over union of the inside of each pair of templates, unmoved and unturned: float64 [C, C].

    Raises:
        KeyError: there is no template of an object.
    """
    inside = (templates(objects)[:, 0] <= 0).flatten(1).double()
    both = inside @ inside.T
    area = inside.sum(1)
    return np.asarray((both / (area[:, None] + area - both)).numpy(), dtype=np.float64)


def most_alike(objects: tuple[str, ...], count: int) -> list[tuple[str, str, float]]:
    """The pairs with the largest overlap: (an object, another, IoU), the most alike first."""
    found = overlaps(objects)
    rows, columns = np.triu_indices(len(objects), 1)
    order = np.argsort(-found[rows, columns], kind="stable")[:count]
    return [(objects[rows[i]], objects[columns[i]], float(found[rows[i], columns[i]])) for i in order]
