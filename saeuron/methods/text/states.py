"""States of a text encoder, and pairs of sentences that differ in one concept.

Encoders are causal: from a concept's last token on, every state of a sentence may carry it, the padding included.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from saeuron.errors import ConfigError
from saeuron.hooks import Step, attached, hookpoints
from saeuron.methods.base import Evidence
from saeuron.pipelines import family_of

BATCH = 128
"""Prompts that are encoded at once."""
SENTENCES = 200
"""Sentences of a concept for which counterparts are made, at most."""
OTHERS = "others"
"""Value of `toward`: the mean over other concepts of the domain."""
FARTHEST = "farthest"
"""Value of `toward`: the other concept whose sentences the text encoder reads least like the concept's."""
COMPARED = 8
"""Sentences used to find the farthest concept, at most."""


def embeddings(pipe: Any, texts: Sequence[str]) -> Tensor:
    """The states of prompts that the denoiser reads, float32 [P, L, D], on the CPU."""
    found = []
    for start in range(0, len(texts), BATCH):
        with torch.no_grad():
            given = family_of(pipe).encode_prompt(pipe, texts[start : start + BATCH])["encoder_hidden_states"]
        # A guided pipeline puts the unconditional rows first.
        found.append(given[-len(texts[start : start + BATCH]) :].float().cpu())
    return torch.cat(found)


def rows(pipe: Any, texts: Sequence[str], hookpoint: str) -> Tensor:
    """A text encoder's states at a hookpoint, float32 [P, L, D], on the CPU."""
    seen: list[Tensor] = []

    def read(step: Step, output: Tensor, source: Tensor | None) -> None:
        del source
        if len(mine := step.half(output, "conditional")):
            seen.append(mine.detach().float().cpu())

    with attached(pipe, readers={hookpoint: read}):
        for start in range(0, len(texts), BATCH):
            with torch.no_grad():
                family_of(pipe).encode_prompt(pipe, texts[start : start + BATCH])
    return torch.cat(seen)


def layer(pipe: Any, number: int) -> str:
    """The hookpoint of a layer of the first text encoder; negative numbers count from the last.

    Raises:
        ConfigError: it has no such layer.
    """
    root = family_of(pipe).text_roots[0]
    found = [path for path in hookpoints(pipe) if re.fullmatch(rf"{root}\..*\blayers\.\d+", path)]
    if number < 0 < len(found):
        # A model with fewer layers than asked for uses its first.
        return found[max(number, -len(found))]
    if not 0 <= number < len(found):
        raise ConfigError(f"layer holds {number}; the text encoder has {len(found)}, 0 to {len(found) - 1}.")
    return found[number]


def renamed(text: str, concept: str, other: str) -> str | None:
    """The sentence with another word in place of a concept; None if it does not name it."""
    changed, times = re.subn(rf"(?<!\w){re.escape(concept)}(?!\w)", lambda _: other, text, flags=re.IGNORECASE)
    return changed if times else None


def counterparts(evidence: Evidence, toward: str, most: int = 4) -> list[tuple[str, list[str]]]:
    """(sentence that names the concept, the same sentence with other words instead): with `toward`, with the farthest
    concept, or with the names of `most` others.

    Raises:
        ConfigError: no training prompt has the concept's name in it.
    """
    names = _others(evidence)
    if toward == FARTHEST:
        toward = farthest(evidence)
    found = []
    for prompt in evidence.asked[:SENTENCES]:
        words = [toward]
        if toward == OTHERS:
            turn = sum(prompt.id.encode()) % len(names)
            words = (names[turn:] + names[:turn])[:most]
        changed = [t for word in words if (t := renamed(prompt.text, evidence.concept, word)) is not None]
        if changed:
            found.append((prompt.text, changed))
    if not found:
        raise _unnamed(evidence.concept)
    return found


def _others(evidence: Evidence) -> list[str]:
    return sorted({p.concepts[evidence.domain] for p in evidence.retained})


def _unnamed(concept: str) -> ConfigError:
    return ConfigError(
        f"no training prompt has the name {concept!r} in it, so this method cannot tell which words to "
        "change; add such prompts, or take a method that learns from images."
    )


def farthest(evidence: Evidence) -> str:
    """The other concept c' with the lowest cosine of e(c') - e and e(c) - e.

    e(c) are all states of a sentence with c in it; e is the mean over the domain's concepts. Cosines are means over
    the first sentences that name the concept.

    Raises:
        ConfigError: no training prompt has the concept's name in it.
    """
    names = [evidence.concept, *_others(evidence)]
    texts = [p.text for p in evidence.asked if renamed(p.text, evidence.concept, "") is not None][:COMPARED]
    if not texts:
        raise _unnamed(evidence.concept)
    total = torch.zeros(len(names))
    for text in texts:
        e = embeddings(evidence.pipe, [renamed(text, evidence.concept, name) or "" for name in names]).flatten(1)
        e = functional.normalize(e - e.mean(0), dim=1)
        total += e @ e[0]
    # Ties go to the first name.
    return names[1 + int(total[1:].argmin())]


def tokens(pipe: Any, texts: Sequence[str]) -> list[list[int]]:
    """The token ids of prompts as the first text encoder reads them, start and end included."""
    found: list[list[int]] = pipe.tokenizer(
        list(texts), truncation=True, max_length=pipe.tokenizer.model_max_length
    ).input_ids
    return found


def last_difference(one: Sequence[int], two: Sequence[int]) -> tuple[int, int]:
    """Index, in each of two token sequences with the same end, of the last token that differs."""
    same = 0
    while same < min(len(one), len(two)) and one[-1 - same] == two[-1 - same]:
        same += 1
    return len(one) - same - 1, len(two) - same - 1


class Aligned(NamedTuple):
    """A sentence that names a concept, and its counterparts."""

    text: str
    place: int
    """Index of the concept's last token; states from there on are compared."""
    mine: Tensor
    """The sentence's states from there on, float32 [P, D]."""
    other: Tensor
    """The mean of the counterparts' states from their own last token on, float32 [P, D]."""


def aligned(pipe: Any, found: Sequence[tuple[str, list[str]]]) -> Iterator[Aligned]:
    """Each sentence beside its counterparts."""
    texts = list(dict.fromkeys(t for text, others in found for t in (text, *others)))
    states, ids = (
        dict(zip(texts, embeddings(pipe, texts), strict=True)),
        dict(zip(texts, tokens(pipe, texts), strict=True)),
    )
    for text, others in found:
        ends = [last_difference(ids[text], ids[other]) for other in others]
        # Cut to the shortest: counterparts of other lengths have less padding.
        length, place = min(len(states[text]) - max(i, j) for i, j in ends), ends[0][0]
        other = torch.stack([states[o][j:][:length] for o, (_, j) in zip(others, ends, strict=True)]).mean(0)
        yield Aligned(text, place, states[text][place:][:length], other)


def pairs(pipe: Any, found: Sequence[tuple[str, list[str]]]) -> Iterator[tuple[Tensor, Tensor]]:
    """(states of a sentence from the concept's last token on [P, D], the mean of its counterparts' [P, D])."""
    for each in aligned(pipe, found):
        yield each.mine, each.other
