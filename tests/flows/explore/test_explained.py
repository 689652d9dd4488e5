"""What latents fire on, in words, where people look: the explorer's page of a latent, its search, `latent show`."""

from dataclasses import replace

import pytest
from fastapi.testclient import TestClient

from flows.explore.app import create
from flows.explore.guards import Guard
from flows.explore.shelves import Shelves
from flows.sae.report import latent_lines
from saeuron.pages.contents import Latent
from storage import Workspace
from storage.identity import artifact_id
from storage.manifests import Manifest
from storage.tables import DESCRIPTIONS, table, write_table
from tasks.explore.latents import Explained, explained, firing_on, latent_page
from tasks.explore.shelf import Shelf
from tasks.explore.studio import Studio
from tests import sae_workspace

BASE = "http://127.0.0.1:8130"
HOOKPOINT = sae_workspace.HOOKPOINTS[0]


def sae(workspace: Workspace, n_latents: int) -> Manifest:
    name = artifact_id("sae", 2, {"n": n_latents})
    workspace.folder(name).mkdir(parents=True)
    about = {"hookpoint": HOOKPOINT, "n_latents": n_latents, "width": 16, "k": 4, "variant": "topk"}
    about |= {"dictionary": "trained", "fvu": 0.1, "l0": 4.0, "dead": 0.0, "rows": 10, "seconds": 1.0}
    return workspace.commit(name, config={}, inputs={}, summary=about, seconds=0)


def described(workspace: Workspace, sae_id: str, words: str) -> None:
    """What somebody says of latent 3."""
    name = artifact_id("description", 1, {"words": words})
    workspace.folder(name).mkdir(parents=True)
    row = {column.name: 0 for column in DESCRIPTIONS.columns}
    row |= {
        "hookpoint": HOOKPOINT,
        "sae_id": sae_id,
        "latent": 3,
        "description": words,
        "rule": "style is neon",
        "f1": 0.5,
    }
    write_table(workspace.folder(name) / DESCRIPTIONS.file, table([row], DESCRIPTIONS))
    workspace.commit(name, config={}, inputs={}, summary={"sae_id": sae_id}, seconds=0)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    opened = Workspace.open(tmp_path_factory.mktemp("told") / "w")
    first = sae(opened, 20)
    sae_workspace.explained(opened, first)
    described(opened, first.id, "old words")
    described(opened, first.id, "glowing <b>lines</b>")
    sae(opened, 21)
    return opened


def test_the_newest_rule_of_a_latent_and_none_of_an_sae_that_was_not_explained(workspace: Workspace) -> None:
    shelf = Shelf(workspace)
    first, second = (next(m.id for m in shelf.of("sae", n_latents=n)) for n in (20, 21))
    found = explained(shelf, first, 3)
    assert found is not None and (found.rule, found.confidence) == ("style is neon", pytest.approx(0.87))
    assert latent_page(shelf, first, 3).explained == found
    assert found.said == "glowing <b>lines</b> (F1 50 %)"
    assert found.words == "style is neon; confidence 87 %, precision 0 %, recall 0 %, on 8 new images"
    silent = explained(shelf, first, 9)
    assert silent is not None and silent.said == "" and silent.words.startswith("no rule: ")
    assert explained(shelf, first, 4) is None and explained(shelf, second, 3) is None


def test_words_of_rules_are_found_the_most_confident_first_and_signs_are_signs(workspace: Workspace) -> None:
    shelf = Shelf(workspace)
    assert [e.latent for e in firing_on(shelf, "NEON", 9)] == [3, 7, 8]
    assert [e.latent for e in firing_on(shelf, "neon", 2)] == [3, 7]
    assert [e.latent for e in firing_on(shelf, "cat and style", 9)] == [7]
    assert [e.latent for e in firing_on(shelf, "glowing", 9)] == [3] and firing_on(shelf, "old words", 9) == []
    assert firing_on(shelf, "%", 9) == firing_on(shelf, "_", 9) == firing_on(shelf, "", 9) == []
    empty = Shelf(Workspace.open(workspace.root.parent / "empty"))
    assert firing_on(empty, "neon", 9) == []


def test_the_explorer_shows_and_finds_them(workspace: Workspace) -> None:
    app = create(Shelves(workspace), Studio(threads=1), Guard("127.0.0.1", 8130))
    first, second = (next(m.id for m in workspace.artifacts("sae") if m.summary["n_latents"] == n) for n in (20, 21))
    with TestClient(app, base_url=BASE, headers={"origin": BASE, "accept": "text/html"}) as client:
        page = client.get(f"/latent?sae={first}&i=3").text
        assert "Fires on: style is neon; confidence 87 %" in page and "glowing &lt;b&gt;lines" in page
        assert f"saeuron sae explain {second[:16]}" in client.get(f"/latent?sae={second}&i=3").text
        found = client.get("/search?q=neon").text
        assert f"sae={first}&amp;i=3" in found or f"sae={first}&i=3" in found
        assert "Latent 7" in found and "87 %" in found.replace("87.0 %", "87 %")
        assert "Nothing is called" in client.get("/search?q=watermelon").text


def test_latent_show_says_it_within_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    monkeypatch.setenv("COLUMNS", "80")
    about = Explained("s", HOOKPOINT, 3, "object is crescent, hexagram, knight or sparkle", 0.5, 1.0, 0.6, 0.4, 600)
    latent = Latent(
        latent=3, density=0.1, image_density=0.2, mean=0.1, maximum=2.0, max_cosine=0.3, nearest=1, stability=None,
        timesteps=[9, 1], profile=[0.1, 0.2], neighbours=[(1, 0.3)], scores=[], examples=[],
    )  # fmt: skip
    diagnosis = SimpleNamespace(
        sae_id="s", manifest=SimpleNamespace(summary={"hookpoint": HOOKPOINT, "images": 4}, id="d")
    )
    text = "\n".join(latent_lines(diagnosis, latent, about)).splitlines()
    assert max(map(len, text)) <= 80
    said = " ".join(" ".join(text).split())
    assert "fires on: object is crescent, hexagram, knight or sparkle; confidence 40 %, precision 50 %" in said
    named = replace(about, description="pointed shapes", description_f1=0.9)
    assert "described as: pointed shapes (F1 90 %)" in latent_lines(diagnosis, latent, named)
    assert not any("fires on:" in line for line in latent_lines(diagnosis, latent))
    assert replace(about, rule=None).words.startswith("no rule")
