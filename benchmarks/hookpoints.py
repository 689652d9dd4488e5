"""Which hookpoint carries a family of concepts: swap its output between two prompts and see which concept is drawn.

    python -m benchmarks.hookpoints --domain style

Pairs of prompts that differ in one concept start from the same noise. At every step the hookpoint's output of one is
replaced by the other's; where the image then shows the other's concept, the concept passes through that hookpoint, and
an edit there can reach it. `baseline` is the same share with nothing swapped.
"""

import torch
from torch import Tensor

from benchmarks.results import Figure, parser, show
from saeuron.canvas.vocabulary import OBJECTS, STYLES, sentences
from saeuron.config import ModelConfig
from saeuron.generation import latent_shape, sample
from saeuron.hooks import Step, attached, hookpoints
from saeuron.judges import judge, judges
from saeuron.models import load_pipeline
from saeuron.noise import initial_noise


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--domain", choices=("style", "object"), default="style")
    arguments.add_argument("--model", default="canvas")
    arguments.add_argument("--pairs", type=int, default=12)
    arguments.add_argument("--threads", type=int, default=2)
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    pipe, model = load_pipeline(options.model), ModelConfig()
    mine, other = (STYLES, OBJECTS) if options.domain == "style" else (OBJECTS, STYLES)
    n = options.pairs
    asked = [mine[i % len(mine)] for i in range(n)]
    swapped = [mine[(i + len(mine) // 2) % len(mine)] for i in range(n)]
    partner = [other[(5 * i + 3) % len(other)] for i in range(n)]

    def text(concept: str, beside: str) -> str:
        style, object_ = (concept, beside) if options.domain == "style" else (beside, concept)
        return sentences("validation", object_, style)[0]

    texts = [text(c, p) for c, p in zip(asked, partner, strict=True)]
    texts += [text(c, p) for c, p in zip(swapped, partner, strict=True)]
    noise = initial_noise(0, [(str(i % n), 0) for i in range(2 * n)], latent_shape(pipe))
    chosen = judges({"style": "canvas", "object": "canvas"})

    def swap(step: Step, output: Tensor) -> Tensor:
        # Only the conditional half knows the prompt.
        output = output.clone()
        half = output[2 * n :] if step.guided else output
        half[:n] = half[n:]
        return output

    def share(path: str | None) -> float:
        with attached(pipe, editors={path: [swap]} if path else {}):
            images = sample(pipe, texts, noise, model)[:n]
        seen = judge(chosen, ("style", "object"), images)
        return sum(s[options.domain] == c for s, c in zip(seen, swapped, strict=True)) / n

    base = share(None)
    paths = [p for p in hookpoints(pipe) if p.split(".")[-2] == "attentions"]
    figures = [Figure(f"{options.domain} through {p}", 100 * share(p), "%", 100 * base) for p in paths]
    show(figures, options.json)


if __name__ == "__main__":
    main()
