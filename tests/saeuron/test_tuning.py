"""The search for a removal's settings: which images it looks at, and what it picks."""

from collections import Counter
from functools import partial

import pytest

from saeuron.config import ModelConfig, TuneConfig
from saeuron.errors import BadPrompts, ConfigError
from saeuron.figures.metrics import Judged
from saeuron.generation import requests
from saeuron.judges import Judgement
from saeuron.methods.parts import Call
from saeuron.methods.removal import Removal
from saeuron.prompts import Prompt
from saeuron.tuning import Trial, best, learning_count, learning_images, trial, tune, validation_images

STYLES, OBJECTS = ("neon", "dots", "sepia"), ("cat", "moon")
PROMPTS = [
    Prompt(f"{start} {o} in {s}.", split, {"style": s, "object": o})
    for split, start in (("train", "A"), ("validation", "The"), ("test", "One"))
    for s in STYLES
    for o in OBJECTS
]
CONFIG = TuneConfig(target_images=3, retained_images=6, learning_images=5)


def removal(name: str) -> Removal:
    return Removal("neon", "style", "negative_prompt", {"text": name}, (Call({"negative_prompt": name}),))


def test_validation_images_are_of_the_concept_then_of_the_others_alike():
    found = validation_images(PROMPTS, CONFIG, "style", "neon", STYLES)
    assert {r.prompt.split for r in found} == {"validation"}
    mine, others = found[:3], found[3:]
    assert [r.prompt.concepts["style"] for r in mine] == ["neon"] * 3
    assert Counter(r.prompt.concepts["style"] for r in others) == {"dots": 3, "sepia": 3}
    assert len({r.key for r in found}) == len(found)


def test_concepts_outside_the_reference_set_are_left_out():
    found = validation_images(PROMPTS, CONFIG, "style", "neon", ("neon", "dots"))
    assert {r.prompt.concepts["style"] for r in found} == {"neon", "dots"}


def test_learning_images_are_training_images_as_many_of_both():
    target, others = learning_images({"activations"}, PROMPTS, CONFIG, "style", "neon", STYLES)
    assert {r.prompt.split for r in (*target, *others)} == {"train"}
    assert {r.prompt.concepts["style"] for r in target} == {"neon"}
    assert len(target) == len(others) == 5
    assert Counter(r.prompt.concepts["style"] for r in others) == {"dots": 3, "sepia": 2}


def test_a_method_learns_from_what_it_needs_alone():
    assert learning_images({"latents", "prompts"}, PROMPTS, CONFIG, "style", "neon", STYLES) == ([], [])
    assert [learning_count(needs, CONFIG) for needs in ({"activations"}, {"prompts"})] == [10, 0]


@pytest.mark.parametrize("choose", [validation_images, partial(learning_images, {"activations"})])
def test_a_concept_without_prompts_is_refused(choose):
    with pytest.raises(BadPrompts, match="prompts ask for style 'wax' and for others beside it; add"):
        choose(PROMPTS, CONFIG, "style", "wax", ("wax", "dots"))


def judged(seen: dict[str, str]) -> list[Judged]:
    """Two images asked to show neon, two dots; what the judge of styles saw of each."""
    asked = [(s, i) for s in ("neon", "dots") for i in range(2)]
    return [Judged(s, i, {"style": s}, {"style": seen.get(f"{s}{i}", s)}) for s, i in asked]


def test_a_trial_is_the_mean_of_ua_and_ira_where_there_is_one_domain():
    found = trial(removal("a"), ["style"], judged({"neon0": "dots", "dots1": "neon"}), judged({}))
    assert {m.metric: m.value for m in found.metrics if m.metric in ("UA", "IRA")} == {"UA": 0.5, "IRA": 0.5}
    assert found.value == 0.5


def test_of_equal_trials_the_first_is_kept():
    trials = [Trial(removal(name), [], value) for name, value in (("a", 0.5), ("b", 0.9), ("c", 0.9), ("d", None))]
    assert best(trials) is trials[1]
    with pytest.raises(ConfigError, match="no candidate could be judged"):
        best(trials[3:])


def test_the_whole_search_keeps_what_the_judge_likes(tiny_pipe):
    images = requests([Prompt(f"A {s} cat.", "validation", {"style": s}) for s in ("neon", "dots")], 2)
    answers = iter(
        [["neon", "neon", "dots", "dots"], ["neon", "dots", "dots", "dots"], ["dots", "dots", "dots", "dots"]]
    )
    given = []

    class Scripted:
        labels = None
        identity = "scripted"

        def __call__(self, pictures, labels):
            given.append(tuple(labels))
            return [Judgement(label, 1.0) for label in next(answers)]

    found = [removal("mild"), removal("strong")]
    chosen, trials = tune(tiny_pipe, found, images, {"style": Scripted()}, model=ModelConfig(steps=1, guidance=2.0))
    assert chosen.removal is found[1]
    assert [t.value for t in trials] == [0.75, 1.0]
    assert {m.metric: m.unedited for m in chosen.metrics}["UA"] == 0.0
    assert set(given) == {("dots", "neon")}
