"""Replace the activations of a concept's latents by their mean over the domain; there is no strength to choose.

    f'_i = m(i,t)   if i in F(c,t) and f_i > m(i,t), else f_i
    x'   = x + sum_{i in F} (f'_i - f_i) W_dec[i]

F(c,t) are the n latents with the highest score at step t, m(i,t) the unweighted mean of mu(i,t,c') over the concepts of
the domain, c among them, as in SAeUron (2501.18052).
"""

from typing import Any, ClassVar

from saeuron.methods.base import Evidence, Settings
from saeuron.methods.gates import GatedEdit, gated
from saeuron.methods.saeuron import SAeUron, build_edit


class Replace(SAeUron):
    """`n`: latents that are replaced at each step."""

    name = "replace"
    grid: ClassVar = {"n": (1, 2, 8, 32)}

    def parts(self, evidence: Evidence, learned: Any, settings: Settings) -> tuple[GatedEdit, ...]:
        """One edit for each hookpoint."""
        del learned
        found = []
        for hookpoint, sae in evidence.saes.items():
            profile, sae_id = evidence.profiles[hookpoint], evidence.sae_ids.get(hookpoint, "")
            # Of this edit only the floor and the choice of latents are used, not the multiplier.
            edit = build_edit(sae, profile, settings["n"], -1.0, sae_id=sae_id, half=evidence.half)
            found.append(gated(edit, "replaced", profile.threshold[:, edit.latents]))
        return tuple(found)
