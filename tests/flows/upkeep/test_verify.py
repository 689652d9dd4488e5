"""What `saeuron verify` finds in a workspace whose artifacts are a few bytes each, and what --repair does about it."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from flows.config import load
from flows.upkeep import verify
from saeuron.config import ConceptConfig
from saeuron.errors import ConfigError
from storage import Workspace
from storage.dense import shards
from storage.files import write_atomic
from storage.identity import artifact_id
from storage.manifests import Manifest
from storage.seals import sealed_page
from tasks import stages
from tasks.registry import concepts, runs
from tests.end_to_end.process import TINY, run_here

GAMMAS = (-1.0, -2.0)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


DAMAGES: dict[str, Callable[[Path], None]] = {"flip": flip, "truncate": truncate, "delete": Path.unlink}


def removal(path: Path, removal_id: str, gamma: float) -> None:
    path.parent.mkdir(parents=True)
    about = {"concept": "neon", "method": "saeuron", "provenance": {"removal_id": removal_id}}
    save_file({"factor": np.full(40, gamma, np.float32)}, path, metadata={"json": json.dumps(about)})


def commit(workspace: Workspace, stage: str, write: Callable[[Path, str], None], **summary: Any) -> Manifest:
    """An artifact as a run leaves it."""
    config = {"stage": stage, **summary}
    name = artifact_id(stage, 1, config)
    write(workspace.folder(name), name)
    inputs = {"removals": summary.pop("removals")} if "removals" in summary else {}
    places = stages.every()[stage].publishes if "concept" in summary else {}
    publishes = {file: place.format_map(summary) for file, place in places.items()}
    return workspace.commit(name, config=config, inputs=inputs, summary=summary, seconds=1.0, publishes=publishes)


def files(**contents: bytes) -> Callable[[Path, str], None]:
    def write(folder: Path, name: str) -> None:
        for file, data in contents.items():
            path = folder / file.replace("_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

    return write


def tars(folder: Path, name: str) -> None:
    for i in range(2):
        shards.write_shard(folder / f"0000{i}.tar", [("k", {"npy": b"\x93NUMPY\x01\x00v\x00" + _npy(i)})], {})


def _npy(i: int) -> bytes:
    header = b"{'descr': '<f2', 'fortran_order': False, 'shape': (64,), }".ljust(117) + b"\n"
    return header + np.full(64, i, np.float16).tobytes()


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workspace = Workspace.open(tmp_path_factory.mktemp("verify") / "w")
    config = load(str(TINY))
    runs.remember(workspace, config)
    with runs.living(workspace, "pipeline", config) as run_id:
        commit(workspace, "capture", tars)
        commit(
            workspace,
            "sae",
            files(sae_safetensors=bytes(500), cfg_json=b'{"k": 8, "width": 160, "note": "as written"}'),
        )
        commit(workspace, "score", files(statistics_parquet=bytes(300)), concept="cat")
        for gamma in GAMMAS:
            made = commit(
                workspace,
                "removal",
                lambda folder, name, gamma=gamma: removal(folder / "removal.safetensors", name, gamma),
                concept="neon",
                method="saeuron",
                gamma=gamma,
            )
        commit(workspace, "images", tars, removals=[made.id], images=2)
        commit(workspace, "evaluation", files(metrics_parquet=bytes(200)), concept="cat", method="saeuron")
        commit(workspace, "pictures", files(sheet_png=bytes(90), scores_png=bytes(80)), concept="cat", method="saeuron")
        used = {m.id: False for m in workspace.artifacts() if m.stage != "pictures"}
        runs.finish(workspace, run_id, "completed", {"made": 7}, artifacts=used)
    concepts.add(workspace, config, ConceptConfig(name="grain", domain="style"))
    # The first of the two removals is the one in use, though it is not the newest.
    first = next(m for m in workspace.artifacts("removal") if m.summary["gamma"] == GAMMAS[0])
    for manifest in (first, *workspace.artifacts("pictures")):
        for path, file in verify.copies(workspace, manifest).items():
            path.parent.mkdir(exist_ok=True)
            shutil.copy(workspace.folder(manifest.id) / file.name, path)
    return workspace.root


@pytest.fixture
def whole(template: Path, tmp_path: Path) -> Workspace:
    return Workspace.open(shutil.copytree(template, tmp_path / "w"))


PLACES = {
    "shard": "artifacts/capture/*/00001.tar",
    "sidecar": "artifacts/capture/*/00001.tar.json",
    "weights": "artifacts/sae/*/sae.safetensors",
    "settings": "artifacts/sae/*/cfg.json",
    "manifest": "artifacts/sae/*/manifest.json",
    "statistics": "artifacts/score/*/statistics.parquet",
    "images": "artifacts/images/*/00000.tar",
    "metrics": "artifacts/evaluation/*/metrics.parquet",
    "picture": "artifacts/pictures/*/sheet.png",
    "removal": "removals/neon.saeuron.safetensors",
    "contact sheet": "pictures/cat.saeuron_sheet.png",
    "run": "runs/*.json",
    "run's configuration": "runs/configs/*.json",
    "configuration": "run.json",
    "concept": "concepts/0000.json",
    "mark": "workspace.json",
}
HASHED = {"shard", "weights", "statistics", "images", "metrics", "picture", "removal", "contact sheet"}
"""A flipped byte in these is seen by reading all of it."""
HARMLESS = {("concept", "delete")}
"""A concept whose record is gone was never added."""


def test_a_whole_workspace_is_clean(whole: Workspace) -> None:
    before = sorted(whole.root.rglob("*"))
    for deep in (False, True):
        assert verify.find(whole, deep) == []
    done = run_here("verify", "--deep", "-w", whole.root)
    assert (done.code, done.out) == (0, f"workspace: {whole.root}\ndamaged: none\n")
    assert sorted(whole.root.rglob("*")) == before


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("place", PLACES)
def test_each_damage_is_found_and_put_away(whole: Workspace, place: str, how: str) -> None:
    [path] = whole.root.glob(PLACES[place])
    before = {p: p.read_bytes() for p in whole.root.rglob("*") if p.is_file()}
    DAMAGES[how](path)
    planted = path.read_bytes() if path.exists() else None
    opened, mark = verify.opened(whole.root)
    found = [*mark, *verify.find(opened, deep=True)]
    if (place, how) in HARMLESS:
        assert found == []
        return
    assert [d.path for d in found] == [path]
    shallow = [*mark, *verify.find(opened, deep=False)]
    assert [d.path for d in shallow] == ([] if how == "flip" and place in HASHED else [path])
    assert found[0].kind == "copy" or (found[0].kind == "missing") == (how == "delete" and place != "mark")

    mended, aside = verify.repair(opened, lambda: [*mark, *verify.find(opened, deep=True)])
    assert mended == found
    # It was moved, and nothing is lost.
    assert planted is None or (aside / path.relative_to(whole.root)).read_bytes() == planted
    after = {p: p.read_bytes() for p in whole.root.rglob("*") if p.is_file()}
    away = {whole.root / p.relative_to(aside) for p in aside.rglob("*")}
    assert all(after.get(p) == data or p in away or p == path for p, data in before.items())
    assert verify.find(Workspace.open(whole.root, create=False), deep=True) == []
    # A copy is the bytes it was, and so is what was read from elsewhere.
    if place in ("removal", "contact sheet", "configuration"):
        # Of a removal that is gone altogether nothing says which it was: the newest is taken.
        newest = max(whole.artifacts("removal"), key=lambda m: m.created)
        gone = whole.folder(newest.id) / "removal.safetensors"
        assert path.read_bytes() == (gone.read_bytes() if (place, how) == ("removal", "delete") else before[path])
    if path.is_relative_to(whole.root / "artifacts"):
        assert not whole.has(path.relative_to(whole.root).parts[2])


@pytest.mark.parametrize("place", ["run", "run's configuration", "configuration", "concept", "manifest"])
def test_a_flipped_byte_in_json_is_found_wherever_it_is(whole: Workspace, place: str) -> None:
    [path] = whole.root.glob(PLACES[place])
    data = path.read_bytes()
    for at in range(0, len(data), max(len(data) // 25, 1)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        assert [d.path for d in verify.find(whole)] == [path], data[max(at - 30, 0) : at + 20]


def test_a_flipped_byte_in_a_published_removal_is_found_wherever_it_is(whole: Workspace) -> None:
    path = whole.removals / "neon.saeuron.safetensors"
    data = path.read_bytes()
    for at in range(0, len(data), 9):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        assert [d.path for d in verify.find(whole, deep=True)] == [path], at


def test_all_at_once(whole: Workspace) -> None:
    names = ["shard", "weights", "statistics", "images", "metrics", "removal", "run", "concept"]
    for name in names:
        flip(next(whole.root.glob(PLACES[name])))
    done = run_here("verify", "-w", whole.root, "--deep", "--json")
    assert done.code == 1
    rows = json.loads(done.out)["damage"]
    assert sorted(Path(r["path"]) for r in rows) == sorted(next(whole.root.glob(PLACES[n])) for n in names)
    done = run_here("verify", "-w", whole.root, "--deep", "--repair")
    assert done.code == 1 and f"{len(names)} damaged; the damaged files are in {whole.damaged}" in done.out
    assert run_here("verify", "-w", whole.root, "--deep").code == 0


def test_the_page_says_what_to_do(whole: Workspace) -> None:
    for name in ("weights", "images", "removal", "run"):
        flip(next(whole.root.glob(PLACES[name])))
    done = run_here("verify", "-w", whole.root, "--deep")
    lines = done.out.splitlines()
    assert done.code == 1
    # Paths are too long for a table of 80 letters, so each damage is a block.
    blocks = [block.splitlines() for block in re.split(r"-\[ \d \]-+\n", done.out.rpartition("\n\n")[0])[1:]]
    assert [[line.split("|")[0].strip() for line in block if line[0] != " "] for block in blocks] == [
        ["damage", "what to do", "expected", "path"]
    ] * 4
    todo = {}
    for block in blocks:
        parts = block[3].split("| ")[1].split("/")
        todo[parts[1 if parts[0] == "artifacts" else 0]] = block[1].split("| ")[1]
    # Nothing but its own removal needs the images of a concept that a plain run does not remove.
    assert todo["images"] == "saeuron evaluate neon" and todo["sae"] == "saeuron run"
    assert "--repair rewrites it" in todo["removals"] and "--repair moves it away" in todo["runs"]
    assert lines[-2:] == ["4 damaged", f"next: saeuron verify --deep --repair -w {whole.root}"]
    done = run_here("verify", "-w", whole.root, "--deep", "--repair")
    assert done.out.splitlines()[-2:] == [
        f"next: saeuron evaluate neon -w {whole.root}",
        f"next: saeuron run {whole.root}/run.json -w {whole.root}",
    ]


def test_what_no_run_makes(whole: Workspace) -> None:
    brought = commit(whole, "sae", files(sae_safetensors=bytes(50)), source="someone/somewhere")
    other = commit(whole, "diagnosis", files(table_parquet=bytes(50)))
    for m in (brought, other):
        flip(whole.folder(m.id) / m.files[0].name)
    found, _ = verify.repair(whole, lambda: verify.find(whole, deep=True))
    assert [d.todo for d in found] == ["what made it makes it"] * 2 and verify.commands(whole, found) == []


class TestCopies:
    def test_of_an_artifact_that_is_to_be_made_again_it_stays(self, whole: Workspace) -> None:
        place = whole.removals / "neon.saeuron.safetensors"
        first = next(m for m in whole.artifacts("removal") if m.summary["gamma"] == GAMMAS[0])
        flip(whole.folder(first.id) / "removal.safetensors")
        data = place.read_bytes()
        verify.repair(whole, lambda: verify.find(whole, deep=True))
        # The other removal of the concept is whole, and not what was in use.
        assert place.read_bytes() == data and verify.find(whole, deep=True) == []

    def test_where_nothing_is_left_to_copy_from_it_is_moved_away(self, whole: Workspace) -> None:
        for m in whole.artifacts("removal"):
            flip(whole.folder(m.id) / "removal.safetensors")
        flip(whole.removals / "neon.saeuron.safetensors")
        found, _ = verify.repair(whole, lambda: verify.find(whole, deep=True))
        assert [d.todo for d in found if d.kind == "copy"] == ["saeuron evaluate neon"]
        assert not (whole.removals / "neon.saeuron.safetensors").exists() and verify.find(whole, deep=True) == []

    def test_without_its_manifest_it_is_held_against_the_file(self, whole: Workspace) -> None:
        first = next(m for m in whole.artifacts("removal") if m.summary["gamma"] == GAMMAS[0])
        (whole.folder(first.id) / "manifest.json").unlink()
        place = whole.removals / "neon.saeuron.safetensors"
        assert place not in [d.path for d in verify.find(whole, deep=True)]
        flip(place)
        assert place in [d.path for d in verify.find(whole, deep=True)]

    def test_a_removal_from_elsewhere_is_let_be(self, whole: Workspace, tmp_path: Path) -> None:
        removal(tmp_path / "x" / "mine.safetensors", "removal_v1_" + "0" * 20, -1.0)
        shutil.copy(tmp_path / "x" / "mine.safetensors", whole.removals)
        assert verify.find(whole, deep=True) == []
        truncate(whole.removals / "mine.safetensors")
        assert [d.kind for d in verify.find(whole)] == ["unreadable"]

    def test_one_that_a_cut_short_run_has_not_put_in_place_is_no_damage(self, whole: Workspace) -> None:
        [path] = whole.pictures.glob("cat.saeuron_sheet.png")
        path.unlink()
        # Of the run that ended nothing tells of these pictures; as long as no other run was cut short they are missed.
        assert [d.path for d in verify.find(whole)] == [path]
        with runs.living(whole, "pipeline", load(str(TINY))) as run_id:
            pass
        assert verify.find(whole) == []
        [pictures] = whole.artifacts("pictures")
        runs.finish(whole, run_id, "failed", {}, artifacts={pictures.id: False})
        assert verify.find(whole) == []
        runs.finish(whole, run_id, "completed", {}, artifacts={pictures.id: False})
        assert [d.path for d in verify.find(whole)] == [path]

    def test_of_a_concept_that_was_dropped_none_is_missed(self, whole: Workspace) -> None:
        (whole.removals / "neon.saeuron.safetensors").unlink()
        assert len(verify.find(whole)) == 1
        concepts.drop(whole, runs.remembered(whole), "neon")
        assert verify.find(whole) == []


@pytest.mark.parametrize("how", ["flip", "truncate"])
def test_a_damaged_page(whole: Workspace, how: str) -> None:
    sae = whole.artifacts("sae")[0].id
    page = whole.reports / f"{sae}.html"
    write_atomic(page, sealed_page("<!doctype html><p>A report.</p>\n" * 10))
    (whole.reports / "mine.html").write_text("somebody's own")
    assert verify.find(whole) == []
    DAMAGES[how](page)
    found, aside = verify.repair(whole, lambda: verify.find(whole))
    assert [d.path for d in found] == [page] and not page.exists() and (aside / "reports" / page.name).exists()
    assert verify.commands(whole, found) == [f"saeuron sae report {sae} -w {whole.root}"]
    assert verify.find(whole) == []


def test_files_that_nobody_knows(whole: Workspace) -> None:
    strays = ["notes.txt", "artifacts/notes.txt", "artifacts/sae/junk", "concepts/notes.txt"]
    strays.append(f"artifacts/sae/{whole.artifacts('sae')[0].id}/more.bin")
    for name in strays:
        (whole.root / name).write_text("?")
    for name in (".hidden", "removals/.hidden", f"{strays[-1]}.7.tmp"):
        (whole.root / name).write_text("?")
    found, aside = verify.repair(whole, lambda: verify.find(whole))
    assert sorted(str(d.path.relative_to(whole.root)) for d in found) == sorted(strays)
    assert {d.kind for d in found} == {"unknown"}
    assert all((aside / name).read_text() == "?" for name in strays)
    # What the stray lay beside is as good as before.
    assert whole.artifacts("sae") and verify.find(whole, deep=True) == []


class TestRuns:
    def test_one_that_is_at_work_forbids_repair(self, whole: Workspace) -> None:
        config = runs.remembered(whole)
        with runs.living(whole, "pipeline", config) as run_id:
            assert verify.find(whole) == []
            with pytest.raises(ConfigError, match=f"run {run_id} is at work in .*repair when it has ended"):
                verify.repair(whole, list)
        assert verify.repair(whole, list)[0] == []

    def test_one_that_was_killed_as_it_began_is_no_damage(self, whole: Workspace) -> None:
        run_id = runs.start(whole, "pipeline", runs.remembered(whole))
        (whole.runs / "configs" / f"{run_id}.json").unlink()
        assert verify.find(whole) == []

    def test_two_repairs_in_one_second_keep_apart(self, whole: Workspace) -> None:
        folders = set()
        for _ in range(2):
            (whole.root / "notes.txt").write_text("?")
            folders.add(verify.repair(whole, lambda: verify.find(whole))[1])
        assert len(folders) == 2 and all((f / "notes.txt").exists() for f in folders)


class TestConfiguration:
    def test_without_any_copy_it_is_moved_away(self, whole: Workspace) -> None:
        for path in (*whole.runs.glob("*.json"), *(whole.runs / "configs").glob("*.json")):
            path.unlink()
        flip(whole.root / "run.json")
        done = run_here("verify", "-w", whole.root, "--repair")
        assert done.code == 1 and f"next: saeuron run CONFIG -w {whole.root}" in done.out
        assert not (whole.root / "run.json").exists() and verify.find(whole) == []

    @pytest.mark.parametrize("how", ["flip", "delete"])
    def test_a_seal_that_is_damaged_itself(self, whole: Workspace, how: str) -> None:
        seal = whole.runs / runs.CONFIG_SEAL
        good = seal.read_bytes()
        DAMAGES[how](seal)
        assert [d.path for d in verify.find(whole)] == [seal]
        verify.repair(whole, lambda: verify.find(whole))
        assert seal.read_bytes() == good and verify.find(whole) == []

    def test_commands_name_a_damaged_one(self, whole: Workspace) -> None:
        flip(whole.root / "run.json")
        done = run_here("concept", "list", "-w", whole.root)
        assert done.code == 1 and "run.json is damaged" in done.complaint
        assert "mend it with: saeuron verify --repair" in done.complaint
        (whole.root / "run.json").write_text("{}")
        (whole.runs / runs.CONFIG_SEAL).unlink()
        assert "expected the fields of a runconfig" in run_here("evaluate", "-w", whole.root).complaint
        runs.remember(whole, load(str(TINY)))
        flip(whole.root / "concepts" / "0000.json")
        for words in (["concept", "list"], ["gc"], ["concept", "drop", "neon"]):
            done = run_here(*words, "-w", whole.root)
            assert done.code == 1 and "0000.json is damaged" in done.complaint


def test_where_nothing_was_made_the_mark_is_rewritten_too(tmp_path: Path) -> None:
    mark = tmp_path / "w" / "workspace.json"
    mark.parent.mkdir()
    mark.write_text("{")
    said = run_here("status", "-w", mark.parent).complaint
    assert "`saeuron verify --repair` rewrites it" in said
    assert run_here("verify", "-w", mark.parent).code == 1
    done = run_here("verify", "--repair", "-w", mark.parent)
    assert done.code == 1 and "1 damaged" in done.out
    assert run_here("verify", "-w", mark.parent).code == 0
    # A file of that name beside other things is another program's.
    mark.write_text("{")
    (tmp_path / "w" / "notes.txt").touch()
    assert run_here("verify", "--repair", "-w", mark.parent).code == 2 and mark.read_text() == "{"


def test_a_folder_that_is_no_workspace(tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "none"):
        done = run_here("verify", "-w", root)
        assert done.code == 2 and "is not a workspace" in done.complaint and not done.out
