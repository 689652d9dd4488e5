"""Several processes that train one SAE, started by `torchrun`: they divide either the rows or the latents.

Rows: every rank holds the whole SAE, works on its slice of every batch, and averages gradients with the others, so all
ranks stay equal. Errors are divided by the whole batch's variance. With another number of ranks the result is the same
up to rounding for variants that choose row by row (topk, abs_topk, top_afa, jumprelu, gated, vsae, assigned,
contrastive); the others (BatchTopK's k B largest) choose within a rank's slice. Every rank reads whole batches, so
reading is not sped up.

Latents: every rank holds its part of the latents, with their moments and gradients, and works on whole batches. The SAE
can then be wider than one device holds. Little is exchanged: the values that are compared, and x_hat, the sum of what
the ranks decode. With another number of ranks the result is the same up to rounding.

Only rank 0 writes. A run with the same number of ranks gives the same bytes, interrupted or not.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Ranks:
    """This process's rank among `size` processes."""

    rank: int = 0
    size: int = 1
    device: str = "cpu"
    """Device of this process. Tensors are exchanged on it, because NCCL sends device memory only."""

    @classmethod
    def join(cls, device: str = "cpu") -> "Ranks":
        """Join the processes that `torchrun` started, found by its environment variables; without them, one process."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls()
        if device.startswith("cuda"):
            torch.cuda.set_device(device)
        if not dist.is_initialized():
            dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
        return cls(dist.get_rank(), dist.get_world_size(), device)

    @property
    def first(self) -> bool:
        """Whether this is rank 0, the process that writes."""
        return self.rank == 0

    def part(self, rows: Tensor) -> Tensor:
        """This rank's rows of a batch [B, D]; B is a multiple of the number of ranks."""
        return rows.tensor_split(self.size)[self.rank]

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its mean over ranks, in place."""
        if self.size > 1:
            for tensor in tensors:
                dist.all_reduce(tensor)
                tensor.div_(self.size)

    def part_of(self, tensor: Tensor) -> Tensor:
        """A copy of this rank's latents of [N, ...]; N is a multiple of the number of ranks."""
        return tensor.tensor_split(self.size)[self.rank].clone()

    def total(self, partial: Tensor) -> Tensor:
        """Sum over ranks. Its gradient, equal on all ranks, is passed on unchanged to every part."""
        found: Tensor = partial if self.size == 1 else _Total.apply(partial)
        return found

    def shared(self, tensor: Tensor) -> Tensor:
        """A tensor that all ranks hold alike, for use with a rank's own latents; its gradient is summed over ranks."""
        found: Tensor = tensor if self.size == 1 else _Shared.apply(tensor)
        return found

    def add(self, tensor: Tensor) -> Tensor:
        """Sum over ranks, in place; without gradients."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def count(self, number: int) -> int:
        """Sum of a number over ranks."""
        return number if self.size == 1 else int(self.add(torch.tensor(number, device=self.device)))

    def least(self, tensor: Tensor) -> Tensor:
        """Minimum over ranks, element by element; without gradients."""
        if self.size > 1:
            tensor = tensor.contiguous()
            dist.all_reduce(tensor, dist.ReduceOp.MIN)
        return tensor

    def gather(self, tensor: Tensor, dim: int) -> Tensor:
        """Every rank's tensor, all of one shape, concatenated along `dim`; without gradients."""
        if self.size == 1:
            return tensor
        found = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(found, tensor.contiguous())
        return torch.cat(found, dim)

    def gathered(self, rows: Tensor) -> Tensor:
        """Rows [B, ...] of all ranks, as many of each; every rank must use them alike.

        Its gradient is passed on to a rank's own rows times the number of ranks, because gradients of parameters are
        averaged over ranks afterwards.
        """
        found: Tensor = rows if self.size == 1 else _Gathered.apply(rows, self)
        return found

    def collect(self, tensor: Tensor) -> Tensor:
        """All latents [N, ...] in main memory on rank 0, from parts [N / ranks, ...]; other ranks get their part."""
        if self.size == 1:
            return tensor
        if not self.first:
            dist.send(tensor.contiguous(), 0)
            return tensor
        found = [tensor.cpu()]
        for rank in range(1, self.size):
            # One after the other, because no device need have room for all.
            room = torch.empty_like(tensor)
            dist.recv(room, rank)
            found.append(room.cpu())
        return torch.cat(found)

    def any(self, flags: Tensor) -> Tensor:
        """True where any rank's flag is; bool in the same shape."""
        if self.size == 1:
            return flags
        counts = flags.to(torch.int32)
        dist.all_reduce(counts)
        return counts > 0

    def wait(self) -> None:
        """Wait until every rank is here."""
        if self.size > 1:
            dist.barrier()


ALONE = Ranks()


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, partial: Tensor) -> Tensor:
        total = partial.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        return ranks.gather(rows, 0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.ranks.part(gradient) * ctx.ranks.size, None


class _Shared(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total
