"""Test an SAE beside dictionaries made from labels and untrained SAEs: one artifact for each test.

proofs.parquet    every figure of the test, with its ceiling and its control
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import Field
from torch import Tensor

from saeuron.config import CaptureConfig, ModelConfig
from saeuron.errors import BadPrompts
from saeuron.figures.metrics import wilson
from saeuron.inspection.heads import minimal_pairs
from saeuron.pipelines.patching import Pair
from saeuron.prompts import Prompt
from saeuron.sae.autoencoder import SAE
from saeuron.sae.config import Config, SAEConfig
from saeuron.sae.proofs import approximation, control
from saeuron.sae.proofs.attributes import Attributes, fit
from saeuron.sae.proofs.attributes import Kind as Labels
from saeuron.sae.proofs.rewriting import Change
from saeuron.sae.proofs.rows import Rows, read
from storage.declared import View
from storage.tables import PROOFS, table, write_table
from tasks import prompts as prompt_sets
from tasks.engine import model, progress
from tasks.engine.job import Clock, Job, Made, Summary, commit
from tasks.engine.judge import DomainJudge
from tasks.engine.step import step
from tasks.sae import proof_fits
from tasks.sae.prove import images

Test = Literal["approximation", "control", "occlusion", "width"]
TESTS: tuple[Test, ...] = ("approximation", "control", "occlusion", "width")
LABELS: dict[str, Labels] = {"supervised": "pooled", "supervised_full": "full", "shuffled": "shuffled"}
"""{kind of dictionary in the table: the kind of labels that it is made from}."""


class ProofTestConfig(Config):
    """Settings of a test."""

    test: Test
    """The name of the test, see `saeuron/sae/proofs/`."""
    images: int = Field(260, ge=2)
    """Images of each set: training prompts to fit to; validation and test prompts where latents are counted."""
    pairs: int = Field(24, ge=1)
    """Pairs of test prompts for each domain; the two prompts of a pair differ in one concept."""
    every: int = Field(1, ge=1)
    """Every n-th denoising step is read."""
    read: Literal["output", "update"] = "output"
    """Activations that the SAE was trained on."""
    dtype: Literal["float16", "bfloat16"] = "float16"
    """Data type of activations in memory."""
    ks: tuple[int, ...] = (2, 4, 6)
    """Largest numbers of latents to take away and to add, in the test `control`."""
    alphas: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    """Fractions of the louder attribute to take away, in the test `occlusion`."""
    rhos: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Norms of the planted loud attribute, relative to the quiet one, in the test `occlusion`."""
    widths: tuple[int, ...] = (1, 2, 4, 8, 16)
    """N / D of the SAEs in the test `width`."""
    latents: tuple[int, ...] = (1, 2, 3, 8)
    """Numbers of latents to edit in removals, in the test `width`."""
    gamma: float = -2.0
    """Multiplier in these removals, with `scale: share` (docs/adr/0014)."""
    removed: int = Field(2, ge=0)
    """Number of concepts to remove in each judged domain."""
    removal_images: int = Field(12, ge=1)
    """Test images of each removal."""
    fit_steps: int = Field(500, ge=1)
    """Training steps of the SAEs that a test trains; batch, k and the rest are those of the tested SAE."""
    seed: int = 9
    """Seed of noise and of the choice of prompts. Nothing else uses it."""


class ProofTestSummary(Summary):
    """Summary of a test."""

    hookpoint: str
    sae_id: str
    test: str
    images: int
    """Images of each set."""


class ProofTestJob(Job):
    """One test of one SAE."""

    stage: ClassVar[str] = "proof_test"
    version: ClassVar[int] = 1
    title: ClassVar[str] = "{sae_id}"
    summary_type: ClassVar[type[Summary]] = ProofTestSummary
    views: ClassVar[tuple[View, ...]] = (PROOFS,)
    command: ClassVar[str] = "saeuron sae prove {sae_id} --test {test}"

    model: ModelConfig
    model_id: str
    config: ProofTestConfig
    sae_id: str
    controls: dict[str, str]
    """{`untrained`, `frozen`: id of that SAE}; those that cannot be made are missing."""
    train: SAEConfig | None = None
    """Training settings of the SAEs that a test trains; None: the tested SAE was not trained here."""
    prompts_id: str
    judges: dict[str, DomainJudge] = Field(default_factory=dict)
    """{domain: its judge}, for tests that draw images."""

    @property
    def identity(self) -> dict[str, Any]:
        return {**super().identity, "judges": {domain: judge.identity for domain, judge in self.judges.items()}}


