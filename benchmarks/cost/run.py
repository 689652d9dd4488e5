"""Time and peak memory of the default run, of a second run, and of an added concept.

    python -m benchmarks.cost.run [--config canvas] [--workspace DIR]

Each is the real command in a process of its own. Peak memory is that of all its processes together, Prefect's server
and workers too: the largest sum of their proportional set sizes (what several share counts once), looked at five times
a second. Of the SAEs that the first run trained, the longest time that one took.
"""

import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from benchmarks.results import Figure, parser, show
from storage import Workspace


def measured(*arguments: str) -> tuple[float, float]:
    """(seconds, peak gigabytes) of one command of ours; it must end well."""
    start, most = time.perf_counter(), 0.0
    process = subprocess.Popen([sys.executable, "-m", "flows.cli", *arguments])
    while process.poll() is None:
        most = max(most, sum(map(proportional, tree(process.pid))))
        time.sleep(0.2)
    seconds = time.perf_counter() - start
    if process.returncode:
        raise SystemExit(f"saeuron {' '.join(arguments)} ended with {process.returncode}")
    return seconds, most


def tree(pid: int) -> list[int]:
    """A process and all that descend from it."""
    found = [pid]
    for each in found:
        for children in Path(f"/proc/{each}/task").glob("*/children"):
            with suppress(OSError):  # It has ended.
                found += map(int, children.read_text().split())
    return found


def proportional(pid: int) -> float:
    """Gigabytes of a process, of pages that several share its part; 0 if it has ended."""
    with suppress(OSError):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 / 1e9 for line in lines if line.startswith("Pss:"))
    return 0.0


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--config", default="canvas")
    arguments.add_argument("--workspace", type=Path, help="default: a new temporary folder")
    arguments.add_argument("--concept", default="examples/grain.yaml", help="concept to add; empty: none")
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        workspace = str(options.workspace or Path(folder) / "workspace")
        figures = []
        for name in ("first run", "second run"):
            seconds, memory = measured("run", options.config, "--workspace", workspace)
            figures += [Figure(f"{name}: time", seconds, "s"), Figure(f"{name}: peak memory", memory, "GB")]
        saes = Workspace(Path(workspace)).artifacts("sae")
        longest = max(m.seconds for m in saes if m.summary.get("dictionary") in (None, "trained"))
        figures.append(Figure("longest training of an SAE", longest, "s"))
        if options.concept:
            seconds, memory = measured("concept", "add", options.concept, "--workspace", workspace)
            figures += [Figure("concept add: time", seconds, "s"), Figure("concept add: peak memory", memory, "GB")]
    show(figures, options.json)


if __name__ == "__main__":
    main()
