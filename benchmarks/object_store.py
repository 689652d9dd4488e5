"""Clients of S3 against one local server (moto's): latency, throughput, and whether conditional writes hold.

    python -m benchmarks.object_store [--only obstore,s3fs,pyarrow,deltalake] [--repeats 30] [--megabytes 64]

For each client that is installed: the median time to write and to read an object of 1 kB, the rate of an object of
64 MB both ways (median of 3), and of 50 races (8 threads, one key, each writes only if nothing is there; or only if
nothing has changed) in how many more than one thread believed to have won. docs/adr/0006 quotes it. The server is
one Python process: the rates say which client costs more, not how fast S3 is.
"""

import importlib.util
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from benchmarks.results import Figure, parser, show
from tests.s3_server import serving

BUCKET = "benchmark"
RACES, THREADS = 50, 8


class Client(Protocol):
    """What is asked of each. A conditional write says whether it was done; None: the client knows no such write."""

    def put(self, key: str, data: bytes) -> None: ...
    def get(self, key: str) -> bytes: ...
    def upload(self, key: str, path: Path) -> None: ...
    def download(self, key: str, path: Path) -> None: ...
    def create(self, key: str, data: bytes) -> bool | None: ...
    def version(self, key: str) -> Any: ...
    def replace(self, key: str, data: bytes, version: Any) -> bool | None: ...


class Obstore:
    """obstore, a client in Rust."""

    def __init__(self) -> None:
        import obstore
        from obstore.store import S3Store

        self.api, self.store = obstore, S3Store(BUCKET, client_options={"allow_http": True})

    def put(self, key: str, data: bytes) -> None:
        self.api.put(self.store, key, data)

    def get(self, key: str) -> bytes:
        return bytes(self.api.get(self.store, key).bytes())

    def upload(self, key: str, path: Path) -> None:
        self.api.put(self.store, key, path, chunk_size=16 << 20)

    def download(self, key: str, path: Path) -> None:
        with path.open("wb") as file:
            for piece in self.api.get(self.store, key).stream():
                file.write(piece)

    def create(self, key: str, data: bytes) -> bool | None:
        try:
            self.api.put(self.store, key, data, mode="create")
        except self.api.exceptions.AlreadyExistsError:
            return False
        return True

    def version(self, key: str) -> Any:
        return self.api.head(self.store, key)["e_tag"]

    def replace(self, key: str, data: bytes, version: Any) -> bool | None:
        try:
            self.api.put(self.store, key, data, mode={"e_tag": version})
        except self.api.exceptions.PreconditionError:
            return False
        return True


class S3fs:
    """fsspec's, over aiobotocore."""

    def __init__(self) -> None:
        import s3fs

        self.fs = s3fs.S3FileSystem(endpoint_url=os.environ["AWS_ENDPOINT_URL"], use_listings_cache=False)

    def put(self, key: str, data: bytes) -> None:
        self.fs.pipe_file(f"{BUCKET}/{key}", data)

    def get(self, key: str) -> bytes:
        return self.fs.cat_file(f"{BUCKET}/{key}")

    def upload(self, key: str, path: Path) -> None:
        self.fs.put_file(str(path), f"{BUCKET}/{key}")

    def download(self, key: str, path: Path) -> None:
        self.fs.get_file(f"{BUCKET}/{key}", str(path))

    def create(self, key: str, data: bytes) -> bool | None:
        try:
            self.fs.pipe_file(f"{BUCKET}/{key}", data, mode="create")
        except FileExistsError:
            return False
        return True

    def version(self, key: str) -> Any:
        return self.fs.info(f"{BUCKET}/{key}")["ETag"]

    def replace(self, key: str, data: bytes, version: Any) -> bool | None:
        # By the call beneath: the file system itself has no word for it.
        try:
            self.fs.call_s3("put_object", Bucket=BUCKET, Key=key, Body=data, IfMatch=version)
        except OSError:
            return False
        return True


class Pyarrow:
    """Arrow's own file system."""

    def __init__(self) -> None:
        from pyarrow import fs

        host = os.environ["AWS_ENDPOINT_URL"].removeprefix("http://")
        self.fs = fs.S3FileSystem(endpoint_override=host, scheme="http", region="us-east-1")

    def put(self, key: str, data: bytes) -> None:
        with self.fs.open_output_stream(f"{BUCKET}/{key}") as file:
            file.write(data)

    def get(self, key: str) -> bytes:
        with self.fs.open_input_file(f"{BUCKET}/{key}") as file:
            return file.read()

    def upload(self, key: str, path: Path) -> None:
        with self.fs.open_output_stream(f"{BUCKET}/{key}") as file, path.open("rb") as source:
            while piece := source.read(8 << 20):
                file.write(piece)

    def download(self, key: str, path: Path) -> None:
        with self.fs.open_input_stream(f"{BUCKET}/{key}") as file, path.open("wb") as target:
            while piece := file.read(8 << 20):
                target.write(piece)

    def create(self, key: str, data: bytes) -> bool | None:
        return None

    def version(self, key: str) -> Any:
        return None

    def replace(self, key: str, data: bytes, version: Any) -> bool | None:
        return None


