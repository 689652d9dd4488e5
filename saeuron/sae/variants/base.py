"""The trainable form of SAE variants: parameters, the loss of a batch, and the export for inference.

Notation: x in R^D, x_bar = x - b_dec, p = W_enc x_bar + b_enc, f = activation(p), x_hat = f W_dec + b_dec.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from saeuron.sae.autoencoder import SAE, SAEInfo
from saeuron.sae.config import SAEConfig
from saeuron.sae.losses import aux_k, fvu, geometric_median
from saeuron.sae.ranks import ALONE, Ranks
from saeuron.sae.selection import Activation
from saeuron.sae.sparse import TORCH, Pattern, Room, decode, encode_at


class Forward(NamedTuple):
    """Result of one batch."""

    loss: Tensor
    """The training loss, scalar, without AuxK."""
    x_hat: Tensor
    """[B, D]."""
    fired: Tensor
    """bool [N], f != 0 in any row."""
    active: int
    """Number of f != 0 in the batch."""
    least: Tensor | None = None
    """Least kept activation: a scalar, or (N) for one per latent; infinite if none was kept. None for a variant that
    learns its thresholds or has none."""


class Variant(nn.Module, ABC):
    """The trainable form of an SAE. Subclasses define `forward`; they keep tensor names and shapes, or define `export`.

    Attributes:
        W_enc, W_dec: (N, D). b_enc: (N). b_dec: (D).
        threshold: theta for inference, (N); a buffer, tracked by `follow`.
    """

    activation: ClassVar[Activation] = "threshold"
    """Activation function of the exported SAE."""
    of_decoder: ClassVar[tuple[str, ...]] = ("W_dec",)
    """The parameters that the decoder is made of."""
    latents_of: Ranks = ALONE
    """The processes that each hold a part of the latents; see `SparseVariant.divide`."""
    rows_of: Ranks = ALONE
    """The processes that each hold a slice of every batch; set by the trainer."""

    def __init__(self, config: SAEConfig, width: int) -> None:
        super().__init__()
        self.config, self.width, self.n_latents = config, width, config.latents(width)
        start = SAE(SAEInfo(config.variant, width, self.n_latents, config.k), config.seed)
        self.W_enc, self.W_dec, self.b_enc, self.b_dec = start.W_enc, start.W_dec, start.b_enc, start.b_dec
        self.threshold: Tensor
        self.register_buffer("threshold", start.threshold)

    @torch.no_grad()
    def initialise(self, rows: Tensor) -> None:
        """Initialise from a first sample [B, D]: b_dec becomes its geometric median."""
        self.b_dec.copy_(geometric_median(rows))

    def freeze_decoder(self) -> None:
        """Keep the decoder as it is: its parameters get no gradient, and so no update."""
        for name in self.of_decoder:
            getattr(self, name).requires_grad_(False)

    def decoder(self) -> Tensor:
        """W_dec, (N, D), as a function of the parameters."""
        return self.W_dec

    @abstractmethod
    def forward(self, x: Tensor, step: int) -> Forward:
        """The loss of a batch [B, D] at an optimizer step; random numbers are drawn from (seed, step)."""

    def auxiliary(self, x: Tensor, x_hat: Tensor, dead: Tensor) -> Tensor:
        """AuxK of the dead latents, bool [N]; computes p of these alone."""
        which = dead.nonzero().squeeze(1)
        pre = (x - self.latents_of.shared(self.b_dec)) @ self.W_enc[which].T + self.b_enc[which]
        return aux_k(x, x_hat, pre, self.decoder()[which], self.latents_of, self.rows_of)

    @torch.no_grad()
    def project_gradients(self) -> None:
        """Subtract from W_dec's gradient its component along each row, which could only change the fixed norm."""
        W, g = self.W_dec, self.W_dec.grad
        if not W.requires_grad:
            return
        assert g is not None
        # In blocks that stay in the cache between reading and writing.
        for block, row in zip(g.split(1024), W.split(1024), strict=True):
            block.addcmul_((block * row).sum(1, keepdim=True), row, value=-1)

    @torch.no_grad()
    def constrain(self) -> None:
        """Enforce the constraints after a step: rows of W_dec get unit norm."""
        if not self.W_dec.requires_grad:
            # Dividing unit rows by their norms would still move them by rounding.
            return
        for rows in self.W_dec.split(1024):
            rows.div_(rows.norm(dim=1, keepdim=True))

    @torch.no_grad()
    def follow(self, least: Tensor | None, step: int) -> None:
        """Update theta, the running mean of the least kept activation (2412.06410, section 3).

        An exact mean over the first hundred steps, then over about the last hundred.
        """
        if least is None:
            return
        least = least.expand_as(self.threshold)
        rate = max(1 / (step + 1), 0.01)
        self.threshold.copy_(torch.where(torch.isfinite(least), self.threshold.lerp(least, rate), self.threshold))

    def export(self, hookpoint: str = "") -> SAE:
        """The SAE for inference; shares no memory with the variant."""
        activation = "threshold" if self.config.inference == "threshold" else self.activation
        return self._exported(hookpoint, activation)

    def _exported(self, hookpoint: str, activation: Activation) -> SAE:
        info = SAEInfo(self.config.variant, self.width, self.n_latents, self.config.k, hookpoint, activation)
        names = ("W_enc", "b_enc", "b_dec", "threshold")
        tensors = {name: getattr(self, name).detach().cpu().clone() for name in names}
        return SAE.of(info, {**tensors, "W_dec": self.decoder().detach().cpu().clone()})


