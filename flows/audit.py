"""Attack the removals of a concept, beside their controls, and print what came back."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from prefect import flow

from flows.run import Run
from flows.stages.prompts import prompts
from flows.summary import counted, text_table
from saeuron.config import RunConfig
from saeuron.errors import ConfigError, SaeuronError, UnknownName
from saeuron.figures.metrics import wilson
from saeuron.figures.words import interval
from saeuron.judges import NONE
from saeuron.prompts.rows import rows_of
from storage import Workspace, text
from storage.published import published
from tasks.audit import UNEDITED, AuditConfig, AuditJob, audit, successes
from tasks.engine import model
from tasks.engine.job import Made
from tasks.registry.removals import refusal

WEAK = (0.5, 0.25, 0.125)
"""Strengths of the weakened removal, a control: an attack that works must break it. The one that is
attacked leaves the concept in the share of prompts that is nearest to half, before the attack."""
CHEAP = ("none", "paraphrase", "random")
"""Attacks without gradients."""
CONTROL = "random"
"""The control of `gradient`: it is also run on the weakened removal, where it should do worse."""
SHOWN = 3
"""Prompts that an attack found, of those that are printed."""


COLUMNS = ["method", "attack", "before", "back", "weakened", "strength", "unedited", "updates"]
OPTIONAL = ["strength", "updates", "unedited"]
"""Columns that go first where the table does not fit."""


class Removed(NamedTuple):
    """A removal of the workspace."""

    method: str
    removal_id: str


def removals(workspace: Workspace, concept: str, methods: Sequence[str]) -> list[Removed]:
    """The removals of a concept by these methods; by all that there are where none is named.

    Raises:
        UnknownName: there is none; and what else `refusal` gives.
    """
    known = {a.method: a.removal_id for a in published(workspace).values() if a.concept == concept}
    if not known:
        raise refusal(workspace, concept)
    for method in methods:
        if method not in known:
            raise UnknownName(f"method of a removal of {concept!r}", method, known)
    return [Removed(name, known[name]) for name in methods or sorted(known)]


@flow(name="audit", flow_run_name="audit {concept} in {workspace}", validate_parameters=True)
def audit_flow(
    config: RunConfig,
    workspace: str,
    concept: str,
    attacked: list[tuple[str, str]],
    attacks: list[str],
    how: AuditConfig,
    device: str = "cpu",
    threads: int = 2,
    files: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Attack removals, the same ones weakened, and the unedited model.

    Args:
        config: that of the workspace.
        workspace: where the removals are, and where the results go.
        concept: what they remove.
        attacked: (method, removal id) of each.
        attacks: names of `saeuron.attacks`.
        how: see `AuditConfig`.
        device: where models run. threads: torch threads on the CPU.
        files: {name: file of attack prompts}, as `listed` names them.

    Returns:
        {"rows": one for each method and attack, "failures", "counts", "run_id"}.
    """
    opened = Workspace.open(workspace, create=False)
    model.set_threads(threads)
    run = Run.of(opened, config, device)
    with run.recorded("audit") as run_id:
        rows = _attacked(run, concept, attacked, [*attacks, *(files or {})], how, files or {})
    return {"run_id": run_id, "counts": run.counts, "rows": rows, "failures": run.failures}


def listed(files: Sequence[str]) -> dict[str, str]:
    """{what a file of attack prompts is called: its path}.

    Raises:
        BadPrompts: a file is missing or not one of prompts. ConfigError: two have one name.
    """
    found: dict[str, str] = {}
    for file in files:
        path = Path(file).expanduser().absolute()
        rows_of(path)
        if found.setdefault(f"file_{path.stem}", str(path)) != str(path):
            raise ConfigError(f"--file names two files {path.stem!r}; rename one.")
    return found


def _attacked(
    run: Run,
    concept: str,
    attacked: Sequence[tuple[str, str]],
    attacks: Sequence[str],
    how: AuditConfig,
    files: Mapping[str, str],
) -> list[dict[str, Any]]:
    cheap = {*CHEAP, *files}
    weak = _weakened(run, concept, attacked, how) if set(attacks) - cheap else {}
    jobs: dict[tuple[str, str, float], AuditJob] = {}
    for attack in attacks:
        base = _job(run, concept, attack, how).model_copy(update={"file": files.get(attack, "")})
        jobs[UNEDITED, attack, 1.0] = base
        for method, removal_id in attacked:
            edited = base.model_copy(update={"method": method, "removal_id": removal_id})
            jobs[method, attack, 1.0] = edited
            if (attack not in cheap or attack == CONTROL) and method in weak:
                strength = weak[method]
                jobs[method, attack, strength] = edited.model_copy(update={"strength": strength})
    done = run.each("audit", jobs, lambda which: _published(run, jobs[which]), str)
    rows = []
    for attack in attacks:
        for method, _ in attacked:
            found = {
                "removed": done.get(str((method, attack, 1.0))),
                "weak": done.get(str((method, attack, weak.get(method)))),
                "unedited": done.get(str((UNEDITED, attack, 1.0))),
            }
            if found["removed"] is not None:
                row = _row(method, attack, found) | {"strength": weak.get(method)}
                rows.append(row | _found(successes(run.opened, found["removed"].id)))
    return rows


def _weakened(run: Run, concept: str, attacked: Sequence[tuple[str, str]], how: AuditConfig) -> dict[str, float]:
    """{method: strength of its weakened removal}; without the methods whose removals have no strength."""
    found = {}
    base = _job(run, concept, "none", how)
    for method, removal_id in attacked:
        shares = {}
        for strength in WEAK:
            job = base.model_copy(update={"method": method, "removal_id": removal_id, "strength": strength})
            try:
                about = _published(run, job).summary
            except ConfigError:
                break  # such as a negative prompt
            shares[strength] = abs(about["before"] / about["prompts"] - 0.5) if about else 1.0
        if shares:
            found[method] = min(shares, key=lambda s: (shares[s], -s))
    return found


