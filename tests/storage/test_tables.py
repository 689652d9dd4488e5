from pathlib import Path
from typing import Any

import pytest

from storage.errors import ArtifactDamaged, ArtifactMissing
from storage.tables import HISTORY, IMAGES, METRICS, PROMPTS, read_table, table, write_table
from storage.tables import schema as columns_of

PROMPT = {
    "prompt_id": "a", "text": "a cat", "split": "train", "concepts": {"style": "ink", "object": "cat"},
    "seed": None, "guidance": 7.5, "source": "i2p",
}  # fmt: skip


@pytest.mark.parametrize("schema", [*(columns_of(view.columns) for view in (PROMPTS, IMAGES, METRICS)), HISTORY])
def test_empty_tables_keep_their_schema(tmp_path: Path, schema: Any) -> None:
    write_table(tmp_path / "t", table([], schema))
    assert read_table(tmp_path / "t").schema.equals(schema)


def test_equal_rows_are_equal_bytes(tmp_path: Path) -> None:
    turned = PROMPT | {"concepts": dict(reversed(list(PROMPT["concepts"].items())))}  # type: ignore[attr-defined]
    write_table(tmp_path / "a", table([PROMPT] * 3, PROMPTS))
    write_table(tmp_path / "b", table([turned] * 3, PROMPTS))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert read_table(tmp_path / "a").to_pylist(maps_as_pydicts="strict")[0] == PROMPT


def test_what_is_asked_may_be_nothing(tmp_path: Path) -> None:
    row = dict.fromkeys(c.name for c in IMAGES.columns) | {"asked": {}, "removals": []}
    write_table(tmp_path / "t", table([row], IMAGES))
    assert read_table(tmp_path / "t").to_pylist() == [row | {"asked": []}]


def test_columns_must_fit() -> None:
    for row in (PROMPT | {"extra": 1}, {"prompt_id": "a"}):
        with pytest.raises(ValueError, match="row 0 differs"):
            table([row], PROMPTS)


def test_a_damaged_table_is_found_when_read(tmp_path: Path) -> None:
    with pytest.raises(ArtifactMissing):
        read_table(tmp_path / "t")
    (tmp_path / "t").write_bytes(b"PAR1 no")
    with pytest.raises(ArtifactDamaged):
        read_table(tmp_path / "t")
