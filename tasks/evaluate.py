"""The figures of one removal, from the images with it and without."""

from dataclasses import asdict
from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from saeuron.metrics import evaluate as figures
from saeuron.metrics import summary
from storage.declared import View
from storage.tables import METRICS, table, write_table
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


class EvaluationSummary(Summary):
    """The figures of one removal on test images."""

    domain: str
    concept: str
    method: str
    value: float | None
    """(UA + IRA + CRA) / 3."""
    metrics: dict[str, Value]
    images: int


class EvaluateJob(Job):
    """One removal's metrics."""

    stage: ClassVar[str] = "evaluation"
    version: ClassVar[int] = 3
    summary_type: ClassVar[type[Summary]] = EvaluationSummary
    views: ClassVar[tuple[View, ...]] = (METRICS,)
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

    @property
    def label(self) -> str:
        return f"{self.concept} by {self.method}"

    def show(self, made: Made) -> None:
        from tasks.engine import page

        page.show_figures(self, made)

    @property
    def reads(self) -> dict[str, tuple[str, ...]]:
        judgements = (name for names in self.judgements.values() for name in names)
        return dict.fromkeys((*self.edited, *self.unedited), (images.INDEX,)) | dict.fromkeys(judgements, ())


@step("evaluate")
def evaluate(job: EvaluateJob) -> Made:
    """Compute the metrics; write `metrics.parquet`."""
    clock = Clock()
    workspace = job.open
    edited, plain = (
        judge.read(workspace, {i: job.judgements[i] for i in image_sets}) for image_sets in (job.edited, job.unedited)
    )
    wanted = {(j.prompt_id, j.index) for j in edited}
    unedited = [j for j in plain if (j.prompt_id, j.index) in wanted]
    metrics = figures(job.domain, job.concept, job.domains, edited, unedited)
    common = {
        "domain": job.domain,
        "concept": job.concept,
        "method": job.method,
        "seeds": job.seeds,
        "split": "test",
        "removal_id": job.removal_id,
    }
    write_table(job.folder / METRICS.file, table([{**common, **asdict(m)} for m in metrics], METRICS))
    shown = EvaluationSummary(
        domain=job.domain,
        concept=job.concept,
        method=job.method,
        value=summary(metrics),
        metrics={m.metric: Value(value=m.value, unedited=m.unedited, low=m.low, high=m.high) for m in metrics},
        images=len(edited),
    )
    inputs = {
        "removal": job.removal_id,
        "edited": list(job.edited),
        "unedited": list(job.unedited),
        "judgements": sorted({name for names in job.judgements.values() for name in names}),
    }
    return commit(job, inputs, shown, clock)
