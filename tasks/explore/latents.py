"""Scores of latents for a concept, and latents as the page of an SAE shows them."""

from collections.abc import Callable, Sequence

from saeuron.pages.contents import Latent
from saeuron.pages.removals import AtHookpoint, EditedLatent
from storage.manifests import Manifest
from storage.tables import REMOVAL_LATENTS, read_table
from tasks.explore.shelf import Shelf
from tasks.sae.page import Diagnosis

BEST = 12
"""Latents of one SAE in a table."""

_SCORES = """
SELECT latent, list(score ORDER BY timestep DESC) AS scores, list(timestep ORDER BY timestep DESC) AS timesteps
FROM scores WHERE score_id = ? AND sae_id = ? AND list_contains(?::UINTEGER[], latent)
GROUP BY latent ORDER BY avg(score) DESC, latent
"""
_TOP = """
WITH means AS (SELECT latent, avg(score) AS mean FROM scores WHERE score_id = ? AND sae_id = ? GROUP BY latent)
SELECT latent FROM means ORDER BY mean DESC, latent LIMIT ?
"""

Link = Callable[..., str]
"""(kind, **what): the address of a page."""


def nowhere(kind: str, **what: object) -> str:
    """The addresses of a page that stands alone: there are none."""
    del kind, what
    return ""


def scored(shelf: Shelf, domain: str, concept: str, sae_id: str) -> Manifest | None:
    """The newest scores of a concept by an SAE."""
    found = shelf.of("score", domain=domain, concept=concept)
    return next((m for m in reversed(found) if any(s["sae_id"] == sae_id for s in m.summary["saes"])), None)


def best(shelf: Shelf, domain: str, concept: str, link: Link, count: int = BEST) -> list[AtHookpoint]:
    """The latents with the highest mean score for a concept, of each SAE that it was scored by."""
    found, done = [], set()
    for manifest in reversed(shelf.of("score", domain=domain, concept=concept)):
        for about in manifest.summary["saes"]:
            if (sae_id := about["sae_id"]) in done or sae_id not in shelf.manifests:
                continue
            done.add(sae_id)
            latents = [row["latent"] for row in shelf.rows(_TOP, manifest.id, sae_id, count)]
            if latents:
                found.append(_place(shelf, manifest, about["hookpoint"], sae_id, latents, {}, link))
    return found


def edited(shelf: Shelf, removal: Manifest, link: Link, count: int = BEST, shown: int = 0) -> list[AtHookpoint]:
    """The latents that a removal edits, at each SAE, those with the highest score for its concept first.

    Args:
        shown: how many of each SAE come with their top images, where the SAE was measured.
    """
    table = read_table(shelf.workspace.fetch(removal.id, REMOVAL_LATENTS.file) / REMOVAL_LATENTS.file)
    groups: dict[tuple[str, str], dict[int, list[float]]] = {}
    for row in table.to_pylist():
        groups.setdefault((row["hookpoint"], row["sae_id"]), {}).setdefault(row["latent"], []).append(row["factor"])
    found = []
    for (hookpoint, sae_id), factors in groups.items():
        scores = scored(shelf, removal.summary["domain"], removal.summary["concept"], sae_id)
        place = _place(shelf, scores, hookpoint, sae_id, list(factors), factors, link)
        some = place.latents[:count]
        pictured = pictured_latents(shelf, sae_id, [each.latent for each in some[:shown]])
        found.append(
            AtHookpoint(hookpoint, sae_id, place.timesteps, some, len(place.latents) - len(some), pictured, place.href)
        )
    return found


def _place(
    shelf: Shelf,
    scores: Manifest | None,
    hookpoint: str,
    sae_id: str,
    latents: Sequence[int],
    factors: dict[int, list[float]],
    link: Link,
) -> AtHookpoint:
    rows = shelf.rows(_SCORES, scores.id, sae_id, list(latents)) if scores else []
    known = {row["latent"]: row["scores"] for row in rows}
    timesteps = rows[0]["timesteps"] if rows else []
    records = [
        EditedLatent(
            latent,
            known.get(latent, []),
            len(factors.get(latent, ())),
            (min(factors[latent]), max(factors[latent])) if latent in factors else None,
            link("latent", sae=sae_id, i=latent),
        )
        for latent in [*known, *(i for i in latents if i not in known)]
    ]
    return AtHookpoint(hookpoint, sae_id, timesteps, records, href=link("sae", id=sae_id))


def diagnosis(shelf: Shelf, sae_id: str) -> Diagnosis | None:
    """The newest measurement of an SAE; None if it was not measured."""
    measured, compared = shelf.newest("diagnosis", sae_id=sae_id), shelf.newest("stability", sae_id=sae_id)
    return Diagnosis(shelf.workspace, measured.id, compared.id if compared else None) if measured else None


def pictured_latents(shelf: Shelf, sae_id: str, latents: Sequence[int]) -> list[Latent]:
    """Some latents with the held-out images on which they are largest; none where the SAE was not measured."""
    found = diagnosis(shelf, sae_id) if latents else None
    return [each for each in found.pictured(latents) if each.examples] if found else []
