"""One model per process: loaded when the first step needs it, kept for the next."""

import functools
import logging
from typing import Any

import torch

from saeuron.config import ModelConfig
from saeuron.pipelines.loading import load_pipeline

log = logging.getLogger(__name__)


@functools.lru_cache(maxsize=1)
def _load(spec: str, dtype: str, device: str, scheduler: str | None) -> Any:
    log.info("loading %s on %s", spec, device)
    return load_pipeline(spec, device=device, dtype=getattr(torch, dtype), scheduler=scheduler)


def pipeline(config: ModelConfig, device: str) -> Any:
    """The pipeline of a configuration, on a device."""
    return _load(config.spec, config.dtype, device, config.scheduler)


def set_threads(threads: int) -> None:
    """Threads of torch's operators: set, not found, because results depend on it."""
    torch.set_num_threads(threads)


def device_count(device: str) -> int:
    """How many devices of a kind this machine has."""
    return torch.cuda.device_count() if device.split(":")[0] == "cuda" else 1
