"""What capture and removals cost at the full size of Stable Diffusion 1.5, beside the same steps without them.

    python -m benchmarks.cost.full_size --rounds 3 --steps 2

Random weights: an untrained network costs what a trained one does. One image of 512 x 512 with guidance, float32, two
hookpoints of 256 positions and width 1280, SAEs of 20480 latents (k 32); the picture is not decoded, so that the few
steps stand for themselves. Kinds take turns, and what counts is processor time, which a busy machine changes little.

- capture: a tenth of the positions of the conditional half, kept in float16, and encoded as the shards have them
- thresholds: a removal of 32 latents, of an SAE with a fixed threshold for each
- TopK: the same of an SAE that compares all its latents
- encode and decode all: what the public implementation of 2501.18052 does (`saeuron_parity`)
"""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch

from benchmarks.cost.scale import LATENTS, POSITIONS, WIDTH, K, unet
from benchmarks.results import Figure, parser, show
from saeuron.capturing import _Collector
from saeuron.config import CaptureConfig
from saeuron.generation import Request
from saeuron.hooks import attached
from saeuron.methods.latents import LatentEdit, edit_latents
from saeuron.methods.parity import ParityEdit
from saeuron.methods.removal import Removal
from saeuron.prompts import Prompt
from saeuron.sae.autoencoder import SAE, SAEInfo
from saeuron.sae.selection import Activation
from storage.dense import activations

HOOKPOINTS = ("unet.up_blocks.1.attentions.1", "unet.up_blocks.1.attentions.2")
EDITED = 32
"""Latents that a removal edits at each step."""


def pipeline() -> Any:
    """Stable Diffusion 1.5 with random weights; its tokenizer and VAE are small ones, and are not timed."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline
    from transformers import CLIPTextModel

    from saeuron.canvas.model import build_tokenizer
    from tests.saeuron.pipelines import tiny

    torch.manual_seed(0)
    pipe = StableDiffusionPipeline(
        vae=tiny.vae(4),
        text_encoder=tiny.clip_encoder(CLIPTextModel, 768),
        tokenizer=build_tokenizer(tiny.LENGTH),
        unet=unet().eval(),
        scheduler=DDIMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def edit(hookpoint: str, activation: Activation, kind: type[LatentEdit] = LatentEdit) -> LatentEdit:
    """An edit of `EDITED` latents of an SAE of full size with random weights."""
    sae = SAE(SAEInfo("topk", WIDTH, LATENTS, K, hookpoint, activation)).requires_grad_(False)
    timesteps = torch.arange(981, 0, -20)
    chosen = torch.zeros(len(timesteps), LATENTS, dtype=torch.bool)
    chosen[:, :EDITED] = True
    whole = torch.ones_like(chosen) if kind is ParityEdit else chosen
    # Above a floor of 0 all that fires is edited: the dearest case.
    made = edit_latents(sae, timesteps, whole, torch.where(chosen, -1.0, 1.0), torch.where(chosen, 0.0, torch.inf))
    return made if kind is LatentEdit else kind(**vars(made))


@contextmanager
def capturing(pipe: Any) -> Iterator[None]:
    """Keep a tenth of the positions, as a run does, and encode them at the end."""
    config = CaptureConfig(positions=POSITIONS // 10)
    collectors = {path: _Collector(config, path) for path in HOOKPOINTS}
    for collector in collectors.values():
        collector.start([Request(Prompt("A cat.", "train"), 0)])
    with attached(pipe, readers=collectors):
        yield
    for collector in collectors.values():
        activations.encode(collector.arrays()[1][0])


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--steps", type=int, default=2)
    arguments.add_argument("--threads", type=int, default=1, help="with one, processor time is the time it takes")
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    pipe = pipeline()
    removals = {
        "removal, thresholds": [edit(h, "threshold") for h in HOOKPOINTS],
        "removal, TopK": [edit(h, "topk") for h in HOOKPOINTS],
        "encode and decode all": [edit(h, "topk", ParityEdit) for h in HOOKPOINTS],
    }
    kinds: dict[str, Callable[[], AbstractContextManager[Any]]] = {
        "plain": lambda: torch.no_grad(),
        "capture": lambda: capturing(pipe),
    }
    for name, edits in removals.items():
        removal = Removal("benchmark", "style", "saeuron", {}, tuple(edits))
        kinds[name] = lambda removal=removal: removal.attached(pipe)  # type: ignore[misc]
    noise = torch.randn(1, 4, 64, 64)

    def draw(steps: int) -> None:
        pipe(["A cat."], latents=noise, num_inference_steps=steps, guidance_scale=9.0, output_type="latent")

    draw(1)
    times: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(options.rounds):
        for name, context in kinds.items():
            start = time.process_time()
            with context():
                draw(options.steps)
            times[name].append(time.process_time() - start)
    base = statistics.median(times["plain"])
    figures = [Figure("plain", base / options.steps, "s of processor a step")]
    for name in [*kinds][1:]:
        ratios = [a / b for a, b in zip(times[name], times["plain"], strict=True)]
        middle = statistics.median(ratios)
        figures.append(Figure(name, statistics.median(times[name]) / options.steps, "s", base / options.steps, middle))
        figures.append(Figure("  least and most of the ratio", min(ratios), f"to {max(ratios):.3f}"))
    show(figures, options.json)


if __name__ == "__main__":
    main()
