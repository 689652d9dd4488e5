"""Which removals are outdated, and what it changed to refresh them."""

from dataclasses import asdict, dataclass
from typing import Any

from flows.summary import text_table
from saeuron.config import RunConfig
from saeuron.errors import ConfigError, UnknownName
from storage import Workspace
from storage.manifests import Manifest
from storage.verify import in_force
from tasks.registry.concepts import Roster

FIGURES = ("UA", "IRA", "CRA")


@dataclass(frozen=True)
class State:
    """The removal of a concept that is in use, and its newest figures on test prompts."""

    removal_id: str
    reference: tuple[str, ...]
    """The concepts that it was computed against."""
    n: int
    gamma: float
    figures: dict[str, float | None]
    """UA, IRA, CRA as fractions; None where nothing could judge them."""


def outdated(workspace: Workspace) -> dict[str, bool]:
    """Of each concept with a removal in use: whether other concepts are scored now than it was computed against."""
    from storage import connect

    with connect(workspace) as views:
        known = dict(views.execute("select removal_id, outdated from removals").fetchall())
    return {concept: known[i] for concept, i in in_force(workspace, workspace.artifacts("removal")).items()}


def choose(workspace: Workspace, config: RunConfig, name: str | None, everything: bool) -> list[str]:
    """The concepts to refresh: the one that is named, or every one with a removal in use; none that is up to date.

    Raises:
        UnknownName: there is no such concept.
        ConfigError: it was removed; or neither a name nor `everything` was given, or both.
    """
    roster = Roster.of(workspace, config)
    if name:
        check_present(name, config, roster)
    stale = outdated(workspace)
    if bool(name) == everything:
        given = "both" if name else "neither"
        which = ", ".join(sorted(c for c, old in stale.items() if old)) or "none"
        raise ConfigError(f"expected the name of a concept or --all, found {given}; outdated: {which}.")
    there = {concept: names for names in roster.present(config).values() for concept in names}
    chosen = [name] if name else [concept for concept in there if concept in stale]
    return [c for c in chosen if stale.get(c, True) or set(roster.reference(config, c)) != set(there[c])]


def check_present(name: str, config: RunConfig, roster: Roster) -> None:
    """Raise unless the name is that of a concept that is there."""
    known = [c for names in roster.present(config).values() for c in names]
    if name in roster.removed:
        raise ConfigError(f"concept {name!r} was removed; `saeuron concept add FILE` brings it back.")
    if name not in known:
        raise UnknownName("concept", name, known)


def state(workspace: Workspace, concept: str) -> State | None:
    """The removal of a concept that is in use; None if there is none."""
    removals = {m.id: m for m in workspace.artifacts("removal") if m.summary.get("concept") == concept}
    found = in_force(workspace, list(removals.values())).get(concept)
    if found is None:
        return None
    about = removals[found]
    measured = [m for m in workspace.artifacts("evaluation") if m.inputs.get("removal") == found]
    newest: Manifest | None = max(measured, key=lambda m: m.created, default=None)
    metrics = newest.summary["metrics"] if newest else {}
    figures = {name: metrics.get(name, {}).get("value") for name in FIGURES}
    return State(found, tuple(about.config["reference"]), about.summary["n"], about.summary["gamma"], figures)


def page(before: dict[str, State | None], after: dict[str, State | None]) -> list[str]:
    """What changed, for a person: two rows a concept."""
    rows: list[dict[str, Any]] = []
    for concept, new in after.items():
        old = before[concept]
        for when, one, other in (("before", old, None), ("after", new, old)):
            row: dict[str, Any] = {"concept": concept if when == "before" else "", "": when}
            if one is not None:
                row |= {"computed against": _against(one, other), "n": one.n, "gamma": f"{one.gamma:g}", **one.figures}
            rows.append(row)
    header = ["concept", "", "computed against", "n", "gamma", *FIGURES]
    lines = [text_table(header, rows, wrapped=["computed against"])]
    lines.append("Percent, on test prompts. Removals that are not named here are the bytes they were.")
    return lines


def _against(one: State, before: State | None) -> str:
    count = f"{len(one.reference)} concepts"
    if before is None:
        return count
    came = [f"+{c}" for c in one.reference if c not in before.reference]
    went = [f"-{c}" for c in before.reference if c not in one.reference]
    changed = came + went
    named = " ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")
    return f"{count}: {named}" if changed else count


def as_json(before: dict[str, State | None], after: dict[str, State | None]) -> list[dict[str, Any]]:
    """The same as plain values."""

    def plain(one: State | None) -> dict[str, Any] | None:
        return asdict(one) if one else None

    return [{"concept": c, "before": plain(before[c]), "after": plain(after[c])} for c in after]
