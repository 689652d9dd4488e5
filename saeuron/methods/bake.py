"""Fold a removal into a model's weights, so that nothing is attached when images are generated.

Changes of weights fold as they are; a direction folds into a bias where it is the same at every step, for both halves
and every position. Edits that look at what they change, and texts of the call, cannot be folded.
"""

from typing import Any

import torch
from torch import Tensor, nn

from saeuron.errors import ConfigError
from saeuron.hooks import INPUT, resolve
from saeuron.methods.parts import Change, Edit, Part
from saeuron.methods.removal import Removal
from saeuron.methods.steering import DirectionEdit
from saeuron.methods.weights.part import WeightChange


def unfoldable(removal: Removal, pipe: Any = None) -> list[str]:
    """The parts of a removal that cannot be folded, each with its reason; without a pipeline, as far as is known."""
    found = []
    for part in removal.parts:
        where = f"{part.kind} at {part.hookpoint}" if isinstance(part, Edit) else part.kind
        if why := _why_not(part, pipe):
            found.append(f"{where} ({why})")
    return found


def _why_not(part: Part, pipe: Any | None) -> str:
    if isinstance(part, WeightChange):
        return ""
    # A subclass may add its direction at some positions alone.
    if type(part) is not DirectionEdit:
        return "it depends on the image or the prompt"
    if part.half != "both":
        return f"it edits the {part.half} half alone"
    if not torch.equal(part.direction, part.direction[:1].expand_as(part.direction)):
        return "its direction differs between steps"
    return "" if pipe is None or _bias(pipe, part.hookpoint) is not None else "the module has no bias"


def _bias(pipe: Any, hookpoint: str) -> Tensor | None:
    """The bias that is added to every position of a module's output, or None. It is the module's own, or that of an
    attention block's `proj_out`, after which only the block's input is added.
    """
    module: Any = resolve(pipe, hookpoint)
    last = getattr(module, "proj_out", module)
    linear = isinstance(last, (nn.Linear, nn.Conv2d)) and not hookpoint.endswith(INPUT)
    return last.bias.data if linear and last.bias is not None else None


def check(removal: Removal, pipe: Any = None) -> None:
    """Raise ConfigError if a part cannot be folded, into any model or into that of a pipeline."""
    if left := unfoldable(removal, pipe):
        raise ConfigError(
            f"the removal of {removal.concept!r} by {removal.method} cannot be baked: {'; '.join(left)}. "
            "Attach it instead: removal.attached(pipe)."
        )


def bake(pipe: Any, removal: Removal) -> None:
    """Change the pipeline's weights for good, so that it generates as with the removal attached.

    Raises:
        ConfigError: a part cannot be folded; nothing was changed then.
    """
    check(removal, pipe)
    for part in sorted(removal.parts, key=lambda part: part.order if isinstance(part, Change) else 0):
        if isinstance(part, WeightChange):
            for path in part.layers:
                for weight in part.weights(path, resolve(pipe, path)):
                    weight.data = part.of(path, weight.data)
        elif isinstance(part, DirectionEdit) and (bias := _bias(pipe, part.hookpoint)) is not None:
            bias += part.direction[0].to(bias)
