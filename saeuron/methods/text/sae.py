"""An SAE of a text encoder's states, trained on prompts in seconds, and a concept's latents in it (2503.09446).

    K(p) = the s latents with the greatest f over the tokens of a prompt, the first token left out
    F(c) = union of K(p) over prompts that ask for c, minus the union over those that ask for others

s is 2 k, k, k / 2, ...: the one for which a latent of F fires in most of the concept's prompts. (In an SAE with few
latents, the union over many prompts at 2 k would hold all of them.) The SAE has thresholds (`batch_topk`), so that a
removal holds only the rows of F.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from saeuron.errors import ConfigError
from saeuron.methods.base import Evidence
from saeuron.methods.latents import LatentEdit, edit_latents
from saeuron.methods.text.states import BATCH, layer, rows
from saeuron.sae.autoencoder import SAE
from saeuron.sae.config import Dictionary, SAEConfig
from saeuron.sae.streams import in_memory
from saeuron.sae.training import Trainer, together

TRAINING = SAEConfig(
    variant="batch_topk", expansion=8, k=8, batch=512, steps=300, lr=1e-2, inference="threshold", normalize=True
)
ROWS = 1 << 17
"""Training rows, at most."""
PASSES = 40
"""Passes over the training rows, at most."""
FIRST = 1
"""The start token is the same in every prompt and is left alone."""
_trained: dict[Dictionary, tuple[tuple[str, str], SAE]] = {}
"""{kind: (hookpoint and hash of rows and settings, the last SAE)}: concepts of a domain share prompts so the SAE."""


@dataclass(frozen=True, eq=False)
class TextLatents:
    """A concept's latents in a text encoder's SAE."""

    sae: SAE
    chosen: Tensor
    """F, bool [N]."""
    asked: Tensor
    """States of the prompts that ask for the concept, float32 [P, L, D]."""

    def edit(self, beta: float) -> LatentEdit:
        """f_i -> beta f_i for i in F, wherever it fires."""
        one = self.chosen[None]
        factor, floor = torch.full(one.shape, beta), torch.zeros(one.shape)
        return edit_latents(self.sae, torch.tensor([-1]), one, factor, floor, half="conditional")


def text_latents(evidence: Evidence, number: int, training: SAEConfig = TRAINING) -> TextLatents:
    """Find the concept's latents in the SAE of a layer, which is trained first unless another concept's run did it.

    Returns:
        The latents; none at all, if none belongs to the concept alone in an SAE that was not trained.

    Raises:
        ConfigError: none belongs to the concept alone in a trained one.
    """
    hookpoint = layer(evidence.pipe, number)
    texts = sorted({p.text for p in (*evidence.asked, *evidence.retained)})
    sae = _sae(evidence.pipe, texts, hookpoint, training)
    asked = rows(evidence.pipe, [p.text for p in evidence.asked], hookpoint)
    retained = [p.text for p in evidence.retained]
    most = min(2 * training.k, sae.info.n_latents)
    mine = ranks(sae, asked, most)
    others = torch.full_like(mine, most)
    for start in range(0, len(retained), BATCH):
        batch = rows(evidence.pipe, retained[start : start + BATCH], hookpoint)
        others = torch.minimum(others, ranks(sae, batch, most))
    fires, best, covered, selected = sae.encode(asked[:, FIRST:]).amax(1) > 0, mine > most, 0, most
    while selected:
        chosen = (mine < selected) & (others >= selected)
        if (count := int(fires[:, chosen].any(1).sum())) > covered:
            best, covered = chosen, count
        selected //= 2
    if covered or training.dictionary != "trained":
        # A control whose SAE has no latent of the concept changes nothing: that is its result, not a mistake.
        return TextLatents(sae, best if covered else torch.zeros_like(best), asked)
    raise ConfigError(
        f"none of the {sae.info.n_latents} latents of the text encoder's SAE at {hookpoint} is among the {most} "
        f"strongest of prompts for {evidence.concept!r} alone; take another layer."
    )


def ranks(sae: SAE, states: Tensor, most: int) -> Tensor:
    """The best rank of each latent in any prompt, by its greatest f over tokens, int64 [N]: 0 is the strongest; `most`
    stands for all ranks from there on, and for latents that do not fire.
    """
    f = sae.encode(states[:, FIRST:]).amax(1)
    best = f.topk(most, dim=1)
    found = torch.full((f.shape[1],), most)
    for rank in range(most):
        fires = best.values[:, rank] > 0
        found[best.indices[fires, rank]] = found[best.indices[fires, rank]].clamp(max=rank)
    return found


def _sae(pipe: Any, texts: Sequence[str], hookpoint: str, training: SAEConfig) -> SAE:
    x = rows(pipe, texts, hookpoint)[:, FIRST:].flatten(0, 1)
    key = hookpoint, hashlib.sha256(x.numpy().tobytes() + training.model_dump_json().encode()).hexdigest()
    known = _trained.get(training.dictionary)
    if known is None or known[0] != key:
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(training.seed))[:ROWS]
        # Few prompts need fewer steps: each row is seen PASSES times at most.
        batch = min(training.batch, len(order))
        steps = max(1, min(training.steps, PASSES * len(order) // batch))
        trainer = Trainer(training.model_copy(update={"batch": batch, "steps": steps}), x.shape[1], hookpoint)
        stream = in_memory(x[order].numpy(), batch, training.seed)
        trainer.initialise(x[order[:batch]])
        together([trainer], stream, {})
        known = _trained[training.dictionary] = key, trainer.sae.requires_grad_(False)
    return known[1]
