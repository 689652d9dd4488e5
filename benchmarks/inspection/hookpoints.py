"""Which hookpoints carry a family of concepts: swap their output between two prompts and see what is drawn.

    python -m benchmarks.inspection.hookpoints --domain style
    python -m benchmarks.inspection.hookpoints --together unet.up_blocks.0.attentions.0 unet.up_blocks.0.attentions.1

Two prompts that differ in style and in object start from the same noise. At every step a hookpoint's output for the
one is replaced by its output for the other. `moved` is the share of images that then show the other's concept of the
domain: the concept passes through that hookpoint, and an edit there can reach it. `kept` is the share that still show
their own concept of the other domain: high, and an edit there can be selective. `baseline` is the same with no swap.
"""

import torch
from torch import Tensor

from benchmarks.results import Figure, parser, show
from saeuron.canvas.vocabulary import OBJECTS, STYLES, sentences
from saeuron.config import ModelConfig
from saeuron.generation import latent_shape, sample
from saeuron.hooks import Step, attached, hookpoints
from saeuron.judges import create
from saeuron.noise import initial_noise
from saeuron.pipelines.loading import load_pipeline


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--domain", choices=("style", "object"), default="style")
    arguments.add_argument("--together", nargs="+", metavar="HOOKPOINT", help="swap these at once, and nothing else")
    arguments.add_argument("--model", default="canvas", help="canvas or canvas20; objects are those that both know")
    arguments.add_argument("--pairs", type=int, default=24)
    arguments.add_argument("--threads", type=int, default=2)
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    pipe, model = load_pipeline(options.model), ModelConfig()
    n, domain, other = options.pairs, options.domain, "object" if options.domain == "style" else "style"
    first = [{"object": OBJECTS[i % len(OBJECTS)], "style": STYLES[(5 * i + 3) % len(STYLES)]} for i in range(n)]
    second = [
        {"object": OBJECTS[(i + 7) % len(OBJECTS)], "style": STYLES[(5 * i + 3 + len(STYLES) // 2) % len(STYLES)]}
        for i in range(n)
    ]
    texts = [sentences("validation", asked["object"], asked["style"])[0] for asked in first + second]
    noise = initial_noise(0, [(str(i % n), 0) for i in range(2 * n)], latent_shape(pipe))
    judges = {name: create(options.model, name) for name in (domain, other)}

    def shares(*paths: str) -> tuple[float, float]:
        with attached(pipe, editors={path: [swap] for path in paths}):
            images = sample(pipe, texts, noise, model)[:n]
        seen = {name: judge(images, judge.labels or ()) for name, judge in judges.items()}
        moved = sum(s.label == asked[domain] for s, asked in zip(seen[domain], second, strict=True)) / n
        kept = sum(s.label == asked[other] for s, asked in zip(seen[other], first, strict=True)) / n
        return moved, kept

    base = shares()
    known = hookpoints(pipe)
    groups = [tuple(options.together)] if options.together else []
    if not groups:
        groups = [(p,) for p in known if p.split(".")[-2] == "attentions" or p.endswith(".attn2")]
    figures = []
    for group in groups:
        moved, kept = shares(*group)
        where = "together" if options.together else group[0].removeprefix("unet.")
        figures.append(Figure(f"{domain} moved, {where}", 100 * moved, "%", 100 * base[0]))
        figures.append(Figure(f"{other} kept, {where}", 100 * kept, "%", 100 * base[1]))
    show(figures, options.json)


def swap(step: Step, output: Tensor) -> Tensor:
    """A module's output in which the first half of the images have what it gives for the second."""
    output = output.clone()
    # Only the conditional half of the batch knows the prompt.
    half = output.tensor_split(2)[1] if step.guided else output
    first, second = half.tensor_split(2)
    first.copy_(second)
    return output


if __name__ == "__main__":
    main()
