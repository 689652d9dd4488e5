"""Damage in artifacts: what is found, what is put aside, what stays."""

import contextlib
import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from storage import verify
from storage.backend import Backend
from storage.dense import shards
from storage.errors import ArtifactDamaged, ArtifactMissing
from storage.files import read_json, write_json
from storage.identity import artifact_id
from storage.layout import MANIFEST
from storage.manifests import same
from storage.seals import read_sealed, write_sealed
from storage.workspace import Workspace

CONFIG = {"steps": 3, "of": artifact_id("prompts", 1, {})}
NAME = artifact_id("images", 1, CONFIG)
FILES = ["00000.tar", "00000.tar.json", "00001.tar", "00001.tar.json", "judged/00000.json", "table.parquet"]


def flip(path: Path, at: int | None = None) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if at is None else at] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


DAMAGES: dict[str, Callable[[Path], None]] = {"flip": flip, "truncate": truncate, "delete": Path.unlink}


@pytest.fixture
def folder(workspace: Workspace) -> Path:
    """A committed artifact with two shards, JSON and a table."""
    folder = workspace.folder(NAME)
    for i in range(2):
        shards.write_shard(folder / f"0000{i}.tar", [(f"k{i}", {"txt": b"hello" * 400})], {})
    write_json(folder / "judged" / "00000.json", {"k0": "cat"})
    (folder / "table.parquet").write_bytes(bytes(range(200)))
    workspace.commit(NAME, config=CONFIG, inputs={"of": CONFIG["of"]}, summary={"images": 2}, seconds=1.5)
    return folder


def found(workspace: Workspace, deep: bool = True) -> list[str]:
    errors = verify.damage(workspace, NAME, deep)
    return [Path(e.args[0]).relative_to(workspace.folder(NAME)).as_posix() for e in errors]


def test_a_whole_artifact_is_well(workspace: Workspace, folder: Path) -> None:
    assert found(workspace) == found(workspace, deep=False) == []
    assert verify.damage(workspace, artifact_id("sae", 1, {})) == []


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", DAMAGES)
def test_each_damage_is_found_and_nothing_else(workspace: Workspace, folder: Path, name: str, how: str) -> None:
    DAMAGES[how](folder / name)
    assert found(workspace) == [name]
    # A flipped byte takes reading the file: that is done anyway for JSON only.
    seen = how != "flip" or name.endswith(".json")
    assert found(workspace, deep=False) == ([name] if seen else [])


def test_every_byte_of_a_manifest_counts(workspace: Workspace, folder: Path) -> None:
    path, manifest = folder / MANIFEST, workspace.read(NAME)
    whole = path.read_bytes()
    unseen = []
    for at in range(0, len(whole), 4):
        flip(path, at)
        with contextlib.suppress(ArtifactDamaged):
            unseen.append(workspace.read(NAME))
        path.write_bytes(whole)
    # White space may have become other white space.
    assert len(whole) > 1000 and len(unseen) < 3 and all(m == manifest for m in unseen)


def test_a_manifest_is_held_to_its_seal_and_to_its_id(workspace: Workspace, folder: Path) -> None:
    fields = read_json(folder / MANIFEST)
    assert len(fields.pop("seal")) == 64
    write_json(folder / MANIFEST, fields)
    assert not workspace.has(NAME) and found(workspace) == [MANIFEST]
    write_sealed(folder / MANIFEST, fields | {"config": CONFIG | {"steps": 4}})
    assert workspace.has(NAME)
    assert found(workspace) == [MANIFEST]


def test_sealed_json_reads_as_written_and_damage_is_found(tmp_path: Path) -> None:
    path, value = tmp_path / "a.json", {"b": [1, 0.1, None], "a": {"ü": "x"}}
    write_sealed(path, value)
    assert read_sealed(path) == value
    path.write_text(path.read_text().replace("0.1", "0.2"))
    with pytest.raises(ArtifactDamaged, match="SHA-256"):
        read_sealed(path)
    path.write_text("[1]")
    with pytest.raises(ArtifactDamaged, match="a JSON object, found list"):
        read_sealed(path)
    with pytest.raises(ArtifactMissing):
        read_sealed(tmp_path / "b.json")


@pytest.mark.parametrize("how", ["flip", "truncate", "delete"])
def test_of_work_in_progress_shards_are_judged(workspace: Workspace, folder: Path, how: str) -> None:
    (folder / MANIFEST).unlink()
    assert found(workspace) == []
    DAMAGES[how](folder / "00001.tar")
    assert found(workspace) == ["00001.tar"]
    (folder / "00001.tar.json").unlink()
    # Without a sidecar it does not exist.
    assert found(workspace) == []


