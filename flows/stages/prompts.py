"""The prompt sets of a run: its own, and one for each concept that was added later."""

import functools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from flows.run import Run
from saeuron.config import PromptsConfig
from saeuron.pipelines import loading
from saeuron.prompts import Prompt, placeholders
from tasks.prompts import PromptsJob
from tasks.prompts import prompts as task
from tasks.registry.concepts import Added


@dataclass(frozen=True)
class PromptSet:
    """A prompt set: its id and its prompts."""

    id: str
    prompts: tuple[Prompt, ...]

    def asking(self, concept: str) -> list[Prompt]:
        """The prompts that ask for a concept, in order."""
        return self._asking.get(concept, [])

    @functools.cached_property
    def _asking(self) -> dict[str, list[Prompt]]:
        found: dict[str, list[Prompt]] = defaultdict(list)
        for prompt in self.prompts:
            for concept in prompt.concepts.values():
                found[concept].append(prompt)
        return dict(found)


def prompts(run: Run) -> dict[str, PromptSet]:
    """{"": the run's own set, added concept: its set}."""
    own = PromptsJob(workspace=run.workspace, config=run.config.prompts, domains=run.config.domains)
    sets = {"": _made(run, own)}
    return sets | {concept.name: of_added(run, concept) for concept in run.added}


def of_added(run: Run, concept: Added) -> PromptSet:
    """The prompt set of an added concept, as its record describes it."""
    templates = concept.templates or run.config.prompts.templates
    named = run.config.domains
    mine = {split: tuple(t for t in ts if concept.domain in placeholders(t, named)) for split, ts in templates.items()}
    also = {concept.name: concept.also} if concept.also else {}
    domains = dict(run.config.domains)
    domains[concept.domain] = domains[concept.domain].model_copy(update={"concepts": (concept.name,)})
    return _made(
        run, PromptsJob(workspace=run.workspace, config=PromptsConfig(templates=mine, also=also), domains=domains)
    )


def _made(run: Run, job: PromptsJob) -> PromptSet:
    made, found = run.step(task, job), tuple(job.build())
    if not made.cached and (note := too_long(run.config.model.spec, found)):
        run.say(f"note: {note}")
    return PromptSet(made.id, found)


def too_long(spec: str, prompts: Sequence[Prompt]) -> str:
    """A note on prompts that are longer than the model's text encoder reads; empty if there are none."""
    if (tokenizer := loading.tokenizer(spec)) is None:
        return ""
    lost = loading.unread(tokenizer, (p.text for p in prompts))
    if not lost:
        return ""
    bare = [p for p in prompts if any(c.lower() in lost.get(p.text, "").lower() for c in p.concepts.values())]
    text, end = next((p.text, lost[p.text]) for p in (*bare, *prompts) if p.text in lost)
    return (
        f"{len(lost)} of {len(prompts)} prompts are longer than the {tokenizer.model_max_length} tokens that the model "
        f"reads, and {len(bare)} of them lose a concept; of {text!r} it does not read {end!r}: shorten them"
    )
