"""How torch's threads wait: set before torch is imported, wherever we import it; the user's own setting wins."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from saeuron.threads import ALLOCATOR, CHOICES

ROOT = Path(__file__).parents[2]

# A torch that is never imported: what is set at that moment is all that counts.
AT_TORCH = """
import importlib, os, sys
class AtTorch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print(os.environ.get("OMP_WAIT_POLICY"), flush=True)
            os._exit(0)
sys.meta_path.insert(0, AtTorch())
importlib.import_module(sys.argv[1])
"""
SHOW = "import os; print(os.environ.get('OMP_WAIT_POLICY'), os.environ.get('GOMP_SPINCOUNT'))"


def python(code: str, *args: str, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in (*CHOICES, *ALLOCATOR)}
    return subprocess.run(
        [sys.executable, "-c", code, *args],
        cwd=ROOT,
        env=environment | {"PYTHONPATH": str(ROOT)} | settings,
        capture_output=True,
        text=True,
        check=True,
    )


@pytest.mark.parametrize(
    "module",
    [
        "saeuron.hooks",
        "saeuron.canvas.model",
        "tasks.fit",
        "tasks.capture",
        "benchmarks.cost.overhead",
        "tests.conftest",
    ],
)
def test_threads_are_to_sleep_when_torch_is_imported(module: str) -> None:
    assert python(AT_TORCH, module).stdout.split() == ["PASSIVE"]


@pytest.mark.parametrize(
    ("settings", "kept"), [({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE None"), ({"GOMP_SPINCOUNT": "7"}, "None 7")]
)
def test_either_setting_of_the_users_wins(settings: dict[str, str], kept: str) -> None:
    done = python(f"import sys; sys.modules['torch'] = sys; import saeuron; {SHOW}", **settings)
    assert (done.stdout.strip(), done.stderr) == (kept, "")


def test_importing_torch_first_warns_once() -> None:
    code = f"import sys; sys.modules['torch'] = sys; import saeuron, saeuron.threads as t; t.wait_passively(); {SHOW}"
    done = python(code)
    assert done.stdout.strip() == "PASSIVE None"
    assert done.stderr.count("torch was imported before saeuron") == 1
    assert len(done.stderr.splitlines()) == 1


FAULTS = """
import resource, sys
sys.modules["torch"] = sys
import saeuron
import numpy as np
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        np.ones(2**23)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults() * resource.getpagesize())
"""
"""Prints bytes of pages that the kernel gave for 20 arrays of 64 MiB, each freed before the next."""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has mallopt")
@pytest.mark.parametrize(("settings", "kept"), [({}, True), ({"MALLOC_TRIM_THRESHOLD_": "65536"}, False)])
def test_freed_memory_is_kept_unless_the_user_says_otherwise(settings: dict[str, str], kept: bool) -> None:
    assert (int(python(FAULTS, **settings).stdout) < 2**23) == kept
