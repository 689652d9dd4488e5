"""Compare the concepts of each domain by the latents that fire on them, and print relatives and trees."""

from collections.abc import Sequence
from typing import Any

from prefect import flow

from flows.hints import command
from flows.run import Run
from flows.summary import counted, text_table
from saeuron.canvas import FOLDERS
from saeuron.config import RunConfig
from saeuron.errors import ConfigError, UnknownName
from storage import Workspace, connect
from storage.text import few
from tasks.engine.step import in_place
from tasks.inspection.relatives import FEWEST, RelativesJob, measured, relatives, scored
from tasks.registry.concepts import Roster

NEAR = 3
"""Relatives of each concept that are printed, and pairs of templates by one concept."""
PAIRS = 10
"""Pairs of templates that are printed."""
_ROWS = "SELECT a, b, place, similarity, untrained, iou, ira_loss, low, high, n FROM relatives WHERE relatives_id = ?"


def jobs(workspace: Workspace, config: RunConfig, domains: Sequence[str], method: str) -> list[RelativesJob]:
    """A job for each domain.

    Raises:
        ConfigError: a domain was not scored, or has too few concepts.
    """
    present, found = Roster.of(workspace, config).present(config), []
    for domain in domains:
        these = scored(workspace, domain, present[domain])
        if len(these.concepts) < FEWEST:
            raise ConfigError(
                f"{domain} has {counted(len(these.concepts), 'scored concept')}; expected at least {FEWEST}: "
                f"give more in its configuration, and run {command('run', workspace=workspace)}."
            )
        found.append(
            RelativesJob(
                workspace=workspace.root,
                domain=domain,
                concepts=these.concepts,
                method=method,
                saes=these.saes,
                untrained=these.untrained,
                evaluations=measured(workspace, domain, these.concepts, method),
                templates=_templates(config, these.concepts),
            )
        )
    return found


def _templates(config: RunConfig, concepts: Sequence[str]) -> str:
    """The canvas model that has a template of each concept; empty: there is none."""
    spec = str(config.model.spec)
    return spec if spec in FOLDERS and {*concepts} <= {*_objects(spec)} else ""


def _objects(spec: str) -> tuple[str, ...]:
    from saeuron.canvas.vocabularies import vocabulary_named

    return vocabulary_named(spec).objects


def asked(workspace: Workspace, config: RunConfig, concept: str | None, domain: str | None) -> list[str]:
    """The domains to compare: that of a concept, the one that is named, or all.

    Raises:
        UnknownName: there is no such concept or domain.
        ConfigError: the concept is of another domain.
    """
    present = Roster.of(workspace, config).present(config)
    if domain is not None and domain not in present:
        raise UnknownName("domain", domain, present)
    if concept is None:
        return [domain] if domain else [*present]
    own = next((d for d, names in present.items() if concept in names), None)
    if own is None:
        raise UnknownName("concept", concept, [c for names in present.values() for c in names])
    if domain not in (None, own):
        raise ConfigError(f"{concept} is of the domain {own}, not {domain}; leave --domain out.")
    return [own]


def made(found: Sequence[RelativesJob], workspace: Workspace) -> bool:
    """Whether there is nothing to compute."""
    return all(in_place(job, workspace) for job in found)


@flow(name="relatives", flow_run_name="relatives in {workspace}", validate_parameters=True)
def relatives_flow(config: RunConfig, workspace: str, domains: list[str], method: str) -> dict[str, Any]:
    """Compare the concepts of these domains.

    Args:
        config: that of the workspace.
        workspace: where the scores are, and where the results go.
        domains: what is compared. method: whose removals are read for damage.

    Returns:
        {"counts", "run_id"}.
    """
    opened = Workspace.open(workspace, create=False)
    run = Run.of(opened, config, "cpu")
    with run.recorded("relatives") as run_id:
        for job in jobs(opened, config, domains, method):
            run.step(relatives, job)
    return {"run_id": run_id, "counts": run.counts}


def told(workspace: Workspace, job: RelativesJob) -> dict[str, Any]:
    """The figures of a domain that are printed: {"relatives": id, "summary", "rows", "tree"}."""
    import numpy as np

    from saeuron.inspection.relatives import drawn, tree

    with connect(workspace) as views:
        found = views.execute(f"{_ROWS} ORDER BY a, place", [job.id])
        names = [column[0] for column in found.description or []]
        rows = [dict(zip(names, row, strict=True)) for row in found.fetchall()]
    at = {concept: i for i, concept in enumerate(job.concepts)}
    similar = np.eye(len(at))
    for row in rows:
        similar[at[row["a"]], at[row["b"]]] = row["similarity"]
    summary = workspace.manifest(job.id).summary
    return {"relatives": job.id, "summary": summary, "rows": rows, "tree": drawn(tree(similar), job.concepts)}


