"""What a check of a report compares, how closely, and what it says that it cannot."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from saeuron.figures.damage import Confusion, Damage, mistaken
from tasks.explore.check import CONFUSED, FEATURES, UNCHECKED, Checker, differences, figures


def evaluation(features_id: str = "", *metrics: str) -> Any:
    config = {"features_id": features_id} if features_id else {}
    return SimpleNamespace(config=config, summary={"quality": [{"metric": m} for m in metrics]})


@pytest.mark.parametrize(
    ("name", "change", "noticed"),
    [
        ("UA", 1e-8, True),
        ("UA", 1e-10, False),
        ("Frechet distance, all", 1e-4, False),
        ("Frechet distance, all", 2e-3, True),
        ("CLIP score, all", 2e-3, True),
        ("out of the ordinary, all", 1e-8, True),
    ],
)
def test_features_may_be_rounded_and_shares_may_not(name: str, change: float, noticed: bool) -> None:
    assert bool(differences({name: 0.5}, {name: 0.5 * (1 + change)})) == noticed


def test_what_is_on_one_side_alone_or_is_another_kind_differs() -> None:
    assert differences({"verdict": "holds"}, {"verdict": "weak"}) == [
        "verdict: the report says holds, its images weak",
    ]
    assert differences({"better": True}, {"better": False}) == ["better: the report says True, its images False"]
    assert len(differences({"UA": None}, {"UA": 0.5})) == len(differences({}, {"UA": 0.5})) == 1
    assert differences({"UA": None}, {"UA": None}) == []


def test_the_pairs_of_labels_that_a_page_shows_are_compared() -> None:
    found = [Confusion("style", "neon", f"c{i}", i, 0) for i in range(CONFUSED + 4)]
    wrong = mistaken([*found, Confusion("style", "neon", "neon", 99, 99)])
    named = figures([], [], "holds", 1.0, wrong)
    assert named["images of style neon seen as c19"] == 19 and "images of style neon seen as c3" not in named
    assert len(named) == 2 + 2 * CONFUSED and not any("neon seen as neon" in name for name in named)


def test_the_interval_of_damage_is_compared_where_it_is_certain() -> None:
    sure = Damage("cat", "object", 1.0, 0.7, 0.3, 0.1, 0.5, True, 20, 10)
    unsure = replace(sure, harmed="moon", low=-0.1, certain=False)
    named = figures([], [sure, unsure], "weak", 0.9)
    assert named["loss of object cat low"] == 0.1 and named["loss of object cat after"] == 0.7
    assert named["loss of object moon"] == 0.3 and "loss of object moon low" not in named
    # Another one that is certain, or is not any more, is noticed.
    assert len(differences(named, figures([], [sure, replace(unsure, certain=True)], "weak", 0.9))) == 4


def test_features_that_are_not_here_are_said_to_be_unchecked() -> None:
    checker = Checker(SimpleNamespace(), None)  # type: ignore[arg-type]
    own, lacking = evaluation(), evaluation("inception of elsewhere", "Frechet distance", "face at 0.5")
    assert checker.unknown(own) == [] and checker.unknown(lacking) == [FEATURES[0]]
    assert checker.unchecked([own]) == [*UNCHECKED]
    assert checker.unchecked([own, lacking]) == [
        *UNCHECKED,
        "parts that a judge detected",
        "distances in features that are not here, or not the same",
    ]
    other = Checker(SimpleNamespace(), SimpleNamespace(features="inception:/nowhere/file"))  # type: ignore[arg-type]
    assert other.unknown(lacking) == [FEATURES[0]]
