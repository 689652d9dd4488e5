"""A real S3 server on this machine (moto's), in a process of its own."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

REGION = "us-east-1"


@dataclass
class Server:
    """One that can be stopped and continued; what it holds is in its memory, and gone with its process."""

    port: int
    process: subprocess.Popen[bytes]
    environment: dict[str, str] = field(default_factory=dict)
    """What a client's environment has to say to reach it."""

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def bucket(self, name: str) -> str:
        """Make a bucket; returns its name."""
        import boto3

        keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": REGION}
        boto3.client("s3", endpoint_url=self.endpoint, **keys).create_bucket(Bucket=name)
        return name

    def pause(self) -> None:
        """From now on it accepts connections and answers none."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)


def credentials(endpoint: str) -> dict[str, str]:
    """An environment for a server on this machine; it lets anybody in."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": REGION,
    }


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    """A server for the block, on a free port of the loopback; it answers when the block begins."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": ""}, **quiet)
    server = Server(port, process, credentials(f"http://127.0.0.1:{port}"))
    try:
        _await(server)
        yield server
    finally:
        process.kill()
        process.wait()


def _await(server: Server, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(f"{server.endpoint}/moto-api/", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            if server.process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"no S3 server came up (exit code {server.process.poll()})") from None
            time.sleep(0.05)
