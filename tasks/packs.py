"""Merge the statistics of many concepts into one file ordered by latent, for the page of one of them."""

from typing import ClassVar

from storage.statistics.packs import write_pack
from storage.statistics.sums import BY_LATENT_FILE
from tasks.engine.job import RUN, Clock, Job, Made, Summary, commit
from tasks.engine.step import step


class PacksSummary(Summary):
    """The SAE of a pack, and its number of concepts."""

    hookpoint: str
    sae_id: str
    concepts: int


class PacksJob(Job):
    """A pack of the statistics of one SAE; see `storage.statistics.packs`."""

    stage: ClassVar[str] = "packs"
    version: ClassVar[int] = 1
    title: ClassVar[str] = "{hookpoint}"
    summary_type: ClassVar[type[Summary]] = PacksSummary
    command: ClassVar[str] = RUN
    in_run: ClassVar[bool] = True

    hookpoint: str
    sae_id: str
    scores: tuple[str, ...]
    """Score ids of the concepts, sorted."""

    @property
    def reads(self) -> dict[str, tuple[str, ...]]:
        return dict.fromkeys(self.scores, (f"{self.hookpoint}/{BY_LATENT_FILE}",))


@step("packs")
def packs(job: PacksJob) -> Made:
    """Merge the statistics of the concepts into one file."""
    clock, file = Clock(), f"{job.hookpoint}/{BY_LATENT_FILE}"
    write_pack(job.folder, {i: job.open.whole(i, file) / job.hookpoint for i in job.scores})
    summary = PacksSummary(hookpoint=job.hookpoint, sae_id=job.sae_id, concepts=len(job.scores))
    return commit(job, {"scores": list(job.scores), "sae": job.sae_id}, summary, clock)
