"""Removals where people look for them: `removals/<concept>.<method>.safetensors`, and which artifact each is a copy of.

The header of a file says which removal it is, so nothing has to be compared or guessed from its name.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from storage.files import file_name
from storage.manifests import Manifest
from storage.workspace import Workspace


class Published(NamedTuple):
    """A removal in `removals/`."""

    concept: str
    method: str
    removal_id: str
    """The artifact that it is a copy of; empty if it names none."""


def published_name(concept: str, method: str) -> str:
    """Prefix of a removal's files for people: `<concept>.<method>`."""
    return f"{file_name(concept)}.{file_name(method)}"


def published(workspace: Workspace) -> dict[Path, Published]:
    """Every removal in `removals/` that is whole, by its file."""
    found = {path: read(path) for path in sorted(workspace.removals.glob("*.safetensors"))}
    return {path: about for path, about in found.items() if about}


def in_use(workspace: Workspace, removals: Iterable[Manifest]) -> dict[tuple[str, str], str]:
    """{(concept, method): id} of the removals whose copies lie in `removals/`: those that `saeuron generate` takes."""
    copied = {about.removal_id for about in published(workspace).values()}
    return {(m.summary["concept"], m.summary["method"]): m.id for m in removals if m.id in copied}


def read(path: Path) -> Published | None:
    """Concept, method and artifact of a file in `removals/`; None if the file is not a whole removal."""
    try:
        about = json.loads(json.loads(header(path) or "")["__metadata__"]["json"])
        return Published(about["concept"], about["method"], str(about["provenance"].get("removal_id", "")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def header(path: Path) -> str | None:
    """The JSON that a safetensors file begins with; None if the file is not whole."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        rest = path.stat().st_size - 8 - length
        if rest < 0:
            return None
        try:
            text = file.read(length).decode()
            ends = [fields["data_offsets"][1] for name, fields in json.loads(text).items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            return None
    return text if max(ends, default=0) == rest else None
