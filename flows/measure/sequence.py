"""Remove concepts one after another, and print what is gone and what of the rest after each request."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from prefect import flow

from flows.pipeline import removals_of
from flows.run import Run
from flows.stages.evaluate import based_on_earlier
from flows.stages.evaluate import images as test_images
from flows.stages.judge import judge
from flows.stages.prompts import prompts
from flows.stages.tune import Wanted
from flows.summary import counted, text_table
from saeuron.config import RunConfig
from saeuron.errors import ConfigError, SaeuronError, UnknownName
from saeuron.figures.words import interval
from saeuron.judges import NONE
from saeuron.noise import derive_seed
from storage import Workspace, connect, text
from tasks.engine import model
from tasks.engine.job import Made
from tasks.engine.step import publish
from tasks.measure.sequence import PICTURE, UNEDITED, SequenceJob, State, sequence, told

_ROWS = "SELECT * EXCLUDE (sequence_id) FROM sequences WHERE sequence_id = ? ORDER BY ALL"
NEAR, KEPT = 0.05, 0.95
"""Bounds: the most by which UA of the first concept, alone and among all, may differ; the least share of the unedited
RA that is kept."""
NAMED = 3
"""The most concepts that a picture's name, or the line about a set of images, spells out."""


def check(
    config: RunConfig, concepts: Sequence[str], method: str, control: str, orders: int, at: Sequence[int] = ()
) -> dict[str, str]:
    """{concept: its domain}.

    Raises:
        UnknownName: there is no such concept in the configuration.
        ConfigError: a concept is named twice or alone, nothing of its domain would be left, nobody could judge it, the
            method is its own control, or there are not so many orders, or not so many removals as one of `at`.
    """
    known = {c: d for d, about in config.domains.items() for c in about.concepts}
    if twice := [c for i, c in enumerate(concepts) if c in concepts[:i]]:
        raise ConfigError(f"{twice[0]} is named twice; name each concept once.")
    if missing := [c for c in concepts if c not in known]:
        raise UnknownName("concept", missing[0], known, "(of the workspace's configuration; not added ones)")
    if len(concepts) < 2:
        raise ConfigError(f"{counted(len(concepts), 'concept')}; expected two or more, which are removed in turn.")
    for domain in {known[c]: None for c in concepts}:
        if not {*config.domains[domain].concepts} - {*concepts}:
            raise ConfigError(f"every {domain} would be removed, and nothing of it retained; leave one or more out.")
    if unjudged := [d for d, about in config.domains.items() if about.judge == NONE]:
        raise ConfigError(f"domains.{unjudged[0]}.judge is none, so nobody can say what is gone; name a judge.")
    if method == control:
        raise ConfigError(f"--control {control}: it is the method itself; name another, such as untrained.")
    if orders > math.factorial(min(len(concepts), 9)):
        raise ConfigError(
            f"--orders {orders}: {len(concepts)} concepts have {math.factorial(len(concepts))}; expected no more."
        )
    if beyond := [m for m in at if not 1 <= m <= len(concepts)]:
        raise ConfigError(f"--at {beyond[0]}: expected 1 to {len(concepts)}, a number of the concepts.")
    return {c: known[c] for c in concepts}


def called(concepts: Sequence[str]) -> str:
    """A name for the picture of a sequence; many concepts would be more than a file system takes."""
    if len(concepts) <= NAMED:
        return "-".join(concepts)
    return f"{concepts[0]}-and-{len(concepts) - 1}-more-{derive_seed('sequence', *sorted(concepts)):x}"


def numbers(count: int, at: Sequence[int]) -> list[int]:
    """After how many of `count` removals is measured: the first, the last and those of `at`; after each if empty."""
    return sorted({1, count, *(at or range(1, count))})


