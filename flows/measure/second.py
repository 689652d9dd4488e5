"""Judge the stored images of finished evaluations again, by a judge that nothing was tuned by; nothing is generated."""

from collections.abc import Mapping, Sequence
from typing import Any

from prefect import flow

from flows.hints import command
from flows.run import Run
from flows.stages.judge import judge
from flows.summary import counted, text_table
from saeuron import judges
from saeuron.config import RunConfig
from saeuron.errors import ConfigError
from saeuron.figures.spread import over_concepts
from saeuron.figures.words import interval
from storage import Workspace, connect, text
from storage.manifests import Manifest
from tasks.engine import model
from tasks.engine.job import Made
from tasks.engine.judge import DomainJudge
from tasks.measure.second import SecondJob, newest, second

METRICS = ("UA", "IRA", "CRA")
_ROWS = "SELECT * FROM second_opinions WHERE second_opinion_id IN (SELECT unnest(?)) ORDER BY ALL"


def check(workspace: Workspace, spec: str, concepts: Sequence[str]) -> list[Manifest]:
    """The evaluations to judge again, the newest of each removal.

    Raises:
        UnknownName: there is no such judge, or it does not know a domain or a concept.
        ConfigError: a concept was not evaluated, nobody judged it, or the same judge did.
    """
    found = newest(workspace, concepts)
    done = {m.summary["concept"] for m in found}
    if missing := [c for c in concepts if c not in done]:
        first = command("evaluate", missing[0], workspace=workspace)
        raise ConfigError(f"{missing[0]} was not evaluated in {workspace.address}; first: {first}")
    if not found:
        raise ConfigError(f"nothing was evaluated in {workspace.address}; first: saeuron run, or saeuron evaluate.")
    if spec == judges.NONE:
        raise ConfigError("--judge none: nobody would look; name a judge, such as clip:MODEL.")
    for manifest in found:
        told = manifest.config["judges"]
        if not told:
            raise ConfigError(f"{manifest.summary['concept']} has no judge yet, so there is nothing to put beside.")
        for domain, known in told.items():
            if judges.create(spec, domain).identity == known["id"]:
                raise ConfigError(f"--judge {spec}: {domain} was judged by it already; name another.")
        judges.check(spec, manifest.summary["domain"], [manifest.summary["concept"]])
    return found


def job_of(run: Run, manifest: Manifest, spec: str) -> SecondJob:
    """Judge the images of an evaluation by `spec`; what compares the two judges."""
    config = manifest.config
    looking = {}
    for domain, known in config["judges"].items():
        who = judges.create(spec, domain)
        labels = who.labels if who.labels is not None else tuple(known["labels"])
        looking[domain] = DomainJudge(spec=spec, id=who.identity, labels=labels)
    return SecondJob(
        workspace=run.workspace,
        device=run.device,
        evaluation_id=manifest.id,
        first=config["judgements"],
        judgements={i: judge(run, i, looking) for i in (*config["edited"], *config["unedited"])},
        judges=looking,
        **{name: config[name] for name in ("removal_id", "concept", "domain", "method", "domains")},
        **{name: config[name] for name in ("edited", "unedited")},
    )


@flow(name="second judge", flow_run_name="second judge in {workspace}", validate_parameters=True)
def second_flow(
    config: RunConfig, workspace: str, spec: str, concepts: list[str], device: str = "cpu", threads: int = 2
) -> dict[str, Any]:
    """Judge the newest evaluation of each removal of some concepts, or of all, by another judge.

    Args:
        config: that of the workspace.
        workspace: where the images are and the results go.
        spec: the judge, as `domains.NAME.judge` names one; it judges every domain.
        concepts: those to look at; empty: all.
        device: where the judge runs. threads: torch threads on the CPU.

    Returns:
        {"rows": the rows of `second_opinions`, "counts", "failures", "run_id"}.
    """
    opened = Workspace.open(workspace, create=False)
    model.set_threads(threads)
    run = Run.of(opened, config, device)
    with run.recorded("second judge") as run_id:
        found = {f"{m.summary['concept']} by {m.summary['method']}": m for m in check(opened, spec, concepts)}

        def do(name: str) -> Made:
            return run.step(second, job_of(run, found[name], spec))

        made = run.each("second judge", found, do, str)
    with connect(opened) as views:
        answer = views.execute(_ROWS, [[m.id for m in made.values()]])
        names = [column[0] for column in answer.description or []]
        rows = [dict(zip(names, row, strict=True)) for row in answer.fetchall()]
    domains = {m.summary["concept"]: m.summary["domain"] for m in found.values()}
    return {"run_id": run_id, "counts": run.counts, "failures": run.failures, "rows": rows, "domains": domains}


def lines(found: Mapping[str, Any], spec: str) -> list[str]:
    """A table for each family and method: the mean over concepts by either judge, and the worst concept."""
    rows, domains = found["rows"], found["domains"]
    said = []
    for domain, method in sorted({(domains[r["concept"]], r["method"]) for r in rows}):
        family = [r for r in rows if (domains[r["concept"]], r["method"]) == (domain, method)]
        shown = []
        for metric in METRICS:
            mine = [
                r
                for r in family
                if (r["metric"] == metric or r["metric"].startswith(f"{metric} ("))
                and None not in (r["value"], r["first_value"])
            ]
            if not mine:
                continue
            first, again = (
                over_concepts([(r[name], r["n_images"]) for r in mine]) for name in ("first_value", "value")
            )
            worst = min(mine, key=lambda r: r["value"])
            same = [r["same"] for r in mine if r["same"] is not None]
            shown.append(
                {
                    "figure": metric,
                    "images": sum(r["n_images"] for r in mine),
                    "first": interval(*first),
                    "second": interval(*again),
                    "unedited": sum(r["unedited"] for r in mine) / len(mine),
                    "worst": f"{worst['concept']} {100 * worst['value']:.1f}",
                    "same": sum(same) / len(same) if same else None,
                }
            )
        header = ["figure", "images", "first", "second", "unedited", "worst", "same"]
        said.append(f"{domain} by {method}, {counted(len({r['concept'] for r in family}), 'concept')}")
        said += [text_table(header, shown, wrapped=["worst"]), ""]
    said.append(
        text.filled(
            "Percent, means over concepts with 95 % intervals, on stored test images; first: the judge of the "
            f"evaluation; second, unedited, worst: {spec}; same: images of which both judges say the same."
        )
    )
    return [*said, f"judged again: {counted(len({r['evaluation_id'] for r in rows}), 'evaluation')}"]
