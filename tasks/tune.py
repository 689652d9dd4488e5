"""Find the removal of one concept: (n, gamma) on validation prompts and seeds that evaluation never uses."""

from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from saeuron.config import ModelConfig, TuneConfig
from saeuron.errors import BadPrompts
from saeuron.generation import Request, generate, spread
from saeuron.methods.saeuron import Removal, build_edit, removed
from saeuron.metrics import Judged, evaluate, summary
from saeuron.profiles import profile
from saeuron.prompts import Prompt, cells, choose
from saeuron.sae.autoencoder import SAE
from storage.files import write_json
from storage.identity import artifact_id
from tasks import prompts as prompt_sets
from tasks import score, totals
from tasks.engine import model, progress
from tasks.engine.job import Clock, Job, Made, commit
from tasks.engine.judge import DomainJudge
from tasks.engine.step import step

FILE = "removal.safetensors"


class TuneJob(Job):
    """The removal of one concept, against a fixed reference set."""

    stage: ClassVar[str] = "removal"
    version: ClassVar[int] = 5
    publishes: ClassVar[Mapping[str, str]] = {FILE: "removals/{concept}.safetensors"}
    command: ClassVar[str] = "saeuron evaluate {concept}"
    in_run: ClassVar[bool] = True
    excluded_from_id: ClassVar[frozenset[str]] = frozenset({"prompts_ids", "totals"})

    model: ModelConfig
    model_id: str
    config: TuneConfig
    domain: str
    concept: str
    prompts_ids: tuple[str, ...]
    """The prompt set, and the one of a concept that was added later; what counts is which images they give."""
    images_id: str
    """Which images the grid is tried on; empty where a domain has no judge."""
    saes: dict[str, str]
    """{hookpoint: SAE id}."""
    reference: dict[str, str]
    """{concept: score id} of the domain as this removal knows it, the concept itself included."""
    domains: tuple[str, ...]
    """Every domain of the run."""
    judges: dict[str, DomainJudge]
    """{domain: who judges it}; settings are searched only where every domain has a judge."""
    totals: dict[str, str] = Field(default_factory=dict)
    """{hookpoint: the totals of the reference set}."""

    @property
    def reads(self) -> dict[str, tuple[str, ...]]:
        # Of the other concepts the totals say enough.
        read = dict.fromkeys((*self.prompts_ids, *self.saes.values(), *self.totals.values()), ())
        return read | {self.reference[self.concept]: tuple(f for h in self.saes for f in score.files(h))}

    @property
    def label(self) -> str:
        return self.concept

    @property
    def identity(self) -> dict[str, Any]:
        # Which other concepts are tuned in the same run changes nothing for this one.
        fields = super().identity
        return {
            **fields,
            "config": {k: v for k, v in fields["config"].items() if k != "concepts"},
            "judges": {domain: judge.identity for domain, judge in self.judges.items()},
        }


def images(
    prompts: Iterable[Prompt], config: TuneConfig, domain: str, concept: str, reference: Container[str]
) -> list[Request]:
    """Validation images: `target_images` of the concept, `retained_images` of the others, stratified over them.

    Raises:
        BadPrompts: the prompt set has no validation prompts for it.
    """
    found = {p.text: p for p in prompts}
    mine: list[Prompt] = []
    others: dict[str, list[Prompt]] = {}
    for cell, members in cells(p for p in found.values() if p.split == "validation").items():
        asked = dict(cell).get(domain)
        if asked == concept:
            mine.append(choose(members, 1, config.seed)[0])
        elif asked is not None and asked in reference:
            others.setdefault(asked, []).append(choose(members, 1, config.seed)[0])
    if not mine or not others:
        raise BadPrompts(
            f"no validation prompts ask for {domain} {concept!r} and for others beside it; "
            "add templates or files with split 'validation'."
        )
    target = spread(choose(mine, len(mine), config.seed), config.target_images)
    # One prompt of each other concept in turn, so that every concept is there before any is there twice.
    ranked = {c: choose(p, len(p), config.seed) for c, p in others.items()}
    turns = [p[i % len(p)] for i in range(config.retained_images) for p in ranked.values()]
    retained: dict[tuple[str, int], Request] = {}
    counts: dict[str, int] = {}
    for prompt in turns[: config.retained_images]:
        index = counts.get(prompt.id, 0)
        counts[prompt.id] = index + 1
        retained[prompt.id, index] = Request(prompt, index)
    return target + list(retained.values())