def orderings(concepts: Sequence[str], count: int) -> list[tuple[str, ...]]:
    """`count` different orders: as they were named, and others that a seed draws."""
    found = [tuple(concepts)]
    for seed in itertools.count(1):
        if len(found) == count:
            return found
        drawn = tuple(sorted(concepts, key=lambda c: derive_seed("order of removals", seed, c)))
        if drawn not in found:
            found.append(drawn)
    raise AssertionError("unreachable")


@flow(name="sequence", flow_run_name="sequence in {workspace}", validate_parameters=True)
def sequence_flow(
    config: RunConfig,
    workspace: str,
    concepts: dict[str, str],
    method: str,
    control: str,
    orders: int = 2,
    own: int = 6,
    retained: int = 60,
    at: tuple[int, ...] = (),
    device: str = "cpu",
    threads: int = 2,
) -> dict[str, Any]:
    """Remove concepts one after another, in several orders, by a method and by a control.

    Args:
        config: that of the workspace, with the method and the control.
        workspace: where the results go.
        concepts: {concept: its domain}, in the order of the requests.
        method, control: how they are removed.
        orders: how many orders are tried.
        own: test prompts of each concept. retained: of none of them.
        at: after how many removals is measured, besides the first and the last; empty: after each.
        device: where models run. threads: torch threads on the CPU.

    Returns:
        {"sequence": id, "summary", "rows", "picture", "file", "counts", "run_id"}.
    """
    opened = Workspace.open(workspace, create=False)
    model.set_threads(threads)
    run = Run.of(opened, config, device)
    with run.recorded("sequence") as run_id:
        job = sequence_job(run, concepts, method, control, orders, own, retained, at)
        made = run.step(sequence, job)
        run.publish(publish, job)
    with connect(opened) as views:
        answer = views.execute(_ROWS, [made.id])
        names = [column[0] for column in answer.description or []]
        rows = [dict(zip(names, row, strict=True)) for row in answer.fetchall()]
    place = {"picture": job.places[PICTURE], "file": str(job.folder / "removal.safetensors")}
    return {"run_id": run_id, "counts": run.counts, "sequence": made.id, "summary": made.summary, "rows": rows} | place


def sequence_job(
    run: Run,
    concepts: Mapping[str, str],
    method: str,
    control: str,
    orders: int,
    own: int,
    retained: int,
    at: Sequence[int] = (),
) -> SequenceJob:
    """Make the removals, and the images of each state of the model and what judges see on them."""
    wanted = [Wanted(concept, name) for name in (method, control) for concept in concepts]
    found, _ = removals_of(run, wanted)
    if missing := [w for w in wanted if w not in found]:
        why = "; ".join(f"{what}: {why}" for what, why in run.failures)
        raise SaeuronError(f"there is no removal of {missing[0]} ({why or 'it was not scored'}); mend that first.")
    made = {w: removal for w, (_, removal) in found.items()}
    how = run.config.evaluate.model_copy(update={"retained_cells": retained})
    seen: dict[tuple[str, ...], tuple[str, tuple[str, ...]]] = {}

    def look(removals: Sequence[Made]) -> tuple[str, tuple[str, ...]]:
        key = tuple(sorted(r.summary["content"] for r in removals))
        if key not in seen:
            images = test_images(
                run,
                prompts(run)[""].id,
                based_on_earlier(run),
                removals,
                _title(sorted(f"{r.summary['concept']} by {r.summary['method']}" for r in removals)),
                config=how,
                among=dict(concepts),
                own_cells=own,
            )
            seen[key] = images, judge(run, images, run.judges(next(iter(concepts))))
        return seen[key]

    states = []
    todo = [
        (name, seed, order[:m])
        for name in (method, control)
        for seed, order in enumerate(orderings([*concepts], orders))
        for m in numbers(len(concepts), at)
    ]
    for i, (name, seed, removed) in enumerate(todo):
        images, judgements = look([made[Wanted(c, name)] for c in removed])
        run.say(f"{name}, order {seed}, {len(removed)} of {len(concepts)} removed ({i + 1} of {len(todo)})")
        states.append(State(order_seed=seed, method=name, removed=removed, images=images, judgements=judgements))
    images, judgements = look([])
    return SequenceJob(
        workspace=run.workspace,
        device=run.device,
        name=called([*concepts]),
        concepts=dict(concepts),
        domains=tuple(run.config.domains),
        method=method,
        control=control,
        removals={c: made[Wanted(c, method)].id for c in concepts},
        states=tuple(states),
        unedited=State(order_seed=0, method=UNEDITED, removed=(), images=images, judgements=judgements),
    )


