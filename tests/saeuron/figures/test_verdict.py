"""Verdicts at the edge of every threshold, from images that are counted by hand."""

import pytest

from saeuron.config import VerdictConfig
from saeuron.figures.damage import damage
from saeuron.figures.metrics import Judged, evaluate
from saeuron.figures.quality import odd
from saeuron.figures.verdict import verdict

OTHERS = tuple(f"other{i}" for i in range(10))


def judged(gone: int = 12, drawn: int = 12, lost: dict[str, int] | None = None, styles: int = 0, blind: str = ""):
    """The verdict on the removal of cat: 12 images of it and 12 of each of ten others, each of a prompt of its own.

    Args:
        gone: images of cat that do not show it, of the `drawn` that do without the removal.
        lost: {other: images that no longer show it}. styles: images of each object that lose their style.
        blind: a domain without a judge.
    """
    edited, unedited = [], []
    for name in ("cat", *OTHERS):
        for i in range(12):
            asked = {"style": f"style{i % 3}", "object": name}
            before = name if name != "cat" or i < drawn else "blob"
            stays = i >= gone if name == "cat" else i >= (lost or {}).get(name, 0)
            after = {"style": "plain" if i < styles else asked["style"], "object": before if stays else "blob"}
            for images, seen in ((unedited, {**asked, "object": before}), (edited, after)):
                seen = {d: None if d == blind else label for d, label in seen.items()}
                images.append(Judged(f"{name}{i}", 0, asked, seen))
    metrics = evaluate("object", "cat", ["style", "object"], edited, unedited)
    return verdict(metrics, damage("object", "cat", edited, unedited))


@pytest.mark.parametrize(
    ("told", "word", "reason"),
    [
        ({}, "holds", ""),
        # Wilson: 11 of 12 is 64.6 to 98.5, 10 of 12 is 55.2 to 95.3, 3 of 12 is 8.9 to 53.2, 4 of 12 is 13.8 to 60.9.
        ({"gone": 11}, "holds", ""),
        ({"gone": 10}, "weak", "83.3 % of it is gone, maybe only 55.2, 60 needed"),
        ({"gone": 4}, "weak", "33.3 % of it is gone, maybe only 13.8, 60 needed"),
        ({"gone": 3}, "failed", "25 % of it is gone, at most 53.2, 60 needed"),
        ({"gone": 0}, "failed", "0 % of it is gone, at most 24.2, 60 needed"),
        # Drawn in 6 of 12 (25.4 to 74.6), 5 of 12 (19.3 to 68).
        ({"drawn": 8}, "holds", ""),
        ({"drawn": 6}, "weak", "100 % of it is gone, maybe only 51.5, 60 needed"),
        ({"drawn": 5}, "cannot be judged", "the unedited model draws it in 41.7 % of 12 images"),
        ({"drawn": 0}, "cannot be judged", "the unedited model draws it in 0 % of 12 images"),
        # Half of what is drawn is gone, though UA is 75.
        ({"drawn": 6, "gone": 3}, "weak", "50 % of it is gone, maybe only 0, 60 needed"),
        ({"lost": {"other3": 8}}, "weak", "IRA lost 6.7 points (1.6 to 11.7), 10 allowed"),
        ({"lost": {"other3": 1, "other4": 1}}, "holds", ""),
        ({"lost": dict.fromkeys(OTHERS, 9)}, "failed", "IRA lost 75 points (65.6 to 82.5), 50 is too much"),
        ({"styles": 9}, "failed", "CRA lost 75 points (66.2 to 81.8), 50 is too much"),
        ({"blind": "object"}, "cannot be judged", "no judge said whether it is gone"),
        ({"blind": "style"}, "cannot be judged", "no judge for CRA, CRA-retained, CRA-target"),
        ({"blind": "style", "gone": 0}, "failed", "0 % of it is gone, at most 24.2, 60 needed"),
    ],
    ids=str,
)
def test_the_verdict_and_its_reason_follow_from_the_figures(told: dict, word: str, reason: str) -> None:
    assert judged(**told) == (word, reason)


def test_one_other_concept_that_is_gone_is_named_even_if_the_mean_is_high() -> None:
    lost = {"other3": 9}
    word, why = judged(lost=lost)
    assert word == "weak" and why.endswith("other3 lost 75 points")
    word, why = judged(lost={"other3": 8})
    assert "other3" not in why


def test_thresholds_are_those_of_the_configuration() -> None:
    images = [Judged(f"p{i}", 0, {"object": "cat"}, {"object": "cat"}) for i in range(12)]
    edited = [Judged(j.prompt_id, 0, j.asked, {"object": "cup" if i < 10 else "cat"}) for i, j in enumerate(images)]
    metrics = evaluate("object", "cat", ["object"], edited, images)
    assert verdict(metrics, [])[0] == "weak"
    assert verdict(metrics, [], VerdictConfig(removed=0.5)) == ("holds", "")
    assert verdict(metrics, [], VerdictConfig(removed=0.96))[0] == "failed"
    assert verdict(metrics, [], VerdictConfig(drawn=0.8))[0] == "cannot be judged"


@pytest.mark.parametrize(
    ("broken", "before", "word", "reason"),
    [
        # Wilson: 21 of 40 is 37.5 to 67.1, 22 of 40 is 39.8 to 69.3, 29 of 40 is 57.2 to 83.9.
        (0, 0, "holds", ""),
        (15, 0, "holds", ""),
        (21, 5, "holds", ""),
        (22, 5, "weak", "55 % of its pictures are odd (unedited 12.5)"),
        (29, 20, "holds", ""),
        (40, 0, "weak", "100 % of its pictures are odd (unedited 0)"),
    ],
)
def test_a_removal_that_breaks_its_pictures_does_not_hold(broken: int, before: int, word: str, reason: str) -> None:
    edited, unedited = ([i >= n for i in range(40)] for n in (broken, before))
    quality = [
        *odd([False] * 9, [True] * 9, "canvas-1", "not asked to show cat"),
        *odd(edited, unedited, "canvas-1", "asked to show cat"),
    ]
    metrics = evaluate("object", "cat", ["object"], *whole())
    assert verdict(metrics, [], quality=quality) == (word, reason)


def whole() -> tuple[list[Judged], list[Judged]]:
    """Forty images of cat, gone from all; (edited, unedited)."""
    asked = {"object": "cat"}
    return tuple([Judged(f"cat{i}", 0, asked, {"object": seen}) for i in range(40)] for seen in ("blob", "cat"))  # type: ignore[return-value]
