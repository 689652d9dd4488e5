"""`saeuron sae report` and `saeuron latent show`, from the command line to what is in the workspace."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from flows.commands.sae_report import latents, report
from flows.run import Run
from flows.sae.report import check_latent, diagnosis_job, latent_lines, sae_report, sparkline
from saeuron.errors import ConfigError, UnknownName
from saeuron.sae.autoencoder import SAE, SAEInfo
from storage import Workspace
from storage.identity import artifact_id
from tasks.registry import runs
from tasks.registry.saes import find
from tasks.sae.page import Diagnosis, newest
from tasks.sae.report import diagnose
from tests.end_to_end.process import start_server
from tests.sae_workspace import HOOKPOINTS, build

app = typer.Typer()
app.command("report")(report)
app.add_typer(latents, name="latent")

FEW = ("--images", "4", "--rows", "40")


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest) -> None:
    start_server(request.config)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Workspace:
    """Leave it as you found it."""
    return build(tmp_path_factory.mktemp("built") / "workspace", tiny_model_folder)


@pytest.fixture(scope="module")
def looked(built: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A copy in which the first SAE was looked at, without Prefect."""
    workspace = Workspace.open(shutil.copytree(built.root, tmp_path_factory.mktemp("looked") / "workspace"))
    run = Run.of(workspace, runs.remembered(workspace), "cpu")
    sae = find(workspace, HOOKPOINTS[0])
    diagnose.fn(diagnosis_job(run, sae, workspace.read(sae.inputs["capture"]), images=4, rows=40))
    return workspace


def call(*words: str | Path) -> Any:
    """The command on one thread; the environment stays as it was."""
    before = dict(os.environ)
    try:
        return CliRunner().invoke(app, [*(str(w) for w in words), "--threads", "1"])
    finally:
        os.environ.clear()
        os.environ.update(before)


def copied(sae_id: str, workspace: Workspace, name: str) -> str:
    """The same SAE under another id, as if it came from elsewhere."""
    other = artifact_id("sae", 2, {"name": name})
    SAE.load(workspace.folder(sae_id)).save(workspace.folder(other))
    about = {"hookpoint": workspace.manifest(sae_id).summary["hookpoint"], "variant": "topk"}
    workspace.commit(other, config={}, inputs={}, summary=about, seconds=0.0)
    return other


class TestFind:
    def test_by_id_by_its_beginning_and_by_hookpoint(self, built: Workspace) -> None:
        for hookpoint in HOOKPOINTS:
            found = find(built, hookpoint)
            assert found.summary["hookpoint"] == hookpoint
            code = found.id.rpartition("_")[2]
            for name in (found.id, found.id[:12], code, code[:6]):
                assert find(built, name).id == found.id, name

    def test_the_beginning_of_several(self, built: Workspace) -> None:
        with pytest.raises(ConfigError, match=r"'sae_v2' is the beginning of 2 SAEs: sae_v2_\w+, sae_v2_\w+;"):
            find(built, "sae_v2")

    def test_what_is_not_there(self, built: Workspace) -> None:
        wrong = HOOKPOINTS[0].replace("attentions", "atentions")
        with pytest.raises(UnknownName, match=rf"unknown SAE '{wrong}': did you mean '{HOOKPOINTS[0]}'"):
            find(built, wrong)
        near = find(built, HOOKPOINTS[0]).id
        with pytest.raises(UnknownName, match=near):
            find(built, near[:-1] + "x")
        with pytest.raises(UnknownName, match="unknown SAE ''"):
            find(built, "")

    def test_of_several_at_one_hookpoint_the_one_that_was_scored(self, built: Workspace, tmp_path: Path) -> None:
        workspace = Workspace.open(shutil.copytree(built.root, tmp_path / "workspace"))
        first, second = (find(workspace, h).id for h in HOOKPOINTS)
        other, later = copied(first, workspace, "a"), copied(second, workspace, "b")
        assert find(workspace, HOOKPOINTS[0]).id == first != other
        # Never scored: the newest.
        assert find(workspace, HOOKPOINTS[1]).id == later != second


class TestJob:
    def run(self, workspace: Workspace) -> Run:
        return Run.of(workspace, runs.remembered(workspace), "cpu")

    def test_samples_as_the_capture_did(self, built: Workspace) -> None:
        sae = find(built, HOOKPOINTS[0])
        capture = built.read(sae.inputs["capture"])
        run = self.run(built)
        other = run.config.model_copy(update={"model": run.config.model.model_copy(update={"steps": 9})})
        job = diagnosis_job(Run.of(built, other, "cpu"), sae, capture, 10, 20)
        assert job.model.steps == 2 and job.model.spec == run.config.model.spec
        assert (job.config.images, job.config.rows, job.config.half, job.config.read) == (
            10,
            20,
            "conditional",
            "output",
        )
        assert job.prompts_id == capture.inputs["prompts"]

    @pytest.mark.parametrize(
        ("half", "expected"),
        [("both", "conditional"), ("unconditional", "unconditional"), ("conditional", "conditional")],
    )
    def test_reads_what_the_sae_was_trained_on(self, built: Workspace, half: str, expected: str) -> None:
        sae = find(built, HOOKPOINTS[0])
        capture = built.read(sae.inputs["capture"])
        config = {**capture.config, "config": {**capture.config["config"], "half": half, "read": "update"}}
        job = diagnosis_job(self.run(built), sae, capture.model_copy(update={"config": config}), 10, 20)
        assert job.config.half == expected and job.config.read == "update"

    def test_another_model_is_refused(self, built: Workspace) -> None:
        sae = find(built, HOOKPOINTS[0])
        capture = built.read(sae.inputs["capture"])
        summary = {**capture.summary, "model_id": "another"}
        with pytest.raises(ConfigError, match="was trained on the model another, but"):
            diagnosis_job(self.run(built), sae, capture.model_copy(update={"summary": summary}), 10, 20)


