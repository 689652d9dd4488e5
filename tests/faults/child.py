"""Where the fault tests have their runs from: a process that has loaded everything, and of which each run is a copy.

A plan says what befalls a run:

    root, log              every event below `root` is noted in `log`: a file synced, renamed or deleted, a folder
                           made, a record opened
    at, how                at the event of this number the process kills itself, "before" or "after" it happens, or
                           "torn": a file that was to be synced is half there. Or, from there on, the disk is "full",
                           no file grows beyond `room` bytes, or "crammed", there is not even a place for a new name
    of                     only events below these folders of the workspace are counted
    back, calls            the clock is set back by so many seconds once our modules asked it so many times
    humble                 root obeys the permissions of files
"""

import builtins
import contextlib
import ctypes
import datetime
import errno
import io
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

NAMES = ("fsync", "replace", "rename", "unlink", "rmdir", "mkdir")
NEW = ("open", "mkdir")
"""What needs a place for a new name."""
FULL = ("full", "crammed")


class Watch:
    """Counts events, writes each down, and at one of them ends the process, or the room on its disk."""

    def __init__(
        self, root: str, log: str, at: int = 0, how: str = "before", of: Sequence[str] = (), room: int = 0
    ) -> None:
        self.root, self.at, self.how, self.of, self.room = Path(root).resolve(), at, how, of, room
        self.log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.count = 0
        self.full = False
        for name in NAMES:
            setattr(os, name, self.watched(name, getattr(os, name)))
        opened = self.watched("open", io.open)
        io.open = builtins.open = opened

    def watched(self, name: str, true: Callable[..., Any]) -> Callable[..., Any]:
        def call(what: Any, *args: Any, **how: Any) -> Any:
            place = self.place(what) if self.writes(name, *args, **how) else None
            if place is None:
                return true(what, *args, **how)
            counted = not self.of or any(f"{place}/".startswith(f"{folder}/") for folder in self.of)
            self.count += counted
            now = counted and self.count == self.at
            if not self.full:
                os.write(self.log, f"{name} {place}\n".encode())
            if now and self.how in FULL:
                # The log is a file as well.
                self.full = True
                resource.setrlimit(resource.RLIMIT_FSIZE, (self.room, self.room))
            if self.full and self.how == "crammed" and name in NEW and not (self.root / place).exists():
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.root / place))
            if not now or self.full:
                return true(what, *args, **how)
            if self.how == "torn" and name == "fsync" and place.endswith(".tmp"):
                os.truncate(self.root / place, (self.root / place).stat().st_size // 2)
            elif self.how == "after":
                with contextlib.suppress(OSError):
                    true(what, *args, **how)
            os.kill(os.getpid(), signal.SIGKILL)
            return None

        return call

    @staticmethod
    def writes(name: str, *args: Any, **how: Any) -> bool:
        return name != "open" or "w" in str(how.get("mode", args[0] if args else ""))

    def place(self, what: Any) -> str | None:
        """Where below the workspace it happens; None elsewhere."""
        try:
            path = Path(f"/proc/self/fd/{what}").readlink() if isinstance(what, int) else Path(os.fspath(what))
            return path.absolute().relative_to(self.root).as_posix()
        except (ValueError, TypeError, OSError):
            return None


def set_back(back: float, calls: int) -> None:
    """Set the clock back by `back` seconds, once our modules asked `calls` times what time it is."""
    asked, real, real_ns, true = 0, time.time, time.time_ns, datetime.datetime

    def shift() -> float:
        return back if asked > calls else 0.0

    class Shifted(true):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            nonlocal asked
            asked += 1
            return true.now(tz) - datetime.timedelta(seconds=shift())

    time.time = lambda: real() - shift()
    time.time_ns = lambda: real_ns() - int(shift() * 1e9)
    # All that reads the clock, before it is replaced there.
    import flows.pipeline
    import flows.upkeep.verify
    import storage.workspace
    import tasks.registry.runs

    for module in (flows.upkeep.verify, storage.workspace, tasks.registry.runs):
        assert module.datetime is true
        module.datetime = Shifted


def give_up_override() -> None:
    """Obey the permissions of files, even as root: CAP_DAC_OVERRIDE leaves all sets of this process (capset)."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)()
    assert libc.capget(header, sets) == 0
    for i in range(3):
        sets[i] &= ~(1 << 1)
    assert libc.capset(header, sets) == 0


def orders() -> tuple[dict[str, Any], list[str]]:
    """Load all that a run needs, then wait for orders, one JSON object a line; each run is a copy of this process.

    {"start": [plan, words, out, err]} is answered by the id of a process in which this function has returned;
    {"wait": id} by how it ended, and {"ask": id} likewise, or null while it lives.
    """
    import matplotlib.pyplot  # noqa: F401

    from saeuron.canvas import model  # noqa: F401

    for line in sys.stdin:
        order = json.loads(line)
        if "start" in order:
            plan, words, *pipes = order["start"]
            # Pipes have room on a full disk. Open before there is anybody who could be killed while he opens them.
            ends = [os.open(path, os.O_WRONLY) for path in pipes]
            if (pid := os.fork()) == 0:
                os.setsid()
                for number, end in enumerate([os.open(os.devnull, os.O_RDONLY), *ends]):
                    os.dup2(end, number)
                    os.close(end)
                return plan, words
            for end in ends:
                os.close(end)
            answer: Any = pid
        else:
            pid, status = os.waitpid(order.get("wait") or order["ask"], 0 if "wait" in order else os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        sys.stdout.write(f"{json.dumps(answer)}\n")
        sys.stdout.flush()
    sys.exit()


def main() -> None:
    plan, words = orders()
    sys.argv = ["saeuron", *words]
    if plan.pop("humble", False):
        give_up_override()
    if "root" in plan:
        Watch(**plan)
    if "back" in plan:
        set_back(**plan)
    from flows.cli import main
    from tests.faults.packed import packed

    with packed():
        main()


if __name__ == "__main__":
    main()
