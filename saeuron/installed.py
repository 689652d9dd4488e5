"""Entry points of installed packages, by group, such as `saeuron.methods`."""

import functools
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from saeuron.errors import ConfigError


@functools.cache
def entries(group: str) -> dict[str, EntryPoint]:
    """{name: entry point} of a group, looked up once in a process.

    Raises:
        ConfigError: two packages have an entry point of one name: which one is meant would depend on their order.
    """
    found: dict[str, EntryPoint] = {}
    for point in sorted(entry_points(group=group), key=lambda point: (point.name, point.value)):
        if found.setdefault(point.name, point).value != point.value:
            raise ConfigError(
                f"two installed packages have an entry point {point.name!r} of the group {group}: "
                f"{found[point.name].value} and {point.value}; expected one: uninstall or rename the other."
            )
    return found


def load(kind: str, point: EntryPoint) -> Any:
    """The object that an entry point names.

    Args:
        kind: its kind in messages, such as `method`.

    Raises:
        ConfigError: it cannot be imported.
    """
    try:
        return point.load()
    except Exception as error:
        what = f"{kind} {point.name!r} ({point.value})"
        raise ConfigError(f"{what} cannot be loaded: {error}; mend or uninstall it.") from error
