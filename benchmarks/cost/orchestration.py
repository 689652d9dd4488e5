"""The share of Prefect, caching and manifests in a run: at most 5 percent beyond the library's own work.

    python -m benchmarks.cost.orchestration
    python -m benchmarks.cost.orchestration --config tests/end_to_end/tiny.yaml

One run in an empty workspace, in this process, its main thread looked at a hundred times a second: where is it? In the
library (`saeuron`, and what it calls), in the data that steps read and write (shards, tables, pictures), in imports, or
in anything else: Prefect and its start, caching, locks, hashes, manifests, checks. `baseline` of a share is the time of
library, its imports and data: what a script without this orchestration would take.
"""

import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from types import FrameType

from benchmarks.results import Figure, parser, show

INTERVAL = 0.01
DATA = ("storage.dense", "storage.parquet", "storage.tables", "storage.statistics.sums", "PIL.")
ORCHESTRATION = "prefect, caching, manifests"
IMPORTS = "prefect's import"


def main() -> None:
    """Run, look, print."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--config", default="canvas20")
    arguments.add_argument("--threads", type=int, default=2)
    options = arguments.parse_args()
    seen: Counter[str] = Counter()
    inner: Counter[str] = Counter()
    ended = threading.Event()
    looker = threading.Thread(target=_look, args=[threading.main_thread().ident, seen, inner, ended], daemon=True)
    with tempfile.TemporaryDirectory(prefix="saeuron-orchestration-") as folder:
        start = time.perf_counter()
        looker.start()
        _run(options.config, Path(folder) / "workspace", options.threads)
        ended.set()
        looker.join()
        took = time.perf_counter() - start
    total = sum(seen.values())
    seconds = {kind: took * count / total for kind, count in seen.items()}
    alone = sum(seconds.get(kind, 0.0) for kind in ("library", "data", "library's import"))
    beyond = took - alone
    figures = [
        Figure("the run", took, "s", alone, took / alone),
        Figure("beyond the library", beyond, "s", alone, beyond / alone),
    ]
    figures += [
        Figure(f"  {kind}", s, "s", alone, s / alone) for kind, s in sorted(seconds.items(), key=lambda i: -i[1])
    ]
    figures.append(Figure("limit", 0.05, "1"))
    show(figures, options.json)
    for place, count in inner.most_common(12):
        print(f"  {took * count / total:7.2f} s  {place}")


def _run(config: str, workspace: Path, threads: int) -> None:
    from flows.commands.run import run_pipeline
    from flows.config import load

    run_pipeline(load(config, []), workspace, None, "cpu", threads, False, True)


def _look(main: int, seen: Counter[str], inner: Counter[str], ended: threading.Event) -> None:
    while not ended.wait(INTERVAL):
        frame = sys._current_frames().get(main)
        if frame is None:
            continue
        kind, place = _kind(frame)
        seen[kind] += 1
        if kind == ORCHESTRATION:
            inner[place] += 1


def _kind(frame: FrameType | None) -> tuple[str, str]:
    """The kind of work that a stack is doing, and its innermost frame in this project."""
    names: list[str] = []
    place = ""
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        names.append(name)
        if not place and name.split(".")[0] in ("flows", "tasks", "storage"):
            place = f"{name}.{frame.f_code.co_name}"
        frame = frame.f_back
    outermost = names[::-1]
    if any(name.startswith("importlib") for name in names):
        ours = any(name.split(".")[0] in ("torch", "diffusers", "transformers", "saeuron", "numpy") for name in names)
        return ("library's import" if ours else IMPORTS), place
    for name in outermost:
        if name.startswith("saeuron.") and name not in ("saeuron.config", "saeuron.errors"):
            return "library", place
        if name.startswith(DATA):
            return "data", place
    return ORCHESTRATION, place


if __name__ == "__main__":
    main()
