"""What is said of a judge before it judges removals."""

from saeuron.figures.calibration import calibration
from saeuron.figures.metrics import Judged, wilson


def judged(pairs):
    return [Judged(f"p{i}", 0, {"style": asked}, {"style": seen}) for i, (asked, seen) in enumerate(pairs)]


def test_accuracy_and_the_commonest_mistakes_are_said():
    pairs = [("dots", "dots")] * 15 + [("neon", "dots")] * 3 + [("dots", "neon")] + [("neon", None)]
    found = calibration("style", "clip:x", [*judged(pairs), Judged("q", 0, {"object": "cat"}, {})])
    assert (found.right, found.n) == (15, 20)
    assert found.confused == (("neon", "dots", 3), ("dots", "neon", 1), ("neon", "None", 1))
    low, high = (f"{100 * end:.1f}" for end in wilson(15, 20))
    assert found.line == (
        f"judge of style, clip:x: right on 75 % of 20 unedited images (95 % {low} to {high}); most often wrong: "
        "neon as dots 3, dots as neon 1, neon as None 1"
    )
    assert not found.weak and found.warning == ""


def test_a_judge_below_seventy_percent_is_warned_of():
    pairs = [("dots", "dots")] * 69 + [("neon", "dots")] * 31
    found = calibration("style", "canvas", judged(pairs))
    assert found.warning.startswith("warning: the judge of style is right on 69 % of unedited images, below 70 %")
    assert "\n" not in found.warning
    assert not calibration("style", "canvas", judged([("dots", "dots")] * 7 + [("neon", "dots")] * 3)).weak
    assert calibration("object", "canvas", judged(pairs)) is None
