"""Which images stand on a contact sheet, and how its plots name hookpoints."""

import itertools
from typing import Any

from tasks.report import bands, short

STYLES = ("neon", "dots", "sepia", None)
OBJECTS = ("cat", "heart", "moon", *(f"thing{i}" for i in range(9)))
ROWS: list[dict[str, Any]] = [
    {
        "key": f"{thing} {style}",
        "prompt_id": f"{(31 * i) % 48:02d}",
        "asked": [(d, c) for d, c in (("style", style), ("object", thing)) if c],
    }
    for i, (thing, style) in enumerate(itertools.product(OBJECTS, STYLES))
]


def harmed(name: str, domain: str = "object") -> dict[str, Any]:
    return {"harmed": name, "domain": domain, "before": 1.0, "after": 0.25}


def names(rows: list[dict[str, Any]], domain: str = "object") -> list[str | None]:
    return [dict(row["asked"]).get(domain) for row in rows]


def test_the_worst_victims_stand_on_it_each_with_as_many_images() -> None:
    mine, victims, others = bands(ROWS, "object", "cat", [harmed("moon"), harmed("heart"), harmed("thing3")])
    assert mine[0] == "asked for cat" and names(mine[1]) == 4 * ["cat"]
    assert victims[0].startswith("harmed most, percent seen: moon 25 (was 100), heart 25 (was 100), thing3")
    assert names(victims[1]) == 3 * ["moon"] + 3 * ["heart"] + 3 * ["thing3"]
    assert others[0] == "asked for another object, none of those above" and len(others[1]) == 10
    assert {"cat", "moon", "heart", "thing3"} & {*names(others[1])} == set()


def test_a_victim_of_another_domain_stands_on_it_without_the_removed_concept() -> None:
    _, victims, others = bands(ROWS, "object", "cat", [harmed("neon", "style")])
    assert names(victims[1], "style") == 5 * ["neon"] and "cat" not in names(victims[1])
    assert "neon" not in names(others[1], "style")


def test_of_more_victims_than_there_is_room_for_the_worst_stand_on_it() -> None:
    things = [name for name in OBJECTS if name != "cat"]
    _, victims, others = bands(ROWS, "object", "cat", [harmed(name) for name in things])
    assert names(victims[1]) == things[:10]
    assert {*names(others[1])} == {things[10]}


def test_without_a_victim_there_are_two_bands() -> None:
    mine, victims, others = bands(ROWS, "style", "neon", [])
    assert len(mine[1]) == 10 and victims[1] == [] and others[0] == "asked for another style"
    # Images that ask for no style stand in neither.
    assert {*names(mine[1], "style")} == {"neon"} and {*names(others[1], "style")} == {"dots", "sepia"}


def test_a_hookpoint_is_shown_without_what_most_share() -> None:
    assert short("unet.up_blocks.0.attentions.1.transformer_blocks.0.attn2") == "up_blocks.0.attentions.1.attn2"
    # The first of many blocks is not left out.
    assert short("transformer.transformer_blocks.0.attn2") == "transformer.transformer_blocks.0.attn2"
