"""The runs of a workspace: what each made, when, and what that cost."""

from dataclasses import dataclass

from saeuron.errors import UnknownName
from storage.manifests import Manifest
from tasks.explore.removals import what
from tasks.explore.shelf import Shelf
from tasks.registry import runs


@dataclass(frozen=True)
class StageCost:
    """Work and cost of a run in one stage."""

    stage: str
    made: int
    found: int
    """Artifacts that were in place already."""
    seconds: float
    bytes: int


@dataclass(frozen=True)
class RunPage:
    """One run."""

    record: runs.Record
    stages: list[StageCost]
    """Costs of stages, the largest first."""
    evaluations: list[Manifest]
    slowest: list[tuple[Manifest, str]]
    """(artifact that it made, in words)."""

    @property
    def seconds(self) -> float | None:
        """Duration of the run; None while it runs."""
        return (self.record.finished - self.record.started).total_seconds() if self.record.finished else None


def find(shelf: Shelf, run_id: str) -> runs.Record:
    """The record of a run. Raises UnknownName."""
    found = {r.run_id: r for r in runs.records(shelf.workspace)}
    if run_id not in found:
        raise UnknownName("run", run_id, found)
    return found[run_id]


def run_page(shelf: Shelf, run_id: str) -> RunPage:
    """One run and what it made. Raises UnknownName."""
    record = find(shelf, run_id)
    known = (record.artifacts or {}).items()
    used = [(shelf.manifests[i], there) for i, there in known if i in shelf.manifests]
    stages: dict[str, list[tuple[Manifest, bool]]] = {}
    for manifest, there in used:
        stages.setdefault(manifest.stage, []).append((manifest, there))
    costs = [
        StageCost(
            stage,
            sum(not there for _, there in of_it),
            sum(there for _, there in of_it),
            sum(m.seconds for m, there in of_it if not there),
            sum(f.bytes for m, there in of_it if not there for f in m.files),
        )
        for stage, of_it in stages.items()
    ]
    mine = sorted((m for m, there in used if not there), key=lambda m: -m.seconds)
    return RunPage(
        record,
        sorted(costs, key=lambda c: -c.seconds),
        [m for m, _ in used if m.stage == "evaluation"],
        [(m, what(m)) for m in mine[:15]],
    )
