"""From a latent to the removals that edit or read it, and back: explorer, report and SQL."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from flows.explore.report import Subject
from flows.stages.evaluate import evaluate
from flows.stages.tune import Wanted
from flows.summary import concept_page
from saeuron import judges
from saeuron.errors import ConfigError
from saeuron.methods.local import LocalWatch
from saeuron.methods.removal import Removal
from saeuron.pages.cards import removal_card
from storage import Workspace
from storage.catalog.query import run_query
from storage.tables import REMOVAL_LATENTS, read_table, table, write_table
from tasks import tune
from tasks.explore import trying
from tasks.explore.latents import uses
from tasks.explore.shelf import Shelf
from tests.sae_workspace import build, explorer
from tests.tasks.test_judge import Bright, Direct, configured, removal

BASE = "http://127.0.0.1:8130"
SETTINGS: dict[str, dict[str, Any]] = {
    "gated_uce": {"n": 2, "erase": 1.0, "toward": "farthest"},
    "saeuron": {"n": 2, "gamma": -1.5},
    "sae_guidance": {"n": 1, "push": 0.0},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> dict[str, Any]:
    """{method: id} of removals of neon, and the workspace; those of the first two methods were evaluated."""
    workspace = build(tmp_path_factory.mktemp("used") / "w", tiny_model_folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judges, "JUDGES", {**judges.JUDGES, "bright": Bright})
        config = configured(workspace, "bright:1").model_copy(update={"method": ("gated_uce", "saeuron")})
        removals = {method: removal(workspace, config, method, **how) for method, how in SETTINGS.items()}
        run = Direct.of(workspace, config, "cpu")
        evaluate(run, {Wanted("neon", m): removals[m] for m in ("gated_uce", "saeuron")})
    assert run.failures == []
    return {"workspace": workspace} | {method: done.id for method, (_, done) in removals.items()}


def probe_of(made: dict[str, Any]) -> Any:
    [part] = Removal.load(made["workspace"].folder(made["gated_uce"]) / tune.FILE).parts
    [probe] = part.probes
    return probe


def test_what_a_probe_and_a_sensor_read_is_in_sql_with_its_role(made: dict[str, Any]) -> None:
    workspace, probe = made["workspace"], probe_of(made)
    asked = "select * from removal_latents where method = '{}' order by latent, timestep"
    rows = run_query(workspace, asked.format("gated_uce")).to_pylist()
    assert [(r["latent"], r["weight"]) for r in rows] == [
        (i, w) for i, w in zip(probe.latents.tolist(), probe.weights.tolist(), strict=True)
    ]
    assert {(r["role"], r["sae_id"], r["timestep"], r["factor"], r["floor"]) for r in rows} == {
        ("reads", probe.sae_id, None, None, None)
    }
    sensed = run_query(workspace, asked.format("sae_guidance")).to_pylist()
    # One latent at each of two steps.
    assert len(sensed) == 2 and {(r["role"], r["factor"], r["weight"]) for r in sensed} == {("reads", None, None)}
    assert all(r["floor"] is not None and r["timestep"] is not None for r in sensed)
    edited = run_query(workspace, asked.format("saeuron")).to_pylist()
    assert {r["role"] for r in edited} == {"edits"} and all(r["factor"] is not None for r in edited)
    counts = run_query(workspace, "select method, latents, latents_read from removals").to_pylist()
    found = {r["method"]: (r["latents"], r["latents_read"]) for r in counts}
    assert found == {
        "gated_uce": (0, 2),
        "saeuron": (len({r["latent"] for r in edited}), 0),
        "sae_guidance": (0, len({r["latent"] for r in sensed})),
    }


def test_a_latent_names_the_removals_that_read_or_edit_it_with_their_figures(made: dict[str, Any]) -> None:
    workspace, probe = made["workspace"], probe_of(made)
    shelf = Shelf(workspace)
    found = shelf.once(uses)
    [read] = [u for u in found[probe.sae_id, int(probe.latents[0])] if u.method == "gated_uce"]
    summary = shelf.evaluations["neon", "gated_uce"].summary
    assert (read.role, read.factor, read.steps) == ("reads", None, 0)
    assert (read.value, read.verdict) == (summary["value"], summary["verdict"]) and read.verdict
    with explorer(workspace) as client:
        page = client.get(f"/latent?sae={probe.sae_id}&i={probe.latents[0]}").text
        row = re.search(r"<tr><td[^>]*><a href=\"[^\"]*method=gated_uce[^\"]*\">neon</a>.*?</tr>", page)
        assert row is not None and "only read, to decide where to act" in row[0] and "the first" in row[0]
        assert f">{read.verdict}</span>" in row[0] and f"{read.weight:.3g}" in row[0]
        (sae, latent), _ = next((at, u) for at, u in found.items() if any(x.method == "saeuron" for x in u))
        assert '<td class="left">edited</td>' in client.get(f"/latent?sae={sae}&i={latent}").text


def test_the_page_of_a_removal_and_its_report_show_the_latents_that_it_reads(made: dict[str, Any]) -> None:
    workspace, probe = made["workspace"], probe_of(made)
    with explorer(workspace) as client:
        page = client.get("/concept?name=neon&method=gated_uce").text
        used = page[page.index("Latents that the removal uses") : page.index("<h2>Figures</h2>")]
        for latent in probe.latents.tolist():
            assert f"/latent?sae={probe.sae_id}&amp;i={latent}" in used
        assert "only read, to decide where to act" in used and "steps read" in used and "factor" not in used
        edited = client.get("/concept?name=neon&method=saeuron").text
        assert "steps edited" in edited and "steps read" not in edited
    report = Subject(workspace, "neon").write().read_text()
    assert "The latents that it uses" in report and "only read, to decide where to act" in report
    [line] = [x for x in concept_page(workspace, "neon")["lines"] if "by gated_uce" in x and x.startswith("removal")]
    assert "2 latents read to decide where to act" in " ".join(line.split())


def test_the_card_says_what_is_only_read(made: dict[str, Any]) -> None:
    workspace, probe = made["workspace"], probe_of(made)
    cards = {m: removal_card(Removal.load(workspace.folder(made[m]) / tune.FILE), [], {}) for m in SETTINGS}
    assert f"| `{probe.hookpoint}` | `{probe.sae_id}` | 2 |" in cards["gated_uce"]
    assert {m for m, text in cards.items() if "latents read" in text} == {"gated_uce", "sae_guidance"}


def test_a_removal_of_an_earlier_version_shows_the_latents_that_it_edits(made: dict[str, Any], tmp_path: Path) -> None:
    """Its table has neither roles nor weights."""
    old = Workspace.open(Path(shutil.copytree(made["workspace"].root, tmp_path / "w")))
    for method in SETTINGS:
        about, path = old.manifest(made[method]), old.folder(made[method]) / REMOVAL_LATENTS.file
        rows = [r for r in read_table(path).to_pylist() if r["role"] == "edits"]
        for each in (path, old.manifest_path(about.id)):
            each.unlink()
        write_table(path, table(rows, REMOVAL_LATENTS).drop_columns(["role", "weight"]))
        summary = {name: value for name, value in about.summary.items() if name != "latents_read"}
        old.commit(about.id, config=about.config, inputs=about.inputs, summary=summary, seconds=0)
    users = {u.method for some in Shelf(old).once(uses).values() for u in some}
    assert users == {"saeuron"}
    with explorer(old) as client:
        assert "steps edited" in client.get("/concept?name=neon&method=saeuron").text
        assert client.get("/concept?name=neon&method=gated_uce").status_code == 200


def test_what_cannot_be_limited_is_refused_before_anything_is_drawn(made: dict[str, Any], tmp_path: Path) -> None:
    workspace = Workspace.open(Path(shutil.copytree(made["workspace"].root, tmp_path / "w")))
    for method in SETTINGS:
        name = workspace.removals / f"neon.{method}.safetensors"
        name.parent.mkdir(exist_ok=True)
        shutil.copy(workspace.folder(made[method]) / tune.FILE, name)
    shelf = Shelf(workspace)

    def asked(method: str, **more: Any) -> trying.Request:
        return trying.Request(prompt="A neon cat.", removals=((f"neon.{method}", 1.0),), **more)

    region = "f" * (trying.CELLS**2 // 4)
    for method in ("gated_uce", "sae_guidance"):
        with pytest.raises(ConfigError, match="decides by itself where it acts: paint no region"):
            trying.check(shelf, asked(method, region=region))
        with explorer(workspace) as client:
            answer = client.post("/api/try", content=asked(method, region=region).query, headers={"origin": BASE})
            assert answer.status_code == 400 and "paint no region" in answer.json()["error"]
        trying.check(shelf, asked(method, first=1))
    trying.check(shelf, asked("saeuron", first=1, region=region))
    # Two steps in all: 0 to 1 is no limit.
    assert trying.span(shelf, asked("saeuron", last=1)) == (0, None)
    [part] = trying.removal_of(shelf, asked("gated_uce", first=1), 1.0).parts
    assert isinstance(part, LocalWatch) and (part.first, part.last) == (1, None)
