"""`saeuron bench`: a removal on a fixed protocol, as one row of docs/leaderboard.md."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

from flows.config import load
from flows.config import names as configurations
from flows.summary import counted, text_table
from saeuron import methods
from saeuron.config import RunConfig
from saeuron.errors import ConfigError, UnknownName
from saeuron.figures.row import METRICS, Figures, Measured, Row, row
from saeuron.figures.words import harm, percent
from saeuron.judges import NONE
from saeuron.methods import UNTRAINED
from storage import Workspace, text

RANDOM = "random"
SUFFIX = "_bench"
"""A protocol that ships is a configuration with this end: `canvas` is canvas_bench.yaml."""
COLUMNS = (
    *("method", "removed", *METRICS, "mean (95 %)", "odd", "worst victim", f"minus {UNTRAINED} (95 %)"),
    *("images", "seconds", "command"),
)
"""Columns of the table in docs/leaderboard.md."""


def protocol(name: str) -> RunConfig:
    """The configuration that fixes a protocol.

    Raises:
        UnknownName: there is none of that name, and no such file.
        ConfigError: the file is not a configuration, removes nothing, or has nobody to judge it.
    """
    known = _shipped()
    if name in known:
        return load(f"{name}{SUFFIX}")
    if not Path(name).is_file():
        raise UnknownName("protocol", name, known, "Or give the path of a YAML file.")
    config = load(name)
    wanting = [] if config.tune.concepts else ["tune.concepts, the concepts to remove"]
    wanting += [f"domains.{d}.judge, who says what is shown" for d, c in config.domains.items() if c.judge == NONE]
    if wanting:
        raise ConfigError(f"{name} is no protocol: it lacks {'; '.join(wanting)}. {_ships(known)}")
    return config


def _ships(known: Sequence[str]) -> str:
    return f"Protocols that ship: {', '.join(known)}; {known[0]}{SUFFIX}.yaml shows what one fixes."


def _shipped() -> list[str]:
    return [each.removesuffix(SUFFIX) for each in configurations() if each.endswith(SUFFIX)]


def of_method(config: RunConfig, method: str) -> RunConfig:
    """The protocol for one method, beside the controls that are like it.

    An untrained SAE in another edit than the method's would show the edit, not the training.

    Raises:
        ConfigError: the protocol lacks the control without which a method that reads an SAE shows nothing of it.
    """
    if _controls([UNTRAINED], method) and UNTRAINED not in config.controls.methods:
        raise ConfigError(
            f"{method} stands beside an untrained SAE, and the protocol lacks it: expected controls.methods with "
            f"{UNTRAINED}, found {list(config.controls.methods)}. {_ships(_shipped())}"
        )
    controls = config.controls.model_copy(update={"methods": _controls(config.controls.methods, method)})
    return config.model_copy(update={"method": (method,), "controls": controls})


def _controls(kinds: Sequence[str], method: str) -> tuple[str, ...]:
    found = [methods.control(method, kind) for kind in kinds]
    return tuple(name for name in found if name != method and methods.get(name).like in ("", method))


def is_method(name: str, removed: str | None, concepts: Sequence[str]) -> bool:
    """Whether `name` is a method, to be learned by a run, and not a removal that is there.

    Raises:
        UnknownName: it is neither.
        ConfigError: it is a path that is not there; or a method, and `removed` is given.
    """
    if name in methods.names():
        if removed is not None:
            raise ConfigError(
                f"--removed {removed}: a method is measured on all concepts of the protocol ({', '.join(concepts)}); "
                "leave the option out."
            )
        return True
    path = Path(name).expanduser()
    if path.exists() or path.suffix == ".safetensors" or ":" in name:
        return False
    if "/" in name:
        raise ConfigError(f"no such file or folder: {name}; expected a removal's file or a pipeline's folder.")
    hint = "Or give a removal's file, a pipeline's folder, or module:attribute."
    # A short list, so that the hint is read.
    raise UnknownName("method", name, get_close_matches(name, methods.names()) or methods.names(), hint)


@dataclass(frozen=True)
class Benched:
    """A row, and how it was made."""

    method: str
    row: Row
    seconds: float
    """Sum over all steps whose artifacts were used; those found in place count with the time that they took."""
    command: str

    def json(self) -> dict[str, Any]:
        """The result for `--json`, as fractions, not percent."""
        return {"method": self.method, **asdict(self.row), "seconds": self.seconds, "command": self.command}


def of_run(workspace: Workspace, config: RunConfig, result: Mapping[str, Any]) -> tuple[Row, float]:
    """The row of a run's method, and the seconds that its artifacts took."""
    from tasks.bench import judged
    from tasks.registry import runs

    [method] = config.method
    ids = {(e["concept"], e["method"]): e["id"] for e in result["evaluations"]}
    beside = [next(iter(_controls([kind], method)), None) for kind in (UNTRAINED, RANDOM)]
    removed = [judged(workspace, ids[c, m], *(ids.get((c, name)) for name in beside)) for c, m in ids if m == method]
    used = runs.record(workspace.runs / f"{result['run_id']}.json").artifacts or {}
    return row(tuple(config.domains), removed), sum(workspace.manifest(name).seconds for name in used)


