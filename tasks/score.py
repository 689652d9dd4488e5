"""Gather the statistics of one concept: generate its prompts, encode as the model runs, keep sums only."""

from pathlib import Path
from typing import Any, ClassVar

from saeuron.config import ModelConfig, ScoreConfig
from saeuron.errors import BadPrompts
from saeuron.generation import Request, generate, spread
from saeuron.hooks import attached
from saeuron.prompts import cells, choose
from saeuron.sae import SAE
from saeuron.scoring import Accumulator, Totals
from storage import Workspace
from storage.identity import artifact_id
from storage.statistics import Sums, read_statistics, write_statistics
from tasks import model, progress
from tasks import prompts as prompt_sets
from tasks.step import Clock, Job, Made, commit, step


class ScoreJob(Job):
    """The statistics of one concept at every hookpoint of its domain."""

    stage: ClassVar[str] = "score"
    version: ClassVar[int] = 1

    model: ModelConfig
    model_id: str
    config: ScoreConfig
    domain: str
    concept: str
    score_on: str
    prompts_id: str
    saes: dict[str, str]
    """{hookpoint: SAE id}."""

    @property
    def label(self) -> str:
        return self.concept

    @property
    def protocol(self) -> str:
        """What two statistics must share to be compared: the model, its sampling, and how it was scored."""
        fields = self.identity
        return artifact_id("protocol", self.version, {k: fields[k] for k in ("model", "model_id", "config")})


def images(job: ScoreJob) -> list[Request]:
    """The concept's scoring images: crossed with every concept of the other domains, or alone.

    Raises:
        BadPrompts: the prompt set has none.
    """
    mine = [
        p
        for p in prompt_sets.read(job.open, job.prompts_id)
        if p.split == "train"
        and p.concepts.get(job.domain) == job.concept
        and (len(p.concepts) > 1) == (job.score_on == "crossed")
    ]
    if not mine:
        raise BadPrompts(
            f"no {job.score_on} training prompts ask for {job.domain} {job.concept!r}; add templates, "
            f"or set domains.{job.domain}.score_on to {'plain' if job.score_on == 'crossed' else 'crossed'}."
        )
    if job.score_on == "plain":
        return spread(choose(mine, len(mine), job.config.seed), job.config.images)
    return spread([choose(c, 1, job.config.seed)[0] for c in cells(mine).values()], job.config.images)


@step("score")
def score(job: ScoreJob) -> Made:
    """Generate and sum; one folder of Parquet per SAE."""
    clock = Clock()
    workspace = job.open
    pipe = model.pipeline(job.model, job.device)
    readers = {
        hookpoint: Accumulator(SAE.load(workspace.folder(sae_id), job.device), job.config.half)
        for hookpoint, sae_id in job.saes.items()
    }
    requests, done = images(job), 0
    with attached(pipe, readers=readers):
        for batch, _ in generate(pipe, requests, job.model, job.config.seed):
            done += len(batch)
            progress.tell(f"score {job.concept}", done, len(requests), "images")
    entries: list[dict[str, Any]] = []
    for hookpoint, reader in readers.items():
        write_statistics(job.folder / hookpoint, Sums(**reader.totals()._asdict()))
        entries.append(
            {"sae_id": job.saes[hookpoint], "hookpoint": hookpoint, "folder": hookpoint, "n_images": len(requests)}
        )
    summary = {
        "domain": job.domain,
        "concept": job.concept,
        "protocol": job.protocol,
        "model_id": job.model_id,
        "half": job.config.half,
        "saes": entries,
    }
    return commit(job, {"prompts": job.prompts_id, **job.saes}, summary, clock)


def read(workspace: Workspace, score_id: str, hookpoint: str) -> Totals:
    """The statistics of one concept at one hookpoint."""
    sums = read_statistics(Path(workspace.folder(score_id)) / hookpoint)
    return Totals(**{name: getattr(sums, name) for name in Totals._fields})
