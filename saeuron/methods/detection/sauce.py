"""SAUCE (2503.14530): a concept's latents, found with a few images, turned down in the images that show the concept.

    F(c,t) = the n latents with the greatest mean f over 8 images of c - mean f over 8 of other concepts, above 0
    x'     = x + sum_{i in F} (beta - 1) f_i W_dec[i]    in images with G(b,t) >= tau(t)

For G and tau see thresholds.py. The conditional half decides the gate for both. Only the abstract and notes by others
were read: the gate, and choosing F at each step, are choices of this project. No statistics of the domain are used.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from saeuron.errors import ConfigError, UnknownName
from saeuron.methods.base import Evidence, Method, Settings
from saeuron.methods.detection.sensor import whole
from saeuron.methods.detection.thresholds import with_thresholds
from saeuron.methods.gates import GatedEdit, gated
from saeuron.methods.latents import edit_latents
from saeuron.methods.steering import read
from saeuron.scoring import Accumulator, means, select

FEW = 8
"""Images of the concept, and equally many of others, from which its latents are found."""
GATES = ("image", "none")


class Sauce(Method):
    """`n`: latents at each step; `beta`: what multiplies them; `gate`: `image`, or `none` for all images."""

    name = "sauce"
    needs = frozenset({"latents", "activations"})
    grid: ClassVar[Mapping[str, Sequence[Any]]] = {"n": (1, 4), "beta": (0.0, -1.0, -2.0, -4.0), "gate": ("image",)}

    def ordered(self, name: str, values: Sequence[Any]) -> list[Any]:
        """Few latents before many, large betas before small ones."""
        if name == "n":
            return whole(name, values)
        if name == "gate":
            for value in values:
                if value not in GATES:
                    raise UnknownName("gate", str(value), GATES)
            return list(values)
        if bad := [v for v in values if isinstance(v, bool) or not isinstance(v, (int, float)) or v >= 1]:
            raise ConfigError(f"beta holds {bad[0]!r}; expected numbers below 1, which changes nothing.")
        return sorted(map(float, values), reverse=True)

    def learn(self, evidence: Evidence) -> Any:
        """({hookpoint: (timesteps [T], difference of means [T, N])}, {(n, gate): edits that turn latents off})."""
        totals = []
        for images in (evidence.target[:FEW], evidence.others[:FEW]):
            readers = {h: Accumulator(sae, "conditional") for h, sae in evidence.saes.items()}
            read(evidence, images, readers)
            totals.append({h: reader.totals() for h, reader in readers.items()})
        found: dict[str, tuple[Tensor, Tensor]] = {}
        for h in evidence.saes:
            own, other = (means(torch.tensor(t[h].sum_fixed), _int(t[h].n_rows)) for t in totals)
            found[h] = torch.tensor(totals[0][h].timesteps).long(), own - other
        made: dict[tuple[int, str], tuple[GatedEdit, ...]] = {}
        return found, made

    def parts(self, evidence: Evidence, learned: Any, settings: Settings) -> tuple[GatedEdit, ...]:
        """One edit for each hookpoint."""
        differences, made = learned
        n, gate = settings["n"], settings["gate"]
        if (n, gate) not in made:
            plain = tuple(_off(evidence, h, at, difference, n) for h, (at, difference) in differences.items())
            made[n, gate] = with_thresholds(plain, evidence, evidence.others) if gate == "image" else plain
        return tuple(edit.scaled(1 - settings["beta"]) for edit in made[n, gate])


def _off(evidence: Evidence, hookpoint: str, timesteps: Tensor, difference: Tensor, n: int) -> GatedEdit:
    """The n latents with the greatest difference at each step, multiplied by 0 wherever they fire."""
    selected = torch.zeros(difference.shape, dtype=torch.bool).scatter(1, select(difference, n), True)
    selected &= difference > 0
    nothing = torch.zeros_like(difference)
    sae, sae_id = evidence.saes[hookpoint], evidence.sae_ids.get(hookpoint, "")
    return gated(edit_latents(sae, timesteps, selected, nothing, nothing, sae_id=sae_id, half=evidence.half), "scaled")


def _int(counts: Any) -> Tensor:
    return torch.tensor(counts.astype("int64"))
