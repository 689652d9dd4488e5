"""A Prefect server as the child of a run: it ends when the run does, however that ends.

The run holds one end of a pipe and writes nothing to it; the server waits at the other. A killed process cannot stop
its children, but the kernel closes its pipes. Prefect would start such a server by itself, but only at its first flow;
here it starts while the configuration is checked, which takes about as long.

    python -m flows.server LIFELINE ARGUMENTS-OF-UVICORN
"""

import atexit
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.request import urlopen

from saeuron.errors import SaeuronError
from storage.errors import DiskFull
from storage.files import NO_ROOM

PATIENCE = 180.0
"""Seconds that a busy machine may take to start it."""
STARTS = 3
"""How often to start a server that ends at once: another process may have taken its port."""

_own: "_Server | None" = None


class _Server:
    """The child."""

    def __init__(self) -> None:
        self.port, self.starts = 0, 0
        self.process = self._start()
        self.deadline = time.monotonic() + PATIENCE
        # Registered before Prefect is imported, so that the server stops after Prefect has sent its last messages.
        atexit.register(self.stop)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/api"

    def _start(self) -> "subprocess.Popen[bytes]":
        self.starts += 1
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        command = [
            *("--factory", "prefect.server.api.server:create_app"),
            *("--host", "127.0.0.1", "--port", str(self.port)),
            *("--log-level", "error", "--lifespan", "on"),
        ]
        # A new process need not have this package on its path, for example if it was found in a script's folder.
        path = os.pathsep.join(each or str(Path.cwd()) for each in sys.path)
        ours = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
        # The kernel alone closes the other end, when this process ends.
        waits, _ = os.pipe()
        try:
            return subprocess.Popen(
                [sys.executable, "-P", "-m", "flows.server", str(waits), *command],
                stdin=subprocess.DEVNULL,
                env={**os.environ, **ours, "PYTHONPATH": path},
                pass_fds=[waits],
                # Signals from Ctrl-C, `timeout` and service managers reach a whole process group. The server has its
                # own, so that the run can still report to it how it ended, and stops it last.
                process_group=0,
            )
        finally:
            os.close(waits)

    def wait(self) -> None:
        """Wait until the server answers. Raises DiskFull; SaeuronError if it does not answer."""
        while True:
            with suppress(OSError), urlopen(f"{self.url}/health", timeout=5) as answer:
                if answer.status == 200:
                    return
            if self.process.poll() is not None:
                _check_room()
                if self.starts == STARTS:
                    raise SaeuronError(f"Prefect's server does not start. {_delete()} and run the same command again.")
                self.process = self._start()
            elif time.monotonic() > self.deadline:
                raise SaeuronError(f"Prefect's server did not answer at {self.url} within {PATIENCE:.0f} seconds.")
            time.sleep(0.05)

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def start() -> None:
    """Start a server for this process, unless the user named one; `reachable` waits until it answers."""
    global _own
    if _own is None and "PREFECT_API_URL" not in os.environ:
        _own = _Server()


@contextmanager
def reachable() -> Iterator[None]:
    """Provide a server for the block, also to workers: the user's, or one of this process."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from tasks.engine.page import OWN_SERVER

    if PREFECT_API_URL.value():
        yield
        return
    start()
    assert _own is not None
    _own.wait()
    os.environ[OWN_SERVER] = "1"  # for workers as well
    with temporary_settings({PREFECT_API_URL: _own.url}):
        yield


def stop() -> None:
    """Stop the server of this process in an orderly way, before a hard exit would end it."""
    global _own
    if _own is not None:
        _own.stop()
        _own = None


@contextmanager
def answering() -> Iterator[None]:
    """Turn the errors of a server that stopped, or lost its database, into one line."""
    import httpx
    from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
    from prefect.settings import PREFECT_API_URL

    try:
        yield
    except (httpx.HTTPError, PrefectHTTPStatusError, ObjectNotFound, RuntimeError) as error:
        # Prefect raises a plain RuntimeError if it finds no server at all.
        if type(error) is RuntimeError and "reach API" not in str(error):
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if _own is not None:
            _check_room()
            todo = f"failed ({reason}); what was finished is kept. {_delete()}"
        else:
            at = f"at {url} " if (url := PREFECT_API_URL.value()) else ""
            todo = f"{at}failed ({reason}); what was finished is kept. See that it runs, or unset PREFECT_API_URL,"
        raise SaeuronError(f"Prefect's server {todo} and run the same command again.") from error


def _check_room() -> None:
    """Raise DiskFull if there is no room for the database of the run's own server."""
    home = _home()
    files = list(home.glob("prefect.db*"))
    try:
        with tempfile.TemporaryFile(dir=home) as file:
            file.seek(max((path.stat().st_size for path in files), default=0))
            file.write(bytes(1 << 20))
    except OSError as error:
        if error.errno in NO_ROOM:
            raise DiskFull(home / "prefect.db", 0) from error


def _delete() -> str:
    return f"Its files may be damaged: delete {_home()}, which holds nothing that a run makes,"


def _home() -> Path:
    from prefect.settings import PREFECT_HOME

    home: Path = PREFECT_HOME.value()
    return home


def _end_with(lifeline: int) -> None:
    os.read(lifeline, 1)
    os._exit(0)


def main() -> None:
    """Entry point of the server's process."""
    threading.Thread(target=_end_with, args=[int(sys.argv[1])], daemon=True).start()
    import uvicorn

    uvicorn.main(sys.argv[2:])


if __name__ == "__main__":
    main()
