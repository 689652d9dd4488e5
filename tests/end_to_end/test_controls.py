"""Controls through the real command line: a run that has them, and one that is done."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from flows.config import load
from saeuron.methods.removal import Removal
from saeuron.pages.report import figures_of
from storage import Workspace
from tests.end_to_end.process import LARGE, TINY, Done, rows, run_here
from tests.end_to_end.test_report import changed

pytestmark = pytest.mark.timeout(600)
SETTINGS = ("controls.methods=[untrained,random]", "controls.concepts=[stripes]")


@pytest.fixture(scope="module")
def arguments() -> list[str]:
    return ["run", str(TINY), *LARGE, *(word for setting in SETTINGS for word in ("--set", setting))]


@pytest.fixture(scope="module")
def ran(server: Path, workspace: Path, workspaces: Path, arguments: list[str]) -> tuple[Done, Path]:
    """A run that has made all but the controls before."""
    folder = Path(shutil.copytree(workspace, workspaces / "controls"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "120")
        return run_here(*arguments, "-w", str(folder)), folder


def test_controls_stand_in_the_table_and_below_it(ran: tuple[Done, Path]) -> None:
    done, _ = ran
    assert done.code == 0, done.err + done.out
    body = [line.split()[1:3] for line in done.out.splitlines()[2:6]]
    assert body == [["stripes", "saeuron"], ["stripes", "untrained"], ["stripes", "random"], ["cat", "saeuron"]]
    told = [line for line in done.out.splitlines() if line.startswith("style: saeuron ")]
    assert ["untrained" in line for line in told] == [True, False] and "random" in told[1]
    assert all("1 concept, " in line and "no interval" in line for line in told) and "object: saeuron" not in done.out
    assert "No control was run" not in done.out


def test_removals_by_controls_are_not_published_and_none_is_missed(ran: tuple[Done, Path]) -> None:
    _, folder = ran
    assert sorted(p.name for p in (folder / "removals").iterdir()) == [
        "cat.saeuron.safetensors", "stripes.saeuron.safetensors",
    ]  # fmt: skip
    done = run_here("verify", "--deep", "-w", folder)
    assert done.code == 0, done.out
    # Those that were published are.
    gone = (folder / "removals" / "cat.saeuron.safetensors").rename(folder / "aside")
    missed = run_here("verify", "-w", folder)
    gone.rename(folder / "removals" / "cat.saeuron.safetensors")
    assert missed.code == 1 and "cat.saeuron" in missed.out and "untrained" not in missed.out


def test_a_report_checks_comparisons_and_controls_too(ran: tuple[Done, Path], tmp_path: Path) -> None:
    _, folder = ran
    page = tmp_path / "run.html"
    assert run_here("report", "-w", folder, "--out", page).code == 0
    done = run_here("report", "--check", "--out", page, "-w", folder, "--json")
    assert done.code == 0 and json.loads(done.out)["differ"] == [], done.out
    html = page.read_text()
    figures = figures_of(html)
    compared = [name for name in figures if name.startswith("comparison_")]
    rows_beside = [name for name in figures if name.startswith("beside evaluation_")]
    assert len(compared) == len(rows_beside) == 2
    figures[compared[0]]["difference"] -= 0.01
    figures[rows_beside[1]]["CRA"] -= 0.01
    done = run_here(
        "report", "--check", "--out", changed(html, figures, tmp_path / "other.html"), "-w", folder, "--json"
    )
    differ = json.loads(done.out)["differ"]
    assert done.code == 1 and len(differ) == 2
    assert any(" beside " in line and ": difference: the report says" in line for line in differ)
    assert any(line.startswith("stripes by ") and ": CRA: the report says" in line for line in differ)


def test_comparisons_are_the_differences_of_the_figures(ran: tuple[Done, Path]) -> None:
    _, folder = ran
    found = rows(folder, "select * from comparisons order by control desc")
    assert [(r["domain"], r["method"], r["control"], r["concepts"]) for r in found] == [
        ("style", "saeuron", control, ["stripes"]) for control in ("untrained", "random")
    ]
    for row in found:
        [mean] = rows(
            folder,
            "select avg(value) filter (method = 'saeuron') - avg(value) filter (method != 'saeuron') as mean "
            f"from metrics where method in ('saeuron', '{row['control']}') and concept = 'stripes' "
            "and metric in ('UA', 'IRA', 'CRA')",
        )
        assert row["difference"] == pytest.approx(mean["mean"], abs=1e-12)
        # UA has a prompt for each of three objects, and an interval needs six.
        assert row["low"] is row["high"] is None and row["n"] == row["n_prompts"] > 0


def test_each_dictionary_is_scored_for_itself_and_controls_are_not_published(ran: tuple[Done, Path]) -> None:
    _, folder = ran
    kinds = rows(folder, "select dictionary, count(*) as saes from saes group by all order by 1")
    assert kinds == [{"dictionary": "trained", "saes": 3}, {"dictionary": "untrained", "saes": 3}]
    scored = rows(
        folder,
        "select dictionary, count(distinct concept) as concepts from top_latents join saes using (sae_id) group by all",
    )
    assert sorted((r["dictionary"], r["concepts"]) for r in scored) == [("trained", 6), ("untrained", 6)]
    assert {p.name for p in (folder / "removals").iterdir()} == {
        f"{concept}.saeuron.safetensors" for concept in ("stripes", "cat")
    }
    workspace = Workspace.open(folder, create=False)
    loaded = {
        m.summary["method"]: Removal.load(workspace.folder(m.id) / "removal.safetensors")
        for m in workspace.artifacts("removal")
        if m.summary["concept"] == "stripes"
    }
    ids = {method: {edit.sae_id for edit in removal.edits} for method, removal in loaded.items()}
    assert ids["saeuron"] == ids["random"] and not ids["saeuron"] & ids["untrained"]


def test_a_second_run_makes_nothing_and_nothing_is_garbage(ran: tuple[Done, Path], arguments: list[str]) -> None:
    _, folder = ran
    again = run_here(*arguments, "-w", folder)
    assert again.code == 0 and "steps: 0 made" in again.out
    assert "0 would be deleted" in run_here("gc", "--dry-run", "-w", folder).out


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["controls.methods=[untrain]"], "unknown method 'untrain': did you mean 'untrained'"),
        (["controls.concepts=[moon]"], "controls.concepts names 'moon', which is not in tune.concepts"),
        (["controls.concepts=[strips]"], "unknown concept 'strips': did you mean 'stripes'"),
        (["controls.methods=[random,random]"], "controls.methods names one twice"),
        (["controls.methods=[frozen]", "saes={unet.up_blocks.0.attentions.1: sae_v2_0}"], "saes gives one at"),
    ],
)
def test_mistakes_are_said_at_once(settings: list[str], said: str, tmp_path: Path) -> None:
    done = run_here("run", TINY, "-w", tmp_path / "w", *(word for s in settings for word in ("--set", s)))
    assert done.code == 2 and said in done.err + done.out


def test_a_row_of_the_benchmark_is_of_the_same_images(
    ran: tuple[Done, Path], arguments: list[str], tmp_path: Path
) -> None:
    _, folder = ran
    told = [word for word in arguments[2:] if word != "--set"]
    config = load(str(TINY), [*told, "tune.concepts=[stripes]"])
    (protocol := tmp_path / "protocol.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    found = {}
    for method in ("saeuron", "untrained"):
        done = run_here("bench", protocol, method, "-w", folder, "--json")
        assert done.code == 0, done.err
        found[method] = json.loads(done.out)
    [compared] = rows(folder, "select distinct difference, low, high, n from comparisons where control = 'untrained'")
    row = found["saeuron"]
    assert {name: row["difference"][name] for name in ("value", "low", "high", "n_images")} == pytest.approx(
        dict(zip(("value", "low", "high", "n_images"), compared.values(), strict=True))
    )
    assert found["untrained"]["difference"] is None
    metrics = rows(folder, "select method, metric, value, unedited from metrics where concept = 'stripes'")
    for m in metrics:
        if m["method"] in found and m["metric"] in ("UA", "IRA", "CRA"):
            [one] = found[str(m["method"])]["removals"]
            assert (one["edited"][m["metric"]], one["unedited"][m["metric"]]) == (m["value"], m["unedited"])
    assert row["seconds"] > 0 and row["images"] == compared["n"]
