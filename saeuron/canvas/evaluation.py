"""How well canvas draws what it is asked for: the share of generated images that the classifier recognises."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from saeuron.canvas.classifier import judge_file, load_classifier
from saeuron.canvas.vocabularies import CANVAS20, Kind, Vocabulary
from saeuron.canvas.vocabulary import UNSTYLED, Split
from saeuron.config import ModelConfig
from saeuron.figures.metrics import wilson
from saeuron.generation import Request, generate
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


def requests(split: Split, seeds: int, vocabulary: Vocabulary = CANVAS20, kind: Kind = "plain") -> list[Request]:
    """One prompt of every (object, style or unstyled) cell, `seeds` images of each."""
    result = []
    for name in vocabulary.objects:
        for style in vocabulary.style_classes:
            texts = vocabulary.sentences(split, name, None if style == UNSTYLED else style, kind)
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
    vocabulary: Vocabulary = CANVAS20,
    kind: Kind = "plain",
    report: Callable[[int, int], None] = lambda done, total: None,
) -> list[Share]:
    """Generate and judge; one `Share` per object and per style class, and one named `all` per domain.

    Of a vocabulary that was grown, also objects `first` (those that `CANVAS20` has) and `all unstyled`.
    """
    judge = load_classifier(judge_file(vocabulary))
    labels = {"object": vocabulary.objects, "style": vocabulary.style_classes}
    grown = vocabulary != CANVAS20
    counts: dict[tuple[str, str], list[int]] = {}
    images = requests(split, seeds, vocabulary, kind)
    done = 0
    for batch, pictures in generate(pipe, images, model, seed):
        with torch.no_grad():
            logits = judge(torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1)
        for domain, scores in zip(labels, logits, strict=True):
            for request, index in zip(batch, scores.argmax(1).tolist(), strict=True):
                asked = request.prompt.concepts[domain]
                names = [asked, "all"]
                if grown and domain == "object":
                    names += ["first"] * (asked in CANVAS20.objects)
                    names += ["all unstyled"] * (request.prompt.concepts["style"] == UNSTYLED)
                for name in names:
                    cell = counts.setdefault((domain, name), [0, 0])
                    cell[0] += labels[domain][index] == asked
                    cell[1] += 1
        done += len(batch)
        report(done, len(images))
    more = ("first", "all unstyled") if grown else ()
    order = {"object": (*labels["object"], *more, "all"), "style": (*labels["style"], "all")}
    return [Share(d, n, *counts[d, n]) for d, names in order.items() for n in names]
