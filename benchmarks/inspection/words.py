"""Do latents of a cross-attention fire by the word of their own concept? And does a removal at its z work?

    O=unet.up_blocks.0.attentions.1.transformer_blocks.0.attn2
    S=unet.up_blocks.1.attentions.0.transformer_blocks.0.attn2
    A="--set method=[saeuron] --set controls.methods=[]"
    saeuron run canvas -w AT $A --set domains.object.hookpoints=[$O] --set domains.style.hookpoints=[$S]
    Z=.to_out.0:input
    saeuron run canvas -w Z $A --set "domains.object.hookpoints=['$O$Z']" --set "domains.style.hookpoints=['$S$Z']"
    python -m benchmarks.inspection.words --workspace Z --beside AT

For each trained SAE at a cross-attention, and each concept scored with it: its latent with the highest mean score, on
test prompts that name the concept and one of the other domain. A firing is an image and a step at which it fires. It is
right if the tokens of the concept's word add more to the activation than those of the other domain's word (wanted:
90 % of firings). Intervals are over concepts. Control: latents drawn at random, with the same rule (wanted: 50 +- 10).
Entropy of the heads' shares over its maximum, for these latents and for a decoder drawn at random (wanted: 0.95).
`--beside`: UA, IRA and CRA of the removals by `saeuron` in both workspaces (wanted: UA within 5 points).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

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
from storage.manifests import Manifest
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


class Fired(NamedTuple):
    """Whether each firing got more from the own word, by concept."""

    best: dict[str, list[bool]]
    """Of the concept's latent."""
    random: dict[str, list[bool]]
    """Of latents drawn at random, on the same images."""


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
    workspace, figures = Workspace.open(options.workspace, create=False), list[Figure]()
    run = Run.of(workspace, runs.remembered(workspace), "cpu")
    for manifest in workspace.artifacts("sae"):
        if manifest.summary.get("dictionary") in (None, "trained"):
            figures += of_sae(run, manifest, options.prompts, options.random, options.seed)
    for place in filter(None, (options.workspace, options.beside)):
        with connect(Workspace.open(place, create=False)) as views:
            for concept, metric, value, low, high, n in views.execute(METRICS).fetchall():
                said = f"% ({low:.1f} to {high:.1f}; n {n})"
                figures.append(Figure(f"{place.name}: {concept} by saeuron, {metric}", value, said))
    show(figures, options.json)


def of_sae(run: Run, manifest: Manifest, prompts: int, random: int, seed: int) -> Iterator[Figure]:
    """Figures of one SAE; none if it is not at a cross-attention."""
    sae, look = SAE.load(run.opened.whole(manifest.id)), sampling(run, manifest, captured(run.opened, manifest))
    pipe = model.pipeline(look.model, "cpu")
    try:
        heads = attention_of(pipe, sae.info.hookpoint)[1].heads
    except ConfigError as error:
        print(error)
        return
    with connect(run.opened) as views:
        best = views.execute(BEST, [manifest.id]).fetchall()
    drawn = torch.randperm(sae.info.n_latents, generator=generator(seed, "words")).tolist()
    others = [i for i in drawn if i not in {latent for _, _, latent in best}][:random]
    known, fired = build(run.config.prompts, run.config.domains), Fired({}, {})
    for concept, domain, latent in best:
        asked = [p for p in known if p.split == "test" and p.concepts.get(domain) == concept and len(p.concepts) == 2]
        images = [Request(p, 0) for p in choose(asked, prompts, seed)]
        own, by_chance = list[bool](), list[bool]()
        for batch, steps in attribute(pipe, sae, [latent, *others], images, look.model, seed):
            roles = [[t.role for t in tokens(pipe, r.prompt)] for r in batch]
            for at in steps:
                for b, n in at.fires.nonzero().tolist():
                    (by_chance if n else own).append(_more(at.value[b, :, :, n].sum(0), roles[b], domain))
        fired.best[concept], fired.random[concept] = own, by_chance
        told = f"{100 * np.mean(own):.0f} % of {len(own)}" if own else "never fires"
        print(f"{sae.info.hookpoint}, {concept}: latent {latent}, {told}", flush=True)
    domain = best[0][1] if best else "nothing"
    yield _share(f"{domain}: firings by the own word", fired.best)
    yield _share("  control: latents at random", fired.random)
    if sae.info.hookpoint.endswith(Z):
        for name, of in (("trained decoder", sae), ("random decoder", SAE(sae.info))):
            spread = [_entropy(head_shares(of, latent, heads)) for _, _, latent in best]
            yield Figure(f"  entropy of heads' shares, {name}", float(np.mean(spread)), "of 1")


def _more(value: Tensor, roles: list[str], domain: str) -> bool:
    """Whether the tokens of a domain's word add more than those of the other's; `value` [L]."""
    mine = sum(float(v) for v, role in zip(value, roles, strict=True) if role == domain)
    other = sum(float(v) for v, role in zip(value, roles, strict=True) if role not in (domain, "start", "end", "other"))
    return mine > other


def _share(name: str, fired: Mapping[str, Sequence[bool]]) -> Figure:
    """The mean over concepts that fire, with an interval over them."""
    values = np.array([np.mean(each) for each in fired.values() if each])
    if not len(values):
        return Figure(name, None, "never fired")
    low, high = interval(values)
    said = f"% ({100 * low:.0f} to {100 * high:.0f}; {sum(map(len, fired.values()))} firings)"
    return Figure(name, 100 * float(values.mean()), said)


def _entropy(shares: Tensor) -> float:
    return float(-(shares * shares.clamp(min=1e-12).log()).sum()) / math.log(len(shares))


if __name__ == "__main__":
    main()
