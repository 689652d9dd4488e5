"""Write explanations as lines of JSON, read descriptions of such lines, and judge these on the same images."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect import flow

from flows.hints import command
from flows.run import Run
from flows.sae.report import captured, sampling
from flows.summary import counted, text_table
from saeuron.config import RunConfig
from saeuron.errors import ConfigError, UnknownName
from saeuron.sae.diagnosis.explanations import MOST, Form
from storage import Workspace, connect
from storage.files import write_atomic
from storage.manifests import Manifest
from tasks.engine import model
from tasks.sae.describe import Described, DescribeJob, describe
from tasks.sae.explain import ExplainConfig
from tasks.sae.page import newest

SHOWN = 10
_EXPORTED = """
SELECT latent, rule, form, domain, concepts, precision, recall, f1, confidence
FROM explanations WHERE explanation_id = ? AND sae_id = ? AND kind = 'trained' ORDER BY latent
"""
_JUDGED = """
SELECT latent, description, rule, f1, confidence, automatic_f1, other_f1
FROM descriptions WHERE description_id = ? ORDER BY confidence DESC, latent
"""
_FORMAT = '{"latent": 3, "description": "in your words", "concepts": {"style": ["neon"]}}'


def export(workspace: Workspace, sae_id: str, explanation_id: str, path: Path) -> int:
    """Write a line for each latent; returns how many. `read` takes the file back. Raises DiskFull."""
    with connect(workspace) as views:
        found = views.execute(_EXPORTED, [explanation_id, sae_id])
        names = [column[0] for column in found.description or ()]
        rows = [dict(zip(names, row, strict=True)) for row in found.fetchall()]
    lines = []
    for row in rows:
        concepts = _concepts(row)
        figures = {name: row[name] for name in ("precision", "recall", "f1", "confidence")}
        about = {"latent": row["latent"], "description": row["rule"] or "", "concepts": concepts}
        lines.append(json.dumps(about | figures, ensure_ascii=False))
    write_atomic(path, ("\n".join(lines) + "\n").encode())
    return len(lines)


def _concepts(row: Mapping[str, Any]) -> dict[str, list[str]]:
    """{domain: concepts} of a rule; none where there is no rule."""
    if row["form"] != "both":
        return {row["domain"]: row["concepts"]} if row["rule"] is not None else {}
    # `DOMAIN is CONCEPT and DOMAIN is CONCEPT`; the concepts are known, and may hold any words.
    first, second = row["concepts"]
    left, rest = row["rule"].split(f" is {first} and ", 1)
    return {left: [first], rest.removesuffix(f" is {second}"): [second]}


def read(path: Path, n_latents: int, known: Mapping[str, Sequence[str]]) -> tuple[Described, ...]:
    """The descriptions in a file, by latent; lines that claim nothing are left out.

    Args:
        n_latents: of the SAE. known: {domain: its concepts}.

    Raises:
        ConfigError: a line is no description. UnknownName: there is no such domain or concept.
    """
    found: dict[int, Described] = {}
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            fields = json.loads(line)
        except ValueError:
            raise ConfigError(f"{where}: no JSON; expected a line such as {_FORMAT}") from None
        match fields:
            case {"latent": int(latent), "concepts": dict(concepts)} if not isinstance(latent, bool):
                said = fields.get("description", "")
            case _:
                raise ConfigError(f"{where}: expected `latent`, a number, and `concepts`, such as {_FORMAT}")
        if not 0 <= latent < n_latents:
            raise ConfigError(f"{where}: latent {latent}; this SAE has {n_latents}: expected 0 to {n_latents - 1}.")
        if latent in found:
            raise ConfigError(f"{where}: latent {latent} is described twice; expected one line for each.")
        if not isinstance(said, str):
            raise ConfigError(f"{where}: `description` is {said!r}; expected words.")
        if concepts:
            form, values = _claim(where, concepts, known)
            found[latent] = Described(latent=latent, description=said, form=form, values=values)
    if not found:
        raise ConfigError(f"{path} describes no latent; expected lines such as {_FORMAT}")
    return tuple(found[latent] for latent in sorted(found))


def _claim(
    where: str, concepts: Mapping[str, Any], known: Mapping[str, Sequence[str]]
) -> tuple[Form, tuple[tuple[str, str], ...]]:
    """The rule of {domain: names}: one of one domain, one each of two, or several of one."""
    for domain, names in concepts.items():
        if domain not in known:
            raise UnknownName(f"domain ({where})", domain, known)
        if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
            raise ConfigError(f"{where}: {domain} holds {names!r}; expected a list of names.")
        for name in names:
            if name not in known[domain]:
                raise UnknownName(f"{domain} ({where})", name, known[domain])
    values = tuple(sorted({(domain, name) for domain, names in concepts.items() for name in names}))
    if len(values) == 1:
        return "one", values
    if len(concepts) == 2 and len(values) == 2:
        return "both", values
    if len(concepts) == 1 and len(values) <= MOST:
        return "any", values
    raise ConfigError(f"{where}: {len(values)} names; expected up to {MOST} of one domain, or one each of two domains.")


def known(run: Run) -> dict[str, tuple[str, ...]]:
    """{domain: what images may show}: its concepts, and the labels of its judge."""
    by = run.own_judges()
    return {
        domain: tuple(dict.fromkeys((*names, *(by[domain].labels if domain in by else ()))))
        for domain, names in run.domain_concepts.items()
    }


def describe_job(run: Run, sae: Manifest, path: Path) -> DescribeJob:
    """The job. Raises ConfigError if the SAE was not explained, and as `read`."""
    explained = newest(run.opened, "explanation", sae_id=sae.id)
    if explained is None:
        explain = command("sae", "explain", sae.id, workspace=run.opened)
        raise ConfigError(f"--import: {sae.id} was not explained, so nothing says when a latent fires; run {explain}.")
    return DescribeJob(
        workspace=run.workspace,
        device=run.device,
        model=sampling(run, sae, captured(run.opened, sae)).model,
        model_id=run.model_id,
        config=ExplainConfig.model_validate(explained.config["config"]),
        sae_id=sae.id,
        explanation_id=explained.id,
        described=read(path, sae.summary["n_latents"], known(run)),
        prompts_id=explained.inputs["prompts"],
        judges=run.own_judges(),
    )


def check(workspace: Workspace, config: RunConfig, sae: Manifest, path: Path, device: str) -> None:
    """Find a mistake before a server is started and a model loaded. Raises as `describe_job`."""
    describe_job(Run.of(workspace, config, device), sae, path)


@flow(name="sae describe", flow_run_name="sae describe in {workspace}", validate_parameters=True)
def describe_flow(
    config: RunConfig, workspace: str, sae_id: str, path: str, device: str = "cpu", threads: int = 2
) -> dict[str, Any]:
    """Judge the descriptions in a file.

    Returns:
        {"description": id, "rows": one for each, "counts", "run_id"}.
    """
    opened = Workspace.open(workspace, create=False)
    model.set_threads(threads)
    run = Run.of(opened, config, device)
    with run.recorded("sae describe") as run_id:
        made = run.step(describe, describe_job(run, opened.manifest(sae_id), Path(path)))
    return {"run_id": run_id, "counts": run.counts, "description": made.id, "rows": judged(opened, made.id)}


def judged(workspace: Workspace, description_id: str) -> list[dict[str, Any]]:
    """Every description with its figures, the most confident first."""
    with connect(workspace) as views:
        found = views.execute(_JUDGED, [description_id])
        names = [column[0] for column in found.description or ()]
        return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


def lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The most confident descriptions, and means beside what was found automatically and other latents."""
    shown = [{**row, "F1": row["f1"], "found": row["automatic_f1"], "other": row["other_f1"]} for row in rows]
    means = [100 * sum(row[name] for row in shown) / len(shown) for name in ("F1", "found", "other")]
    names = ["latent", "description", "F1", "confidence", "found", "other"]
    return [
        text_table(names, shown[:SHOWN], wrapped=["description"]),
        f"{min(SHOWN, len(shown))} of {counted(len(shown), 'description')}, on the images that judge rules; percent",
        "found: F1 of the rule that was found; other: of this claim for another latent",
        f"means: F1 {means[0]:.1f}, found {means[1]:.1f}, other {means[2]:.1f}",
    ]
