"""Compare two runs: settings, artifacts, their summaries, and figures that differ beyond chance."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from flows.summary import text_table
from saeuron.errors import ConfigError, UnknownName
from storage import Workspace
from storage.files import read_json
from storage.identity import canonical_json, digest, split_id
from storage.manifests import Manifest
from tasks.registry import runs

ROWS = 20
"""Artifacts of each run that a page lists at most."""


EVALUATION = "evaluation"
"""The stage whose summaries hold figures with intervals."""
NAMES = ("domain", "concept", "method", "hookpoint")
"""Fields of a summary that tell artifacts of one stage apart."""
IGNORED = {"seconds", "protocol", "reference_set"}
"""Fields of a summary that are not compared: hashes and timings."""
FILES = ("bytes", "contents")
"""Columns about an artifact's files."""
_UNKNOWN = {"running": "has not ended", "interrupted": "was interrupted"}
"""{state: why it is not known what a run used}."""


@dataclass(frozen=True)
class Cell:
    """One field in which artifacts of one stage and name differ between the runs."""

    stage: str
    name: str
    """Its domain, concept and hookpoint, as far as it has them."""
    column: str
    a: Any
    b: Any


@dataclass(frozen=True)
class Figure:
    """One metric of one removal in both runs, as fractions with their 95 % intervals."""

    domain: str
    concept: str
    method: str
    metric: str
    a: tuple[float, float, float]
    """Value, low, high."""
    b: tuple[float, float, float]

    @property
    def beyond(self) -> bool:
        """Whether the two intervals do not overlap."""
        return self.a[1] > self.b[2] or self.b[1] > self.a[2]


@dataclass(frozen=True)
class Difference:
    """The differences between run A and run B."""

    a: runs.Record
    b: runs.Record
    config: list[tuple[str, Any, Any]]
    """(key, value in A, value in B) of each key that differs."""
    only_a: list[str]
    only_b: list[str]
    both: int
    """Number of artifacts that both used."""
    cells: list[Cell]
    """Differences between artifacts of the same stage and name; fields of their summaries first."""
    figures: list[Figure]
    """Figures of removals that both evaluated, in different evaluations."""
    same: int
    """Number of figures that come from the same evaluation in both."""
    unmatched: int
    """Number of figures that only one run has, or that could not be judged."""
    notes: list[str]
    """Notes on what could not be compared."""


def resolve(workspace: Workspace, text: str, among: Sequence[runs.Record] | None = None) -> runs.Record:
    """The run that a text names: its number, its id, a unique beginning of it, `last`, or `last~N`.

    `among`: the runs that count, oldest first; all by default.

    Raises:
        UnknownName: no run has that name.
        ConfigError: several runs match, or there are fewer runs than N + 1.
    """
    found = runs.records(workspace) if among is None else among
    if back := re.fullmatch(r"last(?:~(\d+))?", text):
        steps = int(back[1] or 0)
        if steps >= len(found):
            raise ConfigError(
                f"run {text!r}: there are {len(found)} runs here; expected last~{len(found) - 1} at most."
            )
        return found[-1 - steps]
    if numbered := [r for r in found if str(r.number) == text]:
        return numbered[0]
    matching = [r for r in found if r.run_id.startswith(text)]
    exact = [r for r in matching if r.run_id == text] or matching
    if not text or not exact:
        raise UnknownName("run", text, [r.run_id for r in found], "Or its number, last, last~1.")
    if len(exact) > 1:
        shown = ", ".join(r.run_id for r in exact[:4]) + (", ..." if len(exact) > 4 else "")
        raise ConfigError(f"run {text!r} is the beginning of {len(exact)}: {shown}; give more of it.")
    return exact[0]


