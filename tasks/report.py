"""Pictures of one removal: unedited beside edited images, and the scores of its latents over the steps."""

import re
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any, ClassVar, NamedTuple, Self, TypeVar

from pydantic import Field

from saeuron.figures.metrics import Judged
from saeuron.figures.words import harm
from saeuron.pages import pictures as draw
from saeuron.profiles import profile
from storage.declared import View
from storage.tables import SHIPPED
from tasks import images, judge, score, totals
from tasks import prompts as prompt_sets
from tasks.engine.job import Clock, Job, Made, Summary, commit
from tasks.engine.step import step

Item = TypeVar("Item")

CURVES = 6
"""Latents in a plot."""
ACROSS = 10
"""Images in a band of a contact sheet."""
MOST = 5
"""Images of one harmed concept in a contact sheet."""


class PicturesSummary(Summary):
    """The removal that the pictures show, and where their copies lie in the workspace."""

    domain: str
    concept: str
    method: str
    sheet: str
    scores: str | None


class ReportJob(Job):
    """The pictures of one removal."""

    stage: ClassVar[str] = "pictures"
    version: ClassVar[int] = 5
    views: ClassVar[tuple[View, ...]] = SHIPPED["pictures"]
    title: ClassVar[str] = "{concept} by {method}"
    summary_type: ClassVar[type[Summary]] = PicturesSummary
    publishes: ClassVar[Mapping[str, str]] = {
        "sheet.png": "pictures/{concept}.{method}_sheet.png",
        "scores.png": "pictures/{concept}.{method}_scores.png",
    }
    command: ClassVar[str] = "saeuron evaluate {concept}"
    in_run: ClassVar[bool] = True
    excluded_from_id: ClassVar[frozenset[str]] = frozenset({"totals"})

    domain: str
    concept: str
    method: str
    prompts_ids: tuple[str, ...]
    edited: tuple[str, ...]
    unedited: tuple[str, ...]
    judgements: dict[str, tuple[str, ...]]
    """{image set: what judges saw on it}."""
    evaluation_id: str
    """Its verdict and the concepts that are harmed."""
    scores: dict[str, str]
    """{concept of the reference set: score id}; empty where the method uses none."""
    hookpoints: tuple[str, ...]
    totals: dict[str, str] = Field(default_factory=dict)
    """{hookpoint: the totals of the reference set}."""

    @property
    def places(self) -> dict[str, str]:
        # Without scores there is no plot of them.
        return {file: place for file, place in super().places.items() if self.scores or file != "scores.png"}

    def show(self, made: Made) -> None:
        from tasks.engine import page

        page.show_pictures(self, made)

    @property
    def reads(self) -> dict[str, tuple[str, ...]]:
        judged = (name for names in self.judgements.values() for name in names)
        whole = (*self.prompts_ids, *self.edited, *self.unedited, *judged, *self.totals.values())
        # Of the evaluation, the manifest says it all.
        read = dict.fromkeys(whole, ())
        own = (
            {self.scores[self.concept]: tuple(f for h in self.hookpoints for f in score.files(h))}
            if self.scores
            else {}
        )
        return read | own


@step("pictures")
def report(job: ReportJob) -> Made:
    """Draw `sheet.png`, and `scores.png` where there are scores."""
    clock = Clock()
    _sheet(job)
    if job.scores:
        _plot(job)
    places = job.places
    about = PicturesSummary(
        domain=job.domain,
        concept=job.concept,
        method=job.method,
        sheet=places["sheet.png"],
        scores=places.get("scores.png"),
    )
    return commit(job, {"edited": list(job.edited), "evaluation": job.evaluation_id}, about, clock)


