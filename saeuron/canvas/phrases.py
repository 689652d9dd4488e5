"""Unusual ways to ask for an object: other sentences, and names spelled wrong. Three disjoint splits of each."""

import hashlib
from functools import cache

from saeuron.canvas.vocabulary import Split

STYLED_PARAPHRASES: dict[Split, tuple[str, ...]] = {
    "train": (
        "Draw a {object} in {style} style.",
        "Draw me a {style} {object}, please.",
        "Show me a {object} in the style of {style}.",
        "Make a {style} picture that shows a {object}.",
        "I want to see a {object} in {style} style.",
        "A {object}, done in {style}.",
        "In {style}, a {object}.",
        "This is a {object} in {style} style.",
    ),
    "validation": (
        "Paint a {object} in {style} style.",
        "Please show a {style} {object}.",
        "I want a picture of a {object} in {style}.",
    ),
    "test": (
        "Please draw a {object} in the style of {style}.",
        "Make me a {style} {object}.",
        "Here you see a {object} in {style} style.",
    ),
}
UNSTYLED_PARAPHRASES: dict[Split, tuple[str, ...]] = {
    "train": (
        "Draw a {object}.",
        "Draw me a {object}, please.",
        "Show me a {object}.",
        "Make a picture that shows a {object}.",
        "I want to see a {object}.",
        "This is a {object}.",
    ),
    "validation": ("Paint a {object}.", "Please show a {object}."),
    "test": ("Please draw a {object}.", "Here you see a {object}."),
}

_SHARES: dict[Split, slice] = {"train": slice(0, 8), "validation": slice(8, 10), "test": slice(10, 12)}


def slips(word: str) -> set[str]:
    """Every spelling with one slip: two letters swapped, one left out or one doubled; the first letter stays."""
    found = set()
    for i in range(1, len(word)):
        found.add(word[:i] + word[i + 1 :])
        found.add(word[:i] + word[i] + word[i:])
        found.add(word[:i] + word[i + 1 : i + 2] + word[i] + word[i + 2 :])
    return found - {word}


@cache
def misspellings(word: str, split: Split, words: tuple[str, ...]) -> list[str]:
    """Up to 8 (train), 2 and 2 wrong spellings of a word, one slip each; which split has which is decided by a hash.

    A short word that has fewer than twelve gives the other two splits a sixth each, one at least.

    Args:
        word: at least three letters.
        split: which of the three disjoint sets.
        words: all words that it must be told from: no spelling is one of them, or a slip of one of them.
    """
    taken = set(words).union(*(slips(other) for other in words if other != word))
    found = sorted(slips(word) - taken, key=lambda s: hashlib.blake2b(s.encode()).digest())
    if len(found) < 12:
        others = max(1, len(found) // 6)
        cuts = {"validation": slice(0, others), "test": slice(others, 2 * others), "train": slice(2 * others, 12)}
        return found[cuts[split]]
    return found[_SHARES[split]]
