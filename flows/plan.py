"""The plan of a run: what is in place, what would be made, why, and at about what cost."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from flows.pipeline import stages
from flows.run import Run, Sought
from flows.summary import text_table
from flows.upkeep.diff import flat, short
from saeuron.config import RunConfig
from saeuron.errors import BadModel
from saeuron.pipelines.loading import identity
from saeuron.prompts import Prompt
from storage import Workspace
from storage.identity import split_id
from storage.manifests import Manifest
from storage.text import few
from storage.verify import ids_in
from tasks.engine.job import Job, Made
from tasks.engine.step import Step
from tasks.prompts import PromptsJob


@dataclass(frozen=True)
class Planned:
    """One artifact that a run needs."""

    stage: str
    label: str
    id: str
    cached: bool
    why: str = ""
    """Why it would be made: the differences from the most similar artifact."""
    seconds: float | None = None
    """Estimate: the median of its stage in this workspace; None: nothing was measured."""
    megabytes: float | None = None
    """Estimate of its size, likewise."""


@dataclass
class Plan(Run):
    """A run whose steps only note what they would make. It reads manifests alone and writes nothing."""

    planning: ClassVar[bool] = True
    planned: dict[str, Planned] = field(default_factory=dict)
    before: dict[str, list[Manifest]] = field(default_factory=dict)
    """{stage: its artifacts that are there}."""
    jobs: dict[str, Job] = field(default_factory=dict)
    """{artifact: its job}."""
    sets: dict[str, Sequence[Prompt]] = field(default_factory=dict)
    """{prompt set: its prompts}, those that were asked for."""
    costs: dict[str, tuple[float, float]] = field(default_factory=dict)
    """{stage: (median seconds, median megabytes)} of these."""

    def step(self, task: Step, job: Sought, *args: int, prepare: Callable[[Sought], Sought] | None = None) -> Made:
        """Note the job. Its summary is known only if its artifact is there."""
        del task, args
        workspace = Workspace(job.workspace)
        if job.stage not in self.before:
            self.before[job.stage] = workspace.artifacts(job.stage)
        there = next((m for m in self.before[job.stage] if m.id == job.id), None)
        if there is None:
            if prepare:
                job = prepare(job)
            self.jobs[job.id] = job
            self.planned[job.id] = self._missing(workspace, job)
            return Made(id=job.id)
        self.jobs[job.id] = job
        self.planned[job.id] = Planned(job.stage, job.label, job.id, cached=True)
        return Made(id=job.id, summary=there.summary, cached=True)

    def built(self, job: PromptsJob) -> Sequence[Prompt]:
        """The prompts of a set, built once."""
        if job.id not in self.sets:
            self.sets[job.id] = job.build()
        return self.sets[job.id]

    @staticmethod
    def identified(spec: str) -> str:
        """A model's id; of one on the hub that is not here, nothing: a plan fetches no weights."""
        try:
            return identity(spec, fetch=False)
        except BadModel:
            return ""

    @property
    def artifacts(self) -> dict[str, bool]:
        """{artifact that the run would use: whether it is there}."""
        return {each.id: each.cached for each in self.planned.values()}

    def shards(self, *unused: Any, **options: Any) -> None:
        """Do nothing: the artifact is noted when it is committed."""

    def publish(self, do: Callable[[Any], object], job: Job) -> None:
        """Do nothing."""

    def _missing(self, workspace: Workspace, job: Job) -> Planned:
        others = self.before[job.stage]
        if others and job.stage not in self.costs:
            seconds = statistics.median(m.seconds for m in others)
            self.costs[job.stage] = seconds, statistics.median(sum(f.bytes for f in m.files) / 1e6 for m in others)
        cost = self.costs.get(job.stage, (None, None))
        return Planned(job.stage, job.label, job.id, False, _why(job, others), *cost)


def planned(config: RunConfig, root: Path, concepts: list[str] | None = None, device: str = "cpu") -> Plan:
    """The walk that `pipeline` would take, with all that it would make or find; the workspace need not exist."""
    run = Plan.of(Workspace(root), config, device)
    stages(run, concepts)
    return run


def _why(job: Job, others: list[Manifest]) -> str:
    """The inputs in which a job differs from the most similar artifact of its stage.

    Settings are shown with both values, artifacts by their stage alone: they are in the plan themselves.
    """
    wanted = flat(job.identity)
    subject = {key: wanted[key] for key in ("concept", "hookpoint") if key in wanted}
    nearest: dict[str, Any] | None = None
    for manifest in others:
        found = flat(manifest.config)
        if any(found.get(key) != value for key, value in subject.items()):
            continue
        changed = {k: found.get(k) for k in {**found, **wanted} if found.get(k) != wanted.get(k)}
        if nearest is None or len(changed) < len(nearest):
            nearest = changed
    if nearest is None:
        return "new"
    if not nearest:
        return "damaged or of an earlier version"
    # Other images follow from a setting, which explains more, or else from the prompts.
    if nearest.pop("images_id", None) is not None and not nearest:
        return "its prompts"
    reasons = []
    for key in sorted(nearest):
        stages = sorted({split_id(i)[0] for i in ids_in([nearest[key], wanted.get(key)])})
        reasons += [f"its {stage}" for stage in stages] or [f"{key}: {short(nearest[key])} -> {short(wanted.get(key))}"]
    return ", ".join(dict.fromkeys(reasons))


NAMED = 3
"""Jobs of one stage that are named in a row; of the others the number is said."""


def page(planned: list[Planned]) -> list[str]:
    """The plan as text: a row for what one stage would make for one reason, then the sums."""
    todo = [p for p in planned if not p.cached]
    groups: dict[tuple[str, str], list[Planned]] = {}
    for p in todo:
        groups.setdefault((p.stage, p.why), []).append(p)
    header = ["stage", "jobs", "what", "about s", "MB", "because"]
    rows = [
        {
            "stage": stage,
            "jobs": len(group),
            "what": _named([p.label for p in group]),
            "about s": _sum(p.seconds for p in group),
            "MB": _sum(p.megabytes for p in group),
            "because": why,
        }
        for (stage, why), group in groups.items()
    ]
    if not any(p.seconds is not None for p in todo):
        header = [name for name in header if name not in ("about s", "MB")]
    lines = [text_table(header, rows, wrapped=["what", "because"]), ""] if rows else []
    lines.append(f"{len(todo)} would be made, {len(planned) - len(todo)} are in place")
    if any(p.stage == "removal" and p.why != "new" for p in todo):
        # Images are kept by what a removal does, which is known when it is chosen.
        lines.append("at most: images and figures of a removal that is chosen the same again are kept")
    known = [p for p in todo if p.seconds is not None]
    if known:
        total, size = sum(p.seconds or 0 for p in known), sum(p.megabytes or 0 for p in known)
        rest = len(todo) - len(known)
        more = f", and {rest} of stages that were never measured here" if rest else ""
        lines.append(f"about {total:.0f} s and {size:.1f} MB, by what the same stages took before{more}")
    return lines


def _named(labels: list[str]) -> str:
    return few([*dict.fromkeys(labels)], NAMED, "; ")


def _sum(values: Iterable[float | None]) -> str | None:
    """The sum of what was measured, as text; None where nothing was."""
    known = [value for value in values if value is not None]
    return f"{sum(known):.1f}" if known else None