class TestFlow:
    @pytest.mark.usefixtures("server")
    def test_measures_once_and_compares_with_the_next_seed(self, built: Workspace, tmp_path: Path) -> None:
        workspace = Workspace.open(shutil.copytree(built.root, tmp_path / "workspace"))
        sae, config = find(workspace, HOOKPOINTS[0]), runs.remembered(workspace)

        def look(**how: Any) -> dict[str, Any]:
            return sae_report(config, str(workspace.root), sae.id, images=4, rows=40, threads=1, **how)

        alone = look()
        assert alone["stability"] is None and alone["counts"] == {"made": 1, "cached": 0, "failed": 0}
        with_seed = look(second_seed=True)
        assert with_seed["diagnosis"] == alone["diagnosis"]
        assert with_seed["counts"] == {"made": 2, "cached": 1, "failed": 0}
        against = workspace.manifest(with_seed["stability"]).summary["against_id"]
        trained = workspace.manifest(against)
        assert trained.config == {**sae.config, "config": {**sae.config["config"], "seed": 1}}
        assert trained.inputs == sae.inputs
        again = look(second_seed=True)
        assert again["counts"] == {"made": 0, "cached": 3, "failed": 0}
        # What was compared stays on the page of a later report.
        assert look()["stability"] == with_seed["stability"]
        # The other SAE does not take the hookpoint's name.
        assert find(workspace, HOOKPOINTS[0]).id == sae.id
        named = look(against=sae.id)
        assert workspace.manifest(named["stability"]).summary["stability"] == pytest.approx(1)
        records = [runs.record(p) for p in sorted(workspace.runs.glob("*.json"))]
        assert [r.state for r in records] == ["completed"] * 5
        assert {r.flow for r in records} == {"sae report"}
        assert alone["diagnosis"] in (records[0].artifacts or {})

    @pytest.mark.usefixtures("server")
    def test_an_sae_from_elsewhere(self, built: Workspace, tmp_path: Path) -> None:
        workspace = Workspace.open(shutil.copytree(built.root, tmp_path / "workspace"))
        foreign = artifact_id("sae", 2, {"name": "foreign"})
        SAE(SAEInfo("jumprelu", 32, 40, 0, HOOKPOINTS[1])).save(workspace.folder(foreign))
        about = {"hookpoint": HOOKPOINTS[1], "variant": "jumprelu"}
        workspace.commit(foreign, config={}, inputs={}, summary=about, seconds=0.0)
        out = tmp_path / "foreign.html"
        done = call("report", foreign, "-w", workspace.root, *FEW, "--out", out)
        assert done.exit_code == 0, done.output
        assert "was not scored yet" in out.read_text()
        with pytest.raises(ConfigError, match="the activations that it was trained on are not in this workspace"):
            sae_report(runs.remembered(workspace), str(workspace.root), foreign, second_seed=True, images=4, rows=40)
        records = [runs.record(p) for p in sorted(workspace.runs.glob("*.json"))]
        assert sorted(r.state for r in records) == ["completed", "failed"]

    @pytest.mark.usefixtures("server")
    def test_the_page_and_what_is_said(self, built: Workspace, tmp_path: Path) -> None:
        workspace = Workspace.open(shutil.copytree(built.root, tmp_path / "workspace"))
        sae_id = find(workspace, HOOKPOINTS[0]).id
        done = call("report", sae_id[:14], "-w", workspace.root, *FEW, "--against", sae_id)
        assert done.exit_code == 0, done.output
        page = workspace.reports / f"{sae_id}.html"
        assert f"page: {page}" in done.stdout and f"SAE at {HOOKPOINTS[0]}" in page.read_text()
        assert f"by chance; encoders 1.000; against {sae_id}" in done.stdout
        assert "next: saeuron latent show" in done.stdout
        told = json.loads(call("report", sae_id, "-w", workspace.root, *FEW, "--json").stdout)
        assert told["page"] == str(page) and told["against"] == sae_id
        assert told["figures"]["images"] == 4 and told["figures"]["halves"]["conditional"]["fvu"] > 0


