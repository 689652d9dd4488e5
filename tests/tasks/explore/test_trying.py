"""What a link says, and the queue of pictures."""

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from saeuron.config import ModelConfig
from saeuron.errors import ConfigError
from tasks.explore import studio as studios
from tasks.explore.studio import Full, Job, Studio
from tasks.explore.trying import CELLS, Chosen, Pictures, Request, command_line

WHOLE = Request(
    prompt="A cat & a <moon>: é",
    seed=-3,
    steps=7,
    guidance=0.0,
    latents=(Chosen(sae="sae_v2_a", latent=3, mode="off"), Chosen(sae="sae_v2_a", latent=4, mode="on", value=-0.5)),
    removals=(("cat: the animal.saeuron", 0.5),),
    first=2,
    last=0,
    region="8" + "0" * (CELLS * CELLS // 4 - 1),
)


@pytest.mark.parametrize("request_", [WHOLE, Request(prompt="x"), Request()])
def test_a_link_is_read_back(request_: Request) -> None:
    assert Request.parse(request_.query) == request_


def test_a_region_is_painted_from_its_first_corner() -> None:
    cells = WHOLE.cells
    assert cells is not None and cells[0][0] and sum(map(sum, cells)) == 1
    assert Request().cells is None


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("seed=x", "seed is 'x'"),
        ("steps=0", "steps is '0'"),
        ("guidance=nan", "guidance"),
        ("latent=sae", "not enough values"),
        ("latent=sae:1:wild", "latents.0.mode is 'wild'"),
        ("latent=sae:-1:off", "latents.0.latent is '-1'"),
        ("latent=sae:1:on:inf", "latents.0.value"),
        ("removal=cat:much", "removals.0.1 is 'much'"),
        ("region=zz", "region is 'zz'"),
        ("what=1", "what is '1'"),
        ("prompt=" + "a" * 2000, "prompt"),
        ("&".join(f"latent=s:{i}:off" for i in range(65)), "latents"),
    ],
)
def test_a_link_that_says_nothing_sensible_is_one_line(query: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        Request.parse(query)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_there_is_a_command_only_for_what_a_command_can_draw() -> None:
    plain = Request(prompt="A cat.", seed=2, removals=(("cat.saeuron", 1.0),))
    assert command_line(plain) == "saeuron generate 'A cat.' --remove cat.saeuron --seed 2"
    assert command_line(WHOLE) == ""
    assert command_line(plain.model_copy(update={"removals": (("cat.saeuron", 0.5),)})) == ""


class Drawing:
    """A stand-in for `generate`: each step waits for a permit."""

    def __init__(self) -> None:
        self.permits, self.made, self.plain = threading.Semaphore(0), list[str](), list[bool]()

    def __call__(self, shelf: Any, request: Request, device: str, tell: Any, unedited: Any = None) -> Pictures:
        self.plain.append(unedited is not None)
        for step in range(3):
            tell(step, 3)
            assert self.permits.acquire(timeout=10)
        if request.prompt == "wrong":
            raise ConfigError("a wish that cannot\nbe met")
        if request.prompt == "bug":
            raise ZeroDivisionError
        self.made.append(request.prompt)
        return Pictures(np.zeros((2, 2, 3), np.uint8), np.ones((2, 2, 3), np.uint8), 1.0)


@pytest.fixture
def drawing(monkeypatch: pytest.MonkeyPatch) -> Drawing:
    found = Drawing()
    monkeypatch.setattr(studios, "generate", found)
    monkeypatch.setattr(studios, "model_of", lambda shelf, request: ModelConfig())
    return found


@pytest.fixture
def studio() -> Any:
    made = Studio()
    yield made
    made.close()


def until(seen: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not seen():
        assert time.monotonic() < end
        time.sleep(0.005)


def ask(studio: Studio, prompt: str) -> Job:
    return studio.submit(None, Request(prompt=prompt))  # type: ignore[arg-type]


def test_one_at_a_time_in_order_with_progress(studio: Studio, drawing: Drawing) -> None:
    first, second = ask(studio, "a"), ask(studio, "b")
    until(lambda: first.state == "drawing")
    assert (second.state, studio.ahead_of(second)) == ("waiting", 1)
    drawing.permits.release()
    until(lambda: first.done == 1)
    drawing.permits.release(5)
    until(lambda: second.over)
    assert drawing.made == ["a", "b"] and (first.state, second.state) == ("done", "done")
    assert sorted(first.pictures) == ["edited", "unedited"] and first.id != second.id


def test_an_unedited_picture_is_made_once(studio: Studio, drawing: Drawing) -> None:
    drawing.permits.release(9)
    for prompt in ("a", "a", "b"):
        job = ask(studio, prompt)
        until(lambda job=job: job.over)  # type: ignore[misc]
    assert drawing.plain == [False, True, False]


def test_one_that_waits_is_cancelled_at_once_and_one_that_is_drawn_before_its_next_step(
    studio: Studio, drawing: Drawing
) -> None:
    first, second, third = ask(studio, "a"), ask(studio, "b"), ask(studio, "c")
    until(lambda: first.state == "drawing")
    studio.cancel(second.id)
    assert second.state == "cancelled"
    studio.cancel(first.id)
    drawing.permits.release(4)
    until(lambda: third.over)
    assert first.state == "cancelled" and drawing.made == ["c"]


def test_one_that_nobody_asks_about_is_abandoned(drawing: Drawing) -> None:
    studio = Studio(forgotten=0.0)
    drawing.permits.release(3)
    job = ask(studio, "a")
    until(lambda: job.over)
    assert job.state == "cancelled"
    studio.close()


@pytest.mark.parametrize(("prompt", "said"), [("wrong", "a wish that cannot be met"), ("bug", "ZeroDivisionError: ")])
def test_a_failure_is_one_line_and_the_next_is_drawn(studio: Studio, drawing: Drawing, prompt: str, said: str) -> None:
    drawing.permits.release(6)
    bad, good = ask(studio, prompt), ask(studio, "a")
    until(lambda: good.over)
    assert (bad.state, bad.error, good.state) == ("failed", said, "done")


def test_too_many_are_refused_and_old_ones_forgotten(
    studio: Studio, drawing: Drawing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(studios, "WAITING", 2)
    monkeypatch.setattr(studios, "KEPT", 1)
    first = ask(studio, "a")
    ask(studio, "b")
    with pytest.raises(Full, match="2 pictures are waiting"):
        ask(studio, "c")
    drawing.permits.release(6)
    until(lambda: len(drawing.made) == 2)
    last = ask(studio, "d")
    ask(studio, "e")
    assert studio.find(first.id) is None and studio.find(last.id) is last
    drawing.permits.release(6)
    until(lambda: last.over)
