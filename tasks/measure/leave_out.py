"""Removals of concepts that the SAE never saw, beside those of the same concepts by SAEs that did.

left_out.parquet  figures by domain and over all
left_out.png      the same as dots with intervals
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from saeuron.figures.comparison import METRICS, Difference, Pair, compare_all, share
from saeuron.figures.metrics import Judged, wilson
from saeuron.pages.pictures import method_plot
from storage.declared import View
from storage.tables import LEFT_OUT, table, write_table
from tasks import judge
from tasks.engine.job import Clock, Job, Made, Summary, commit
from tasks.engine.step import step

PICTURE = "left_out.png"
Kind = Literal["in", "out", "untrained"]


class LeaveOutSummary(Summary):
    """The concepts that were left out, and how their removals compare, as fractions."""

    method: str
    folds: tuple[tuple[str, ...], ...]
    """The concepts that were left out together."""
    difference: float | None
    """Difference of (UA + IRA + CRA) / 3: concept left out of the SAE's training, minus included."""
    low: float | None
    high: float | None
    permuted: float | None
    """UA of removals made with the labels of other left-out concepts."""


class Looked(BaseModel):
    """The test images of one removal."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    concept: str
    domain: str
    kind: Kind
    """Whether the SAE was trained with images of the concept, without them, or not at all."""
    edited: tuple[str, ...]
    unedited: tuple[str, ...]
    judgements: dict[str, tuple[str, ...]]


class LeaveOutJob(Job):
    """Each concept removed three times: by an SAE that saw it, by one that did not, by an untrained one."""

    stage: ClassVar[str] = "leave_out"
    version: ClassVar[int] = 1
    title: ClassVar[str] = "{name} by {method}"
    summary_type: ClassVar[type[Summary]] = LeaveOutSummary
    views: ClassVar[tuple[View, ...]] = (LEFT_OUT,)
    publishes: ClassVar[Mapping[str, str]] = {PICTURE: "pictures/left_out_{name}.{method}.png"}
    command: ClassVar[str] = "saeuron compare CONCEPT CONCEPT --leave-out 1"
    excluded_from_id: ClassVar[frozenset[str]] = frozenset({"name"})

    name: str
    """How the picture is called."""
    method: str
    domains: tuple[str, ...]
    """Every domain of the run."""
    folds: tuple[tuple[str, ...], ...]
    looked: tuple[Looked, ...]


Row = dict[str, Any]


@step("leave out")
def leave_out(job: LeaveOutJob) -> Made:
    """Compute figures and differences; draw."""
    clock = Clock()
    edited: dict[tuple[str, str], list[Judged]] = {(e.kind, e.concept): _read(job, e, e.edited) for e in job.looked}
    plain = {e.concept: _plain(job, e) for e in job.looked}
    domain_of = {e.concept: e.domain for e in job.looked}
    rows: list[Row] = []
    for domain in (*dict.fromkeys(domain_of.values()), None):
        names = [c for c, d in domain_of.items() if domain in (d, None)]
        rows += _rows(job, domain, [(c, domain_of[c]) for c in names], edited, plain)
    write_table(job.folder / LEFT_OUT.file, table(rows, LEFT_OUT))
    whole = {(r["kind"], r["metric"]): r for r in rows if r["domain"] is None}
    shown = [
        (
            kind,
            {m: (whole[kind, m]["value"], whole[kind, m]["low"], whole[kind, m]["high"]) for m in (*METRICS, "mean")},
        )
        for kind in ("unedited", "in", "out", "untrained")
    ]
    title = f"removed: {', '.join(domain_of)}; SAEs trained with them (in) and without (out), 95 % intervals"
    method_plot(shown, title, job.folder / PICTURE)
    between = whole["out - in", "mean"]
    summary = LeaveOutSummary(
        method=job.method,
        folds=job.folds,
        difference=between["value"],
        low=between["low"],
        high=between["high"],
        permuted=whole["permuted", "UA"]["value"],
    )
    inputs = {
        "images": sorted({i for e in job.looked for i in (*e.edited, *e.unedited)}),
        "judgements": sorted({j for e in job.looked for names in e.judgements.values() for j in names}),
    }
    return commit(job, inputs, summary, clock)


def _rows(
    job: LeaveOutJob,
    domain: str | None,
    concepts: Sequence[tuple[str, str]],
    edited: Mapping[tuple[str, str], Sequence[Judged]],
    plain: Mapping[str, Sequence[Judged]],
) -> list[Row]:
    """Every figure over some concepts, (concept, domain)."""
    names = [c for c, _ in concepts]
    found: list[Row] = []

    def noted(kind: str, metric: str, f: Difference, control: bool = False) -> None:
        about = {"domain": domain, "kind": kind, "control": control, "concepts": names, "metric": metric}
        found.append({**about, "value": f.value, "low": f.low, "high": f.high, "n": f.n_images})

    alone = {kind: [(d, Pair(c, edited[kind, c], None)) for c, d in concepts] for kind in ("in", "out", "untrained")}
    alone |= {"all": [*alone["in"], *alone["out"]], "unedited": [(d, Pair(c, plain[c], None)) for c, d in concepts]}
    for kind, pairs in alone.items():
        for metric in METRICS:
            noted(kind, metric, share(job.domains, pairs, metric), kind in ("untrained", "unedited"))
        noted(kind, "mean", compare_all(job.domains, pairs), kind in ("untrained", "unedited"))
    for other in ("in", "untrained"):
        pairs = [(d, Pair(c, edited["out", c], edited[other, c])) for c, d in concepts]
        noted(f"out - {other}", "mean", compare_all(job.domains, pairs))
    noted("permuted", "UA", permuted(concepts, {c: edited["out", c] for c in names}), control=True)
    return found


def permuted(concepts: Sequence[tuple[str, str]], out: Mapping[str, Sequence[Judged]]) -> Difference:
    """UA of each concept under the removal that was made with the labels of the next left-out one of its domain.

    Args:
        concepts: (concept, domain).
        out: {concept: what judges saw with its removal, by an SAE that did not see it}.
    """
    gone = images = 0
    prompts: set[str] = set()
    for concept, domain in concepts:
        mine = [c for c, d in concepts if d == domain]
        other = mine[(mine.index(concept) + 1) % len(mine)]
        asked = [j for j in out[other] if j.asked.get(domain) == concept]
        if other == concept or any(j.seen.get(domain) is None for j in asked):
            return Difference(None, None, None, images, len(prompts), 0)
        gone += sum(not j.right(domain) for j in asked)
        images += len(asked)
        prompts |= {j.prompt_id for j in asked}
    if not images:
        return Difference(None, None, None, 0, 0, 0)
    return Difference(gone / images, *wilson(gone, images), images, len(prompts), 0)


def _read(job: LeaveOutJob, each: Looked, image_sets: Sequence[str]) -> list[Judged]:
    return judge.read(job.open, {i: each.judgements[i] for i in image_sets})


def _plain(job: LeaveOutJob, each: Looked) -> list[Judged]:
    wanted = {(j.prompt_id, j.index) for j in _read(job, each, each.edited)}
    return [j for j in _read(job, each, each.unedited) if (j.prompt_id, j.index) in wanted]
