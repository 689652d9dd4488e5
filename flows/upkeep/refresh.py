"""Find outdated removals, and report what a refresh changed."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from flows.summary import text_table, told
from saeuron.config import RunConfig
from saeuron.errors import ConfigError, UnknownName
from storage import Workspace
from storage.manifests import Manifest
from storage.published import in_use
from storage.text import few
from tasks.registry.concepts import Roster

FIGURES = ("UA", "IRA", "CRA")


@dataclass(frozen=True)
class State:
    """A removal that is in use, and its newest figures on test prompts."""

    removal_id: str
    method: str
    reference: tuple[str, ...]
    """The concepts that it was computed against."""
    settings: dict[str, Any]
    figures: dict[str, float | None]
    """UA, IRA, CRA as fractions; None if they could not be judged."""


def outdated(workspace: Workspace) -> dict[tuple[str, str], bool]:
    """{(concept, method): whether other concepts are scored now than its reference set} of the removals in use."""
    from storage import connect

    with connect(workspace) as views:
        known = dict(views.execute("select removal_id, outdated from removals").fetchall())
    return {which: known[i] for which, i in in_use(workspace, workspace.artifacts("removal")).items()}


def choose(workspace: Workspace, config: RunConfig, name: str | None, everything: bool) -> list[str]:
    """The concepts to refresh: the named one, or all with a removal in use; those that are up to date are left out.

    Raises:
        UnknownName: there is no such concept.
        ConfigError: it was dropped; or neither a name nor `everything` was given, or both.
    """
    roster = Roster.of(workspace, config)
    if name:
        check_present(name, config, roster)
    is_old: dict[str, bool] = {}
    for (concept, _), old in outdated(workspace).items():
        is_old[concept] = is_old.get(concept, False) or old
    if bool(name) == everything:
        given = "both" if name else "neither"
        which = ", ".join(sorted(c for c, old in is_old.items() if old)) or "none"
        raise ConfigError(f"expected the name of a concept or --all, found {given}; outdated: {which}.")
    there = {concept: names for names in roster.present(config).values() for concept in names}
    chosen = [name] if name else [concept for concept in there if concept in is_old]
    return [c for c in chosen if is_old.get(c, True) or set(roster.reference(config, c)) != set(there[c])]


def check_present(name: str, config: RunConfig, roster: Roster) -> None:
    """Raise unless the concept exists and was not dropped."""
    known = [c for names in roster.present(config).values() for c in names]
    if name in roster.dropped:
        raise ConfigError(f"concept {name!r} was dropped; `saeuron concept add FILE` brings it back.")
    if name not in known:
        raise UnknownName("concept", name, known)


Which = tuple[str, str]
"""(concept, method); the method is empty for a concept that has no removal in use."""
States = Mapping[Which, State | None]


def states(workspace: Workspace, concepts: Iterable[str]) -> dict[Which, State | None]:
    """The removals in use of these concepts; None for a concept without one."""
    chosen = [*concepts]
    removals = {m.id: m for m in workspace.artifacts("removal") if m.summary.get("concept") in chosen}
    found = {which: _state(workspace, removals[i]) for which, i in in_use(workspace, removals.values()).items()}
    lacking = {(c, ""): None for c in chosen if c not in {concept for concept, _ in found}}
    return {**found, **lacking}


def _named(before: States, after: States) -> list[Which]:
    """Every removal of `before` or `after`, and the concepts that have none in both."""
    known = {which[0] for which in (*before, *after) if which[1]}
    return [which for which in dict.fromkeys([*before, *after]) if which[1] or which[0] not in known]


def _state(workspace: Workspace, removal: Manifest) -> State:
    measured = [m for m in workspace.artifacts("evaluation") if m.inputs.get("removal") == removal.id]
    newest: Manifest | None = max(measured, key=lambda m: m.created, default=None)
    metrics = newest.summary["metrics"] if newest else {}
    figures = {name: metrics.get(name, {}).get("value") for name in FIGURES}
    about = removal.summary
    return State(removal.id, about["method"], tuple(about["reference"]), about["settings"], figures)


def page(before: States, after: States) -> list[str]:
    """The changes as text, two rows per removal."""
    rows: list[dict[str, Any]] = []
    for which in _named(before, after):
        old, new = before.get(which), after.get(which)
        for when, one, other in (("before", old, None), ("after", new, old)):
            row: dict[str, Any] = {"concept": which[0] if when == "before" else "", "": when}
            if one is not None:
                row |= {"computed against": _against(one, other), "settings": told(one.settings), **one.figures}
            rows.append(row)
    header = ["concept", "", "computed against", "settings", *FIGURES]
    lines = [text_table(header, rows, wrapped=["computed against", "settings"])]
    lines.append("Percent, on test prompts. Removals that are not named here did not change.")
    return lines


def _against(one: State, before: State | None) -> str:
    count = f"{len(one.reference)} concepts"
    if before is None:
        return count
    came = [f"+{c}" for c in one.reference if c not in before.reference]
    went = [f"-{c}" for c in before.reference if c not in one.reference]
    changed = came + went
    return f"{count}: {few(changed, 3, ' ')}" if changed else count


def as_json(before: States, after: States) -> list[dict[str, Any]]:
    """The same as plain values."""

    def plain(one: State | None) -> dict[str, Any] | None:
        return asdict(one) if one else None

    return [
        {
            "concept": which[0],
            "method": which[1] or None,
            "before": plain(before.get(which)),
            "after": plain(after.get(which)),
        }
        for which in _named(before, after)
    ]
