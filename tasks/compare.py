"""Compare a method with a control on the test images of some concepts: what the closing table of a run says."""

from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from saeuron.figures.comparison import Pair
from saeuron.figures.comparison import compare as difference
from storage.declared import View
from storage.tables import COMPARISONS
from tasks import images, judge
from tasks.engine.job import RUN, Clock, Job, Made, Summary, commit
from tasks.engine.step import step


class ComparisonSummary(Summary):
    """By how much a method is better than a control; `storage.tables.COMPARISONS` says what each field means."""

    domain: str
    method: str
    control: str
    concepts: tuple[str, ...]
    difference: float | None
    low: float | None
    high: float | None
    beats: bool
    n: int
    n_prompts: int
    n_differ: int


class Compared(BaseModel):
    """The test images of one concept: {image set: its judgements} of either removal."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    concept: str
    method: dict[str, tuple[str, ...]]
    control: dict[str, tuple[str, ...]]


class CompareJob(Job):
    """One comparison, over the concepts of a domain that have both removals."""

    stage: ClassVar[str] = "comparison"
    version: ClassVar[int] = 1
    title: ClassVar[str] = "{method} and {control}, {domain}"
    summary_type: ClassVar[type[Summary]] = ComparisonSummary
    views: ClassVar[tuple[View, ...]] = (COMPARISONS,)
    command: ClassVar[str] = RUN
    in_run: ClassVar[bool] = True

    domain: str
    domains: tuple[str, ...]
    """Every domain of the run."""
    method: str
    control: str
    pairs: tuple[Compared, ...]

    @property
    def reads(self) -> dict[str, tuple[str, ...]]:
        sets = [s for pair in self.pairs for s in (pair.method, pair.control)]
        judgements = (name for s in sets for names in s.values() for name in names)
        return dict.fromkeys((i for s in sets for i in s), (images.INDEX,)) | dict.fromkeys(judgements, ())


@step("compare")
def compare(job: CompareJob) -> Made:
    """Compute the difference and its interval."""
    clock = Clock()
    pairs = [Pair(p.concept, judge.read(job.open, p.method), judge.read(job.open, p.control)) for p in job.pairs]
    found = difference(job.domain, job.domains, pairs)
    summary = ComparisonSummary(
        domain=job.domain,
        method=job.method,
        control=job.control,
        concepts=tuple(p.concept for p in job.pairs),
        difference=found.value,
        low=found.low,
        high=found.high,
        beats=found.beats,
        n=found.n_images,
        n_prompts=found.n_prompts,
        n_differ=found.n_differ,
    )
    used = {p.concept: {"method": sorted(p.method), "control": sorted(p.control)} for p in job.pairs}
    return commit(job, used, summary, clock)
