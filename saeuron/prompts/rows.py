"""The rows of a file, whatever its format: CSV, JSONL, JSON, Parquet or lines of text."""

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from saeuron.config import twice
from saeuron.errors import BadPrompts

KINDS = ".csv, .jsonl, .json, .parquet or .txt"


def rows_of(path: Path) -> list[dict[Any, Any]]:
    """The rows of a file, {column: value}.

    Raises:
        BadPrompts: it is missing, empty, of an unknown type, or malformed.
    """
    if not path.is_file():
        raise BadPrompts(f"no such prompt file: {path}; give the path of a {KINDS} file.")
    try:
        rows = _rows(path)
    except (ValueError, csv.Error) as error:  # not UTF-8, not Parquet, a broken CSV
        raise BadPrompts(f"{path} cannot be read as {path.suffix}: {str(error).splitlines()[0]}") from error
    if not rows:
        raise BadPrompts(f"{path} holds no prompts; expected one per row, with a column `text`.")
    return rows


def _rows(path: Path) -> list[dict[Any, Any]]:
    # Spreadsheets write a byte order mark, which would become part of the first column's name.
    encoding = "utf-8-sig"
    match path.suffix.lower():
        case ".csv":
            with path.open(newline="", encoding=encoding) as file:
                # Strict: a quote that is never closed would take in every row after it.
                reader = csv.DictReader(file, strict=True)
                _distinct(path, map(heading, reader.fieldnames or ()))
                return list(reader)
        case ".jsonl":
            rows = []
            for number, line in enumerate(path.read_text(encoding=encoding).split("\n"), 1):
                if not line.strip():
                    continue
                try:
                    rows.append(json.loads(line, object_pairs_hook=_object))
                except ValueError as error:
                    raise BadPrompts(f"{path}, line {number}: not JSON ({error}); expected an object.") from None
                if not isinstance(rows[-1], dict):
                    raise BadPrompts(f"{path}, line {number}: {line.strip()[:40]!r}; expected an object.")
            return rows
        case ".json":
            return _coco(path, json.loads(path.read_text(encoding=encoding), object_pairs_hook=_object))
        case ".parquet":
            from pyarrow import parquet

            table = parquet.read_table(path)
            _distinct(path, map(heading, table.column_names))
            return list(table.to_pylist())
        case ".txt":
            return [{"text": line} for line in path.read_text(encoding=encoding).split("\n") if line.strip()]
    raise BadPrompts(f"{path}: unknown kind of prompt file {path.suffix!r}; expected {KINDS}.")


def _coco(path: Path, found: Any) -> list[dict[Any, Any]]:
    """The captions of COCO's own file, `{"annotations": [{"image_id": .., "caption": ..}]}`, or a list of objects."""
    rows = found.get("annotations") if isinstance(found, dict) else found
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise BadPrompts(f"{path}: expected COCO's captions, an object with `annotations`, or a list of objects.")
    return rows


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, refused if a key stands twice: json alone keeps the last."""
    if (key := twice(key for key, _ in pairs)) is not None:
        raise ValueError(f"the key {key!r} stands twice")
    return dict(pairs)


def heading(name: str) -> str:
    """A column's name as it is compared: capitals and blanks around it do not count."""
    return name.strip().casefold()


def _distinct(path: Path, headings: Iterable[str]) -> None:
    if repeated := twice(headings):
        raise BadPrompts(f"{path}: the column {repeated!r} stands twice; name each column once.")
