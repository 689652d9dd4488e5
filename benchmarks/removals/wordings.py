"""Do gates open where a concept is asked for in other words? Sentences with its name, paraphrases, descriptions and
misspellings, of canvas.

    saeuron bench canvas gated_uce && saeuron bench canvas semantic_gate
    python -m benchmarks.removals.wordings --workspace workspace-bench

For each concept of a family of the protocol a gate learns from plain training sentences, and is tried on test sentences
of each kind, one of each cell: the share of the concept's that it opens for, and of others'. Only objects have other
kinds than plain ones. Gates:

prompt       that of `semantic_gate`
itd          that of `itd`, which reads a text encoder's SAE; and its controls `itd, untrained` and `itd, random` (as
             many trained latents, drawn at random from those that fire)
trained      the probe of two latents of `gated_uce`; and its controls `untrained`, `random` (trained latents, drawn at
             random) and `coordinates` (of the module's output, without an SAE)
either       that of `either_uce`: `prompt`, or a stricter probe; and its controls, with the same dictionaries

`--config canvas_full` has all 100 objects; its probes need the SAEs of that workspace. Of `--draw` pictures are drawn
with the workspace's removals, and those are counted in which the judge still sees the concept.
"""

import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.removals.probes import LEARNED, SAES, Choice, all_of, drawn, fitted, images, strongest
from benchmarks.results import Figure, parser, show
from flows.bench import SUFFIX
from flows.config import load
from saeuron import judges, tuning
from saeuron.canvas.evaluation import requests
from saeuron.canvas.vocabularies import CANVAS
from saeuron.config import RunConfig
from saeuron.errors import ConfigError
from saeuron.generation import Request, generate
from saeuron.methods.base import Evidence
from saeuron.methods.detection.probe import heights
from saeuron.methods.removal import Removal, removed
from saeuron.methods.text import sae as text_sae
from saeuron.methods.text.itd import ItD
from saeuron.methods.text.semantic_gate import Semantic, told
from saeuron.methods.text.states import rows
from saeuron.noise import generator
from saeuron.pipelines.loading import load_pipeline
from saeuron.prompts import Prompt, build
from saeuron.sae.autoencoder import SAE
from saeuron.sae.config import Dictionary
from storage import Workspace

Opens = Callable[[str, Sequence[Request]], Tensor]
"""(concept, images) -> whether its gate opens for each, bool [images]."""
Probes = Mapping[str, tuple[Tensor, Tensor, float]]
"""{concept: (latents, weights, bias)}."""
READ: dict[tuple[str, str], Tensor] = {}
"""{(hookpoint of a text encoder, prompt): its states [L, D]}: each prompt is tried on the gates of all concepts."""


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--workspace", type=Path, default=Path("workspace-bench"))
    arguments.add_argument("--config", default=f"canvas{SUFFIX}")
    arguments.add_argument("--domain", choices=["object", "style"], default="object")
    arguments.add_argument("--draw", nargs="*", default=["king", "cat"], help="concepts of which pictures are drawn")
    arguments.add_argument("--methods", nargs="*", default=["gated_uce", "uce", "semantic_gate"])
    options = arguments.parse_args()
    torch.set_num_threads(1)
    config, workspace = load(options.config), Workspace.open(options.workspace, create=False)
    pipe, prompts = load_pipeline(config.model.spec), build(config.prompts, config.domains)
    domain = options.domain
    names = list(config.domains[domain].concepts)
    tried = {
        kind: {name: [r for r in wanted if r.prompt.concepts[domain] == name] for name in names}
        for kind in (CANVAS.kinds if domain == "object" else ("plain",))
        for wanted in [requests("test", 1, CANVAS, kind)]
    }
    figures: list[Figure] = []
    for gate, opens in gates(pipe, config, prompts, domain, workspace):
        for kind, asked in tried.items():
            own = [share(opens(name, asked[name])) for name in names]
            others = [share(opens(name, [r for n in names if n != name for r in asked[n]])) for name in names]
            figures += [
                Figure(f"{gate}, {kind}: opens", 100 * statistics.mean(own), "%"),
                Figure(f"{gate}, {kind}: falsely", 100 * statistics.mean(others), "%"),
            ]
    judge = judges.of_domain(domain, config.domains[domain])
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
    pipe: Any, config: RunConfig, prompts: Sequence[Prompt], domain: str, workspace: Workspace
) -> Iterator[tuple[str, Opens]]:
    """Each kind of gate, by name, with one gate for each concept."""
    about = config.domains[domain]
    learned = {}
    for name in about.concepts:
        asked, retained = tuning.learning_prompts(prompts, config.tune, domain, name, tuple(about.concepts))
        learned[name] = Evidence(name, domain, pipe=pipe, model=config.model, asked=asked, retained=retained)
    prompt = by_prompt(pipe, learned)
    yield "prompt", prompt
    of_text: list[tuple[str, Dictionary, bool]] = [
        ("itd", "trained", False),
        ("itd, untrained", "untrained", False),
        ("itd, random", "trained", True),
    ]
    for gate, dictionary, random in of_text:
        try:
            yield gate, by_text(pipe, learned, dictionary, random=random)
        except ConfigError as error:
            # Among a hundred objects no latent may be a concept's own.
            print(f"{gate} has no gates: {error}", file=sys.stderr)
    SAES["coordinates"] = None
    for manifest in workspace.artifacts("sae"):
        sae = SAE.load(workspace.whole(manifest.id))
        if sae.info.hookpoint in about.hookpoints:
            SAES[manifest.summary["dictionary"]] = sae
    for read in SAES:
        kinds = {read: strongest, **({"random": drawn} if read == "trained" else {})}
        for kind, (plain, strict) in zip(
            kinds, by_probe(pipe, config, prompts, domain, read, [*kinds.values()]), strict=True
        ):
            yield kind, plain
            yield "either" if kind == "trained" else f"either, {kind}", partial(both, prompt, strict)


