from dataclasses import astuple, replace

import pytest

from saeuron.figures.damage import Confusion, Damage, confusion, damage
from saeuron.figures.metrics import Judged

# {(asked style, asked object): what judges see of (unedited, edited)}, with two seeds of each; cat is removed.
SEEN = {
    ("neon", "cat"): (("neon", "cat"), ("neon", "cup")),
    ("neon", "dog"): (("neon", "dog"), ("neon", "cup")),
    ("neon", "cup"): (("neon", "cup"), ("dots", "cup")),
    ("dots", "dog"): (("dots", "dog"), ("dots", "cup")),
    ("dots", "cup"): (("dots", "dog"), ("dots", "cup")),
    (None, "dog"): (("dots", "dog"), ("dots", "dog")),
}


def images(which: int) -> list[Judged]:
    found = []
    for (style, thing), seen in SEEN.items():
        asked = {d: name for d, name in (("style", style), ("object", thing)) if name}
        for index in range(2):
            label = dict(zip(("style", "object"), seen[which], strict=True))
            found.append(Judged(f"{style} {thing}", index, asked, label))
    return found


UNEDITED, EDITED = images(0), images(1)


def test_every_other_concept_by_hand_the_worst_first() -> None:
    found = damage("object", "cat", EDITED, UNEDITED)
    shown = [(d.harmed, d.domain, d.before, d.after, d.loss, d.n, d.n_prompts) for d in found]
    assert shown == [
        ("dog", "object", 1.0, pytest.approx(1 / 3), pytest.approx(2 / 3), 6, 3),
        ("neon", "style", 1.0, pytest.approx(2 / 3), pytest.approx(1 / 3), 6, 3),
        ("dots", "style", 1.0, 1.0, 0.0, 4, 2),
        ("cup", "object", 0.5, 1.0, -0.5, 4, 2),
    ]
    for d in found:
        assert d.low <= d.loss <= d.high and d.certain == (d.low > 0)
    # Four of six images lost, of three prompts: too few to be sure.
    assert not any(d.certain for d in found)


def test_a_loss_in_many_prompts_is_certain() -> None:
    plain = [Judged(f"p{i}", 0, {"object": "dog"}, {"object": "dog"}) for i in range(12)]
    edited = [replace(j, seen={"object": "cup"}) if i < 9 else j for i, j in enumerate(plain)]
    assert [(d.harmed, d.loss, d.certain) for d in damage("object", "cat", edited, plain)] == [("dog", 0.75, True)]


def test_concepts_without_a_judge_are_left_out() -> None:
    def blind(judged: list[Judged]) -> list[Judged]:
        return [replace(j, seen={"object": j.seen["object"], "style": None}) for j in judged]

    found = damage("object", "cat", blind(EDITED), blind(UNEDITED))
    assert {d.domain for d in found} == {"object"}
    assert {c.domain for c in confusion(blind(EDITED), blind(UNEDITED))} == {"object"}


def test_what_was_asked_and_what_was_seen() -> None:
    found = confusion(EDITED, UNEDITED)
    assert [astuple(c) for c in found if c.domain == "object"] == [
        ("object", "cat", "cat", 0, 2),
        ("object", "cat", "cup", 2, 0),
        ("object", "cup", "cup", 4, 2),
        ("object", "cup", "dog", 0, 2),
        ("object", "dog", "cup", 4, 0),
        ("object", "dog", "dog", 2, 6),
    ]
    # Nobody asked for a style in the last prompt.
    assert Confusion("style", "dots", "dots", 4, 4) in found
    assert (
        sum(c.n for c in found if c.domain == "style") == sum(c.n_unedited for c in found if c.domain == "style") == 10
    )


def test_damage_has_the_columns_of_the_view() -> None:
    from storage.tables import CONFUSION, DAMAGE

    removed = {"removal_id", "concept", "method"}
    assert {c.name for c in DAMAGE.columns} == removed | set(Damage.__dataclass_fields__)
    assert {c.name for c in CONFUSION.columns} == removed | set(Confusion.__dataclass_fields__)
