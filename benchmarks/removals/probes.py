"""How well a probe of n latents tells a concept at the first step, by the dictionary that it reads.

    saeuron run canvas_full && python -m benchmarks.removals.probes --saes workspace/artifacts/sae/sae_*

For every concept a probe is fitted as `gated_uce` does it, to 30 training images of the concept and 30 of others, and
tried on test images: the share of the concept's that it opens for, and of others'. Dictionaries, all at the hookpoints
of the given SAEs: `trained`; `random`, its latents drawn among those that fire on the concept; `untrained`, a new SAE
of the same size as a run's control; `coordinates`, the module's own. An image costs one run of the denoiser; none is
drawn.
"""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.results import Figure, parser, show
from flows.config import load
from saeuron import notebook
from saeuron.config import RunConfig
from saeuron.generation import Request, spread
from saeuron.hooks import to_rows
from saeuron.methods.base import Evidence
from saeuron.methods.detection.probe import Probe, fit, heights, stricter
from saeuron.noise import generator
from saeuron.pipelines.loading import load_pipeline
from saeuron.prompts import Prompt, build, cells, choose
from saeuron.sae.autoencoder import SAE

LEARNED, TRIED = 30, 12
DELTA = 1e-8


class All(Probe):
    """Reads every latent, and keeps the means of codes that scores are made of."""

    def reached(self, output: Tensor) -> Tensor:
        """[max_q p, mean over positions of f], float32 [images, 2 N]."""
        rows = to_rows(output).float()
        sae = SAES[self.sae_id]
        if sae is None:
            return torch.cat([rows.amax(1), rows.abs().mean(1)], 1)
        return torch.cat([(rows @ self.W.T + self.b).amax(1), sae.encode(rows).mean(1)], 1)


SAES: dict[str, SAE | None] = {}
"""{name: SAE}; None: the module's coordinates."""


def all_of(hookpoint: str, name: str) -> All:
    """A probe that reads every latent of `SAES[name]`."""
    sae, W, b = SAES[name], torch.zeros(0), torch.zeros(0)
    if sae is not None:
        W = sae.W_enc.detach().float()
        b = sae.b_enc.detach() - W @ sae.b_dec.detach()
    return All(hookpoint, name, torch.zeros(0), W, b, torch.zeros(0), 0.0)


def images(prompts: Iterable[Prompt], split: str, domain: str, concept: str, count: int, seed: int) -> list[Request]:
    """One sentence of each cell of a concept, `count` images in all."""
    found = {p.text: p for p in prompts if p.split == split and p.concepts.get(domain) == concept}.values()
    one_each = [choose(members, 1, seed)[0] for members in cells(found).values()]
    return spread(choose(one_each, len(one_each), seed), count)


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--config", default="canvas_full")
    arguments.add_argument("--saes", type=Path, nargs="+", required=True)
    arguments.add_argument("--n", type=int, nargs="+", default=[1, 2, 8])
    options = arguments.parse_args()
    config = load(options.config)
    pipe, prompts = load_pipeline(config.model.spec), build(config.prompts, config.domains)
    figures: list[Figure] = []
    trained = {sae.info.hookpoint: sae for sae in map(SAE.load, options.saes)}
    for domain, about in config.domains.items():
        [hookpoint] = about.hookpoints
        wanted = {
            (split, concept): images(prompts, split, domain, concept, count, seed)
            for split, count, seed in (("train", LEARNED, config.tune.seed), ("test", TRIED, config.evaluate.seed))
            for concept in about.concepts
        }
        sample = [r.prompt for c in about.concepts[:20] for r in wanted["train", c][:4]]
        rows = notebook.capture(pipe, sample, [hookpoint], model=config.model)
        untrained = config.train.learning("untrained").model_dump()
        SAES.clear()
        SAES.update(trained=trained[hookpoint], coordinates=None)
        SAES["untrained"] = notebook.train(rows, **untrained)[hookpoint]
        for name in SAES:
            seen = _seen(pipe, config, hookpoint, name, wanted)
            _try(figures, domain, name, about.concepts, seen, options.n, strongest)
            if name == "trained":
                _try(figures, domain, "random", about.concepts, seen, options.n, drawn)
    show(figures, options.json)


