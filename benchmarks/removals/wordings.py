"""Do gates open where a concept is asked for in other words? Sentences with its name, paraphrases, descriptions and
misspellings, of objects of canvas.

    saeuron bench canvas gated_uce && saeuron bench canvas semantic_gate
    python -m benchmarks.removals.wordings --workspace workspace-bench

For each object of the protocol a gate learns from plain training sentences, and is tried on test sentences of each
kind, one of each style and of none: the share of the object's that it opens for, and of others'. Gates: `prompt`, that
of `semantic_gate`; `trained`, the probe of two latents of `gated_uce`; and its controls `untrained`, `random` (trained
latents, drawn at random) and `coordinates` (of the module's output, without an SAE). Of `--draw` pictures are drawn
with the workspace's removals, and those are counted in which the judge still sees the object.
"""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.removals.probes import LEARNED, SAES, Choice, all_of, drawn, fitted, images, strongest
from benchmarks.results import Figure, parser, show
from flows.bench import protocol
from saeuron import judges, tuning
from saeuron.canvas.evaluation import requests
from saeuron.canvas.vocabularies import CANVAS
from saeuron.config import RunConfig
from saeuron.generation import Request, generate
from saeuron.methods.base import Evidence
from saeuron.methods.detection.probe import heights
from saeuron.methods.removal import Removal, removed
from saeuron.methods.text.semantic_gate import Semantic, told
from saeuron.methods.text.states import rows
from saeuron.pipelines.loading import load_pipeline
from saeuron.prompts import Prompt, build
from saeuron.sae.autoencoder import SAE
from storage import Workspace

DOMAIN = "object"
Opens = Callable[[str, Sequence[Request]], Tensor]
"""(concept, images) -> whether its gate opens for each, bool [images]."""
Probes = Mapping[str, tuple[Tensor, Tensor, float]]
"""{concept: (latents, weights, bias)}."""


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
            for method, chosen in {"unedited": [], **{m: [r] for m, r in removals.items()}}.items():
                with removed(pipe, chosen) as attached:
                    made = generate(pipe, asked[name], config.model, config.evaluate.seed, extra=attached.call)
                    pictures = np.concatenate([batch for _, batch in made])
                seen = judge(pictures, judges.choices(judge, names))
                shown = sum(j.label == name for j in seen)
                figures.append(Figure(f"{name} shown, {kind}, {method}", shown, f"of {len(pictures)}"))
    show(figures, options.json)


def share(opened: Tensor) -> float:
    """The share of images for which a gate opens."""
    return opened.float().mean().item()


def gates(
    pipe: Any, config: RunConfig, prompts: Sequence[Prompt], names: Sequence[str], workspace: Workspace
) -> Iterator[tuple[str, Opens]]:
    """Each kind of gate, by name, with one gate for each concept."""
    yield "prompt", by_prompt(pipe, config, prompts, names)
    SAES["coordinates"] = None
    for manifest in workspace.artifacts("sae"):
        sae = SAE.load(workspace.whole(manifest.id))
        if sae.info.hookpoint in config.domains[DOMAIN].hookpoints:
            SAES[manifest.summary["dictionary"]] = sae
    for read in SAES:
        kinds = {read: strongest, **({"random": drawn} if read == "trained" else {})}
        yield from zip(kinds, by_probe(pipe, config, prompts, names, read, [*kinds.values()]), strict=True)


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


def by_probe(
    pipe: Any, config: RunConfig, prompts: Sequence[Prompt], names: Sequence[str], read: str, choices: Sequence[Choice]
) -> Iterator[Opens]:
    """For each way to choose two latents of `SAES[read]`, the probes of `gated_uce`."""
    [hookpoint] = config.domains[DOMAIN].hookpoints
    probe = all_of(hookpoint, read)
    cache: dict[tuple[str, int, int], tuple[Tensor, Tensor]] = {}

    def seen(wanted: Sequence[Request], seed: int) -> tuple[Tensor, Tensor]:
        """max_q p and mean f, [images, N] each."""
        keys = [(r.prompt.text, r.index, seed) for r in wanted]
        if new := [r for r, key in zip(wanted, keys, strict=True) if key not in cache]:
            with torch.no_grad():
                about = Evidence("", "", pipe=pipe, model=config.model, seed=seed)
                for r, found in zip(new, heights(about, new, [probe])[0], strict=True):
                    cache[r.prompt.text, r.index, seed] = found.chunk(2)
        p, f = zip(*(cache[key] for key in keys), strict=True)
        return torch.stack(p), torch.stack(f)

    train = {c: seen(images(prompts, "train", DOMAIN, c, LEARNED, config.tune.seed), config.tune.seed) for c in names}
    for choice in choices:
        probes = {name: fitted(name, train, 2, choice) for name in names}

        def opens(concept: str, wanted: Sequence[Request], probes: Probes = probes) -> Tensor:
            latents, weights, bias = probes[concept]
            return seen(wanted, config.evaluate.seed)[0][:, latents] @ weights + bias >= 0

        yield opens


if __name__ == "__main__":
    main()
