"""The figures of a removal by a judge that nothing was tuned by, beside those of the first, on the same stored images.

second_opinions.parquet   each figure by both judges, and how often both say the same
"""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from pydantic import Field

from saeuron.figures.metrics import Judged, Metric, questions
from saeuron.figures.metrics import evaluate as figures
from storage import Workspace
from storage.declared import View
from storage.manifests import Manifest
from storage.tables import SECOND_OPINIONS, table, write_table
from tasks import judge
from tasks.engine.job import Clock, Job, Made, Summary, commit
from tasks.engine.judge import DomainJudge
from tasks.engine.step import step


class SecondSummary(Summary):
    """The removal that was judged again, and its judges."""

    concept: str
    domain: str
    method: str
    judge: str
    images: int
    same: float
    """Share of (image, domain) of which both judges say the same."""


class SecondJob(Job):
    """One evaluation, judged again."""

    stage: ClassVar[str] = "second_opinion"
    version: ClassVar[int] = 1
    title: ClassVar[str] = "{concept} by {method}"
    summary_type: ClassVar[type[Summary]] = SecondSummary
    views: ClassVar[tuple[View, ...]] = (SECOND_OPINIONS,)
    command: ClassVar[str] = "saeuron evaluate {concept} --judge {judge}"

    evaluation_id: str
    removal_id: str
    concept: str
    domain: str
    method: str
    domains: tuple[str, ...]
    edited: tuple[str, ...]
    """Image sets generated with the removal."""
    unedited: tuple[str, ...]
    first: dict[str, tuple[str, ...]]
    """{image set: what the first judges saw on it}."""
    judgements: dict[str, tuple[str, ...]]
    """{image set: what this judge saw on it}."""
    judges: dict[str, DomainJudge] = Field({})
    """{domain: this judge}."""

    @property
    def identity(self) -> dict[str, Any]:
        return {**super().identity, "judges": {domain: judge.identity for domain, judge in self.judges.items()}}


def newest(workspace: Workspace, concepts: Iterable[str] = ()) -> list[Manifest]:
    """The newest evaluation of each removal of these concepts, or of all; by (concept, method)."""
    wanted = {*concepts}
    there = sorted(workspace.artifacts("evaluation"), key=lambda m: (m.created, m.id))
    found = {(m.summary["concept"], m.summary["method"]): m for m in there}
    return [m for (concept, _), m in sorted(found.items()) if concept in wanted or not wanted]


@step("second opinion")
def second(job: SecondJob) -> Made:
    """Compute the figures from either judgements; write them side by side."""
    clock = Clock()
    by_first, by_second = _figures(job, job.first), _figures(job, job.judgements)
    seen = {_key(j): j for j in _read(job, job.first, job.edited)}
    pairs = [(seen[_key(j)], j) for j in _read(job, job.judgements, job.edited)]
    about = {name: getattr(job, name) for name in ("evaluation_id", "removal_id", "concept", "method")}
    rows: list[dict[str, Any]] = []
    for q in questions(job.domain, job.concept, [d for d in job.domains if d != job.domain]):
        if (who := job.judges.get(q.domain)) is None:
            continue
        a, b = by_first[q.metric], by_second[q.metric]
        mine = [(x.seen.get(q.domain), y.seen.get(q.domain)) for x, y in pairs if q.member(y)]
        rows.append(
            {
                **about,
                "metric": q.metric,
                "domain": q.domain,
                "judge": who.spec,
                "judge_id": who.id,
                **{name: getattr(b, name) for name in ("value", "low", "high", "unedited")},
                **{f"first_{name}": getattr(a, name) for name in ("value", "low", "high", "unedited")},
                "same": sum(x == y for x, y in mine) / len(mine) if mine else None,
                "n_images": b.n_images,
                "image_set": q.image_set,
            }
        )
    write_table(job.folder / SECOND_OPINIONS.file, table(rows, SECOND_OPINIONS))
    said = [(x.seen.get(d), y.seen.get(d)) for x, y in pairs for d in job.judges]
    summary = SecondSummary(
        concept=job.concept,
        domain=job.domain,
        method=job.method,
        judge=next(iter(job.judges.values())).spec,
        images=len(pairs),
        same=sum(x == y for x, y in said) / len(said),
    )
    return commit(job, {"evaluation": job.evaluation_id}, summary, clock)


def _key(judged: Judged) -> tuple[str, int]:
    return judged.prompt_id, judged.index


def _read(job: SecondJob, judgements: Mapping[str, tuple[str, ...]], sets: Iterable[str]) -> list[Judged]:
    return judge.read(job.open, {i: judgements[i] for i in sets})


def _figures(job: SecondJob, judgements: Mapping[str, tuple[str, ...]]) -> dict[str, Metric]:
    edited, plain = (_read(job, judgements, sets) for sets in (job.edited, job.unedited))
    wanted = {_key(j) for j in edited}
    unedited = [j for j in plain if _key(j) in wanted]
    return {m.metric: m for m in figures(job.domain, job.concept, job.domains, edited, unedited)}