def compare(workspace: Workspace, a: runs.Record, b: runs.Record) -> Difference:
    """All differences between two runs."""
    told = [flat(read_json(workspace.runs / "configs" / f"{r.run_id}.json")) for r in (a, b)]
    changed = [(key, told[0].get(key), told[1].get(key)) for key in dict.fromkeys([*told[0], *told[1]])]
    notes = [
        f"{name} ({r.run_id}) {_UNKNOWN.get(r.state, 'is from before artifacts were noted')}: what it used is not known"
        for name, r in (("A", a), ("B", b))
        if r.artifacts is None
    ]
    used = [r.artifacts or {} for r in (a, b)]
    both = used[0].keys() & used[1].keys()
    measured = [_measured(workspace, ids) for ids in used]
    gone = sum(split_id(i)[0] == EVALUATION for ids in used for i in ids) - sum(len(m) for m in measured)
    if gone:
        notes.append(f"{gone} evaluations are not there any more, or damaged; their figures are left out")
    figures, same, unmatched = _figures(*measured)
    return Difference(
        a=a,
        b=b,
        config=[(key, old, new) for key, old, new in changed if old != new],
        only_a=sorted(used[0].keys() - both),
        only_b=sorted(used[1].keys() - both),
        both=len(both),
        cells=_cells(workspace, *used),
        figures=figures,
        same=same,
        unmatched=unmatched,
        notes=notes,
    )


def _cells(workspace: Workspace, a: Mapping[str, bool], b: Mapping[str, bool]) -> list[Cell]:
    left, right = (_named_once(workspace, ids) for ids in (a, b))
    found: list[Cell] = []
    for part in (part for part in left if part in right and left[part].id != right[part].id):
        told = [_told(manifest) for manifest in (left[part], right[part])]
        columns = [c for c in dict.fromkeys([*told[0], *told[1]]) if told[0].get(c) != told[1].get(c)]
        stage, *names = part
        name = " ".join(filter(None, names))
        # Other columns explain more than `contents` does.
        shown = [c for c in columns if c != "contents"] or columns
        found += [Cell(stage, name, c, told[0].get(c), told[1].get(c)) for c in shown]
    return sorted(found, key=lambda cell: cell.column in FILES)


def _told(manifest: Manifest) -> dict[str, Any]:
    plain = {k: v for k, v in flat(manifest.summary).items() if isinstance(v, int | float | str | None)}
    told = {k: v for k, v in plain.items() if k not in IGNORED and not k.endswith("_id")}
    contents = digest(canonical_json({file.name: file.sha256 for file in manifest.files}).encode())[:12]
    return {**told, "bytes": sum(file.bytes for file in manifest.files), "contents": contents}


def _named_once(workspace: Workspace, ids: Mapping[str, bool]) -> dict[tuple[str, ...], Manifest]:
    """{(stage, names): artifact} of those with a unique name in the run; evaluations are compared as figures."""
    found: dict[tuple[str, ...], list[Manifest]] = {}
    for manifest in (workspace.manifest(i) for i in sorted(ids) if workspace.has(i)):
        names = [str(manifest.summary.get(name) or "") for name in NAMES]
        if any(names) and manifest.stage != EVALUATION:
            found.setdefault((manifest.stage, *names), []).append(manifest)
    return {part: manifests[0] for part, manifests in found.items() if len(manifests) == 1}


def _measured(workspace: Workspace, ids: Mapping[str, bool]) -> list[Manifest]:
    return [workspace.manifest(i) for i in sorted(ids) if split_id(i)[0] == EVALUATION and workspace.has(i)]


def _figures(a: list[Manifest], b: list[Manifest]) -> tuple[list[Figure], int, int]:
    def by_name(manifests: list[Manifest]) -> dict[tuple[str, str, str, str], tuple[str, dict[str, Any]]]:
        return {
            (m.summary["domain"], m.summary["concept"], m.summary["method"], name): (m.id, figure)
            for m in manifests
            for name, figure in m.summary["metrics"].items()
        }

    left, right = by_name(a), by_name(b)
    figures, same, unmatched = [], 0, len(left.keys() ^ right.keys())
    for key in (k for k in left if k in right):
        (id_a, one), (id_b, other) = left[key], right[key]
        values = [tuple(f[name] for name in ("value", "low", "high")) for f in (one, other)]
        if id_a == id_b:
            same += 1
        elif any(v is None for value in values for v in value):
            unmatched += 1
        else:
            figures.append(Figure(*key, *values))
    return figures, same, unmatched


