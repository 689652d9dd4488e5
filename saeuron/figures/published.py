"""Published figures on UnlearnCanvas (2402.11846), as papers print them; none was reproduced here."""

from typing import NamedTuple


class Published(NamedTuple):
    """UA, IRA and CRA of a method in one domain, in percent; None: not printed."""

    method: str
    domain: str
    ua: float | None
    ira: float | None
    cra: float | None
    mean: float
    """(UA + IRA + CRA) / 3, as printed, or of the three."""
    note: str = ""


def _of(method: str, domain: str, ua: float, ira: float, cra: float, note: str = "") -> Published:
    return Published(method, domain, ua, ira, cra, (ua + ira + cra) / 3, note)


PUBLISHED = (
    _of("SAeUron", "style", 95.80, 99.10, 99.40),
    _of("SAeUron", "object", 78.82, 95.47, 95.58),
    _of("SAeUron", "object", 84.23, 90.05, 76.78, "another printing"),
    _of("SAeUron", "object", 87.16, 85.57, 74.14, "another printing"),
    _of("SAEmnesia", "style", 96.60, 98.67, 99.30),
    _of("SAEmnesia", "object", 94.65, 91.39, 88.48),
    _of("G-SAE+PER", "object", 94.02, 96.11, 95.87),
    _of("HiRM-S", "style", 96.20, 92.67, 97.75, "text encoder"),
    _of("HiRM-S", "object", 96.20, 97.77, 96.85, "text encoder"),
    Published("Diff-QuickFix", "style", None, None, None, 95.81, "text encoder, as HiRM ran it"),
    Published("Diff-QuickFix", "object", None, None, None, 96.19, "text encoder, as HiRM ran it"),
)
"""The best published figures of each kind of method. Papers print different figures for the same method."""