def lines(found: dict[str, Any], concept: str | None = None) -> list[str]:
    """The relatives of one concept, or the nearest three of each and the tree; what they agree with."""
    rows, about = found["rows"], found["summary"]
    if concept is not None:
        mine = [{**row, "relative": row["b"], "loss": row["ira_loss"]} for row in rows if row["a"] == concept]
        names = ["relative", "similarity", "untrained", "iou", "loss", "low", "high", "n"]
        shown = [n for n in names if any(row[n] is not None for row in mine)]
        return [
            f"{concept} ({about['domain']}) by what latents do, the most similar first; percent",
            text_table(shown, mine, wrapped=["relative"]),
            *_said(about),
        ]
    near: dict[str, list[str]] = {}
    for row in rows:
        if row["place"] <= NEAR:
            near.setdefault(row["a"], []).append(f"{row['b']} {row['similarity']:.2f}")
    columns = ["concept", *(f"nearest {i}" if i > 1 else "nearest" for i in range(1, NEAR + 1))]
    table = [dict(zip(columns, [a, *each], strict=False)) for a, each in near.items()]
    return [
        f"{about['domain']}: {counted(len(near), 'concept')} by what latents do on them (cosine, less the mean)",
        text_table(columns, table, wrapped=columns),
        "",
        *found["tree"],
        "joined further right: less alike",
        *_said(about),
    ]


def _said(about: dict[str, Any]) -> list[str]:
    """Agreement of similarities with other figures, each beside its control."""
    said = []
    if about["iou_rank"] is not None:
        said.append(
            f"with overlaps of templates: rank correlation {about['iou_rank']:.2f}, "
            f"permuted names p {about['iou_p']:.4f}"
        )
        if about["iou_rank_untrained"] is not None:
            said.append(f"  an untrained SAE {about['iou_rank_untrained']:.2f}, p {about['iou_p_untrained']:.4f}")
    if about["loss_share"] is not None:
        said.append(
            f"of losses when {few(about['removed'])} went, {100 * about['loss_share']:.0f} % fall on the nearest "
            f"{NEAR};"
        )
        said.append(f"  by chance {100 * about['loss_chance']:.0f} %; permuted names p {about['loss_p']:.4f}")
    elif about["removed"]:
        said.append(f"nothing of the domain was lost when {few(about['removed'])} went")
    else:
        said.append(f"no removal of the domain by {about['method']} was measured, so no loss is known")
    return said


def templates(config: RunConfig, concept: str | None) -> dict[str, Any]:
    """The pairs of objects that look most alike in the renderer, of all objects of the model.

    Raises:
        ConfigError: the model is not canvas.
        UnknownName: it has no such object.
    """
    from saeuron.canvas.overlaps import most_alike

    spec = str(config.model.spec)
    if spec not in FOLDERS:
        raise ConfigError(f"--templates: the model is {spec}; expected {' or '.join(FOLDERS)}, which have a renderer.")
    objects = _objects(spec)
    if concept is not None and concept not in objects:
        raise UnknownName("object", concept, objects)
    every = len(objects) * (len(objects) - 1) // 2
    pairs = [p for p in most_alike(objects, every) if concept is None or concept in p[:2]][:PAIRS]
    return {
        "model": spec,
        "objects": len(objects),
        "pairs": [dict(zip(("a", "b", "iou"), p, strict=True)) for p in pairs],
    }


def confusable(config: RunConfig, pairs: int) -> list[tuple[str, str, float]]:
    """The most confusable pairs of objects of a configuration, (one, another, IoU): those whose templates in the
    renderer overlap most.

    Raises:
        ConfigError: the model is not canvas, or the configuration has fewer than two of its objects.
    """
    from saeuron.canvas.overlaps import most_alike

    spec = str(config.model.spec)
    known = {*_objects(spec)} if spec in FOLDERS else set()
    mine = tuple(c for d in config.domains.values() for c in d.concepts if c in known)
    if len(mine) < 2:
        raise ConfigError(
            f"--confusable: the model is {spec} and the configuration has {counted(len(mine), 'object')} of a "
            f"renderer; expected two or more of {' or '.join(FOLDERS)}."
        )
    return most_alike(mine, pairs)


def template_lines(found: dict[str, Any]) -> list[str]:
    """The pairs, the most alike first."""
    return [
        f"templates of {found['model']} that overlap most, of {counted(found['objects'], 'object')}; IoU in percent",
        text_table(["a", "b", "iou"], found["pairs"]),
    ]
