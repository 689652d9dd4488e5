"""How well each variant finds directions that are known: the mean, over the directions, of the best decoder cosine.

    python -m benchmarks.sae.recovery
    python -m benchmarks.sae.recovery --variants topk jumprelu --seeds 1     # seconds, to try it

Rows are sums of `--active` of M random unit directions with strengths between 1 and 2, and an offset, in D dimensions;
each SAE has M latents and the defaults of its variant, and all see the same rows. 1 is perfect; the baseline is an SAE
as it is before its first step. `found` is the share of directions with a cosine over 0.9.
"""

import statistics

import torch

from benchmarks.results import Figure, parser, show
from saeuron.sae.config import LABELLED, SAEConfig
from saeuron.sae.training import Trainer
from saeuron.sae.variants import VARIANTS

FOUND = 0.9
PLAIN = sorted(set(VARIANTS) - {*LABELLED})
"""Planted directions have no concepts, which the other variants learn from."""


def main() -> None:
    """Train, compare, print."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--variants", nargs="+", default=PLAIN, choices=PLAIN)
    arguments.add_argument("--width", type=int, default=64, metavar="D")
    arguments.add_argument("--directions", type=int, default=256, metavar="M")
    arguments.add_argument("--active", type=int, default=6)
    arguments.add_argument("--steps", type=int, default=2000)
    arguments.add_argument("--batch", type=int, default=1024)
    arguments.add_argument("--lr", type=float, default=3e-3)
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--scale", type=float, default=1.0, help="what rows are multiplied by")
    arguments.add_argument("--normalize", action="store_true", help="train.normalize")
    arguments.add_argument("--threads", type=int, default=2)
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    size = options.width, options.directions
    seeds = range(options.seeds)
    found: dict[str, list[tuple[float, float]]] = {}
    for name in options.variants:
        config = SAEConfig(
            variant=name, k=options.active, expansion=options.directions // options.width, lr=options.lr,
            steps=options.steps, batch=options.batch, normalize=options.normalize,
        )  # fmt: skip
        found[name] = [_recovered(config, *size, seed, options.scale) for seed in seeds]
        print(f"{name:<16}" + "".join(f"  {cosine:.3f}" for cosine, _ in found[name]), flush=True)
    untrained = SAEConfig(variant="topk", k=options.active, expansion=options.directions // options.width)
    before = untrained.model_copy(update={"steps": 0, "batch": options.batch})
    chance = statistics.mean(_recovered(before, *size, seed)[0] for seed in seeds)
    figures = []
    for name, each in found.items():
        cosines = [cosine for cosine, _ in each]
        mean = statistics.mean(cosines)
        figures += [
            Figure(f"{name}: mean max cosine", mean, "1", chance, mean / chance),
            Figure("  spread over seeds", max(cosines) - min(cosines), "1"),
            Figure("  found", statistics.mean(share for _, share in each), "1"),
        ]
    show(figures, options.json)


def _recovered(config: SAEConfig, width: int, directions: int, seed: int, scale: float = 1.0) -> tuple[float, float]:
    """(mean over the directions of the best cosine, share of them with one over FOUND)."""
    generator = torch.Generator().manual_seed(seed)
    planted = torch.nn.functional.normalize(torch.randn(directions, width, generator=generator), dim=1)
    trainer = Trainer(config.model_copy(update={"seed": seed}), width, "")

    def rows() -> torch.Tensor:
        which = torch.rand(config.batch, directions, generator=generator).topk(config.k, dim=1).indices
        strengths = 1 + torch.rand(config.batch, config.k, generator=generator)
        return (torch.zeros(config.batch, directions).scatter(1, which, strengths) @ planted + 0.5) * scale

    trainer.initialise(rows())
    for _ in range(config.steps):
        trainer.step(rows())
    best = (planted @ torch.nn.functional.normalize(trainer.sae.W_dec, dim=1).T).amax(1)
    return float(best.mean()), float((best > FOUND).float().mean())


if __name__ == "__main__":
    main()
