"""What single latents of an SAE name, beside its controls, as the newest proof has it."""

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

from saeuron.pages.contents import Named, Naming, NamingMeans
from storage import Workspace
from storage.manifests import Manifest
from storage.tables import DICTIONARY, read_table

Row = dict[str, Any]
KINDS = ("supervised", "trained", "frozen", "untrained", "neurons")
"""Order of the kinds: the ceiling first."""
GOOD = 0.9
"""A latent with at least this F1 is said to name its concept."""


def naming(workspace: Workspace, proof: Manifest, href: Callable[[int], str] = lambda latent: "") -> Naming:
    """The contents of a proof.

    Args:
        proof: the artifact that `saeuron sae prove` made.
        href: the address of a latent of the trained SAE.
    """
    rows: list[Row] = read_table(workspace.fetch(proof.id, DICTIONARY.file) / DICTIONARY.file).to_pylist()
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in sorted(rows, key=lambda row: (row["domain"], KINDS.index(row["kind"]))):
        groups.setdefault((row["domain"], row["kind"]), []).append(row)
    untrained = {(r["domain"], r["concept"]): r["f1"] for r in rows if r["kind"] == "untrained"}
    trained = [row for row in rows if row["kind"] == "trained"]
    concepts = [
        Named(
            **{name: row[name] for name in ("domain", "concept", "latent", "precision", "recall", "f1", "auroc")},
            untrained=untrained.get((row["domain"], row["concept"])),
            href="" if row["latent"] is None else href(row["latent"]),
        )
        for row in sorted(trained, key=lambda row: (row["domain"], -row["f1"], row["concept"]))
    ]
    return Naming(proof.id, [_means(*key, some) for key, some in groups.items()], concepts, GOOD)


def _means(domain: str, kind: str, rows: Sequence[Row]) -> NamingMeans:
    means = {name: fmean(row[name] for row in rows) for name in ("precision", "recall", "f1", "auroc")}
    named = fmean(row["f1"] >= GOOD for row in rows)
    return NamingMeans(domain, kind, **means, named=named, concepts=len(rows), images=rows[0]["images"])
