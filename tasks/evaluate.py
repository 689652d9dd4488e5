"""The figures of one removal, from the images with it and without."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from saeuron import extractors
from saeuron.config import VerdictConfig
from saeuron.figures import quality as figures_of_quality
from saeuron.figures import verdict
from saeuron.figures.damage import confusion, damage
from saeuron.figures.metrics import evaluate as figures
from saeuron.figures.metrics import summary
from saeuron.figures.quality import Quality
from saeuron.prompts import Prompt
from storage import Workspace
from storage.declared import View
from storage.tables import CONFUSION, DAMAGE, DETECTIONS, METRICS, QUALITY, SHIPPED, read_table, table, write_table
from tasks import images, judge
from tasks import prompts as prompt_sets
from tasks.engine.job import Clock, Job, Made, Summary, commit
from tasks.engine.judge import DomainJudge, extractor_of
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
    """Lower end of the 95 % interval of before - after."""
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
    quality: tuple[Quality, ...] = ()
    """How far pictures that do not ask for the concept moved, and what a detecting judge found."""
    images: int


class EvaluateJob(Job):
    """One removal's metrics."""

    stage: ClassVar[str] = "evaluation"
    version: ClassVar[int] = 8
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
    judges: dict[str, DomainJudge] = Field({})
    """{domain: who judged}."""
    features: str = ""
    """The configured features for Frechet distances; empty: a judge's."""
    features_id: str = ""
    """The same by content."""

    def show(self, made: Made) -> None:
        from tasks.engine import page

        page.show_figures(self, made)

    @property
    def identity(self) -> dict[str, Any]:
        fields = {**super().identity, "judges": {domain: judge.identity for domain, judge in self.judges.items()}}
        # A file of weights counts by its content. Without one, ids are those of before there was a choice.
        del fields["features"]
        if not self.features_id:
            del fields["features_id"]
        elif self.features.partition(":")[0] != extractors.INCEPTION:
            fields["agreement"] = "by features too"  # Before, only a judge gave CLIP scores.
        return fields

    @property
    def reads(self) -> dict[str, tuple[str, ...]]:
        judgements = (name for names in self.judgements.values() for name in names)
        return dict.fromkeys((*self.edited, *self.unedited, *judgements), ())


@step("evaluate")
def evaluate(job: EvaluateJob) -> Made:
    """Compute figures, damage, quality and verdict; write a table of each."""
    clock = Clock()
    workspace = job.open
    edited, plain = (
        judge.read(workspace, {i: job.judgements[i] for i in image_sets}) for image_sets in (job.edited, job.unedited)
    )
    wanted = {(j.prompt_id, j.index) for j in edited}
    unedited = [j for j in plain if (j.prompt_id, j.index) in wanted]
    metrics = figures(job.domain, job.concept, job.domains, edited, unedited)
    harms = damage(job.domain, job.concept, edited, unedited)
    kept = quality(job)
    word, reason = verdict.verdict(metrics, harms, job.verdict, kept)
    about = {"removal_id": job.removal_id, "concept": job.concept, "method": job.method}
    common = {**about, "domain": job.domain, "seeds": job.seeds, "split": "test"}
    by = {domain: {"judge": judge.spec, "judge_id": judge.id} for domain, judge in job.judges.items()}
    nobody = {"judge": None, "judge_id": None}
    rows = [{**asdict(m), **common, **by.get(m.domain, nobody)} for m in metrics]
    write_table(job.folder / METRICS.file, table(rows, METRICS))
    write_table(job.folder / DAMAGE.file, table([{**about, **asdict(d)} for d in harms], DAMAGE))
    seen = confusion(edited, unedited)
    write_table(job.folder / CONFUSION.file, table([{**about, **asdict(c)} for c in seen], CONFUSION))
    write_table(job.folder / QUALITY.file, table([{**about, **asdict(q)} for q in kept], QUALITY))
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
        quality=tuple(kept),
        images=len(edited),
    )
    inputs = {
        "removal": job.removal_id,
        "edited": list(job.edited),
        "unedited": list(job.unedited),
        "judgements": sorted({name for names in job.judgements.values() for name in names}),
    }
    return commit(job, inputs, shown, clock)


def quality(job: EvaluateJob) -> list[Quality]:
    """Frechet distance and CLIP score of images that do not ask for the concept; odd images, detected parts in all.

    Where some of the prompts come from files, such as COCO's captions, both are given for each file as well.
    """
    found: list[Quality] = []
    # The concept's own judge first: one extractor is enough.
    order = sorted(job.judges, key=lambda domain: domain != job.domain)
    watching: list[Any] = [job.judges[domain].loaded(domain, job.device) for domain in order]
    retained = f"not asked to show {job.concept}"
    prompts = _prompts(job)
    extractor = extractor_of(job.features, job.device, job.features_id) if job.features else None
    if who := extractor or next((w for w in watching if hasattr(w, "features")), None):
        how = who.features
        edited, plain = _each(job, lambda rows, pictures: how(pictures))
        for said, mine in _by_file(prompts, edited, retained):
            found += figures_of_quality.distance(_only(edited, mine), _only(plain, mine), who.extractor, said)
    if who := next((w for w in (*watching, extractor) if hasattr(w, "agreement")), None):
        fit = who.agreement
        edited, plain = _each(
            job, lambda rows, pictures: fit(pictures, [prompts[row["prompt_id"]].text for row in rows])
        )
        for said, mine in _by_file(prompts, edited, retained):
            found += figures_of_quality.agreement(_only(edited, mine), _only(plain, mine), who.extractor, said)
    if who := next((w for w in watching if hasattr(w, "ordinary")), None):
        for asked in (True, False):
            found += odd(job.open, (job.domain, job.concept), job.edited, job.unedited, who, asked)
    for domain, who in zip(order, watching, strict=True):
        if thresholds := getattr(who, "thresholds", ()):
            found += _detected(job, domain, thresholds)
    return found


