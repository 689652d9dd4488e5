"""Rows on their way from storage to the SAEs that train on them."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saeuron.errors import SaeuronError
from saeuron.noise import generator


class Labelled(NamedTuple):
    """A batch whose rows have labels, for variants that learn from them; the others ignore the labels."""

    rows: NDArray[Any]
    """[B, D]."""
    labels: NDArray[np.int64]
    """[B, G]: for each domain the id of the concept that the row's image asks for, -1 for none
    (`saeuron.sae.labels`)."""


Batch = NDArray[Any] | Labelled

Rows = Batch | Mapping[str, Batch]
"""A batch [B, D] for all trainers, or one for each hookpoint."""

Stream = Callable[[int], Iterator[Batch]]
"""stream(b): batches of rows [B, D] from batch b on; batch b is always the same. float16, float32, or uint16 for the
bits of bfloat16. With labels or without."""

Streams = Callable[[int], Iterator[Mapping[str, Batch]]]
"""Like `Stream`, for several hookpoints: {hookpoint: rows}."""


def tensor_of(rows: NDArray[Any]) -> Tensor:
    """Stored rows as a tensor: uint16 holds the bits of bfloat16, which numpy lacks."""
    tensor = torch.from_numpy(rows)
    return tensor.view(torch.bfloat16) if rows.dtype == np.uint16 else tensor


def rows_in(batch: Batch) -> Tensor:
    """The rows of a batch, without its labels."""
    return tensor_of(batch.rows if isinstance(batch, Labelled) else batch)


def in_memory(rows: NDArray[Any], batch: int, seed: int = 0, labels: NDArray[np.int64] | None = None) -> Stream:
    """A stream of rows [M, D] in memory, reshuffled for each epoch; a batch may straddle two epochs.

    With `labels`, [M, G], batches are `Labelled`; their rows are the same as without.
    Raises ValueError if there are no rows, the batch is empty, or there are not as many labels as rows.
    """
    if batch < 1 or len(rows) < 1:
        raise ValueError(f"batches of {batch} of {len(rows)} rows; expected at least one of each")
    if labels is not None and (labels.ndim != 2 or len(labels) != len(rows)):
        raise ValueError(f"labels {labels.shape} of {len(rows)} rows; expected [{len(rows)}, domains]")

    def order(epoch: int) -> NDArray[np.int64]:
        found: NDArray[np.int64] = torch.randperm(
            len(rows), generator=generator(seed, "epoch", epoch), device="cpu"
        ).numpy()
        return found

    def stream(start: int) -> Iterator[Batch]:
        epoch, at = divmod(start * batch, len(rows))
        waiting = order(epoch)[at:]
        while True:
            while len(waiting) < batch:
                epoch += 1
                waiting = np.concatenate([waiting, order(epoch)])
            some = waiting[:batch]
            yield rows[some] if labels is None else Labelled(rows[some], labels[some])
            waiting = waiting[batch:]

    return stream


_ALL = ""
_LABELS = "\0labels"
"""Suffix of the keys of labels; no hookpoint's path ends with it."""


def by_hookpoint(batch: Rows) -> dict[str, Tensor]:
    """Rows by hookpoint, and labels; one batch for all trainers gets the key that `rows_at` falls back to."""
    named = batch if isinstance(batch, Mapping) else {_ALL: batch}
    found = {hookpoint: rows_in(rows) for hookpoint, rows in named.items()}
    labels = {h + _LABELS: torch.from_numpy(each.labels) for h, each in named.items() if isinstance(each, Labelled)}
    return found | labels


def rows_at(hookpoint: str, batch: Mapping[str, Tensor]) -> Tensor:
    """The rows of a hookpoint, else those for all. Raises SaeuronError if there are neither."""
    if hookpoint not in batch and _ALL not in batch:
        known = ", ".join(sorted(each for each in batch if not each.endswith(_LABELS)))
        raise SaeuronError(f"the stream holds no rows of {hookpoint!r}; expected one of {known}.")
    return batch[hookpoint if hookpoint in batch else _ALL]


def labels_at(hookpoint: str, batch: Mapping[str, Tensor]) -> Tensor | None:
    """The labels of the rows that `rows_at` gives, int64 [B, G]; None if they have none."""
    return batch.get((hookpoint if hookpoint in batch else _ALL) + _LABELS)


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
