"""Inputs of a training step of canvas: labels, sentences as token ids, timesteps."""

from typing import Any

import torch
from torch import Tensor

from saeuron.canvas.vocabularies import CANVAS20, UNUSUAL, Kind, Vocabulary
from saeuron.canvas.vocabulary import UNSTYLED


class Prompts:
    """Token ids of training sentences, so that a step costs no tokenizing.

    `tokens` is int64 [n_kinds, n_objects, n_style_classes, most sentences, length]; cells with fewer sentences repeat
    theirs, and of more than `MOST` (the misspellings) an even choice is kept.
    """

    MOST = 12

    def __init__(self, pipe: Any, vocabulary: Vocabulary = CANVAS20) -> None:
        length = pipe.tokenizer.model_max_length

        def encode(texts: list[str]) -> Tensor:
            ids = pipe.tokenizer(texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
            return ids.input_ids

        def cell(object_: str, style: str, kind: Kind) -> list[str]:
            texts = vocabulary.sentences("train", object_, None if style == UNSTYLED else style, kind)
            # A stride that shares no factor with the count visits every sentence before any comes again.
            stride = 13 if len(texts) % 13 else 11
            return [texts[i * stride % len(texts)] for i in range(self.MOST)] if len(texts) > self.MOST else texts

        kinds = []
        for kind in vocabulary.kinds:
            cells = [cell(o, s, kind) for o in vocabulary.objects for s in vocabulary.style_classes]
            most = max(len(c) for c in cells)
            ids = encode([c[i % len(c)] for c in cells for i in range(most)])
            ids = ids.view(len(vocabulary.objects), len(vocabulary.style_classes), most, length)
            kinds.append(ids)
        self.tokens = kinds
        self.empty = encode([""])[0]

    def sample(
        self, objects: Tensor, styles: Tensor, dropout: float, generator: torch.Generator, unusual: float = 0.0
    ) -> Tensor:
        """One random sentence per image, int64 [B, length].

        Args:
            objects: int64 [B].
            styles: int64 [B].
            dropout: share of them that are empty.
            generator: the only source of randomness.
            unusual: share of them that are paraphrases, descriptions and misspellings, a third each.
        """
        n = len(objects)
        which = torch.randint(self.tokens[0].shape[2], (n,), generator=generator)
        tokens = self.tokens[0][objects, styles, which]
        dropped = torch.rand(n, generator=generator) < dropout
        if unusual:
            drawn = torch.rand(n, 2, generator=generator)
            kind = (drawn[:, 0] / unusual * len(UNUSUAL)).long()
            for index in range(len(UNUSUAL)):
                table = self.tokens[index + 1]
                rows = (kind == index).nonzero().squeeze(1)
                sentence = (drawn[rows, 1] * table.shape[2]).long()
                tokens[rows] = table[objects[rows], styles[rows], sentence]
        return torch.where(dropped[:, None], self.empty, tokens)


def draw_labels(
    vocabulary: Vocabulary, count: int, generator: torch.Generator, unstyled: float | None = None
) -> tuple[Tensor, Tensor]:
    """Objects and style classes, int64 [count] each; `unstyled` is the share without a style, None for all alike."""
    objects = torch.randint(len(vocabulary.objects), (count,), generator=generator)
    if unstyled is None:
        return objects, torch.randint(len(vocabulary.style_classes), (count,), generator=generator)
    styles = torch.randint(len(vocabulary.styles), (count,), generator=generator)
    plain = torch.rand(count, generator=generator) < unstyled
    return objects, torch.where(plain, vocabulary.style_classes.index(UNSTYLED), styles)


def draw_times(count: int, steps: int, generator: torch.Generator, early: bool = False) -> Tensor:
    """Time steps, int64 [count] in [0, steps), stratified over the batch: less variance, the same distribution.

    Uniform; `early` draws toward noise (1 - u^2 of the range), where it is decided what the image shows.
    """
    u = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    if early:
        u = 1 - u**2
    return (u * steps).long().clamp(max=steps - 1)
