"""Rules of latents: against a slow search, on planted latents, and with shuffled labels."""

import itertools
import random

import pytest
import torch

from saeuron.figures.metrics import wilson
from saeuron.sae.diagnosis.explanations import Rule, choose, explain

STYLES, OBJECTS = ("dots", "neon", "sepia", "wash", "ink"), ("cat", "dog", "key")


def slow(fires, labels):
    """(rule, F1) by trying the rules one by one, an image at a time."""

    def f1(rule):
        hits = sum(f and rule.holds(e) for f, e in zip(fires, labels, strict=True))
        return 2 * hits / max(sum(fires) + sum(rule.holds(e) for e in labels), 1)

    domains = sorted({d for e in labels for d in e})
    values = {d: sorted({e[d] for e in labels if e.get(d)}) for d in domains}
    rules = [Rule("one", ((d, v),)) for d in domains for v in values[d]]
    for a, b in itertools.combinations(domains, 2):
        rules += [Rule("both", ((a, v), (b, w))) for v in values[a] for w in values[b]]
    for d in domains:
        held = []
        while len(held) < 4:
            more = [Rule("any", tuple(sorted([*held, (d, v)]))) for v in values[d] if (d, v) not in held]
            best = max(more, key=f1, default=None)
            if best is None or f1(best) <= (f1(Rule("any", tuple(held))) if held else 0):
                break
            held = list(dict.fromkeys([*held, *best.values]))
            if len(held) > 1:
                rules.append(best)
    found = max(rules, key=f1)
    return (found, f1(found)) if f1(found) > 0 else (None, 0.0)


@pytest.mark.parametrize("seed", range(5))
def test_rules_are_those_of_a_slow_search(seed):
    chance = random.Random(seed)
    labels = [{"style": chance.choice([*STYLES, None]), "object": chance.choice(OBJECTS)} for _ in range(30)]
    fires = torch.tensor([[chance.random() < 0.04 * latent for latent in range(26)] for _ in labels])
    # Latents of the three forms among those of chance.
    fires[:, 5] = torch.tensor([e["style"] == "neon" and e["object"] == "cat" for e in labels])
    fires[:, 6] = torch.tensor([e["style"] in ("neon", "dots", "ink") for e in labels])
    fires[:, 7] = torch.tensor([e["object"] == "dog" for e in labels])
    found = choose(fires, labels)
    for latent, (rule, f1) in enumerate(found):
        assert (rule, f1) == slow(fires[:, latent].tolist(), labels), latent
    assert found[0] == (None, 0.0) and found[6][0].words == "style is dots, ink or neon"
    assert {rule.form for rule, _ in found if rule} == {"one", "both", "any"}


def drawn(images, seed):
    """(A of 40 latents, labels): 0 is for neon, 1 for cats in neon, 2 for dots or ink, 3 is silent, the rest chance."""
    chance, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    labels = [{"style": chance.choice(STYLES), "object": chance.choice(OBJECTS)} for _ in range(images)]
    strength = torch.rand(images, 40, generator=generator) ** 4
    planted = [
        [e["style"] == "neon" for e in labels],
        [e["style"] == "neon" and e["object"] == "cat" for e in labels],
        [e["style"] in ("dots", "ink") for e in labels],
    ]
    strength[:, :3] = torch.tensor(planted).T + 0.2 * strength[:, :3]
    strength[:, 3] = 0
    return strength, labels


def test_planted_latents_are_found_and_judged_on_new_images():
    (chosen, labels), (judged, new) = drawn(300, 1), drawn(300, 2)
    found = explain(chosen, labels, judged, new)
    said = [e.rule.words if e.rule else None for e in found[:4]]
    assert said == ["style is neon", "object is cat and style is neon", "style is dots or ink", None]
    assert all(e.f1 == 1 and e.balanced_accuracy == 1 and 0.7 < e.confidence < 1 for e in found[:3])
    assert found[3][3:9] == (0,) * 6 and found[3].images == 300
    assert max(e.f1 for e in found[4:]) < 0.6
    # The figures of one latent of chance, by counting.
    some = found[7]
    fires = [bool(v > 0.3 * chosen[:, 7].max()) for v in judged[:, 7]]
    holds = [some.rule.holds(e) for e in new]
    hits = sum(f and h for f, h in zip(fires, holds, strict=True))
    silent = sum(not f and not h for f, h in zip(fires, holds, strict=True))
    assert (some.fires, some.holds) == (sum(fires), sum(holds))
    assert (some.precision, some.recall) == (hits / sum(holds), hits / sum(fires))
    assert some.f1 == pytest.approx(2 / (1 / some.precision + 1 / some.recall))
    low = wilson(hits, sum(holds))[0], wilson(hits, sum(fires))[0]
    assert some.confidence == pytest.approx(2 / (1 / low[0] + 1 / low[1]))
    assert some.balanced_accuracy == pytest.approx((hits / sum(fires) + silent / (300 - sum(fires))) / 2)


def test_shuffled_labels_explain_nothing():
    (chosen, labels), (judged, new) = drawn(300, 1), drawn(300, 2)
    found = explain(chosen, random.Random(3).sample(labels, len(labels)), judged, new)
    assert max(e.f1 for e in found[:2]) < 0.5 and max(e.confidence for e in found) < 0.5


def test_without_labels_there_is_no_rule():
    assert choose(torch.ones(3, 2, dtype=torch.bool), [{}, {"style": None}, {}]) == [(None, 0.0)] * 2
