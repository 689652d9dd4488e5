"""Prepare a worker process for a step: check the workspace, set threads, claim a device."""

import fcntl
import logging
import os
import pickle
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from saeuron.errors import ConfigError, SaeuronError
from storage import Workspace
from tasks.engine import model, relay

log = logging.getLogger(__name__)

PATIENCE = 60.0
"""Seconds that a worker waits for a device of its own run: a cluster may start the next process before the last one has
ended."""
_claimed: dict[tuple[str, ...], tuple[str, int]] = {}
"""{devices to choose from: (device claimed by this process, file descriptor that holds its lock)}."""
_one_at_a_time = threading.Lock()
"""Clusters may run several steps in the threads of one process; they would share the loaded model and its hooks."""


class Worker(BaseModel):
    """Settings sent to a worker with every step. Only `threads` can change a result."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: str
    """The run's id, whose record the worker must see in the workspace."""
    threads: int
    """Torch threads."""
    devices: tuple[str, ...] | None = None
    """Devices to claim one of; None: all devices of the run's kind on this machine."""


@contextmanager
def at_work(worker: Worker | None, workspace: Path, device: str) -> Iterator[str]:
    """Prepare this process and keep other steps out of it; gives the device to use (without a worker, `device`).

    Raises:
        ConfigError: the workspace cannot be seen from here, or there is no device of the kind.
        SaeuronError: every device stayed claimed; or a step raised an error that cannot be pickled.
    """
    if worker is None:
        yield device
        return
    with _one_at_a_time:
        if not (Workspace(workspace).runs / f"{worker.run}.json").exists():
            raise ConfigError(
                f"the worker on {socket.gethostname()} does not see the workspace {workspace}; "
                "workers on other machines need it as a shared folder, under the same path."
            )
        model.set_threads(worker.threads)
        kind = device.split(":")[0]
        named = tuple(d for d in worker.devices or () if d.split(":")[0] == kind)
        # In a run on a GPU, steps without a model still run on the CPU.
        devices = named if worker.devices is not None else _present(device)
        try:
            with relay.sending():
                yield claim(devices, worker.run) if devices else device
        except Exception as error:
            raise portable(error) from None


def _present(device: str) -> tuple[str, ...]:
    """This machine's devices of a kind; empty for the CPU, which needs no claim."""
    kind, _, number = device.partition(":")
    if kind == "cpu":
        return ()
    if number:
        return (device,)
    count = model.device_count(device)
    if not count:
        raise ConfigError(f"the worker on {socket.gethostname()} has no {kind} device; expected at least one.")
    return tuple(f"{kind}:{i}" for i in range(count))


def claim(devices: tuple[str, ...], run: str) -> str:
    """One of `devices` for this process alone, the same at every call, until the process ends.

    The claim is a kernel lock on a file of this machine, so the device is free again however the process ends. While
    another run holds a device, this waits.

    Raises:
        SaeuronError: processes of the same run held all devices for longer than `PATIENCE`.
    """
    if devices not in _claimed:
        _claimed[devices] = _claim(devices, run)
    device, descriptor = _claimed[devices]
    # A cluster's process may serve several runs: others must see which one holds the device now.
    os.truncate(descriptor, 0)
    os.pwrite(descriptor, run.encode(), 0)
    return device


def _claim(devices: tuple[str, ...], run: str) -> tuple[str, int]:
    folder = Path(tempfile.gettempdir()) / f"saeuron-devices-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    end = time.monotonic() + PATIENCE
    waited = False
    while True:
        holders = set()
        for device in devices:
            descriptor = os.open(folder / f"{device.replace(':', '-')}.lock", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holders.add(os.pread(descriptor, 100, 0).decode("ascii", "replace"))
                os.close(descriptor)
                continue
            # Left open: closing the descriptor would release the lock, which is the claim.
            return device, descriptor
        if time.monotonic() > end:
            if holders == {run}:
                raise SaeuronError(
                    f"every device is claimed by another worker of this run ({', '.join(devices)}); lower "
                    "runner.workers to their number"
                )
            if not waited:
                log.warning("waiting for a device (%s): run %s has it", ", ".join(devices), min(holders - {run}))
                waited = True
        time.sleep(0.2)


def portable(error: Exception) -> Exception:
    """The error if it can be pickled, or else a SaeuronError with the same message."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - bytes of our own, a line ago
    except Exception:
        return SaeuronError(f"{type(error).__name__}: {error}")
    return error
