"""Full memory: draw fewer images at once, and remember how many fit.

Which micro-batch fits is known only where it was tried. So the first one that does not fit is halved until one does,
and the loaded pipeline keeps that size for all that it draws later. Noise belongs to an image, so its content stays;
its bits may not: see `same_bits`.
"""

import gc
import warnings
from collections.abc import Callable
from typing import Any

import torch

from saeuron.errors import FullMemory, NoRoom

LANES = 8
"""Micro-batches are padded to a multiple of this: matrix products with fewer rows use other kernels, which round
differently, and the bits of an image would depend on its neighbours (measured on CPUs with AVX-512)."""
_FITS = "_saeuron_fits"
_FULL = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)
"""Texts by which torch and its libraries report full memory in errors of a general class."""


def full(error: BaseException) -> bool:
    """Whether an error says that the memory of a device, or of the machine, is full."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _FULL)


def reason(error: BaseException) -> str:
    """The first sentence of an error; torch adds a page of statistics."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].split(". ")[0].rstrip(".")


def fits(pipe: Any, asked: int) -> int:
    """Images that a pipeline draws at once: as many as asked, or as many as are known to fit."""
    return min(asked, getattr(pipe, _FITS, asked))


def halve(pipe: Any, images: int, error: BaseException) -> None:
    """Remember that so many images did not fit, warn, and free what the attempt has left.

    Raises:
        NoRoom: it was one image.
    """
    said = reason(error)
    # The traceback holds the tensors of the attempt.
    error.__traceback__ = None
    if images == 1:
        raise NoRoom("one image at a time", said) from None
    half = images // 2
    half -= half % LANES if half > LANES else 0
    setattr(pipe, _FITS, half)
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    bits = "" if same_bits(pipe, half, images) else "; images may differ by rounding from those of full batches"
    warnings.warn(
        f"memory is full with {images} images at once; going on with {half} (model.micro_batch: {half} says so from "
        f"the start){bits}",
        FullMemory,
        stacklevel=2,
    )


def same_bits(pipe: Any, drawn: int, asked: int) -> bool:
    """Whether images have the same bits in batches of `drawn` as in batches of `asked`.

    On a CPU they have if both are multiples of `LANES`. On other devices kernels are chosen by the batch: not promised.
    """
    kinds = {parameter.device.type for network in _networks(pipe) for parameter in network.parameters()}
    return drawn == asked or (kinds <= {"cpu"} and drawn % LANES == asked % LANES == 0)


def _networks(pipe: Any) -> list[torch.nn.Module]:
    return [value for value in getattr(pipe, "components", {}).values() if isinstance(value, torch.nn.Module)]


def undoing(*readers: Any) -> Callable[[], None]:
    """A function that puts the dicts and lists of readers back as they are now, for a batch that has to be drawn again.

    Tensors in them are shared, so a reader must replace them, not change them in place.
    """
    before = [{name: _copied(value) for name, value in vars(reader).items()} for reader in readers]

    def undo() -> None:
        for reader, state in zip(readers, before, strict=True):
            # Copied again: the next attempt may fail as well.
            vars(reader).update({name: _copied(value) for name, value in state.items()})

    return undo


def _copied(value: Any) -> Any:
    if type(value) is dict:
        return {key: _copied(each) for key, each in value.items()}
    return [_copied(each) for each in value] if type(value) is list else value
