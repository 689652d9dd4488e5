"""What is counted of the super-concept, and which images are asked for."""

from benchmarks.removals.steps import shown
from benchmarks.removals.steps import test_images as of_steps
from benchmarks.removals.super_concept import OTHER, ROUND, counts
from benchmarks.removals.super_concept import test_images as of_round
from flows.config import load
from saeuron.figures.metrics import Judged, evaluate
from saeuron.prompts import build


def seen(asked: str, saw: str, style: str = "neon", index: int = 0) -> Judged:
    return Judged("prompt", index, {"object": asked, "style": "neon"}, {"object": saw, "style": style})


def test_counts_by_hand() -> None:
    # A ring in place of a circle is still round; a cat that became a moon is neither right nor gone.
    judged = [seen("circle", "ring"), seen("moon", "cat"), seen("cat", "moon", "dots"), seen("tree", "tree")]
    assert counts(judged) == {
        "round, where asked for": (1, 2),
        "round, where not asked for": (1, 2),
        "other objects right": (1, 2),
        "styles right": (3, 4),
    }


def test_images_that_are_asked_for() -> None:
    config = load("canvas20")
    prompts = build(config.prompts, config.domains)
    asked = [r.prompt.concepts["object"] for r in of_round(config, prompts, 30)]
    assert {*asked[:-30]} == {*ROUND} and not {*asked[-30:]} & {*ROUND, *OTHER}
    twice = of_round(config, prompts, 30, 2)
    assert [r.index for r in twice] == [0, 1] * len(asked) and [
        r.prompt.concepts["object"] for r in twice[::2]
    ] == asked
    images = of_steps(config, "style", "neon", 10)
    styles = [r.prompt.concepts["style"] for r in images]
    assert styles[:10] == ["neon"] * 10 and len(images) == 20
    # Every other style before any comes twice.
    assert len({*styles[10:]}) == 10 and "neon" not in styles[10:]


def test_figures_in_percent() -> None:
    edited = [seen("cat", "cat", "dots"), seen("cat", "tree", index=1)]
    unedited = [seen("cat", "cat"), seen("cat", "cat", index=1)]
    found = shown(evaluate("style", "neon", ["style", "object"], edited, unedited))
    assert found["UA"]["value"] == 50.0 and found["UA"]["unedited"] == 0.0 and found["UA"]["n"] == 2
    assert found["CRA"]["value"] == 50.0 and found["CRA"]["unedited"] == 100.0
