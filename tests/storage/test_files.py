import errno
import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from storage import files
from storage.errors import ArtifactDamaged, ArtifactMissing, DiskFull
from storage.files import atomic_path, read_json, sweep, write_atomic, write_json


def test_an_atomic_write_replaces_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "f"
    write_atomic(path, b"one")
    write_atomic(path, b"two")
    assert path.read_bytes() == b"two"
    assert [p.name for p in path.parent.iterdir()] == ["f"]


def test_a_failure_in_the_middle_leaves_what_was(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write_atomic(path, b"old")
    with pytest.raises(KeyboardInterrupt), atomic_path(path) as temporary:
        assert f"-{os.getpid()}." in temporary.name and temporary.name[:3] == ".f." and temporary.suffix == ".tmp"
        temporary.write_bytes(b"ne")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_sweep_takes_what_the_dead_left_alone(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    left = tmp_path / "a" / f".00000.tar.{process.pid}.7.tmp"
    mine = tmp_path / f".f.{os.getpid()}.7.tmp"
    others = [tmp_path / "report.tmp", tmp_path / ".f.tmp", tmp_path / ".f.1.2.tmp.txt"]
    left.parent.mkdir()
    for path in (left, mine, *others):
        path.write_bytes(b"x")
    assert sweep(tmp_path) == 1
    assert not left.exists() and all(path.exists() for path in (mine, *others))
    assert sweep(tmp_path / "nowhere") == 0


def test_sweep_leaves_another_machine_its_temporaries_for_a_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: dict[str, Path] = {}
    for host, written_ago in {"here": 0, "writing": 0, "gone": files.ABANDONED + 60}.items():
        with monkeypatch.context() as patch:
            if host != "here":
                patch.setattr(files, "_HOST", hashlib.sha256(host.encode()).hexdigest()[:6])
            # A number that no process has.
            patch.setattr(os, "getpid", lambda: 999_999_999)
            with pytest.raises(KeyboardInterrupt), atomic_path(tmp_path / host) as temporary:
                kept = tmp_path / "kept" / temporary.name
                raise KeyboardInterrupt
        kept.parent.mkdir(exist_ok=True)
        kept.write_bytes(b"x")
        os.utime(kept, (time.time() - written_ago,) * 2)
        written[host] = kept
    assert sweep(tmp_path) == 2
    assert {host for host, path in written.items() if path.exists()} == {"writing"}


def test_json_is_read_as_written_and_damage_is_found(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": [1], "a": "é"})
    assert read_json(tmp_path / "a.json") == {"a": "é", "b": [1]}
    with pytest.raises(ValueError):
        write_json(tmp_path / "b.json", float("nan"))
    (tmp_path / "c.json").write_text('{"a": ')
    with pytest.raises(ArtifactDamaged):
        read_json(tmp_path / "c.json")
    with pytest.raises(ArtifactMissing):
        read_json(tmp_path / "d.json")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def full(descriptor: int) -> None:
        raise OSError(code, "no room")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFull, match="it needs at least 3 bytes") as caught:
        write_atomic(tmp_path / "f", b"abc")
    assert caught.value.__cause__.errno == code  # type: ignore[union-attr]
    assert list(tmp_path.iterdir()) == []


def test_other_errors_stay_themselves(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), atomic_path(tmp_path / "f"):
        raise PermissionError(errno.EPERM, "no")


_LIMITED = """
import resource, sys
from pathlib import Path
import numpy as np, pyarrow as pa
from storage.errors import DiskFull
from storage.parquet import write_parquet
from storage.dense.shards import write_shard
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
folder = Path(sys.argv[1])
noise = np.random.default_rng(0).integers(0, 2**62, 100_000)
for write in (
    lambda: write_shard(folder / "s.tar", (("k%d" % i, {"bin": bytes(9000)}) for i in range(9)), {}),
    lambda: write_parquet(folder / "t.parquet", pa.table({"a": noise})),
):
    try:
        write()
    except DiskFull as error:
        print(error)
print(sorted(p.name for p in folder.iterdir()))
"""


def test_a_real_limit_leaves_nothing_behind(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _LIMITED, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"no room to write {tmp_path}/s.tar")
    assert lines[1].startswith(f"no room to write {tmp_path}/t.parquet")
    assert lines[2] == "[]"
