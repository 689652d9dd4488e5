"""Every package says in its docstring which files it holds, one line each."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = sorted(
    p.parent
    for top in ("flows", "tasks", "saeuron", "storage", "benchmarks")
    for p in (ROOT / top).rglob("__init__.py")
)
LINE = re.compile(r"^ *([a-z0-9_]+(?:\.py|\.sql|/))  +\S", re.MULTILINE)
MOST = 18
"""Files of a package beside its `__init__`; more is a sign that it holds two subjects."""


def held(package: Path) -> set[str]:
    files = {p.name for p in package.iterdir() if p.suffix in (".py", ".sql") and p.name != "__init__.py"}
    return files | {f"{p.name}/" for p in package.iterdir() if (p / "__init__.py").exists()}


@pytest.mark.parametrize("package", PACKAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_a_package_lists_its_files(package):
    listed = LINE.findall(ast.get_docstring(ast.parse((package / "__init__.py").read_text()), clean=False) or "")
    assert sorted(listed) == sorted({*listed}), "a file is listed twice"
    assert {*listed} == held(package)


@pytest.mark.parametrize("package", PACKAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_a_package_is_not_crowded(package):
    assert len([name for name in held(package) if name.endswith(".py")]) <= MOST
