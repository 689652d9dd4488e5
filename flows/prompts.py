"""Which prompt sets a run needs: its own, and one for each concept that was added later."""

from flows.run import Run
from saeuron.config import PromptsConfig
from tasks.prompts import PromptsJob
from tasks.prompts import prompts as task


def prompts(run: Run) -> dict[str, str]:
    """{"": id of the run's own set, added concept: id of its set}."""
    own = PromptsJob(workspace=run.workspace, config=run.config.prompts, domains=run.config.domains)
    ids = {"": run.step(task, own).id}
    for concept in run.added:
        templates = concept.templates or run.config.prompts.templates
        mine = {split: tuple(t for t in ts if f"{{{concept.domain}}}" in t) for split, ts in templates.items()}
        domains = dict(run.config.domains)
        domains[concept.domain] = domains[concept.domain].model_copy(update={"concepts": (concept.name,)})
        job = PromptsJob(workspace=run.workspace, config=PromptsConfig(templates=mine), domains=domains)
        ids[concept.name] = run.step(task, job).id
    return ids
