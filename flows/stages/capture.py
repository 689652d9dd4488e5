"""Capture activations for training: one step per shard, then one commit per hookpoint."""

from flows.run import Run
from flows.stages.prompts import PromptSet
from saeuron.capturing import images
from storage import Workspace
from tasks.capture import CaptureJob, capture_shard, shard_count
from tasks.capture import capture as commit
from tasks.engine import progress
from tasks.prompts import images_id


def capture(run: Run, prompts: PromptSet) -> dict[str, str]:
    """{hookpoint: capture id}, without hookpoints whose SAE is given. Missing captures are made in one pass."""
    jobs = [_job(run, prompts, hookpoint) for hookpoint in run.config.hookpoints if hookpoint not in run.config.saes]
    workspace = Workspace(run.workspace)
    if missing := [job for job in jobs if not workspace.has(job.id)]:
        beside = tuple(job.hookpoint for job in missing[1:])
        run.shards(capture_shard, missing[0].model_copy(update={"beside": beside}), shard_count, "capture")
    progress.stage("capture", 1, 1)
    return {job.hookpoint: run.step(commit, job).id for job in jobs}


def _job(run: Run, prompts: PromptSet, hookpoint: str) -> CaptureJob:
    steps = run.config.capture.steps or run.config.model.steps
    return CaptureJob(
        workspace=run.workspace,
        device=run.device,
        model=run.config.model.model_copy(update={"steps": steps}),
        model_id=run.model_id,
        # The number is the model's; so that one way to say it gives the id of the other.
        config=run.config.capture.model_copy(update={"steps": None}),
        prompts_id=prompts.id,
        images_id=images_id(images(prompts.prompts, run.config.capture)),
        hookpoint=hookpoint,
    )
