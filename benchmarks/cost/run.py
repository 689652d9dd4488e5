"""Time and peak memory of the default run, of a second run, and of an added concept.

    python -m benchmarks.cost.run [--config canvas] [--workspace DIR]

Each is the real command in a process of its own; peak memory is the largest resident set of that process.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.results import Figure, parser, show


def measured(*arguments: str) -> tuple[float, float]:
    """(seconds, peak gigabytes) of one command of ours; it must end well."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "flows.cli", *arguments])
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(f"saeuron {' '.join(arguments)} ended with {os.waitstatus_to_exitcode(status)}")
    return seconds, usage.ru_maxrss / 1e6


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
        if options.concept:
            seconds, memory = measured("concept", "add", options.concept, "--workspace", workspace)
            figures += [Figure("concept add: time", seconds, "s"), Figure("concept add: peak memory", memory, "GB")]
    show(figures, options.json)


if __name__ == "__main__":
    main()
