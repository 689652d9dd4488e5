"""Say in words what each latent of an SAE fires on, and print how far to trust it."""

from typing import Any

from prefect import flow

from flows.run import Run
from flows.sae.controls import controls_of
from flows.sae.report import captured, sampling
from flows.stages.prompts import prompts
from flows.summary import text_table
from saeuron.config import RunConfig
from storage import Workspace, connect
from storage.manifests import Manifest
from tasks.engine import model
from tasks.sae.explain import ExplainConfig, ExplainJob, explain

GOOD, CHANCE = 0.8, 0.5
"""F1 and confidence from which a rule is said to be good; F1 that no rule from shuffled labels should reach."""
KINDS = ("trained", "frozen", "untrained", "neurons")
"""Order of the table."""
SHOWN = 10
"""Latents in the list."""

_FIGURES = """
SELECT kind, count(*) AS latents, avg((rule IS NOT NULL)::INTEGER) AS explained, avg((f1 >= $good)::INTEGER) AS good,
    avg((confidence >= $good)::INTEGER) AS confident, avg((shuffled_f1 >= $chance)::INTEGER) AS shuffled
FROM explanations WHERE explanation_id = $id GROUP BY kind
"""
_NAMED = """
WITH best AS (
    SELECT kind, domain, concepts[1] AS concept, arg_max(f1, chosen_f1) AS f1
    FROM explanations WHERE explanation_id = $id AND form = 'one' GROUP BY ALL
)
SELECT kind, domain, count(*) FROM best WHERE f1 >= $good GROUP BY ALL
"""
_BEST = """
SELECT latent, rule, precision, recall, f1, confidence FROM explanations
WHERE explanation_id = ? AND kind = 'trained' AND rule IS NOT NULL ORDER BY confidence DESC, latent LIMIT ?
"""


@flow(name="sae explain", flow_run_name="sae explain in {workspace}", validate_parameters=True)
def sae_explain(
    config: RunConfig,
    workspace: str,
    sae_id: str,
    images: int = ExplainConfig().images,
    device: str = "cpu",
    threads: int = 2,
) -> dict[str, Any]:
    """Explain the latents of an SAE, and those of its controls.

    Args:
        config: that of the workspace; how the SAE was trained is read from its own artifacts.
        workspace: where the SAE is, and where the results go.
        sae_id: the SAE.
        images: see `ExplainConfig`.
        device: where models run. threads: torch threads on the CPU.

    Returns:
        {"explanation": id, "figures": one row for each kind of SAE, "counts", "run_id"}.
    """
    opened = Workspace.open(workspace, create=False)
    model.set_threads(threads)
    run = Run.of(opened, config, device)
    with run.recorded("sae explain") as run_id:
        made = run.step(explain, explain_job(run, opened.manifest(sae_id), images))
    return {"run_id": run_id, "counts": run.counts, "explanation": made.id, "figures": figures(opened, made.id)}


def explain_job(run: Run, sae: Manifest, images: int) -> ExplainJob:
    """The job, after its controls were made. An SAE from elsewhere has none but the neurons.

    Raises:
        ConfigError: the workspace's configuration names another model than the SAE was trained on.
    """
    capture = captured(run.opened, sae)
    look, controls = sampling(run, sae, capture), controls_of(run, sae, capture)
    return ExplainJob(
        workspace=run.workspace,
        device=run.device,
        model=look.model,
        model_id=run.model_id,
        config=ExplainConfig(images=images, half=look.half, read=look.read),
        sae_id=sae.id,
        controls=controls,
        prompts_id=capture.inputs["prompts"] if capture is not None else prompts(run)[""].id,
        judges=run.own_judges(),
    )


def figures(workspace: Workspace, explanation_id: str) -> list[dict[str, Any]]:
    """Shares of the latents of each kind of SAE, the trained one first; silent latents count.

    `named`: {domain: share of its concepts for which the rule of some latent is that concept alone, with a good F1; the
    latent is the one with the best F1 on the images that rules were chosen on}.
    """
    concepts = workspace.manifest(explanation_id).summary["concepts"]
    with connect(workspace) as views:
        asked = {"id": explanation_id, "good": GOOD}
        found = views.execute(_FIGURES, {**asked, "chance": CHANCE})
        names = [column[0] for column in found.description or ()]
        rows = [dict(zip(names, row, strict=True)) for row in found.fetchall()]
        named = {(kind, domain): count for kind, domain, count in views.execute(_NAMED, asked).fetchall()}
    for row in rows:
        row["named"] = {d: named.get((row["kind"], d), 0) / count for d, count in concepts.items()}
    return sorted(rows, key=lambda row: KINDS.index(row["kind"]))


def lines(workspace: Workspace, explanation_id: str, found: list[dict[str, Any]]) -> list[str]:
    """The most confident latents, the shares beside those of the controls, and in one sentence what they say."""
    about = workspace.manifest(explanation_id).summary
    with connect(workspace) as views:
        best = views.execute(_BEST, [explanation_id, SHOWN]).fetchall()
    names = ("latent", "rule", "precision", "recall", "F1", "confidence")
    shares = ("explained", "good", "confident", "shuffled")
    header = ["dictionary", "latents", "rule", "F1 >= 80", "confid. >= 80", "shuffled >= 50"]
    rows = [dict(zip(header, (row["kind"], row["latents"], *(row[s] for s in shares)), strict=True)) for row in found]
    told = [
        f"{about['sae_id']} at {about['hookpoint']}",
        f"rules: chosen on {about['images']} validation images, judged on {about['images']} test images; percent",
        text_table(names, [dict(zip(names, row, strict=True)) for row in best], wrapped=["rule"]),
        "",
        "share of latents with a rule, with a good one, and with one by chance, percent",
        text_table(header, rows),
    ]
    for domain, share in found[0]["named"].items():
        said = f"{domain}: {100 * share:.0f} % of concepts have a latent whose rule is that alone, F1 >= 80"
        others = [f"{row['kind']} {100 * row['named'][domain]:.0f} %" for row in found[1:]]
        told += [said, f"  controls: {', '.join(others)}"]
    return told
