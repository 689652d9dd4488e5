"""`saeuron report` on a real run: one file, whose figures are those of its images."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from saeuron.pages.report import figures_of
from storage.seals import sealed_page
from tests.end_to_end.process import run_here


@pytest.fixture(scope="module")
def reported(workspace: Path, workspaces: Path) -> Path:
    mine = Path(shutil.copytree(workspace, workspaces / "reported"))
    done = run_here("report", "-w", mine)
    assert done.code == 0, done.err
    assert f"page: {mine / 'reports' / 'run-1.html'}" in done.out
    assert done.out.splitlines()[-1] == f"next: saeuron report --check -w {mine}"
    return mine


def test_it_shows_every_removal_of_the_run_and_needs_nothing_beside_it(reported: Path) -> None:
    html = (reported / "reports" / "run-1.html").read_text()
    assert len(html) < 5_000_000
    assert set(re.findall(r'(?:src|href)="(data:|#|[^"]{6})', html)) == {"data:", "#"}
    assert html.count("<section") == 2 and "Run 1: stripes, cat removed" in html
    # Pictures of both removals, unedited and edited, and a figure for each metric.
    assert html.count("<img") > 40
    assert len(figures_of(html)) == 2 and all("UA" in f for f in figures_of(html).values())


def test_its_figures_are_recomputed_from_the_images(reported: Path) -> None:
    done = run_here("report", "--check", "-w", reported, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["differ"] == [] and found["checked"] > 90


def changed(html: str, figures: dict[str, dict[str, Any]], path: Path) -> Path:
    """A report that shows other figures, sealed as if it had been written so."""
    start = html.index('id="figures">') + len('id="figures">')
    html = html.rsplit("<!--", 1)[0]
    path.write_bytes(sealed_page(html[:start] + json.dumps(figures) + html[html.index("</script>", start) :]))
    return path


def test_another_figure_of_each_kind_is_noticed(reported: Path, tmp_path: Path) -> None:
    html = (reported / "reports" / "run-1.html").read_text()
    figures = figures_of(html)
    of = next(f for f in figures.values() if any(n.startswith("images of ") for n in f))
    kinds = ("UA", "mean", "loss of ", "images of ", "Frechet distance, ", "out of the ordinary, asked")
    names = [next(n for n in of if n.startswith(kind) and of[n] is not None) for kind in kinds]
    for name in names:
        of[name] += 1 if name.startswith("images of ") else 0.01
    of["verdict"] = "holds well"
    other = changed(html, figures, tmp_path / "other.html")
    done = run_here("report", "--check", "--out", other, "-w", reported, "--json")
    told = json.loads(done.out)
    assert done.code == 1 and len(told["differ"]) == len(names) + 1
    assert all(any(f": {name}: the report says " in line for line in told["differ"]) for name in [*names, "verdict"])
    assert told["unchecked"][0] == "attacks"
    # One whose bytes are not as they were written is refused before anything is judged.
    other.write_bytes(other.read_bytes().replace(b"stripes", b"strip3s", 1))
    assert run_here("report", "--check", "--out", other, "-w", reported).code == 1


def test_a_figure_that_is_left_out_is_noticed_and_what_is_not_checked_is_said(reported: Path, tmp_path: Path) -> None:
    html = (reported / "reports" / "run-1.html").read_text()
    figures = figures_of(html)
    name = next(n for f in figures.values() for n in f if n.startswith("Frechet distance"))
    next(f for f in figures.values() if name in f).pop(name)
    done = run_here("report", "--check", "--out", changed(html, figures, tmp_path / "less.html"), "-w", reported)
    assert done.code == 1 and "Frechet distance" in done.out and "the report says None" in " ".join(done.out.split())
    assert "\nnot checked: attacks; settings that were tried; " in done.out
    # A page of before, without means, is not compared with what is there now.
    for of in figures.values():
        del of["mean"]
    done = run_here("report", "--check", "--out", changed(html, figures, tmp_path / "old.html"), "-w", reported)
    assert done.code == 2 and "is of an earlier version" in done.complaint


def test_a_concept_has_one_too(reported: Path) -> None:
    done = run_here("report", "cat", "-w", reported)
    assert done.code == 0, done.err
    html = (reported / "reports" / "cat.html").read_text()
    assert html.count("<section") == 1 and "cat, removed" in html
    assert run_here("report", "cat.saeuron", "--check", "-w", reported).code == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["kat"], "unknown run or concept 'kat': did you mean 'cat'"),
        (["last~7"], "there are 1 runs here"),
        (["--out", "page.pdf"], "expected a file name that ends in .html"),
    ],
)
def test_mistakes_are_one_line(reported: Path, words: list[str], said: str) -> None:
    done = run_here("report", *words, "-w", reported)
    assert done.code == 2 and said in done.complaint
