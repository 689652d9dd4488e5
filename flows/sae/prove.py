"""Measure whether an SAE's latents name concepts better than its controls, and print what was found."""

from typing import Any

from prefect import flow

from flows.run import Run
from flows.sae.report import captured, sampling
from flows.stages.prompts import prompts
from flows.summary import text_table
from saeuron.config import RunConfig
from saeuron.sae.config import Dictionary, SAEConfig
from storage import Workspace, connect
from storage.manifests import Manifest
from tasks.engine import model, progress
from tasks.sae.prove import ProofConfig, ProofJob, prove
from tasks.train import TrainJob, train

CONTROLS: tuple[Dictionary, ...] = ("untrained", "frozen")
KINDS = ("supervised", "trained", "frozen", "untrained", "neurons")
"""Order of the table: the ceiling first."""
GOOD = 0.9
"""A latent with at least this F1 is said to name its concept."""

_FIGURES = """
SELECT kind, domain, avg(f1), avg((f1 >= ?)::INTEGER), avg(auroc), count(*), any_value(images)
FROM dictionary WHERE proof_id = ? GROUP BY ALL
"""


@flow(name="sae prove", flow_run_name="sae prove in {workspace}", validate_parameters=True)
def sae_prove(
    config: RunConfig,
    workspace: str,
    sae_id: str,
    images: int = ProofConfig().images,
    device: str = "cpu",
    threads: int = 2,
) -> dict[str, Any]:
    """Compare the latents of an SAE with those of its controls.

    Args:
        config: that of the workspace; how the SAE was trained is read from its own artifacts.
        workspace: where the SAE is, and where the results go.
        sae_id: the SAE.
        images: see `ProofConfig`.
        device: where models run. threads: torch threads on the CPU.

    Returns:
        {"proof": id, "figures": rows of the table, "counts", "run_id"}.
    """
    opened = Workspace.open(workspace, create=False)
    model.set_threads(threads)
    run = Run.of(opened, config, device)
    with run.recorded("sae prove") as run_id:
        made = run.step(prove, proof_job(run, opened.manifest(sae_id), images))
    return {"run_id": run_id, "counts": run.counts, "proof": made.id, "figures": figures(opened, made.id)}


def proof_job(run: Run, sae: Manifest, images: int) -> ProofJob:
    """The job, after the controls that it needs were trained. An SAE from elsewhere has no controls of its own.

    Raises:
        ConfigError: the workspace's configuration names another model than the SAE was trained on.
    """
    capture = captured(run.opened, sae)
    look = sampling(run, sae, capture)
    controls = {}
    if capture is not None:
        for i, dictionary in enumerate(CONTROLS):
            progress.stage("controls", i, len(CONTROLS))
            controls[dictionary] = control(run, sae, capture, dictionary)
    return ProofJob(
        workspace=run.workspace,
        device=run.device,
        model=look.model,
        model_id=run.model_id,
        config=ProofConfig(images=images, half=look.half, read=look.read),
        sae_id=sae.id,
        controls=controls,
        prompts_id=capture.inputs["prompts"] if capture is not None else prompts(run)[""].id,
    )


def control(run: Run, sae: Manifest, capture: Manifest, dictionary: Dictionary) -> str:
    """Id of the same SAE with another dictionary, trained if it is missing."""
    job = TrainJob(
        workspace=run.workspace,
        device=run.device,
        config=SAEConfig.model_validate(sae.config["config"]).learning(dictionary),
        hookpoint=sae.summary["hookpoint"],
        capture_id=capture.id,
    )
    return run.step(train, job).id


def figures(workspace: Workspace, proof_id: str) -> list[dict[str, Any]]:
    """Means over the concepts of each domain, for each kind of dictionary."""
    with connect(workspace) as views:
        rows = views.execute(_FIGURES, [GOOD, proof_id]).fetchall()
    names = ("kind", "domain", "f1", "named", "auroc", "concepts", "images")
    found = [dict(zip(names, row, strict=True)) for row in rows]
    return sorted(found, key=lambda row: (row["domain"], KINDS.index(row["kind"])))


def lines(sae: Manifest, found: list[dict[str, Any]]) -> list[str]:
    """The table, and in one sentence for each domain what it says."""
    shown = [
        {"domain": r["domain"], "dictionary": r["kind"], "mean F1": r["f1"], "F1 >= 90": r["named"]} for r in found
    ]
    for row, r in zip(shown, found, strict=True):
        row |= {"AUROC": r["auroc"], "concepts": r["concepts"]}
    images = found[0]["images"] if found else 0
    told = [
        f"{sae.id} at {sae.summary['hookpoint']}",
        f"best latent of each concept: chosen on {images} validation images, judged on {images} test images; percent",
        text_table(["domain", "dictionary", "mean F1", "F1 >= 90", "AUROC", "concepts"], shown),
    ]
    for domain in dict.fromkeys(r["domain"] for r in found):
        by = {r["kind"]: r["named"] for r in found if r["domain"] == domain}
        if "untrained" in by:
            verb = "more than" if by["trained"] > by["untrained"] else "not more than"
            told.append(
                f"{domain}: the trained SAE names {100 * by['trained']:.0f} % of the concepts, {verb} the untrained "
                f"one, {100 * by['untrained']:.0f} %"
            )
    return told
