"""Attention heads of cross-attentions, and what each carries of a concept.

A cross-attention gives W_O z + b, z being the outputs of its heads side by side. What a head carries is the share of
`saeuron.pipelines.patching`, with the head's slice of z taken from the prompt with the concept.
"""

import difflib
import itertools
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from saeuron.errors import BadPrompts, ConfigError
from saeuron.hooks import INPUT, hookpoints
from saeuron.pipelines import family_of
from saeuron.pipelines.base import Family
from saeuron.pipelines.patching import Pair, Part, Site
from saeuron.prompts import Prompt, choose

Z = ".to_out.0" + INPUT
"""After the path of an attention: the outputs of its heads, side by side."""


class Head(NamedTuple):
    """One head of a cross-attention."""

    attention: str
    """Dotted path of the attention."""
    number: int
    """The head, from 0."""
    part: Part
    """Its slice of z."""


class Group(NamedTuple):
    """Sites that are patched at once, and their name."""

    kind: str
    """`head`, `module`, `block` or `all`."""
    name: str
    """Path of the attention or of the block; empty for all."""
    head: int | None
    sites: tuple[Site, ...]


def cross_attentions(pipe: Any) -> dict[str, Any]:
    """The modules where the denoiser reads the text, by their paths.

    Raises:
        ConfigError: the model's attentions have text and image in one sequence, so no head is the text's.
    """
    family = family_of(pipe)
    known = {p: m for p, m in hookpoints(pipe).items() if p.startswith(f"{family.root}.")}
    found: dict[str, Any] = {p: m for p, m in known.items() if p.endswith(family.text_enters)}
    if family.text_enters != Family.text_enters or not found:
        raise ConfigError(
            f"{type(pipe).__name__} has no cross-attentions: text and image are one sequence there. Modules can be "
            "ranked, with: saeuron hookpoints MODEL --rank CONCEPT --instead OTHER"
        )
    return found


def heads(pipe: Any) -> list[Head]:
    """Every head of every cross-attention, in the order of the modules. Raises ConfigError, see `cross_attentions`."""
    result = []
    for path, module in cross_attentions(pipe).items():
        width = module.to_out[0].in_features // module.heads
        result += [Head(path, i, Part(path + Z, i * width, (i + 1) * width)) for i in range(module.heads)]
    return result


def output_weights(pipe: Any, head: Head) -> Tensor:
    """W_O of one head, [D, d_h]: what the module gives of the head's z."""
    weight: Tensor = cross_attentions(pipe)[head.attention].to_out[0].weight
    return weight[:, head.part.start : head.part.stop]


def block_of(attention: str) -> str:
    """The block of an attention: `unet.up_blocks.0` of `unet.up_blocks.0.attentions.1.transformer_blocks.0.attn2`."""
    return attention.split(".attentions.")[0] if ".attentions." in attention else attention.rpartition(".")[0]


def groups(found: Sequence[Head]) -> list[Group]:
    """Each head alone, the heads of each module and of each block together, and all."""
    result = [Group("head", h.attention, h.number, (h.part,)) for h in found]
    for kind, key in (("module", lambda h: h.attention), ("block", lambda h: block_of(h.attention))):
        names = dict.fromkeys(key(h) for h in found)
        result += [Group(kind, n, None, tuple(h.part for h in found if key(h) == n)) for n in names]
    return [*result, Group("all", "", None, tuple(h.part for h in found))]


def minimal_pairs(
    prompts: Iterable[Prompt], domain: str, concept: str, count: int, seed: int = 0, others: Sequence[str] = ()
) -> list[tuple[Prompt, Pair]]:
    """Prompts that ask for a concept, each with the nearest sentence that asks for another in its place.

    Args:
        prompts: where sentences are looked for: those of one split.
        others: concepts to put in its place, in turn; none: all of the domain that the prompts ask for.

    Returns:
        (the prompt, its pair): at most `count`. The control of a pair is another sentence with the other concept; the
        same but for the template, if there is one.

    Raises:
        BadPrompts: no prompt asks for the concept, or none has a partner.
    """
    known = [p for p in prompts if domain in p.concepts]
    mine = [p for p in known if p.concepts[domain] == concept]
    if not mine:
        raise BadPrompts(f"no prompt asks for {concept!r}; add templates or files that name it.")
    values = list(others) or sorted({p.concepts[domain] for p in known} - {concept})
    by_value = {v: [p for p in known if p.concepts[domain] == v] for v in values}
    chosen, turn = choose(mine, len(mine), seed), itertools.cycle(values or [""])
    result = []
    for prompt in chosen:
        for _ in values:
            same = by_value[next(turn)]
            rest = {d: c for d, c in prompt.concepts.items() if d != domain}
            alike = [p for p in same if {d: c for d, c in p.concepts.items() if d != domain} == rest]
            if not alike:
                continue
            near = max(alike, key=lambda p: _likeness(prompt.text, p.text))
            away = [p for p in alike if p != near] or [p for p in same if p != near]
            if away:
                control = choose(away, 1, seed)[0]
                result.append((prompt, Pair(prompt.text, near.text, control.text)))
                break
        if len(result) == count:
            break
    if not result:
        raise BadPrompts(
            f"no prompt that asks for {concept!r} has a sentence beside it that asks for another {domain} and for the "
            "rest alike, and a second one; add templates with {" + domain + "} in them."
        )
    return result


def _likeness(first: str, second: str) -> float:
    """How much two sentences have in common, word by word, 0 to 1."""
    return difflib.SequenceMatcher(None, first.lower().split(), second.lower().split()).ratio()
