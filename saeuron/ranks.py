"""Several processes that train one SAE on slices of the same batches (data parallelism, as `torchrun` starts it).

Every rank holds the whole SAE and sees every batch, works on its slice of it, and averages gradients with the others;
so all of them stay equal, and rank 0 alone writes. What a variant compares within a batch (BatchTopK's k B largest, the
variance that errors are divided by) it compares within a rank's slice. A run with the same number of ranks gives the
same bytes, interrupted or not; with another number, the same to rounding for variants that choose row by row.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this one is."""

    rank: int = 0
    size: int = 1

    @classmethod
    def join(cls, device: str = "cpu") -> "Ranks":
        """Join the processes that `torchrun` started, by its environment variables; alone if there are none."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls()
        if not dist.is_initialized():
            dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def part(self, rows: Tensor) -> Tensor:
        """This rank's rows of a batch [B, D]; B is a multiple of the number of ranks."""
        return rows.tensor_split(self.size)[self.rank]

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace each by its mean over ranks."""
        if self.size > 1:
            for tensor in tensors:
                dist.all_reduce(tensor)
                tensor.div_(self.size)

    def any(self, flags: Tensor) -> Tensor:
        """True where any rank's flag is; bool in the same shape."""
        if self.size == 1:
            return flags
        counts = flags.to(torch.int32)
        dist.all_reduce(counts)
        return counts > 0

    def wait(self) -> None:
        """Until every rank is here."""
        if self.size > 1:
            dist.barrier()
