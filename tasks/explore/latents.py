"""Scores of latents for a concept, and latents as the page of an SAE shows them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from saeuron.checkpoint import load_tensors
from saeuron.errors import ConfigError, UnknownName
from saeuron.pages.contents import ConceptScore, Latent
from saeuron.pages.removals import ROLES, AtHookpoint, UsedLatent
from saeuron.sae.diagnosis.dictionary import neighbours
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


def used(shelf: Shelf, removal: Manifest, link: Link, count: int = BEST, shown: int = 0) -> list[AtHookpoint]:
    """The latents that a removal edits or reads, at each SAE, those with the highest score for its concept first.

    Args:
        shown: how many of each SAE come with their top images, where the SAE was measured.
    """
    table = read_table(shelf.workspace.fetch(removal.id, REMOVAL_LATENTS.file) / REMOVAL_LATENTS.file)
    groups: dict[tuple[str, str, str], dict[int, list[dict[str, Any]]]] = {}
    for row in table.to_pylist():
        # Tables of earlier versions have no role: they hold edited latents alone.
        where = (row["hookpoint"], row["sae_id"], row.get("role") or "edits")
        groups.setdefault(where, {}).setdefault(row["latent"], []).append(row)
    found = []
    for (hookpoint, sae_id, role), rows in groups.items():
        scores = scored(shelf, removal.summary["domain"], removal.summary["concept"], sae_id)
        place = _place(shelf, scores, hookpoint, sae_id, list(rows), rows, link)
        some = place.latents[:count]
        pictured = pictured_latents(shelf, sae_id, [each.latent for each in some[:shown]])
        more = len(place.latents) - len(some)
        found.append(replace(place, latents=some, more=more, shown=pictured, role=role))
    return found


def _place(
    shelf: Shelf,
    scores: Manifest | None,
    hookpoint: str,
    sae_id: str,
    latents: Sequence[int],
    uses: dict[int, list[dict[str, Any]]],
    link: Link,
) -> AtHookpoint:
    """Latents at one SAE; `uses`: {latent: its rows in the table of a removal}."""
    rows = shelf.rows(_SCORES, scores.id, sae_id, list(latents)) if scores else []
    known = {row["latent"]: row["scores"] for row in rows}
    timesteps = rows[0]["timesteps"] if rows else []
    records = []
    for latent in [*known, *(i for i in latents if i not in known)]:
        at = uses.get(latent, ())
        factors = [row["factor"] for row in at if row["factor"] is not None]
        span = (min(factors), max(factors)) if factors else None
        weight = next((row["weight"] for row in at if row.get("weight") is not None), None)
        address = link("latent", sae=sae_id, i=latent)
        records.append(UsedLatent(latent, known.get(latent, []), len(at), span, weight, address))
    return AtHookpoint(hookpoint, sae_id, timesteps, records, href=link("sae", id=sae_id))


def diagnosis(shelf: Shelf, sae_id: str) -> Diagnosis | None:
    """The newest measurement of an SAE; None if it was not measured."""
    measured, compared = shelf.newest("diagnosis", sae_id=sae_id), shelf.newest("stability", sae_id=sae_id)
    if measured is None:
        return None
    if sae_id not in shelf.diagnoses:
        shelf.diagnoses[sae_id] = Diagnosis(shelf.workspace, measured.id, compared.id if compared else None)
    return shelf.diagnoses[sae_id]


def pictured_latents(shelf: Shelf, sae_id: str, latents: Sequence[int]) -> list[Latent]:
    """Some latents with the held-out images on which they are largest; none where the SAE was not measured."""
    found = diagnosis(shelf, sae_id) if latents else None
    return [each for each in found.pictured(latents) if each.examples] if found else []


@dataclass(frozen=True)
class Use:
    """A removal that edits or reads a latent, and its figures."""

    concept: str
    method: str
    removal_id: str
    role: str
    steps: int
    factor: tuple[float, float] | None
    """Least and largest; None: it is not edited."""
    weight: float | None
    """Its weight in a probe; None: no probe reads it."""
    value: float | None = None
    """(UA + IRA + CRA) / 3 of the removal; None: it was not measured."""
    verdict: str = ""

    @property
    def doing(self) -> str:
        """The role in words."""
        return ROLES[self.role]


@dataclass(frozen=True)
class Explained:
    """What a latent fires on, in words, and how far to trust that; shares, of new images."""

    sae_id: str
    hookpoint: str
    latent: int
    rule: str | None
    """None: it fired on no image that rules were chosen on."""
    precision: float
    recall: float
    f1: float
    confidence: float
    images: int
    description: str | None = None
    """A description by others, see the view `descriptions`."""
    description_f1: float | None = None

    @property
    def words(self) -> str:
        """The rule and its confidence, in one sentence."""
        if self.rule is None:
            return "no rule: it fired on none of the images that rules are chosen on"
        shares = f"confidence {self.confidence:.0%}, precision {self.precision:.0%}, recall {self.recall:.0%}"
        return f"{self.rule}; {shares.replace('%', ' %')}, on {self.images} new images"

    @property
    def said(self) -> str:
        """The description with its F1; empty without one."""
        return f"{self.description} (F1 {100 * self.description_f1:.0f} %)" if self.description_f1 is not None else ""


@dataclass(frozen=True)
class LatentPage:
    """Everything known of one latent."""

    sae_id: str
    hookpoint: str
    n_latents: int
    latent: int
    measured: Latent | None
    """Measurements, with first images and scores; None: the SAE was not measured."""
    scores: Sequence[ConceptScore]
    """Scores for every concept that its SAE was scored on, the highest mean first."""
    uses: Sequence[Use]
    rows: Sequence[dict[str, Any]]
    """Its statistics for each concept: domain, concept, mean, image_share."""
    explained: Explained | None = None
    """None: its SAE was not explained."""


_OF_LATENT = """
SELECT domain, concept, list(timestep ORDER BY timestep DESC) AS timesteps, list(score ORDER BY timestep DESC) AS scores
FROM scores_by_latent WHERE sae_id = ? AND protocol = ? AND latent = ?
GROUP BY ALL ORDER BY avg(score) DESC, concept
"""
_STATISTICS = """
SELECT domain, concept, avg(mean) AS mean, max(max) AS maximum, max(image_fires / n_images) AS image_share
FROM statistics_by_latent WHERE sae_id = ? AND protocol = ? AND latent = ? GROUP BY ALL ORDER BY mean DESC, concept
"""
_USES = """
SELECT
    sae_id, latent, concept, method, removal_id, coalesce(role, 'edits') AS role,
    count(DISTINCT timestep) AS steps, min(factor) AS low, max(factor) AS high, any_value(weight) AS weight
