"""The workspace on an object store, against a real S3 server of this machine: two machines are two cache folders."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from storage import Workspace, migrations
from storage.catalog.query import run_query
from storage.errors import (
    ArtifactDamaged,
    BadStore,
    Conflict,
    NotAWorkspace,
    ObjectDamaged,
    OtherFormat,
    StoreAway,
)
from storage.files import write_atomic
from storage.identity import artifact_id, digest
from storage.manifests import Manifest
from storage.remote import backend
from storage.remote.artifacts import PENDING, manifest_key, prefix
from storage.remote.backend import ObjectStoreBackend, cache_folder
from storage.remote.store import Store
from storage.verify import damage, forget
from storage.workspace import FORMAT, locate
from tests.s3_server import Server

URL = "s3://tests/a/place"
FILES = {"table.bin": b"abc" * 1000, "deep/er.bin": b"x" * 500, "of unet.mid [1] %41é.bin": b"odd"}


@pytest.fixture(autouse=True)
def _no_variables_left(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def url(s3: Server, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    return f"{URL}/{digest(request.node.name.encode())[:8]}"


@pytest.fixture
def machine(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Workspace]:
    """The workspace as a machine of that name opens it: each has a cache of its own."""

    def on(name: str) -> Workspace:
        monkeypatch.setenv("SAEURON_CACHE", str(tmp_path / name))
        return Workspace.open(url)

    return on


def name_of(what: str) -> str:
    return artifact_id("score", 1, {"what": what})


def make(workspace: Workspace, what: str, files: dict[str, bytes] = FILES) -> Manifest:
    """Write an artifact's files, and commit."""
    name = name_of(what)
    for file, data in files.items():
        write_atomic(workspace.folder(name) / file, data)
    return workspace.commit(name, config={}, inputs={}, summary={"what": what}, seconds=1.0)


def remote(workspace: Workspace) -> ObjectStoreBackend:
    assert isinstance(workspace.backend, ObjectStoreBackend)
    return workspace.backend


def store_of(workspace: Workspace) -> Store:
    return remote(workspace).store


def object_of(manifest: Manifest, file: str) -> str:
    return f"{prefix(manifest)}/{file}"


def test_another_machine_finds_what_was_committed_and_fetches_what_it_reads(
    machine: Callable[[str], Workspace], url: str
) -> None:
    here = machine("here")
    made = make(here, "a")
    there = machine("there")
    assert there.root != here.root and there.address == here.address == url
    assert there.artifacts() == [made] and there.has(made.id) and there.problems() == []
    folder = there.folder(made.id)
    assert [p.name for p in folder.iterdir()] == ["manifest.json"], "nothing is fetched before it is read"
    assert there.fetch(made.id, "deep") == folder
    assert sorted(p.name for p in folder.rglob("*.bin")) == ["er.bin"]
    there.fetch(made.id)
    assert {f.name: (folder / f.name).read_bytes() for f in made.files} == FILES
    assert (folder / "manifest.json").read_bytes() == (here.folder(made.id) / "manifest.json").read_bytes()


def test_a_task_that_is_told_the_folder_knows_the_store(machine: Callable[[str], Workspace]) -> None:
    made = make(machine("here"), "a")
    root = machine("there").root
    told = Workspace.open(root)
    assert told.fetch(made.id, "table.bin") == root / "artifacts/score" / made.id
    assert Workspace(root).has(made.id)


def test_what_is_committed_meanwhile_is_seen_without_bringing_all_up_to_date(
    machine: Callable[[str], Workspace],
) -> None:
    here, there = machine("here"), machine("there")
    assert not there.has(name_of("late"))
    make(here, "late")
    assert there.has(name_of("late"))


def test_two_writers_of_the_same_bytes(machine: Callable[[str], Workspace]) -> None:
    here, there = machine("here"), machine("there")
    first, second = make(here, "a"), make(there, "a")
    # `created` differs between the two, so this is the manifest of the first.
    assert second == first == there.read(first.id)
    assert len(store_of(here).listing("artifacts")) == len(FILES)


