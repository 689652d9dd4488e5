"""Measure whether an SAE's latents name concepts better than its controls, and print what was found."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from prefect import flow

from flows.run import Run
from flows.sae.controls import controls_of
from flows.sae.proof_tests import NAMING, found, test_job
from flows.sae.report import captured, sampling
from flows.stages.prompts import prompts
from flows.summary import text_table
from saeuron.config import RunConfig
from saeuron.pages.contents import Naming, NamingMeans
from storage import Workspace
from storage.manifests import Manifest
from tasks.engine import model
from tasks.sae.naming import GOOD, naming
from tasks.sae.proof_tests import TESTS, proof_test
from tasks.sae.prove import ProofConfig, ProofJob, prove


@flow(name="sae prove", flow_run_name="sae prove in {workspace}", validate_parameters=True)
def sae_prove(
    config: RunConfig,
    workspace: str,
    sae_id: str,
    images: int | None = None,
    tests: Sequence[str] = (NAMING,),
    device: str = "cpu",
    threads: int = 2,
) -> dict[str, Any]:
    """Compare the latents of an SAE with those of its controls.

    Args:
        config: that of the workspace; how the SAE was trained is read from its own artifacts.
        workspace: where the SAE is, and where the results go.
        sae_id: the SAE.
        images: of each set; None: as `ProofConfig` and `ProofTestConfig` have it.
        tests: `naming`, or names of `tasks.sae.proof_tests.TESTS`.
        device: where models run. threads: torch threads on the CPU.

    Returns:
        {"proof": id or None, "figures": records of `NamingMeans`, "tests": {test: rows of the view `proofs`}, "counts",
        "run_id"}.
    """
    opened = Workspace.open(workspace, create=False)
    model.set_threads(threads)
    run = Run.of(opened, config, device)
    with run.recorded("sae prove") as run_id:
        sae = opened.manifest(sae_id)
        proof = run.step(prove, proof_job(run, sae, images or ProofConfig().images)).id if NAMING in tests else None
        made = {test: run.step(proof_test, test_job(run, sae, test, images)).id for test in TESTS if test in tests}
    return {
        "run_id": run_id,
        "counts": run.counts,
        "proof": proof,
        "figures": figures(opened, proof) if proof else [],
        "tests": {test: found(opened, name) for test, name in made.items()},
    }


def proof_job(run: Run, sae: Manifest, images: int) -> ProofJob:
    """The job, after the controls that it needs were trained. An SAE from elsewhere has no controls of its own.

    Raises:
        ConfigError: the workspace's configuration names another model than the SAE was trained on.
    """
    capture = captured(run.opened, sae)
    look, controls = sampling(run, sae, capture), controls_of(run, sae, capture)
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


def figures(workspace: Workspace, proof_id: str) -> list[dict[str, Any]]:
    """Means over the concepts of each domain, for each kind of dictionary."""
    return [asdict(each) for each in naming(workspace, workspace.manifest(proof_id)).means]


def lines(sae: Manifest, found: Sequence[Mapping[str, Any]]) -> list[str]:
    """The table, and in one sentence for each domain what it says."""
    names = {"domain": "domain", "kind": "dictionary", "precision": "precision", "recall": "recall", "f1": "mean F1"}
    names |= {"named": f"F1 >= {100 * GOOD:.0f}", "auroc": "AUROC", "concepts": "concepts"}
    shown = [{said: row[name] for name, said in names.items()} for row in found]
    images = found[0]["images"] if found else 0
    means = [NamingMeans(**row) for row in found]
    return [
        f"{sae.id} at {sae.summary['hookpoint']}",
        f"best latent of each concept: chosen on {images} validation images, judged on {images} test images; percent",
        text_table(list(names.values()), shown),
        *Naming("", means, (), GOOD).sentences,
    ]
