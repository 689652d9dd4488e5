"""Notifications of failed runs, against a server on loopback."""

import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any, Self

import pytest

from flows.deploy import notify

FLOW = SimpleNamespace(name="scheduled")
RUN = SimpleNamespace(name="brave-cat", id="0-1")
STATE = SimpleNamespace(name="Failed", message="Flow run encountered an exception: disk full\nTraceback ...")


class Listener:
    """A server that keeps what is posted to it, and answers with `status`."""

    def __init__(self, status: int = 200) -> None:
        self.bodies: list[tuple[str, Any]] = []
        listener = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                data = self.rfile.read(int(self.headers["Content-Length"]))
                assert self.headers["Content-Type"] == "application/json"
                listener.bodies.append((self.path, json.loads(data)))
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def do_GET(self) -> None:
                self.send_error(status)

            def log_message(self, *args: object) -> None:
                """Nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}{path}"

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def listener() -> Iterator[Listener]:
    with Listener() as found:
        yield found


def test_a_failure_is_posted_as_json(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAEURON_NOTIFY_URL", listener.url("/hooks/x"))
    notify.notify(FLOW, RUN, STATE)
    ((path, body),) = listener.bodies
    assert path == "/hooks/x"
    assert body["text"] == "saeuron: scheduled brave-cat: Failed: Flow run encountered an exception: disk full"
    assert (body["flow"], body["flow_run"], body["flow_run_id"], body["state"]) == (
        "scheduled",
        "brave-cat",
        "0-1",
        "Failed",
    )


def test_without_an_address_nothing_is_sent(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SAEURON_NOTIFY_URL", raising=False)
    notify.notify(FLOW, RUN, STATE)
    assert listener.bodies == []


@pytest.mark.parametrize("target", ["http://127.0.0.1:9/SENTINEL", "file:///etc/SENTINEL", "SENTINEL", "refusing"])
def test_what_cannot_be_sent_is_a_line_that_does_not_say_where_to(
    target: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with Listener(status=500) as refusing, caplog.at_level(logging.WARNING):
        monkeypatch.setenv("SAEURON_NOTIFY_URL", refusing.url("/SENTINEL") if target == "refusing" else target)
        notify.notify(FLOW, RUN, STATE)
    assert [r.name for r in caplog.records] == ["flows.deploy.notify"]
    assert "the notification was not sent" in caplog.text and "SENTINEL" not in caplog.text


def test_a_target_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    import socket

    monkeypatch.setattr(notify, "TIMEOUT", 0.2)
    with socket.socket() as deaf, caplog.at_level(logging.WARNING):
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        monkeypatch.setenv("SAEURON_NOTIFY_URL", f"http://127.0.0.1:{deaf.getsockname()[1]}/")
        notify.notify(FLOW, RUN, STATE)
    assert "the notification was not sent: TimeoutError" in caplog.text


def test_every_flow_that_deployments_run_notifies_of_failures_and_crashes() -> None:
    from flows.deploy import scheduled

    for flow in (scheduled.scheduled, scheduled.add, scheduled.evaluate):
        assert flow.on_failure_hooks == [notify.notify] and flow.on_crashed_hooks == [notify.notify]