def test_two_writers_of_other_bytes_do_not_mix(machine: Callable[[str], Workspace]) -> None:
    here, there = machine("here"), machine("there")
    first = make(here, "a", {"one": b"1", "two": b"2"})
    second = make(there, "a", {"one": b"1", "two": b"3"})
    assert second == first
    folder = there.fetch(first.id)
    assert (folder / "one").read_bytes() == b"1" and (folder / "two").read_bytes() == b"2"
    assert damage(there, first.id, deep=True) == []
    [lost] = there.backend.unfinished()
    assert lost.bytes == 2 and lost.key != prefix(first)


def test_writers_at_once_agree(machine: Callable[[str], Workspace]) -> None:
    machines = [machine(f"m{i}") for i in range(4)]
    gate, results = threading.Barrier(4), []

    def write(index: int) -> None:
        gate.wait()
        results.append(make(machines[index], "a", {"f": b"%d" % index}))

    threads = [threading.Thread(target=write, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4 and len({m.model_dump_json() for m in results}) == 1
    bytes_ = {(m.fetch(results[0].id) / "f").read_bytes() for m in machines}
    assert len(bytes_) == 1 and damage(machines[0], results[0].id, deep=True) == []


def test_a_commit_that_is_cut_short_goes_on_where_it_was(
    machine: Callable[[str], Workspace], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, name = machine("here"), name_of("a")
    sent: list[str] = []
    write = Store.write

    def dies(self: Store, key: str, source: bytes | Path) -> None:
        if len(sent) == 2:
            raise KeyboardInterrupt
        sent.append(key)
        write(self, key, source)

    with monkeypatch.context() as cut:
        cut.setattr(Store, "write", dies)
        with pytest.raises(KeyboardInterrupt):
            make(here, "a")
    there = machine("there")
    assert not there.has(name) and not here.has(name) and there.artifacts() == []
    assert (here.folder(name) / PENDING).exists()
    with monkeypatch.context() as counted:
        counted.setattr(Store, "write", lambda self, key, source: (sent.append(key), write(self, key, source)))
        here.resume(name)
    assert len(sent) == len(set(sent)) == len(FILES), "nothing is uploaded twice"
    assert there.has(name) and damage(there, name, deep=True) == []
    assert not (here.folder(name) / PENDING).exists()


def test_files_that_changed_after_a_cut_are_not_committed(
    machine: Callable[[str], Workspace], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, name = machine("here"), name_of("a")

    def away(self: Store, key: str, source: bytes | Path) -> None:
        raise StoreAway(self.url, "gone")

    with monkeypatch.context() as cut:
        cut.setattr(Store, "write", away)
        with pytest.raises(StoreAway, match="run again when it does"):
            make(here, "a")
    (here.folder(name) / "table.bin").write_bytes(b"ABC" * 1000)
    here.resume(name)
    assert not here.has(name) and not (here.folder(name) / PENDING).exists()


@pytest.mark.parametrize(
    ("hurt", "said"),
    [
        (lambda data: bytes([data[0] ^ 1]) + data[1:], "expected SHA-256"),
        (lambda data: data[:-1], "expected 3000 bytes, found 2999 bytes"),
        (None, "expected 3000 bytes, found no object"),
    ],
    ids=["flipped", "truncated", "deleted"],
)
def test_a_damaged_object(
    machine: Callable[[str], Workspace], url: str, hurt: Callable[[bytes], bytes] | None, said: str
) -> None:
    here, there = machine("here"), machine("there")
    made = make(here, "a")
    there.read(made.id)
    store, key = store_of(here), object_of(made, "table.bin")
    if hurt is None:
        store.delete([key])
    else:
        store.write(key, hurt(FILES["table.bin"]))
    with pytest.raises(ObjectDamaged) as error:
        there.fetch(made.id)
    assert said in str(error.value) and made.id in str(error.value)
    assert f"saeuron verify --deep --repair -w {url}" in str(error.value)
    assert not (there.folder(made.id) / "table.bin").exists()
    # A machine that opens it now sees what a local workspace shows of a file of the wrong size: it is to be made.
    late = machine("late")
    assert late.has(made.id) == (said == "expected SHA-256")
    [found] = damage(there, made.id, deep=True)
    assert Path(found.args[0]) == there.folder(made.id) / "table.bin"
    # The first machine has the bytes still.
    assert here.backend.mendable(made.id, damage(here, made.id, deep=True))
    assert not there.backend.mendable(made.id, [found])
    here.backend.mend(made.id, here.folder(made.id) / "table.bin", "now")
    assert damage(there, made.id, deep=True) == []
    assert (there.fetch(made.id) / "table.bin").read_bytes() == FILES["table.bin"]
    assert list(store.listing("damaged")) == ([f"damaged/now/{key}"] if hurt else [])


def test_a_damaged_copy_is_fetched_again(machine: Callable[[str], Workspace]) -> None:
    made = make(machine("here"), "a")
    there = machine("there")
    copy = there.fetch(made.id) / "table.bin"

    copy.write_bytes(b"X" + copy.read_bytes()[1:])
    assert (there.whole(made.id, "table.bin") / "table.bin").read_bytes() == FILES["table.bin"]
    copy.unlink()
    assert (there.whole(made.id) / "table.bin").read_bytes() == FILES["table.bin"]


def test_what_no_machine_has_is_set_aside_and_made_again(machine: Callable[[str], Workspace]) -> None:
    made = make(machine("here"), "a")
    there = machine("there")
    store, key = store_of(there), object_of(made, "table.bin")
    store.write(key, b"ABC" * 1000)
    forget(there, made.id, "now")
    assert set(store.listing("damaged")) == {f"damaged/now/{key}", f"damaged/now/{manifest_key(made.id)}"}
    assert not there.has(made.id) and not machine("late").has(made.id)
    assert make(there, "a").files == made.files
    assert damage(machine("late"), made.id, deep=True) == []


def test_an_artifact_that_lost_an_object_is_made_again_by_a_run(machine: Callable[[str], Workspace]) -> None:
    """As where a file of a local workspace was deleted: nobody has to repair anything."""
    made = make(machine("here"), "a", {"one": b"1", "two": b"2"})
    there = machine("there")
    store_of(there).delete([object_of(made, "two")])
    there = machine("there")
    assert not there.has(made.id) and len(there.problems()) == 1
    # And it need not have the same bytes.
    again = make(there, "a", {"one": b"1", "two": b"3"})
    assert again != made and there.has(again.id) and machine("late").read(made.id) == again


def test_a_damaged_manifest(machine: Callable[[str], Workspace]) -> None:
    made = make(machine("here"), "a")
    store = store_of(machine("here"))
    data, _ = store.read(manifest_key(made.id)) or (b"", "")
    store.write(manifest_key(made.id), data.replace(b'"what": "a"', b'"what": "b"'))
    there = machine("there")
    assert there.artifacts() == [] and not there.has(made.id)
    [found] = damage(there, made.id)
    assert isinstance(found, ArtifactDamaged) and found.args[0].endswith("manifest.json")


def test_a_manifest_cannot_name_files_elsewhere(machine: Callable[[str], Workspace]) -> None:
    from storage.seals import sealed

    here = machine("here")
    made = make(here, "a", {"f": b"1"})
    evil = made.model_copy(update={"files": (made.files[0].model_copy(update={"name": "../../../evil"}),)})
    store_of(here).write(manifest_key(made.id), sealed(evil.model_dump(mode="json")))
    there = machine("there")
    assert there.artifacts() == []
    with pytest.raises(ArtifactDamaged, match="names of files in its folder"):
        there.read(made.id)


def test_removed_on_one_machine_it_is_gone_on_the_other(machine: Callable[[str], Workspace]) -> None:
    here = machine("here")
    made, kept = make(here, "a"), make(here, "b")
    machine("there")
    here.delete(made.id)
    assert store_of(here).listing().keys() == {
        "workspace.json",
        manifest_key(kept.id),
        *(object_of(kept, name) for name in FILES),
    }
    there = machine("there")
    assert there.artifacts() == [kept] and not there.has(made.id)


def test_small_files_go_there_first_and_come_back(machine: Callable[[str], Workspace]) -> None:
    here = machine("here")
    here.write(here.root / "run.json", b"1")
    here.write(here.removals / "a b é%.safetensors", b"x")
    there = machine("there")
    assert (there.root / "run.json").read_bytes() == b"1"
    assert (there.removals / "a b é%.safetensors").read_bytes() == b"x"
    there.write(there.root / "run.json", b"2")
    with pytest.raises(Conflict, match=r"run\.json .* was changed by another machine"):
        here.write(here.root / "run.json", b"3")
    assert (here.root / "run.json").read_bytes() == b"1"
    here.agreed(lambda: here.write(here.root / "run.json", b"3"))
    assert (machine("late").root / "run.json").read_bytes() == b"3"
    there.unlink(there.removals / "a b é%.safetensors")
    assert list(machine("here").removals.iterdir()) == []


def test_two_machines_add_at_once_and_nothing_is_lost(machine: Callable[[str], Workspace]) -> None:
    machines = [machine(f"m{i}") for i in range(3)]
    gate = threading.Barrier(3)

    def add(workspace: Workspace, label: bytes) -> None:
        def change() -> None:
            taken = len(list((workspace.root / "concepts").glob("*.json")))
            workspace.write(workspace.root / "concepts" / f"{taken:04d}.json", label)

        gate.wait()
        workspace.agreed(change)

    threads = [threading.Thread(target=add, args=(m, b"%d" % i)) for i, m in enumerate(machines)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = sorted((machine("late").root / "concepts").glob("*.json"))
    assert [p.name for p in found] == ["0000.json", "0001.json", "0002.json"]
    assert {p.read_bytes() for p in found} == {b"0", b"1", b"2"}


def test_a_run_elsewhere_is_known_to_be_alive(machine: Callable[[str], Workspace]) -> None:
    here, there = machine("here"), machine("there")
    with here.living("20260101T000000-abcdef"):
        assert there.alive() == ["20260101T000000-abcdef"]
    assert there.alive() == [] and here.backend.leases() == set()


def test_a_lease_is_renewed_until_the_run_ends_though_the_store_is_away_for_a_while(
    machine: Callable[[str], Workspace], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, renewed = remote(machine("here")), threading.Semaphore(0)
    monkeypatch.setattr(backend, "RENEWAL", 0.01)

    def write(self: Store, key: str, data: bytes) -> None:
        renewed.release()
        if threading.current_thread() is not threading.main_thread():
            raise StoreAway(self.url, "for a while")

    with monkeypatch.context() as counted:
        counted.setattr(Store, "write", write)
        with here.lease("20260101T000000-abcdef"):
            # The first by the run itself, the others by the thread that goes on after each error.
            assert all(renewed.acquire(timeout=20) for _ in range(4))
    for thread in threading.enumerate():
        if thread.name.startswith("lease of"):
            thread.join(20)
            assert not thread.is_alive()
    assert here.leases() == set()


def test_an_emptied_cache_loses_nothing(machine: Callable[[str], Workspace]) -> None:
    here = machine("here")
    made = make(here, "a")
    here.write(here.root / "run.json", b"1")
    shutil.rmtree(here.root)
    here = machine("here")
    assert here.artifacts() == [made] and (here.root / "run.json").read_bytes() == b"1"


def test_an_older_format_on_the_store(
    machine: Callable[[str], Workspace], url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = machine("here")
    made = make(here, "a")

    def stored_format() -> int:
        found = store_of(here).read("workspace.json")
        assert found is not None
        return int(json.loads(found[0])["format"])

    old = FORMAT - 1
    monkeypatch.setitem(migrations.MIGRATIONS, old, lambda root: None)
    monkeypatch.setattr(migrations, "PATIENCE", 0.1)
    here.write(here.root / "workspace.json", json.dumps({"format": old}).encode())
    monkeypatch.setenv("SAEURON_CACHE", str(tmp_path / "reader"))
    with pytest.raises(OtherFormat, match=f"workspace {url} has format {old}.*saeuron verify --repair -w {url}"):
        Workspace.open(url, create=False)
    assert stored_format() == old
    with remote(here).lease("20260101T000000-abcdef"):
        with pytest.raises(OtherFormat, match="another process is at work"):
            machine("there")
        assert stored_format() == old
    there = machine("there")
    assert stored_format() == FORMAT
    assert there.artifacts() == [made] and there.problems() == []
    # The machine that was there before, and an empty one that only reads.
    assert machine("here").artifacts() == [made]
    monkeypatch.setenv("SAEURON_CACHE", str(tmp_path / "another"))
    assert Workspace.open(url, create=False).artifacts() == [made]


def test_sql_fetches_the_tables_it_needs(machine: Callable[[str], Workspace]) -> None:
    from storage.tables import PROMPTS, table, write_table

    here, name = machine("here"), artifact_id("prompts", 1, {})
    row = {"prompt_id": "p", "text": "a cat", "split": "test", "concepts": {"object": "cat"}}
    rows = [row | dict.fromkeys(("seed", "guidance", "source"))]
    write_table(here.folder(name) / "prompts.parquet", table(rows, PROMPTS))
    write_atomic(here.folder(name) / "large.tar", bytes(1000))
    here.commit(name, config={}, inputs={}, summary={}, seconds=1.0)
    there = machine("there")
    assert run_query(there, "select text from prompts").to_pylist() == [{"text": "a cat"}]
    assert (there.folder(name) / "prompts.parquet").exists()
    assert not (there.folder(name) / "large.tar").exists()


def test_the_store_is_away_for_a_while(
    s3: Server, machine: Callable[[str], Workspace], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = machine("here")
    s3.pause()
    resumed = threading.Timer(1.0, s3.resume)
    resumed.start()
    try:
        start = time.monotonic()
        made = make(here, "a")
        assert time.monotonic() - start > 0.5, "it was not away"
    finally:
        resumed.join()
        s3.resume()
    assert machine("there").has(made.id)


def test_a_store_that_is_not_there_is_said_in_seconds(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAEURON_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    start = time.monotonic()
    with pytest.raises(StoreAway, match=f"{url} does not answer"):
        cache_folder(url)
    assert time.monotonic() - start < 15
    assert not (tmp_path / "cache").exists()


def test_a_bucket_that_is_not_there(url: str) -> None:
    with pytest.raises(BadStore, match=r"there is no bucket nobody at http://127.0.0.1:\d+; expected one that exists"):
        cache_folder("s3://nobody/x")


def test_no_credentials_no_waiting(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    start = time.monotonic()
    with pytest.raises(BadStore, match="there are no credentials; expected AWS_ACCESS_KEY_ID"):
        cache_folder(f"{url}/other")
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(("text", "said"), [("gs://b/x", "no support for gs:"), ("s3://", "names no bucket")])
def test_a_url_of_another_store_is_refused(text: str, said: str) -> None:
    with pytest.raises(BadStore, match=said):
        locate(text)


def test_without_the_client(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "obstore.store", None)
    with pytest.raises(BadStore, match=r"pip install 'saeuron\[s3\]'"):
        cache_folder(f"{url}/other")


def test_a_bucket_that_holds_other_things(machine: Callable[[str], Workspace], url: str) -> None:
    Store(url).write("holiday.jpg", b"1")
    with pytest.raises(NotAWorkspace, match=r"it holds other things \(holiday.jpg\)"):
        machine("here")


def test_nothing_is_made_where_nothing_should_be(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAEURON_CACHE", str(tmp_path))
    with pytest.raises(NotAWorkspace, match=f"{url} is not a workspace"):
        Workspace.open(url, create=False)
    assert Store(url).listing() == {}
    # A Path has lost a slash of it.
    assert Workspace.open(Path(url)).address == url
