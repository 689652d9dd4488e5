"""Thresholds for an SAE that keeps the k largest of each row, so that any of its latents can be computed alone.

Under per-row TopK a latent fires where p_i is among the k largest of its row. theta_i is set so that on given rows

    #{rows: p_i > theta_i} = #{rows: p_i is kept by TopK}

for each latent: half-way between the last p_i that may fire and the next. Then every latent fires as often as before,
and L0 is what it was on these rows; where it fires may differ, and `agreement` says by how much on other rows. One
threshold for all latents, as BatchTopK stores, would keep L0 alone.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from saeuron.sae.autoencoder import SAE
from saeuron.sae.moments import Moments, pooled
from saeuron.sae.selection import row_top_k

_ROWS = 2048
"""Rows that are encoded at once."""
_LATENTS = 256
"""Latents whose p on all rows are in memory at once."""


class Agreement(NamedTuple):
    """How an SAE with thresholds compares with itself under TopK, on the same rows."""

    kept: float
    """Share of TopK's firings at which the latent fires with thresholds too."""
    shared: float
    """Share of the firings with thresholds that are TopK's too."""
    l0: float
    l0_topk: float
    fvu: float
    fvu_topk: float
    never: float
    """Share of latents that fire on no row with thresholds."""


@torch.no_grad()
def with_thresholds(sae: SAE, rows: Tensor) -> SAE:
    """The same SAE with the activation `threshold`; it shares no memory with `sae`.

    A latent that TopK keeps on none of the rows fires above both the largest p seen of it and the mean of what rows
    keep at least.

    Args:
        sae: its activation is `topk`.
        rows: float32 [R, D], at least 1, on any device.
    """
    fires, least = _kept(sae, rows)
    theta = torch.cat([_between(p, n, least) for p, n in _columns(sae, rows, fires)])
    info = replace(sae.info, activation="threshold")
    tensors = {name: value.detach().clone() for name, value in sae.state_dict().items()}
    return SAE.of(info, tensors | {"threshold": theta.to(sae.threshold)}).to(sae.W_enc.device)


def _kept(sae: SAE, rows: Tensor) -> tuple[Tensor, float]:
    """(rows on which TopK keeps each latent, int64 [N]; mean over rows of the least p that is kept)."""
    fires = torch.zeros(sae.info.n_latents, dtype=torch.int64)
    total = 0.0
    for x in _blocks(sae, rows):
        values, indices = row_top_k(sae.pre_activations(x), sae.info.k)
        # A latent does not fire if p is not positive, even among the k largest.
        fires += torch.bincount(indices[values > 0], minlength=len(fires)).cpu()
        total += float(values.amin(1).clamp(min=0).double().sum())
    return fires, total / len(rows)


def _columns(sae: SAE, rows: Tensor, fires: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """(p of some latents on all rows, [R, n]; how often each fires, [n]), all latents in order."""
    for start in range(0, sae.info.n_latents, _LATENTS):
        own = slice(start, start + _LATENTS)
        W_enc, b_enc = sae.W_enc[own], sae.b_enc[own]
        p = torch.cat([((x - sae.b_dec) @ W_enc.T + b_enc).cpu() for x in _blocks(sae, rows)])
        yield p, fires[own]


def _between(p: Tensor, fires: Tensor, least: float) -> Tensor:
    """theta, float32 [n], above which each of n latents fires as often as `fires` says; p [R, n]."""
    columns, found = np.ascontiguousarray(p.T.numpy()), np.empty(len(fires), np.float32)
    for i, (column, n) in enumerate(zip(columns, fires.tolist(), strict=True)):
        if n == 0:
            found[i] = max(float(column.max()), least)
            continue
        # The n-th largest, and the next one; p that are not positive never fire, whatever theta.
        at = len(column) - n
        column.partition([max(at - 1, 0), at])
        found[i] = (column[at] + (max(column[at - 1], 0) if at else 0)) / 2
    return torch.from_numpy(found)


@torch.no_grad()
def agreement(topk: SAE, thresholded: SAE, rows: Tensor) -> Agreement:
    """Compare the two on rows, float32 [R, D], from which no threshold was taken."""
    both = before = after = 0
    ever = torch.zeros(topk.info.n_latents, dtype=torch.bool, device=topk.W_enc.device)
    moments: list[tuple[Moments, Moments]] = []
    for x in _blocks(topk, rows):
        f, g = topk.encode(x), thresholded.encode(x)
        both += int(((f > 0) & (g > 0)).sum())
        before, after = before + int((f > 0).sum()), after + int((g > 0).sum())
        ever |= (g > 0).any(0)
        moments.append((Moments.of(x, f, topk.decode(f)), Moments.of(x, g, thresholded.decode(g))))
    old, new = (pooled([each[i] for each in moments]) for i in (0, 1))
    return Agreement(
        kept=both / max(before, 1),
        shared=both / max(after, 1),
        l0=new.l0,
        l0_topk=old.l0,
        fvu=new.fvu,
        fvu_topk=old.fvu,
        never=1 - float(ever.double().mean()),
    )


def _blocks(sae: SAE, rows: Tensor) -> Iterator[Tensor]:
    for start in range(0, len(rows), _ROWS):
        yield rows[start : start + _ROWS].to(sae.W_enc)
