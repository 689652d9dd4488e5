"""What must be the same after a fault as without it: files, manifests but for their times, copies, tables."""

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flows.upkeep import verify
from storage import Workspace
from storage.catalog.connection import connect
from storage.files import read_json
from storage.identity import digest
from tasks.stages import SHIPPED
from tests.end_to_end.process import payload

STAGES = tuple(stage.stage for stage in SHIPPED if stage.in_run and stage.stage != "comparison")
"""Names of the stages that a run makes, in its order; a comparison is with a control, and this run has none."""
TIMES = {"created", "seconds", "seal"}
"""What a manifest and its summary say of the hour in which it was made; the seal is a hash of that as well."""


def files(root: Path) -> dict[str, Any]:
    """What artifacts are made of and what lies ready for people, and the manifests without their times."""
    # A damaged file that a run came upon is kept beside its place, hidden, until `saeuron gc`.
    there = {name: data for name, data in payload(root).items() if not name.endswith(".damaged")}
    found: dict[str, Any] = {name: digest(data) for name, data in there.items()}
    for path in (root / "artifacts").glob("*/*/manifest.json"):
        manifest = {k: v for k, v in read_json(path).items() if k not in TIMES}
        summary = {k: v for k, v in manifest["summary"].items() if k not in TIMES}
        found[path.relative_to(root).as_posix()] = manifest | {"summary": summary}
    for path in [*(root / "removals").iterdir(), *(root / "pictures").iterdir()]:
        found[path.relative_to(root).as_posix()] = digest(path)
    return found


def tables(root: Path) -> dict[str, tuple[int, str]]:
    """Rows of every view, and a sum of their hashes; without `runs`, which tells of the faults themselves, and without
    what training took.
    """
    found = {}
    with connect(root) as connection:
        for (name,) in connection.execute("select view_name from duckdb_views() where schema_name = 'main'").fetchall():
            if name == "runs" or name.startswith(("duckdb_", "sqlite_", "pragma_")):
                continue
            less = "exclude seconds" if name == "saes" else ""
            # In DuckDB: the rows themselves, compared in Python, took six seconds.
            rows = f"(select * {less} from main.{name}) as each_row"
            found[name] = connection.execute(f"select count(*), sum(hash(each_row))::varchar from {rows}").fetchone()
    return found


once = functools.cache(lambda root: (files(root), tables(root)))
"""Of a workspace that nothing befalls."""


def differing(root: Path, undisturbed: Path) -> list[str]:
    """Names of files and tables that are not the same as in a workspace that nothing befalls."""
    mine, (theirs, rows) = files(root), once(undisturbed)
    names = [name for name in sorted(mine | theirs) if mine.get(name) != theirs.get(name)]
    return names or [name for name, mine_ in tables(root).items() if mine_ != rows[name]]


def damaged(root: Path) -> list[str]:
    """What `saeuron verify --deep` finds."""
    opened, mark = verify.opened(root)
    return [f"{d.kind} {d.path.relative_to(root)}" for d in [*mark, *verify.find(opened, deep=True)]]


def committed(root: Path) -> set[str]:
    return {manifest.id for manifest in Workspace.open(root).artifacts()}


def kinds(root: Path) -> dict[str, Path]:
    """One file of each kind in a workspace, hidden ones and locks aside: {kind: its path below the root}."""
    found: dict[str, Path] = {}
    for path in _listed(root):
        # Ids, names of hookpoints and concepts, and numbers do not make a kind.
        kind = re.sub(r"_v\d+_[0-9a-f]{20}(_\d+)?|\d{8}T\d{6}-[0-9a-f]{6}|unet[^/]+|\d{4,}", "*", path.as_posix())
        kind = re.sub(r"(removals|pictures)/[a-z]+", r"\1/*", kind)
        found.setdefault(kind, path)
    return found


def _listed(root: Path) -> Iterator[Path]:
    for path in sorted(p.relative_to(root) for p in root.rglob("*") if p.is_file()):
        if path.parts[0] != "locks" and not any(part.startswith(".") for part in path.parts):
            yield path
