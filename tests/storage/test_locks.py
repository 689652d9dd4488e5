import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from storage.workspace import Workspace

_HOLDER = """
import sys, time
from storage.workspace import Workspace
with Workspace.open(sys.argv[1]).lock("sae/of: all"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_killed_holder_holds_nothing(workspace: Workspace) -> None:
    command = [sys.executable, "-c", _HOLDER, str(workspace.root)]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    entered = threading.Event()

    def enter() -> None:
        with workspace.lock("sae/of: all"):
            entered.set()

    waiter = threading.Thread(target=enter)
    waiter.start()
    assert not entered.wait(0.2)
    os.kill(holder.pid, signal.SIGKILL)
    holder.communicate()
    assert entered.wait(5)
    waiter.join()
    assert [p.name for p in (workspace.root / "locks").iterdir()] == ["sae%2Fof%3A%20all.lock"]


def test_threads_exclude_each_other(workspace: Workspace) -> None:
    inside, most = 0, 0

    def enter() -> None:
        nonlocal inside, most
        with workspace.lock("one"):
            inside += 1
            most = max(most, inside)
            time.sleep(0.01)
            inside -= 1

    threads = [threading.Thread(target=enter) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


@pytest.mark.parametrize("name", [".", "..", "a" * 500, "/etc/passwd", "ü"])
def test_any_name_is_a_file_in_the_folder(workspace: Workspace, name: str) -> None:
    with workspace.lock(name):
        assert len(list((workspace.root / "locks").iterdir())) == 1


def test_an_error_inside_lets_go(workspace: Workspace) -> None:
    with pytest.raises(ZeroDivisionError), workspace.lock("one"):
        raise ZeroDivisionError
    with workspace.lock("one"):
        pass
