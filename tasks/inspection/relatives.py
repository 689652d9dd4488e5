"""How alike the concepts of a domain are, by the latents that fire on them; beside templates and measured damage.

relatives.parquet   each concept beside each other of its domain
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from saeuron.inspection.relatives import NEAREST, Chance, mantel, nearest, on_nearest, similarity
from storage import Workspace, connect
from storage.declared import View
from storage.manifests import Manifest
from storage.tables import DAMAGE, RELATIVES, read_table, table, write_table
from tasks.engine.job import Clock, Job, Made, Summary, commit
from tasks.engine.step import step

FEWEST = 3
"""Concepts of a domain that can be compared: of two, less their mean, each is the other's opposite."""
Numbers = NDArray[np.float64]


class RelativesSummary(Summary):
    """How well similarities agree with templates and with damage, beside permuted names and an untrained SAE."""

    domain: str
    concepts: tuple[str, ...]
    method: str
    saes: tuple[str, ...]
    untrained: tuple[str, ...]
    removed: tuple[str, ...]
    """Concepts whose removal was measured."""
    iou_rank: float | None
    """Rank correlation of similarity and template overlap over pairs; None: there are no templates."""
    iou_p: float | None
    """Share of permutations of names with at least this."""
    iou_rank_untrained: float | None
    iou_p_untrained: float | None
    loss_share: float | None
    """Share of the losses of other concepts that falls on the three nearest; None: there were none."""
    loss_p: float | None
    loss_chance: float
    """Three, as a share of the other concepts: the value of loss_share by chance."""


class RelativesJob(Job):
    """One domain."""

    stage: ClassVar[str] = "relatives"
    version: ClassVar[int] = 1
    title: ClassVar[str] = "{domain}"
    summary_type: ClassVar[type[Summary]] = RelativesSummary
    views: ClassVar[tuple[View, ...]] = (RELATIVES,)
    command: ClassVar[str] = "saeuron concept relatives --domain {domain}"

    domain: str
    concepts: tuple[str, ...]
    method: str
    """The method whose removals are read."""
    saes: dict[str, tuple[str, ...]]
    """{SAE: the scores of these concepts, in their order}."""
    untrained: dict[str, tuple[str, ...]] = Field({})
    """The same of SAEs that were never trained."""
    evaluations: dict[str, str] = Field({})
    """{removed concept: its evaluation}."""
    templates: str = ""
    """The canvas model whose renderer draws these concepts; empty: there is none."""
    seed: int = 7
    """Seed of permutations."""


class Scored(NamedTuple):
    """The newest scores of a domain's concepts."""

    concepts: tuple[str, ...]
    """Concepts that every SAE was scored on."""
    saes: dict[str, tuple[str, ...]]
    untrained: dict[str, tuple[str, ...]]


def scored(workspace: Workspace, domain: str, present: Sequence[str]) -> Scored:
    """The scores to compare: of each hookpoint's SAE that was scored last, and of its untrained control.

    All are of the newest protocol, because scores of different ones do not compare.
    """
    found = [m for m in workspace.artifacts("score") if m.summary["domain"] == domain]
    found = sorted((m for m in found if m.summary["concept"] in present), key=lambda m: (m.created, m.id))
    if not found:
        return Scored((), {}, {})
    about = {m.id: m.summary for m in workspace.artifacts("sae")}
    newest: dict[tuple[str, bool], str] = {}
    scores: dict[str, dict[str, str]] = {}
    for manifest in found:
        if manifest.summary["protocol"] != found[-1].summary["protocol"]:
            continue
        for each in manifest.summary["saes"]:
            kind = about.get(each["sae_id"], {}).get("dictionary")
            if kind in (None, "trained", "untrained"):
                newest[each["hookpoint"], kind == "untrained"] = each["sae_id"]
                scores.setdefault(each["sae_id"], {})[manifest.summary["concept"]] = manifest.id
    trained = [sae for (_, control), sae in sorted(newest.items()) if not control]
    names = tuple(c for c in present if all(c in scores[sae] for sae in trained)) if trained else ()
    controls = [sae for (_, control), sae in sorted(newest.items()) if control]
    whole = len(controls) == len(trained) and all(c in scores[sae] for sae in controls for c in names)
    return Scored(
        names,
        {sae: tuple(scores[sae][c] for c in names) for sae in trained},
        {sae: tuple(scores[sae][c] for c in names) for sae in controls} if whole else {},
    )


