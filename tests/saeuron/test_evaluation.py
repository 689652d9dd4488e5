"""Which test images a removal is measured on."""

import pytest

from saeuron.config import EvaluateConfig
from saeuron.errors import BadPrompts
from saeuron.evaluation import images
from saeuron.prompts import Prompt

STYLES, OBJECTS = ("dots", "neon", "sepia"), ("boat", "cat")
SENTENCES = ("A {} in {} style.", "The {} in {}.")
PROMPTS = [
    Prompt(sentence.format(o, s), split, {"object": o, "style": s})
    for split, sentences in {"test": SENTENCES, "validation": ("One {} of {}.",)}.items()
    for sentence in sentences
    for o in OBJECTS
    for s in STYLES
] + [Prompt(f"A {o}.", "test", {"object": o}) for o in OBJECTS]


def asked(found):
    return [(r.prompt.concepts.get("style"), r.prompt.concepts["object"], r.index) for r in found]


def test_one_test_prompt_of_every_cell_and_every_seed_of_it():
    found = images(PROMPTS, EvaluateConfig(seeds=2))
    cells = [(s, o) for s in (None, *STYLES) for o in OBJECTS]
    assert sorted(asked(found), key=str) == sorted([(s, o, i) for s, o in cells for i in (0, 1)], key=str)
    assert {r.prompt.split for r in found} == {"test"}
    # Other seeds choose other sentences; the order of the prompts chooses nothing.
    texts = {r.prompt.text for r in found}
    assert texts == {r.prompt.text for r in images(PROMPTS[::-1], EvaluateConfig(seeds=2))}
    assert any({r.prompt.text for r in images(PROMPTS, EvaluateConfig(seed=s))} != texts for s in range(4, 8))


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5, 6, 99])
def test_a_sample_keeps_the_removed_concept_and_deals_the_others_in_turn(limit):
    config = EvaluateConfig(seeds=1, retained_cells=limit)
    found = asked(images(PROMPTS, config, ("style", "neon")))
    assert sorted(found[:2]) == [("neon", "boat", 0), ("neon", "cat", 0)]
    others = [s or "" for s, _, _ in found[2:]]
    # Six other cells: two without a style, two of dots, two of sepia.
    assert others == ["", "dots", "sepia", "", "dots", "sepia"][:limit]
    assert len(set(found)) == len(found)


def test_without_a_limit_or_a_concept_nothing_is_left_out():
    everything = images(PROMPTS, EvaluateConfig(seeds=1))
    assert images(PROMPTS, EvaluateConfig(seeds=1), ("style", "neon")) == everything
    assert images(PROMPTS, EvaluateConfig(seeds=1, retained_cells=1)) == everything


def test_prompts_without_a_test_split_are_refused():
    with pytest.raises(BadPrompts, match="no test prompts; add templates or files with split 'test'"):
        images([p for p in PROMPTS if p.split != "test"], EvaluateConfig())


@pytest.mark.parametrize(("own", "rest"), [(None, None), (1, 2), (2, 3), (9, 9)])
def test_several_concepts_have_cells_of_their_own_and_share_the_rest(own, rest):
    config, among = EvaluateConfig(seeds=2, retained_cells=rest), {"neon": "style", "dots": "style"}
    found = images(PROMPTS, config, among=among, own_cells=own)
    assert found == images(PROMPTS[::-1], config, among=dict(reversed(among.items())), own_cells=own)
    count = {s: sum(style == s for style, _, _ in asked(found)) for s in ("neon", "dots", "sepia", None)}
    # Each of the two has two cells; of the others there are two of sepia and two without a style.
    assert count["neon"] == count["dots"] == 2 * min(own or 2, 2)
    assert count["sepia"] + count[None] == 2 * min(rest or 4, 4) and abs(count["sepia"] - count[None]) <= 2
    assert len({*asked(found)}) == len(found)


def test_a_cell_of_two_removed_concepts_is_drawn_once():
    found = images(PROMPTS, EvaluateConfig(seeds=1), among={"neon": "style", "cat": "object"}, own_cells=4)
    assert asked(found).count(("neon", "cat", 0)) == 1 and len({*asked(found)}) == len(found)