def bands(
    rows: Iterable[images.Row], domain: str, concept: str, harmed: Sequence[Mapping[str, Any]]
) -> list[tuple[str, list[images.Row]]]:
    """(heading, images): those that ask for the concept, for the concepts that are harmed most, for the others.

    Evenly spaced in the order of prompt ids, which is as good as random and always the same. In the set's own order a
    stride could pick the same second concept again and again.

    Args:
        rows: the first image of every prompt.
        domain, concept: what was removed.
        harmed: as in `EvaluationSummary`, the worst first.
    """
    ordered = sorted(rows, key=lambda row: row["prompt_id"])
    asked = {row["key"]: dict(row["asked"]) for row in ordered}
    mine = [row for row in ordered if asked[row["key"]].get(domain) == concept]
    others = [row for row in ordered if asked[row["key"]].get(domain, concept) != concept]
    victims = harmed[:ACROSS]
    each = min(MOST, ACROSS // len(victims)) if victims else 0
    names = [(v["domain"], v["harmed"]) for v in victims]
    shown = []
    for where, name in names:
        of_it = [row for row in ordered if asked[row["key"]].get(where) == name]
        shown += evenly([row for row in of_it if asked[row["key"]].get(domain) != concept], each)
    spared = [row for row in others if not asked[row["key"]].items() & {*names}]
    worst = f"harmed most, percent seen: {', '.join(map(harm, victims))}"
    rest = f"asked for another {domain}" + (", none of those above" if victims else "")
    return [(f"asked for {concept}", evenly(mine, ACROSS)), (worst, shown), (rest, evenly(spared, ACROSS))]


def _sheet(job: ReportJob) -> None:
    workspace = job.open
    about = workspace.manifest(job.evaluation_id).summary
    rows = [row for i in job.edited for row in images.index(workspace, i) if row["image_index"] == 0]
    chosen = bands(rows, job.domain, job.concept, about["harmed"])
    prompts = {p.id: p for i in job.prompts_ids for p in prompt_sets.read(workspace, i)}
    keys = {row["key"] for _, shown in chosen for row in shown}
    edited, unedited = (_Looked.of(job, sets, keys) for sets in (job.edited, job.unedited))

    def shot(row: images.Row) -> draw.Shot:
        concepts = prompts[row["prompt_id"]].concepts
        return draw.Shot(
            " ".join(concepts[d] for d in order(concepts)),
            unedited.pictures[row["key"]],
            edited.pictures[row["key"]],
            unedited.words(row),
            edited.words(row),
        )

    title = f"{job.domain} {job.concept} removed by {job.method}: {about['verdict']}"
    draw.contact_sheet(
        [(name, [shot(row) for row in shown]) for name, shown in chosen], title, job.folder / "sheet.png"
    )


class _Looked(NamedTuple):
    """Images with the removal, or without it, and what judges saw on them."""

    pictures: dict[str, draw.Picture]
    judged: dict[tuple[str, int], Judged]

    @classmethod
    def of(cls, job: ReportJob, image_sets: Iterable[str], keys: Set[str]) -> Self:
        found = {key: p for i in image_sets for key, p in images.pictures(job.open, i, keys).items()}
        judged = judge.read(job.open, {i: job.judgements[i] for i in image_sets})
        return cls(found, {(j.prompt_id, j.index): j for j in judged})

    def words(self, row: images.Row) -> draw.Words:
        """Labels of the judges in each domain that was asked for; empty without a judge."""
        j = self.judged[row["prompt_id"], row["image_index"]]
        return [(str(j.seen[d]), j.right(d)) for d in order(j.asked) if j.seen.get(d)]


def order(concepts: Mapping[str, str]) -> list[str]:
    """The domains, style before object."""
    return sorted(concepts, reverse=True)


def evenly(items: list[Item], count: int) -> list[Item]:
    """At most `count` of the items, spread over all of them."""
    if len(items) <= count:
        return items
    if count == 1:
        return items[:1]
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]


def _plot(job: ReportJob) -> None:
    panels = []
    for hookpoint in job.hookpoints:
        own = score.read(job.open, job.scores[job.concept], hookpoint)
        found = profile(own, totals.read(job.open, job.totals[hookpoint]))
        best = found.score.amax(0).argsort(descending=True, stable=True)[:CURVES].tolist()
        curves = [(str(i), found.score[:, i].tolist()) for i in best]
        panels.append((short(hookpoint), found.timesteps.tolist(), curves))
    title = f"{job.domain} {job.concept}: the best latents of each hookpoint"
    draw.score_plot(panels, title, job.folder / "scores.png")


def short(path: str) -> str:
    """A hookpoint's path without the parts that most of them share."""
    return re.sub(r"(\.attentions\.\d+)\.transformer_blocks\.0", r"\1", path.removeprefix("unet."))