class SparseVariant(Variant):
    """A variant that chooses few latents by comparing p; only the chosen ones get gradients.

    Two paths give the same numbers. The fast path makes one dense product, p, and then works on the chosen pairs
    (`saeuron.sae.sparse`). The plain path is autograd through dense latents; it is the reference.
    """

    fast: bool = True
    """Whether to use the fast path; set by the trainer."""
    by_row: ClassVar[bool] = False
    """Whether a fixed number is chosen in each row, even with ties."""
    divided: ClassVar[frozenset[str]] = frozenset({"W_enc", "W_dec", "b_enc", "threshold"})
    """Tensors that `divide` divides: those with a row for each latent."""

    def __init__(self, config: SAEConfig, width: int) -> None:
        super().__init__(config, width)
        self.room = Room()
        """Memory of the fast path; variants that take their steps in turns may share it."""
        self.kernels = TORCH
        """Kernels of the fast path; set by the trainer."""

    def divide(self, ranks: Ranks) -> None:
        """Keep only this rank's latents. Batches, x_hat, the loss and b_dec stay whole, and equal on all ranks."""
        self.latents_of, self.n_latents = ranks, self.n_latents // ranks.size
        with torch.no_grad():
            for name in self.divided:
                tensor = getattr(self, name)
                tensor.data = ranks.part_of(tensor.data)

    @abstractmethod
    def choose(self, pre: Tensor, x_bar: Tensor) -> Pattern:
        """The active pairs of p [B, N]; pairs of value zero are left out, so that they get no gradient."""

    def value(self, pre: Tensor) -> Tensor:
        """f of the chosen p, [M]."""
        return pre

    def least(self, pattern: Pattern, values: Tensor) -> Tensor:
        """Least kept activation, see `Forward`; infinite if none was kept."""
        return self.latents_of.least(values.amin() if len(values) else values.new_tensor(torch.inf))

    def decode(self, pattern: Pattern, values: Tensor) -> Tensor:
        """f W_dec [B, D] of f [M] at the pairs of a pattern, by the fast path."""
        W_dec = self.decoder()
        return decode(pattern, values, W_dec, self.table(W_dec), self.kernels)

    def table(self, W: Tensor) -> Tensor:
        """The copy of a weight matrix that gathers read: bfloat16 if the precision asks for it and the kernels can."""
        half = self.kernels.reads_half and self.config.precision == "bfloat16"
        return W.detach().bfloat16() if half else W.detach()

    def reconstruct(self, pattern: Pattern, values: Tensor) -> Tensor:
        """x_hat [B, D] of f [M] at the pairs of a pattern."""
        if self.fast:
            return self.latents_of.total(self.decode(pattern, values)) + self.b_dec
        return self.latents_of.total(pattern.dense(values) @ self.decoder()) + self.b_dec

    def loss(self, x: Tensor, x_hat: Tensor, pattern: Pattern, values: Tensor, pre: "Pre") -> Tensor:
        """The training loss, without AuxK."""
        del pattern, values, pre
        return fvu(x, x_hat, self.rows_of)

    def forward(self, x: Tensor, step: int) -> Forward:
        del step
        return self.result(x)

    def result(self, x: Tensor, more: "Callable[[Pattern, Tensor, Pre], Tensor] | None" = None) -> Forward:
        """The result of `forward`; `more` is added to the loss, of (pattern, values, pre)."""
        pre = Pre(self, x)
        pattern = self.choose(pre.all.detach(), pre.x_bar.detach())
        values = self.value(pre.at(pattern))
        x_hat = self.reconstruct(pattern, values)
        loss = self.loss(x, x_hat, pattern, values, pre)
        if more is not None:
            loss = loss + more(pattern, values, pre)
        least = self.least(pattern, values.detach())
        return Forward(loss, x_hat, pattern.any(), len(values), least)


class Pre:
    """p of a batch: all of it, to choose from, and differentiable at the chosen pairs."""

    def __init__(self, variant: SparseVariant, x: Tensor) -> None:
        self.variant = v = variant
        self.b_dec = v.latents_of.shared(v.b_dec)
        self.x_bar = x - self.b_dec
        if v.fast:
            with torch.no_grad():
                self.all = self._product()
        else:
            self.all = self.x_bar @ v.W_enc.T + v.b_enc

    def _product(self) -> Tensor:
        v = self.variant
        if v.config.precision == "bfloat16":
            x_bar, W_enc = self.x_bar.bfloat16(), v.W_enc.bfloat16()
            if v.kernels.reads_half and v.by_row:
                return torch.addmm(v.b_enc.bfloat16(), x_bar, W_enc.T)
            # Others compare sums of p or keep all ties, and rounding makes ties: float32 biases separate them.
            return (x_bar @ W_enc.T).float() + v.b_enc
        if self.x_bar.device.type != "cpu":
            # torch caches device memory itself.
            return torch.addmm(v.b_enc, self.x_bar, v.W_enc.T)
        room = v.room.of(len(self.x_bar), len(v.b_enc), self.x_bar)
        return torch.addmm(v.b_enc, self.x_bar, v.W_enc.T, out=room)

    def at(self, pattern: Pattern) -> Tensor:
        """p of the pairs, [M]."""
        v = self.variant
        if not v.fast:
            return self.all[pattern.rows, pattern.latents]
        x_bar = self.x_bar.detach()
        if v.config.precision == "bfloat16":
            # Pairs were chosen in bfloat16; their values are recomputed with sums in float32.
            with torch.no_grad():
                found = v.kernels.dots(pattern, x_bar, v.table(v.W_enc)) + v.b_enc[pattern.latents]
        else:
            found = self.all[pattern.rows, pattern.latents]
        return encode_at(pattern, x_bar, v.W_enc, v.b_enc, self.b_dec, found, v.kernels)
