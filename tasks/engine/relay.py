"""The progress of steps on Dask's workers, shown where the run is."""

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from contextvars import copy_context
from typing import Any

from tasks.engine import progress

TOPIC = "saeuron-progress"
EVERY = 0.5
"""Seconds between two messages of a step."""
SILENT = 5.0
"""Seconds after which a step that says nothing is followed no longer."""
Told = tuple[str, int, int, str]
"""What, done, total, note: the arguments of `progress.tell`."""


class Sender:
    """A listener in a worker: sends how far the current step is, at most every `EVERY` seconds."""

    def __init__(self, send: Callable[[Told], object]) -> None:
        self.send, self.last = send, float("-inf")

    def stage(self, name: str, done: int, total: int) -> None:
        """Stages belong to the run, which counts them itself."""

    def line(self, text: str) -> None:
        """Lines too."""

    def within(self, what: str, done: int, total: int, note: str) -> None:
        """Send it, unless the last message is recent and this is not the end."""
        if (now := time.monotonic()) - self.last >= EVERY or done >= total:
            self.last = now
            self.send((what, done, total, note))


class Follower:
    """Passes on what workers tell to the listeners of the context that it is made in.

    Of the steps that run at once it follows one until that is done or silent: one bar cannot show two.
    """

    def __init__(self) -> None:
        self.context, self.followed, self.heard = copy_context(), "", float("-inf")

    def __call__(self, event: tuple[float, Told]) -> None:
        """Take a message with its time, as Dask hands it on."""
        what, done, total, note = event[1]
        if what != self.followed and time.monotonic() - self.heard < SILENT:
            return
        self.followed, self.heard = what, time.monotonic() if done < total else float("-inf")
        self.context.run(progress.tell, what, done, total, note)


def sending() -> AbstractContextManager[Any]:
    """In a worker of Dask: send the progress of what is done in the `with` block. Elsewhere nothing changes."""
    if (distributed := sys.modules.get("distributed")) is None:
        return nullcontext()
    try:
        worker = distributed.get_worker()
    except ValueError:
        return nullcontext()
    return progress.listening(Sender(lambda told: worker.log_event(TOPIC, told)))


def follow(client: Any) -> None:
    """Show what the workers of a Dask client tell to the listeners of this context."""
    client.subscribe_topic(TOPIC, Follower())
