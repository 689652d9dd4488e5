"""Does a share of the prediction say what pictures do? Sets of cross-attentions, patched and swapped.

    python -m benchmarks.inspection.module_sets --concepts neon cat

For sets of cross-attentions, of each size from one to all: the joint share of the change in the prediction that comes
with their heads (`saeuron locate`), and the share of pictures that show the other prompt's concept when their outputs
are swapped at every step of the generation (`benchmarks.inspection.hookpoints`). The same pairs of test prompts, which
differ in one concept, and the same noise. Wanted: a rank correlation of at least 0.7 over sets. Control: what a judge
says where nothing is swapped, and the correlation with shares of other sets of the same size.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.inspection.hookpoints import swap
from benchmarks.inspection.locating import styled_prompts
from benchmarks.results import Figure, parser, show
from saeuron.canvas.vocabularies import VOCABULARIES
from saeuron.config import ModelConfig
from saeuron.generation import latent_shape, sample
from saeuron.hooks import attached
from saeuron.inspection.heads import cross_attentions, heads, minimal_pairs
from saeuron.inspection.ranks import resampled, spearman
from saeuron.judges import create
from saeuron.noise import derive_seed, initial_noise
from saeuron.pipelines.loading import load_pipeline
from saeuron.pipelines.patching import Pair, measure

Numbers = NDArray[np.float64]


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--concepts", nargs="+", default=["neon", "cat"])
    arguments.add_argument("--model", default="canvas", choices=sorted(VOCABULARIES))
    arguments.add_argument("--pairs", type=int, default=8, help="pairs of prompts of each concept")
    arguments.add_argument("--sets", type=int, default=4, help="sets of each size between one and all, at most")
    arguments.add_argument("--seed", type=int, default=0)
    options = arguments.parse_args()
    torch.set_num_threads(1)
    vocabulary, pipe, model = VOCABULARIES[options.model], load_pipeline(options.model), ModelConfig()
    pipe.set_progress_bar_config(disable=True)
    styles = [s for s in vocabulary.style_classes if s != "unstyled"]
    prompts = styled_prompts(vocabulary, "test")
    found, modules = heads(pipe), list(cross_attentions(pipe))
    groups = sets(modules, options.sets, options.seed)
    bases: list[float] = []
    figures, shares, moves = [], np.zeros(len(groups)), np.zeros(len(groups))
    for concept in options.concepts:
        domain = "style" if concept in styles else "object"
        pairs = [pair for _, pair in minimal_pairs(prompts, domain, concept, options.pairs, options.seed)]
        sites = [tuple(h.part for h in found if h.attention in group) for group in groups]
        joint = measure(pipe, pairs, sites, model, options.seed).values.mean((1, 2))
        judge = create(options.model, domain)
        moved = np.array([swapped(pipe, pairs, group, concept, judge, model, options.seed) for group in groups])
        base = swapped(pipe, pairs, (), concept, judge, model, options.seed)
        bases.append(base)
        shares, moves = shares + joint / len(options.concepts), moves + moved / len(options.concepts)
        figures += said(concept, joint, moved, groups, len(pairs), base)
        for figure in figures[-3:]:
            print(figure, flush=True)
    figures += said(
        "mean of concepts", shares, moves, groups, options.pairs * len(options.concepts), float(np.mean(bases))
    )
    for group, part, went in zip(groups, shares, moves, strict=True):
        names = " ".join(module.removeprefix("unet.").split(".transformer")[0] for module in group)
        print(f"{len(group)} of {len(modules)}: share {part:.3f}, moved {went:.3f}  {names}")
    show(figures, options.json)


def sets(modules: Sequence[str], most: int, seed: int) -> list[tuple[str, ...]]:
    """Every module alone, all together, and of each size between them at most so many sets, drawn by the seed."""
    chance, found = np.random.default_rng(derive_seed("sets", seed)), [(m,) for m in modules]
    for size in range(2, len(modules)):
        drawn = {tuple(sorted(chance.choice(len(modules), size, replace=False).tolist())) for _ in range(4 * most)}
        found += [tuple(modules[i] for i in each) for each in sorted(drawn)[:most]]
    return [*found, tuple(modules)]


def swapped(
    pipe: Any, pairs: Sequence[Pair], group: Sequence[str], concept: str, judge: Any, model: ModelConfig, seed: int
) -> float:
    """Share of the pictures of p- that show the concept when these modules give what they give for p+."""
    n = len(pairs)
    texts = [pair.instead for pair in pairs] + [pair.shown for pair in pairs]
    noise = initial_noise(seed, [(str(i % n), 0) for i in range(2 * n)], latent_shape(pipe, model))

    with attached(pipe, editors={path: [swap] for path in group}):
        pictures = sample(pipe, texts, noise, model)[:n]
    return sum(said.label == concept for said in judge(pictures, judge.labels or ())) / n


def said(
    name: str, share: Numbers, moved: Numbers, groups: Sequence[Sequence[str]], n: int, base: float
) -> list[Figure]:
    """The correlation over sets with its interval, and within sizes' shuffled shares; the pictures without a swap."""
    low, high = resampled(share, moved, spearman, "module sets")
    within = f"{low:.2f} to {high:.2f}" if low is not None else "no spread"
    sizes, chance = np.array([len(g) for g in groups]), np.random.default_rng(derive_seed("within sizes"))
    mixed = []
    for _ in range(200):
        other = share.copy()
        for size in set(sizes.tolist()):
            other[sizes == size] = chance.permutation(share[sizes == size])
        mixed.append(spearman(other, moved) or 0.0)
    return [
        Figure(f"{name}: Spearman of share and moved over {len(groups)} sets ({within}, {n} pairs)",
               spearman(share, moved), "1", 0.7),
        Figure(f"{name}: control, shares of other sets of the same size", float(np.mean(mixed)), "1"),
        Figure(f"{name}: shown without a swap", base, "1"),
    ]  # fmt: skip


if __name__ == "__main__":
    main()
