"""How far the work is: told to whoever listens in this context, and to nobody by default."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol


class Listener(Protocol):
    """Shows progress to a person."""

    def stage(self, name: str, done: int, total: int) -> None:
        """`done` of `total` steps of a stage are finished."""

    def within(self, what: str, done: int, total: int, note: str) -> None:
        """The step that runs now is at `done` of `total`."""

    def line(self, text: str) -> None:
        """Something happened that stays worth reading."""


_listeners: ContextVar[tuple[Listener, ...]] = ContextVar("listeners", default=())


@contextmanager
def listening(*listeners: Listener) -> Iterator[None]:
    """Send the progress of what runs in this context to `listeners`, beside those that listen already."""
    token = _listeners.set((*_listeners.get(), *listeners))
    try:
        yield
    finally:
        _listeners.reset(token)


def stage(name: str, done: int, total: int) -> None:
    """Say how many steps of a stage are finished."""
    for listener in _listeners.get():
        listener.stage(name, done, total)


def tell(what: str, done: int, total: int, note: str = "") -> None:
    """Say how far the step that runs now is."""
    for listener in _listeners.get():
        listener.within(what, done, total, note)


def line(text: str) -> None:
    """Say something that stays worth reading."""
    for listener in _listeners.get():
        listener.line(text)
