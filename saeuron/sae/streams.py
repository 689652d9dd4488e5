"""Rows on their way from storage to the SAEs that train on them."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saeuron.errors import SaeuronError
from saeuron.noise import generator

Rows = NDArray[Any] | Mapping[str, NDArray[Any]]
"""A batch [B, D] for all trainers, or one for each hookpoint."""

Stream = Callable[[int], Iterator[NDArray[Any]]]
"""stream(b): batches of rows [B, D] from batch b on; batch b is always the same. float16, float32, or uint16 for the
bits of bfloat16."""

Streams = Callable[[int], Iterator[Mapping[str, NDArray[Any]]]]
"""Like `Stream`, for several hookpoints: {hookpoint: rows}."""


def tensor_of(rows: NDArray[Any]) -> Tensor:
    """Stored rows as a tensor: uint16 holds the bits of bfloat16, which numpy lacks."""
    tensor = torch.from_numpy(rows)
    return tensor.view(torch.bfloat16) if rows.dtype == np.uint16 else tensor


def in_memory(rows: NDArray[Any], batch: int, seed: int = 0) -> Stream:
    """A stream of rows [M, D] in memory, reshuffled for each epoch; a batch may straddle two epochs.

    Raises ValueError if there are no rows or the batch is empty.
    """
    if batch < 1 or len(rows) < 1:
        raise ValueError(f"batches of {batch} of {len(rows)} rows; expected at least one of each")

    def order(epoch: int) -> NDArray[np.int64]:
        found: NDArray[np.int64] = torch.randperm(
            len(rows), generator=generator(seed, "epoch", epoch), device="cpu"
        ).numpy()
        return found

    def stream(start: int) -> Iterator[NDArray[Any]]:
        epoch, at = divmod(start * batch, len(rows))
        waiting = order(epoch)[at:]
        while True:
            while len(waiting) < batch:
                epoch += 1
                waiting = np.concatenate([waiting, order(epoch)])
            yield rows[waiting[:batch]]
            waiting = waiting[batch:]

    return stream


_ALL = ""


def by_hookpoint(batch: Rows) -> dict[str, Tensor]:
    """Rows by hookpoint; one batch for all trainers gets the key that `rows_at` falls back to."""
    named = batch if isinstance(batch, Mapping) else {_ALL: batch}
    return {hookpoint: tensor_of(rows) for hookpoint, rows in named.items()}


def rows_at(hookpoint: str, batch: Mapping[str, Tensor]) -> Tensor:
    """The rows of a hookpoint, else those for all. Raises SaeuronError if there are neither."""
    if hookpoint not in batch and _ALL not in batch:
        raise SaeuronError(f"the stream holds no rows of {hookpoint!r}; expected one of {', '.join(sorted(batch))}.")
    return batch[hookpoint if hookpoint in batch else _ALL]


def ahead(batches: Iterator[dict[str, Tensor]], device: torch.device) -> Iterator[dict[str, Tensor]]:
    """The batches on a device. On CUDA, the next batch is copied from pinned memory while the current one is used."""
    if device.type != "cuda":
        yield from batches
        return
    copying, before = torch.cuda.Stream(device), None
    for batch in batches:
        # torch keeps both the pinned and the device memory until the copy has finished.
        pinned = {hookpoint: rows.pin_memory() for hookpoint, rows in batch.items()}
        with torch.cuda.stream(copying):
            after = {hookpoint: rows.to(device, non_blocking=True) for hookpoint, rows in pinned.items()}
            sent = copying.record_event()
        if before is not None:
            yield _arrived(*before)
        before = after, sent
    if before is not None:
        yield _arrived(*before)


def _arrived(batch: dict[str, Tensor], sent: torch.cuda.Event) -> dict[str, Tensor]:
    for rows in batch.values():
        here = torch.cuda.current_stream(rows.device)
        here.wait_event(sent)
        rows.record_stream(here)
    return batch
