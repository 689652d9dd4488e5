"""Figures as text for people."""

from collections.abc import Mapping
from typing import Any


def percent(fraction: float) -> str:
    """A fraction in percent: `69.6`, and `100` without a decimal point."""
    return f"{100 * fraction:.1f}".removesuffix(".0")


def interval(value: float | None, low: float | None, high: float | None) -> str:
    """Fractions in percent: `98.9 97-100`; `98.9` without an interval, `-` without a value."""
    if value is None:
        return "-"
    shown = percent(value) if value == 1 else format(100 * value, ".1f")
    return shown if low is None or high is None else f"{shown} {100 * low:.0f}-{100 * high:.0f}"


def harm(harmed: Mapping[str, Any]) -> str:
    """`heart 0 (was 100)`: a concept that a removal harms, its share of recognised images with it and without."""
    return f"{harmed['harmed']} {100 * harmed['after']:.0f} (was {100 * harmed['before']:.0f})"


def a(noun: str) -> str:
    """`a style`, `an object`; by sound: `an hour`, `a unicorn`, `a one-eyed cat`."""
    word = noun.lower()
    vowel = word.startswith(_AN) or (word[:1] in {*"aeiou"} and not word.startswith(_A))
    return f"{'an' if vowel else 'a'} {noun}"


_AN = ("hour", "honest", "honour", "honor", "heir")
_A = (
    "unic",
    "unif",
    "unio",
    "unit",
    "univ",
    "uniq",
    "use",
    "usu",
    "utens",
    "ufo",
    "ukulele",
    "euro",
    "ewe",
    "one ",
    "one-",
)
