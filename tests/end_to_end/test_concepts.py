"""A finished workspace that lives on, through the real command line.

Concepts leave, come back and are refreshed, what nothing needs is deleted, what is damaged is made again.
"""

import json
import re
import shutil
from pathlib import Path

import pytest

from saeuron.methods.removal import Removal
from tasks.registry import runs
from tests.end_to_end.process import Done, ids, payload, rows, run_here
from tests.flows.upkeep.test_verify import flip

pytestmark = pytest.mark.timeout(600)


def scored(workspace: Path) -> dict[tuple[str, int, int], tuple[float, float]]:
    """(mean of the others, score) of the styles, by concept, timestep and latent, at one hookpoint."""
    query = (
        "select * from scores where domain = 'style' and hookpoint = 'unet.up_blocks.1.attentions.0' and latent < 500"
    )
    return {(r["concept"], r["timestep"], r["latent"]): (r["mean_other"], r["score"]) for r in rows(workspace, query)}  # type: ignore[misc]


def outdated(workspace: Path) -> list[object]:
    return [r["concept"] for r in rows(workspace, "select concept from removals where outdated order by concept")]


def public(workspace: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for folder in ("removals", "pictures") for p in (workspace / folder).iterdir()}


def changed_in(before: dict[str, bytes], after: dict[str, bytes]) -> set[str]:
    return {name for name in before | after if before.get(name) != after.get(name)}


@pytest.fixture(scope="module")
def living(workspace: Path, workspaces: Path, server: None) -> Path:
    """A copy whose concepts change from test to test, in their order."""
    return Path(shutil.copytree(workspace, workspaces / "living"))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    for name in ("checker", "neon"):
        (folder / f"{name}.yaml").write_text(f"name: {name}\ndomain: style\n")
    return {name: folder / f"{name}.yaml" for name in ("checker", "neon")}


def add(living: Path, file: Path) -> Done:
    done = run_here("concept", "add", file, "-w", living, "--threads", "1")
    assert done.code == 0, done.err
    return done


