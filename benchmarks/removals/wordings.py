"""Do gates open where a concept is asked for in other words? Sentences with its name, paraphrases, descriptions and
misspellings, of objects of canvas.

    saeuron bench canvas gated_uce && saeuron bench canvas semantic_gate
    python -m benchmarks.removals.wordings --workspace workspace-bench

For each object of the protocol a gate learns from plain training sentences, and is tried on test sentences of each
kind, one of each style and of none: the share of the object's that it opens for, and of others'. Gates: `prompt`, that
of `semantic_gate`; `trained` and `untrained`, the probe of two latents of `gated_uce`, of the workspace's SAE and of
its control. Then the workspace's removals are attached, and the images counted in which the judge still sees the
object. An opening costs one run of the denoiser at most; only these pictures are drawn.
"""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.removals.probes import LEARNED, SAES, all_of, dealt, images, strongest
from benchmarks.results import Figure, parser, show
from flows.bench import protocol
from saeuron import judges, tuning
from saeuron.canvas.evaluation import requests
from saeuron.canvas.vocabularies import CANVAS
from saeuron.config import RunConfig
from saeuron.generation import Request, generate
from saeuron.methods.base import Evidence
from saeuron.methods.detection.probe import fit, heights
from saeuron.methods.removal import Removal
from saeuron.methods.text.semantic_gate import Semantic, told
from saeuron.methods.text.states import rows
from saeuron.pipelines.loading import load_pipeline
from saeuron.prompts import Prompt, build
from saeuron.sae.autoencoder import SAE
from storage import Workspace

DOMAIN = "object"
Opens = Callable[[str, Sequence[Request]], Tensor]
"""(concept, images) -> whether its gate opens for each, bool [images]."""


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--workspace", type=Path, default=Path("workspace-bench"))
    arguments.add_argument("--draw", nargs="*", default=["king", "cat"], help="objects of which pictures are drawn")
    arguments.add_argument("--methods", nargs="*", default=["gated_uce", "uce", "semantic_gate"])
    options = arguments.parse_args()
    torch.set_num_threads(1)
    config, workspace = protocol("canvas"), Workspace.open(options.workspace, create=False)
    pipe, prompts = load_pipeline(config.model.spec), build(config.prompts, config.domains)
    names = list(config.domains[DOMAIN].concepts)
    tried = {
        kind: {
            name: [r for r in requests("test", 1, CANVAS, kind) if r.prompt.concepts[DOMAIN] == name] for name in names
        }
        for kind in CANVAS.kinds
    }
    figures: list[Figure] = []
    for gate, opens in gates(pipe, config, prompts, names, workspace):
        for kind, asked in tried.items():
            own = [share(opens(name, asked[name])) for name in names]
            others = [share(opens(name, [r for n in names if n != name for r in asked[n]])) for name in names]
            figures += [
                Figure(f"{gate}, {kind}: opens", 100 * statistics.mean(own), "%"),
                Figure(f"{gate}, {kind}: falsely", 100 * statistics.mean(others), "%"),
            ]
    judge = judges.of_domain(DOMAIN, config.domains[DOMAIN])
    for name in options.draw:
        removals = {
            m: Removal.load(options.workspace / "removals" / f"{name}.{m}.safetensors") for m in options.methods
        }
        for kind, asked in tried.items():
            for method, removal in {"unedited": None, **removals}.items():
                with removal.attached(pipe) if removal else nullcontext():
                    drawn = [p for _, px in generate(pipe, asked[name], config.model, config.evaluate.seed) for p in px]
                seen = judge(torch.stack([torch.from_numpy(p) for p in drawn]).numpy(), judges.choices(judge, names))
                shown = sum(j.label == name for j in seen)
                figures.append(Figure(f"{name} shown, {kind}, {method}", shown, f"of {len(drawn)}"))
    show(figures, options.json)


def share(opened: Tensor) -> float:
    """The share of images for which a gate opens."""
    return opened.float().mean().item()


def gates(
    pipe: Any, config: RunConfig, prompts: Sequence[Prompt], names: Sequence[str], workspace: Workspace
) -> Iterator[tuple[str, Opens]]:
    """Each kind of gate, by name, with one gate for each concept."""
    yield "prompt", by_prompt(pipe, config, prompts, names)
    [hookpoint] = config.domains[DOMAIN].hookpoints
    for manifest in workspace.artifacts("sae"):
        sae = SAE.load(workspace.whole(manifest.id))
        if sae.info.hookpoint == hookpoint:
            yield manifest.summary["dictionary"], by_probe(pipe, config, prompts, names, sae)


def by_prompt(pipe: Any, config: RunConfig, prompts: Sequence[Prompt], names: Sequence[str]) -> Opens:
    """The gates of `semantic_gate`."""
    learned, hookpoint = {}, told(pipe)
    for name in names:
        asked, retained = tuning.learning_prompts(prompts, config.tune, DOMAIN, name, tuple(names))
        about = Evidence(name, DOMAIN, pipe=pipe, model=config.model, asked=asked, retained=retained)
        with torch.no_grad():
            learned[name] = Semantic().learn(about)

    def opens(concept: str, wanted: Sequence[Request]) -> Tensor:
        edit = learned[concept]
        with torch.no_grad():
            return edit.cosines(rows(pipe, [r.prompt.text for r in wanted], hookpoint))[:, 0] >= edit.tau[0]

    return opens


def by_probe(pipe: Any, config: RunConfig, prompts: Sequence[Prompt], names: Sequence[str], sae: SAE) -> Opens:
    """The probes of two latents of `gated_uce`."""
    SAES[sae.info.hookpoint] = sae
    probe, n = all_of(sae.info.hookpoint, sae.info.hookpoint), sae.info.n_latents
    cache: dict[tuple[str, int, int], Tensor] = {}

    def seen(wanted: Sequence[Request], seed: int) -> Tensor:
        keys = [(r.prompt.text, r.index, seed) for r in wanted]
        if new := [r for r, key in zip(wanted, keys, strict=True) if key not in cache]:
            with torch.no_grad():
                about = Evidence("", "", pipe=pipe, model=config.model, seed=seed)
                for r, found in zip(new, heights(about, new, [probe])[0], strict=True):
                    cache[r.prompt.text, r.index, seed] = found
        return torch.stack([cache[key] for key in keys])

    train = {c: seen(images(prompts, "train", DOMAIN, c, LEARNED, config.tune.seed), config.tune.seed) for c in names}
    fitted = {name: fitted_probe(train, name, n) for name in names}

    def opens(concept: str, wanted: Sequence[Request]) -> Tensor:
        latents, weights, bias = fitted[concept]
        return seen(wanted, config.evaluate.seed)[:, latents] @ weights + bias >= 0

    return opens


def fitted_probe(train: Mapping[str, Tensor], name: str, n: int) -> tuple[Tensor, Tensor, float]:
    """(two latents, their weights, the bias) from max_q p and mean f, [images, 2 N], of each concept."""
    others = torch.stack([train[c][i, :n] for c, i in dealt(name, list(train))])
    means = torch.cat([train[c][:, n:] for c in train if c != name]).mean(0)
    latents = strongest(name, train[name][:, n:].mean(0), means, 2)
    return latents, *fit(train[name][:, latents], others[:, latents])


if __name__ == "__main__":
    main()
