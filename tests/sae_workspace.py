"""A workspace with two SAEs of a tiny untrained model, scored on two styles: made without Prefect, in seconds."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastapi.testclient import TestClient

from flows.explore.app import create
from flows.explore.guards import Guard
from flows.explore.shelves import Shelves
from flows.inspection.attribute import attribution_job
from flows.inspection.steer import steer_jobs
from flows.run import Run
from flows.sae.explain import explain_job
from flows.sae.report import diagnosis_job
from saeuron.config import CaptureConfig, DomainConfig, ModelConfig, PromptsConfig, RunConfig, ScoreConfig
from saeuron.pipelines.loading import identity
from saeuron.sae.config import SAEConfig
from storage import Workspace
from storage.identity import artifact_id
from storage.manifests import Manifest
from storage.tables import EXPLANATIONS, table, write_table
from tasks.capture import CaptureJob, capture, capture_shard
from tasks.explore.studio import Studio
from tasks.inspection.attribute import attributed
from tasks.inspection.steer import steer
from tasks.prompts import PromptsJob, prompts
from tasks.registry import runs
from tasks.registry.saes import find
from tasks.sae.explain import explain
from tasks.sae.report import StabilityJob, diagnose, stability
from tasks.score import ScoreJob, score
from tasks.train import TrainJob, train

HOOKPOINTS = ("unet.up_blocks.1.attentions.0", "unet.up_blocks.0.attentions.1.transformer_blocks.0.attn2")
"""Widths 16 (a map of 8 x 8) and 32 (a sequence of 4 x 4)."""
TEMPLATES = {
    "train": ("A {object} in {style} style.", "A {style} {object}."),
    "validation": ("A {style} drawing of {object}.",),
    "test": ("A {style} picture of a {object}.", "The {object} in {style} style."),
}


def configuration(model_folder: Path) -> RunConfig:
    """Four combinations of concepts, two denoising steps."""
    domain = {"hookpoints": HOOKPOINTS, "judge": "none"}
    return RunConfig(
        model=ModelConfig(spec=str(model_folder), steps=2, micro_batch=4),
        domains={
            "style": DomainConfig(concepts=("neon", "dots"), **domain),
            "object": DomainConfig(concepts=("cat", "moon"), **domain),
        },
        prompts=PromptsConfig(templates=TEMPLATES),
        capture=CaptureConfig(shard_images=4, plain_prompts=1),
        train=SAEConfig(expansion=2, k=4, batch=64, steps=30, lr=1e-2),
        score=ScoreConfig(images=3),
    )


def directly(workspace: Workspace, hookpoint: str = HOOKPOINTS[0]) -> tuple[Run, Manifest]:
    """(a run whose steps are plain calls, without Prefect; the SAE at a hookpoint)."""
    run = Run.of(workspace, runs.remembered(workspace), "cpu")
    run.step = lambda task, job, **_: task.fn(job)  # type: ignore[method-assign]
    return run, find(workspace, hookpoint)


def build(root: Path, model_folder: Path) -> Workspace:
    """The workspace at `root`; the second hookpoint's SAE is never scored."""
    workspace, config = Workspace.open(root), configuration(model_folder)
    runs.remember(workspace, config)
    where = {"workspace": workspace.root}
    model = {"model": config.model, "model_id": identity(config.model.spec)}
    prompts_id = prompts.fn(PromptsJob(**where, config=config.prompts, domains=config.domains)).id
    first, second = HOOKPOINTS
    job = CaptureJob(
        **where,
        **model,
        config=config.capture,
        prompts_id=prompts_id,
        images_id="some",
        hookpoint=first,
        beside=(second,),
    )
    capture_shard.fn(job, 0)
    captured = {hookpoint: capture.fn(job.at(hookpoint)).id for hookpoint in HOOKPOINTS}
    saes = {
        h: train.fn(TrainJob(**where, config=config.train, hookpoint=h, capture_id=captured[h])).id for h in HOOKPOINTS
    }
    for concept in config.domains["style"].concepts:
        score.fn(
            ScoreJob(
                **where,
                **model,
                config=config.score,
                domain="style",
                concept=concept,
                score_on="crossed",
                prompts_id=prompts_id,
                images_id="some",
                saes={HOOKPOINTS[0]: saes[HOOKPOINTS[0]]},
            )
        )
    return workspace


def explained(workspace: Workspace, sae: Manifest, prompts_id: str = "") -> str:
    """An explanation in which two latents have an aim; 7 speaks of two domains, 8 of all styles, 9 is silent."""
    rules = {
        3: ("style is neon", "one", "style", ["neon"]),
        5: ("object is cat", "one", "object", ["cat"]),
        7: ("object is cat and style is neon", "both", None, ["cat", "neon"]),
        8: ("style is dots or neon", "any", "style", ["dots", "neon"]),
        9: (None, None, None, []),
    }
    rows = []
    for latent, (rule, form, domain, concepts) in rules.items():
        about = {"hookpoint": HOOKPOINTS[0], "kind": "trained", "sae_id": sae.id, "latent": latent, "rule": rule}
        about |= {"form": form, "domain": domain, "concepts": concepts, "confidence": 0.9 - latent / 100}
        rest = {c.name: 0 for c in EXPLANATIONS.columns if c.name not in about} | {"images": 8}
        rows.append(about | rest)
    name = artifact_id("explanation", 1, {"of": sae.id})
    workspace.folder(name).mkdir(parents=True)
    write_table(workspace.folder(name) / EXPLANATIONS.file, table(rows, EXPLANATIONS))
    about = {"hookpoint": HOOKPOINTS[0], "sae_id": sae.id, "images": 8, "concepts": {}}
    workspace.commit(name, config={}, inputs={"prompts": prompts_id}, summary=about, seconds=0)
    return name


def looked_into(workspace: Workspace, hookpoint: str) -> tuple[str, int]:
    """Measure the SAE at a cross-attention, say in words what it fires on, and turn one of its latents up and down.

    Returns:
        (the SAE, that latent). Few images each: figures mean nothing.
    """
    run, sae = directly(workspace, hookpoint)
    job = diagnosis_job(run, sae, workspace.read(sae.inputs["capture"]), images=4, rows=40)
    diagnose.fn(job)
    explain.fn(explain_job(run, sae, 8))
    control = next(m for m in workspace.artifacts("sae") if m.summary.get("dictionary") == "untrained")
    stability.fn(StabilityJob(workspace=run.workspace, sae_id=sae.id, against_id=control.id))
    [chosen] = steer_jobs(run, sae, None, 1, 1)
    # One setting, and pictures of one step: that takes a third.
    quick = {"config": chosen.config.model_copy(update={"alphas": (4.0,)})}
    steer.fn(chosen.model_copy(update=quick | {"model": chosen.model.model_copy(update={"steps": 1})}))
    attributed.fn(attribution_job(run, sae, chosen.latent))
    return sae.id, chosen.latent


def explorer(workspace: Workspace) -> TestClient:
    """A browser's requests to the explorer of a workspace, without a socket."""
    app = create(Shelves(workspace), Studio(), Guard("127.0.0.1", 8130))
    return TestClient(app, base_url="http://127.0.0.1:8130", headers={"accept": "text/html"})


@contextmanager
def served(workspace: Workspace, token: str = "") -> Iterator[str]:
    """The explorer of a workspace on a socket, for the length of a `with` block; its address."""
    import uvicorn

    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        app = create(Shelves(workspace), Studio(threads=1), Guard("127.0.0.1", port, token))
        server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.should_exit = True
            thread.join(timeout=20)
