"""The output of every benchmark: an aligned table, and with --json a list of {name, value, unit, baseline, ratio}."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Figure:
    """One measured figure; `ratio` is `value` over `baseline`."""

    name: str
    value: float | None
    unit: str
    baseline: float | None = None
    ratio: float | None = None


def parser(description: str) -> argparse.ArgumentParser:
    """An argument parser with --json."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    return made


def show(figures: Sequence[Figure], path: Path | None) -> None:
    """Print the table; write the JSON."""

    def cell(value: float | None) -> str:
        return "-" if value is None else f"{value:.4g}"

    rows = [("name", "value", "unit", "baseline", "ratio")]
    rows += [(f.name, cell(f.value), f.unit, cell(f.baseline), cell(f.ratio)) for f in figures]
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    for row in rows:
        print("  ".join(text.ljust(w) for text, w in zip(row, widths, strict=True)).rstrip())
    write([asdict(f) for f in figures], path)
    if path:
        print(f"wrote {path}")


def write(rows: Sequence[dict[str, Any]], path: Path | None) -> None:
    """Write rows as JSON where --json names a file."""
    if path:
        path.write_text(json.dumps(rows, indent=2) + "\n")