def look(
    pipe: Any,
    requests: Sequence[Request],
    model_config: ModelConfig,
    seed: int,
    judges: Mapping[str, DomainJudge],
    device: str,
) -> list[Judged]:
    """Generate and judge, in the pipeline as it is."""
    seen = []
    for batch, pictures in generate(pipe, requests, model_config, seed):
        found = {domain: judge.look(domain, pictures, device) for domain, judge in judges.items()}
        for i, request in enumerate(batch):
            labels = {domain: judgements[i].label for domain, judgements in found.items()}
            seen.append(Judged(request.prompt.id, request.index, request.prompt.concepts, labels))
    return seen


@step("tune")
def tune(job: TuneJob) -> Made:
    """Try every (n, gamma), keep the best by (UA + IRA + CRA) / 3; the milder of two equal ones.

    Where a domain has no judge, nothing is tried: the mildest is taken, the smallest n and the gamma nearest to 0.
    """
    clock = Clock()
    workspace = job.open
    pipe = model.pipeline(job.model, job.device)
    saes = {h: SAE.load(workspace.whole(i)) for h, i in job.saes.items()}
    mine = job.reference[job.concept]
    profiles = {h: profile(score.read(workspace, mine, h), totals.read(workspace, job.totals[h])) for h in job.saes}

    def build(n: int, gamma: float) -> Removal:
        edits = [build_edit(saes[h], profiles[h], n, gamma, sae_id=job.saes[h], half=job.config.half) for h in saes]
        provenance = {
            "n": n,
            "gamma": gamma,
            "model": job.model.spec,
            "model_id": job.model_id,
            "reference_set": reference_set(job),
            "reference": job.reference,
            "removal_id": job.id,
        }
        return Removal(job.concept, job.domain, tuple(edits), provenance)

    grid: list[dict[str, Any]] = []
    best, best_value = build(min(job.config.n), max(job.config.gamma)), float("-inf")
    figures: dict[str, float | None] = {}
    # Mild before strong: of two equal results the first stays.
    pairs = [(n, g) for n in sorted(job.config.n) for g in sorted(job.config.gamma, reverse=True)]
    if job.judges.keys() >= {*job.domains}:
        prompts = [p for i in job.prompts_ids for p in prompt_sets.read(workspace, i)]
        requests = images(prompts, job.config, job.domain, job.concept, job.reference)
        unedited = look(pipe, requests, job.model, job.config.seed, job.judges, job.device)
        for done, (n, gamma) in enumerate(pairs, start=1):
            removal = build(n, gamma)
            with removed(pipe, [removal]):
                edited = look(pipe, requests, job.model, job.config.seed, job.judges, job.device)
            metrics = evaluate(job.domain, job.concept, job.domains, edited, unedited)
            value = summary(metrics)
            row = {m.metric: m.value for m in metrics}
            grid.append({"n": n, "gamma": gamma, "value": value, **row})
            if value is not None and value > best_value:
                best, best_value, figures = removal, value, row
            progress.tell(f"tune {job.concept}", done, len(pairs), f"best {best_value:.3f}")
    best.save(job.folder / FILE)
    write_json(job.folder / "grid.json", grid)
    summary_ = {
        "domain": job.domain,
        "concept": job.concept,
        "reference_set": reference_set(job),
        "reference_ids": sorted(job.reference.values()),
        "hookpoints": list(job.saes),
        "n": best.provenance["n"],
        "gamma": best.provenance["gamma"],
        "features": sum(len(e.latents) for e in best.edits),
        "ua": figures.get("UA"),
        "ira": figures.get("IRA"),
        "cra": _cra(figures),
    }
    return commit(job, {"prompts": list(job.prompts_ids), **job.saes}, summary_, clock)


def _cra(figures: dict[str, float | None]) -> float | None:
    return next((v for name, v in figures.items() if name.split(" ")[0] == "CRA"), None)


def reference_set(job: TuneJob) -> str:
    """A short name for the concepts that 'other' and m were computed over."""
    return artifact_id("reference", 1, {"scores": sorted(job.reference.values())})


def load(folder: Path) -> Removal:
    """The removal of a tuned artifact's folder."""
    return Removal.load(folder / FILE)
