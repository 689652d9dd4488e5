"""Choose the removal of one concept by one method: judge the validation images of its candidates, keep the best."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import JsonValue

from saeuron.figures.metrics import Judged
from saeuron.methods.detection.probe import Probe
from saeuron.methods.latents import LatentEdit
from saeuron.methods.parts import Part, Watch
from saeuron.methods.removal import Removal
from saeuron.tuning import Trial, best, trial
from storage.declared import View
from storage.identity import artifact_id
from storage.tables import GRID, REMOVAL_LATENTS, SHIPPED, table, write_table
from tasks import prompts as prompt_sets
from tasks import trials
from tasks.engine import progress
from tasks.engine.job import Clock, Job, Made, Summary, commit
from tasks.engine.judge import DomainJudge
from tasks.engine.step import step
from tasks.trials import UNEDITED, TrialsJob

FILE = "removal.safetensors"
EDITS, READS = "edits", "reads"
"""What a removal does with a latent."""


class RemovalSummary(Summary):
    """A removal, and its figures on validation images."""

    domain: str
    concept: str
    method: str
    settings: dict[str, JsonValue]
    content: str
    """Id by trials and settings. Image sets depend on it, so another judge with the same choice needs no new images."""
    searched: bool
    """Whether settings were searched; if not, they are the mildest of the grid."""
    reference_set: str
    reference: tuple[str, ...]
    """The concepts of the domain that it was computed against."""
    reference_ids: tuple[str, ...]
    """Their statistics, if the method uses any."""
    hookpoints: tuple[str, ...]
    latents: int
    """Different latents that it edits, over all hookpoints and steps."""
    latents_read: int
    """Different latents that it reads and does not edit, to decide where to act."""
    ua: float | None
    ira: float | None
    cra: float | None


class TuneJob(Job):
    """The removal of one concept by one method: one of its trials."""

    stage: ClassVar[str] = "removal"
    version: ClassVar[int] = 9
    views: ClassVar[tuple[View, ...]] = SHIPPED["removal"]
    title: ClassVar[str] = "{concept} by {method}"
    summary_type: ClassVar[type[Summary]] = RemovalSummary
    publishes: ClassVar[Mapping[str, str]] = {FILE: "removals/{concept}.{method}.safetensors"}
    command: ClassVar[str] = "saeuron evaluate {concept}"
    in_run: ClassVar[bool] = True
    excluded_from_id: ClassVar[frozenset[str]] = frozenset({"trials"})

    trials: TrialsJob
    """The job of the trials to choose from; only its id (`trials_id`) enters this job's id."""
    trials_id: str
    domain: str
    concept: str
    method: str
    domains: tuple[str, ...]
    """Every domain of the run."""
    judges: dict[str, DomainJudge]
    """{domain: its judge}; settings are searched only if every domain has one."""

    @property
    def reads(self) -> dict[str, tuple[str, ...]]:
        return dict.fromkeys((self.trials_id, *self.trials.prompts_ids), ())

    @property
    def identity(self) -> dict[str, Any]:
        return {**super().identity, "judges": {domain: judge.identity for domain, judge in self.judges.items()}}


@step("tune")
def tune(job: TuneJob) -> Made:
    """Keep the best candidate by (UA + IRA + CRA) / 3, the milder of two equal ones; without a judge, the mildest."""
    clock = Clock()
    workspace = job.open
    about = workspace.manifest(job.trials_id).summary
    found = [
        Removal.load(workspace.whole(job.trials_id, trials.candidate_file(i)) / trials.candidate_file(i))
        for i in range(about["candidates"])
    ]
    judged = _trials(job, found) if about["images"] else [Trial(r, [], None) for r in found]
    chosen = best(judged) if about["images"] else judged[0]
    removal = replace(chosen.removal, provenance={**chosen.removal.provenance, "removal_id": job.id})
    removal.save(job.folder / FILE)
    about_it = {"concept": job.concept, "method": job.method}
    grid = [{**about_it, **row, "chosen": t is chosen} for t, row in zip(judged, map(_tried, judged), strict=True)]
    write_table(job.folder / GRID.file, table(grid, GRID))
    used = latent_rows(removal)
    write_table(job.folder / REMOVAL_LATENTS.file, table([{**about_it, **row} for row in used], REMOVAL_LATENTS))
    summary = RemovalSummary(
        domain=job.domain,
        concept=job.concept,
        method=job.method,
        settings=dict(removal.settings),
        content=artifact_id("content", 1, {"trials": job.trials_id, "settings": dict(removal.settings)}),
        searched=bool(about["images"]),
        reference_set=job.trials.reference_set,
        reference=tuple(sorted(job.trials.reference)),
        reference_ids=tuple(sorted(job.trials.scores.values())),
        hookpoints=tuple(dict.fromkeys(e.hookpoint for e in removal.edits)),
        latents=different(used, EDITS),
        latents_read=different(used, READS),
        **_validated(chosen),
    )
    return commit(job, {"trials": job.trials_id}, summary, clock)


