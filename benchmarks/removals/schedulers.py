"""Removals with other schedulers than they were scored with: what goes and what stays, beside the model without them.

    saeuron run
    python -m benchmarks.removals.schedulers --removals workspace/removals --methods gated_uce saeuron

The same images (prompts and starting noise) with every scheduler, at the configuration's steps: `--images` that ask for
the concept, and as many that ask for others of its domain. With each scheduler they are drawn

    plain       by the model alone: with a scheduler that draws less than 80 % of them as asked, nothing is removed
    attached    with an edit that runs at the removal's modules and changes nothing, which must give the same pictures
    METHOD      with the removal

Of the images that ask for the concept, how many show it still; of the others, how many show what they ask for; of all
that ask for something of another domain, how many show that; and how many are the plain picture to the bit. Each with
its Wilson interval. Test prompts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.removals.steps import of_a_run, test_images
from benchmarks.results import write
from flows.config import load
from saeuron import judges
from saeuron.config import ModelConfig
from saeuron.errors import NotFinite
from saeuron.evaluation import judged, labels_of
from saeuron.figures.metrics import Judged, wilson
from saeuron.generation import Request, generate
from saeuron.methods.latents import LatentEdit
from saeuron.methods.removal import Removal, removed
from saeuron.pipelines.loading import load_pipeline

SCHEDULERS = (
    "DDIMScheduler",
    "DPMSolverMultistepScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "PNDMScheduler",
    "DDPMScheduler",
    "UniPCMultistepScheduler",
    "LCMScheduler",
    "HeunDiscreteScheduler",
)
DRAWS = 0.8
"""Least share of plain images that show what they ask for, in every domain, for removals to mean something."""


def idle(removal: Removal) -> Removal:
    """The removal's edits of latents with a floor that none reaches: they run, and change nothing."""
    parts = [replace(p, floor=torch.full_like(p.floor, torch.inf)) for p in removal.parts if isinstance(p, LatentEdit)]
    return replace(removal, parts=tuple(parts))


def draw(
    pipe: Any, removals: Sequence[Removal], images: Sequence[Request], model: ModelConfig, seed: int
) -> NDArray[np.uint8]:
    """The images with removals attached, uint8 [n, H, W, 3]."""
    with removed(pipe, removals) as attached:
        return np.concatenate([made for _, made in generate(pipe, images, model, seed, extra=attached.call)])


def counts(
    domain: str, concept: str, seen: Sequence[Judged], same: Sequence[bool] | None = None
) -> dict[str, tuple[int, int]]:
    """{what: (images, of how many)}; what has no image is left out.

    Args:
        same: whether each image is the plain picture to the bit.
    """
    mine = [s for s in seen if s.asked.get(domain) == concept]
    others = [s for s in seen if s.asked.get(domain, concept) != concept]
    elsewhere = [s.right(d) for s in seen for d in s.asked if d != domain]
    found = {
        "show it": [s.seen[domain] == concept for s in mine],
        "others right": [s.right(domain) for s in others],
        "other domain right": elsewhere,
    }
    if same is not None:
        paired = list(zip(seen, same, strict=True))
        found["asked, the same picture"] = [k for s, k in paired if s.asked.get(domain) == concept]
        found["others, the same picture"] = [k for s, k in paired if s.asked.get(domain, concept) != concept]
    return {what: (sum(rights), len(rights)) for what, rights in found.items() if rights}


def draws(found: Mapping[str, tuple[int, int]]) -> bool:
    """Whether plain images show what they ask for, by their counts."""
    return all(k >= DRAWS * n for k, n in found.values())


def line(found: Mapping[str, tuple[int, int]]) -> str:
    """What `counts` gives, in a line, with intervals in percent."""
    told = []
    for what, (k, n) in found.items():
        low, high = wilson(k, n)
        told.append(f"{what} {k} of {n} ({100 * low:.0f} to {100 * high:.0f})")
    return ", ".join(told)


def main() -> None:
    """Measure, and print a line for each scheduler, concept and kind as it is done."""
    arguments = of_a_run(__doc__ or "")
    arguments.add_argument("--methods", nargs="+", default=["gated_uce", "saeuron"])
    arguments.add_argument("--schedulers", nargs="+", default=list(SCHEDULERS))
    arguments.add_argument("--images", type=int, default=12)
    arguments.add_argument("--threads", type=int, default=1)
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    config, rows = load(options.config), list[dict[str, Any]]()
    looking = {name: judges.of_domain(name, about) for name, about in config.domains.items()}

    def tell(found: Mapping[str, tuple[int, int]], **about: str) -> None:
        rows.extend({**about, "what": what, "images": k, "of": n} for what, (k, n) in found.items())
        print(f"{', '.join(about.values())}: {line(found)}", flush=True)

    for scheduler in options.schedulers:
        pipe = load_pipeline(config.model.spec, scheduler=scheduler)
        for concept in options.concepts:
            removals = {m: Removal.load(options.removals / f"{concept}.{m}.safetensors") for m in options.methods}
            domain = next(r.domain for r in removals.values())
            images = test_images(config, domain, concept, options.images)
            labels = labels_of(images, looking)
            about = {"scheduler": scheduler, "concept": concept}
            try:
                plain = draw(pipe, [], images, config.model, config.evaluate.seed)
                found = counts(domain, concept, judged(images, plain, looking, labels))
                tell(found, **about, kind="plain")
                if not draws(found):
                    print(f"{scheduler}, {concept}: the model alone does not draw with it; nothing is removed.")
                    continue
                kinds = {"attached": [idle(r) for r in removals.values()], **{m: [r] for m, r in removals.items()}}
                for kind, attached in kinds.items():
                    pictures = draw(pipe, attached, images, config.model, config.evaluate.seed)
                    same = [bool(np.array_equal(a, b)) for a, b in zip(pictures, plain, strict=True)]
                    seen = judged(images, pictures, looking, labels)
                    tell(counts(domain, concept, seen, same), **about, kind=kind)
            except NotFinite as error:
                print(f"{scheduler}, {concept}: {error}", flush=True)
    write(rows, options.json)


if __name__ == "__main__":
    main()