class Bench(NamedTuple):
    """Inputs of every test."""

    job: ProofTestJob
    pipe: Any
    hookpoint: str
    saes: Mapping[str, SAE]
    """{`trained`, `untrained`, `frozen`: the SAE}."""
    prompts: Sequence[Prompt]
    rows: Mapping[str, Rows]
    """{split: rows}; only `train` for tests that do not count latents."""
    attributes: Attributes

    def row(
        self, kind: str, attribute: str, measure: str, value: float | None, n: int, **more: float | None
    ) -> dict[str, Any]:
        """A row of the table; `more` are `setting`, `ceiling`, `control`, `low` and `high`."""
        absent = dict.fromkeys(("setting", "ceiling", "control", "low", "high"))
        return {
            "hookpoint": self.hookpoint,
            "sae_id": self.job.sae_id,
            "test": self.job.config.test,
            "kind": kind,
            "attribute": attribute,
            "measure": measure,
            "value": value,
            "n": n,
            **absent,
            **more,
        }


@step("proof_test")
def proof_test(job: ProofTestJob) -> Made:
    """Generate images, run the test, and write its table."""
    clock, config = Clock(), job.config
    named = {"trained": job.sae_id, **job.controls}
    saes = {kind: SAE.load(job.open.whole(i), job.device) for kind, i in named.items()}
    pipe, prompts = model.pipeline(job.model, job.device), prompt_sets.read(job.open, job.prompts_id)
    hookpoint = saes["trained"].info.hookpoint
    counted = config.test in ("occlusion", "width")
    rows = {}
    for i, split in enumerate(("train", "validation", "test") if counted else ("train",)):
        progress.tell(f"images for {config.test}", i, 3 if counted else 1, "sets")
        how = CaptureConfig(every=config.every, read=config.read, dtype=config.dtype, seed=config.seed + i)
        rows[split] = read(pipe, images(prompts, split, config), hookpoint, job.model, how)
    bench = Bench(job, pipe, hookpoint, saes, prompts, rows, fit(rows["train"], config.seed))
    found = _TESTS[config.test](bench)
    write_table(job.folder / PROOFS.file, table(found, PROOFS))
    model.note(job.folder, pipe, job.model.micro_batch)
    summary = ProofTestSummary(hookpoint=hookpoint, sae_id=job.sae_id, test=config.test, images=config.images)
    return commit(job, {"saes": sorted(named.values()), "prompts": job.prompts_id}, summary, clock)


