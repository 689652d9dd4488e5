"""Discrete codes of attention heads, from a few prompts with a concept and a few without (2405.12522).

    c(b, h) = mean over positions of z_h W_O[h], for each third of the generation, [D]

An SAE (ReLU, L1) is trained on the c of ten examples, one for all heads of a width. The code of a head in an example is
the number of its largest latent. A head scores by the codes that examples with the concept have and no other example
has. Two choices are this project's: c is divided by the root mean square of all c about their mean, and codes of
different thirds are different codes.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from saeuron.config import ModelConfig
from saeuron.generation import Request, generate
from saeuron.hooks import Step, attached, to_rows
from saeuron.inspection.heads import Head, Z, output_weights
from saeuron.noise import generator

THIRDS = 3
LATENTS, STEPS, RATE, L1 = 200, 500, 1e-3, 0.02
"""Size of the SAE, and its training on all rows at once; N, L1 and the ten examples are the paper's."""
NONE = -1
"""The code of a head none of whose latents is above 0."""


class Scores(NamedTuple):
    """Scores of each head by its codes, in the order of the heads; float64 [H]."""

    codes: Tensor
    """Number of codes that examples with the concept have and others never."""
    share: Tensor
    """Share of the examples with the concept, over the thirds, whose code others never have."""
    difference: Tensor
    """|mean of c with the concept - mean of c without|, over the root mean square of all: no SAE."""


@torch.no_grad()
def contributions(
    pipe: Any, images: Sequence[Request], heads: Sequence[Head], model: ModelConfig, seed: int
) -> list[Tensor]:
    """c of each head, float32 [images, 3, D], while the images are generated; of the conditional half."""
    paths = list(dict.fromkeys(h.attention for h in heads))
    sums: dict[str, Tensor] = {}
    seen: dict[str, Tensor] = {}
    parts: dict[str, list[Tensor]] = {p: [] for p in paths}
    size = 0

    def reader_of(path: str) -> Any:
        def reader(step: Step, output: Tensor, source: Tensor | None) -> None:
            del source
            z = to_rows(step.half(output, "conditional", size)).float().mean(1).cpu()
            third = min(THIRDS * step.index // model.steps, THIRDS - 1)
            if path not in sums:
                sums[path], seen[path] = torch.zeros(size, THIRDS, z.shape[1]), torch.zeros(THIRDS)
            sums[path][:, third] += z
            seen[path][third] += 1

        return reader

    def begin(batch: Sequence[Request]) -> None:
        nonlocal size
        size = len(batch)
        sums.clear()
        seen.clear()

    with attached(pipe, readers={p + Z: reader_of(p) for p in paths}):
        for _ in generate(pipe, images, model, seed, begin=begin):
            for path in paths:
                parts[path].append(sums[path] / seen[path].clamp(min=1)[:, None])
    z = {path: torch.cat(parts[path]) for path in paths}
    weights = {h: output_weights(pipe, h).float().cpu() for h in heads}
    return [z[h.attention][..., h.part.start : h.part.stop] @ weights[h].T for h in heads]


class Codes(NamedTuple):
    """An SAE of the contributions of heads, for each width."""

    mean: dict[int, Tensor]
    scale: dict[int, float]
    encoder: dict[int, tuple[Tensor, Tensor]]
    """{D: (W [N, D], b [N])}."""

    def of(self, c: Tensor) -> Tensor:
        """Codes, int64 [...], of contributions [..., D]; `NONE` where no latent is above 0."""
        d = c.shape[-1]
        weight, bias = self.encoder[d]
        best = ((c - self.mean[d]) / self.scale[d] @ weight.T + bias).max(-1)
        return torch.where(best.values > 0, best.indices, NONE)


def learn(c: Sequence[Tensor], seed: int = 0, latents: int = LATENTS, steps: int = STEPS) -> Codes:
    """Train the SAEs on the contributions of each head, float32 [examples, 3, D]."""
    found = Codes({}, {}, {})
    for d in sorted({each.shape[-1] for each in c}):
        rows = torch.cat([each.flatten(0, 1) for each in c if each.shape[-1] == d])
        mean = rows.mean(0)
        scale = float((rows - mean).square().mean().sqrt()) or 1.0
        found.mean[d], found.scale[d] = mean, scale
        found.encoder[d] = _train((rows - mean) / scale, latents, steps, seed)
    return found


def _train(x: Tensor, latents: int, steps: int, seed: int) -> tuple[Tensor, Tensor]:
    """(W_enc [N, D], b_enc [N]) of an SAE: mean squared error + L1 / sqrt(D) * mean over rows of the sum of f."""
    chance = generator(seed, "codes", latents, x.shape[1])
    decoder = F.normalize(torch.randn(latents, x.shape[1], generator=chance), dim=1)
    w_enc, w_dec = decoder.clone().requires_grad_(), decoder.clone().requires_grad_()
    b_enc, b_dec = torch.zeros(latents, requires_grad=True), torch.zeros(x.shape[1], requires_grad=True)
    optimizer = torch.optim.Adam([w_enc, w_dec, b_enc, b_dec], RATE)
    with torch.enable_grad():
        for _ in range(steps):
            f = F.relu((x - b_dec) @ w_enc.T + b_enc)
            # A decoder of unit rows: otherwise f shrinks and the decoder grows, and L1 says nothing.
            x_hat = f @ F.normalize(w_dec, dim=1) + b_dec
            loss = (x_hat - x).square().mean() + L1 * f.sum(1).mean() / x.shape[1] ** 0.5
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return w_enc.detach(), (b_enc - b_dec @ w_enc.T).detach()


@torch.no_grad()
def scores(codes: Codes, c: Sequence[Tensor], positive: Tensor) -> Scores:
    """Score heads by examples. c: [examples, 3, D] of each head; positive: bool [examples]."""
    number_of, share, difference = list[int](), list[float](), list[float]()
    for each in c:
        found = codes.of(each)
        mine, others = found[positive], found[~positive]
        number, own = 0, 0
        for third in range(found.shape[1]):
            fresh = ~torch.isin(mine[:, third], others[:, third])
            number += len(mine[fresh, third].unique())
            own += int(fresh.sum())
        number_of.append(number)
        share.append(own / mine.numel())
        mean, scale = codes.mean[each.shape[-1]], codes.scale[each.shape[-1]]
        x = (each - mean) / scale
        difference.append(float((x[positive].mean(0) - x[~positive].mean(0)).norm(dim=-1).mean()))
    return Scores(*(torch.tensor(v, dtype=torch.float64) for v in (number_of, share, difference)))


def shuffled(positive: Tensor, seed: int) -> Tensor:
    """The labels of the examples in another order: a control, for which no head should stand out."""
    return positive[torch.randperm(len(positive), generator=generator(seed, "shuffled"))]
