import gc
import io
import tarfile
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import webdataset

from storage.dense.activations import encode
from storage.dense.shards import npy_header, read_manifest, read_member, sidecar, verify, write_shard
from storage.errors import ArtifactDamaged, ArtifactMissing

SAMPLES = [(f"k{i}", {"npy": encode(np.full((2, 3, 4), i, np.float16)), "txt": f"text {i}".encode()}) for i in range(5)]


def _by_webdataset(path: Path) -> list[tuple[str, dict[str, bytes]]]:
    with warnings.catch_warnings():
        # webdataset leaves the closing of the file to the garbage collector.
        warnings.simplefilter("ignore", ResourceWarning)
        samples = list(webdataset.WebDataset(str(path), shardshuffle=False))
        gc.collect()
    return [(s["__key__"], {name: s[name] for name in ("npy", "txt")}) for s in samples]


def test_a_shard_reads_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "unet.up_blocks.1" / "0.tar"
    manifest = write_shard(path, SAMPLES, {"hookpoint": "unet.up_blocks.1"})
    assert read_manifest(path) == manifest
    assert manifest.bytes == path.stat().st_size and manifest.meta == {"hookpoint": "unet.up_blocks.1"}
    found: dict[str, dict[str, bytes]] = {}
    for member in read_manifest(path).members:
        found.setdefault(member.key, {})[member.extension] = read_member(path, member)
    assert list(found.items()) == SAMPLES
    assert manifest.members[0].shape == (2, 3, 4) and manifest.members[0].dtype == "float16"
    assert manifest.members[1].shape is None
    assert read_member(path, manifest.members[3]) == b"text 1"
    assert verify(path, deep=True) == []


def test_webdataset_and_tarfile_read_it(tmp_path: Path) -> None:
    path = tmp_path / "0.tar"
    write_shard(path, SAMPLES, {})
    assert _by_webdataset(path) == SAMPLES
    with tarfile.open(path) as tar:
        assert all(info.mtime == info.uid == info.gid == 0 for info in tar)


def test_same_samples_same_bytes(tmp_path: Path) -> None:
    for name in ("a.tar", "b.tar"):
        write_shard(tmp_path / name, iter(SAMPLES), {"m": 1})
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    assert sidecar(tmp_path / "a.tar").read_bytes() == sidecar(tmp_path / "b.tar").read_bytes()


def test_an_error_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    def failing() -> Iterator[tuple[str, dict[str, bytes]]]:
        yield SAMPLES[0]
        raise RuntimeError("the model failed")

    with pytest.raises(RuntimeError):
        write_shard(tmp_path / "0.tar", failing(), {})
    assert list(tmp_path.iterdir()) == []


def test_a_failed_rewrite_withdraws_the_shard(tmp_path: Path) -> None:
    write_shard(tmp_path / "0.tar", SAMPLES, {})
    with pytest.raises(ValueError):
        write_shard(tmp_path / "0.tar", [("a.b", {"txt": b""})], {})
    with pytest.raises(ArtifactMissing):
        read_manifest(tmp_path / "0.tar")


@pytest.mark.parametrize("key", ["", "a.b", "a/b"])
def test_keys_with_dots_or_slashes_are_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError, match="without dots or slashes"):
        write_shard(tmp_path / "0.tar", [(key, {"txt": b""})], {})


def test_samples_must_differ_and_hold_something(tmp_path: Path) -> None:
    for samples, word in (([SAMPLES[0]] * 2, "repeated"), ([("k", {})], "empty")):
        with pytest.raises(ValueError, match=word):
            write_shard(tmp_path / "0.tar", samples, {})


def test_a_tar_cut_at_a_member_boundary_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "0.tar"
    manifest = write_shard(path, SAMPLES, {})
    path.write_bytes(path.read_bytes()[: manifest.members[4].offset - 512])
    # webdataset sees nothing wrong: that is why the sidecar exists.
    assert _by_webdataset(path) == SAMPLES[:2]
    with pytest.raises(ArtifactDamaged, match=f"expected {manifest.bytes} bytes"):
        read_manifest(path)
    assert len(verify(path)) == 1
    with pytest.raises(ArtifactDamaged):
        read_member(path, manifest.members[4])


def test_no_sidecar_no_shard(tmp_path: Path) -> None:
    path = tmp_path / "0.tar"
    write_shard(path, SAMPLES, {})
    sidecar(path).rename(tmp_path / "elsewhere")
    with pytest.raises(ArtifactMissing, match=r"0\.tar\.json"):
        read_manifest(path)
    (tmp_path / "elsewhere").rename(sidecar(path))
    path.unlink()
    with pytest.raises(ArtifactDamaged, match="found no file"):
        read_manifest(path)


def test_a_flipped_bit_is_seen_in_depth(tmp_path: Path) -> None:
    path = tmp_path / "0.tar"
    write_shard(path, SAMPLES, {})
    data = bytearray(path.read_bytes())
    data[600] ^= 1
    path.write_bytes(data)
    assert verify(path) == [] and "SHA-256" in verify(path, deep=True)[0]


def test_an_odd_sidecar_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "0.tar"
    write_shard(path, SAMPLES, {})
    text = sidecar(path).read_text()
    for bad in (text.replace('"format": 1', '"format": 2'), text.replace('"sha256"', '"sha"')):
        sidecar(path).write_text(bad)
        with pytest.raises(ArtifactDamaged):
            read_manifest(path)


def test_headers_are_parsed_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """CPython 3.11 fails now and then where threads parse at once."""
    parse, alone = np.lib.format.read_array_header_1_0, threading.Lock()

    def watched(stream: io.BytesIO) -> object:
        assert alone.acquire(blocking=False), "two at once"
        time.sleep(0.005)
        try:
            return parse(stream)
        finally:
            alone.release()

    monkeypatch.setattr(np.lib.format, "read_array_header_1_0", watched)
    data = [encode(np.full((2, 3, i + 1), i, np.float16)) for i in range(8)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(npy_header, data))
    assert [shape for shape, _, _ in found] == [(2, 3, i + 1) for i in range(8)]
    assert all(
        data[i][start:] == np.full((2, 3, i + 1), i, np.float16).tobytes() for i, (_, _, start) in enumerate(found)
    )


def test_an_array_by_column_or_of_objects_is_refused() -> None:
    for array, message in (
        (np.asfortranarray(np.ones((2, 3), np.float32)), "float32 by column"),
        (np.array(["a"], object), "not object"),
    ):
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, array, version=(1, 0))
        with pytest.raises(ValueError, match=message):
            npy_header(buffer.getvalue())
