"""Say from which words and heads a latent gets its activation."""

from typing import Any

from prefect import flow

from flows.run import Run
from flows.sae.report import captured, sampling
from flows.stages.prompts import prompts
from flows.summary import counted, text_table
from saeuron.config import RunConfig
from saeuron.errors import ConfigError
from saeuron.inspection.words import attention_of
from saeuron.sae.diagnosis import DiagnosisConfig
from storage import Workspace, connect
from storage.manifests import Manifest
from tasks.engine import model
from tasks.explore.inspected import BY
from tasks.inspection.attribute import AttributionJob, attributed

BAR = 30
"""Letters of the longest bar."""
_IMAGES = "SELECT prompt_id, image_index FROM top_examples WHERE sae_id = ? AND latent = ? AND rank <= ? ORDER BY rank"


@flow(name="attribution", flow_run_name="attribution in {workspace}", validate_parameters=True)
def attribution_flow(
    config: RunConfig, workspace: str, sae_id: str, latent: int, device: str = "cpu", threads: int = 2
) -> dict[str, Any]:
    """Attribute one latent on the images in which it fires most; the SAE has been measured.

    Returns:
        {"attribution": id, "roles", "words", "heads": rows, "controls", "images", "counts", "run_id"}.
    """
    opened = Workspace.open(workspace, create=False)
    model.set_threads(threads)
    run = Run.of(opened, config, device)
    with run.recorded("attribution") as run_id:
        made = run.step(attributed, attribution_job(run, opened.manifest(sae_id), latent))
    return {"run_id": run_id, "counts": run.counts} | told(opened, made.id)


def check(config: RunConfig, sae: Manifest, device: str) -> None:
    """Raise ConfigError if the SAE is not at a cross-attention of the configuration's model, which is loaded."""
    attention_of(model.pipeline(config.model, device), sae.summary["hookpoint"])


def attribution_job(run: Run, sae: Manifest, latent: int) -> AttributionJob:
    """The job. Raises ConfigError if the latent fires in no image."""
    with connect(run.opened) as views:
        images = views.execute(_IMAGES, [sae.id, latent, DiagnosisConfig().examples]).fetchall()
    if not images:
        raise ConfigError(f"latent {latent} of {sae.id} fires in no held-out image, so it has no words.")
    capture = captured(run.opened, sae)
    return AttributionJob(
        workspace=run.workspace,
        device=run.device,
        model=sampling(run, sae, capture).model,
        model_id=run.model_id,
        sae_id=sae.id,
        latent=latent,
        images=tuple(dict.fromkeys(images)),
        seed=DiagnosisConfig().seed,
        prompts_id=capture.inputs["prompts"] if capture is not None else prompts(run)[""].id,
    )


def told(workspace: Workspace, attribution_id: str) -> dict[str, Any]:
    """Shares of the positive attribution by role, by word and by head, of the latent and of random ones."""
    names = ("name", "share", "random")
    with connect(workspace) as views:
        found = {
            what: [dict(zip(names, row, strict=True)) for row in views.execute(query, [attribution_id]).fetchall()]
            for what, query in BY.items()
        }
    about = workspace.manifest(attribution_id).summary
    return {"attribution": attribution_id, **found, "controls": about["controls"], "images": about["images"]}


def lines(found: dict[str, Any]) -> list[str]:
    """Bars of words, and tables of what they are and of the heads."""
    most = max((w["share"] or 0) for w in found["words"]) or 1
    told = ["", f"words that it fires by, % of what raises it, in {counted(found['images'], 'image')}:"]
    for w in found["words"][:6]:
        bar = "#" * max(1, round(BAR * (w["share"] or 0) / most))
        told.append(f"  {w['name'][:16]:<16} {100 * (w['share'] or 0):>5.1f}  {bar}")
    told += ["", text_table(["word of", "latent", "random"], [_named("word of", r) for r in found["roles"]])]
    told += ["", text_table(["head", "latent", "random"], [_named("head", r) for r in found["heads"]])]
    return [*told, f"random: {counted(found['controls'], 'latent')} drawn at random, where they fire on these images"]


def _named(what: str, row: dict[str, Any]) -> dict[str, Any]:
    return {what: str(row["name"]), "latent": row["share"], "random": row["random"]}