def both(first: Opens, second: Opens, concept: str, wanted: Sequence[Request]) -> Tensor:
    """Where one of two gates opens."""
    return first(concept, wanted) | second(concept, wanted)


def states(pipe: Any, wanted: Sequence[Request], hookpoint: str) -> Tensor:
    """A text encoder's states of the prompts of images, [images, L, D]."""
    texts = [r.prompt.text for r in wanted]
    if new := [text for text in dict.fromkeys(texts) if (hookpoint, text) not in READ]:
        READ.update({(hookpoint, text): found for text, found in zip(new, rows(pipe, new, hookpoint), strict=True)})
    return torch.stack([READ[hookpoint, text] for text in texts])


def by_prompt(pipe: Any, learned: Mapping[str, Evidence]) -> Opens:
    """The gates of `semantic_gate`."""
    with torch.no_grad():
        edits, hookpoint = {name: Semantic().learn(about) for name, about in learned.items()}, told(pipe)

    def opens(concept: str, wanted: Sequence[Request]) -> Tensor:
        edit = edits[concept]
        with torch.no_grad():
            return edit.cosines(states(pipe, wanted, hookpoint))[:, 0] >= edit.tau[0]

    return opens


def by_text(
    pipe: Any, learned: Mapping[str, Evidence], dictionary: Dictionary = "trained", *, random: bool = False
) -> Opens:
    """The gates of `itd` with the settings that it has by default; they do not depend on beta."""
    method, edits = ItD(), {}
    [layer] = method.grid["layer"]
    for name, about in learned.items():
        found = text_sae.text_latents(about, layer, text_sae.TRAINING.learning(dictionary))
        if random:
            fires = (found.sae.encode(found.asked[:, text_sae.FIRST :]) > 0).flatten(0, 1).any(0).nonzero().flatten()
            order = fires[torch.randperm(len(fires), generator=generator(0, "random latents", name))]
            some = torch.zeros_like(found.chosen).scatter(0, order[: int(found.chosen.sum())], True)
            found = replace(found, chosen=some)
        edits[name] = method.edit(found, 0.0)

    def opens(concept: str, wanted: Sequence[Request]) -> Tensor:
        edit = edits[concept]
        assert edit.tau is not None
        return edit.gated(states(pipe, wanted, edit.hookpoint), -1)[1] >= edit.tau

    return opens


def by_probe(
    pipe: Any, config: RunConfig, prompts: Sequence[Prompt], domain: str, read: str, choices: Sequence[Choice]
) -> Iterator[tuple[Opens, Opens]]:
    """For each way to choose two latents of `SAES[read]`, the probes of `gated_uce` and those of `either_uce`."""
    names, [hookpoint] = config.domains[domain].concepts, config.domains[domain].hookpoints
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

    train = {c: seen(images(prompts, "train", domain, c, LEARNED, config.tune.seed), config.tune.seed) for c in names}

    def opens(probes: Probes, concept: str, wanted: Sequence[Request]) -> Tensor:
        latents, weights, bias = probes[concept]
        return seen(wanted, config.evaluate.seed)[0][:, latents] @ weights + bias >= 0

    for choice in choices:
        plain, strict = ({c: fitted(c, train, 2, choice, strict=each) for c in names} for each in (False, True))
        yield partial(opens, plain), partial(opens, strict)


if __name__ == "__main__":
    main()
