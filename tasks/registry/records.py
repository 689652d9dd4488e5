"""Records: small sealed JSON files, one pydantic model each. No run can make a damaged one again."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from storage import Workspace
from storage.errors import ArtifactDamaged
from storage.seals import read_sealed, sealed

Model = TypeVar("Model", bound=BaseModel)


class RecordDamaged(ArtifactDamaged):
    """A damaged record, which no run makes again."""

    def __str__(self) -> str:
        file, expected, found = self.args
        return f"{file} is damaged: expected {expected}, found {found}; mend it with: saeuron verify --repair"


def write(workspace: Workspace, path: Path, model: BaseModel) -> None:
    """Write a record, sealed."""
    workspace.write(path, sealed(model.model_dump(mode="json")))


def parsed(model: type[Model], path: Path, read: Callable[[Path], Any] = read_sealed) -> Model:
    """The record in a file; `read` returns its JSON. Raises ArtifactMissing or RecordDamaged."""
    try:
        return model.model_validate(read(path))
    except ValidationError as error:
        found = f"{error.error_count()} fields that do not fit"
        raise RecordDamaged(path, f"the fields of a {model.__name__.strip('_').lower()}", found) from None
    except ArtifactDamaged as error:
        raise RecordDamaged(*error.args) from None