def _validated(chosen: Trial) -> dict[str, float | None]:
    """UA, IRA and CRA on validation images, CRA of the first other domain; None where nothing judged."""
    figures = {m.metric.split(" ")[0].lower(): m.value for m in reversed(chosen.metrics)}
    return {name: figures.get(name) for name in ("ua", "ira", "cra")}


def _tried(each: Trial) -> dict[str, Any]:
    settings = {name: str(value) for name, value in each.removal.settings.items()}
    return {"settings": settings, "value": each.value, **_validated(each)}


def latent_rows(removal: Removal) -> list[dict[str, Any]]:
    """One row for each latent that the removal edits or reads at a timestep, as in the view `removal_latents`."""
    found = [row for part in removal.parts for row in _used(part, EDITS)]
    for part in removal.parts:
        if isinstance(part, Watch):
            found += [row for inner in part.watched for row in _used(inner, READS)]
    return found


def _used(part: Part, role: str) -> Iterator[dict[str, Any]]:
    if isinstance(part, Probe):
        where = {"role": role, "hookpoint": part.hookpoint, "sae_id": part.sae_id, "half": "conditional"}
        for latent, weight in zip(part.latents.tolist(), part.weights.tolist(), strict=True):
            # The first step of a generation, whatever its timestep is.
            yield where | {"timestep": None, "latent": latent, "factor": None, "floor": None, "weight": weight}
    elif isinstance(part, LatentEdit):
        where = {"role": role, "hookpoint": part.hookpoint, "sae_id": part.sae_id, "half": part.half}
        for t, i in torch.isfinite(part.floor).nonzero().tolist():
            latent = {"timestep": int(part.timesteps[t]), "latent": int(part.latents[i])}
            factor = float(part.factor[t, i]) if role == EDITS else None
            yield where | latent | {"factor": factor, "floor": float(part.floor[t, i]), "weight": None}


def different(rows: Sequence[Mapping[str, Any]], role: str) -> int:
    """How many latents there are in rows of `latent_rows` with that role, over all hookpoints and steps."""
    return len({(row["hookpoint"], row["sae_id"], row["latent"]) for row in rows if row["role"] == role})


def _trials(job: TuneJob, found: list[Removal]) -> list[Trial]:
    prompts = [p for i in job.trials.prompts_ids for p in prompt_sets.read(job.open, i)]
    images = trials.requests(prompts, job.trials)

    def look(name: str) -> list[Judged]:
        seen: list[Judged] = []
        pictures = trials.pictures(job.open, job.trials_id, name)
        for start in range(0, len(images), job.trials.model.micro_batch):
            batch = images[start : start + job.trials.model.micro_batch]
            stack = np.stack([pictures[request.key] for request in batch])
            found = {domain: judge.look(domain, stack, job.device) for domain, judge in job.judges.items()}
            seen += [
                Judged(r.prompt.id, r.index, r.prompt.concepts, {d: said[i].label for d, said in found.items()})
                for i, r in enumerate(batch)
            ]
        return seen

    unedited = look(UNEDITED)
    judged: list[Trial] = []
    for i, removal in enumerate(found):
        judged.append(trial(removal, job.domains, look(f"{i:03d}"), unedited))
        progress.tell(f"tune {job.label}", i + 1, len(found), f"best {max(t.value or 0 for t in judged):.3f}")
    return judged


def load(folder: Path) -> Removal:
    """The removal of a tuned artifact's folder."""
    return Removal.load(folder / FILE)
