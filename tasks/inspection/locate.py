"""Which blocks and attention heads carry a concept: by patching, and by discrete codes beside it.

heads.parquet   each head, module and block at each step, and over all
heads.png       the same as a heat map, heads by steps
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from saeuron.config import ModelConfig, Split
from saeuron.errors import BadPrompts
from saeuron.generation import Request, spread
from saeuron.inspection.codes import contributions, learn, scores, shuffled
from saeuron.inspection.heads import Group, Head, groups, heads, minimal_pairs
from saeuron.inspection.ranks import auc, resampled, spearman, top_quarter
from saeuron.pages.heat import heat_map
from saeuron.pipelines.patching import interval, measure
from saeuron.prompts import Prompt, choose
from saeuron.sae.config import Config
from storage.declared import View
from storage.tables import HEADS, table, write_table
from tasks import prompts as prompt_sets
from tasks.engine import model, progress
from tasks.engine.job import Clock, Job, Made, Summary, commit
from tasks.engine.step import step
from tasks.report import short as short_path

PICTURE = "heads.png"


class LocateConfig(Config):
    """How a concept is located."""

    pairs: int = Field(8, ge=1)
    """Pairs of prompts that are patched."""
    learned: int = Field(10, ge=2)
    """Images that codes are learned from, half of them with the concept."""
    examples: int = Field(50, ge=2)
    """Images that heads are scored by; others than these."""
    instead: tuple[str, ...] = ()
    """Concepts that stand in the other prompt of a pair; none: all of the domain."""
    split: Split = "test"
    """Prompts that are patched and scored. Codes are learned from training prompts."""
    seed: int = 6
    """Seed of noise and of the choice of prompts; no run uses it otherwise."""


class LocateSummary(Summary):
    """Summary of a search for a concept, and how codes compare with patching."""

    domain: str
    concept: str
    pairs: int
    examples: int
    spearman: float | None
    """Rank correlation of |share| and code score over heads."""
    low: float | None
    high: float | None
    auc: float | None
    """Chance that a head of the quarter with the largest |share| has a higher code score than another."""
    auc_control: float | None
    """The same with shuffled labels."""
    spearman_difference: float | None
    """Rank correlation of |share| and the difference of means, which needs no SAE."""
    auc_difference: float | None


class LocateJob(Job):
    """One concept in one model."""

    stage: ClassVar[str] = "locate"
    version: ClassVar[int] = 1
    title: ClassVar[str] = "{concept}"
    summary_type: ClassVar[type[Summary]] = LocateSummary
    views: ClassVar[tuple[View, ...]] = (HEADS,)
    publishes: ClassVar[Mapping[str, str]] = {PICTURE: "pictures/{concept}_heads.png"}
    command: ClassVar[str] = "saeuron locate {concept}"

    model: ModelConfig
    model_id: str
    config: LocateConfig
    domain: str
    concept: str
    prompts_id: str


class Found(NamedTuple):
    """Scores of heads by their codes, float64 [heads]."""

    codes: NDArray[np.float64]
    share: NDArray[np.float64]
    control: NDArray[np.float64]
    difference: NDArray[np.float64]
    examples: int


def examples(
    prompts: Sequence[Prompt], domain: str, concept: str, count: int, seed: int
) -> tuple[list[Request], Tensor]:
    """`count` images, half of them with the concept, and which these are; prompts are chosen by the seed.

    Raises:
        BadPrompts: there are no prompts with the concept, or none that ask for another of its domain.
    """
    each, result = max(1, count // 2), list[Request]()
    for with_it in (True, False):
        known = [p for p in prompts if domain in p.concepts and (p.concepts[domain] == concept) is with_it]
        if not known:
            what = f"{concept!r}" if with_it else f"another {domain} than {concept!r}"
            raise BadPrompts(f"no prompt asks for {what}; add templates or files that do, in every split.")
        result += spread(choose(known, each, seed), each)
    return result, torch.tensor([True] * each + [False] * each)


@step("locate")
def locate(job: LocateJob) -> Made:
    """Patch pairs of prompts, learn and score codes, and write the table and the picture."""
    clock, config = Clock(), job.config
    pipe = model.pipeline(job.model, job.device)
    prompts = prompt_sets.read(job.open, job.prompts_id)
    found, mine = heads(pipe), [p for p in prompts if p.split == config.split]
    pairs = [
        pair for _, pair in minimal_pairs(mine, job.domain, job.concept, config.pairs, config.seed, config.instead)
    ]
    sites = groups(found)
    progress.stage("patching", 0, 3)
    shares = measure(pipe, pairs, [g.sites for g in sites], job.model, config.seed)
    progress.stage("control", 1, 3)
    control = measure(pipe, pairs, [g.sites for g in sites], job.model, config.seed, control=True)
    progress.stage("codes", 2, 3)
    codes = _codes(job, pipe, prompts, found)
    rows = _rows(job, sites, shares.timesteps, shares.values, control.values, codes)
    write_table(job.folder / HEADS.file, table(rows, HEADS))
    _picture(job, sites, shares.timesteps, shares.values.mean(2), len(pairs))
    size = np.abs(shares.values[: len(found)].mean((1, 2)))
    summary = LocateSummary(
        domain=job.domain,
        concept=job.concept,
        pairs=len(pairs),
        examples=codes.examples,
        **dict(zip(("low", "high"), resampled(size, codes.codes, spearman, config.seed), strict=True)),
        spearman=spearman(size, codes.codes),
        auc=auc(codes.codes, top_quarter(size)),
        auc_control=auc(codes.control, top_quarter(size)),
        spearman_difference=spearman(size, codes.difference),
        auc_difference=auc(codes.difference, top_quarter(size)),
    )
    return commit(job, {"prompts": job.prompts_id}, summary, clock)


def _codes(job: LocateJob, pipe: Any, prompts: Sequence[Prompt], found: Sequence[Head]) -> Found:
    config = job.config
    train, test = ([p for p in prompts if p.split == s] for s in ("train", config.split))
    images, _ = examples(train, job.domain, job.concept, config.learned, config.seed)
    learned = learn(contributions(pipe, images, found, job.model, config.seed), config.seed)
    images, positive = examples(test, job.domain, job.concept, config.examples, config.seed + 1)
    c = contributions(pipe, images, found, job.model, config.seed + 1)
    said = scores(learned, c, positive)
    chance = scores(learned, c, shuffled(positive, config.seed))
    return Found(said.codes.numpy(), said.share.numpy(), chance.codes.numpy(), said.difference.numpy(), len(images))


def _rows(
    job: LocateJob,
    sites: Sequence[Group],
    timesteps: Sequence[int],
    values: NDArray[np.float64],
    control: NDArray[np.float64],
    codes: Found,
) -> list[dict[str, Any]]:
    result = []
    for g, group in enumerate(sites):
        single = group.kind == "head"
        for k, timestep in [(slice(None), None), *((slice(i, i + 1), t) for i, t in enumerate(timesteps))]:
            of = values[g, k].mean(0)
            low, high = interval(of, job.config.seed)
            result.append(
                {
                    "domain": job.domain,
                    "concept": job.concept,
                    "kind": group.kind,
                    "hookpoint": group.name,
                    "head": group.head,
                    "timestep": timestep,
                    "share": float(of.mean()),
                    "low": low,
                    "high": high,
                    "control": float(control[g, k].mean()),
                    "code_score": int(codes.codes[g]) if single else None,
                    "code_share": float(codes.share[g]) if single else None,
                    "code_control": int(codes.control[g]) if single else None,
                    "difference": float(codes.difference[g]) if single else None,
                    "n_pairs": values.shape[2],
                    "n_examples": codes.examples,
                }
            )
    return result


def _picture(
    job: LocateJob, sites: Sequence[Group], timesteps: Sequence[int], values: NDArray[np.float64], pairs: int
) -> None:
    """Heads by steps, a line between modules; the last row is the whole."""
    single = [i for i, g in enumerate(sites) if g.kind == "head"]
    names = [f"{short(sites[i].name)}  head {sites[i].head}" for i in single] + ["all heads at once"]
    breaks = [n for n, i in enumerate(single) if n and sites[i].name != sites[single[n - 1]].name]
    heat_map(
        names,
        [str(t) for t in timesteps],
        values[[*single, len(sites) - 1]],
        f"{job.concept}: share of the change in the prediction that comes with a head, %, {pairs} pairs",
        "timestep, from noise to image",
        job.folder / PICTURE,
        [*breaks, len(single)],
    )


def short(path: str) -> str:
    """A cross-attention's path without what all have: `up_blocks.0.attentions.1`, of Stable Diffusion's."""
    return short_path(path).removesuffix(".attn2")
