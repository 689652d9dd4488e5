"""Totals of a domain, and packs: what they hold is what the concepts' own files hold, however they came about."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tasks.score
from saeuron.profiles import DomainTotals
from storage import Workspace, connect
from storage.errors import ArtifactDamaged
from storage.identity import artifact_id
from storage.statistics.sums import write_statistics
from tasks.packs import PacksJob, packs
from tasks.score import read as read_score
from tasks.totals import TotalsJob, read, totals
from tests.flows.upkeep.test_verify import flip
from tests.storage.conftest import random_sums

HOOKPOINT, SAE = "unet.mid_block", "sae_v1_00000000000000000000"
STEPS, LATENTS = (20, 40, 60), 1100
Score = Callable[[str], str]


@pytest.fixture
def score(workspace: Workspace) -> Score:
    """Commit the statistics of a concept; returns their id."""

    def score(concept: str) -> str:
        name = artifact_id("score", 3, {"concept": concept})
        seed = sum(concept.encode())
        write_statistics(workspace.folder(name) / HOOKPOINT, random_sums(seed, STEPS, LATENTS))
        saes = [{"sae_id": SAE, "hookpoint": HOOKPOINT, "folder": HOOKPOINT, "n_images": 3}]
        summary = {"domain": "style", "concept": concept, "protocol": "p", "model_id": "m", "half": "conditional"}
        workspace.commit(name, config={}, inputs={}, summary=summary | {"saes": saes}, seconds=1.0)
        return name

    return score


def job(workspace: Workspace, scores: list[str]) -> TotalsJob:
    new = TotalsJob(
        workspace=workspace.root, domain="style", hookpoint=HOOKPOINT, sae_id=SAE, scores=tuple(sorted(scores))
    )
    return new.based(workspace.artifacts("totals"), workspace.has)


def files(workspace: Workspace, name: str) -> dict[str, bytes]:
    folder = workspace.folder(name)
    return {f.name: (folder / f.name).read_bytes() for f in workspace.manifest(name).files}


@pytest.mark.parametrize("after", [(0, 1, 2, 3, 4, 5), (0, 1, 2, 3), (1, 2, 3, 4, 5), (0, 1, 2, 3, 5)], ids=str)
def test_from_a_base_and_from_nothing_are_the_same_bytes(
    workspace: Workspace, score: Score, after: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [score(f"style {i}") for i in range(6)]
    totals.fn(job(workspace, names[:5]))  # type: ignore[attr-defined]
    wanted = job(workspace, [names[i] for i in after])
    assert wanted.base and {*wanted.joined, *wanted.left} == {*names[:5]} ^ {names[i] for i in after}
    # Nothing but the difference is fetched, or read.
    assert set(wanted.reads) == {wanted.base, *wanted.joined, *wanted.left}
    seen: list[str] = []
    monkeypatch.setattr(tasks.score, "read", lambda w, i, h: seen.append(i) or read_score(w, i, h))
    grown = totals.fn(wanted)  # type: ignore[attr-defined]
    assert sorted(seen) == sorted([*wanted.joined, *wanted.left])
    incremental = files(workspace, grown.id)
    workspace.delete(grown.id)
    again = totals.fn(wanted.model_copy(update={"base": "", "joined": (), "left": ()}))  # type: ignore[attr-defined]
    assert again.id == grown.id and not again.cached
    assert files(workspace, again.id) == incremental
    found, slow = read(workspace, again.id), DomainTotals.of(read_score(workspace, names[i], HOOKPOINT) for i in after)
    for mine, theirs in zip(found, slow, strict=True):
        assert np.array_equal(mine, theirs)


def test_the_nearest_base_is_taken_and_none_that_needs_what_is_gone(workspace: Workspace, score: Score) -> None:
    names = [score(f"style {i}") for i in range(6)]
    few, many = (totals.fn(job(workspace, names[:n])).id for n in (3, 5))  # type: ignore[attr-defined]
    assert job(workspace, names).base == many
    assert job(workspace, names[1:4]).base == few
    assert job(workspace, names[5:]).base == "", "to read one is less than to take out five"
    workspace.delete(names[4])
    assert job(workspace, names[:4]).base == few


def test_a_damaged_base_is_passed_over_and_damaged_statistics_are_not(workspace: Workspace, score: Score) -> None:
    names = [score(f"style {i}") for i in range(4)]
    base = totals.fn(job(workspace, names[:3])).id  # type: ignore[attr-defined]
    wanted = job(workspace, names)
    assert wanted.base == base
    flip(workspace.folder(base) / "totals.parquet")
    made = totals.fn(wanted)  # type: ignore[attr-defined]
    slow = DomainTotals.of(read_score(workspace, name, HOOKPOINT) for name in names)
    assert np.array_equal(read(workspace, made.id).sum_fixed, slow.sum_fixed)
    flip(workspace.folder(names[0]) / HOOKPOINT / "statistics.parquet")
    workspace.delete(made.id)
    with pytest.raises(ArtifactDamaged, match=names[0]):
        totals.fn(wanted)  # type: ignore[attr-defined]


def ask(workspace: Workspace, sql: str) -> list[Any]:
    with connect(workspace) as connection:
        return connection.execute(sql).fetchall()


def rows(workspace: Workspace, source: str) -> int:
    count: int = ask(workspace, f"SELECT count(*) FROM source.{source}")[0][0]
    return count


ALL = "SELECT * FROM {} ORDER BY ALL"


def test_scores_are_the_same_bits_with_totals_and_without(workspace: Workspace, score: Score) -> None:
    names = [score(f"style {i}") for i in range(4)]
    before = ask(workspace, ALL.format("scores"))
    assert len(before) == 4 * len(STEPS) * LATENTS
    totals.fn(job(workspace, names))  # type: ignore[attr-defined]
    assert (rows(workspace, "totals_rows"), rows(workspace, "loose_rows")) == (len(STEPS) * LATENTS, 0)
    assert ask(workspace, ALL.format("scores")) == before
    best = ask(workspace, ALL.format("top_latents"))
    # One more concept, of which the totals know nothing yet.
    score("style 4")
    assert (rows(workspace, "totals_rows"), rows(workspace, "loose_rows")) == (0, 5 * len(STEPS) * LATENTS)
    behind = ask(workspace, ALL.format("scores"))
    assert len(behind) == 5 * len(STEPS) * LATENTS and not {*before} <= {*behind}
    totals.fn(job(workspace, [*names, artifact_id("score", 3, {"concept": "style 4"})]))  # type: ignore[attr-defined]
    assert ask(workspace, ALL.format("scores")) == behind
    assert ask(workspace, ALL.format("top_latents")) != best


def test_statistics_by_latent_are_those_rows_in_another_order(workspace: Workspace, score: Score) -> None:
    names = [score(f"style {i}") for i in range(5)]
    statistics = ask(workspace, ALL.format("statistics"))
    assert ask(workspace, ALL.format("statistics_by_latent")) == statistics
    pack = PacksJob(workspace=workspace.root, hookpoint=HOOKPOINT, sae_id=SAE, scores=tuple(sorted(names[:3])))
    made = packs.fn(pack)  # type: ignore[attr-defined]
    assert ask(workspace, ALL.format("statistics_by_latent")) == statistics
    # What is asked of the pack is read there: without it, and its concepts' own files, nothing of them is left.
    sql = "SELECT DISTINCT concept FROM statistics_by_latent WHERE latent = 7 ORDER BY ALL"
    for name in names[:3]:
        (workspace.folder(name) / HOOKPOINT / "by_latent.parquet").write_bytes(b"")
    assert len(ask(workspace, sql)) == 2, "a damaged concept is left out, in a pack as well"
    workspace.delete(made.id)
    assert len(ask(workspace, sql)) == 2


def test_statistics_by_latent_of_packed_concepts_are_read_from_the_pack(workspace: Workspace, score: Score) -> None:
    names = [score(f"style {i}") for i in range(3)]
    pack = PacksJob(workspace=workspace.root, hookpoint=HOOKPOINT, sae_id=SAE, scores=tuple(sorted(names[:2])))
    made = packs.fn(pack)  # type: ignore[attr-defined]
    assert workspace.has(made.id)
    assert (rows(workspace, "pack_rows"), rows(workspace, "own_rows")) == (
        2 * len(STEPS) * LATENTS,
        len(STEPS) * LATENTS,
    )