def pairs_of(prompts: Sequence[Prompt], domain: str, count: int, seed: int) -> list[tuple[Prompt, Pair, str]]:
    """(test prompt, its pair, the concept that the pair's other sentence asks for), the domain's concepts in turn.

    Raises:
        BadPrompts: no test prompt has a partner.
    """
    mine = [p for p in prompts if p.split == "test" and domain in p.concepts]
    of_text = {p.text: p.concepts[domain] for p in mine}
    concepts = sorted(set(of_text.values()))
    each = -(-count // max(len(concepts), 1))
    turns = []
    for i, concept in enumerate(concepts):
        # Each concept starts with a different partner, so that none is the partner of all.
        others = concepts[i + 1 :] + concepts[:i]
        if others:
            turns.append(minimal_pairs(mine, domain, concept, each, seed, others))
    found = [turn[i] for i in range(each) for turn in turns if i < len(turn)][:count]
    if not found:
        raise BadPrompts(f"no two test prompts differ in their {domain} alone; add templates with {{{domain}}}.")
    return [(prompt, pair, of_text[pair.instead]) for prompt, pair in found]


def _approximation(bench: Bench) -> list[dict[str, Any]]:
    """Test 1: how well each dictionary approximates the activations, in all and along each domain's concepts."""
    job, rows, attributes = bench.job, list[dict[str, Any]](), bench.attributes
    size = max(1, job.model.micro_batch // 3)
    for domain in bench.rows["train"].domains:
        pairs = pairs_of(bench.prompts, domain, job.config.pairs, job.config.seed)
        parts: dict[str, list[approximation.Found]] = {}
        for start in range(0, len(pairs), size):
            progress.tell(f"pairs of {domain}", start, len(pairs), "pairs")
            some = pairs[start : start + size]
            asked = [dict(prompt.concepts) for prompt, _, _ in some]
            ways: dict[str, approximation.Way] = {
                kind: partial(_rebuilt, attributes, asked, of) for kind, of in LABELS.items()
            }
            ways |= {kind: partial(_decoded, sae) for kind, sae in bench.saes.items()}
            found = approximation.distances(
                bench.pipe,
                [pair for _, pair, _ in some],
                bench.hookpoint,
                ways,
                lambda x, t: attributes.mean[attributes.step(t)][None, None],
                job.model,
                seed=job.config.seed + start,
                every=job.config.every,
                read=job.config.read,
            )
            for kind, each in found.items():
                parts.setdefault(kind, []).append(each)
        figures = {kind: approximation.figures(approximation.joined(p), job.config.seed) for kind, p in parts.items()}
        for kind, of in figures.items():
            for measure, f in of.items():
                ceiling = figures["supervised_full"][measure].value
                chance = figures["untrained"][measure].value if "untrained" in figures else None
                more = {"low": f.low, "high": f.high, "ceiling": ceiling, "control": chance}
                rows.append(bench.row(kind, domain, measure, f.value, len(pairs), **more))
    return rows


def _rebuilt(attributes: Attributes, asked: Sequence[Mapping[str, str]], of: Labels, x: Tensor, t: int) -> Tensor:
    del x
    return attributes.rebuilt(asked, t, of)


def _decoded(sae: SAE, x: Tensor, t: int) -> Tensor:
    del t
    found: Tensor = sae(x)
    return found


def _control(bench: Bench) -> list[dict[str, Any]]:
    """Test 2: whether an edit with each dictionary changes the concept, for every k and judged domain."""
    job, rows = bench.job, list[dict[str, Any]]()
    for domain in [d for d in bench.rows["train"].domains if d in job.judges]:
        pairs = pairs_of(bench.prompts, domain, job.config.pairs, job.config.seed)
        wanted = [control.Wanted(p.text, p.concepts[domain], to, pair.instead) for p, pair, to in pairs]
        asked = [p.concepts for p, _, _ in pairs]
        ways: list[tuple[str, int | None, Any]] = [("nothing", None, None), ("whole output", None, "copy")]
        ways += [(kind, None, partial(_by_labels, bench.attributes, domain, of)) for kind, of in LABELS.items()]
        moves = {}
        for kind, sae in bench.saes.items():
            profiles = control.profiles(sae, bench.rows["train"], domain)
            for k in job.config.ks:
                moves[kind, k] = control.Moves(profiles, k)
                ways.append((kind, k, moves[kind, k].change))
        outcomes: dict[tuple[str, int | None], tuple[int, int, int]] = {}
        for i, (kind, at_most, change) in enumerate(ways):
            progress.tell(f"{domain} moved", i, len(ways), "edits")
            outcomes[kind, at_most] = _outcome(bench, domain, wanted, asked, change)
        n = len(wanted)
        ceiling = outcomes["whole output", None][2] / n
        for (kind, setting), counts in outcomes.items():
            chance = outcomes.get(("untrained", max(job.config.ks) if setting is None else setting))
            for measure, count, of in zip(("moved", "kept", "success"), counts, chance or (None,) * 3, strict=True):
                low, high = wilson(count, n)
                top = ceiling if measure == "success" else None
                more = {"setting": setting, "low": low, "high": high, "ceiling": top}
                more["control"] = None if of is None else of / n
                rows.append(bench.row(kind, domain, measure, count / n, n, **more))
            if setting is not None:
                share = moves[kind, setting].magnitude(wanted)
                rows.append(bench.row(kind, domain, "magnitude", share, n, setting=setting))
    return rows


def _by_labels(attributes: Attributes, domain: str, of: Labels, wanted: Sequence[control.Wanted]) -> Change:
    return control.by_labels(attributes, domain, wanted, of)


def _outcome(
    bench: Bench, domain: str, wanted: Sequence[control.Wanted], asked: Sequence[Mapping[str, str]], change: Any
) -> tuple[int, int, int]:
    """Numbers of images: (that show the other concept, that keep every other domain, that do both)."""
    job, size = bench.job, max(1, bench.job.model.micro_batch // 2)
    moved, kept = [], []
    for start in range(0, len(wanted), size):
        some = wanted[start : start + size]
        edit = change(some) if callable(change) else change
        pictures = control.draw(
            bench.pipe, some, bench.hookpoint, edit, job.model, job.config.seed + start, job.config.read
        )
        seen = {d: judge.look(d, pictures, job.device) for d, judge in job.judges.items()}
        moved += [s.label == w.to for s, w in zip(seen[domain], some, strict=True)]
        kept += [
            all(seen[d][i].label == asks[d] for d in seen if d != domain and d in asks)
            for i, asks in enumerate(asked[start : start + size])
        ]
    both = np.array(moved) & np.array(kept)
    return sum(moved), sum(kept), int(both.sum())


_TESTS = {
    "approximation": _approximation,
    "control": _control,
    "occlusion": proof_fits.occluded,
    "width": proof_fits.widened,
}
