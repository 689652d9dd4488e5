"""An SAE beside the others of its hookpoint, how well each rebuilds; and what its latents name."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from saeuron.pages.contents import Naming
from storage.manifests import Manifest
from tasks.explore.shelf import Shelf
from tasks.sae.naming import naming


class Compared(NamedTuple):
    """One SAE of a hookpoint."""

    sae: Manifest
    words: str
    """Its variant, size and k."""
    l0: float
    """Mean number of latents that fire on a row."""
    fvu: float
    best: bool
    """No other one has a lower FVU at an L0 that is not higher, or the same FVU at a lower L0."""


class Beside(NamedTuple):
    """The SAEs of a hookpoint whose figures can be compared."""

    held_out: bool
    """Whether the figures are of held-out images; else each is of its own training rows."""
    saes: Sequence[Compared]
    """The fewest active latents first."""


def beside(shelf: Shelf, about: Manifest) -> Beside:
    """An SAE and the others of its hookpoint: on held-out images where it and another were measured there."""
    known = shelf.of("sae", hookpoint=about.summary["hookpoint"])
    measured = {m.summary["sae_id"]: m.summary for m in shelf.of("diagnosis")}
    measured = {m.id: measured[m.id] for m in known if m.id in measured}
    held_out = about.id in measured and len(measured) > 1
    figures = measured if held_out else {m.id: m.summary for m in known}
    found = [
        (m, float(figures[m.id]["l0"]), float(figures[m.id]["fvu"]))
        for m in known
        if m.id in figures and figures[m.id].get("l0") is not None and figures[m.id].get("fvu") is not None
    ]
    places = [(l0, fvu) for _, l0, fvu in found]
    rows = [Compared(m, _words(m), l0, fvu, not _beaten((l0, fvu), places)) for m, l0, fvu in found]
    return Beside(held_out, sorted(rows, key=lambda row: (row.l0, row.fvu, row.sae.id)))


def _beaten(one: tuple[float, float], places: Sequence[tuple[float, float]]) -> bool:
    return any(other[0] <= one[0] and other[1] <= one[1] and other != one for other in places)


def _words(m: Manifest) -> str:
    s = m.summary
    named = [str(s["variant"]), f"N {s['n_latents']}", *([f"k {s['k']}"] if s.get("k") else [])]
    kind = s.get("dictionary")
    return ", ".join(named + ([kind] if kind not in (None, "trained") else []))


def names(shelf: Shelf, sae_id: str, href: Callable[[int], str]) -> Naming | None:
    """What single latents of an SAE name, by its newest proof; None: there is none. `href`: the address of a latent."""
    proof = shelf.newest("proof", sae_id=sae_id)
    return naming(shelf.workspace, proof, href) if proof is not None else None