def measured(workspace: Workspace, domain: str, concepts: Sequence[str], method: str) -> dict[str, str]:
    """{removed concept: its newest evaluation} by a method."""
    found: dict[str, Manifest] = {}
    for m in sorted(workspace.artifacts("evaluation"), key=lambda m: (m.created, m.id)):
        if (m.summary["domain"], m.summary["method"]) == (domain, method) and m.summary["concept"] in concepts:
            found[m.summary["concept"]] = m
    return {concept: m.id for concept, m in sorted(found.items())}


_MEANS = """
SELECT concept, latent, mean FROM statistics
WHERE sae_id = ? AND timestep = ? AND list_contains(?::VARCHAR[], score_id) AND mean <> 0
"""


def _blocks(job: RelativesJob, saes: Mapping[str, Sequence[str]]) -> Iterator[Numbers]:
    """The means of each SAE and step, [C, N]; one step at a time is in memory."""
    place = {concept: i for i, concept in enumerate(job.concepts)}
    with connect(job.open) as views:
        for sae_id, scores in saes.items():
            for score in scores:
                job.open.whole(score)
            [(latents,)] = views.execute("SELECT n_latents FROM saes WHERE sae_id = ?", [sae_id]).fetchall()
            steps = views.execute(
                "SELECT DISTINCT timestep FROM statistics WHERE sae_id = ? AND score_id = ? ORDER BY ALL DESC",
                [sae_id, scores[0]],
            ).fetchall()
            for (timestep,) in steps:
                means = np.zeros((len(place), latents))
                rows = views.execute(_MEANS, [sae_id, timestep, list(scores)]).fetchnumpy()
                at = [place[str(concept)] for concept in rows["concept"]]
                means[at, rows["latent"].astype(np.int64)] = rows["mean"]
                yield means


class Lost(NamedTuple):
    """The loss of a concept when another was removed."""

    loss: float
    low: float
    high: float
    n: int


def _losses(job: RelativesJob) -> dict[tuple[str, str], Lost]:
    """{(removed, other of its domain): what the other lost}."""
    found = {}
    for concept, name in job.evaluations.items():
        for row in read_table(job.open.whole(name, DAMAGE.file) / DAMAGE.file).to_pylist():
            if row["domain"] == job.domain and row["harmed"] in job.concepts and row["harmed"] != concept:
                found[concept, row["harmed"]] = Lost(row["loss"], row["low"], row["high"], row["n"])
    return found


def overlap(templates: str, concepts: tuple[str, ...]) -> Numbers | None:
    """IoU of the templates of these concepts; None where there are none."""
    if not templates:
        return None
    from saeuron.canvas.overlaps import overlaps

    return overlaps(concepts)


@step("relatives")
def relatives(job: RelativesJob) -> Made:
    """Compare all pairs, and write the table."""
    clock, names = Clock(), job.concepts
    similar = similarity(_blocks(job, job.saes))
    control = similarity(_blocks(job, job.untrained)) if job.untrained else None
    iou, lost = overlap(job.templates, names), _losses(job)
    loss = np.full(similar.shape, np.nan)
    for i, a in enumerate(names):
        for k, b in enumerate(names):
            if (a, b) in lost:
                loss[i, k] = lost[a, b].loss
    rows = []
    for i, a in enumerate(names):
        for place, k in enumerate(nearest(similar, i, len(names)), 1):
            what = lost.get((a, names[k]))
            row: dict[str, Any] = {"domain": job.domain, "a": a, "b": names[k], "place": place}
            row |= {"similarity": float(similar[i, k])}
            row |= {"untrained": None if control is None else float(control[i, k])}
            row |= {"iou": None if iou is None else float(iou[i, k]), "ira_loss": what.loss if what else None}
            rows.append(row | {n: getattr(what, n) if what else None for n in ("low", "high", "n")})
    write_table(job.folder / RELATIVES.file, table(rows, RELATIVES))
    nothing = Chance(None, None)
    templates = nothing if iou is None else mantel(similar, iou, job.seed)
    untrained = nothing if iou is None or control is None else mantel(control, iou, job.seed)
    damaged = on_nearest(similar, loss, job.seed)
    summary = RelativesSummary(
        domain=job.domain,
        concepts=names,
        method=job.method,
        saes=tuple(job.saes),
        untrained=tuple(job.untrained),
        removed=tuple(job.evaluations),
        iou_rank=templates.value,
        iou_p=templates.p,
        iou_rank_untrained=untrained.value,
        iou_p_untrained=untrained.p,
        loss_share=damaged.value,
        loss_p=damaged.p,
        loss_chance=min(1.0, NEAREST / (len(names) - 1)),
    )
    scores = sorted({s for each in (*job.saes.values(), *job.untrained.values()) for s in each})
    return commit(job, {"scores": scores, "evaluations": sorted(job.evaluations.values())}, summary, clock)
