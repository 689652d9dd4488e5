import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from storage import workspace as module
from storage.dense.shards import write_shard
from storage.errors import ArtifactDamaged, ArtifactMissing, NotAWorkspace, OtherFormat, UnknownArtifact
from storage.identity import artifact_id
from storage.verify import damage
from storage.workspace import FORMAT, Workspace

NAME = artifact_id("sae", 2, {"a": 1})


def _commit(workspace: Workspace, exclude: tuple[str, ...] = ()) -> Path:
    folder = workspace.folder(NAME)
    (folder / "sub").mkdir(parents=True)
    for name in ("b.bin", "sub/a.bin", "x.tmp", ".hidden", "checkpoints/c.bin"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(name.encode())
    workspace.commit(NAME, config={"a": 1}, inputs={}, summary={"fvu": 0.1}, exclude=exclude, seconds=2.0)
    return folder


def test_open_makes_and_opens(tmp_path: Path) -> None:
    made = Workspace.open(tmp_path / "a" / "b")
    assert json.loads((made.root / "workspace.json").read_text()) == {"format": FORMAT}
    assert Workspace.open(made.root, create=False).root == made.root
    assert [made.runs, made.pictures, made.removals, made.reports] == [
        made.root / name for name in ("runs", "pictures", "removals", "reports")
    ]


def test_what_is_no_workspace(tmp_path: Path) -> None:
    with pytest.raises(NotAWorkspace, match="saeuron run --workspace DIR"):
        Workspace.open(tmp_path / "absent", create=False)
    assert not (tmp_path / "absent").exists()
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(NotAWorkspace, match=r"thesis\.tex"):
        Workspace.open(tmp_path)
    with pytest.raises(NotAWorkspace, match="it is a file"):
        Workspace.open(tmp_path / "thesis.tex")
    (tmp_path / "workspace.json").write_text("[]")
    with pytest.raises(NotAWorkspace, match="format"):
        Workspace.open(tmp_path)


@pytest.mark.parametrize("harm", ["gone", "is not"])
def test_one_that_lost_its_mark_says_what_mends_it(workspace: Workspace, harm: str) -> None:
    (workspace.root / "artifacts").mkdir(exist_ok=True)
    mark = workspace.root / "workspace.json"
    mark.unlink() if harm == "gone" else mark.write_text("{")
    with pytest.raises(NotAWorkspace, match=rf"workspace\.json .*{harm}.*`saeuron verify --repair` rewrites it"):
        Workspace.open(workspace.root)


def test_a_temporary_of_another_process_is_no_content(tmp_path: Path) -> None:
    (tmp_path / ".workspace.json.1.2.tmp").touch()
    assert Workspace.open(tmp_path).root == tmp_path


def test_a_newer_workspace(tmp_path: Path) -> None:
    (tmp_path / "workspace.json").write_text('{"format": 9, "more": 1}')
    with pytest.raises(OtherFormat, match="has format 9, expected 3: upgrade"):
        Workspace.open(tmp_path)


def test_commit_lists_what_belongs(workspace: Workspace) -> None:
    _commit(workspace, exclude=("checkpoints",))
    manifest = workspace.manifest(NAME)
    assert [file.name for file in manifest.files] == ["b.bin", "sub/a.bin"]
    assert (manifest.stage, manifest.version, manifest.summary, manifest.seconds) == ("sae", 2, {"fvu": 0.1}, 2.0)
    assert manifest.created.endswith("+00:00")
    assert workspace.has(NAME) and damage(workspace, NAME, deep=True) == []
    assert workspace.artifacts() == workspace.artifacts("sae") == [manifest] and workspace.artifacts("score") == []


def test_commit_of_named_files(workspace: Workspace) -> None:
    folder = workspace.folder(NAME)
    folder.mkdir(parents=True)
    (folder / "a").touch()
    (folder / "b").touch()
    manifest = workspace.commit(NAME, config={}, inputs={}, summary={}, files=["a"], seconds=0)
    assert [file.name for file in manifest.files] == ["a"]
    with pytest.raises(ArtifactMissing, match="nope"):
        workspace.commit(NAME, config={}, inputs={}, summary={}, files=["nope"], seconds=0)


def test_a_shard_is_not_hashed_twice(workspace: Workspace) -> None:
    shard = workspace.folder(NAME) / "0.tar"
    made = write_shard(shard, [("k", {"txt": b"hello"})], {})
    manifest = workspace.commit(NAME, config={}, inputs={}, summary={}, seconds=0)
    assert {file.name: file.sha256 for file in manifest.files}["0.tar"] == made.sha256
    assert damage(workspace, NAME, deep=True) == []


def test_an_artifact_without_a_manifest_does_not_exist(workspace: Workspace) -> None:
    workspace.folder(NAME).mkdir(parents=True)
    assert not workspace.has(NAME) and workspace.artifacts() == [] and workspace.problems() == []
    with pytest.raises(ArtifactMissing, match=NAME):
        workspace.manifest(NAME)
    with pytest.raises(UnknownArtifact):
        workspace.folder("../../etc")


def test_damage_is_seen(workspace: Workspace) -> None:
    file = _commit(workspace) / "b.bin"
    file.write_bytes(b"B.bin")
    assert workspace.has(NAME) and damage(workspace, NAME) == []
    assert "SHA-256" in str(damage(workspace, NAME, deep=True)[0])
    file.write_bytes(b"short")
    file.write_bytes(b"cut")
    assert not workspace.has(NAME) and workspace.artifacts() == []
    with pytest.raises(ArtifactDamaged, match="expected 5 bytes, found 3"):
        workspace.manifest(NAME)
    file.unlink()
    assert len(workspace.problems()) == 1 and "found no file" in workspace.problems()[0]


def test_a_damaged_manifest_is_seen(workspace: Workspace) -> None:
    path = _commit(workspace) / "manifest.json"
    text = path.read_text()
    for bad in (text[:-9], text.replace('"stage"', '"stages"'), text.replace(NAME, "sae_v2_" + "0" * 20)):
        path.write_text(bad)
        assert not workspace.has(NAME) and len(workspace.problems()) == 1 and damage(workspace, NAME)
        with pytest.raises(ArtifactDamaged):
            workspace.manifest(NAME)


def test_what_is_computed_with_is_read_whole(workspace: Workspace) -> None:
    folder = workspace.folder(NAME)
    folder.mkdir(parents=True)
    for name in ("a.bin", "b.bin"):
        (folder / name).write_bytes(bytes(10))
    workspace.commit(NAME, config={}, inputs={}, summary={}, seconds=0)
    assert workspace.whole(NAME) == folder
    (folder / "a.bin").write_bytes(b"\1" + bytes(9))
    assert workspace.has(NAME) and workspace.whole(NAME, "b.bin") == folder
    with pytest.raises(ArtifactDamaged, match=r"a\.bin is damaged: expected SHA-256"):
        workspace.whole(NAME)


def test_what_is_committed_later_is_newer_whatever_the_clock_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = Workspace.open(tmp_path / "w")
    start = datetime.now(UTC)
    hours = iter([0, 0, -5, -5, 3, 1])

    class Clock(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:
            return start + timedelta(hours=next(hours))

    monkeypatch.setattr(module, "datetime", Clock)

    def committed(what: int) -> str:
        name = artifact_id("sae", 2, {"a": what})
        workspace.folder(name).mkdir(parents=True)
        return workspace.commit(name, config={}, inputs={}, summary={}, seconds=0).created

    times = [committed(i) for i in range(5)]
    assert times == sorted({*times}) and datetime.fromisoformat(times[3]) - start < timedelta(seconds=1)
    assert datetime.fromisoformat(times[4]) - start > timedelta(hours=2.9)
    # It is not what anything hangs on.
    (workspace.locks / "newest.json").write_text("{")
    assert datetime.fromisoformat(committed(5)) - start < timedelta(hours=1.1)
