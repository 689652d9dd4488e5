"""Interpret-then-Deactivate (2503.09446): turn a concept's latents down in a text encoder, where a prompt asks for it.

    q(p) = mean over tokens of |sum_{i in F} (beta - 1) f_i W_dec[i]|^2
    a prompt is edited if q(p) >= tau,   tau = 0.99 of the least q > 0 over training prompts that ask for c

The paper's gate is the error of the reconstruction with F off. q needs only the rows of F, and is exactly 0 if none of
them fires. A prompt that is not edited gives the same image, bit for bit.
"""

import torch

from saeuron.methods.gates import GatedEdit, gated
from saeuron.methods.text import sae
from saeuron.methods.text.text_latents import TextLatents

SLACK = 0.99


class ItD(TextLatents):
    """`beta` and `layer` as for text_latents."""

    name = "itd"

    def edit(self, found: sae.TextLatents, beta: float) -> GatedEdit:
        """The edit with the gate."""
        plain = gated(found.edit(beta), "scaled", first=sae.FIRST, gate="change", tau=torch.zeros(1))
        q = plain.gated(found.asked, -1)[1]
        # A prompt in which nothing fires cannot be edited, and tau = 0 would open the gate for all.
        tau = SLACK * q[q > 0].min()[None] if bool((q > 0).any()) else torch.tensor([torch.inf])
        return gated(found.edit(beta), "scaled", first=sae.FIRST, gate="change", tau=tau)
