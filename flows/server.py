"""Prefect's own server, as the child of a run: it ends when the run does, however that ends.

The run holds one end of a pipe and writes nothing to it; the server waits at the other. A process that is killed
cannot stop its children, but the kernel closes its pipes.

    python -m flows.server LIFELINE ARGUMENTS-OF-UVICORN
"""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from saeuron.errors import SaeuronError


def tie() -> None:
    """Have the server that Prefect starts for this process end with it. With a server of the user's own, nothing."""
    if "PREFECT_API_URL" in os.environ:
        return
    from prefect.server.api.server import SubprocessASGIServer

    SubprocessASGIServer._run_uvicorn_command = _started


@contextmanager
def reachable() -> Iterator[None]:
    """Let workers know the server: the user's own, or the one that Prefect starts for this process."""
    from prefect.server.api.server import SubprocessASGIServer
    from prefect.settings import PREFECT_API_URL, temporary_settings

    if PREFECT_API_URL.value():
        yield
        return
    own = SubprocessASGIServer()
    own.start()
    with temporary_settings({PREFECT_API_URL: own.api_url}):
        yield


def stop() -> None:
    """Stop the server that Prefect started for this process, which a hard exit would end without a farewell."""
    from prefect.server.api.server import SubprocessASGIServer

    for server in list(SubprocessASGIServer._instances.values()):
        server.stop()


@contextmanager
def answering() -> Iterator[None]:
    """Say in one line that Prefect's server stopped, or lost its database, while a flow ran."""
    import httpx
    from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
    from prefect.settings import PREFECT_API_URL

    try:
        yield
    except (httpx.HTTPError, PrefectHTTPStatusError, ObjectNotFound, RuntimeError) as error:
        # Prefect raises no error of its own where it finds no server at all.
        if type(error) is RuntimeError and "reach API" not in str(error):
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SaeuronError(
            f"Prefect's server{f' at {url}' if (url := PREFECT_API_URL.value()) else ''} failed ({reason}); what was "
            f"finished is kept. See that it runs, or unset PREFECT_API_URL, and run the same command again."
        ) from error


def _started(server: Any) -> "subprocess.Popen[bytes]":
    """As Prefect starts it (`SubprocessASGIServer._run_uvicorn_command`), but through this module."""
    import prefect
    from prefect.settings import get_current_settings

    command = [
        *("--app-dir", str(prefect.__module_path__.parent)),
        *("--factory", "prefect.server.api.server:create_app"),
        *("--host", "127.0.0.1", "--port", str(server.port)),
        *("--log-level", "error", "--lifespan", "on"),
    ]
    environment = {
        **os.environ,
        "PREFECT_UI_ENABLED": "0",
        "PREFECT__SERVER_EPHEMERAL": "1",
        "PREFECT__SERVER_FINAL": "1",
        **get_current_settings().to_environment_variables(exclude_unset=True),
    }
    # Where this package lies need not be on the path of a new process: a script's folder is not.
    environment["PYTHONPATH"] = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
    # The other end is closed by nobody but the kernel, when this process is no more.
    waits, _ = os.pipe()
    try:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "flows.server", str(waits), *command],
            env=environment,
            pass_fds=[waits],
            # Ctrl-C, and what `timeout` and service managers send, reach every process of a group. The run, which stops
            # its server last, tells it how it ended.
            process_group=0,
        )
    finally:
        os.close(waits)


def _end_with(lifeline: int) -> None:
    os.read(lifeline, 1)
    os._exit(0)


def main() -> None:
    """What the server's process does."""
    threading.Thread(target=_end_with, args=[int(sys.argv[1])], daemon=True).start()
    import uvicorn

    uvicorn.main(sys.argv[2:])


if __name__ == "__main__":
    main()
