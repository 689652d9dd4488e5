"""README's commands and code, the example queries and the column dictionary: all executed, on a tiny workspace."""

import ast
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from storage import Workspace, connect
from storage.catalog.columns import COLUMNS
from storage.catalog.query import run_query
from tasks.inspection.steer import SteerConfig
from tasks.sae.proof_tests import ProofTestConfig
from tests.end_to_end.process import LARGE, TINY, run_here

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.S | re.M)


def commands() -> list[str]:
    """Every `saeuron ...` line of README, without its comment."""
    lines = [line.split("#")[0].strip() for kind, block in BLOCKS if not kind for line in block.splitlines()]
    return [line for line in lines if line.startswith("saeuron ")]


def test_readme_shows_every_command() -> None:
    from flows.cli import app

    shown = {line.split()[1] for line in commands()}
    assert {c.callback.__name__ for c in app.registered_commands} | {
        g.name for g in app.registered_groups if not g.hidden
    } == shown


def test_the_configuration_of_readme_is_one() -> None:
    from saeuron.config import RunConfig

    (text,) = [block for kind, block in BLOCKS if kind == "yaml"]
    config = RunConfig.model_validate(yaml.safe_load(text))
    assert config.domains["style"].judge == "clip" and set(config.prompts.templates) == {
        "train",
        "validation",
        "test",
    }


def test_the_concept_of_readme_is_one() -> None:
    from saeuron.config import ConceptConfig

    (text,) = [block for kind, block in BLOCKS if kind == "yml"]
    concept = ConceptConfig.model_validate(yaml.safe_load(text))
    assert concept.name == "zebra" and concept.also and concept.judge.startswith("clip:")


def parses(words: list[str]) -> bool:
    """Whether a command line without `saeuron` is one that the command takes, with nothing left over."""
    from flows.cli import app

    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        command, words = command.commands[words[0]], words[1:]
    return not command.make_context(command.name, list(words)).args


class FewPairs(ProofTestConfig):
    """No option of `sae prove` says how many pairs a test has; 24 take half a minute."""

    pairs: int = 3


class OneAlpha(SteerConfig):
    """Nor one of `latent steer`, how often a latent is turned."""

    alphas: tuple[float, ...] = (8.0,)


