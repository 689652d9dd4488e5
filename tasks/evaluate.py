"""The figures of one removal, from the images with it and without."""

from dataclasses import asdict
from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from saeuron.config import VerdictConfig
from saeuron.figures import verdict
from saeuron.figures.damage import confusion, damage
from saeuron.figures.metrics import evaluate as figures
from saeuron.figures.metrics import summary
from storage.declared import View
from storage.tables import CONFUSION, DAMAGE, METRICS, SHIPPED, table, write_table
from tasks import images, judge
from tasks.engine.job import Clock, Job, Made, Summary, commit
from tasks.engine.step import step


class Value(BaseModel):
    """One metric, as a fraction, with its 95 % interval and the unedited model's figure; None: nothing could judge."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: float | None
    unedited: float | None
    low: float | None
    high: float | None


class Harmed(BaseModel):
    """Another concept that the removal surely harms: fractions of its `n` images in which its judge sees it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    harmed: str
    domain: str
    before: float
    after: float
    low: float
    """Of the 95 % interval of before - after."""
    high: float
    n: int


class EvaluationSummary(Summary):
    """The figures of one removal on test images."""

    domain: str
    concept: str
    method: str
    value: float | None
    """(UA + IRA + CRA) / 3."""
    verdict: str
    """holds, weak, failed, or cannot be judged; see `saeuron/figures/verdict.py`."""
    reason: str
    """Why it does not hold; empty if it does."""
    metrics: dict[str, Value]
    harmed: tuple[Harmed, ...]
    """Worst first."""
    others: int
    """Other concepts that were judged with and without the removal."""
    images: int


class EvaluateJob(Job):
    """One removal's metrics."""

    stage: ClassVar[str] = "evaluation"
    version: ClassVar[int] = 4
    title: ClassVar[str] = "{concept} by {method}"
    summary_type: ClassVar[type[Summary]] = EvaluationSummary
    views: ClassVar[tuple[View, ...]] = SHIPPED["evaluation"]
    command: ClassVar[str] = "saeuron evaluate {concept}"
    in_run: ClassVar[bool] = True

    domain: str
    concept: str
    method: str
    domains: tuple[str, ...]
    removal_id: str
    edited: tuple[str, ...]
    """Image sets generated with the removal."""
    unedited: tuple[str, ...]
    """Image sets with the same requests, without it; they may hold more."""
    judgements: dict[str, tuple[str, ...]]
    """{image set: what the judges saw on it, one artifact a domain that has a judge}."""
    seeds: int
    verdict: VerdictConfig
    """Thresholds."""

    def show(self, made: Made) -> None:
        from tasks.engine import page

        page.show_figures(self, made)

    @property
    def reads(self) -> dict[str, tuple[str, ...]]:
        judgements = (name for names in self.judgements.values() for name in names)
        return dict.fromkeys((*self.edited, *self.unedited), (images.INDEX,)) | dict.fromkeys(judgements, ())


@step("evaluate")
def evaluate(job: EvaluateJob) -> Made:
    """Compute figures, damage and verdict; write `metrics.parquet`, `damage.parquet` and `confusion.parquet`."""
    clock = Clock()
    workspace = job.open
    edited, plain = (
        judge.read(workspace, {i: job.judgements[i] for i in image_sets}) for image_sets in (job.edited, job.unedited)
    )
    wanted = {(j.prompt_id, j.index) for j in edited}
    unedited = [j for j in plain if (j.prompt_id, j.index) in wanted]
    metrics = figures(job.domain, job.concept, job.domains, edited, unedited)
    harms = damage(job.domain, job.concept, edited, unedited)
    word, reason = verdict.verdict(metrics, harms, job.verdict)
    about = {"removal_id": job.removal_id, "concept": job.concept, "method": job.method}
    common = {**about, "domain": job.domain, "seeds": job.seeds, "split": "test"}
    write_table(job.folder / METRICS.file, table([{**common, **asdict(m)} for m in metrics], METRICS))
    write_table(job.folder / DAMAGE.file, table([{**about, **asdict(d)} for d in harms], DAMAGE))
    seen = confusion(edited, unedited)
    write_table(job.folder / CONFUSION.file, table([{**about, **asdict(c)} for c in seen], CONFUSION))
    fields = Harmed.model_fields
    shown = EvaluationSummary(
        domain=job.domain,
        concept=job.concept,
        method=job.method,
        value=summary(metrics),
        verdict=word,
        reason=reason,
        metrics={m.metric: Value(value=m.value, unedited=m.unedited, low=m.low, high=m.high) for m in metrics},
        harmed=tuple(Harmed(**{name: getattr(d, name) for name in fields}) for d in harms if d.certain),
        others=len(harms),
        images=len(edited),
    )
    inputs = {
        "removal": job.removal_id,
        "edited": list(job.edited),
        "unedited": list(job.unedited),
        "judgements": sorted({name for names in job.judgements.values() for name in names}),
    }
    return commit(job, inputs, shown, clock)
