"""Remove concepts with SAEs that never saw them, and print that beside SAEs that did."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from prefect import flow

from flows.pipeline import removals_of
from flows.run import Run
from flows.stages.capture import capture
from flows.stages.evaluate import evaluate
from flows.stages.prompts import prompts
from flows.stages.score import score_job
from flows.stages.train import train, train_without
from flows.stages.tune import Wanted, tune
from flows.summary import counted, text_table
from saeuron import methods
from saeuron.config import RunConfig
from saeuron.errors import ConfigError, SaeuronError, UnknownName
from saeuron.figures.words import interval
from saeuron.judges import NONE
from storage import Workspace, connect, text
from tasks.engine import model
from tasks.engine.job import Job, Made
from tasks.engine.step import publish
from tasks.evaluate import EvaluateJob
from tasks.measure.leave_out import PICTURE, LeaveOutJob, Looked, leave_out
from tasks.registry.runs import LEAVE_OUT
from tasks.score import score as score_task

UNTRAINED = "untrained"
LOST, CHANCE = 0.05, 0.1
"""Bounds: the most that leaving out may lose, and the most that permuted labels may remove."""
_ROWS = "SELECT * EXCLUDE (leave_out_id) FROM left_out WHERE leave_out_id = ?"


class Quiet(Run):
    """A run that publishes nothing: removals/ holds those of the SAEs that saw every concept."""

    publishes: ClassVar[bool] = False

    def publish(self, do: Callable[[Any], object], job: Job) -> None:
        """Do nothing."""


def check(config: RunConfig, concepts: Sequence[str], method: str, count: int) -> dict[str, str]:
    """{concept: its domain}.

    Raises:
        UnknownName: there is no such concept in the configuration.
        ConfigError: the method uses no trained SAE, a given SAE takes its place, nobody could judge, or too few
            concepts of a domain are named for one to be in the SAE's training while others are left out.
    """
    known = {c: d for d, about in config.domains.items() for c in about.concepts}
    if missing := [c for c in concepts if c not in known]:
        raise UnknownName("concept", missing[0], known, "(of the workspace's configuration; not added ones)")
    chosen = methods.get(method)
    if "latents" not in chosen.needs or chosen.dictionary != "trained":
        raise ConfigError(f"--leave-out: {method} uses no trained SAE; name a method that does, such as saeuron.")
    domains = {c: known[c] for c in dict.fromkeys(concepts)}
    for domain in dict.fromkeys(domains.values()):
        mine = [c for c, d in domains.items() if d == domain]
        if len(mine) <= count:
            raise ConfigError(
                f"--leave-out {count}: {counted(len(mine), 'concept')} of {domain}; name more than {count}, so that "
                "some are in the SAE's training while others are left out."
            )
        if given := [h for h in config.domains[domain].hookpoints if h in config.saes]:
            raise ConfigError(f"--leave-out: the SAE at {given[0]} is given (saes); it must be trained here.")
    if unjudged := [d for d, about in config.domains.items() if about.judge == NONE]:
        raise ConfigError(f"domains.{unjudged[0]}.judge is none, so nobody can say what is gone; name a judge.")
    return domains


def folds(concepts: Mapping[str, str], count: int) -> list[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    """(domain, left out, in training) of each fold; each concept is once in either."""
    found = []
    for domain in dict.fromkeys(concepts.values()):
        mine = [c for c, d in concepts.items() if d == domain]
        parts = [tuple(mine[i : i + count]) for i in range(0, len(mine), count)]
        found += [(domain, part, parts[(i + 1) % len(parts)]) for i, part in enumerate(parts)]
    return found


@flow(name="leave-out", flow_run_name="leave-out in {workspace}", validate_parameters=True)
def leave_out_flow(
    config: RunConfig,
    workspace: str,
    concepts: dict[str, str],
    method: str,
    count: int,
    device: str = "cpu",
    threads: int = 2,
) -> dict[str, Any]:
    """Train SAEs without some concepts, and remove these and others.

    Args:
        config: that of the workspace, with the method and the untrained control.
        workspace: where the results go.
        concepts: {concept: its domain}.
        method: how they are removed.
        count: concepts that are left out together.
        device: where models run. threads: torch threads on the CPU.

    Returns:
        {"leave_out": id, "summary", "rows", "picture", "counts", "run_id"}.
    """
    opened = Workspace.open(workspace, create=False)
    model.set_threads(threads)
    run = Quiet.of(opened, config, device)
    with run.recorded(LEAVE_OUT) as run_id:
        job = leave_out_job(run, concepts, method, count)
        made = run.step(leave_out, job)
        Run.publish(run, publish, job)
    with connect(opened) as views:
        answer = views.execute(_ROWS, [made.id])
        names = [column[0] for column in answer.description or []]
        rows = [dict(zip(names, row, strict=True)) for row in answer.fetchall()]
    found = {"leave_out": made.id, "summary": made.summary, "rows": rows, "picture": job.places[PICTURE]}
    return {"run_id": run_id, "counts": run.counts, **found}


def leave_out_job(run: Run, concepts: Mapping[str, str], method: str, count: int) -> LeaveOutJob:
    """Make SAEs, removals and test images of every fold."""
    sets, parts = prompts(run), folds(concepts, count)
    plain, _ = removals_of(run, [Wanted(c, methods.control(method, UNTRAINED)) for c in concepts])
    found = [_looked(each, UNTRAINED) for each in evaluate(run, plain).values()]
    captured = capture(run, sets[""])
    whole = train(run, captured, sets[""])
    for domain, out, kept in parts:
        saes = whole | train_without(run, captured, domain, out)
        scores = {c: run.step(score_task, score_job(run, c, sets, saes)).id for c in run.domain_concepts[domain]}
        wanted = [Wanted(c, method) for c in (*out, *kept)]
        removals = tune(run, wanted, sets, {"trained": saes}, {"trained": scores})
        for which, each in evaluate(run, removals).items():
            found.append(_looked(each, "out" if which.concept in out else "in"))
    expected = {(kind, c) for kind in ("in", "out", UNTRAINED) for c in concepts}
    if missing := sorted(expected - {(e.kind, e.concept) for e in found}):
        why = "; ".join(f"{what}: {why}" for what, why in run.failures)
        raise SaeuronError(f"there is no removal of {missing[0][1]} ({missing[0][0]}; {why}); mend that first.")
    return LeaveOutJob(
        workspace=run.workspace,
        name="-".join(concepts),
        method=method,
        domains=tuple(run.config.domains),
        folds=tuple(out for _, out, _ in parts),
        looked=tuple(sorted(found, key=lambda e: (e.kind, [*concepts].index(e.concept)))),
    )


def _looked(evaluated: tuple[EvaluateJob, Made], kind: Any) -> Looked:
    job, _ = evaluated
    return Looked(
        concept=job.concept,
        domain=job.domain,
        kind=kind,
        edited=job.edited,
        unedited=job.unedited,
        judgements=dict(job.judgements),
    )


_SAID = {
    "unedited": "unedited",
    "in": "in the SAE's training",
    "out": "left out of it",
    "all": "both",
    "untrained": "untrained SAE *",
    "permuted": "labels of others *",
}


def lines(found: Mapping[str, Any]) -> list[str]:
    """A table for each domain and for all, and what it means."""
    about, rows, said = found["summary"], found["rows"], list[str]()
    places = list(dict.fromkeys(r["domain"] for r in rows))
    for place in places if len(places) > 2 else [None]:
        mine = {(r["kind"], r["metric"]): r for r in rows if r["domain"] == place}
        shown = []
        for kind, name in _SAID.items():
            row: dict[str, Any] = {"SAE": name}
            for metric in ("UA", "IRA", "CRA", "mean"):
                if r := mine.get((kind, metric)):
                    row[metric] = interval(r["value"], r["low"], r["high"])
            shown.append({m: row.get(m, "") for m in ("SAE", "UA", "IRA", "CRA", "mean")})
        images = mine["out", "mean"]["n"]
        said += [f"{place or 'all'}, {counted(images, 'test image')} of each", text_table([*shown[0]], shown), ""]
    whole = {(r["kind"], r["metric"]): r for r in rows if r["domain"] is None}
    said.append(
        text.filled(
            f"Percent with 95 % intervals, by {about['method']}; mean: (UA + IRA + CRA) / 3. labels of others: the "
            "removal of another left-out concept, so nothing should go. * control."
        )
    )
    for kind, words in (("out - in", "out of training minus in it"), ("out - untrained", "minus an untrained SAE")):
        r = whole[kind, "mean"]
        said.append(text.filled(f"{words}: {_signed(r)}{_means(kind, r)}"))
    chance = whole["permuted", "UA"]
    if chance["value"] is not None and chance["value"] > CHANCE:
        said.append("labels of others remove, too: no claim from these figures")
    return said


def _signed(r: Mapping[str, Any]) -> str:
    if r["value"] is None:
        return "not judged"
    images = counted(r["n"], "image")
    if r["low"] is None:
        return f"{100 * r['value']:+.1f} points (no interval: a metric has too few prompts; {images})"
    return f"{100 * r['value']:+.1f} points (95 % {100 * r['low']:+.1f} to {100 * r['high']:+.1f}, {images})"


def _means(kind: str, r: Mapping[str, Any]) -> str:
    if r["value"] is None:
        return ""
    if kind == "out - in":
        return f"; {-100 * LOST:.0f} is {'kept' if r['value'] >= -LOST else 'missed'}"
    return "" if r["low"] is not None and r["low"] > 0 else ": training is not shown to be needed for this"