def _seen(
    pipe: object, config: RunConfig, hookpoint: str, name: str, wanted: dict[tuple[str, str], list[Request]]
) -> dict[tuple[str, str], tuple[Tensor, Tensor]]:
    """{(split, concept): (max_q p [images, N], mean f [images, N])}."""
    found, probe = {}, all_of(hookpoint, name)
    for split, seed in (("train", config.tune.seed), ("test", config.evaluate.seed)):
        keys = [key for key in wanted if key[0] == split]
        everything = [request for key in keys for request in wanted[key]]
        evidence = Evidence("", "", pipe=pipe, model=config.model, seed=seed)
        with torch.no_grad():
            [both] = heights(evidence, everything, [probe])
        parts = both.split([len(wanted[key]) for key in keys])
        found.update({key: tuple(part.chunk(2, 1)) for key, part in zip(keys, parts, strict=True)})
    return found


Choice = Callable[[str, Tensor, Tensor, int], Tensor]
"""Which n latents: of (concept, mean f of the concept [N], of others [N], n)."""


def dealt(concept: str, concepts: Sequence[str]) -> list[tuple[str, int]]:
    """(another concept, number of its image): images of the others in turn, from a place of the concept's own."""
    rest, start = [c for c in concepts if c != concept], list(concepts).index(concept)
    order = rest[start:] + rest[:start]
    return [(order[i % len(order)], i // len(order)) for i in range(LEARNED)]


def strongest(concept: str, mine: Tensor, others: Tensor, n: int) -> Tensor:
    """The n latents with the greatest |s|, int64 [n]; `mine` and `others` are means of f, [N]."""
    score = mine / (mine.sum() + DELTA) - others / (others.sum() + DELTA)
    return score.abs().topk(n).indices


def drawn(concept: str, mine: Tensor, others: Tensor, n: int) -> Tensor:
    """n latents, int64 [n], drawn among those that fire on the concept."""
    fires = (mine > 0).nonzero().flatten()
    return fires[torch.randperm(len(fires), generator=generator(0, "random latents", concept))[:n]]


def fitted(
    concept: str, train: Mapping[str, tuple[Tensor, Tensor]], n: int, choice: Choice, *, strict: bool = False
) -> tuple[Tensor, Tensor, float]:
    """(n latents, their weights, the bias) from {concept: (max_q p, mean f), [images, N] each} of training images;
    `strict`: as for `either_uce`.
    """
    others = torch.stack([train[c][0][i] for c, i in dealt(concept, list(train))])
    mine, means = train[concept], torch.cat([f for c, (_, f) in train.items() if c != concept]).mean(0)
    latents = choice(concept, mine[1].mean(0), means, n)
    weights, bias = fit(mine[0][:, latents], others[:, latents])
    return latents, weights, stricter(weights, bias, others[:, latents]) if strict else bias


def _try(
    figures: list[Figure],
    domain: str,
    name: str,
    concepts: tuple[str, ...] | list[str],
    seen: dict[tuple[str, str], tuple[Tensor, Tensor]],
    counts: list[int],
    choice: Choice,
) -> None:
    """Fit a probe for each concept, and add what it opens for."""
    train = {concept: seen["train", concept] for concept in concepts}
    for n in counts:
        found, false = [], []
        for concept in concepts:
            rest = [c for c in concepts if c != concept]
            latents, weights, bias = fitted(concept, train, n, choice)

            def opens(c: str, latents: Tensor = latents, weights: Tensor = weights, bias: float = bias) -> Tensor:
                return seen["test", c][0][:, latents] @ weights + bias >= 0

            found.append(float(opens(concept).float().mean()))
            false.append(float(torch.cat([opens(c) for c in rest]).float().mean()))
        told = f"{domain}, {name}, n {n}: opens for the concept (worst of {len(concepts)}: {100 * min(found):.0f})"
        figures.append(Figure(told, 100 * statistics.fmean(found), "%"))
        figures.append(Figure("  for others", 100 * statistics.fmean(false), "%"))
        print(f"{told} {100 * statistics.fmean(found):.1f}, for others {100 * statistics.fmean(false):.1f}", flush=True)


if __name__ == "__main__":
    main()
