"""A rule in words for each latent of a vision model: chosen on some real pictures, judged on others.

The rules are those of `saeuron.sae.diagnosis.explanations`; a latent fires on a picture where its peak is above a share
of its largest. Where real pictures have no labels, the words of their captions stand in for them.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from saeuron.blindspots.dictionary import Strengths
from saeuron.sae.diagnosis.explanations import Explanation, explain

NAMED = 0.5
"""F1 on the judging pictures from which a rule counts as a name."""
FIRES = 0.5
"""A latent fires on a picture where its peak is above this share of its largest peak on the choosing pictures."""
MOST_WORDS = 40
"""Words of captions that rules are made of: the most frequent ones."""
IN_CAPTION = "in the caption"
_COMMON = {"a", "an", "and", "at", "by", "for", "from", "in", "is", "it", "of", "on", "or", "the", "to", "with"}
_COMMON |= {"drawing", "image", "photo", "picture", "style"}
Labels = Mapping[str, str | None]


def named(
    chosen: Strengths, chosen_labels: Sequence[Labels], judged: Strengths, judged_labels: Sequence[Labels]
) -> list[Explanation]:
    """The rule of every latent."""
    return explain(_peaks(chosen), chosen_labels, _peaks(judged), judged_labels, FIRES)


def fires(chosen: Strengths, of: Strengths) -> np.ndarray:
    """bool [n, N]: which latents fire on pictures."""
    found: np.ndarray = of.peak > FIRES * chosen.peak.max(0).clip(min=0)
    return found


def is_name(found: Explanation) -> bool:
    """Whether the rule of a latent is good enough to call it by."""
    return found.rule is not None and found.f1 >= NAMED


def words(captions: Sequence[str]) -> list[dict[str, str | None]]:
    """Labels made of captions: {word: `in the caption`}, of words that some captions have and others lack."""
    split = [set(re.findall(r"[^\W\d_]+", text.lower())) - _COMMON for text in captions]
    counts = Counter(word for each in split for word in each)
    usable = [(word, n) for word, n in counts.items() if 1 < n < len(captions)]
    kept = {word for word, _ in sorted(usable, key=lambda item: (-item[1], item[0]))[:MOST_WORDS]}
    return [dict.fromkeys(sorted(each & kept), IN_CAPTION) for each in split]


def _peaks(of: Strengths) -> torch.Tensor:
    return torch.from_numpy(of.peak.astype(np.float32))