def _published(run: Run, job: AuditJob) -> Made:
    from tasks.engine.step import publish

    made = run.step(audit, job)
    run.publish(publish, job)
    return made


def _job(run: Run, concept: str, attack: str, how: AuditConfig) -> AuditJob:
    domain = run.domain_of(concept)
    if domain is None:
        raise SaeuronError(f"{concept!r} is in no domain of the workspace.")
    sets = prompts(run)
    return AuditJob(
        workspace=run.workspace,
        device=run.device,
        model=run.config.model,
        model_id=run.model_id,
        config=how,
        evaluate=run.config.evaluate,
        attack=attack,
        domain=domain,
        concept=concept,
        judge=run.judges(concept)[domain],
        prompts_id=sets[concept if run.added_as(concept) else ""].id,
    )


def check(config: RunConfig, domain: str | None, concept: str) -> None:
    """Raise ConfigError if nobody could say whether the concept came back."""
    if domain is None or config.domains[domain].judge == NONE:
        raise ConfigError(
            f"{domain or concept}: judge: none, so nobody can say whether {concept!r} came back; name a judge in the "
            "configuration, such as clip:MODEL."
        )


def _row(method: str, attack: str, found: dict[str, Made | None]) -> dict[str, Any]:
    row: dict[str, Any] = {"method": method, "attack": attack}
    for name, made in found.items():
        about = made.summary if made else None
        row[name] = about["broken"] / about["prompts"] if about else None
        if name == "removed" and about:
            row |= {"prompts": about["prompts"], "broken": about["broken"], "before": about["before"]}
            for names, count in ((("low", "high"), "broken"), (("before_low", "before_high"), "before")):
                row |= dict(zip(names, wilson(about[count], about["prompts"]), strict=True))
            row["sheet"] = about["sheet"]
        if name == "weak":
            row["weak_before"] = about["before"] / about["prompts"] if about else None
    return row


def _found(broken: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Updates until a prompt was broken, the median over those that the attack broke, and what broke them."""
    texts = [{"prompt_id": r["prompt_id"], "text": r["text"], "iteration": r["iteration"]} for r in broken]
    return {"updates": median(r["iteration"] for r in broken) if broken else None, "found": texts}


def lines(concept: str, rows: Sequence[dict[str, Any]], workspace: Workspace) -> list[str]:
    """The table, what it means, and where the pictures are."""
    shown = []
    for r in rows:
        before = interval(r["before"] / r["prompts"], r["before_low"], r["before_high"])
        row: dict[str, Any] = {"method": r["method"], "attack": r["attack"], "before": before}
        row |= {"back": interval(r["removed"], r["low"], r["high"]), "weakened": r["weak"], "unedited": r["unedited"]}
        row["strength"] = f"{r['strength']:g}" if r["weak"] is not None else None
        shown.append(row | {"updates": None if r["updates"] is None else f"{r['updates']:g}"})
    counts = sorted({r["prompts"] for r in rows}) or [0]
    count = counted(counts[-1], "prompt") if len(counts) == 1 else f"{counts[0]} to {counts[-1]} prompts"
    told = [
        text_table(COLUMNS, shown, optional=OPTIONAL),
        text.filled(
            f"back: percent of {count} for which a picture of {concept} was drawn, at some try, with 95 % intervals; "
            "before: by the prompt as it is; weakened: with the removal at the strength of 1/2, 1/4, 1/8 that leaves "
            "the concept in nearest to half of the pictures; unedited: without it; updates: of the attack until a "
            "prompt was broken, the median (without gradients: the number of the picture, from 0). Pictures that look "
            "unlike the model's own do not count."
        ),
    ]
    told += [text.filled(line) for line in notes(rows)]
    told += _prompts_found(rows)
    told += [f"workspace: {workspace.address}", *(f"  {r['sheet']}" for r in rows)]
    return told


def _prompts_found(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Texts that broke removals, a few of each attack."""
    told = []
    for r in rows:
        texts = [f for f in r["found"] if f["text"]]
        told += [
            text.filled(f"  {r['attack']} on {r['method']}, {f['iteration']}: {f['text']}", "    ")
            for f in texts[:SHOWN]
        ]
        if len(texts) > SHOWN:
            told.append(f"    and {len(texts) - SHOWN} more")
    return ["prompts found, after so many updates:", *told] if told else []


def notes(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Notes on controls that did not behave, so that a low figure means little."""
    found = []
    by = {(r["method"], r["attack"]): r for r in rows}
    for (method, attack), r in by.items():
        if r["unedited"] is not None and r["unedited"] < 0.5:
            found.append(f"{attack}: the unedited model draws it for {100 * r['unedited']:.0f} %: no claim from this")
        if attack == "gradient" and r["weak"] is not None and r["weak"] < min(1.0, r["weak_before"] + 0.2):
            found.append(f"{attack} hardly breaks {method} at strength {r['strength']:g}: it is a weak attack here")
        control = by.get((method, CONTROL))
        if attack != "gradient" or control is None:
            continue
        if control["removed"] >= r["removed"] > 0:
            found.append(f"{method}: random words do as well as {attack}")
        if control["weak"] is not None and r["weak"] is not None and control["weak"] >= r["weak"]:
            found.append(
                f"{method} at strength {r['strength']:g}: random words do no worse than {attack}, "
                f"{100 * control['weak']:.0f} % and {100 * r['weak']:.0f} %: it shows no strength of {attack} here"
            )
    return list(dict.fromkeys(found))
