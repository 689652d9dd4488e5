"""Find the blocks and attention heads that carry a concept, and print them."""

from collections.abc import Sequence
from typing import Any

from prefect import flow

from flows.run import Run
from flows.stages.prompts import prompts
from flows.summary import counted, text_table
from saeuron.config import RunConfig
from saeuron.errors import ConfigError, UnknownName
from storage import Workspace, connect
from tasks.engine import model
from tasks.engine.step import publish
from tasks.inspection.locate import PICTURE, LocateConfig, LocateJob, locate, short

SHOWN = 8
"""Heads that are printed."""
_ROWS = """
SELECT kind, hookpoint, head, share, low, high, control, code_score, code_share, code_control, difference, n_pairs,
       n_examples
FROM heads WHERE locate_id = ? AND timestep IS NULL ORDER BY share DESC
"""


def check(workspace: Workspace, config: RunConfig, concept: str, instead: Sequence[str]) -> str:
    """The domain of a concept, added ones too.

    Raises:
        UnknownName: there is no such concept, or no such other concept in its domain.
        ConfigError: a concept is to stand in its own place.
    """
    from tasks.registry.concepts import Roster

    domains = Roster.of(workspace, config).present(config)
    names = [name for found in domains.values() for name in found]
    if concept not in names:
        raise UnknownName("concept", concept, names)
    domain = next(d for d, found in domains.items() if concept in found)
    for other in instead:
        if other == concept:
            raise ConfigError(f"--instead {other} is the concept itself; name another {domain}.")
        if other not in config.domains[domain].concepts:
            raise UnknownName(domain, other, config.domains[domain].concepts)
    return domain


@flow(name="locate", flow_run_name="locate {concept} in {workspace}", validate_parameters=True)
def locate_flow(
    config: RunConfig,
    workspace: str,
    concept: str,
    domain: str,
    how: LocateConfig,
    device: str = "cpu",
    threads: int = 2,
) -> dict[str, Any]:
    """Patch pairs of prompts, and score codes.

    Args:
        config: that of the workspace.
        workspace: where the results go.
        concept: what is located. domain: its domain.
        how: see `LocateConfig`.
        device: where models run. threads: torch threads on the CPU.

    Returns:
        {"locate": id, "summary", "rows", "picture", "counts", "run_id"}.
    """
    opened = Workspace.open(workspace, create=False)
    model.set_threads(threads)
    run = Run.of(opened, config, device)
    with run.recorded("locate") as run_id:
        job = locate_job(run, concept, domain, how)
        made = run.step(locate, job)
        run.publish(publish, job)
    return {"run_id": run_id, "counts": run.counts, "locate": made.id} | told(opened, made.id, job.places[PICTURE])


def locate_job(run: Run, concept: str, domain: str, how: LocateConfig) -> LocateJob:
    """The job; the prompts of an added concept are looked for among its own and the configuration's."""
    return LocateJob(
        workspace=run.workspace,
        device=run.device,
        model=run.config.model,
        model_id=run.model_id,
        config=how,
        domain=domain,
        concept=concept,
        prompts_id=prompts(run)[""].id,
    )


def told(workspace: Workspace, locate_id: str, picture: str) -> dict[str, Any]:
    """The printed parts of an artifact: its summary, and means over timesteps, the largest share first."""
    with connect(workspace) as views:
        found = views.execute(_ROWS, [locate_id])
        names = [column[0] for column in found.description or []]
        rows = [dict(zip(names, row, strict=True)) for row in found.fetchall()]
    return {"summary": workspace.manifest(locate_id).summary, "rows": rows, "picture": picture}


def lines(found: dict[str, Any]) -> list[str]:
    """Two tables, what they mean, and how codes compare with patching."""
    about, rows = found["summary"], found["rows"]
    modules = [r for r in rows if r["kind"] == "module"]
    single = [r for r in rows if r["kind"] == "head"]
    every = [r for r in rows if r["kind"] == "all"]
    shown = [_row(short(r["hookpoint"]), r) for r in modules]
    shown += [_row(f"all {counted(len(single), 'head')} at once", r) for r in every]
    told = [
        f"{about['concept']}: how much of the change in the prediction comes with a module's heads, %",
        text_table(["where", "share", "95 %", "control"], shown),
        "",
        text_table(
            ["head", "share", "95 %", "control", "codes", "shuffled"],
            [
                _row(f"{short(r['hookpoint'])} {r['head']}", r, "head")
                | {"codes": r["code_score"], "shuffled": r["code_control"]}
                for r in single[:SHOWN]
            ],
        ),
        f"the {min(SHOWN, len(single))} strongest of {counted(len(single), 'head')}; "
        f"{counted(about['pairs'], 'pair')} of prompts, {counted(about['examples'], 'example')}.",
        "control: taken from a prompt without the concept. Shares need not sum to 100;",
        f"here those of the heads sum to {100 * sum(r['share'] for r in single):.0f}. "
        "codes: of examples with it alone.",
    ]
    return told + _compared(about)


def _row(name: str, r: dict[str, Any], what: str = "where") -> dict[str, Any]:
    interval = f"{100 * r['low']:.1f} to {100 * r['high']:.1f}"
    return {what: name, "share": r["share"], "95 %": interval, "control": r["control"]}


def _compared(about: dict[str, Any]) -> list[str]:
    """How well codes rank the heads, beside a difference of means and shuffled labels."""
    if about["spearman"] is None:
        return ["codes rank no head above another"]
    span = "" if about["low"] is None else f" (95 % {about['low']:.2f} to {about['high']:.2f})"
    said = [f"codes against patching: rank correlation {about['spearman']:.2f}{span}"]
    if about["auc"] is not None:
        said.append(
            f"  AUC for the strongest quarter {about['auc']:.2f}; "
            f"shuffled {about['auc_control']:.2f}, difference of means {about['auc_difference']:.2f}"
        )
    if about["low"] is None or about["low"] <= 0:
        said.append("  so these codes do not say where the concept passes; take the shares")
    return said