def test_files_that_no_manifest_lists_are_strays(workspace: Workspace, folder: Path) -> None:
    for name in ("judged/more.json", ".hidden", "00002.tar"):
        (folder / name).write_text("{}")
    assert verify.strays(workspace, workspace.read(NAME)) == [folder / "00002.tar", folder / "judged" / "more.json"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", DAMAGES)
def test_what_is_forgotten_is_moved_and_the_whole_stays(
    workspace: Workspace, folder: Path, name: str, how: str
) -> None:
    before = {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    DAMAGES[how](folder / name)
    planted = (folder / name).read_bytes() if how != "delete" else None
    verify.forget(workspace, NAME, "now")
    aside = workspace.damaged / "now" / "artifacts" / "images" / NAME
    gone = {MANIFEST, name} | ({f"{name}.json"} if name.endswith(".tar") else set())
    left = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert left == {p.as_posix() for p in before} - gone
    assert all((folder / n).read_bytes() == before[Path(n)] for n in left)
    assert (aside / name).exists() == (planted is not None)
    assert planted is None or (aside / name).read_bytes() == planted
    assert (aside / MANIFEST).read_bytes() == before[Path(MANIFEST)]
    assert not workspace.has(NAME) and found(workspace) == []


def test_the_manifest_is_set_aside_first(workspace: Workspace, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[Path] = []
    flip(folder / "table.parquet")
    monkeypatch.setattr(Backend, "set_aside", lambda self, path, stamp: moved.append(path))
    verify.forget(workspace, NAME, "now")
    assert moved == [folder / MANIFEST, folder / "table.parquet"]


@pytest.mark.parametrize("how", ["flip", "delete"])
def test_without_its_manifest_only_whole_shards_are_believed(workspace: Workspace, folder: Path, how: str) -> None:
    DAMAGES[how](folder / MANIFEST)
    flip(folder / "00000.tar")
    verify.forget(workspace, NAME, "now")
    left = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert left == {"00001.tar", "00001.tar.json"}


def test_a_second_damage_is_not_lost_with_the_manifest(workspace: Workspace, folder: Path) -> None:
    truncate(folder / "00000.tar")
    flip(folder / "judged" / "00000.json")
    verify.forget(workspace, NAME, "now")
    assert not (folder / "judged" / "00000.json").exists() and (folder / "00001.tar").exists()


def test_copies_of_an_artifact_lie_where_its_manifest_says(workspace: Workspace) -> None:
    name = artifact_id("removal", 1, {"a": 1})
    workspace.folder(name).mkdir(parents=True)
    (workspace.folder(name) / "removal.safetensors").write_bytes(b"a removal")
    places = {"removal.safetensors": "removals/cat.saeuron.safetensors", "not made": "pictures/cat.png"}
    manifest = workspace.commit(name, config={}, inputs={}, summary={}, seconds=0, publishes=places)
    [(place, file)] = verify.copies(workspace, manifest).items()
    assert place == workspace.removals / "cat.saeuron.safetensors"
    place.parent.mkdir()
    place.write_bytes(b"a removal")
    assert same(place, file)
    flip(place)
    assert same(place, file, deep=False) and not same(place, file)


def test_ids_in_what_a_manifest_holds() -> None:
    ids = [artifact_id(stage, 1, {}) for stage in ("sae", "score", "prompts")]
    value = {"saes": {"a.b": ids[0]}, "reference": [{"x": ids[1]}], "n": 4, "text": f"made of {ids[2]}."}
    assert verify.ids_in(value) == set(ids)


class TestRemove:
    def test_everything_goes(self, workspace: Workspace, folder: Path) -> None:
        workspace.delete(NAME)
        assert not folder.exists()

    def test_killed_at_any_point_it_is_no_more_and_can_be_finished(
        self, workspace: Workspace, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Killed(BaseException):
            pass

        removed: list[Path] = []
        for name in ("unlink", "rmdir"):
            true = getattr(Path, name)

            def once(path: Path, true: Callable[..., None] = true, **how: bool) -> None:
                if path.exists():
                    if removed:
                        raise Killed
                    removed.append(path)
                true(path, **how)

            monkeypatch.setattr(Path, name, once)
        rounds = 0
        while folder.exists():
            removed.clear()
            with contextlib.suppress(Killed):
                workspace.delete(NAME)
            rounds += 1
            assert not workspace.has(NAME) and workspace.artifacts() == [] and workspace.problems() == []
            assert not folder.exists() or workspace.half_deleted(NAME) or not any(folder.iterdir())
        # The files, a folder in the folder, the mark and the folder itself: each in a round of its own.
        assert rounds == len(FILES) + 3

    def test_made_again_it_is_not_being_removed(self, workspace: Workspace, folder: Path) -> None:
        (folder / MANIFEST).rename(folder / ".removed")
        assert workspace.half_deleted(NAME)
        workspace.commit(NAME, config=CONFIG, inputs={}, summary={}, seconds=0)
        assert not workspace.half_deleted(NAME) and found(workspace) == []


class TestClaim:
    def test_waits_for_nobody(self, workspace: Workspace) -> None:
        with workspace.claim(NAME) as free:
            assert free and workspace.busy(NAME)
            with workspace.claim(NAME) as again:
                assert not again
        assert not workspace.busy(NAME)

    @pytest.mark.parametrize("held", [NAME, f"{NAME}_7"])
    def test_a_lock_of_the_artifact_or_of_a_part(self, workspace: Workspace, held: str) -> None:
        with workspace.lock(held):
            assert workspace.busy(NAME)
            with workspace.claim(NAME) as free:
                assert not free
        with workspace.claim(NAME) as free:
            assert free

    def test_others_wait_for_a_claim(self, workspace: Workspace) -> None:
        order: list[str] = []

        def other() -> None:
            with workspace.lock(NAME):
                order.append("other")

        with workspace.claim(NAME):
            thread = threading.Thread(target=other)
            thread.start()
            order.append("claim")
        thread.join()
        assert order == ["claim", "other"]

    def test_asking_makes_no_file(self, workspace: Workspace) -> None:
        assert not workspace.busy(NAME) and not workspace.locks.exists()


def test_only_ids_are_folders(workspace: Workspace, folder: Path) -> None:
    other = artifact_id("sae", 1, {})
    for place in (f"images/{other}", "images/junk", f"sae/{other}"):
        (workspace.root / "artifacts" / place).mkdir(parents=True)
    assert workspace.folders() == sorted([NAME, other])


def test_random_flips_are_all_found(workspace: Workspace, folder: Path) -> None:
    rng = random.Random(0)
    for name in FILES:
        whole = (folder / name).read_bytes()
        for _ in range(20):
            flip(folder / name, rng.randrange(len(whole)))
            assert found(workspace) == [name]
            (folder / name).write_bytes(whole)