Of = dict[figures_of_quality.Key, Any]


def odd(
    workspace: Workspace,
    of: tuple[str, str],
    edited: Iterable[str],
    unedited: Iterable[str],
    who: Any,
    asked: bool,
) -> list[Quality]:
    """How many images are out of the ordinary, of those that ask for a (domain, concept) or of the others.

    Args:
        edited: image sets with the removal. unedited: image sets without; they may hold more.
        who: a judge that tells (`ordinary`).
    """
    image_set = f"{figures_of_quality.ASKED}{of[1]}" if asked else f"not {figures_of_quality.ASKED}{of[1]}"

    def tell(rows: list[images.Row], pictures: Any) -> Iterable[bool]:
        del rows
        return who.ordinary(pictures)

    after = _made(workspace, of, edited, tell, asked, None)
    before = _made(workspace, of, unedited, tell, asked, after.keys())
    return figures_of_quality.odd(after.values(), before.values(), who.identity, image_set)


def _each(job: EvaluateJob, of: Callable[[list[images.Row], Any], Iterable[Any]], asked: bool = False) -> tuple[Of, Of]:
    """{image: what `of` makes of it}, of edited images that ask for the concept or do not, and of the same unedited."""
    about = (job.domain, job.concept)
    edited = _made(job.open, about, job.edited, of, asked, None)
    return edited, _made(job.open, about, job.unedited, of, asked, edited.keys())


def _made(
    workspace: Workspace,
    about: tuple[str, str],
    image_sets: Iterable[str],
    of: Callable[[list[images.Row], Any], Iterable[Any]],
    asked: bool,
    wanted: Collection[figures_of_quality.Key] | None,
) -> Of:
    found: Of = {}
    for image_set in image_sets:
        rows = images.index(workspace, image_set)
        rows = [row for row in rows if (dict(row["asked"]).get(about[0]) == about[1]) == asked]
        rows = [row for row in rows if wanted is None or (row["prompt_id"], row["image_index"]) in wanted]
        for batch, pictures in images.batches(workspace, image_set, rows):
            keys = [(row["prompt_id"], row["image_index"]) for row in batch]
            found |= dict(zip(keys, of(batch, pictures), strict=True))
    return found


def _prompts(job: EvaluateJob) -> dict[str, Prompt]:
    """{prompt id: prompt} of the images' prompt sets."""
    sets = sorted({job.open.manifest(image_set).inputs["prompts"] for image_set in job.edited})
    return {p.id: p for prompts_id in sets for p in prompt_sets.read(job.open, prompts_id)}


def _by_file(prompts: Mapping[str, Prompt], images: Of, retained: str) -> list[tuple[str, set[figures_of_quality.Key]]]:
    """(which images, their keys): all that were retained, and those of each file that brought some of the prompts."""
    files: dict[str, set[figures_of_quality.Key]] = {}
    for key in images:
        files.setdefault(prompts[key[0]].source, set()).add(key)
    named = [(f"{figures_of_quality.FILE}{name}", mine) for name, mine in sorted(files.items()) if name]
    return [(retained, {*images}), *named]


def _only(images: Of, keys: Collection[figures_of_quality.Key]) -> Of:
    return {key: value for key, value in images.items() if key in keys}


def _detected(job: EvaluateJob, domain: str, thresholds: Sequence[float]) -> list[Quality]:
    """How often each part is found, on images asked to show the concept and on the others."""
    keys = {
        (row["prompt_id"], row["image_index"]): dict(row["asked"]).get(job.domain) == job.concept
        for image_set in job.edited
        for row in images.index(job.open, image_set)
    }
    found: list[Quality] = []
    for target, said in ((True, f"asked to show {job.concept}"), (False, f"not asked to show {job.concept}")):
        mine = {key for key, asks in keys.items() if asks == target}
        after, before = (_parts(job, domain, image_sets, mine) for image_sets in (job.edited, job.unedited))
        found += figures_of_quality.counts(after, before, thresholds, job.judges[domain].id, len(mine), said)
    return found


def _parts(
    job: EvaluateJob, domain: str, image_sets: Iterable[str], keys: Collection[figures_of_quality.Key]
) -> list[tuple[str, float]]:
    """(part, confidence) of everything detected on some images."""
    rows = [
        row
        for image_set in image_sets
        for name in job.judgements[image_set]
        for row in read_table(job.open.whole(name, DETECTIONS.file) / DETECTIONS.file).to_pylist()
    ]
    return [
        (row["part"], row["score"])
        for row in rows
        if row["domain"] == domain and (row["prompt_id"], row["image_index"]) in keys
    ]
