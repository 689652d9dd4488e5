"""The sparse work of a training step in Triton: one launch for what takes several torch operators.

These kernels have not run on a GPU yet. They use no atomics, so sums have a fixed order. Tables may be bfloat16; sums
are float32. The reference implementations are in `saeuron.sae.sparse` and `saeuron.sae.update`.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from saeuron.sae.sparse import Kernels, Pattern

_WIDEST = 4096
"""Longest row that fits into the registers while its largest values are chosen. Longer rows are cut, where possible,
into equal parts of more than k."""


@triton.jit
def _bags(table, indices, starts, weights, out, pairs, bags, width, PAIRS: tl.constexpr, BLOCK: tl.constexpr):
    bag = tl.program_id(0)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < width
    begin = tl.load(starts + bag)
    end = tl.load(starts + bag + 1, mask=bag + 1 < bags, other=pairs)
    total = tl.zeros([BLOCK], tl.float32)
    # Several rows at once, to keep several loads in flight.
    for first in range(begin, end, PAIRS):
        pair = first + tl.arange(0, PAIRS)
        there = pair < end
        index = tl.load(indices + pair, mask=there, other=0).to(tl.int64)
        weight = tl.load(weights + pair, mask=there, other=0.0)
        at = table + index[:, None] * width + columns[None, :]
        rows = tl.load(at, mask=there[:, None] & inside[None, :], other=0.0).to(tl.float32)
        total += tl.sum(weight[:, None] * rows, axis=0)
    tl.store(out + bag.to(tl.int64) * width + columns, total, mask=inside)


def bags(table: Tensor, indices: Tensor, starts: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of rows of `table` [T, D], one per start, [S, D] float32; as `sparse.TORCH.bags`."""
    width = table.shape[1]
    out = torch.empty(len(starts), width, dtype=torch.float32, device=table.device)
    block = min(512, triton.next_power_of_2(width))
    grid = (len(starts), triton.cdiv(width, block))
    assert table.is_contiguous() and indices.is_contiguous() and weights.is_contiguous()
    # Triton launches on the current device, which may differ from that of the arguments.
    with torch.cuda.device_of(table):
        _bags[grid](
            table, indices, starts, weights, out, len(indices), len(starts), width, PAIRS=8, BLOCK=block, num_warps=4
        )
    return out


