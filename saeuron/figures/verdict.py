"""The verdict on a removal, from its figures beside those of the unedited model. Every threshold is a `VerdictConfig`.

Every end below is one of a 95 % interval; what is gone counts as a share of what the unedited model draws,
1 - (1 - UA) / (1 - UA of the unedited model).

    cannot be judged   no judge says whether the concept is gone; or the unedited model hardly draws it, so that its
                       absence shows nothing: the low end of what it draws is below `drawn`
    failed             the high end of what is gone is below `removed`; or the low end of IRA-drop or CRA-drop is above
                       `destroyed`
    holds              the low end of what is gone is at least `removed`; the high ends of IRA-drop and CRA-drop are at
                       most `lost`; for no other concept is the low end of its loss above `harmed`
    weak               neither: it does harm, removes in part, or there are too few images to tell

Where another domain has no judge, a removal that has not failed cannot be judged.
"""

from collections.abc import Sequence
from typing import Literal

from saeuron.config import VerdictConfig
from saeuron.figures.damage import Damage
from saeuron.figures.metrics import Metric
from saeuron.figures.words import percent

Verdict = Literal["holds", "weak", "failed", "cannot be judged"]


def verdict(
    metrics: Sequence[Metric], damage: Sequence[Damage], config: VerdictConfig | None = None
) -> tuple[Verdict, str]:
    """The verdict, and why in a few words; a removal that holds needs none.

    Args:
        metrics: all of one removal, as `saeuron.figures.metrics.evaluate` gives them.
        damage: to the other concepts, worst first.
    """
    config = config or VerdictConfig()
    ua = next(m for m in metrics if m.metric == "UA")
    if ua.value is None or ua.low is None or ua.high is None or ua.unedited is None or ua.unedited_high is None:
        return "cannot be judged", "no judge said whether it is gone"
    drawn = 1 - ua.unedited
    if 1 - ua.unedited_high < config.drawn:
        return "cannot be judged", f"the unedited model draws it in {percent(drawn)} % of {ua.n_images} images"
    gone, low, high = (max(0.0, 1 - (1 - end) / drawn) for end in (ua.value, ua.low, ua.high))
    goal, drops = f"{percent(config.removed)} needed", [m for m in metrics if m.metric.split(" ")[0].endswith("-drop")]
    if high < config.removed:
        return "failed", f"{percent(gone)} % of it is gone, at most {percent(high)}, {goal}"
    for m in drops:
        if m.value is not None and m.low is not None and m.low > config.destroyed:
            return "failed", f"{_loss(m)}, {percent(config.destroyed)} is too much"
    if unjudged := [m.metric for m in metrics if m.value is None and m.n_images]:
        return "cannot be judged", f"no judge for {', '.join(unjudged)}"
    reasons = [f"{percent(gone)} % of it is gone, maybe only {percent(low)}, {goal}"] if low < config.removed else []
    reasons += [
        f"{_loss(m)}, {percent(config.lost)} allowed" for m in drops if m.high is not None and m.high > config.lost
    ]
    if worst := next((d for d in damage if d.low > config.harmed), None):
        reasons.append(f"{worst.harmed} lost {percent(worst.loss)} points")
    return ("weak", "; ".join(reasons)) if reasons else ("holds", "")


def _loss(drop: Metric) -> str:
    """`IRA lost 29.9 points (24.0 to 36.3)`."""
    value, low, high = (percent(end or 0.0) for end in (drop.value, drop.low, drop.high))
    return f"{drop.metric.replace('-drop', '')} lost {value} points ({low} to {high})"
