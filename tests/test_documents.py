"""What the documents name is there: files, stages, dependencies, commands whose help is not cut."""

import re
import tomllib
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from flows.cli import app
from storage.catalog.columns import COLUMNS
from tasks.stages import SHIPPED

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "ARCHITECTURE.md", "docs/glossary.md", "docs/evidence.md")
FOLDERS = "flows|tasks|saeuron|storage|tests|docs|benchmarks|examples"
PATH = re.compile(rf"(?<![\w./-])(?:{FOLDERS})(?:/[\w.-]+)+/?|(?<![\w./-])(?:{FOLDERS})/")
GROUPS = [(), *[(name,) for name, c in get_command(app).commands.items() if hasattr(c, "commands")]]  # type: ignore[attr-defined]


def named(text: str) -> set[str]:
    """Paths in code, fenced or in backticks, and decisions by their number."""
    fenced = re.findall(r"^```.*?^```", text, re.S | re.M)
    code = " ".join([*fenced, *re.findall(r"`([^`\n]+)`", text)])
    decisions = set(re.findall(r"docs/adr/\d{4}", text))
    return {path.rstrip(".") for path in PATH.findall(code)} | decisions


def there(path: str) -> bool:
    return (ROOT / path).exists() or any(ROOT.glob(f"{path}-*.md"))


def test_paths_are_found_in_a_text_and_looked_for() -> None:
    text = "`saeuron/sae/` and (docs/adr/0007), `tasks/no_such.py`, `workspace/removals/x`, `saeuron/methods`"
    assert named(text) == {"saeuron/sae/", "docs/adr/0007", "tasks/no_such.py", "saeuron/methods"}
    assert there("docs/adr/0007")
    assert not there("tasks/no_such.py")


@pytest.mark.parametrize("page", PAGES)
def test_every_path_that_a_page_names_exists(page: str) -> None:
    found = named((ROOT / page).read_text())
    assert found
    assert [path for path in sorted(found) if not there(path)] == []


def test_every_benchmark_that_is_named_is_there() -> None:
    files = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    files += [p for top in FOLDERS.split("|") for kind in ("py", "yaml") for p in (ROOT / top).rglob(f"*.{kind}")]
    named = {name for p in files for name in re.findall(r"\bpython -m (benchmarks[\w.]*\w)", p.read_text())}
    assert len(named) > 25
    assert [name for name in sorted(named) if not (ROOT / f"{name.replace('.', '/')}.py").exists()] == []


def test_make_runs_every_test_that_needs_what_the_tests_extra_leaves_out() -> None:
    """All but one: Makefile says why torch-fidelity is left out."""
    needed = re.compile(r"importorskip\(\"(?!triton|torch_fidelity)\w+\"")
    files = {
        p.relative_to(ROOT).as_posix() for p in (ROOT / "tests").rglob("test_*.py") if needed.search(p.read_text())
    }
    _, _, target = (ROOT / "Makefile").read_text().partition("\ntest-extras:")
    assert len(files) >= 3 and {*re.findall(r"tests/[\w/]+\.py", target.split("\n\n")[0])} == files


@pytest.mark.parametrize("page", PAGES)
def test_every_link_of_a_page_leads_to_a_file(page: str) -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", (ROOT / page).read_text()):
        assert ((ROOT / page).parent / target).exists(), target


def test_every_word_of_the_glossary_has_one_row_and_a_place_in_the_code() -> None:
    rows = [line for line in (ROOT / "docs/glossary.md").read_text().splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in rows if not line.startswith("| word ")]
    words = [row[0] for row in rows]
    assert len(words) > 50
    assert sorted(words) == sorted({*words})
    assert [row[0] for row in rows if not named(row[3])] == []


def test_the_table_of_stages_holds_every_stage_in_order() -> None:
    section = (ROOT / "ARCHITECTURE.md").read_text().split("\n## The stages\n")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines() if line.startswith("| ")]
    shown = [(row[0], row[3].strip("`")) for row in rows[1:]]
    assert shown == [(stage.stage, stage.__module__.replace(".", "/") + ".py") for stage in SHIPPED]


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(p for extra in project["optional-dependencies"].values() for p in extra)]
    names = {re.split(r"[\[<>=; ]", each)[0].lower() for each in wanted} - {"saeuron"}
    rows = [line for line in (ROOT / "docs/adr/0001-dependencies.md").read_text().splitlines() if line.startswith("| ")]
    listed = {word for row in rows for cell in row.split("|")[1:3] for word in re.findall(r"[\w-]+", cell.lower())}
    assert names - listed == set()


def test_readme_lists_every_view() -> None:
    section = (ROOT / "README.md").read_text().split("\n## Tables\n")[1].split(": see")[0]
    listed = re.findall(r"`(\w+)`", section)
    former = {view for view, columns in COLUMNS.items() if any("view deprecated" in c.meaning for c in columns)}
    assert sorted(listed) == sorted({*COLUMNS} - former)


def test_every_folder_of_the_map_exists_and_no_package_is_left_out() -> None:
    section = (ROOT / "ARCHITECTURE.md").read_text().split("\n## The map\n")[1].split("\n\nEvery package")[0]
    folders, top = set(), ""
    for indent, name in re.findall(r"^( {4}| {6})([a-z_]+)/  +\S", section, re.M):
        top = name if len(indent) == 4 else top
        folders.add(name if len(indent) == 4 else f"{top}/{name}")
    packages = {p.parent.relative_to(ROOT).as_posix() for t in ("flows", "tasks", "saeuron", "storage")
                for p in [*ROOT.glob(f"{t}/__init__.py"), *ROOT.glob(f"{t}/*/__init__.py")]}  # fmt: skip
    assert folders == packages | {"tests", "benchmarks", "docs"}


def test_the_map_of_the_architecture_is_short() -> None:
    assert len((ROOT / "ARCHITECTURE.md").read_text().splitlines()) < 200


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: " ".join(group) or "saeuron")
def test_no_summary_of_a_command_is_cut(group: tuple[str, ...]) -> None:
    shown = CliRunner().invoke(app, [*group, "--help"], env={"COLUMNS": "80"})
    assert shown.exit_code == 0
    commands = shown.output.split("Commands:\n")[1]
    assert commands.strip()
    assert "..." not in commands


@pytest.mark.parametrize("page", [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("flows/**/*.py")], ids=str)
def test_a_server_is_started_without_telemetry_wherever_a_command_is_shown(page: Path) -> None:
    shown = [line for line in page.read_text().splitlines() if re.search(r"prefect server start(?!`, as in)", line)]
    assert all("PREFECT_SERVER_ANALYTICS_ENABLED=false" in line for line in shown), shown