def _title(removals: Sequence[str]) -> str:
    if len(removals) <= NAMED:
        return " + ".join(removals)
    return f"{removals[0]} and {len(removals) - 1} more"


def lines(found: Mapping[str, Any]) -> list[str]:
    """A table for each order, and what it means."""
    about, rows = found["summary"], found["rows"]
    method, control = about["method"], about["control"]
    by, said = told(rows), list[str]()
    for seed in range(about["orders"]):
        shown = []
        for m in sorted({m for name, _, m, _ in by if name == method}):
            row: dict[str, Any] = {"m": m, "removed last": by[method, seed, m, "RA"]["removed"][m - 1]}
            for name, of in (("", method), (" control", control)):
                row |= {f"UA{name}": _ua(by[of, seed, m, "removed"]), f"RA{name}": _share(by[of, seed, m, "RA"])}
            row["unedited"] = by[UNEDITED, seed, m, "RA"]["accuracy"]
            shown.append(row)
        said += [f"order {seed}, by {method}; control: {control}; unedited: RA without any removal"]
        header = ["m", "removed last", "UA", "RA", "UA control", "RA control", "unedited"]
        said += [text_table(header, shown, wrapped=["removed last"]), ""]
    images = counted(about["images"], "test image")
    said.append(
        text.filled(
            f"Percent with 95 % intervals, {images} of each row. UA: what is removed is gone, mean over m concepts; "
            "RA: (IRA + CRA) / 2 of images that ask for none of them."
        )
    )
    return said + _verdicts(about, rows)


def _verdicts(about: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Whether the first concept stays removed, the rest stays, and the order left a trace."""
    by, method, count = told(rows), about["method"], len(about["concepts"])
    said = []
    for seed in range(about["orders"]):
        first = by[method, seed, 1, "RA"]["removed"][0]
        ends = [
            next(r for r in rows if (r["method"], r["order_seed"], r["m"], r["measured"]) == (method, seed, m, first))
            for m in (1, count)
        ]
        if None not in (ends[0]["accuracy"], ends[1]["accuracy"]):
            change = ends[0]["accuracy"] - ends[1]["accuracy"]
            word = "within" if abs(change) <= NEAR else "more than"
            said.append(
                f"order {seed}: UA of {first} is {_ua(ends[0])} alone and {_ua(ends[1])} among {count}: {word} "
                f"{100 * NEAR:.0f} points."
            )
    last, plain = (by[name, 0, count, "RA"]["accuracy"] for name in (method, UNEDITED))
    if last is not None and plain:
        word = "kept" if last >= KEPT * plain else "not kept"
        said.append(
            f"RA after {count}: {100 * last / plain:.1f} % of the unedited model's; {100 * KEPT:.0f} is {word}."
        )
    same = "the same bytes" if about["same_file"] else "DIFFERENT bytes: please report this"
    turn = "too" if about["in_turn"] else "not: they were scored at different steps"
    said.append(
        f"merged in {counted(about['orders'], 'order')}: {same} ({about['bytes'] / 1000:.0f} kB, "
        f"{about['sha256'][:12]}); one after another {turn}."
    )
    return [text.filled(line) for line in said]


def _share(row: Mapping[str, Any]) -> str:
    return interval(row["accuracy"], row["low"], row["high"])


def _ua(row: Mapping[str, Any]) -> str:
    a, low, high = row["accuracy"], row["low"], row["high"]
    return "-" if a is None else interval(1 - a, 1 - high, 1 - low)
