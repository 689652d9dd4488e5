"""How well canvas draws what it is asked for: the share of generated images that the classifier recognises."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from saeuron.canvas.vocabulary import OBJECTS, STYLE_CLASSES, UNSTYLED, Split, sentences
from saeuron.config import ModelConfig
from saeuron.generation import Request, generate
from saeuron.judges import create
from saeuron.metrics import wilson
from saeuron.prompts import Prompt, choose


@dataclass(frozen=True)
class Share:
    """Recognised images of one name; 95 % Wilson interval."""

    domain: str
    name: str
    right: int
    images: int

    @property
    def value(self) -> float:
        return self.right / self.images

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(self.right, self.images)


def requests(split: Split, seeds: int) -> list[Request]:
    """One prompt of every (object, style or unstyled) cell, `seeds` images of each."""
    result = []
    for name in OBJECTS:
        for style in STYLE_CLASSES:
            texts = sentences(split, name, None if style == UNSTYLED else style)
            asked = {"object": name, "style": style}
            prompt = choose([Prompt(t, split, asked) for t in texts], 1, seed=0)[0]
            result += [Request(prompt, i) for i in range(seeds)]
    return result


def recognised(
    pipe: Any,
    model: ModelConfig,
    *,
    split: Split = "test",
    seeds: int = 5,
    seed: int = 0,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> list[Share]:
    """Generate and judge; one `Share` per object and per style class, and one named `all` per domain."""
    judges = {domain: create("canvas", domain) for domain in ("object", "style")}
    counts: dict[tuple[str, str], list[int]] = {}
    images = requests(split, seeds)
    done = 0
    for batch, pictures in generate(pipe, images, model, seed):
        seen = {domain: judge(pictures, judge.labels or ()) for domain, judge in judges.items()}
        for i, request in enumerate(batch):
            for domain, asked in request.prompt.concepts.items():
                for name in (asked, "all"):
                    cell = counts.setdefault((domain, name), [0, 0])
                    cell[0] += seen[domain][i].label == asked
                    cell[1] += 1
        done += len(batch)
        report(done, len(images))
    order = {"object": (*OBJECTS, "all"), "style": (*STYLE_CLASSES, "all")}
    return [Share(d, n, *counts[d, n]) for d, names in order.items() for n in names]
