"""Compare a method with a control on the test images of some concepts, which the closing table of a run says; and all
methods side by side, with what they cost, for `saeuron compare`.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from saeuron import methods
from saeuron.config import RunConfig
from saeuron.errors import ConfigError
from saeuron.figures.comparison import Pair
from saeuron.figures.comparison import compare as difference
from saeuron.figures.contest import Contest, contest
from saeuron.figures.cost import overhead
from saeuron.figures.quality import ODD
from saeuron.figures.row import Removed
from saeuron.generation import spread
from saeuron.methods.removal import Removal
from saeuron.tuning import learning_count
from storage import Workspace
from storage.declared import View
from storage.manifests import Manifest
from storage.tables import COMPARISONS
from tasks import images, judge, prompts, tune
from tasks.bench import judged
from tasks.engine import model
from tasks.engine.job import RUN, Clock, Job, Made, Summary, commit
from tasks.engine.step import step


class ComparisonSummary(Summary):
    """How much better a method is than a control; `storage.tables.COMPARISONS` describes each field."""

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


BATCH = 8
"""Images that are timed."""


@dataclass(frozen=True)
class Cost:
    """Costs of the removals of one method, means over concepts."""

    seconds: float
    """Seconds to learn and tune one removal."""
    shared: float
    """Seconds for what all concepts share: captures, SAEs and scores; 0 for a method without them."""
    images: int
    """Images generated to learn and tune one removal."""
    bytes: int
    """Bytes of a removal's file."""
    overhead: float | None
    """Time per image as a ratio to plain generation; None: not measured."""
    odd: float | None = None
    """Share of the images asked to show the concept that are out of the ordinary; None: no judge can tell."""
    frechet: float | None = None
    """Frechet distance of the images not asked to show it, from the same unedited; None: not computed, or in several
    extractors' features."""
    frechet_control: float | None = None
    """That of two seeds unedited; None as above, or with one image a prompt."""


def side_by_side(
    workspace: Workspace,
    config: RunConfig,
    result: Mapping[str, Any],
    against: str,
    controls: Collection[str],
    device: str,
    threads: int,
) -> tuple[Contest, dict[str, Cost]]:
    """The contest of a run's methods on the concepts that all of them removed, and {method: cost}.

    Args:
        result: what `flows.pipeline.pipeline` gives.
        threads: of the timing; 0: nothing is timed.

    Raises:
        ConfigError: no concept was removed by all of them.
    """
    evaluated = {(e["method"], e["concept"]): e["id"] for e in result["evaluations"]}
    names = [n for n in dict.fromkeys(m for m, _ in evaluated) if n not in controls]
    common = [c for c in dict.fromkeys(c for _, c in evaluated) if all((n, c) in evaluated for n in names)]
    if not names or not common:
        raise ConfigError("no concept was removed by every method, so nothing can be compared; see what failed above.")
    # A control that was run for some of the concepts alone would be measured on other images.
    there = [n for n in dict.fromkeys(m for m, _ in evaluated) if n in controls]
    names += [n for n in there if all((n, c) in evaluated for c in common)]
    removed: dict[str, list[Removed]] = {n: [judged(workspace, evaluated[n, c]) for c in common] for n in names}
    found = contest(tuple(config.domains), removed, against if against in removed else "", controls)
    ids = {(r["method"], r["concept"]): r["id"] for r in result["removals"]}
    files = {n: [tune.load(workspace.whole(ids[n, c])) for c in common] for n in names}
    ratios = _timed(workspace, config, {n: of[0] for n, of in files.items()}, device, threads) if threads else {}
    made = {n: [workspace.manifest(ids[n, c]) for c in common] for n in names}
    costs, evaluations = {}, {n: [workspace.manifest(evaluated[n, c]) for c in common] for n in names}
    for entry in found.entries:
        needs, of = methods.get(entry.method).needs, made[entry.method]
        trials = [workspace.manifest(m.inputs["trials"]) for m in of]
        learned = learning_count(needs, config.tune)
        costs[entry.method] = Cost(
            seconds=mean(m.seconds + t.seconds for m, t in zip(of, trials, strict=True)),
            shared=_shared(workspace, config, entry.method) if "latents" in needs else 0.0,
            images=round(mean(t.summary["images"] * (t.summary["candidates"] + 1) for t in trials)) + learned,
            bytes=round(mean((workspace.whole(m.id) / tune.FILE).stat().st_size for m in of)),
            overhead=ratios.get(entry.method),
            odd=_odd(evaluations[entry.method]),
            frechet=_frechet(evaluations[entry.method], "value"),
            frechet_control=_frechet(evaluations[entry.method], "control"),
        )
    return found, costs


def _odd(evaluations: Sequence[Manifest]) -> float | None:
    found = [
        q["value"]
        for m in evaluations
        for q in m.summary.get("quality", ())
        if q["metric"] == ODD and q["image_set"] == f"asked to show {m.summary['concept']}"
    ]
    return mean(found) if len(found) == len(evaluations) else None


def _frechet(evaluations: Sequence[Manifest], which: str) -> float | None:
    found = [
        q
        for m in evaluations
        for q in m.summary.get("quality", ())
        if q["metric"] == "Frechet distance" and q["image_set"] == f"not asked to show {m.summary['concept']}"
    ]
    # Distances in features of several extractors have no mean.
    if len(found) < len(evaluations) or len({q["extractor"] for q in found}) > 1:
        return None
    return None if any(q[which] is None for q in found) else mean(q[which] for q in found)


def _shared(workspace: Workspace, config: RunConfig, method: str) -> float:
    """Seconds of the captures, of the method's SAEs and of all scores in the workspace."""
    wanted = methods.get(method).dictionary
    saes = [m for m in workspace.artifacts("sae") if m.summary.get("dictionary", "trained") == wanted]
    return sum(m.seconds for m in [*workspace.artifacts("capture"), *saes, *workspace.artifacts("score")])


def _timed(
    workspace: Workspace, config: RunConfig, removals: Mapping[str, Removal], device: str, threads: int
) -> dict[str, float]:
    model.set_threads(threads)
    pipe = model.pipeline(config.model, device)
    asked = [p for m in workspace.artifacts("prompts") for p in prompts.read(workspace, m.id) if p.split == "test"]
    return overhead(pipe, removals, spread(asked, BATCH), config.model)
