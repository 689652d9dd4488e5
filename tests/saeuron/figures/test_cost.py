"""Time of generation with a removal as a share of plain generation, by a clock that is set by hand."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from saeuron.config import ModelConfig
from saeuron.figures import cost
from saeuron.figures.cost import overhead
from saeuron.generation import Request
from saeuron.methods.parts import Call
from saeuron.methods.removal import Removal
from saeuron.prompts import Prompt

TAKEN = {"": [90.0, 1.0, 2.0, 4.0], "slow": [1.0, 3.0, 4.0, 20.0], "fast": [1.0, 1.0, 6.0, 4.0]}
"""Seconds of each round, plain and with two removals; the first round warms up."""


def removal(name: str) -> Removal:
    return Removal("neon", "style", name, {}, (Call({"negative_prompt": name}),))


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The generations in the order in which they were timed."""
    now, seen, attached = [0.0], list[str](), [""]

    @contextmanager
    def removed(pipe: Any, removals: Any, any_model: bool) -> Iterator[Any]:
        assert any_model
        attached[0] = removals[0].method if removals else ""
        yield SimpleNamespace(call={"negative_prompt": attached[0]} if removals else {})

    def generate(pipe: Any, images: Any, model: Any, seed: int, extra: Any) -> Iterator[None]:
        assert extra.get("negative_prompt", "") == attached[0] and len(images) == 2
        now[0] += TAKEN[attached[0]][seen.count(attached[0])]
        seen.append(attached[0])
        yield

    monkeypatch.setattr(cost, "removed", removed)
    monkeypatch.setattr(cost, "generate", generate)
    monkeypatch.setattr(cost.time, "perf_counter", lambda: now[0])
    return seen


def test_the_median_of_rounds_each_beside_its_own_plain_time(turns: list[str]) -> None:
    images = [Request(Prompt("A star.", "test"), i) for i in range(2)]
    found = overhead(None, {name: removal(name) for name in ("slow", "fast")}, images, ModelConfig())
    assert turns == ["", "slow", "fast"] * 4
    # 3/1, 4/2, 20/4 and 1/1, 6/2, 4/4; the first round would have made 1/90 of both.
    assert found == {"slow": 3.0, "fast": 1.0}


def test_a_generation_is_timed_to_its_end(tiny_pipe: Any) -> None:
    images = [Request(Prompt("A star.", "test"), 0)]
    model = ModelConfig(steps=1, guidance=2.0, micro_batch=1)
    [ratio] = overhead(tiny_pipe, {"negative": removal("dots")}, images, model, repeats=1).values()
    assert ratio > 0
