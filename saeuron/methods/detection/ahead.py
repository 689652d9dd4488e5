"""Look ahead: before a generation begins, run its first steps unedited, and note what sensors see.

Styles and objects are settled in the first steps, and there latents tell little: a gate that opens at the second step
comes too late (docs/log.md). So the first steps are done on a copy of the scheduler, from the noise of the images, as
the pipeline would do them (without its `guidance_rescale`); then the generation begins, with what was seen. `ahead`
counts the steps at which latents were scored: at another number of steps as much of the noise is looked at, to the
first timestep that is no higher. At the scored number that is ahead + 1 runs of the denoiser more. Noise that a
scheduler draws is that of the generation itself, from copies of its generators, so it belongs to the image whatever
the batch.
"""

import copy
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from saeuron.hooks import Step
from saeuron.methods.detection.sensor import Memory
from saeuron.pipelines import family_of
from saeuron.pipelines.calls import caller


class LookAhead:
    """Attached to the denoiser's input, which it leaves as it is."""

    def __init__(self, seen: Sequence[tuple[int, Memory]], pipe: Any) -> None:
        """`seen`: (the last scored step that is looked at, -1 for none; who remembers)."""
        self.seen, self.pipe, self._generation = seen, pipe, None

    def change(self, step: Step, output: Tensor) -> Tensor | None:
        """None, always. At a generation's first run of the denoiser the memories are filled."""
        new = step.generation is not None and step.generation is not self._generation
        self._generation = step.generation
        owner, call = caller(self.pipe)
        if not new or owner is None or step.call is None:
            return None
        timesteps = owner.scheduler.timesteps[step.index :].tolist()
        lasts = [_last(ahead, memory, timesteps) for ahead, memory in self.seen]
        if max(lasts, default=-1) < 0:
            return None
        now, asleep = (step.timestep, step.index), [memory.asleep for _, memory in self.seen]
        for _, memory in self.seen:
            memory.silent = True
        try:
            self._run(step, output, owner, call, lasts)
        finally:
            step.timestep, step.index = now
            for (_, memory), before in zip(self.seen, asleep, strict=True):
                memory.asleep, memory.silent = before, False
        return None

    def _run(self, step: Step, first: Tensor, owner: Any, variables: Mapping[str, Any], lasts: Sequence[int]) -> None:
        """Run the steps; `variables` are those of the pipeline's call."""
        assert step.call is not None
        latents: Tensor = variables["latents"]
        family, scheduler = family_of(self.pipe), copy.deepcopy(owner.scheduler)
        module, args, kwargs = step.call
        how = dict(variables.get("extra_step_kwargs") or {})
        if _draws(scheduler):
            how["generator"] = _copied(variables.get("generator"))
        last = max(lasts)
        for place, t in enumerate(scheduler.timesteps[step.index :][: last + 1]):
            if place:
                sample = scheduler.scale_model_input(latents, t) if hasattr(scheduler, "scale_model_input") else latents
                sample = (torch.cat([sample, sample]) if step.guided else sample).to(first.dtype)
                args, kwargs = _told(step.call, family.place, sample, t)
                step.timestep, step.index = int(t), step.index + 1
            for mine, (_, memory) in zip(lasts, self.seen, strict=True):
                memory.asleep = place > mine
            # Not a call of the module: its own hooks have run.
            predicted = family.stream(module, module.forward(*args, **kwargs))
            if place == last:
                return
            if step.guided:
                none, asked = predicted.chunk(2)
                predicted = none + float(owner.guidance_scale) * (asked - none)
            latents = scheduler.step(predicted, t, latents, **how, return_dict=False)[0]


def _last(ahead: int, memory: Memory, timesteps: Sequence[float]) -> int:
    """The place, in a generation's timesteps, of the last step that is looked at; -1: none."""
    if ahead < 0:
        return -1
    scored = sorted({t for sensor in memory.sensors for t in sensor.timesteps.tolist()}, reverse=True)
    until = scored[min(ahead, len(scored) - 1)]
    return next((place for place, t in enumerate(timesteps) if t <= until), len(timesteps) - 1)


def _copied(generators: Any) -> Any:
    """Generators in the same state, so that the generation's own go on as if nothing had been drawn."""
    if generators is None:
        # The global one must not move either.
        return torch.Generator().manual_seed(0)
    if isinstance(generators, torch.Generator):
        return generators.clone_state()
    return [each.clone_state() for each in generators]


def _draws(scheduler: Any) -> bool:
    """Whether a scheduler's steps draw noise."""
    return "generator" in inspect.signature(scheduler.step).parameters


def _told(
    call: tuple[nn.Module, tuple[Any, ...], Mapping[str, Any]], place: int, sample: Tensor, t: Tensor
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call of the denoiser, with another sample and timestep."""
    module, args, kwargs = call
    told, given = list(args), dict(kwargs)
    if told:
        told[0] = sample
    else:
        given[next(iter(inspect.signature(module.forward).parameters))] = sample
    old = given["timestep"] if "timestep" in given else told[place]
    new = torch.full_like(old, float(t)) if isinstance(old, Tensor) else t
    if "timestep" in given:
        given["timestep"] = new
    else:
        told[place] = new
    return tuple(told), given
