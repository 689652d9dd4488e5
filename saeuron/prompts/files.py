"""Prompts of files, one's own or a benchmark's: from rows to prompts, with every mistake named by its row."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from saeuron.config import PromptFile
from saeuron.errors import BadPrompts, UnknownName
from saeuron.prompts.layouts import Layout, layout_of
from saeuron.prompts.prompt import SPLITS, Prompt, choose
from saeuron.prompts.rows import heading, rows_of

LARGEST = 2**63
"""Seeds are below this."""


def from_file(file: PromptFile | Path | str, domains: Mapping[str, Sequence[str]]) -> list[Prompt]:
    """Prompts of one file.

    Columns of one's own file: `text`, `split` (default train), `seed`, `guidance`, one column per domain (may be
    empty), or `concepts`, a mapping of domains to concepts, as the view `prompts` has it. Capitals and blanks around a
    column's name do not count. Those of benchmarks: `saeuron/prompts/layouts.py`.

    Raises:
        BadPrompts: the file is missing, empty or of an unknown type, a row has no text, an unknown split, or a seed or
            guidance that is none, or a choice of rows leaves none.
        UnknownName: there is no such column, or a row names a concept that its domain does not have.
    """
    told = file if isinstance(file, PromptFile) else None
    file = told or PromptFile(path=str(file))
    path, (layout, rows) = Path(file.path), _chosen(file)
    for domain, concept in file.concepts.items():
        if domain not in domains:
            raise UnknownName("domain", domain, domains, f"({path}, concepts)")
        if concept not in domains[domain]:
            raise UnknownName(domain, concept, domains[domain], f"({path}, concepts)")
    source = path.stem if told or layout.benchmark else ""
    prompts = [_prompt(f"{path}, row {n}", row, domains, file, layout, source) for n, row in rows]
    return choose(prompts, file.limit, 0) if file.limit else prompts


def source_of(path: Path) -> str:
    """`Prompt.source` of a file that is given as a path alone: its name, if its layout is a benchmark's.

    Raises as `from_file`.
    """
    known = {heading(str(name)) for row in rows_of(path) for name in row if name is not None}
    return path.stem if layout_of(known).benchmark else ""


def sizes(file: PromptFile | Path | str) -> Counter[tuple[int, int]]:
    """{(height, width) in pixels: rows that ask for it} of a file whose layout says so, unless that is ignored.

    Raises as `from_file`.
    """
    file = file if isinstance(file, PromptFile) else PromptFile(path=str(file))
    layout, rows = _chosen(file)
    found: Counter[tuple[int, int]] = Counter()
    if not layout.height or "size" in file.ignore:
        return found
    for number, row in rows:
        cells = {heading(str(name)): value for name, value in row.items() if name is not None}
        texts = [str(cells.get(name) or "").strip() for name in (layout.height, layout.width)]
        if any(texts):
            try:
                height, width = (int(float(text)) for text in texts)
            except ValueError:
                raise BadPrompts(
                    f"{file.path}, row {number}: size {' x '.join(texts)!r}; expected a height and a width in pixels."
                ) from None
            found[height, width] += 1
    return found


def _chosen(file: PromptFile) -> tuple[Layout, list[tuple[int, dict[Any, Any]]]]:
    """The layout of a file, and its rows that `only` and `above` leave, with their numbers from 1."""
    path = Path(file.path)
    rows = list(enumerate(rows_of(path), 1))
    known = {heading(str(name)) for _, row in rows for name in row if name is not None}
    layout = layout_of(known)
    for column in (*file.only, *file.above, *((file.text,) if file.text else ())):
        if heading(column) not in known:
            raise UnknownName("column", column, known, f"({path})")

    def cell(row: Mapping[Any, Any], column: str) -> str:
        found = {heading(name): value for name, value in row.items() if name is not None}.get(heading(column))
        return "" if found is None else str(found)

    for column, values in file.only.items():
        wanted = {heading(value) for value in values}
        rows = [(n, row) for n, row in rows if wanted & {heading(part) for part in cell(row, column).split(",")}]
    for column, least in file.above.items():
        kept = []
        for n, row in rows:
            try:
                kept += [(n, row)] if float(cell(row, column) or "nan") > least else []
            except ValueError:
                raise BadPrompts(
                    f"{path}, row {n}: {column} {cell(row, column)!r}; expected a number, as `above` compares."
                ) from None
        rows = kept
    if not rows:
        raise BadPrompts(f"{path}: `only` and `above` leave none of its rows; expected values that it holds.")
    return layout, rows


def _prompt(
    place: str,
    row: Mapping[Any, Any],
    domains: Mapping[str, Sequence[str]],
    file: PromptFile,
    layout: Layout,
    source: str,
) -> Prompt:
    """The prompt of one row; `place` is what messages call it."""
    names = ("text", "split", "concepts", "seed", "guidance", *domains)
    ignored = {heading(name) for name in file.ignore}
    ignored |= {column for what, columns in layout.own.items() if what in ignored for column in columns}
    # A domain's column is the domain's, whatever a layout says of its name; a prompt's is read before all.
    columns = dict.fromkeys((*layout.beside, *layout.own["size"]), "")
    columns |= {layout.seed: "seed", layout.guidance: "guidance", "split": "split", "concepts": "concepts"}
    columns |= {heading(name): name for name in domains} | {name: name for name in domains}
    columns |= {layout.text: ""} if file.text else {}
    columns |= {heading(file.text or layout.text): "text"}
    cells: dict[str, Any] = {}
    for name, value in row.items():
        if name is None:
            if any(value):
                raise BadPrompts(
                    f"{place}: more cells than columns ({value!r:.60}); put quotes around commas in a text."
                )
            continue
        if heading(name) in ignored:
            continue
        what = columns.get(name.strip(), columns.get(heading(name)))
        if what is None and value not in (None, ""):
            raise UnknownName("column", name, names, f"({place}; delete columns that are not meant to be read)")
        if what:
            cells[what] = value
    text = str(cells.pop("text", None) or "")
    if layout.benchmark:
        text = " ".join(text.splitlines())  # captions of COCO have line breaks
    if "\n" in text or "\r" in text:
        raise BadPrompts(f"{place}: the text {text!r:.60} has several lines; expected one (is a quote left open?).")
    text, cells = text.strip(), {name: v.strip() if isinstance(v, str) else v for name, v in cells.items()}
    if not text:
        raise BadPrompts(f"{place}: no text; expected a column `{file.text or layout.text}` with the prompt.")
    split = cells.get("split") or file.split or layout.split
    if split not in SPLITS:
        raise BadPrompts(f"{place}: split {split!r}; expected one of {', '.join(SPLITS)}.")
    concepts = {d: str(cells[d]) for d in domains if d not in ("text", "split", "concepts") and cells.get(d)}
    for told in (_mapping(place, cells.get("concepts")), file.concepts):
        for domain, concept in told.items():
            if domain not in domains:
                raise UnknownName("domain", domain, domains, f"({place})")
            if concepts.setdefault(domain, concept) != concept:
                raise BadPrompts(f"{place}: two concepts of {domain}, {concepts[domain]!r} and {concept!r}; keep one.")
    for domain, concept in concepts.items():
        if concept not in domains[domain]:
            raise UnknownName(domain, concept, domains[domain], f"({place})")
    seed, guidance = (
        _number(place, name, None if name in domains else cells.get(name)) for name in ("seed", "guidance")
    )
    return Prompt(text, split, concepts, None if seed is None else int(seed), guidance, source)


def _number(place: str, what: str, value: Any) -> float | None:
    """A seed or guidance scale of a cell; None if it is empty."""
    if value is None or str(value).strip() == "":
        return None
    try:
        # Seeds have more digits than a float holds.
        found = int(str(value)) if what == "seed" and str(value).isdigit() else float(value)
    except ValueError:
        found = math.nan
    whole = what != "seed" or (found < LARGEST and found == found // 1)
    if not (math.isfinite(found) and found >= 0 and whole):
        kind = "a whole number below 2^63" if what == "seed" else "a number, 0 or more"
        raise BadPrompts(f"{place}: {what} {value!r:.60}; expected {kind}, or `ignore: [{what}]` in prompts.files.")
    return found


def _mapping(place: str, value: Any) -> dict[str, str]:
    """The value of a cell of the column `concepts`: a mapping, pairs (Parquet), or JSON (CSV)."""
    try:
        found = json.loads(value) if isinstance(value, str) and value else value
        return {str(domain): str(concept) for domain, concept in dict(found or {}).items() if concept}
    except (ValueError, TypeError):
        raise BadPrompts(f"{place}: concepts {value!r:.60}; expected a mapping such as {{domain: concept}}.") from None
