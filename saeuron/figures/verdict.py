"""The verdict on a removal, from its figures and those of the unedited model. Thresholds are fields of `VerdictConfig`.

"Low" and "high" are the ends of a 95 % interval. "Gone" is the share of what the unedited model draws that is gone:
1 - (1 - UA) / (1 - UA of the unedited model).

    cannot be judged   no judge says whether the concept is gone; or the unedited model hardly draws it, so that its
                       absence shows nothing: low of what it draws is below `drawn`
    failed             high of gone is below `removed`; or low of IRA-drop or CRA-drop is above `destroyed`
    holds              low of gone is at least `removed`; high of IRA-drop and CRA-drop is at most `lost`; for every
                       other concept, low of its loss is at most `harmed`; and of the images asked to show the concept
                       low of those out of the ordinary is at most `broken` above the unedited share
    weak               neither: it does harm, removes in part, or there are too few images to tell

If another domain has no judge, a removal that has not failed cannot be judged.
"""

from collections.abc import Sequence
from typing import Literal

from saeuron.config import VerdictConfig
from saeuron.figures.damage import Damage
from saeuron.figures.metrics import Metric, wilson
from saeuron.figures.quality import ASKED, ODD, Quality
from saeuron.figures.words import percent

PICTURES_ODD = "of its pictures are odd"
"""Part of a reason: too many images look unlike the model's own."""
Verdict = Literal["holds", "weak", "failed", "cannot be judged"]


def verdict(
    metrics: Sequence[Metric],
    damage: Sequence[Damage],
    config: VerdictConfig | None = None,
    quality: Sequence[Quality] = (),
) -> tuple[Verdict, str]:
    """(verdict, reason in a few words); the reason is empty for a removal that holds.

    Args:
        metrics: all of one removal, as `saeuron.figures.metrics.evaluate` gives them.
        damage: to the other concepts, worst first.
        quality: figures of the same removal, of which `broken` counts.
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
    if (q := broken(quality)) and q.unedited is not None:
        surely, _ = wilson(round(q.value * q.n), q.n)
        if surely > q.unedited + config.broken:
            reasons.append(f"{percent(q.value)} % {PICTURES_ODD} (unedited {percent(q.unedited)})")
    return ("weak", "; ".join(reasons)) if reasons else ("holds", "")


def broken(quality: Sequence[Quality]) -> Quality | None:
    """The share of images asked to show the concept that do not look like the model's own, where a judge tells."""
    return next((q for q in quality if q.metric == ODD and q.image_set.startswith(ASKED)), None)


def _loss(drop: Metric) -> str:
    """`IRA lost 29.9 points (24.0 to 36.3)`."""
    value, low, high = (percent(end or 0.0) for end in (drop.value, drop.low, drop.high))
    return f"{drop.metric.replace('-drop', '')} lost {value} points ({low} to {high})"