def flat(fields: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of nested sections by their dotted keys."""
    found: dict[str, Any] = {}
    for key, value in fields.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return found


def short(value: Any, width: int = 28) -> str:
    """A value as text of at most `width` characters."""
    text = "none" if value is None else str(value)
    return text if len(text) <= width else text[: width - 1] + "…"


def page(found: Difference) -> str:
    """The difference as text."""
    lines = [f"{name}  {r.run_id}  {r.state}, started {r.started:%Y-%m-%d %H:%M}" for name, r in _named(found)]
    lines += [f"note: {note}" for note in found.notes]
    shared = found.config or found.both or found.cells or found.figures or found.unmatched
    if found.a.run_id != found.b.run_id and not shared:
        kinds = f"A is a run of {found.a.flow}, B of {found.b.flow}"
        return "\n".join([*lines, f"nothing to compare: {kinds}, with the same settings; saeuron runs lists others"])
    lines += ["", f"configuration: {len(found.config) or 'no'} keys differ"]
    if found.config:
        changed = [{"key": key, "A": short(old, 80), "B": short(new, 80)} for key, old, new in found.config]
        lines.append(text_table(["key", "A", "B"], changed, wrapped=["key", "A", "B"]))
    lines += ["", f"artifacts: {found.both} in both, {len(found.only_a)} only in A, {len(found.only_b)} only in B"]
    listed = [
        {"only in": n, "artifact": i} for n, ids in (("A", found.only_a), ("B", found.only_b)) for i in ids[:ROWS]
    ]
    if listed:
        lines.append(text_table(["only in", "artifact"], listed))
    more = sum(max(len(ids) - ROWS, 0) for ids in (found.only_a, found.only_b))
    lines += [f"and {more} more; --json lists them all"] if more else []
    lines += ["", f"summaries: {len(found.cells) or 'no'} values differ, of artifacts of the same stage and name"]
    if found.cells:
        cells = [
            {"stage": c.stage, "of": c.name, "column": c.column, "A": short(c.a, 12), "B": short(c.b, 12)}
            for c in found.cells[:ROWS]
        ]
        lines.append(text_table(["stage", "of", "column", "A", "B"], cells, wrapped=["of"]))
    more = max(len(found.cells) - ROWS, 0)
    lines += [f"and {more} more; --json lists them all"] if more else []
    beyond = [f for f in found.figures if f.beyond]
    lines += [
        "",
        f"figures: {len(beyond)} beyond intervals, {len(found.figures) - len(beyond)} within, "
        f"{found.same} of the same evaluation, {found.unmatched} in one run only or not judged",
    ]
    if beyond:
        rows = [
            {
                "concept": f.concept,
                "method": f.method,
                "metric": f.metric,
                "A": _interval(f.a),
                "B": _interval(f.b),
                "": "beyond intervals",
            }
            for f in beyond
        ]
        lines.append(text_table(["concept", "method", "metric", "A", "B", ""], rows, optional=["method"]))
        lines.append("Percent, with the 95 % interval of each.")
    return "\n".join(lines)


def _named(found: Difference) -> tuple[tuple[str, runs.Record], tuple[str, runs.Record]]:
    return ("A", found.a), ("B", found.b)


def _interval(figure: tuple[float, float, float]) -> str:
    value, low, high = (100 * each for each in figure)
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def as_json(found: Difference) -> dict[str, Any]:
    """The same as plain values; figures are fractions."""
    names = ("value", "low", "high")
    return {
        **{name.lower(): r.model_dump(mode="json", exclude={"artifacts", "config"}) for name, r in _named(found)},
        "notes": found.notes,
        "config": [{"key": key, "a": old, "b": new} for key, old, new in found.config],
        "artifacts": {"both": found.both, "only_a": found.only_a, "only_b": found.only_b},
        "summaries": [asdict(c) for c in found.cells],
        "figures": {
            "same": found.same,
            "unmatched": found.unmatched,
            "compared": [
                {
                    **{name: getattr(f, name) for name in ("domain", "concept", "method", "metric")},
                    "a": dict(zip(names, f.a, strict=True)),
                    "b": dict(zip(names, f.b, strict=True)),
                    "beyond_intervals": f.beyond,
                }
                for f in found.figures
            ],
        },
    }
