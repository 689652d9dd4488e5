"""One update of a variant's parameters from their gradients: projection, clipping, Adam, constraints."""

from collections.abc import Iterable, Mapping
from inspect import unwrap
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from saeuron.sae.config import SAEConfig
from saeuron.sae.ranks import Ranks
from saeuron.sae.variants import SparseVariant, Variant

if TYPE_CHECKING:
    from saeuron.sae.triton_kernels import Adam


class _Adam(torch.optim.Adam):
    """torch's Adam with the same numbers, but nothing around it for `torch.compile`, which nothing here uses.

    torch's own imports `torch._dynamo`, over a second of processor time in each process that trains.
    """

    step = unwrap(torch.optim.Adam.step)
    add_param_group = unwrap(torch.optim.Adam.add_param_group)
    state_dict = unwrap(torch.optim.Adam.state_dict)
    load_state_dict = unwrap(torch.optim.Adam.load_state_dict)


class Update:
    """The reference update, with torch's own operators.

    Attributes:
        optimizer: Adam, whose moments are part of a checkpoint.
    """

    optimizer: torch.optim.Adam

    def __init__(self, variant: Variant, config: SAEConfig, latents_of: Ranks) -> None:
        """`latents_of` are the processes that each hold a part of the latents."""
        self.variant, self.config, self.latents_of = variant, config, latents_of
        self.optimizer = self._adam()

    def _adam(self) -> torch.optim.Adam:
        # Fused where torch supports it: four passes over memory instead of about fourteen.
        return _Adam(self.variant.parameters(), lr=self.config.lr, eps=6.25e-10, fused=True)

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Update the parameters from their gradients, at a learning rate."""
        self.variant.project_gradients()
        gradients = self.gradients()
        if self.latents_of.size == 1:
            norm = torch.nn.utils.get_total_norm(gradients.values())
        else:
            norm = self.norm({name: g.square().sum() for name, g in gradients.items()})
        factor = self.factor(norm)
        # On a CPU reading the factor is free, and skipping a factor of one saves a pass over all gradients.
        if factor.device.type != "cpu" or not factor >= 1:
            for gradient in gradients.values():
                gradient.mul_(factor)
        self.change(rate)
        self.variant.constrain()

    def gradients(self) -> dict[str, Tensor]:
        """All existing gradients, by parameter name."""
        return {name: p.grad for name, p in self.variant.named_parameters() if p.grad is not None}

    def norm(self, squares: Mapping[str, Tensor]) -> Tensor:
        """Norm of all gradients, other processes' latents included, from sums of squares by parameter name."""
        common = _sum(s for name, s in squares.items() if name not in SparseVariant.divided)
        return (self.latents_of.add(_sum(s for n, s in squares.items() if n in SparseVariant.divided)) + common).sqrt()

    def factor(self, norm: Tensor) -> Tensor:
        """Clipping factor for gradients of that norm."""
        return (self.config.clip / (norm + 1e-6)).clamp(max=1.0)

    def change(self, rate: float) -> None:
        """Take Adam's step."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()


class TritonUpdate(Update):
    """The same update in two passes over memory; for CUDA, and variants whose only constraint is unit decoder rows."""

    optimizer: "Adam"

    def _adam(self) -> "Adam":
        from saeuron.sae.triton_kernels import Adam

        made = Adam(self.variant.parameters(), lr=self.config.lr, eps=6.25e-10)
        made.unit = frozenset({self.variant.W_dec})
        return made

    @torch.no_grad()
    def step(self, rate: float) -> None:
        from saeuron.sae.triton_kernels import project

        parameters, squares = dict(self.variant.named_parameters()), {}
        for name, gradient in self.gradients().items():
            weight = parameters[name]
            if gradient.dim() == 2:
                weight.grad = gradient = gradient.contiguous()
                squares[name] = project(gradient, weight, unit=weight in self.optimizer.unit).sum()
            else:
                squares[name] = gradient.square().sum()
        self.optimizer.scale = self.factor(self.norm(squares))
        self.change(rate)

    @staticmethod
    def suits(variant: Variant) -> bool:
        """Whether this update does everything that the variant needs."""
        kind = type(variant)
        return (kind.project_gradients, kind.constrain) == (Variant.project_gradients, Variant.constrain)


def _sum(squares: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(squares)).sum()
