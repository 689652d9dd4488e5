"""Sum the statistics of a domain's concepts, so that removals and scores need not read them all.

Usually there are earlier totals of almost the same concepts. Then only the statistics that differ are read; the bytes
are the same as those of a sum from scratch.
"""

from collections.abc import Callable, Iterable
from typing import ClassVar, Self

import pyarrow as pa
import pyarrow.compute as pc

from saeuron.profiles import DomainTotals
from storage import Workspace
from storage.errors import ArtifactMissing, Damaged
from storage.manifests import Manifest
from storage.statistics.sums import Counts
from storage.statistics.totals import Totals, member_cells, read_totals, write_totals
from tasks import score
from tasks.engine.job import RUN, Clock, Job, Made, Summary, commit
from tasks.engine.step import step


class TotalsSummary(Summary):
    """The domain, SAE and number of concepts of totals."""

    domain: str
    hookpoint: str
    sae_id: str
    concepts: int


class TotalsJob(Job):
    """The totals of one domain at one SAE."""

    stage: ClassVar[str] = "totals"
    version: ClassVar[int] = 2
    title: ClassVar[str] = "{domain}, {hookpoint}"
    summary_type: ClassVar[type[Summary]] = TotalsSummary
    command: ClassVar[str] = RUN
    in_run: ClassVar[bool] = True
    excluded_from_id: ClassVar[frozenset[str]] = frozenset({"base", "joined", "left"})

    domain: str
    hookpoint: str
    sae_id: str
    scores: tuple[str, ...]
    """Score ids of the concepts, sorted."""
    base: str = ""
    """Totals that differ from these in few concepts."""
    joined: tuple[str, ...] = ()
    """Score ids that the base lacks."""
    left: tuple[str, ...] = ()
    """Score ids that the base holds and `scores` does not."""

    @property
    def reads(self) -> dict[str, tuple[str, ...]]:
        read = (*self.joined, *self.left) if self.base else self.scores
        return dict.fromkeys(read, score.files(self.hookpoint)) | ({self.base: ()} if self.base else {})

    def based(self, known: Iterable[Manifest], there: Callable[[str], bool]) -> Self:
        """This job, based on the most similar committed totals; `there(score_id)` tells whether statistics exist."""
        wanted, best, fewest = set(self.scores), None, len(self.scores)
        for manifest in known:
            about = manifest.config
            if manifest.version != self.version or manifest.id == self.id or about["sae_id"] != self.sae_id:
                continue
            held = set(about["scores"])
            if len(held ^ wanted) < fewest and all(map(there, held - wanted)):
                best, fewest = manifest.id, len(held ^ wanted)
                joined, left = tuple(sorted(wanted - held)), tuple(sorted(held - wanted))
        return self.model_copy(update={"base": best, "joined": joined, "left": left}) if best else self


@step("totals")
def totals(job: TotalsJob) -> Made:
    """Add up the sums, starting from the base if there is one."""
    clock = Clock()
    found, cells = _from_base(job) or _from_nothing(job)
    write_totals(job.folder, Totals(found.timesteps, found.sum_fixed, found.mean_fixed, cells))
    summary = TotalsSummary(domain=job.domain, hookpoint=job.hookpoint, sae_id=job.sae_id, concepts=found.concepts)
    return commit(job, {"scores": list(job.scores), "sae": job.sae_id}, summary, clock)


def _from_nothing(job: TotalsJob) -> tuple[DomainTotals, pa.Table]:
    cells: list[pa.Table] = []

    def members() -> Iterable[Counts]:
        for score_id in job.scores:
            counts = score.read(job.open, score_id, job.hookpoint)
            cells.append(member_cells(score_id, counts))
            yield counts

    return DomainTotals.of(members()), pa.concat_tables(cells)


def _from_base(job: TotalsJob) -> tuple[DomainTotals, pa.Table] | None:
    if not job.base:
        return None
    try:
        found, cells = _read(job.open, job.base)
    except (ArtifactMissing, Damaged):
        return None
    for score_id in job.joined:
        counts = score.read(job.open, score_id, job.hookpoint)
        found, cells = found.plus(counts), pa.concat_tables([cells, member_cells(score_id, counts)])
    for score_id in job.left:
        found = found.minus(score.read(job.open, score_id, job.hookpoint))
    return found, cells.filter(pc.is_in(cells["score_id"], pa.array(job.scores)))


def read(workspace: Workspace, totals_id: str) -> DomainTotals:
    """The totals of a domain. Raises as `Workspace.whole`."""
    return _read(workspace, totals_id)[0]


def _read(workspace: Workspace, totals_id: str) -> tuple[DomainTotals, pa.Table]:
    held = read_totals(workspace.whole(totals_id))
    rows = held.cells.group_by("timestep").aggregate([("n_rows", "sum")]).sort_by("timestep")["n_rows_sum"].to_numpy()
    concepts = len(held.cells) // len(held.timesteps)
    return DomainTotals(held.timesteps, held.sum_fixed, held.mean_fixed, rows, concepts), held.cells