class TestConcepts:
    """In this order."""

    def test_one_that_leaves_is_not_among_the_others_any_more(self, living: Path, files: dict[str, Path]) -> None:
        alone, published = scored(living), public(living)
        add(living, files["checker"])
        assert outdated(living) == ["stripes"]
        with_it, before = scored(living), ids(living)
        assert {c for c, _, _ in with_it} == {"stripes", "neon", "dots", "checker"}
        done = run_here("concept", "drop", "checker", "-w", living)
        assert done.code == 0 and "checker has left scores and runs; nothing was deleted" in done.out
        # Bit for bit as if it had never been there, though all that it has still is.
        assert scored(living) == alone and ids(living) == before
        assert (living / "removals" / "checker.saeuron.safetensors").exists() and outdated(living) == []
        assert all(public(living)[name] == data for name, data in published.items())
        listed = run_here("concept", "list", "-w", living)
        assert "\ndropped: checker (saeuron concept add FILE brings one back)\n" in listed.out
        rows = json.loads(run_here("concept", "list", "-w", living, "--json").out)
        assert "checker" not in [r["concept"] for r in rows]

    def test_what_was_dropped_cannot_be_asked_for(self, living: Path) -> None:
        done = run_here("evaluate", "checker", "-w", living)
        assert done.code == 2 and "'checker'" in done.complaint

    def test_it_comes_back_without_anything_being_made(self, living: Path, files: dict[str, Path]) -> None:
        before, published = payload(living), public(living)
        done = add(living, files["checker"])
        assert "steps: 0 made" in done.out
        assert payload(living) == before and public(living) == published
        assert outdated(living) == ["stripes"] and "checker" in {c for c, _, _ in scored(living)}

    def test_one_of_the_configuration_leaves_and_comes_back(self, living: Path, files: dict[str, Path]) -> None:
        before, with_it = payload(living), scored(living)
        assert run_here("concept", "drop", "neon", "-w", living).code == 0
        assert {c for c, _, _ in scored(living)} == {"stripes", "dots", "checker"}
        assert outdated(living) == ["checker", "stripes"]
        add(living, files["neon"])
        assert scored(living) == with_it and payload(living) == before

    def test_refreshing_one_changes_that_one(self, living: Path, files: dict[str, Path]) -> None:
        run_here("concept", "drop", "neon", "-w", living)
        before = public(living)
        done = run_here("concept", "refresh", "stripes", "-w", living, "--threads", "1")
        assert done.code == 0, done.err
        rows = [line for line in done.out.splitlines() if line.startswith(("stripes  ", "         after"))]
        assert rows[0].split()[:4] == ["stripes", "before", "3", "concepts"]
        # The list of what changed goes on in the next line.
        assert rows[1].split()[:4] == ["after", "3", "concepts:", "+checker"] and " -neon " in done.out
        assert changed_in(before, public(living)) >= {"stripes.saeuron.safetensors"}
        assert {name.split("_")[0].split(".")[0] for name in changed_in(before, public(living))} == {"stripes"}
        removal = Removal.load(living / "removals" / "stripes.saeuron.safetensors")
        assert set(removal.provenance["reference"]) == {"stripes", "dots", "checker"}
        # The one that was not refreshed is the bytes it was, and says so.
        assert outdated(living) == ["checker"]
        listed = {
            r["concept"]: r["outdated"] for r in json.loads(run_here("concept", "list", "-w", living, "--json").out)
        }
        assert listed == {
            "stripes": False, "dots": None, "checker": True, "cat": False, "moon": None, "star": None,
        }  # fmt: skip
        again = run_here("concept", "refresh", "stripes", "-w", living)
        assert (again.code, again.out) == (0, "stripes is up to date\n")

    def test_the_runs_noted_what_they_used(self, living: Path) -> None:
        used = [runs.record(p).artifacts or {} for p in sorted((living / "runs").glob("*.json"))]
        assert [sum(not cached for cached in each.values()) for each in used] == [33, 17, 0, 0, 9]
        assert set().union(*used) == ids(living)
        done = run_here("diff", "last~3", "last", "-w", living)
        assert done.code == 0 and "configuration: no keys differ" in done.out
        assert re.search(r"^artifacts: .* 9 only in B$", done.out, re.M), done.out
        assert "0 beyond intervals" in done.out

    def test_gc_deletes_what_nothing_refers_to(self, living: Path, files: dict[str, Path]) -> None:
        before, published = ids(living), public(living)
        run_here("concept", "drop", "checker", "-w", living)
        listed = json.loads(run_here("gc", "--dry-run", "-w", living, "--json").out)
        assert ids(living) == before and public(living) == published
        done = run_here("gc", "-w", living)
        assert done.code == 0 and f"{len(listed)} were deleted" in done.out
        gone = before - ids(living)
        assert gone == {row["artifact"] for row in listed if row["artifact"]}
        # The removal of stripes before it was refreshed, with its images and figures; those of checker. Not the
        # statistics of checker, which the removal of stripes was computed against; those of neon, for nobody is now.
        assert sorted(i.split("_v")[0] for i in gone) == [
            "evaluation", "evaluation", "images", "images", "images", "images", *8 * ["judgements"],
            "pictures", "pictures", "removal", "removal", "score", *6 * ["totals"], "trials", "trials",
        ]  # fmt: skip
        assert changed_in(published, public(living)) == {
            "checker.saeuron.safetensors", "checker.saeuron_scores.png", "checker.saeuron_sheet.png",
        }  # fmt: skip
        assert run_here("verify", "--deep", "-w", living).code == 0
        assert "0 were deleted" in run_here("gc", "-w", living).out


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_what_is_damaged_is_made_again_with_the_same_bytes(workspace: Path, workspaces: Path, server: None) -> None:
    damaged = Path(shutil.copytree(workspace, workspaces / "damaged"))
    before, published = payload(damaged), public(damaged)
    places = {
        "artifacts/capture/*/*/00000.tar": flip,
        "artifacts/capture/*/*/00001.tar": truncate,
        "artifacts/capture/*/*/00002.tar": Path.unlink,
        "artifacts/capture/*/*/00000.tar.json": flip,
        "artifacts/sae/*/sae.safetensors": flip,
        "artifacts/score/*/*/statistics.parquet": flip,
        "artifacts/score/*/manifest.json": Path.unlink,
        "artifacts/removal/*/removal.safetensors": flip,
        "artifacts/removal/*/manifest.json": flip,
        "artifacts/images/*/00000.tar": flip,
        "artifacts/judgements/*/judgements.parquet": truncate,
        "artifacts/evaluation/*/metrics.parquet": flip,
        "artifacts/pictures/*/sheet.png": truncate,
        "run.json": truncate,
        "removals/stripes.saeuron.safetensors": flip,
        "pictures/cat.saeuron_scores.png": Path.unlink,
    }
    planted = []
    for i, (pattern, do) in enumerate(places.items()):
        # Not always of the first artifact, and no file twice.
        found = sorted(p for p in damaged.glob(pattern) if p not in planted)
        planted.append(found[i % len(found)])
        do(planted[-1])
    done = run_here("verify", "-w", damaged)
    assert done.code == 1 and "sae.safetensors" not in done.out and "missing" in done.out
    done = run_here("verify", "--deep", "-w", damaged, "--json")
    named = {row["path"] for row in json.loads(done.out)["damage"]}
    assert done.code == 1 and {str(p) for p in planted} <= named
    done = run_here("verify", "--deep", "--repair", "-w", damaged)
    assert done.code == 1, done.err
    commands = [line.split()[2:] for line in done.out.splitlines() if line.startswith("next: saeuron ")]
    assert [words[0] for words in commands] == ["run"]
    assert run_here("verify", "--deep", "-w", damaged).code == 0
    done = run_here(*commands[0], "--threads", "1")
    assert done.code == 0, done.err
    assert changed_in(before, payload(damaged)) == set()
    assert changed_in(published, public(damaged)) == set()
    assert run_here("verify", "--deep", "-w", damaged).code == 0
