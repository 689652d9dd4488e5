"""Why a query has no answer, in one line that says what to do.

DuckDB's own words have several lines, and advice on settings that are locked here.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence

NEAREST = 3
"""Names that a message proposes at most."""
_TABLE = re.compile(r"Table with name (\S+) does not exist")
_NOT_IN_FROM = re.compile(r'Referenced table "([^"]+)" not found')
_COLUMN = re.compile(
    r'Referenced column "([^"]+)" not found|does not have a column named "([^"]+)"|'
    r'Column "([^"]+)" (?:does not exist on|in \w+ list not found)'
)
_FUNCTION = re.compile(r"Function with name (\S+) does not exist")
_MEMORY = re.compile(r"Out of Memory|std::bad_alloc|malloc of size|SET memory_limit|'max_temp_directory_size'")
_PROPOSED = re.compile(r"^(?:Candidate \w+:|Did you mean) (.*)", re.MULTILINE)


def explained(message: str, memory: str, views: Mapping[str, Sequence[str]], sql: str = "") -> str:
    """DuckDB's message about `sql` as one line. `memory` is the limit, `views` are views and their columns."""
    proposed = re.findall(r'"([^"]+)"', found[1]) if (found := _PROPOSED.search(message)) else []
    first = " ".join(message.splitlines()[:1])
    if _MEMORY.search(message):
        return f"the query needs more memory than {memory}: select fewer columns or rows, or smaller groups"
    if unknown := _TABLE.search(first):
        return no_view(unknown[1].strip('"'), views)
    if unknown := _NOT_IN_FROM.search(first):
        return (
            f"the query names {unknown[1]!r}, which is not in its FROM; there is {' and '.join(proposed) or 'nothing'}"
        )
    if unknown := _COLUMN.search(first):
        return _no_column(next(filter(None, unknown.groups())), proposed, views, sql)
    if unknown := _FUNCTION.search(first):
        return f"there is no function {unknown[1]!r}{_meant(proposed).rstrip()}"
    return f"the query failed: {first}"


def no_view(name: str, views: Iterable[str]) -> str:
    """A view that is not there."""
    return f"there is no view {name!r}{_meant(_near(name, views)) or '; '}SHOW TABLES lists all"


def _no_column(name: str, proposed: Iterable[str], views: Mapping[str, Sequence[str]], sql: str) -> str:
    asked = [view for view in dict.fromkeys(re.findall(r"\w+", sql.lower())) if view in views]
    near = _meant(_near(name, dict.fromkeys([*proposed, *(column for view in asked for column in views[view])])))
    if not asked:
        return f"there is no column {name!r}{near.rstrip()}"
    other = near or f" in {' and '.join(asked)}; text is written with single quotes, '{name}'; "
    return f"there is no column {name!r}{other}DESCRIBE {asked[0]} lists all"


def _near(name: str, known: Iterable[str]) -> list[str]:
    return difflib.get_close_matches(name.lower(), known, n=NEAREST, cutoff=0.5)


def _meant(names: Sequence[str]) -> str:
    return f": did you mean {' or '.join(names[:NEAREST])}? " if names else ""
