"""Do latents of a cross-attention fire by the word of their own concept? And does a removal at its z work?

    O=unet.up_blocks.0.attentions.1.transformer_blocks.0.attn2
    S=unet.up_blocks.1.attentions.0.transformer_blocks.0.attn2
    saeuron run canvas -w AT --set domains.object.hookpoints="[$O]" --set domains.style.hookpoints="[$S]" ...
    saeuron run canvas -w Z --set domains.object.hookpoints="[$O.to_out.0:input]" ...
    python -m benchmarks.inspection.words --workspace Z --beside AT

For each trained SAE at a cross-attention, and each concept scored with it: its latent with the highest mean score, on
test prompts that name the concept and one of the other domain. A firing is an image and a step at which it fires. It is
right if the tokens of the concept's word add more to the activation than those of the other domain's word (wanted:
90 % of firings). Intervals are over concepts. Control: latents drawn at random, with the same rule (wanted: 50 +- 10).
Entropy of the heads' shares over its maximum, for these latents and for a decoder drawn at random (wanted: 0.95).
`--beside`: UA, IRA and CRA of the removals by `saeuron` in both workspaces (wanted: UA within 5 points).
"""

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.results import Figure, parser, show
from flows.run import Run
from flows.sae.report import captured, sampling
from saeuron.errors import ConfigError
from saeuron.generation import Request
from saeuron.inspection.heads import Z
from saeuron.inspection.words import attention_of, attribute, head_shares, tokens
from saeuron.noise import generator
from saeuron.pipelines.patching import interval
from saeuron.prompts import build, choose
from saeuron.sae.autoencoder import SAE
from storage import Workspace, connect
from tasks.engine import model
from tasks.registry import runs

BEST = """
    SELECT concept, domain, latent FROM scores WHERE sae_id = ? GROUP BY concept, domain, latent
    QUALIFY row_number() OVER (PARTITION BY concept ORDER BY avg(score) DESC, latent) = 1 ORDER BY concept
"""
METRICS = """
    SELECT concept, metric, 100 * value, 100 * low, 100 * high, n_images FROM metrics
    WHERE method = 'saeuron' AND metric IN ('UA', 'IRA', 'CRA') ORDER BY ALL
"""


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--workspace", type=Path, default=Path("workspace"))
    arguments.add_argument("--beside", type=Path, help="a workspace with removals at the attention's output")
    arguments.add_argument("--prompts", type=int, default=12, help="of each concept, one image each")
    arguments.add_argument("--random", type=int, default=64, help="latents of the control")
    arguments.add_argument("--seed", type=int, default=0)
    options = arguments.parse_args()
    torch.set_num_threads(1)
    workspace = Workspace.open(options.workspace, create=False)
    run = Run.of(workspace, runs.remembered(workspace), "cpu")
    figures = list[Figure]()
    with connect(workspace) as views:
        for manifest in workspace.artifacts("sae"):
            if manifest.summary.get("dictionary") not in (None, "trained"):
                continue
            sae, look = SAE.load(workspace.whole(manifest.id)), sampling(run, manifest, captured(workspace, manifest))
            pipe = model.pipeline(look.model, "cpu")
            try:
                heads = attention_of(pipe, sae.info.hookpoint)[1].heads
            except ConfigError as error:
                print(error)
                continue
            best = views.execute(BEST, [manifest.id]).fetchall()
            drawn = torch.randperm(sae.info.n_latents, generator=generator(options.seed, "words")).tolist()
            others = [i for i in drawn if i not in {latent for _, _, latent in best}][: options.random]
            right, control, fired = dict[str, float](), dict[str, float](), 0
            for concept, domain, latent in best:
                asked = [
                    p
                    for p in build(run.config.prompts, run.config.domains)
                    if p.split == "test" and p.concepts.get(domain) == concept and len(p.concepts) == 2
                ]
                images = [Request(p, 0) for p in choose(asked, options.prompts, options.seed)]
                own, by_chance = list[bool](), list[bool]()
                for batch, steps in attribute(pipe, sae, [latent, *others], images, look.model, options.seed):
                    roles = [[t.role for t in tokens(pipe, r.prompt)] for r in batch]
                    for at in steps:
                        for b, n in at.fires.nonzero().tolist():
                            won = _more(at.value[b, :, :, n].sum(0), roles[b], domain)
                            (by_chance if n else own).append(won)
                fired += len(own)
                if own:
                    right[concept] = float(np.mean(own))
                if by_chance:
                    control[concept] = float(np.mean(by_chance))
                told = f"{100 * right[concept]:.0f} % of {len(own)}" if own else "never fires"
                print(f"{sae.info.hookpoint}, {concept}: latent {latent}, {told}", flush=True)
            domain = best[0][1] if best else "nothing"
            figures += [
                _share(f"{domain}: firings by the own word ({fired})", right),
                _share("  control: latents at random", control),
            ]
            if sae.info.hookpoint.endswith(Z):
                random = SAE(sae.info)
                for name, of in (("trained decoder", sae), ("random decoder", random)):
                    spread = [_entropy(head_shares(of, latent, heads)) for _, _, latent in best]
                    figures.append(Figure(f"  entropy of heads' shares, {name}", float(np.mean(spread)), "of 1"))
    for place in [options.workspace, *([options.beside] if options.beside else [])]:
        with connect(Workspace.open(place, create=False)) as views:
            for concept, metric, value, low, high, n in views.execute(METRICS).fetchall():
                interval_ = f"% ({low:.1f} to {high:.1f}; n {n})"
                figures.append(Figure(f"{place.name}: {concept} by saeuron, {metric}", value, interval_))
    show(figures, options.json)


def _more(value: Tensor, roles: list[str], domain: str) -> bool:
    """Whether the tokens of a domain's word add more than those of the other's; `value` [L]."""
    mine = sum(float(v) for v, role in zip(value, roles, strict=True) if role == domain)
    other = sum(float(v) for v, role in zip(value, roles, strict=True) if role not in (domain, "start", "end", "other"))
    return mine > other


def _share(name: str, values: dict[str, float]) -> Figure:
    """The mean over concepts, with an interval over them."""
    if not values:
        return Figure(name, None, "never fired")
    low, high = interval(np.array(list(values.values())))
    return Figure(name, 100 * float(np.mean(list(values.values()))), f"% ({100 * low:.0f} to {100 * high:.0f})")


def _entropy(shares: Tensor) -> float:
    return float(-(shares * shares.clamp(min=1e-12).log()).sum()) / math.log(len(shares))


if __name__ == "__main__":
    main()