CLIENTS: dict[str, Callable[[], Client]] = {"obstore": Obstore, "s3fs": S3fs, "pyarrow": Pyarrow}


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--only", default=",".join([*CLIENTS, "deltalake"]))
    arguments.add_argument("--repeats", type=int, default=30)
    arguments.add_argument("--megabytes", type=int, default=64)
    options = arguments.parse_args()
    figures: list[Figure] = []
    with serving() as server, tempfile.TemporaryDirectory() as folder:
        server.bucket(BUCKET)
        os.environ.update(server.environment)
        for name in options.only.split(","):
            if importlib.util.find_spec(name) is None:
                print(f"{name} is not installed: left out")
            elif name == "deltalake":
                figures += _delta(options.repeats)
            else:
                figures += _client(name, CLIENTS[name](), Path(folder), options.repeats, options.megabytes)
    show(figures, options.json)


def _client(name: str, client: Client, folder: Path, repeats: int, megabytes: int) -> list[Figure]:
    client.put("warm", b"")
    small = os.urandom(1000)
    writing = [_timed(client.put, f"{name}/small/{i}", small) for i in range(repeats)]
    reading = [_timed(client.get, f"{name}/small/{i}") for i in range(repeats)]
    source, target = folder / "source", folder / "target"
    source.write_bytes(os.urandom(megabytes << 20))
    up = [_timed(client.upload, f"{name}/large", source) for _ in range(3)]
    down = [_timed(client.download, f"{name}/large", target) for _ in range(3)]
    if target.read_bytes() != source.read_bytes():
        raise SystemExit(f"{name}: the bytes that came back are others")
    size = megabytes * 1.048576
    return [
        Figure(f"{name}: write 1 kB", 1000 * statistics.median(writing), "ms"),
        Figure("  slowest", 1000 * max(writing), "ms"),
        Figure(f"{name}: read 1 kB", 1000 * statistics.median(reading), "ms"),
        Figure("  slowest", 1000 * max(reading), "ms"),
        Figure(f"{name}: write {megabytes} MB", size / statistics.median(up), "MB/s"),
        Figure(f"{name}: read {megabytes} MB", size / statistics.median(down), "MB/s"),
        *_races(name, client),
    ]


def _races(name: str, client: Client) -> list[Figure]:
    if client.create(f"{name}/new", b"") is None:
        return [Figure(f"{name}: conditional writes", None, "not there")]
    created, replaced, lost = 0, 0, 0
    for race in range(RACES):
        key = f"{name}/race/{race}"
        wins = _together([partial(client.create, key, b"%d" % i) for i in range(THREADS)])
        created += sum(wins) != 1
        version = client.version(key)
        wins = _together([partial(client.replace, key, b"+%d" % i, version) for i in range(THREADS)])
        replaced += sum(wins) != 1
        lost += client.get(key) != b"+%d" % wins.index(True)
    return [
        Figure(f"{name}: create, not one winner of {THREADS}", created, f"of {RACES}"),
        Figure(f"{name}: replace, not one winner of {THREADS}", replaced, f"of {RACES}"),
        Figure(f"{name}: the winner's bytes are not there", lost, f"of {RACES}"),
    ]


def _together(work: list[Callable[[], bool | None]]) -> list[bool]:
    """Do all at once; what each said. One that fails otherwise has not won."""
    gate, said = threading.Barrier(len(work)), [False] * len(work)

    def one(index: int) -> None:
        gate.wait()
        said[index] = bool(work[index]())

    threads = [threading.Thread(target=one, args=(i,)) for i in range(len(work))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return said


def _delta(repeats: int) -> list[Figure]:
    """A commit log as a Delta table: one appended row a commit; and the log read back."""
    import pyarrow as pa
    from deltalake import DeltaTable, write_deltalake

    place, options = f"s3://{BUCKET}/delta", {"AWS_ALLOW_HTTP": "true"}
    row = pa.table({"id": ["a"], "manifest": ["x" * 1000]})
    write_deltalake(place, row, storage_options=options)
    append = partial(write_deltalake, place, row, mode="append", storage_options=options)
    times = [_timed(append) for _ in range(repeats)]
    reading = [_timed(lambda: DeltaTable(place, storage_options=options).to_pyarrow_table()) for _ in range(5)]
    return [
        Figure("deltalake: commit a row of 1 kB", 1000 * statistics.median(times), "ms"),
        Figure("  slowest", 1000 * max(times), "ms"),
        Figure(f"deltalake: read the log of {repeats + 1}", 1000 * statistics.median(reading), "ms"),
    ]


def _timed(do: Callable[..., object], *arguments: Any) -> float:
    start = time.perf_counter()
    do(*arguments)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
