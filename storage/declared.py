"""Declarations of a stage's artifacts as plain data: the views in SQL and their columns.

`storage/views/` declares the views of the stages that ship. A stage from elsewhere declares its own; they are kept
in the manifest of each of its artifacts, so that SQL shows them wherever the workspace goes, without the stage's code.
"""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, StringConstraints, model_validator

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$", max_length=60)]
Type = Literal[
    "VARCHAR",
    "BOOLEAN",
    "INTEGER",
    "BIGINT",
    "UINTEGER",
    "UBIGINT",
    "FLOAT",
    "DOUBLE",
    "TIMESTAMP",
    "VARCHAR[]",
    "MAP(VARCHAR, VARCHAR)",
]
"""DuckDB's names of the types that a column may have."""


class Column(NamedTuple):
    """One column of a view."""

    name: Name
    type: Type
    unit: str
    """Unit of the values; empty for names and ids."""
    meaning: str


class View(BaseModel):
    """One view over the artifacts of a stage: the rows of a Parquet file of each, or one row for each."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    """Its name in SQL."""
    key: Name
    """Its first column: the id of the artifact."""
    file: str = ""
    """The Parquet file within the artifact, whose columns are `columns` in this order; empty: one row for each
    artifact, from its summary; a column `x_id` that is not in the summary is the input `x`."""
    columns: tuple[Column, ...]
    """The columns after the key."""
    key_meaning: str = "the artifact"

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        names = [column.name for column in self.described]
        if len(set(names)) < len(names):
            raise ValueError(f"view {self.name!r} names a column twice: expected different names, got {names}")
        return self

    @property
    def described(self) -> list[Column]:
        """Every column, the key first."""
        return [Column(self.key, "VARCHAR", "", self.key_meaning), *self.columns]
