"""Pictures of one removal: unedited beside edited images, and the scores of its latents over the steps."""

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from saeuron.pages import pictures as draw
from saeuron.profiles import profile
from saeuron.prompts import Prompt
from tasks import images, score, totals
from tasks import prompts as prompt_sets
from tasks.engine.job import Clock, Job, Made, Summary, commit
from tasks.engine.step import step

CURVES = 6
"""Latents in a plot."""
COLUMNS = 20
"""Images in a contact sheet: half ask for the concept, half for others."""


class PicturesSummary(Summary):
    """The removal that the pictures show."""

    domain: str
    concept: str
    method: str


class ReportJob(Job):
    """The pictures of one removal."""

    stage: ClassVar[str] = "pictures"
    version: ClassVar[int] = 3
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
        read = dict.fromkeys((*self.prompts_ids, *self.edited, *self.unedited, *self.totals.values()), ())
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
    about = PicturesSummary(domain=job.domain, concept=job.concept, method=job.method)
    return commit(job, {"edited": list(job.edited)}, about, clock)


def _sheet(job: ReportJob) -> None:
    workspace = job.open
    prompts = {p.id: p for i in job.prompts_ids for p in prompt_sets.read(workspace, i)}
    rows = [row for i in job.edited for row in images.index(workspace, i) if row["image_index"] == 0]
    asked = {row["key"]: dict(row["asked"]).get(job.domain) for row in rows}
    mine = [row for row in rows if asked[row["key"]] == job.concept]
    others = [row for row in rows if asked[row["key"]] not in (job.concept, None)]
    # Evenly spaced in the order of prompt ids, which is as good as random and always the same. In the set's own order a
    # stride could pick the same second concept again and again.
    mine, others = (sorted(group, key=lambda row: row["prompt_id"]) for group in (mine, others))
    shown = _evenly(mine, COLUMNS // 2) + _evenly(others, COLUMNS // 2)
    keys = {row["key"] for row in shown}
    edited = {k: v for i in job.edited for k, v in images.pictures(workspace, i, keys).items()}
    unedited = {k: v for i in job.unedited for k, v in images.pictures(workspace, i, keys).items()}
    columns = [(_caption(prompts[row["prompt_id"]]), unedited[row["key"]], edited[row["key"]]) for row in shown]
    title = f"{job.domain} {job.concept} removed by {job.method}: first row asks for it, second row for others"
    draw.contact_sheet(columns, title, job.folder / "sheet.png", across=COLUMNS // 2)


def _evenly(items: list, count: int) -> list:  # type: ignore[type-arg]
    if len(items) <= count:
        return items
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]


def _caption(prompt: Prompt) -> str:
    return " ".join(prompt.concepts[d] for d in sorted(prompt.concepts, reverse=True))


def _plot(job: ReportJob) -> None:
    panels = []
    for hookpoint in job.hookpoints:
        own = score.read(job.open, job.scores[job.concept], hookpoint)
        found = profile(own, totals.read(job.open, job.totals[hookpoint]))
        best = found.score.amax(0).argsort(descending=True, stable=True)[:CURVES].tolist()
        curves = [(str(i), found.score[:, i].tolist()) for i in best]
        panels.append((_hookpoint(hookpoint), found.timesteps.tolist(), curves))
    title = f"{job.domain} {job.concept}: the best latents of each hookpoint"
    draw.score_plot(panels, title, job.folder / "scores.png")


def _hookpoint(path: str) -> str:
    """A hookpoint's path without the parts that most of them share."""
    return path.removeprefix("unet.").replace(".transformer_blocks.0", "")
