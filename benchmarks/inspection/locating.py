"""Do discrete codes of attention heads say where a concept passes? Against patching, with its controls.

    nice -n 10 python -m benchmarks.inspection.locating --concepts neon stripes cat moon

For each concept: how much of the change in the prediction all heads carry together (1 is expected), how much where a
prompt without the concept takes their place (0), and how codes from ten training images rank the heads: AUC for the
quarter of heads with the largest share, at 5, 10, 25 and 100 scored images; beside two controls, shuffled labels and a
difference of means without an SAE. The intervals are over concepts.
"""

from collections import defaultdict

import numpy as np
import torch

from benchmarks.results import Figure, parser, show
from saeuron.canvas.vocabularies import VOCABULARIES, Vocabulary
from saeuron.canvas.vocabulary import Split
from saeuron.config import ModelConfig
from saeuron.inspection.codes import contributions, learn, scores, shuffled
from saeuron.inspection.heads import groups, heads, minimal_pairs
from saeuron.inspection.ranks import auc, spearman, top_quarter
from saeuron.pipelines.loading import load_pipeline
from saeuron.pipelines.patching import interval, measure
from saeuron.prompts import Prompt
from tasks.inspection.locate import examples

SIZES = (5, 10, 25, 100)
"""Numbers of scored images, half of them with the concept (3 of 5)."""


def styled_prompts(vocabulary: Vocabulary, *splits: Split) -> list[Prompt]:
    """Every plain sentence of these splits that asks for an object in a style."""
    return [
        Prompt(text, split, {"object": o, "style": s})
        for split in splits
        for o in vocabulary.objects
        for s in vocabulary.style_classes
        if s != "unstyled"
        for text in vocabulary.sentences(split, o, s)
    ]


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--concepts", nargs="+", default=["stripes", "watercolour", "moon", "house"])
    arguments.add_argument("--model", default="canvas", choices=sorted(VOCABULARIES))
    arguments.add_argument("--pairs", type=int, default=6)
    arguments.add_argument("--seed", type=int, default=0)
    options = arguments.parse_args()
    torch.set_num_threads(1)
    vocabulary, pipe, model = VOCABULARIES[options.model], load_pipeline(options.model), ModelConfig()
    pipe.set_progress_bar_config(disable=True)
    styles = [s for s in vocabulary.style_classes if s != "unstyled"]
    prompts = styled_prompts(vocabulary, "train", "test")
    test, train = ([p for p in prompts if p.split == split] for split in ("test", "train"))
    found, each = heads(pipe), defaultdict[str, list[float]](list)
    sites, seed = groups(found), options.seed
    for concept in options.concepts:
        domain = "style" if concept in styles else "object"
        pairs = [pair for _, pair in minimal_pairs(test, domain, concept, options.pairs, seed)]
        measured = measure(pipe, pairs, [g.sites for g in sites if g.kind in ("head", "all")], model, seed).values
        control = measure(pipe, pairs, [sites[-1].sites], model, seed, control=True).values
        share = np.abs(measured[:-1].mean((1, 2)))
        strongest = top_quarter(share)
        each["all heads at once, share"].append(float(measured[-1].mean()))
        each["control: from another template, share"].append(float(control.mean()))
        images, _ = examples(train, domain, concept, 10, seed)
        codes = learn(contributions(pipe, images, found, model, seed), seed)
        images, positive = examples(test, domain, concept, max(SIZES), seed + 1)
        c = contributions(pipe, images, found, model, seed + 1)
        for n in SIZES:
            half = max(SIZES) // 2
            some = [*range((n + 1) // 2), *range(half, half + n // 2)]
            of = scores(codes, [x[some] for x in c], positive[some])
            for name, value in (
                ("codes", of.codes),
                ("share of codes", of.share),
                ("difference of means", of.difference),
            ):
                each[f"AUC, {name}, {n} images"].append(auc(value.numpy(), strongest) or 0.0)
                each[f"Spearman, {name}, {n} images"].append(spearman(value.numpy(), share) or 0.0)
        for turn in range(5):
            chance = scores(codes, c, shuffled(positive, turn))
            each["AUC, control: shuffled labels"].append(auc(chance.codes.numpy(), strongest) or 0.0)
        print(concept, {name: round(values[-1], 3) for name, values in each.items()}, flush=True)
    figures = []
    for name, values in each.items():
        low, high = interval(np.array(values))
        figures.append(Figure(f"{name} ({low:.2f} to {high:.2f}, n {len(values)})", float(np.mean(values)), "1"))
    show(figures, options.json)


if __name__ == "__main__":
    main()
