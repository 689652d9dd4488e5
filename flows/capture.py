"""Capture the activations that SAEs are trained on: one step a shard, then the commit."""

from flows.run import Run
from tasks import progress
from tasks.capture import CaptureJob, capture_shard, shard_count
from tasks.capture import capture as commit
from tasks.step import Made


def capture(run: Run, prompts_id: str) -> Made:
    """All hookpoints of the run in one pass."""
    job = CaptureJob(
        workspace=run.workspace,
        device=run.device,
        model=run.config.model,
        model_id=run.model_id,
        config=run.config.capture,
        prompts_id=prompts_id,
        hookpoints=run.config.hookpoints,
    )
    if not job.open.has(job.id):
        count = shard_count(job)
        for index in range(count):
            progress.stage("capture", index, count)
            run.step(capture_shard, job, index)
    progress.stage("capture", 1, 1)
    return run.step(commit, job)