def page(benched: Benched) -> str:
    """The row as text that fits the terminal."""
    found = benched.row
    rows = [_row(each.concept, each.edited, each.unedited, each) for each in found.removals]
    if len(rows) > 1:
        rows.append(_row("mean", found.edited, found.unedited, None))
    header = ["removed", *(h for name in METRICS for h in (name, f"({name})")), "mean", "worst victim"]
    lines = [benched.method, "", text_table(header, rows, wrapped=["worst victim"]), ""]
    images = counted(found.images, "test image")
    lines += [text.filled(f"Percent, on {images}; in brackets: the unedited model, on the same."), ""]
    lines += ["95 % intervals", _table(found, {name: partial(_ends, name) for name in (*METRICS, "mean")})]
    minus = {UNTRAINED: found.difference, RANDOM: found.minus_random}
    if any(minus.values()):
        fields = {f"minus {UNTRAINED}": "difference", f"minus {RANDOM}": "minus_random"}
        lines += ["", "mean minus that of a control (95 %)"]
        lines += [_table(found, {said: partial(_minus, name) for said, name in fields.items() if getattr(found, name)})]
    lines += ["", f"mean of (UA + IRA + CRA) / 3: {_interval(found.edited.mean, found.low, found.high)}"]
    if found.odd:
        lines.append(
            text.filled(
                f"odd: {percent(found.odd[0])} % of the images asked to show the concept do not look like the model's "
                f"own (unedited {percent(found.odd[1])})"
            )
        )
    for kind, d in minus.items():
        if d:
            beats = f"beats {kind}" if d.beats else f"does not beat {kind}"
            lines.append(f"{beats}: {_interval(d.value, d.low, d.high, '+')} points")
        else:
            lines.append(f"no difference to {kind}: no such control was run beside this")
    lines += [f"{benched.seconds:.0f} s", benched.command]
    return "\n".join(lines)


def markdown(benched: Benched) -> str:
    """The row as a line of the table in docs/leaderboard.md."""
    found, d = benched.row, benched.row.difference
    cells = [
        benched.method,
        ", ".join(each.concept for each in found.removals),
        *(_percent(getattr(found.edited, name)) for name in METRICS),
        _interval(found.edited.mean, found.low, found.high),
        f"{percent(found.odd[0])} ({percent(found.odd[1])})" if found.odd else "-",
        f"{_victim(found.worst)}, by {found.worst.concept}" if found.worst else "-",
        _interval(d.value, d.low, d.high, "+") if d else "-",
        str(found.images),
        f"{benched.seconds:.0f}",
        f"`{benched.command}`",
    ]
    return f"| {' | '.join(cells)} |"


def _table(found: Row, cells: Mapping[str, Callable[[Measured | Row], str]]) -> str:
    """A line for each removal, and for all of several."""
    of: list[tuple[str, Measured | Row]] = [(each.concept, each) for each in found.removals]
    of += [("mean", found)] if len(of) > 1 else []
    return text_table(["removed", *cells], [{"removed": n, **{k: f(m) for k, f in cells.items()}} for n, m in of])


def _ends(name: str, measured: Measured | Row) -> str:
    low, high = measured.intervals[name]
    return "-" if low is None or high is None else f"{100 * low:.1f} to {100 * high:.1f}"


def _minus(name: str, measured: Measured | Row) -> str:
    d = getattr(measured, name)
    return _interval(d.value, d.low, d.high, "+")


def _row(name: str, edited: Figures, unedited: Figures, measured: Measured | None) -> dict[str, Any]:
    cells: dict[str, Any] = {"removed": name, "mean": edited.mean}
    for metric in METRICS:
        cells |= {metric: getattr(edited, metric), f"({metric})": getattr(unedited, metric)}
    return cells | {"worst victim": _victim(measured) if measured else ""}


def _victim(measured: Measured) -> str:
    return harm(asdict(measured.victim)) if measured.victim and measured.victim.loss > 0 else "none"


def _percent(value: float | None) -> str:
    return "-" if value is None else percent(value)


def _interval(value: float | None, low: float | None, high: float | None, sign: str = "") -> str:
    """`96.1 (93.2 to 98)`; `96.1` without an interval, `-` for what could not be judged."""
    if value is None:
        return "-"
    shown = f"{100 * value:+.1f}" if sign else f"{100 * value:.1f}"
    return shown if low is None or high is None else f"{shown} ({100 * low:.1f} to {100 * high:.1f})"
