"""Changes of weights that gradients find: for each layer a low-rank term is trained instead of the weight.

    y = W x + b + up (down x),   up = 0 at the start

A removal's file holds the trained factors exactly. The model's own weights are never changed.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from saeuron.errors import SaeuronError, UnknownName
from saeuron.hooks import hookpoints
from saeuron.methods.weights.part import WeightDelta
from saeuron.noise import generator


class LowRank:
    """Terms of low rank of some linear layers, and the optimiser that trains them.

    Args:
        paths: the layers, dotted paths from the pipeline.
        rank: rank of each term, or less if the layer is narrower.
        rate: Adam's learning rate.
        seed: seed of `down`, which starts normal with variance 1 / D.

    Raises:
        UnknownName: a path is not a linear layer.
    """

    def __init__(self, pipe: Any, paths: Sequence[str], rank: int, rate: float, seed: int) -> None:
        known = {path: m for path, m in hookpoints(pipe).items() if isinstance(m, nn.Linear)}
        self.layers: dict[str, nn.Linear] = {}
        self.factors: dict[str, tuple[Tensor, Tensor]] = {}
        for path in paths:
            if path not in known:
                raise UnknownName("linear layer", path, known)
            self.layers[path] = known[path]
            outputs, inputs = known[path].weight.shape
            r, device = min(rank, outputs, inputs), known[path].weight.device
            down = torch.randn(r, inputs, generator=generator(seed, "down", path), device="cpu") / inputs**0.5
            self.factors[path] = (
                torch.zeros(outputs, r, device=device, requires_grad=True),
                down.to(device).requires_grad_(),
            )
        self.optimiser = torch.optim.Adam(self.parameters, rate)

    @property
    def parameters(self) -> list[Tensor]:
        """Every `up` and `down`."""
        return [factor for pair in self.factors.values() for factor in pair]

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Add the terms to the layers' outputs until the context ends."""
        with ExitStack() as stack:
            for path, module in self.layers.items():
                up, down = self.factors[path]

                def after(module: nn.Module, args: Any, output: Tensor, up: Tensor = up, down: Tensor = down) -> Tensor:
                    del module
                    return output + ((args[0].float() @ down.T) @ up.T).to(output.dtype)

                stack.callback(module.register_forward_hook(after).remove)
            yield

    def step(self, loss: Tensor) -> None:
        """One update. Other parameters of the model get no gradient.

        Raises:
            SaeuronError: the loss is not finite.
        """
        if not bool(torch.isfinite(loss.detach())):
            raise SaeuronError(
                "training of a change of weights diverged: the loss is not finite; take a milder setting."
            )
        gradients = torch.autograd.grad(loss, self.parameters)
        for factor, gradient in zip(self.parameters, gradients, strict=True):
            factor.grad = gradient
        self.optimiser.step()

    def parts(self) -> tuple[WeightDelta, ...]:
        """The trained terms as one part for each layer, on the CPU."""
        return tuple(
            WeightDelta((path,), up.detach().cpu().clone(), down.detach().cpu().clone())
            for path, (up, down) in self.factors.items()
        )
