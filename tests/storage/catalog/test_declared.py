"""Views that manifests bring: those of stages that the package does not know."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from storage.catalog.connection import connect
from storage.catalog.query import run_query
from storage.declared import Column, View
from storage.errors import BadQuery, BadTable
from storage.identity import artifact_id
from storage.tables import check_file, table, write_table
from storage.workspace import Workspace

TOYS = View(
    name="toys",
    key="toy_id",
    file="toys.parquet",
    columns=(Column("toy", "VARCHAR", "", "its name"), Column("weight", "DOUBLE", "kg", "what it weighs")),
)
BOXES = View(
    name="boxes",
    key="box_id",
    columns=(Column("toys", "BIGINT", "toys", "how many are in it"), Column("shelf_id", "VARCHAR", "", "where")),
)


def made(workspace: Workspace, seed: int, *views: View, rows: tuple[tuple[str, float], ...] = (), **more: Any) -> str:
    name = artifact_id("toy", 1, {"seed": seed})
    for view in views:
        if view.file:
            names = [c.name for c in view.columns]
            content = table([dict(zip(names, row, strict=True)) for row in rows], view)
            write_table(workspace.folder(name) / view.file, content)
    fields: dict[str, Any] = {"config": {}, "inputs": {}, "summary": {}, "seconds": 0} | more
    workspace.commit(name, views=views, **fields)
    return name


def test_rows_of_files_and_of_summaries(workspace: Workspace) -> None:
    a = made(workspace, 1, TOYS, BOXES, rows=(("ball", 0.5), ("top", 0.25)), summary={"toys": 2}, inputs={"shelf": "s"})
    b = made(workspace, 2, TOYS, rows=(("kite", 1.0),))
    found = run_query(workspace, "SELECT * FROM toys ORDER BY toy").to_pylist()
    assert found == [
        {"toy_id": a, "toy": "ball", "weight": 0.5},
        {"toy_id": b, "toy": "kite", "weight": 1.0},
        {"toy_id": a, "toy": "top", "weight": 0.25},
    ]
    assert run_query(workspace, "SELECT * FROM boxes").to_pylist() == [{"box_id": a, "toys": 2, "shelf_id": "s"}]


def test_the_columns_are_described_beside_those_of_the_catalog(workspace: Workspace) -> None:
    query = "SELECT column_name, type, unit, meaning FROM columns WHERE view_name = '{}'"
    assert run_query(workspace, query.format("toys")).num_rows == 0
    made(workspace, 1, TOYS)
    assert [tuple(row.values()) for row in run_query(workspace, query.format("toys")).to_pylist()] == [
        ("toy_id", "VARCHAR", "", "the artifact"),
        *TOYS.columns,
    ]
    assert ("k", "BIGINT") in [
        (r["column_name"], r["type"]) for r in run_query(workspace, query.format("saes")).to_pylist()
    ]
    with connect(workspace) as connection:
        described = [row[:2] for row in connection.execute("DESCRIBE toys").fetchall()]
    assert described == [("toy_id", "VARCHAR"), ("toy", "VARCHAR"), ("weight", "DOUBLE")]


def test_a_view_that_no_artifact_has_brought_is_unknown(workspace: Workspace) -> None:
    with pytest.raises(BadQuery, match="there is no view 'toys'"):
        run_query(workspace, "SELECT * FROM toys")
    made(workspace, 1, TOYS)
    with pytest.raises(BadQuery, match=r"there is no view 'toyz': did you mean toys\?"):
        run_query(workspace, "SELECT * FROM toyz")


def test_the_newest_declaration_counts_and_the_catalogs_own_names_are_its_own(workspace: Workspace) -> None:
    made(workspace, 1, TOYS, rows=(("ball", 0.5),))
    made(workspace, 2, TOYS.model_copy(update={"columns": TOYS.columns[:1]}), rows=())
    made(workspace, 3, BOXES.model_copy(update={"name": "saes"}), summary={"toys": 9})
    assert run_query(workspace, "SELECT * FROM toys").column_names == ["toy_id", "toy"]
    assert run_query(workspace, "SELECT * FROM toys").num_rows == 0
    assert run_query(workspace, "SELECT * FROM saes").num_rows == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": 'toys"; DROP'},
        {"key": "toy id"},
        {"key": "toy"},
        {"columns": (Column("a b", "VARCHAR", "", ""),)},
        {"columns": (("a", "JSON", "", ""),)},
    ],
)
def test_a_declaration_that_is_not_plain_names_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        View.model_validate({**TOYS.model_dump(), **wrong})
    assert View.model_validate(json.loads(TOYS.model_dump_json())) == TOYS


def test_a_file_is_held_to_its_declaration(tmp_path: Path) -> None:
    write_table(tmp_path / "toys.parquet", table([{"toy": "ball", "weight": 0.5}], TOYS))
    check_file(tmp_path, TOYS)
    with pytest.raises(
        BadTable, match=r"has the columns toy string, weight double; the view 'toys' declares toy string:"
    ):
        check_file(tmp_path, TOYS.model_copy(update={"columns": TOYS.columns[:1]}))
