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
    run.shards(capture_shard, job, shard_count, "capture")
    progress.stage("capture", 1, 1)
    return run.step(commit, job)
