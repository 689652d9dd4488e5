"""Which results are drawn, how cells are shown, and that a query ends when nobody waits for it."""

import socket
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pytest

from flows.explore import queries
from flows.explore.queries import cells, plot_of
from storage import Workspace
from storage.errors import BadQuery
from tests.end_to_end.process import until
from tests.sae_workspace import served

ENDLESS = "select count(*) from range(1000000) a, range(1000000) b where a.range + b.range = -1"


def test_a_name_and_a_number_are_bars() -> None:
    text = plot_of(pa.table({"concept": ["cat", "<b>"], "method": ["a", "b"], "value": [0.5, None]}))
    assert "cat a: 0.5000" in text and "<b>" not in text
    assert plot_of(pa.table({"concept": ["cat", "moon"], "n": [3, 4]})).count("<rect") == 2


def test_two_numbers_are_a_curve_and_timesteps_go_from_noise_to_image() -> None:
    text = plot_of(pa.table({"timestep": [0, 999, 500], "score": [0.1, 0.3, 0.2]}))
    assert text.index("t 999") < text.index("t 500") < text.index("t 0:")


@pytest.mark.parametrize(
    "table",
    [
        pa.table({"n": [1, 2]}),
        pa.table({"a": ["x"], "n": [1]}),
        pa.table({"a": ["x", "y"], "b": ["x", "y"]}),
        pa.table([pa.array(["x", "y"]), pa.array([1, 2])], names=["a", "a"]),
        pa.table({"a": [str(i) for i in range(500)], "n": list(range(500))}),
    ],
)
def test_what_does_not_fit_is_not_drawn(table: pa.Table) -> None:
    assert plot_of(table) == ""


def test_cells_are_text_and_numbers_have_six_digits() -> None:
    names, rows = cells(pa.table({"a": [None, "x"], "b": [0.123456789, 2.0], "c": [[1], None]}))
    assert names == [("a", False), ("b", True), ("c", False)]
    assert rows[0] == [("", False), ("0.123457", True), ("[1]", False)]


@pytest.mark.parametrize("page", ["sql", "sql.csv"])
def test_a_query_ends_when_the_browser_goes_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: str) -> None:
    begun, ended, own = [], [], queries.run_query

    def asked(*given: Any, **how: Any) -> pa.Table:
        begun.append(time.monotonic())
        try:
            return own(*given, **how)
        except BadQuery as error:
            ended.append(str(error))
            raise

    monkeypatch.setattr(queries, "run_query", asked)
    with served(Workspace.open(tmp_path / "w")) as address:
        host, _, port = address.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port))) as browser:
            browser.sendall(f"GET /{page}?q={quote(ENDLESS)} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
            until(lambda: begun, 30)
            time.sleep(0.7)
            assert ended == []  # somebody still waits
        gone = time.monotonic()
        until(lambda: ended, 15)
    # Of its own it would end after queries.SECONDS.
    assert time.monotonic() - begun[0] < queries.SECONDS - 20 and time.monotonic() - gone < 16
    assert len(begun) == len(ended) == 1 and "stopped" in ended[0]