@pytest.mark.timeout(900)
def test_the_commands_of_readme_do_what_they_say(
    server: None, workspace: Path, workspaces: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.sae.proof_tests.ProofTestConfig", FewPairs)
    monkeypatch.setattr("flows.inspection.steer.SteerConfig", OneAlpha)
    # The same lines, with a configuration that is tiny and a workspace that has been run, so that each takes seconds.
    mine = shutil.copytree(workspace, workspaces / "readme")
    done_before: list[list[str]] = []
    for line in commands():
        words = shlex.split(line)[1:]
        if words[0] in ("deploy", "bench", "explore", "inception") or "s3://BUCKET/PREFIX" in words:
            # Executed by test_schedule.py, against a server, by test_controls.py, on a tiny protocol, by
            # test_explore.py, until it is interrupted, by tests/saeuron/extractors/, on random weights, and by
            # test_object_store.py, against a store.
            continue
        if words[0] in ("audit", "sequence") or "--leave-out" in words:
            # Executed by the tests that are named after them, through the command line too, and not in seconds.
            assert parses(words), line
            continue
        if words[0] == "run":
            words = ["run", str(TINY), *LARGE, *(["--plan"] if "--plan" in words else [])]
            if words in done_before:
                continue
            done_before.append(words)
        elif "neon" in words:
            words = [{"neon": "stripes"}.get(w, w) for w in words]
        if words[0] == "hookpoints":
            done = run_here(*[str(tiny_model_folder) if w == "canvas" else w for w in words])
            assert done.code == 0 and done.out.strip(), (line, done.err)
            continue
        if words[:2] == ["sae", "report"]:
            words += ["--images", "8", "--rows", "256"]
        if words[0] == "blindspots":
            words[words.index("480")] = "8"
        if words[0] == "locate":
            words += ["--pairs", "1", "--examples", "4"]
        if words[:2] == ["latent", "steer"]:
            words += ["--latents", "1", "--images", "2"]
        if words[:2] in (["sae", "prove"], ["sae", "explain"]):
            words += ["--images", "8"]
        words = [
            str(workspaces / w)
            if w.endswith((".png", ".csv", ".jsonl", "zebra.yaml")) or w.startswith("published")
            else w
            for w in words
        ]
        # In this process: the command line from outside is what the other tests here call.
        done = run_here(*words, "--workspace", mine)
        assert done.code == 0, (line, done.err)
        assert done.out.strip()
    assert (workspaces / "cat.png").stat().st_size > 0


def test_the_notebook_code_of_readme_goes_from_nothing_to_a_removal(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = [block for kind, block in BLOCKS if kind == "python"]
    # Ten statements to a removal, attached; then its figures.
    assert len(ast.parse(code).body) <= 10
    names: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), names)  # the documentation is what is tested
    assert names["image"].size == (32, 32)
    assert repr(names["removal"]).startswith("Removal(style 'neon' by saeuron(n=16, gamma=")
    figures = {line.split()[0]: float(line.split()[1]) for line in capsys.readouterr().out.splitlines()}
    # Few images: neon goes from most of the four, and the rest of the picture stays.
    assert figures["UA"] >= 0.5 and figures["IRA"] >= 0.9 and figures["CRA"] >= 0.9
    # The library does not put a module in the place of a name.
    import saeuron

    assert all(getattr(saeuron, name) is names["saeuron"].__getattr__(name) for name in saeuron.__all__)


def queries() -> list[str]:
    text = (ROOT / "examples" / "queries.sql").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("--")]
    return [q.strip() for q in "\n".join(lines).split(";") if q.strip()]


@pytest.mark.parametrize("query", queries())
def test_every_example_query_answers(query: str, workspace: Path) -> None:
    assert run_query(Workspace.open(workspace, create=False), query).num_rows > 0


def test_there_are_ten_example_queries() -> None:
    assert len(queries()) == 10


def test_the_page_of_tables_is_the_column_dictionary() -> None:
    page = (ROOT / "docs" / "tables.md").read_text()
    for view, columns in COLUMNS.items():
        section = page.split(f"## {view}\n")[1].split("\n## ")[0]
        rows = [line for line in section.splitlines() if line.startswith("| ")][1:]
        assert rows == [f"| {c.name} | {c.type} | {c.unit or '-'} | {c.meaning} |" for c in columns]


def sections() -> dict[str, str]:
    _, *found = (ROOT / "docs" / "tables.md").read_text().split("\n## ")
    return {part.partition("\n")[0]: part.partition("\n")[2] for part in found}


def test_each_view_has_a_key_and_an_example(workspace: Path) -> None:
    with connect(workspace) as connection:
        for view in {*COLUMNS} - {"features", "top_features"}:
            section = sections()[view]
            (query,) = re.findall(r"```sql\n(.+?)\n```", section, re.DOTALL)
            connection.sql(query).fetchall()
            (key,) = re.findall(r"^Key: (.+)\.$", section, re.MULTILINE)
            names = [n.strip() for n in key.split(";")[0].split(",")]
            if {*names} <= {c.name for c in COLUMNS[view]}:
                over = ", ".join(f"cast({n} as varchar)" for n in names)
                twice = connection.sql(f"select {over}, count(*) as n from {view} group by all having n > 1")
                assert not twice.fetchall(), f"{key} is no key of {view}"
            else:
                assert key.startswith(("as ", "no key")), view


def test_every_file_that_the_documents_point_to_is_there() -> None:
    for page in ("README.md", "ARCHITECTURE.md"):
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", (ROOT / page).read_text()):
            assert (ROOT / target).exists(), f"{page} points to {target}"
