"""The workspace that the explorer's benchmark invents has what every page reads."""

import json
from pathlib import Path

import pytest

from benchmarks.data import explorer


def test_every_page_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--concepts", "4", "--latents", "32", "--steps", "2", "--repeats", "1"]
    words += ["--workspace", str(tmp_path / "w"), "--json", str(tmp_path / "figures.json")]
    monkeypatch.setattr("sys.argv", ["explorer", *words])
    explorer.main()
    figures = {f["name"]: f for f in json.loads((tmp_path / "figures.json").read_text())}
    pages = [name for name, figure in figures.items() if figure["baseline"] == explorer.LIMIT and name[0] != " "]
    assert {"concepts", "concept", "latent", "SAE", "run", "picture"} <= {*pages}
    assert all(figures[name]["value"] > 0 for name in pages) and "concepts" in capsys.readouterr().out
