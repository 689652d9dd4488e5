"""What the compiler makes of the kernels for GPUs, on a machine without one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is there for Linux alone")


def test_they_compile_and_nothing_spills(tmp_path: Path) -> None:
    # Here the interpreter stands in for the compiler, so another process has to.
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "benchmarks.kernels", "--compile", "--json", str(tmp_path / "figures.json")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    spilled = [f["value"] for f in figures if f["name"] == "  spilled"]
    assert spilled == [0] * 8
    assert all(f["value"] > 0 for f in figures if f["name"] == "  loads of 16 bytes")


def test_without_a_gpu_nothing_is_timed() -> None:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "benchmarks.kernels"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "there is no GPU here" in done.stderr
