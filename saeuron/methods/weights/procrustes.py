"""Orthogonal Procrustes: cross-attention reads all states rotated, so that the concept's come to lie where others do.

    R = argmin over rotations  erase mean |R c - c*|^2 + mean |R x - x|^2  =  U V^T,   U S V^T = erase C* + P

within the RANK main directions of the concept's states and of the ones that they move to; states orthogonal to these
stay. A rotation changes no length and no angle between states. After OCE, of which only a description was read.
"""

from typing import ClassVar

import torch
from torch import Tensor

from saeuron.methods.text.states import OTHERS
from saeuron.methods.weights.linear_map import RANK, LinearMap, Moments


class Procrustes(LinearMap):
    """A rotation of what keys and values read."""

    name = "procrustes"
    grid: ClassVar = {"erase": (0.3, 1.0, 3.0), "toward": (OTHERS,)}

    def change(self, found: Moments, erase: float) -> Tensor:
        """B (R - 1) B^T; B are the main directions, R rotates among them."""
        basis, _, _ = torch.linalg.svd(found.moved - found.concept)
        basis = basis[:, :RANK]
        u, _, v = torch.linalg.svd(basis.T @ (erase * found.moved + found.retained) @ basis)
        return basis @ (u @ v - torch.eye(basis.shape[1], dtype=basis.dtype)) @ basis.T
