"""The whole method through the real command line, on the model that ships with the project."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from saeuron.methods.removal import Removal
from tests.end_to_end.process import LARGE, Cli, Done, ids, payload, rows, run_here

pytestmark = pytest.mark.timeout(600)


class TestRun:
    def test_says_what_was_removed_and_where_it_is(self, first: Done, original: Path) -> None:
        assert first.code == 0
        header = first.out.splitlines()[0].split()
        assert header[:2] == ["domain", "removed"] and header[-2:] == ["mean", "verdict"]
        body = [line.split()[:2] for line in first.out.splitlines()[2:4]]
        assert body == [["style", "stripes"], ["object", "cat"]]
        assert "0 found in place, 0 failed" in first.out
        assert "\nverdicts: " in first.out and "\nstripes: " in first.out and "\ncat: " in first.out
        assert f"workspace: {original / 'workspace'}" in first.out
        assert "next: saeuron generate" in first.out
        assert "Traceback" not in first.err

    def test_leaves_every_file_that_it_promises(self, workspace: Path) -> None:
        for concept, domain in {"stripes": "style", "cat": "object"}.items():
            removal = Removal.load(workspace / "removals" / f"{concept}.saeuron.safetensors")
            assert (removal.concept, removal.domain) == (concept, domain)
            assert (removal.method, removal.settings["n"]) == ("saeuron", 4)
            for kind in ("sheet", "scores"):
                with Image.open(workspace / "pictures" / f"{concept}.saeuron_{kind}.png") as image:
                    assert min(image.size) > 50
        assert not list(workspace.rglob("*.tmp"))

    def test_every_stage_left_what_it_makes(self, workspace: Path) -> None:
        stages = [artifact.rsplit("_v", 1)[0] for artifact in ids(workspace)]
        counts = {stage: stages.count(stage) for stage in stages}
        assert counts == {
            "prompts": 1,
            "capture": 3,
            "sae": 3,
            "score": 6,
            "totals": 3,
            "trials": 2,
            "removal": 2,
            "images": 3,
            "judgements": 6,
            "evaluation": 2,
            "pictures": 2,
        }

    @pytest.mark.parametrize(
        "view",
        [
            "prompts",
            "captures",
            "saes",
            "statistics",
            "statistics_by_latent",
            "scores",
            "top_latents",
            "removals",
            "removal_latents",
            "grid",
            "pictures",
            "images",
            "judgements",
            "metrics",
            "evaluations",
            "damage",
            "confusion",
            "runs",
            "features",
            "top_features",
        ],
    )
    def test_every_view_holds_rows(self, workspace: Path, view: str) -> None:
        [row] = rows(workspace, f"select count(*) as n from {view}")
        assert row["n"]

    def test_figures_of_both_families_are_there_with_what_they_are_compared_to(self, workspace: Path) -> None:
        found = rows(workspace, "select domain, concept, metric, value, unedited, low, high, n_images from metrics")
        assert {(r["domain"], r["concept"]) for r in found} == {("style", "stripes"), ("object", "cat")}
        assert {r["metric"] for r in found} >= {"UA", "IRA", "CRA"}
        for row in found:
            if row["value"] is not None:
                least = -1 if str(row["metric"]).endswith("-drop") else 0
                assert least <= row["low"] <= row["value"] <= row["high"] <= 1
                assert row["unedited"] is not None and row["n_images"]

    def test_the_run_is_on_record(self, workspace: Path) -> None:
        [run] = rows(workspace, "select state, made, cached, failed, message from runs")
        assert run == {"state": "completed", "made": run["made"], "cached": 0, "failed": 0, "message": ""}
        assert rows(workspace, "select concept from removals where outdated") == []

    def test_prefect_keeps_to_the_workspace(self, first: Done, original: Path) -> None:
        assert (original / "workspace" / ".prefect").is_dir()
        assert not (original / "home" / ".prefect").exists()

    def test_again_makes_nothing_and_says_the_same(self, cli: Cli, first: Done, workspace: Path, changed: Path) -> None:
        # In a copy elsewhere: a workspace can be moved.
        before = payload(changed)
        removal = changed / "removals" / "cat.saeuron.safetensors"
        removal.unlink()
        done = cli.run(changed, *LARGE)
        assert done.code == 0, done.err
        assert "steps: 0 made" in done.out and ", 0 failed" in done.out
        assert payload(changed) == before
        table = first.out.split("steps:")[0]
        assert done.out.startswith(table)
        assert removal.read_bytes() == (workspace / "removals" / "cat.saeuron.safetensors").read_bytes()


@pytest.fixture(scope="module")
def grown(
    changed: Path, server: None, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Done, set[str], dict[str, bytes]]:
    """`concept add`, and what was there before it."""
    file = tmp_path_factory.mktemp("concepts") / "checker.yaml"
    file.write_text("name: checker\ndomain: style\n")
    before = ids(changed), payload(changed)
    return run_here("concept", "add", file, "-w", changed, "--threads", "1"), *before


class TestConceptAdd:
    def test_makes_only_what_the_concept_needs(
        self, grown: tuple[Done, set[str], dict[str, bytes]], changed: Path
    ) -> None:
        done, before, files = grown
        assert done.code == 0, done.err
        new = sorted(artifact.rsplit("_v", 1)[0] for artifact in ids(changed) - before)
        # Unedited and edited images of the new prompts, and edited ones of the old.
        assert new == [
            "evaluation",
            *["images"] * 3,
            *["judgements"] * 6,
            "pictures",
            "prompts",
            "removal",
            "score",
            "totals",
            "totals",
            "trials",
        ]
        assert before <= ids(changed)
        assert {name: data for name, data in payload(changed).items() if name in files} == files

    def test_the_tables_know_it(self, grown: object, changed: Path) -> None:
        found = rows(changed, "select distinct concept from scores where domain = 'style'")
        assert {r["concept"] for r in found} == {"stripes", "neon", "dots", "checker"}
        # Other tests may have made removals in this workspace that are no longer in use; those are never outdated.
        query = "select concept, bool_or(outdated) as outdated from removals group by concept"
        outdated = {r["concept"]: r["outdated"] for r in rows(changed, query)}
        assert outdated == {"stripes": True, "cat": False, "checker": False}
        assert (changed / "removals" / "checker.saeuron.safetensors").is_file()
        assert (changed / "pictures" / "checker.saeuron_sheet.png").is_file()

    def test_old_removals_are_the_bytes_they_were(self, grown: object, workspace: Path, changed: Path) -> None:
        for concept in ("stripes", "cat"):
            name = f"removals/{concept}.saeuron.safetensors"
            assert (changed / name).read_bytes() == (workspace / name).read_bytes()

    def test_its_removal_names_what_it_was_computed_against(self, grown: object, changed: Path) -> None:
        removal = Removal.load(changed / "removals" / "checker.saeuron.safetensors")
        assert set(removal.provenance["reference"]) == {"stripes", "neon", "dots", "checker"}

    def test_adding_it_again_or_one_of_the_configuration(self, grown: object, changed: Path, tmp_path: Path) -> None:
        for name, domain, said in (
            ("neon", "style", "part of the configuration already"),
            ("cat", "style", "part of the configuration already (in object)"),
            ("grain", "stile", "did you mean 'style'"),
        ):
            (tmp_path / "c.yaml").write_text(f"name: {name}\ndomain: {domain}\n")
            done = run_here("concept", "add", tmp_path / "c.yaml", "-w", changed)
            assert done.code == 2 and said in done.complaint
        assert len(list((changed / "concepts").iterdir())) == 1

    def test_templates_that_do_not_name_it_are_refused_before_it_is_registered(
        self, grown: object, changed: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "c.yaml").write_text("name: grain\ndomain: style\ntemplates: {train: ['A {object}.']}\n")
        done = run_here("concept", "add", tmp_path / "c.yaml", "-w", changed)
        assert done.code == 2 and "no train template names {style} and another domain" in done.complaint
        assert len(list((changed / "concepts").iterdir())) == 1


class TestEvaluate:
    def test_makes_what_is_missing_and_answers_in_json(self, grown: object, changed: Path) -> None:
        before = ids(changed)
        done = run_here("evaluate", "neon", "-w", changed, "--threads", "1", "--json")
        assert done.code == 0, done.err
        answer = json.loads(done.out)
        assert [e["concept"] for e in answer["evaluations"]] == ["neon"] and answer["failures"] == []
        new = sorted(artifact.rsplit("_v", 1)[0] for artifact in ids(changed) - before)
        assert new == ["evaluation", "images", "judgements", "judgements", "pictures", "removal", "trials"]
        assert (changed / "removals" / "neon.saeuron.safetensors").is_file()
        # It did not change what later commands go by.
        assert json.loads((changed / "run.json").read_text())["tune"]["concepts"] == ["stripes", "cat"]


def halves(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    # Below the captions, on both sides of the gap.
    side = (pixels.shape[1] - 12) // 2
    return pixels[24:, :side], pixels[24:, -side:]


class TestGenerate:
    def test_edited_beside_unedited(self, workspace: Path, tmp_path: Path) -> None:
        out = tmp_path / "cat.png"
        prompt = "A drawing of a cat in stripes style."
        done = run_here(
            "generate",
            prompt,
            "--remove",
            "stripes",
            "--remove",
            "cat",
            "--out",
            out,
            "-w",
            workspace,
            "--threads",
            "1",
        )
        assert done.code == 0, done.err
        assert f"wrote {out}" in done.out
        with Image.open(out) as image:
            assert image.format == "PNG" and image.width > image.height

    def test_without_removals_there_is_one_picture(self, workspace: Path, tmp_path: Path) -> None:
        out = tmp_path / "same.png"
        done = run_here("generate", "A cat.", "--seed", "5", "--out", out, "-w", workspace, "--threads", "1")
        assert done.code == 0, done.err
        with Image.open(out) as image:
            assert image.size == (256, 256)
        assert "beside" not in done.out and "does not read" not in done.out
        done = run_here("generate", "A cat" + " a" * 30, "--out", out, "-w", workspace, "--threads", "1")
        assert "the prompt is longer than the model reads; it does not read 'a a a" in done.out

    def test_a_removal_by_its_file_at_another_number_of_steps(self, workspace: Path, tmp_path: Path) -> None:
        out, file = tmp_path / "other.png", workspace / "removals" / "cat.saeuron.safetensors"
        done = run_here(
            "generate", "A cat.", "--remove", file, "--steps", "2", "--out", out, "-w", workspace, "--threads", "1"
        )
        assert done.code == 0, done.err
        left, right = halves(out)
        assert left.shape == right.shape


class TestLook:
    """Commands that only read."""

    def test_status(self, workspace: Path) -> None:
        done = run_here("status", "-w", workspace)
        assert done.code == 0
        assert "outdated removals: none" in done.out and "damaged: none" in done.out
        page = json.loads(run_here("status", "-w", workspace, "--json").out)
        assert {s["stage"] for s in page["stages"]} >= {"capture", "sae", "score"} and page["problems"] == []

    def test_status_deep_names_the_file_with_a_flipped_byte(self, workspace: Path) -> None:
        path = next((workspace / "artifacts" / "score").glob("*/*/statistics.parquet"))
        data = path.read_bytes()
        try:
            path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
            assert run_here("status", "-w", workspace).code == 0
            done = run_here("status", "-w", workspace, "--deep")
        finally:
            path.write_bytes(data)
        assert done.code == 1
        assert str(path) in done.out and "next: " in done.out
        assert run_here("status", "-w", workspace, "--deep").code == 0

    def test_sql_formats(self, workspace: Path, tmp_path: Path) -> None:
        query = "select concept, settings['n']::INT as n, settings['gamma'] as gamma from removals order by concept"
        expected = [{"concept": "cat", "n": 4}, {"concept": "stripes", "n": 4}]
        table = run_here("sql", query, "-w", workspace)
        assert table.code == 0 and "(2 rows)" in table.out
        answer = json.loads(run_here("sql", query, "-w", workspace, "--format", "json").out)
        assert [{k: r[k] for k in ("concept", "n")} for r in answer] == expected
        text = run_here("sql", query, "-w", workspace, "--format", "csv").out
        assert [r["concept"] for r in csv.DictReader(io.StringIO(text))] == ["cat", "stripes"]
        out = tmp_path / "answer.parquet"
        done = run_here("sql", query, "-w", workspace, "--format", "parquet", "--out", out)
        assert done.code == 0 and str(out) in done.out
        from pyarrow import parquet

        assert parquet.read_table(out).num_rows == 2
        refused = run_here("sql", query, "-w", workspace, "--format", "parquet")
        assert refused.code == 2 and "--out" in refused.complaint

    @pytest.mark.parametrize("query", ["drop view removals", "select * from removal", "selec 1"])
    def test_sql_refuses_in_one_line(self, workspace: Path, query: str) -> None:
        done = run_here("sql", query, "-w", workspace)
        assert done.code == 2 and done.complaint and not done.out

    def test_sae_list_shows_ids_that_can_be_copied(self, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("COLUMNS", "80")
        text = run_here("sae", "list", "-w", workspace).out
        found = [path.name for path in (workspace / "artifacts" / "sae").iterdir()]
        assert found and all(f"\n{sae_id} " in text for sae_id in found)
        assert max(map(len, text.splitlines())) <= 80

    def test_concept_list(self, workspace: Path) -> None:
        found = json.loads(run_here("concept", "list", "-w", workspace, "--json").out)
        assert [(r["domain"], r["concept"]) for r in found] == [
            ("style", "stripes"),
            ("style", "neon"),
            ("style", "dots"),
            ("object", "cat"),
            ("object", "moon"),
            ("object", "star"),
        ]
        assert all(r["scored"] for r in found)
        assert [r["concept"] for r in found if r["method"]] == ["stripes", "cat"]
        text = run_here("concept", "list", "-w", workspace).out
        assert text.splitlines()[0].split()[:2] == ["domain", "concept"]

    def test_concept_show(self, workspace: Path) -> None:
        done = run_here("concept", "show", "stripes", "-w", workspace)
        assert done.code == 0
        assert "removal removal_v" in done.out and "UA" in done.out and "stripes.saeuron_sheet.png" in done.out
        page = json.loads(run_here("concept", "show", "neon", "-w", workspace, "--json").out)
        assert page["removals"] == [] and page["lines"][-1] == f"next: saeuron evaluate neon -w {workspace}"