class TestLatent:
    def test_one_latent_on_eighty_columns(self, looked: Workspace, tmp_path: Path) -> None:
        out = tmp_path / "latent.png"
        done = call("latent", "show", HOOKPOINTS[0], "7", "-w", looked.root, "--out", out)
        assert done.exit_code == 0, done.output
        lines = done.stdout.splitlines()
        assert lines[0] == f"latent 7 of {find(looked, HOOKPOINTS[0]).id}"
        assert lines[-1] == f"picture: {out}" and out.stat().st_size > 5000
        assert max(map(len, lines[:-1])) <= 80
        text = done.stdout
        assert "log10 density" in text and "nearest decoder rows: " in text and "noisy third" in text
        assert "neon" in text and "dots" in text and "style" in text
        # Nothing was run for it.
        assert not list(looked.runs.glob("*.json"))

    def test_as_json(self, looked: Workspace) -> None:
        done = call("latent", "show", HOOKPOINTS[0], "7", "-w", looked.root, "--json")
        told = json.loads(done.stdout)
        assert told["latent"] == 7 and len(told["neighbours"]) == 5 and len(told["scores"]) == 2
        assert [p["timestep"] for p in told["profile"]] == [999, 499]
        assert told["picture"].startswith(str(looked.pictures)) and Path(told["picture"]).exists()
        ranks = [e["rank"] for e in told["examples"]]
        assert ranks == sorted(set(ranks)) and ranks[0] == 1

    def test_a_latent_that_is_not_there(self, looked: Workspace) -> None:
        found = newest(looked, "diagnosis", sae_id=find(looked, HOOKPOINTS[0]).id)
        assert found is not None
        diagnosis = Diagnosis(looked, found.id)
        for latent in (-1, 32, 10**9):
            with pytest.raises(ConfigError, match=rf"there is no latent {latent}: sae_v2_\w+ has 32; .* from 0 to 31"):
                check_latent(diagnosis.sae_id, diagnosis.n_latents, latent)
        check_latent(diagnosis.sae_id, diagnosis.n_latents, 31)

    def test_it_is_refused_before_anything_is_measured(
        self, looked: Workspace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tasks.sae.page.newest", lambda *_, **__: pytest.fail("a measurement was looked for"))
        done = call("latent", "show", HOOKPOINTS[0], "99999", "-w", looked.root)
        assert "there is no latent 99999" in str(done.exception)

    def test_a_narrow_terminal_loses_no_word(self, looked: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
        found = newest(looked, "diagnosis", sae_id=find(looked, HOOKPOINTS[0]).id)
        assert found is not None
        diagnosis = Diagnosis(looked, found.id)
        [latent] = diagnosis.describe([0], near=True)
        monkeypatch.setenv("COLUMNS", "60")
        said = latent_lines(diagnosis, latent)
        assert "asked for in" in said[-1]
        table = said[-2].splitlines()
        assert max(map(len, table)) <= 60
        words = [example.prompt.split() for example in latent.examples]
        start = table[0].index("prompt")
        assert " ".join(line[start:] for line in table[2:]).split() == [w for ws in words for w in ws]


def test_the_end_of_a_hookpoint_will_do_where_no_other_ends_so(looked: Workspace) -> None:
    whole = find(looked, HOOKPOINTS[0])
    assert find(looked, HOOKPOINTS[0].partition(".")[2]).id == whole.id
    ends = HOOKPOINTS[0].rpartition(".")[2]
    with pytest.raises(UnknownName, match="unknown SAE"):
        find(looked, ends[1:])


class TestMistakes:
    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (("report", "nothing"), "unknown SAE 'nothing'"),
            (("report", HOOKPOINTS[0], "--against", "nothing"), "unknown SAE 'nothing'"),
            (("report", HOOKPOINTS[0], "--against", "x", "--stability"), "give one of the two"),
            (("report", HOOKPOINTS[0], "--out", "page.pdf"), "ends in .html"),
            (("report", HOOKPOINTS[0], "--device", "cuda:99"), "cuda:99"),
            (("latent", "show", "nothing", "3"), "unknown SAE 'nothing'"),
            (("latent", "show", HOOKPOINTS[0], "3", "--out", "page.html"), "ends in .png"),
            (("latent", "show", HOOKPOINTS[0], "32"), "there is no latent 32"),
            (("latent", "show", HOOKPOINTS[0], "3", "--attribution"), "is not a cross-attention"),
        ],
    )
    def test_are_one_line_and_leave_no_run(self, looked: Workspace, words: tuple[str, ...], said: str) -> None:
        done = call(*words, "-w", looked.root)
        assert isinstance(done.exception, ConfigError | UnknownName), done.exception
        assert said in str(done.exception) and "\n" not in str(done.exception)
        assert not list(looked.runs.glob("*.json"))

    def test_no_workspace(self, tmp_path: Path) -> None:
        from storage.errors import NotAWorkspace

        for words in (("report", "x"), ("latent", "show", "x", "0")):
            assert isinstance(call(*words, "-w", tmp_path / "none").exception, NotAWorkspace)


def test_a_sparkline_scales_values_to_eight_heights() -> None:
    assert sparkline([0.0, 0.5, 1.0]) == "▁▅█"
    assert sparkline([0.0, 0.0]) == "▁▁"
    assert sparkline([-1.0, 2.0]) == "▁█"
