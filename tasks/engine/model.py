"""The process's one pipeline: loaded when a step first needs it, and kept."""

import functools
import logging
import platform
from pathlib import Path
from typing import Any

import torch

from saeuron import memory
from saeuron.config import ModelConfig
from saeuron.pipelines.loading import load_pipeline
from storage.files import write_json

log = logging.getLogger(__name__)


@functools.lru_cache(maxsize=1)
def _load(spec: str, dtype: str, device: str, scheduler: str | None) -> Any:
    log.info("loading %s on %s", spec, device)
    return load_pipeline(spec, device=device, dtype=getattr(torch, dtype), scheduler=scheduler)


def pipeline(config: ModelConfig, device: str) -> Any:
    """The pipeline of a configuration on a device."""
    return _load(config.spec, config.dtype, device, config.scheduler)


SMALLER = "batches.json"
"""Written into an artifact whose images were not all drawn in batches of the configured size."""


def note(folder: Path, pipe: Any, asked: int) -> None:
    """Note in an artifact's folder that memory was too small for the configured micro-batch.

    The artifact's id holds the configured one, so that a run finds what it has made; the file says what is true.
    """
    drawn = memory.fits(pipe, asked)
    if drawn < asked:
        same = memory.same_bits(pipe, drawn, asked)
        write_json(folder / SMALLER, {"micro_batch": asked, "smallest_drawn": drawn, "same_bits": same})


def set_threads(threads: int) -> None:
    """Set the threads of torch's operators. Results depend on their number, so torch's default is never used."""
    torch.set_num_threads(threads)


def device_count(device: str) -> int:
    """Number of this machine's devices of a kind."""
    return torch.cuda.device_count() if device.split(":")[0] == "cuda" else 1


def devices() -> dict[str, str]:
    """{device: what it is} of this machine, the CPU first."""
    found = {"cpu": platform.processor() or platform.machine()}
    for i in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(i)
        name = torch.cuda.get_device_name(i)
        found[f"cuda:{i}"] = f"{name}, {free / 1e9:.0f} of {total / 1e9:.0f} GB free"
    return found
