"""What takes long to make is made once for all processes of a test run, by the one that needs it first."""

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.environment import QUIET

SHARED = pytest.StashKey[Path]()
"""The folder that all processes of a test run know; tests/conftest.py makes it."""


def once(config: pytest.Config, name: str, make: Callable[[Path], None]) -> Path:
    """The folder of that name, filled by `make` in one process; the others wait for it."""
    place = config.stash[SHARED] / name
    made = place.with_suffix(".made")
    with place.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
            make(place)
            made.touch()
    return place


def migrated(config: pytest.Config, home: Path) -> Path:
    """The same folder, with an empty database for a server of Prefect's: to make one takes longer than all else."""
    database = once(config, "prefect", _migrate) / "prefect.db"
    home.mkdir(parents=True, exist_ok=True)
    shutil.copy(database, home)
    return home


def _migrate(home: Path) -> None:
    mine = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")} | QUIET | {"PREFECT_HOME": str(home)}
    command = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "-y"]
    done = subprocess.run(command, env=mine, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    # Else a copy of the database alone would lack something.
    assert not list(home.glob("prefect.db-*"))
