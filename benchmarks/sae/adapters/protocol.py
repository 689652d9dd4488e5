"""The protocol of the contestants of `sae_step`: one JSON object per line, commands on stdin, answers on stdout.

    {"setup": {fields of Setup}}  ->  {"ready": true}            the library's trainer waits for its first batch
    {"steps": n}                  ->  {"seconds": s, "cpu": c}   n training steps: wall-clock, and of all its threads
    {"fvu": true}                 ->  {"fvu": f}                 on the held-out batch
    any error                     ->  {"error": "one line"}      and the contestant ends

A library's training loop asks for its next batch when a step is done. `Feed` is the data of that loop: between commands
the loop waits inside `next`, so that no loop has to be rewritten here. This file runs in the environment of every
library: it may import torch and numpy, but nothing of this project.
"""

import json
import os
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Setup:
    """The settings of a contestant; only `variant` differs between them."""

    rows: str
    """A .npy file, float16 [batches + 1, B, D]; the last batch is held out."""
    width: int
    """D."""
    latents: int
    """N."""
    k: int
    batch: int
    """B, rows a step."""
    steps: int
    """Length of the run that learning-rate schedules assume."""
    lr: float
    seed: int
    threads: int
    variant: str = ""
    """Implementation of the step, for a library with several."""
    device: str = "cpu"
    """Device of the training."""


class Feed(Iterator[Tensor]):
    """Batches [B, D], float32, for a library's training loop; answers commands while no batch is due.

    Attributes:
        reconstruct: set by the adapter; x_hat [B, D] of x [B, D].
    """

    def __init__(self, setup: Setup, commands: Iterator[dict[str, Any]], answer: Callable[[dict[str, Any]], None]):
        self._rows, self._device = np.load(setup.rows, mmap_mode="r"), setup.device
        self._commands, self._answer = commands, answer
        self._pending: list[Tensor] = []
        self._start: tuple[float, float] | None = None
        self._given, self._ready = 0, False
        self.reconstruct: Callable[[Tensor], Tensor] = lambda x: torch.zeros_like(x)

    def batch(self, index: int) -> Tensor:
        """The index-th batch; -1 is the held-out one, which no step sees."""
        position = -1 if index < 0 else index % (len(self._rows) - 1)
        return torch.from_numpy(self._rows[position].astype(np.float32)).to(self._device)

    def __next__(self) -> Tensor:
        """The next batch, once a command has asked for steps.

        Raises:
            SystemExit: there are no more commands.
        """
        if self._pending:
            return self._pending.pop()
        if self._start is not None:
            wall, cpu = self._start
            self._wait()
            self._answer({"seconds": time.perf_counter() - wall, "cpu": time.process_time() - cpu})
            self._start = None
        elif not self._ready:
            self._answer({"ready": True})
            self._ready = True
        for command in self._commands:
            if "fvu" in command:
                self._answer({"fvu": self._fvu()})
            else:
                # Read and converted before the clock starts: reading is no part of a step.
                count = command["steps"]
                self._pending = [self.batch(self._given + i) for i in reversed(range(count))]
                self._given += count
                self._wait()
                self._start = time.perf_counter(), time.process_time()
                return self._pending.pop()
        raise SystemExit

    def _wait(self) -> None:
        """Wait for the device."""
        if self._device != "cpu":
            torch.cuda.synchronize(self._device)

    @torch.no_grad()
    def _fvu(self) -> float:
        """|x - x_hat|^2 / |x - mean x|^2 of the held-out batch, by one formula for all."""
        x = self.batch(-1)
        error = (x - self.reconstruct(x)).double().square().sum()
        return float(error / (x - x.mean(0)).double().square().sum())


def serve(train: Callable[[Setup, Feed], None]) -> None:
    """Answer commands until stdin closes; `train` builds the library's trainer and runs its loop over the feed."""
    # Output of the libraries would break the protocol, so it goes to stderr.
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(message: dict[str, Any]) -> None:
        channel.write(json.dumps(message) + "\n")
        channel.flush()

    commands = (json.loads(line) for line in sys.stdin)
    try:
        setup = Setup(**next(commands)["setup"])
        torch.set_num_threads(setup.threads)
        torch.manual_seed(setup.seed)
        train(setup, Feed(setup, commands, answer))
    except Exception as error:
        first = next(iter(str(error).splitlines()), "")
        answer({"error": textwrap.shorten(f"{type(error).__name__}: {first}", 120, placeholder=" ...")})