FROM removal_latents GROUP BY ALL ORDER BY ALL
"""


_RULE = """
SELECT e.sae_id, e.hookpoint, latent, e.rule, e.precision, e.recall, e.f1, e.confidence, e.images,
    d.description, d.f1 AS description_f1
FROM explanations e
LEFT JOIN (SELECT * FROM descriptions WHERE list_contains(?::VARCHAR[], description_id)) d USING (sae_id, latent)
WHERE list_contains(?::VARCHAR[], explanation_id) AND kind = 'trained' AND
"""


def _described(shelf: Shelf) -> list[str]:
    """The newest descriptions of each SAE."""
    return [*{m.summary["sae_id"]: m.id for m in shelf.of("description")}.values()]


def explained(shelf: Shelf, sae_id: str, latent: int) -> Explained | None:
    """The newest explanation of a latent; None: its SAE was not explained."""
    newest = shelf.newest("explanation", sae_id=sae_id)
    rows = shelf.rows(f"{_RULE} latent = ?", _described(shelf), [newest.id], latent) if newest else []
    return Explained(**rows[0]) if rows else None


def firing_on(shelf: Shelf, words: str, count: int) -> list[Explained]:
    """The latents whose rules or descriptions hold these words, the most confident first; the newest of each SAE."""
    newest = {m.summary["sae_id"]: m.id for m in shelf.of("explanation")}
    if not newest or not words:
        return []
    asked = (
        f"{_RULE} contains(lower(concat_ws(chr(10), e.rule, d.description)), lower(?)) "
        "ORDER BY e.confidence DESC, sae_id, latent LIMIT ?"
    )
    return [Explained(**row) for row in shelf.rows(asked, _described(shelf), [*newest.values()], words, count)]


def uses(shelf: Shelf) -> dict[tuple[str, int], list[Use]]:
    """{(SAE, latent): the removals that use it}, of those that are the newest of their concept and method."""
    newest = {(m.summary["concept"], m.summary["method"]): m.id for m in shelf.of("removal")}
    found: dict[tuple[str, int], list[Use]] = {}
    for row in shelf.rows(_USES):
        if newest.get((row["concept"], row["method"])) == row["removal_id"]:
            factor = None if row["low"] is None else (row["low"], row["high"])
            about = (row["concept"], row["method"], row["removal_id"], row["role"], row["steps"], factor, row["weight"])
            evaluated = shelf.evaluations.get((row["concept"], row["method"]))
            if evaluated is not None and evaluated.config["removal_id"] == row["removal_id"]:
                use = Use(*about, evaluated.summary["value"], evaluated.summary.get("verdict", ""))
            else:
                use = Use(*about)
            found.setdefault((row["sae_id"], row["latent"]), []).append(use)
    return found


def latent_page(shelf: Shelf, sae_id: str, latent: int) -> LatentPage:
    """Everything known of one latent.

    Raises:
        UnknownName: there is no such SAE.
        ConfigError: it has no such latent.
    """
    about = sae_of(shelf, sae_id).summary
    if not 0 <= latent < about["n_latents"]:
        raise ConfigError(
            f"latent {latent}: this SAE has {about['n_latents']}; expected 0 to {about['n_latents'] - 1}."
        )
    protocol = shelf.protocols.get(sae_id)
    scores, rows = [], []
    if protocol:
        found = shelf.rows(_OF_LATENT, sae_id, protocol, latent)
        scores = [ConceptScore(r["domain"], r["concept"], r["timesteps"], r["scores"]) for r in found]
        rows = shelf.rows(_STATISTICS, sae_id, protocol, latent)
    measured = diagnosis(shelf, sae_id)
    return LatentPage(
        sae_id,
        about["hookpoint"],
        about["n_latents"],
        latent,
        replace(measured.pictured([latent])[0], scores=scores) if measured else None,
        scores,
        shelf.once(uses).get((sae_id, latent), []),
        rows,
        explained(shelf, sae_id, latent),
    )


def sae_of(shelf: Shelf, sae_id: str) -> Manifest:
    """The SAE of an id. Raises UnknownName."""
    found = shelf.manifests.get(sae_id)
    if found is None or found.stage != "sae":
        raise UnknownName("SAE", sae_id, [m.id for m in shelf.of("sae")])
    return found


def near(shelf: Shelf, sae_id: str, latent: int, count: int = 8) -> list[tuple[int, float]]:
    """The latents whose decoder rows are nearest: (latent, cosine). Reads the SAE's weights."""
    sae_of(shelf, sae_id)
    return neighbours(load_tensors(shelf.workspace.fetch(sae_id) / "sae.safetensors")[0]["W_dec"], latent, count)


_TABLE = """
SELECT latent, density, image_density, mean, maximum, max_cosine, nearest, stability, dead, always_on
FROM latents WHERE sae_id = ? ORDER BY {order} {way} NULLS LAST, latent LIMIT ? OFFSET ?
"""
ORDERS = ("latent", "density", "image_density", "mean", "maximum", "max_cosine", "stability")
"""Columns that a table of latents may be ordered by."""


def table(shelf: Shelf, sae_id: str, order: str, down: bool, count: int, offset: int) -> list[dict[str, Any]]:
    """A part of an SAE's latents, as it was measured. Raises UnknownName for another order than ORDERS."""
    if order not in ORDERS:
        raise UnknownName("order", order, ORDERS)
    return shelf.rows(_TABLE.format(order=order, way="DESC" if down else "ASC"), sae_id, count, offset)
