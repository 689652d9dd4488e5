"""RA-SAE, the relaxed archetypal SAE (2502.12892)."""

import torch
from torch import Tensor, nn

from saeuron.noise import generator
from saeuron.sae.config import SAEConfig
from saeuron.sae.variants.batch_topk import BatchTopK


class RASAE(BatchTopK):
    """BatchTopK whose decoder stays near the data: W_dec = exp(s) (W C + Lambda) (equation 4).

    Rows of W lie on the simplex, so rows of W C are convex combinations of the candidate points C, (M, D); rows of
    Lambda have norm at most delta. W_dec is a function of the parameters s, W and Lambda; its rows have no fixed norm.
    The export holds W_dec as computed.

    Choices: C are rows of the first sample minus b_dec, drawn without repetition and divided by their mean length,
    which makes that length the unit of delta (the paper first clusters its data by k-means). W = softmax(speed * V):
    the paper's code clips at zero and divides by the sum after each step, but Adam moves every entry by about its
    learning rate, so of a thousand entries the many small ones would soon outweigh the few that matter. Latent i starts
    at candidate i; latents beyond the last candidate start halfway between two. W_enc starts at the directions of
    W_dec, s and Lambda at 0.
    """

    of_decoder = ("logits", "relaxation", "scale")

    def __init__(self, config: SAEConfig, width: int) -> None:
        super().__init__(config, width)
        del self.W_dec
        points = min(config.ra_sae.candidates, config.batch)
        chance = generator(config.seed, "ra_sae", self.n_latents, points)
        self.candidates: Tensor
        drawn = torch.randn(points, width, generator=chance, device="cpu")
        self.register_buffer("candidates", nn.functional.normalize(drawn))
        self.logits = nn.Parameter(_start(self.n_latents, points) / config.ra_sae.speed)
        self.relaxation = nn.Parameter(torch.zeros(self.n_latents, width))
        self.scale = nn.Parameter(torch.zeros(()))

    def mixing(self) -> Tensor:
        """W, (N, M): entries are at least 0, rows sum to 1."""
        return (self.config.ra_sae.speed * self.logits).softmax(1)

    def decoder(self) -> Tensor:
        return self.scale.exp() * (self.mixing() @ self.candidates + self.relaxation)

    @torch.no_grad()
    def initialise(self, rows: Tensor) -> None:
        super().initialise(rows)
        chance = generator(self.config.seed, "ra_sae", "candidates")
        order = torch.randperm(len(rows), generator=chance, device="cpu")
        # If the sample is too small, rows repeat.
        chosen = rows[order.repeat(-(-len(self.candidates) // len(rows)))[: len(self.candidates)]] - self.b_dec
        self.candidates.copy_(chosen / chosen.norm(dim=1).mean().clamp(min=1e-12))
        self.W_enc.copy_(nn.functional.normalize(self.decoder()))

    def project_gradients(self) -> None:
        """Do nothing: rows of W_dec may change their norms."""

    @torch.no_grad()
    def constrain(self) -> None:
        """Shorten rows of Lambda to norm delta at most."""
        norms = self.relaxation.norm(dim=1, keepdim=True)
        self.relaxation.mul_((self.config.ra_sae.delta / norms.clamp(min=1e-12)).clamp(max=1))


def _start(n_latents: int, points: int) -> Tensor:
    """Initial logits, (N, M). Softmax gives nine tenths to candidate i, or for i >= M to a pair of candidates.

    No pair occurs twice while N < M^2 / 2: latents that start alike would stay alike.
    """
    latents = torch.arange(n_latents)
    first = latents % points
    second = (first + latents // points) % points
    share = torch.full((n_latents, points), 0.1 / points)
    share[latents, first] += 0.45
    share[latents, second] += 0.45
    return share.log()
