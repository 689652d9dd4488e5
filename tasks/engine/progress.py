"""Progress of the work, sent to the listeners of the current context."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol


class Listener(Protocol):
    """Shows progress to a person."""

    def stage(self, name: str, done: int, total: int) -> None:
        """`done` of `total` steps of a stage are finished."""

    def within(self, what: str, done: int, total: int, note: str) -> None:
        """The current step has done `done` of `total`; `what` names the work, `note` the unit."""

    def line(self, text: str) -> None:
        """A line for the log."""


_listeners: ContextVar[tuple[Listener, ...]] = ContextVar("listeners", default=())


@contextmanager
def listening(*listeners: Listener) -> Iterator[None]:
    """Add listeners for the length of a `with` block."""
    token = _listeners.set((*_listeners.get(), *listeners))
    try:
        yield
    finally:
        _listeners.reset(token)


def stage(name: str, done: int, total: int) -> None:
    """Report how many steps of a stage are finished."""
    for listener in _listeners.get():
        listener.stage(name, done, total)


def tell(what: str, done: int, total: int, note: str = "") -> None:
    """Report the progress of the current step."""
    for listener in _listeners.get():
        listener.within(what, done, total, note)


def line(text: str) -> None:
    """Report a line for the log."""
    for listener in _listeners.get():
        listener.line(text)
