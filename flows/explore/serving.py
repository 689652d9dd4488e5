"""Serve the explorer: the socket, the token, the address that is printed."""

import secrets
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from flows.explore.guards import LOOPBACK, Guard
from saeuron.errors import ConfigError
from storage import Workspace


@contextmanager
def bound(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens there. Raises ConfigError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, port))
            # From here on who comes waits, and is not refused.
            listening.listen(128)
        except (OSError, OverflowError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise ConfigError(f"cannot listen on {host} port {port}: {reason.lower()}; try --port 0.") from None
        yield listening


def serve(
    workspace: Workspace,
    listening: socket.socket,
    host: str,
    device: str,
    threads: int,
    announce: Callable[[str], None],
) -> str:
    """Serve until interrupted; returns the address, without the token."""
    import uvicorn

    from flows.explore.app import create
    from flows.explore.shelves import Shelves
    from tasks.explore.studio import Studio

    port = listening.getsockname()[1]
    token = "" if host in LOOPBACK else secrets.token_urlsafe(24)
    named = socket.gethostname() if host in ("0.0.0.0", "::") else host
    address = f"http://[{named}]:{port}" if ":" in named else f"http://{named}:{port}"
    app = create(Shelves(workspace), Studio(device, threads), Guard(host, port, token))
    announce(f"open {address}/" + (f"?token={token}" if token else ""))
    announce("Ctrl-C ends it")

    class Server(uvicorn.Server):
        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            """Like uvicorn's, which would raise the signal again; ending the explorer is not an interruption."""
            numbers = (signal.SIGINT, signal.SIGTERM)
            before = {number: signal.signal(number, self.handle_exit) for number in numbers}
            try:
                yield
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)

        def handle_exit(self, sig: int, frame: Any) -> None:
            """End in order, however often it is asked: uvicorn's would cancel the application with a traceback."""
            self.should_exit = True

    # A request that does not end must not keep the explorer.
    options: dict[str, Any] = {"access_log": False, "server_header": False, "timeout_graceful_shutdown": 5}
    server = Server(uvicorn.Config(app, log_level="warning", **options))
    server.run(sockets=[listening])
    return address
