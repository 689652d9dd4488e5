"""The report of a run, or of the removals of a concept: gather the records, write one HTML file."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from saeuron.config import RunConfig
from saeuron.errors import ConfigError
from saeuron.pages.cards import published
from saeuron.pages.document import inlined
from saeuron.pages.pictures import picture_of
from saeuron.pages.removals import Comparison, RemovalRecord
from saeuron.pages.report import Report, page
from storage import Workspace
from storage.files import file_name, read_json, write_atomic
from storage.identity import split_id
from storage.manifests import Manifest
from storage.seals import sealed_page
from tasks.explore.check import BESIDE, figures, of_comparison, of_summary
from tasks.explore.removals import others, record
from tasks.explore.shelf import Row, Shelf
from tasks.registry import runs
from tasks.registry.records import parsed

LIMIT = 5_000_000
"""Largest report in bytes: above it, fewer pictures are shown."""
PICTURES = ((10, 2), (6, 2), (3, 2), (1, 2), (1, 0))
"""(pairs of pictures of each kind of prompts, used latents of each SAE that come with their top images): the first
that keeps the report below LIMIT, else the last."""


def of_run(shelf: Shelf, run: runs.Record) -> tuple[list[Manifest], RunConfig]:
    """The evaluations of a run's removals, those of controls left out, and its configuration.

    Raises:
        ConfigError: it has not ended, or measured nothing.
    """
    config = configuration(shelf.workspace, run)
    if run.artifacts is None:
        ended = "was interrupted" if run.state == "interrupted" else "has not ended"
        raise ConfigError(f"run {run.run_id} {ended}; run the same command again, then report it.")
    found = [shelf.manifests[i] for i in run.artifacts if split_id(i)[0] == "evaluation" and i in shelf.manifests]
    domains = list(config.domains)
    chosen = [m for m in found if m.summary["method"] in config.method]
    if not chosen:
        raise ConfigError(f"run {run.run_id} measured no removal that is still here; saeuron runs lists the others.")
    return sorted(chosen, key=lambda m: (domains.index(m.summary["domain"]), m.created, m.id)), config


def configuration(workspace: Workspace, run: runs.Record) -> RunConfig:
    """The configuration of a run."""
    return parsed(RunConfig, workspace.runs / "configs" / f"{run.run_id}.json", read_json)


def of_concept(shelf: Shelf, name: str) -> list[Manifest]:
    """The newest evaluations of a concept, or of CONCEPT.METHOD; none: there is no such."""
    return [m for (c, method), m in shelf.evaluations.items() if name in (c, f"{c}.{method}")]


def facts(run: runs.Record) -> dict[str, Any]:
    """A run in a few words."""
    took = f", {(run.finished - run.started).total_seconds():.0f} s" if run.finished else ""
    counts = f"{run.made} made, {run.cached} found in place, {run.failed} failed"
    began = f"{run.started:%Y-%m-%d %H:%M} UTC{took}"
    return {"run": f"{run.number} ({run.run_id})", "began": began, "state": run.state, "steps": counts}


def write(
    shelf: Shelf,
    evaluations: Sequence[Manifest],
    path: Path,
    *,
    title: str,
    about: Mapping[str, Any],
    config: RunConfig | None,
    commands: Iterable[str],
) -> Path:
    """Write the report of some evaluations, all or nothing; `too_large` tells of one above LIMIT."""
    text = ""
    for most, shown in PICTURES:
        source = _inline(shelf)
        found = [record(shelf, e, source, most=most, shown=shown) for e in evaluations]
        text = page(_report(shelf, evaluations, found, title, about, config, commands))
        if len(text.encode()) < LIMIT:
            break
    write_atomic(path, sealed_page(text))
    shelf.workspace.share(path)
    return path


def too_large(size: int) -> str:
    """One line about a report of `size` bytes that is above LIMIT; else empty."""
    if size < LIMIT:
        return ""
    return (
        f"the page has {size / 1e6:.1f} MB, expected less than {LIMIT / 1e6:.0f} MB: it shows as few pictures "
        "as it can; for a smaller page report one concept: saeuron report CONCEPT"
    )


def _report(
    shelf: Shelf,
    evaluations: Sequence[Manifest],
    found: Sequence[RemovalRecord],
    title: str,
    about: Mapping[str, Any],
    config: RunConfig | None,
    commands: Iterable[str],
) -> Report:
    concepts = {(r.domain, r.concept) for r in found}
    compared = {m.id: m for m in shelf.of("comparison")}.values()
    newest = {(m.summary["domain"], m.summary["method"], m.summary["control"]): m for m in compared}
    beside = [m for m in newest.values() if any((m.summary["domain"], c) in concepts for c in m.summary["concepts"])]
    fields = Comparison.__dataclass_fields__
    models = [m.config["model_id"] for e in evaluations for m in shelf.whence(e.id) if "model_id" in m.config]
    return Report(
        title=title,
        model=published(config.model.spec) if config else "",
        model_id=models[0] if models else "",
        facts=about,
        removals=found,
        comparisons=[Comparison(**{name: m.summary[name] for name in fields}) for m in beside],
        config=yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False) if config else "",
        commands=list(commands),
        hard=shelf.small,
        figures=_figures(shelf, evaluations, found, beside),
    )


def _figures(
    shelf: Shelf, evaluations: Sequence[Manifest], found: Sequence[RemovalRecord], beside: Sequence[Manifest]
) -> dict[str, Any]:
    shown: dict[str, Any] = {
        r.evaluation_id: figures(r.metrics, r.damage, r.verdict, r.value, r.confusion, r.quality) for r in found
    }
    rivals = {m.id: m for e in evaluations for m in others(shelf, e) if m.id not in shown}
    shown |= {f"{BESIDE}{name}": of_summary(m.summary) for name, m in rivals.items()}
    return shown | {m.id: of_comparison(m.summary) for m in beside}


def _inline(shelf: Shelf) -> Any:
    def source(image_set_id: str, rows: Sequence[Row]) -> dict[str, str]:
        return {key: inlined(picture_of(png)) for key, png in shelf.pngs(image_set_id, rows).items()}

    return source


def place(workspace: Workspace, name: str) -> Path:
    """The default path of a report."""
    return workspace.reports / f"{file_name(name)}.html"
