"""Remove concepts one after another: what is gone and what of the rest after each request, in several orders.

sequences.parquet      every figure after each request, of the method, of a control, of the unedited model
removal.safetensors    the method's removals of all concepts, merged
sequence.png           UA of what is removed and RA of the rest over the number of concepts
"""

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from saeuron.figures.metrics import Judged
from saeuron.figures.sequence import Share, shares
from saeuron.methods.removal import Removal
from saeuron.pages.curves import Curve, curve_plot
from storage.declared import View
from storage.tables import SEQUENCES, table, write_table
from tasks import judge, tune
from tasks.engine.job import Clock, Job, Made, Summary, commit
from tasks.engine.step import step

PICTURE, FILE, UNEDITED = "sequence.png", "removal.safetensors", "unedited"
_COLOURS = ("#1f5fa8", "#c05020", "#777777")


class SequenceSummary(Summary):
    """The concepts that were removed, and whether the order left a trace in the file."""

    concepts: tuple[str, ...]
    method: str
    control: str
    orders: int
    images: int
    """Images of each state of the model."""
    same_file: bool
    """Whether every order merges into the same bytes."""
    in_turn: bool
    """Whether merging one after another does, too."""
    sha256: str
    bytes: int
    """Bytes of the merged removal."""


class State(BaseModel):
    """The model after a request: what is removed, and the images of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    order_seed: int
    method: str
    removed: tuple[str, ...]
    """In the order of the requests."""
    images: str
    judgements: tuple[str, ...]


class SequenceJob(Job):
    """Some concepts, one method and one control, in several orders."""

    stage: ClassVar[str] = "sequence"
    version: ClassVar[int] = 1
    title: ClassVar[str] = "{name} by {method}"
    summary_type: ClassVar[type[Summary]] = SequenceSummary
    views: ClassVar[tuple[View, ...]] = (SEQUENCES,)
    publishes: ClassVar[Mapping[str, str]] = {PICTURE: "pictures/sequence_{name}.{method}.png"}
    command: ClassVar[str] = "saeuron sequence CONCEPT CONCEPT"
    excluded_from_id: ClassVar[frozenset[str]] = frozenset({"name"})

    name: str
    """How the picture is called."""
    concepts: dict[str, str]
    """{concept: its domain}."""
    domains: tuple[str, ...]
    """Every domain of the run."""
    method: str
    control: str
    removals: dict[str, str]
    """{concept: the method's removal}."""
    states: tuple[State, ...]
    """States with the method and with the control, each with 1, 2, ... concepts removed, in every order."""
    unedited: State


@step("sequence")
def sequence(job: SequenceJob) -> Made:
    """Compute the figures after each request, merge the removals in each order, draw."""
    clock = Clock()

    @functools.cache
    def seen(images: str, judgements: tuple[str, ...]) -> Sequence[Judged]:
        return judge.read(job.open, {images: judgements})

    found = [(state, _shares(job, state.removed, seen(state.images, state.judgements))) for state in job.states]
    plain = seen(job.unedited.images, job.unedited.judgements)
    for state in job.states:
        if state.method == job.method:
            as_plain = state.model_copy(update={"method": UNEDITED})
            found.append((as_plain, _shares(job, state.removed, plain)))
    rows = [
        {
            "order_seed": state.order_seed,
            "m": len(state.removed),
            "method": state.method,
            "control": state.method != job.method,
            "removed": list(state.removed),
            **{name: getattr(share, name) for name in ("measured", "role", "accuracy", "n", "low", "high")},
        }
        for state, of in found
        for share in of
    ]
    write_table(job.folder / SEQUENCES.file, table(rows, SEQUENCES))
    data, same, in_turn = _merged(job)
    _picture(found, job)
    summary = SequenceSummary(
        concepts=tuple(_orders(job)[0]),
        method=job.method,
        control=job.control,
        orders=len(_orders(job)),
        images=len(plain),
        same_file=same,
        in_turn=in_turn,
        sha256=hashlib.sha256(data).hexdigest(),
        bytes=len(data),
    )
    inputs = {
        "removals": sorted(job.removals.values()),
        "images": sorted({job.unedited.images, *(s.images for s in job.states)}),
        "judgements": sorted({j for s in (job.unedited, *job.states) for j in s.judgements}),
    }
    return commit(job, inputs, summary, clock)


def _shares(job: SequenceJob, removed: Sequence[str], images: Sequence[Judged]) -> list[Share]:
    return shares(job.domains, {c: job.concepts[c] for c in removed}, {*job.concepts.values()}, images)


def _orders(job: SequenceJob) -> list[tuple[str, ...]]:
    """Every order, that in which they were named first."""
    whole = [s for s in job.states if s.method == job.method and len(s.removed) == len(job.concepts)]
    return [s.removed for s in sorted(whole, key=lambda s: s.order_seed)]


def _merged(job: SequenceJob) -> tuple[bytes, bool, bool]:
    """(the merged file, whether every order gives these bytes, whether merging one after another does)."""
    made = {c: tune.load(job.open.whole(i)) for c, i in job.removals.items()}
    orders = [[made[c] for c in order] for order in _orders(job)]
    at_once = [_file(job, Removal.merge(order)) for order in orders]
    in_turn = [_file(job, functools.reduce(_both, order)) for order in orders]
    _file(job, Removal.merge(orders[0]), keep=True)
    return at_once[0], len({*at_once}) == 1, {*in_turn} == {*at_once}


def _both(one: Removal, other: Removal) -> Removal:
    return Removal.merge([one, other])


def _file(job: SequenceJob, removal: Removal, keep: bool = False) -> bytes:
    path = job.folder / (FILE if keep else f".{FILE}")
    removal.save(path)
    data = path.read_bytes()
    if not keep:
        path.unlink()
    return data


def _picture(found: Sequence[tuple[State, Sequence[Share]]], job: SequenceJob) -> Path:
    lines: dict[tuple[str, int], list[tuple[State, Sequence[Share]]]] = {}
    for state, of in found:
        lines.setdefault((state.method, state.order_seed), []).append((state, of))
    colours = dict(zip((job.method, job.control, UNEDITED), _COLOURS, strict=True))

    def curves(role: str, turned: Callable[[float], float]) -> list[Curve]:
        drawn = []
        for (method, seed), each in lines.items():
            points = []
            for state, of in sorted(each, key=lambda e: len(e[0].removed)):
                share = next(s for s in of if s.role == role and s.measured is None)
                if share.accuracy is not None and share.low is not None and share.high is not None:
                    ends = sorted((turned(share.low), turned(share.high)))
                    points.append((len(state.removed), turned(share.accuracy), ends[0], ends[1]))
            drawn.append(Curve(f"{method}, order {seed}", points, colours[method], seed > 0))
        return drawn

    panels = [("UA of what is removed", curves("removed", lambda a: 1 - a)), ("RA of the rest", curves("RA", float))]
    title = f"{len(job.concepts)} concepts removed one after another; test images, 95 % intervals"
    return curve_plot(panels, "concepts removed", title, job.folder / PICTURE)


def told(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, int, int, str], Mapping[str, Any]]:
    """{(method, order, m, role): row} of the figures over all concepts of a role."""
    return {(r["method"], r["order_seed"], r["m"], r["role"]): r for r in rows if r["measured"] is None}
