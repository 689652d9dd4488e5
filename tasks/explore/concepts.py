"""The concepts of a workspace: how far each is, its figures, a picture without and with its removal."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from storage.errors import StorageError
from storage.manifests import Manifest
from tasks.explore.shelf import Shelf, remembered
from tasks.registry import concepts

Image = tuple[str, str]
"""(image set, key) of a picture."""


@dataclass(frozen=True)
class ConceptRow:
    """A concept, and its newest removal by one method."""

    domain: str
    concept: str
    state: str
    """measured, removed (not measured), scored, or known (of the configuration); outdated or dropped."""
    method: str
    verdict: str
    reason: str
    value: float | None
    metrics: dict[str, Any]
    harmed: int
    unedited: Image | None
    edited: Image | None


def every(shelf: Shelf) -> list[ConceptRow]:
    """All concepts, by domain and name; of several methods, controls included, the chosen ones first."""
    config = remembered(shelf.workspace)
    known = {(d, c) for d, about in (config.domains if config else {}).items() for c in about.concepts}
    dropped: set[str] = set()
    if config:
        try:
            roster = concepts.Roster.of(shelf.workspace, config)
            known |= {(a.domain, a.name) for a in roster.added}
            dropped = set(roster.dropped)
        except StorageError:
            pass
    scored = {(m.summary["domain"], m.summary["concept"]) for m in shelf.of("score")}
    removed = {(m.summary["domain"], m.summary["concept"]) for m in shelf.of("removal")}
    chosen = config.method if config else ()
    mine: dict[tuple[str, str], list[Manifest]] = {}
    for m in shelf.evaluations.values():
        mine.setdefault((m.summary["domain"], m.summary["concept"]), []).append(m)
    first = pictures(shelf)
    found = []
    for domain, concept in sorted(known | scored | removed | set(mine)):
        of_it = sorted(mine.get((domain, concept), ()), key=lambda m: (m.summary["method"] not in chosen, m.created))
        best = next(iter(of_it), None)
        about = best.summary if best else {}
        state = "scored" if (domain, concept) in scored else "known"
        state = "removed" if (domain, concept) in removed else state
        state = "measured" if best else state
        if best and best.config["removal_id"] in shelf.outdated:
            state = "outdated"
        unedited = first.get((domain, concept))
        found.append(
            ConceptRow(
                domain,
                concept,
                "dropped" if concept in dropped else state,
                about.get("method", ""),
                about.get("verdict", ""),
                about.get("reason", ""),
                about.get("value"),
                about.get("metrics", {}),
                len(about.get("harmed", ())),
                unedited,
                edited(shelf, best, unedited),
            )
        )
    return found


def pictures(shelf: Shelf) -> dict[tuple[str, str], Image]:
    """{(domain, concept): an unedited test image that asks for it}."""
    found: dict[tuple[str, str], Image] = {}
    for manifest in _unedited(shelf):
        try:
            rows = sorted(shelf.index(manifest.id).values(), key=lambda row: (row["image_index"], row["prompt_id"]))
        except StorageError:
            continue
        for row in rows:
            for which in row["asked"].items():
                found.setdefault(which, (manifest.id, row["key"]))
    return found


def _unedited(shelf: Shelf) -> Iterator[Manifest]:
    return (m for m in reversed(shelf.of("images")) if not m.inputs.get("removals"))


def edited(shelf: Shelf, evaluation: Manifest | None, unedited: Image | None) -> Image | None:
    """The same request with the removal. It is not looked up: an image that the set lacks is shown as missing."""
    if evaluation is None or unedited is None or unedited[0] not in evaluation.config["unedited"]:
        return None
    sets: Sequence[str] = evaluation.config["edited"]
    at = evaluation.config["unedited"].index(unedited[0])
    return (sets[at], unedited[1]) if at < len(sets) else None
