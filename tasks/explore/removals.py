"""Everything known of one removal that was evaluated, as the report and the explorer show it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from saeuron.figures.damage import Confusion, Damage, mistaken
from saeuron.figures.metrics import Metric
from saeuron.figures.quality import Quality
from saeuron.pages.removals import AtHookpoint, Attack, Candidate, Made, Pair, RemovalRecord, Rival
from storage.manifests import Manifest
from storage.tables import CONFUSION, DAMAGE, GRID, METRICS, QUALITY, read_table
from tasks import report
from tasks.explore.latents import Link, nowhere, used
from tasks.explore.shelf import Row, Shelf

Source = Callable[[str, Sequence[Row]], Mapping[str, str]]
"""(image set, images of it): where each picture is, by key."""


def told(settings: Mapping[str, Any]) -> str:
    """The settings of a removal as short text."""
    short = {name: f"{value:g}" if isinstance(value, float) else str(value) for name, value in settings.items()}
    return ", ".join(f"{name} {value}" for name, value in short.items())


def record(
    shelf: Shelf, evaluation: Manifest, source: Source, *, link: Link = nowhere, most: int = 10, shown: int = 0
) -> RemovalRecord:
    """The record of an evaluation.

    Args:
        source: where pictures are found.
        link: addresses of other pages.
        most: pairs of pictures of each kind of prompts.
        shown: used latents of each SAE that come with their top images.
    """
    about, config = evaluation.summary, evaluation.config
    removal = shelf.manifests.get(config["removal_id"])
    places: list[AtHookpoint] = []
    if removal and (removal.summary["latents"] or removal.summary.get("latents_read")):
        places = used(shelf, removal, link, shown=shown)
    wrong = mistaken(_read(shelf, evaluation, CONFUSION.file, Confusion))
    damage = _read(shelf, evaluation, DAMAGE.file, Damage)
    named = {about["concept"], *(d.harmed for d in damage), *(c.seen for c in wrong), *(c.asked for c in wrong)}
    return RemovalRecord(
        domain=about["domain"],
        concept=about["concept"],
        method=about["method"],
        settings=told(removal.summary["settings"]) if removal else "",
        verdict=about.get("verdict", ""),
        reason=about.get("reason", ""),
        value=about["value"],
        images=about["images"],
        seeds=config["seeds"],
        removal_id=config["removal_id"],
        evaluation_id=evaluation.id,
        bands=pairs(shelf, evaluation, source, most),
        metrics=_read(shelf, evaluation, METRICS.file, Metric),
        damage=damage,
        confusion=wrong,
        quality=_read(shelf, evaluation, QUALITY.file, Quality) if _has(evaluation, QUALITY.file) else [],
        attacks=attacks(shelf, about["concept"], about["method"], config["removal_id"]),
        rivals=rivals(shelf, evaluation, link),
        candidates=candidates(shelf, removal) if removal else [],
        places=places,
        reference=removal.summary["reference"] if removal else (),
        outdated=config["removal_id"] in shelf.outdated,
        made_of=made_of(shelf, evaluation.id),
        links={name: address for name in named if (address := link("concept", name=name))},
    )


def _read(shelf: Shelf, evaluation: Manifest, file: str, kind: Any) -> list[Any]:
    names = list(kind.__dataclass_fields__)
    rows = read_table(shelf.workspace.fetch(evaluation.id, file) / file).to_pylist()
    return [kind(**{name: row[name] for name in names}) for row in rows]


def _has(manifest: Manifest, file: str) -> bool:
    """Whether an artifact has a file: those of earlier versions lack some."""
    return any(f.name == file for f in manifest.files)


def attacks(shelf: Shelf, concept: str, method: str, removal_id: str) -> list[Attack]:
    """The newest attacks on a removal, each beside the same one on the unedited model."""
    newest: dict[tuple[str, bool, float], Manifest] = {}
    plain: dict[tuple[str, bool], float] = {}
    for m in shelf.of("audit", concept=concept):
        hidden, s = bool(m.config["config"].get("hide")), m.summary
        if not s["removal_id"]:
            plain[s["attack"], hidden] = s["broken"] / s["prompts"]
        elif s["removal_id"] == removal_id and s["method"] == method:
            newest[s["attack"], hidden, s["strength"]] = m
    found = []
    for (attack, hidden, strength), m in newest.items():
        s, name = m.summary, f"{attack}, hidden" if hidden else attack
        counts = (s["prompts"], s["before"], s["broken"])
        found.append(Attack(name, strength, *counts, plain.get((attack, hidden))))
    return sorted(found, key=lambda a: (-a.strength, -a.broken / a.prompts, a.attack))


def pairs(shelf: Shelf, evaluation: Manifest, source: Source, most: int) -> list[tuple[str, list[Pair]]]:
    """Images without and with the removal, in the bands of the contact sheet: see `tasks.report.bands`."""
    about, config = evaluation.summary, evaluation.config
    whose = {key: image_set for image_set in config["edited"] for key in shelf.index(image_set)}
    plain = {key: image_set for image_set in config["unedited"] for key in shelf.index(image_set) if key in whose}
    rows = [r for i in config["edited"] for r in shelf.index(i).values() if r["image_index"] == 0 and r["key"] in plain]
    bands = report.bands(rows, about["domain"], about["concept"], about.get("harmed", ()))
    chosen = [(heading, report.evenly(of_it, most)) for heading, of_it in bands]
    keys = [row["key"] for _, of_it in chosen for row in of_it]

    def looked(sets: Mapping[str, str]) -> tuple[dict[str, str], dict[str, Any]]:
        of_set: dict[str, list[Row]] = {}
        for key in keys:
            of_set.setdefault(sets[key], []).append(shelf.index(sets[key])[key])
        places = {key: place for i, some in of_set.items() for key, place in source(i, some).items()}
        return places, shelf.seen(config["judgements"], of_set)

    (before, seen_before), (after, seen_after) = looked(plain), looked(whose)

    def words(judged: Any) -> list[tuple[str, bool]]:
        return [(str(judged.seen[d]), judged.right(d)) for d in report.order(judged.asked) if judged.seen.get(d)]

    def pair(row: Row) -> Pair:
        caption, key = " ".join(row["asked"][d] for d in report.order(row["asked"])), row["key"]
        return Pair(caption, before[key], after[key], words(seen_before[key]), words(seen_after[key]))

    return [(heading, [pair(row) for row in of_it]) for heading, of_it in chosen]


def rivals(shelf: Shelf, evaluation: Manifest, link: Link = nowhere) -> list[Rival]:
    """The newest evaluations of the same concept by other methods and controls."""
    return [
        Rival(
            m.summary["method"],
            m.summary.get("verdict", ""),
            m.summary["value"],
            m.summary["metrics"],
            link("concept", name=m.summary["concept"], method=m.summary["method"]),
        )
        for m in others(shelf, evaluation)
    ]


def others(shelf: Shelf, evaluation: Manifest) -> list[Manifest]:
    """The newest evaluation of the same concept by each other method and control."""
    mine, by = evaluation.summary["concept"], evaluation.summary["method"]
    return [m for (concept, method), m in shelf.evaluations.items() if concept == mine and method != by]


def candidates(shelf: Shelf, removal: Manifest) -> list[Candidate]:
    """Every setting that was tried, the best first."""
    rows = read_table(shelf.workspace.fetch(removal.id, GRID.file) / GRID.file).to_pylist()
    figures = ("value", "ua", "ira", "cra")
    found = [Candidate(told(dict(row["settings"])), row["chosen"], *(row[name] for name in figures)) for row in rows]
    return sorted(found, key=lambda c: (-(c.value if c.value is not None else -1.0), not c.chosen))


def made_of(shelf: Shelf, artifact_id: str) -> list[Made]:
    """An artifact and all that it was made from."""
    return [Made(m.stage, m.id, what(m), m.created, m.seconds) for m in shelf.whence(artifact_id)]


def what(manifest: Manifest) -> str:
    """An artifact in a few words, from its summary."""
    names = ("domain", "concept", "method", "hookpoint", "variant", "judge")
    found = [str(manifest.summary[name]) for name in names if manifest.summary.get(name)]
    if not found and (images := manifest.summary.get("images")):
        found = [f"{images} images"]
    return " ".join(found)
