"""Rows with concept labels, for the tests of variants that learn from them."""

import torch

CONCEPTS = {"a": ("x", "y", "z"), "b": ("u", "v")}
LABELS = torch.tensor([[0, 1], [1, 0], [-1, 0], [2, -1], [-1, -1], [0, 0], [0, 1], [2, 1], [1, -1], [1, 0]] * 2)


def sample(rows=20, seed=1):
    """Rows without structure, float64 [rows, 8]."""
    return torch.randn(rows, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.5


def drawn(rows, seed=0, width=8):
    """Rows [rows, width] with a direction for each concept they ask for, among stronger ones; and their labels."""
    fixed, chance = torch.Generator().manual_seed(7), torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(2 * width, width, generator=fixed), dim=1)
    concepts = [
        torch.nn.functional.normalize(torch.randn(len(n), width, generator=fixed), dim=1) for n in CONCEPTS.values()
    ]
    which = torch.rand(rows, 2 * width, generator=chance).argsort(1)[:, :2]
    x = torch.zeros(rows, 2 * width).scatter(1, which, 1 + torch.rand(rows, 2, generator=chance)) @ directions
    labels = torch.stack([torch.randint(-1, len(each), (rows,), generator=chance) for each in concepts], 1)
    for told, each in zip(labels.unbind(1), concepts, strict=True):
        x = x + torch.cat([each, torch.zeros(1, width)])[told]
    return x + 0.5, labels
