"""The dictionary that labels give: one row for each concept, by least squares (2405.08366, section 3).

    x = m + sum over domains a of u_{a = v} + e,    v: what the image asks for in a

m and u are fitted to the rows of images at each timestep; e is what is left. Where every combination of concepts has
as many images as any other, u is a difference of means; elsewhere least squares keeps one domain out of another's.
Three kinds: `full` has a row for each position (what labels can say at most), `pooled` one for all positions (as much
as a latent can say), `shuffled` is pooled and fitted to the labels of other images: the control.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from saeuron.noise import generator
from saeuron.sae.proofs.rows import Rows

Kind = Literal["full", "pooled", "shuffled"]
Asked = Mapping[str, str]


@dataclass(frozen=True, eq=False)
class Attributes:
    """A dictionary made from labels, at S timesteps."""

    timesteps: tuple[int, ...]
    concepts: tuple[tuple[str, str], ...]
    """C (domain, concept), sorted."""
    mean: Tensor
    """Mean row over images and positions, float32 [S, D]."""
    full: Tensor
    """m and u for each position, float32 [S, 1 + C, P, D]."""
    shuffled: Tensor
    """The pooled ones of shuffled labels, float32 [S, 1 + C, 1, D]."""

    @property
    def pooled(self) -> Tensor:
        """m and u for all positions, float32 [S, 1 + C, 1, D]: means, as least squares is linear in x."""
        return self.full.mean(2, keepdim=True)

    def table(self, kind: Kind) -> Tensor:
        """m and u of one kind."""
        return self.full if kind == "full" else self.pooled if kind == "pooled" else self.shuffled

    def step(self, timestep: int) -> int:
        """The fitted timestep that is nearest."""
        return min(range(len(self.timesteps)), key=lambda s: abs(self.timesteps[s] - timestep))

    def rebuilt(self, asked: Sequence[Asked], timestep: int, kind: Kind) -> Tensor:
        """m + sum u, float32 [n, P or 1, D], of what images ask for."""
        table = self.table(kind)[self.step(timestep)]
        return torch.einsum("nc,cpd->npd", design(asked, self.concepts), table)

    def u(self, domain: str, concept: str, timestep: int, kind: Kind) -> Tensor:
        """The row of a concept, float32 [P or 1, D]."""
        return self.table(kind)[self.step(timestep), 1 + self.concepts.index((domain, concept))]

    def loudness(self, domain: str) -> float:
        """Mean squared length of the pooled u of a domain's concepts, about their mean, over timesteps."""
        at = [1 + i for i, (d, _) in enumerate(self.concepts) if d == domain]
        u = self.pooled[:, at, 0].double()
        return float((u - u.mean(1, keepdim=True)).square().sum(-1).mean())


def design(asked: Sequence[Asked], concepts: Sequence[tuple[str, str]]) -> Tensor:
    """float32 [n, 1 + C]: a one, and a one for each concept that an image asks for."""
    shown = [[1.0, *(float(a.get(domain) == concept) for domain, concept in concepts)] for a in asked]
    return torch.tensor(shown)


def fit(rows: Rows, seed: int = 0) -> Attributes:
    """The dictionary of labels of some rows; `seed` shuffles the labels of the control."""
    concepts = tuple((domain, concept) for domain in rows.domains for concept in rows.concepts(domain))
    X = design(rows.asked, concepts).double()
    order = torch.randperm(len(X), generator=generator(seed, "shuffled labels"), device="cpu")
    solve, astray = torch.linalg.pinv(X), torch.linalg.pinv(X[order])
    full, shuffled, mean = [], [], []
    for step in range(len(rows.timesteps)):
        x = rows.at(step).double().cpu()
        full.append(torch.einsum("cn,npd->cpd", solve, x).float())
        shuffled.append((astray @ x.mean(1))[:, None].float())
        mean.append(x.mean((0, 1)).float())
    return Attributes(rows.timesteps, concepts, torch.stack(mean), torch.stack(full), torch.stack(shuffled))
