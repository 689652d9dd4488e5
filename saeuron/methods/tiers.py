"""One constant change for a concept, in three tiers, with a gate by image (2505.14536; SAUCE, 2503.14530).

    a(alpha) = -alpha sum_{i in F} fbar_i W_dec[i]    fbar(i,t,c): mean of f_i over the rows of c where it fires

    constant       x' = x + a at every position of every image
    per_input      the same in images in which some f_i is above m(i,t) at some position
    per_position   where f_i > m(i,t), of the latents that fire there

With `gate: image`, an image whose G is below tau(t) is not edited (detection/thresholds.py); this is decided on the
conditional half, at each step. The fourth tier, `scaled` by the latent's own activation, is SAeUron's edit. A gate by
position is not needed, because tiers do that; `itd` has a gate by prompt. fbar is CHOSEN: the paper's normaliser of
strength is unknown.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from saeuron.errors import ConfigError, UnknownName
from saeuron.hooks import Step, to_rows
from saeuron.methods.base import Evidence, Method, Settings
from saeuron.methods.controls import random_latents
from saeuron.methods.detection.thresholds import with_thresholds
from saeuron.methods.gates import GatedEdit, Tier, gated
from saeuron.methods.latents import edit_latents
from saeuron.methods.saeuron import best
from saeuron.methods.steering import read

TIERS: tuple[Tier, ...] = ("per_position", "per_input", "constant")
"""Mild before strong."""
GATES = ("none", "image")


class Firing:
    """A reader that sums each of an edit's latents where it fires, and counts how often, at each timestep."""

    def __init__(self, edit: GatedEdit) -> None:
        self.edit, self.images = edit, 0
        self.found: dict[int, tuple[Tensor, Tensor]] = {}

    def __call__(self, step: Step, output: Tensor, source: Tensor | None) -> None:
        del source
        f = self.edit.encode(to_rows(step.half(output, "conditional", self.images)).float()).flatten(0, 1)
        total, count = self.found.get(step.timestep, (0, 0))
        self.found[step.timestep] = total + f.double().sum(0).cpu(), count + (f > 0).sum(0).cpu()

    def means(self) -> Tensor:
        """fbar, float32 [T, u], at the edit's timesteps; 0 for a latent that never fires."""
        none = torch.zeros(self.edit.W_dec.shape[0])
        each = [self.found.get(t, (none, none)) for t in self.edit.timesteps.tolist()]
        return torch.stack([(total / count.clamp(min=1)).float() for total, count in each])


class Tiered(Method):
    """`n`: latents of each step; `tier`: where they are edited; `alpha`: how strongly; `gate`: none, or by image."""

    name = "tiered"
    needs = frozenset({"latents", "activations"})
    grid: ClassVar[dict[str, Sequence[Any]]] = {
        "n": (1, 2),
        "tier": ("per_position",),
        "gate": ("none",),
        "alpha": (0.25, 0.5, 1.0, 1.5, 2.0, 2.5),
    }

    def ordered(self, name: str, values: Sequence[Any]) -> list[Any]:
        """Few latents before many, mild before strong."""
        if name in ("tier", "gate"):
            known = TIERS if name == "tier" else GATES
            for value in values:
                if value not in known:
                    hint = "scaled is the method saeuron." if value == "scaled" else ""
                    raise UnknownName(name, str(value), known, hint)
            return list(values)
        if name == "n":
            if bad := [v for v in values if isinstance(v, bool) or not isinstance(v, int) or v < 1]:
                raise ConfigError(f"n holds {bad[0]!r}; expected whole numbers of latents, at least 1.")
            return sorted(values)
        if bad := [v for v in values if isinstance(v, bool) or not isinstance(v, (int, float)) or v < 0]:
            raise ConfigError(f"alpha holds {bad[0]!r}; expected numbers from 0, which changes nothing.")
        return sorted(map(float, values))

    def selected(self, evidence: Evidence, hookpoint: str, n: int) -> Tensor:
        """F, bool [T, N]: the n latents with the highest score at each step."""
        return best(evidence.profiles[hookpoint], n)

    def learn(self, evidence: Evidence) -> Any:
        """{n: [edits with fbar as values, the same with a gate or None]}, filled by `parts` when needed."""
        found: dict[int, list[Sequence[GatedEdit] | None]] = {}
        return found

    def parts(self, evidence: Evidence, learned: Any, settings: Settings) -> tuple[GatedEdit, ...]:
        """One edit for each hookpoint."""
        n = settings["n"]
        if n not in learned:
            learned[n] = [self._edits(evidence, n), None]
        if settings["gate"] == "image" and learned[n][1] is None:
            learned[n][1] = with_thresholds(learned[n][0], evidence, evidence.others)
        return tuple(
            gated(
                edit,
                settings["tier"],
                -settings["alpha"] * edit.values,
                gate="activation" if settings["gate"] == "image" else "none",
                tau=edit.tau if settings["gate"] == "image" else None,
            )
            for edit in learned[n][settings["gate"] == "image"]
        )

    def _edits(self, evidence: Evidence, n: int) -> list[GatedEdit]:
        plain = []
        for hookpoint, sae in evidence.saes.items():
            about = evidence.profiles[hookpoint]
            edit = edit_latents(
                sae,
                about.timesteps,
                self.selected(evidence, hookpoint, n),
                torch.zeros_like(about.mean),
                about.threshold,
                sae_id=evidence.sae_ids.get(hookpoint, ""),
                half=evidence.half,
            )
            plain.append(gated(edit, "scaled"))
        readers = {edit.hookpoint: Firing(edit) for edit in plain}
        read(evidence, evidence.target, readers)
        return [gated(edit, "constant", readers[edit.hookpoint].means()) for edit in plain]


class TieredRandom(Tiered):
    """A control: equally many latents, drawn at random from those that fire on the concept."""

    name = "tiered_random"
    like = "tiered"

    def selected(self, evidence: Evidence, hookpoint: str, n: int) -> Tensor:
        """n latents in an order that the concept and the hookpoint seed, bool [T, N]."""
        return random_latents(evidence, hookpoint, n)
