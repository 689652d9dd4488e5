"""What the compiler makes of the kernels for GPUs, on a machine without one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is there for Linux alone")


@pytest.mark.full
def test_they_compile_and_nothing_spills(tmp_path: Path) -> None:
    # Here the interpreter stands in for the compiler, so another process has to.
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "benchmarks.sae.kernels", "--compile", "--json", str(tmp_path / "figures.json")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    spilled = [f["value"] for f in figures if f["name"] == "  spilled"]
    assert spilled == [0] * 17
    pairs = zip(figures, figures[2:], strict=False)
    wide = {kernel["name"]: loads["value"] for kernel, loads in pairs if "registers" in kernel["name"]}
    # What has a number or two for each thread has no use for wide loads.
    assert len(wide) == 17 and all(wide[name] > 0 for name in wide if "BLOCK 1," not in name and "EACH 8)" not in name)


def test_without_a_gpu_nothing_is_timed() -> None:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "benchmarks.sae.kernels"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "there is no GPU here" in done.stderr