@triton.jit
def _dots(left, right, latents, starts, out, pairs, rows, width, PAIRS: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    begin = tl.load(starts + row)
    end = tl.load(starts + row + 1, mask=row + 1 < rows, other=pairs)
    for first in range(begin, end, PAIRS):
        pair = first + tl.arange(0, PAIRS)
        there = pair < end
        latent = tl.load(latents + pair, mask=there, other=0).to(tl.int64)
        total = tl.zeros([PAIRS, BLOCK], tl.float32)
        for start in range(0, width, BLOCK):
            columns = start + tl.arange(0, BLOCK)
            inside = columns < width
            ours = tl.load(left + row.to(tl.int64) * width + columns, mask=inside, other=0.0).to(tl.float32)
            at = right + latent[:, None] * width + columns[None, :]
            theirs = tl.load(at, mask=there[:, None] & inside[None, :], other=0.0).to(tl.float32)
            total += ours[None, :] * theirs
        tl.store(out + pair, tl.sum(total, axis=1), mask=there)


def dots(pattern: Pattern, left: Tensor, right: Tensor) -> Tensor:
    """left[row] . right[latent] for every pair, [M] float32; as `sparse.TORCH.dots`."""
    width = left.shape[1]
    out = torch.empty(len(pattern.latents), dtype=torch.float32, device=left.device)
    block = min(256, triton.next_power_of_2(width))
    assert left.is_contiguous() and right.is_contiguous()
    with torch.cuda.device_of(left):
        _dots[(pattern.shape[0],)](
            left, right, pattern.latents, pattern.row_starts, out, len(out), len(left), width,
            PAIRS=16, BLOCK=block, num_warps=4,
        )  # fmt: skip
    return out


@triton.jit
def _largest(pre, values, indices, width, k, GROUPS: tl.constexpr, EACH: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, GROUPS)[:, None] * EACH + tl.arange(0, EACH)[None, :]
    inside = column < width
    found = tl.load(pre + row * width + column, mask=inside, other=0.0).to(tl.float32)
    # Bits of non-negative floats have the order of the floats.
    keys = tl.where(found > 0, found, 0.0).to(tl.int32, bitcast=True)
    # The k-th largest of the groups' maxima bounds the k-th largest value from below, the maximum from above. Search
    # between them for a threshold that exactly k pass, or for the k-th largest itself if there are ties.
    maxima = tl.max(keys, axis=1)
    above = tl.max(maxima, axis=0) + 1
    least = 0
    high = above
    reached = GROUPS
    while (reached != k) & (high - least > 1):
        middle = least + (high - least) // 2
        count = tl.sum((maxima >= middle).to(tl.int32), axis=0)
        if count >= k:
            least = middle
            reached = count
        else:
            high = middle
    high = above
    passed = tl.sum(tl.sum((keys >= least).to(tl.int32), axis=1), axis=0)
    while (passed != k) & (high - least > 1):
        middle = least + (high - least) // 2
        count = tl.sum(tl.sum((keys >= middle).to(tl.int32), axis=1), axis=0)
        if count >= k:
            least = middle
            passed = count
        else:
            high = middle
    # Keep all above the threshold, and of those equal to it the first, as many as there is room for.
    more = keys > least
    at = (keys == least) & inside
    room = k - tl.sum(tl.sum(more.to(tl.int32), axis=1), axis=0)
    before = tl.sum(at.to(tl.int32), axis=1)
    place = tl.cumsum(before, axis=0)[:, None] - before[:, None] + tl.cumsum(at.to(tl.int32), axis=1)
    keep = more | (at & (place <= room))
    each = tl.sum(keep.to(tl.int32), axis=1)
    slot = tl.cumsum(each, axis=0)[:, None] - each[:, None] + tl.cumsum(keep.to(tl.int32), axis=1) - 1
    tl.store(values + row * k + slot, keys.to(tl.float32, bitcast=True), mask=keep)
    tl.store(indices + row * k + slot, column, mask=keep)


def row_top_k(pre: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest ReLU(p) of each row of [B, N] and their indices, float32 and int32 [B, k], by index; exact.

    Ties go to the lower index. If fewer than k are positive, the rest are zeros, at indices of zero values.
    """
    rows, width = pre.shape
    pre = pre.contiguous()
    parts = next(parts for parts in range(1, width + 1) if width % parts == 0 and width // parts <= _WIDEST)
    if parts > 1 and k < width // parts:
        # Two stages: the k largest of each part, then of those.
        values, places = row_top_k(pre.view(rows * parts, width // parts), k)
        places += torch.arange(parts, device=pre.device, dtype=torch.int32).repeat(rows)[:, None] * (width // parts)
        values, among = row_top_k(values.view(rows, parts * k), k)
        return values, places.view(rows, parts * k).gather(1, among.long())
    values = torch.empty(rows, k, dtype=torch.float32, device=pre.device)
    indices = torch.empty(rows, k, dtype=torch.int32, device=pre.device)
    each = min(64, triton.next_power_of_2(max(1, width // k)))
    groups = triton.next_power_of_2(triton.cdiv(width, each))
    warps = 16 if groups * each > 16384 else 8 if groups * each > 4096 else 4
    with torch.cuda.device_of(pre):
        _largest[(rows,)](pre, values, indices, width, k, GROUPS=groups, EACH=each, num_warps=warps)
    return values, indices


@triton.jit
def _project(gradient, weight, squares, width, UNIT: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    g = tl.load(gradient + row * width + columns, mask=inside, other=0.0)
    if UNIT:
        w = tl.load(weight + row * width + columns, mask=inside, other=0.0)
        g -= tl.sum(g * w, axis=0) * w
        tl.store(gradient + row * width + columns, g, mask=inside)
    tl.store(squares + row, tl.sum(g * g, axis=0))


def project(gradient: Tensor, weight: Tensor, *, unit: bool) -> Tensor:
    """|g|^2 of each row of a gradient [R, D], [R]; if rows are `unit` vectors, first subtract the component along them.

    Changes the gradient in place.
    """
    rows, width = gradient.shape
    squares = torch.empty(rows, dtype=torch.float32, device=gradient.device)
    block = triton.next_power_of_2(width)
    assert gradient.is_contiguous() and weight.is_contiguous()
    with torch.cuda.device_of(gradient):
        _project[(rows,)](gradient, weight, squares, width, UNIT=unit, BLOCK=block, num_warps=_warps(block))
    return squares


@triton.jit
def _adam(
    weight, gradient, mean, square, scale, rate, root, gain1, beta2, gain2, epsilon, size, width,
    UNIT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    at = row * width + columns
    inside = (columns < width) & (at < size)
    g = tl.load(gradient + at, mask=inside, other=0.0) * tl.load(scale)
    m = tl.load(mean + at, mask=inside, other=0.0)
    v = tl.load(square + at, mask=inside, other=0.0)
    w = tl.load(weight + at, mask=inside, other=0.0)
    m += gain1 * (g - m)
    v = beta2 * v + gain2 * g * g
    w -= rate * m / (tl.sqrt(v) / root + epsilon)
    if UNIT:
        w /= tl.sqrt(tl.sum(w * w, axis=0))
    tl.store(mean + at, m, mask=inside)
    tl.store(square + at, v, mask=inside)
    tl.store(weight + at, w, mask=inside)


class Adam(torch.optim.Adam):
    """Adam (1412.6980) in one pass over memory, including the clipping factor and unit rows.

    Its state, and so its checkpoints, are those of `torch.optim.Adam`.
    """

    unit: frozenset[Tensor] = frozenset()
    """Matrices whose rows are scaled back to unit norm after each step."""
    scale: Tensor | None = None
    """Factor applied to gradients, a scalar on their device; None means 1."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step of all parameters that have a gradient, float32 and contiguous."""
        assert closure is None
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["step"] = torch.zeros((), dtype=torch.float32)
                    state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
                state["step"] += 1
                count = float(state["step"])
                width = p.shape[1] if p.dim() == 2 else min(1024, p.numel())
                block = triton.next_power_of_2(width)
                scale = self.scale if self.scale is not None else p.new_ones(())
                rate, root = group["lr"] / (1 - beta1**count), (1 - beta2**count) ** 0.5
                assert p.is_contiguous()
                launch = _adam[(triton.cdiv(p.numel(), width),)]
                arguments = (
                    p, p.grad.contiguous(), state["exp_avg"], state["exp_avg_sq"], scale,
                    rate, root, 1 - beta1, beta2, 1 - beta2, group["eps"], p.numel(), width,
                )  # fmt: skip
                with torch.cuda.device_of(p):
                    launch(*arguments, UNIT=p in self.unit, BLOCK=block, num_warps=_warps(block))


def _warps(block: int) -> int:
    return 8 if block > 4096 else 4


TRITON = Kernels(bags, dots, row_top_k, reads_half=True)
