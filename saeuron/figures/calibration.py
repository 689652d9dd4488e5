"""Accuracy of a judge on unedited images, measured before it judges a removal."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from saeuron.figures.metrics import Judged, wilson
from saeuron.figures.words import percent

MIN_ACCURACY = 0.7
"""Below this accuracy on unedited images a run prints a warning."""
_WORST = 3
"""Mistakes that are named."""


@dataclass(frozen=True)
class Calibration:
    """A judge's answers on unedited images that ask for a concept of one domain."""

    domain: str
    judge: str
    right: int
    """Images on which it sees the concept that was asked for."""
    n: int
    """Images."""
    confused: tuple[tuple[str, str, int], ...]
    """(asked, seen, images) of its mistakes, the most frequent first."""

    @property
    def weak(self) -> bool:
        """Whether it is right less often than `MIN_ACCURACY`."""
        return self.right < MIN_ACCURACY * self.n

    @property
    def line(self) -> str:
        """Accuracy, interval and the most frequent mistakes, in one line."""
        low, high = wilson(self.right, self.n)
        said = (
            f"judge of {self.domain}, {self.judge}: right on {percent(self.right / self.n)} % of {self.n} unedited "
            f"images (95 % {percent(low)} to {percent(high)})"
        )
        worst = ", ".join(f"{asked} as {seen} {count}" for asked, seen, count in self.confused[:_WORST])
        return f"{said}; most often wrong: {worst}" if worst else said

    @property
    def warning(self) -> str:
        """A warning of one line about a weak judge; empty if it is not weak."""
        if not self.weak:
            return ""
        return (
            f"warning: the judge of {self.domain} is right on {percent(self.right / self.n)} % of unedited images, "
            f"below {percent(MIN_ACCURACY)} %: it, or what the model draws, is too poor for figures of a removal to "
            "mean much; look at the pictures, give judge_templates, or another judge"
        )


def calibration(domain: str, judge: str, unedited: Sequence[Judged]) -> Calibration | None:
    """The judge's answers on the unedited images that ask for a concept of `domain`; None if there are none."""
    asked = [(j.asked[domain], j.seen.get(domain)) for j in unedited if domain in j.asked]
    if not asked:
        return None
    wrong = Counter((concept, str(seen)) for concept, seen in asked if concept != seen)
    # Ties are sorted by name, so that the line does not depend on the order of images.
    confused = sorted(((a, s, count) for (a, s), count in wrong.items()), key=lambda c: (-c[2], c[0], c[1]))
    return Calibration(domain, judge, len(asked) - wrong.total(), len(asked), tuple(confused))
