"""The progress of steps on workers: how often it is sent, and which of several steps is shown."""

import time

import pytest
from distributed import Client

from tasks.engine import progress, relay
from tasks.engine.relay import Follower, Sender, Told


class Heard:
    """A listener that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[Told] = []

    def stage(self, name: str, done: int, total: int) -> None:
        raise AssertionError(name)

    def line(self, text: str) -> None:
        raise AssertionError(text)

    def within(self, what: str, done: int, total: int, note: str) -> None:
        self.told.append((what, done, total, note))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(relay.time, "monotonic", lambda: now[0])
    return now


def test_a_message_is_sent_at_most_twice_a_second(clock: list[float]) -> None:
    sent: list[Told] = []
    sender = Sender(sent.append)
    for i in range(20):
        sender.within("images", i, 19, "")
        clock[0] += 0.125
    assert [done for _, done, _, _ in sent] == [0, 4, 8, 12, 16, 19]


def test_one_of_several_steps_is_followed_until_it_is_done_or_silent(clock: list[float]) -> None:
    heard = Heard()
    with progress.listening(heard):
        follower = Follower()

    def say(what: str, done: int) -> None:
        follower((0.0, (what, done, 10, "")))

    for what, done in (("a", 1), ("b", 5), ("a", 2), ("a", 10), ("b", 6), ("c", 1)):
        say(what, done)
    clock[0] += relay.SILENT
    say("c", 2)
    assert [told[:2] for told in heard.told] == [("a", 1), ("a", 2), ("a", 10), ("b", 6), ("c", 2)]


def work(steps: int) -> bool:
    """A step that tells how far it is."""
    with relay.sending():
        for i in range(steps):
            progress.tell("images", i, steps, "drawn")
    return True


def test_what_a_worker_of_dask_tells_is_heard_where_the_run_is() -> None:
    heard = Heard()
    with Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address=None) as client:
        with progress.listening(heard):
            relay.follow(client)
        assert client.submit(work, 3).result(timeout=60)
        end = time.monotonic() + 30
        while not heard.told:
            assert time.monotonic() < end
            time.sleep(0.02)
    assert heard.told[0] == ("images", 0, 3, "drawn")


def test_elsewhere_nothing_is_sent() -> None:
    assert work(2)
