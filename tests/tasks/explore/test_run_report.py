"""The size of a report: pictures first go, then strips of latents; one that is still too large is said to be so."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from saeuron.pages.contents import Example
from saeuron.pages.removals import Pair, RemovalRecord
from storage import Workspace
from tasks.explore import run_report
from tasks.explore.shelf import Shelf
from tests.saeuron.pages.test_pages import latent
from tests.saeuron.pages.test_report import RECORD

PICTURE = "data:image/png;base64," + "A" * 145_000
"""As large as a picture of a noisy texture."""


def noise(seed: int) -> Any:
    return np.random.default_rng(seed).integers(0, 255, (96, 96, 3), dtype=np.uint8)


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], str]:
    """(how many removals): the report's text. Each has its own pictures and latents."""

    def record(shelf: Shelf, evaluation: Any, source: Any, *, most: int, shown: int) -> RemovalRecord:
        def examples(i: int) -> list[Example]:
            return [
                replace(e, key=f"{evaluation.id}{i}{n}", picture=noise(n), thirds=[noise(n)[..., 0]] * 3)
                for n, e in enumerate(latent(i).examples)
            ]

        place = replace(RECORD.places[0], shown=[replace(latent(i), examples=examples(i)) for i in range(shown)])
        pairs = [Pair(f"neon cat {i}", PICTURE, PICTURE) for i in range(most)]
        return replace(RECORD, evaluation_id=evaluation.id, bands=[("asked for neon", pairs)], places=[place])

    monkeypatch.setattr(run_report, "record", record)
    shelf = Shelf(Workspace.open(tmp_path / "w"))

    def written(count: int) -> str:
        of: Any = [
            SimpleNamespace(id=f"evaluation_v8_{i:04}", summary={"concept": "neon", "method": f"m{i}"})
            for i in range(count)
        ]
        path = run_report.write(shelf, of, tmp_path / "r.html", title="t", about={}, config=None, commands=[])
        return path.read_text()

    return written


def counted(html: str) -> tuple[int, int]:
    """(pairs of pictures, pictures of strips) in a report."""
    return html.count('alt="unedited: neon cat'), html.count("background-image: url(")


def test_pairs_are_left_out_first_then_strips(write: Callable[[int], str]) -> None:
    seen = []
    for count in (1, 2, 4, 9, 14):
        html = write(count)
        pairs, strips = counted(html)
        assert len(html.encode()) < run_report.LIMIT and run_report.too_large(len(html.encode())) == ""
        # Every removal is there, with its tables.
        assert html.count('<section class="removal"') == count and html.count("What it cost others") == count
        seen.append((pairs // count, strips > 0))
    assert seen == [(10, True), (6, True), (3, True), (1, True), (1, False)]


def test_one_that_is_still_too_large_says_so_in_one_line(write: Callable[[int], str]) -> None:
    html = write(20)
    assert len(html.encode()) > run_report.LIMIT and counted(html) == (20, 0)
    [line] = run_report.too_large(len(html.encode())).splitlines()
    assert "MB" in line and "5 MB" in line and "saeuron report CONCEPT" in line
