"""Read a run's YAML file and `--set` options into a `RunConfig`; one clear line for each mistake."""

from collections.abc import Sequence
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from saeuron.config import ConceptConfig, RunConfig
from saeuron.errors import ConfigError, UnknownName

EMBEDDED = files("flows") / "configs"
Model = TypeVar("Model", bound=BaseModel)


def names() -> list[str]:
    """The configurations that ship with the project."""
    return sorted(p.name.removesuffix(".yaml") for p in EMBEDDED.iterdir() if p.name.endswith(".yaml"))


def load(source: str | None, settings: Sequence[str] = ()) -> RunConfig:
    """The configuration of a file, or of one that ships with the project by its name; canvas without one.

    Args:
        source: path of a YAML file, or a name such as `canvas_full`.
        settings: `key.key=value`, values in YAML; they win over the file.

    Raises:
        ConfigError: the file is missing or not YAML, a key is unknown or a value wrong.
    """
    source = source or "canvas"
    embedded = EMBEDDED / f"{source.removesuffix('.yaml')}.yaml"
    path = Path(source)
    if path.is_file():
        text = path.read_text(encoding="utf-8")
    elif "/" not in source and embedded.is_file():
        text = embedded.read_text(encoding="utf-8")
    else:
        raise UnknownName("configuration", source, names(), "Or give the path of a YAML file.")
    values = _parse(text, source)
    # Embedded configurations have bases too; none is its own base.
    while "base" in values:
        base = values.pop("base")
        if base not in names():
            raise UnknownName("base", str(base), names(), f"({source})")
        values = _merge(_parse((EMBEDDED / f"{base}.yaml").read_text(encoding="utf-8"), source), values)
    for setting in settings:
        _set(values, setting)
    return _validate(RunConfig, values, source)


def load_concept(path: Path) -> ConceptConfig:
    """The concept of a YAML file.

    Raises:
        ConfigError: the file is missing, not YAML, or not a concept.
    """
    if not path.is_file():
        raise ConfigError(f"no such file: {path}; give a YAML file with `name` and `domain`.")
    return _validate(ConceptConfig, _parse(path.read_text(encoding="utf-8"), str(path)), str(path))


def _parse(text: str, source: str) -> dict[str, Any]:
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{source} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{source} holds {type(values).__name__}; expected a mapping of keys.")
    return values


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _set(values: dict[str, Any], setting: str) -> None:
    path, sign, text = setting.partition("=")
    if not sign or not path:
        raise ConfigError(f"--set {setting!r}: expected KEY.KEY=VALUE, for example train.k=16.")
    *parents, last = path.split(".")
    inner = values
    for key in parents:
        inner = inner.setdefault(key, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"--set {setting!r}: {key!r} holds a value, not a section.")
    try:
        inner[last] = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"--set {setting!r}: {text!r} is not a YAML value.") from None


def _validate(model: type[Model], values: dict[str, Any], source: str) -> Model:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(p) for p in first["loc"])
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        if first["type"] == "extra_forbidden":
            hint = _nearest(model, first["loc"])
            raise ConfigError(f"{source}: unknown key {place!r}{hint}{more}") from None
        shown = "" if first["type"] == "missing" else f" (found {first['input']!r:.60})"
        message = first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{source}: {place or 'the configuration'}: {message}{shown}{more}") from None


def _nearest(model: type[BaseModel], loc: tuple[Any, ...]) -> str:
    """The nearest key to a misspelt one, among those of its section."""
    inner: Any = model
    for key in loc[:-1]:
        field = getattr(inner, "model_fields", {}).get(key)
        if field is None:
            # Inside a mapping of sections, such as domains.style.
            continue
        annotation = field.annotation
        arguments = getattr(annotation, "__args__", ())
        inner = next((a for a in (annotation, *arguments) if hasattr(a, "model_fields")), inner)
    known = list(getattr(inner, "model_fields", {}))
    near = get_close_matches(str(loc[-1]), known, n=3, cutoff=0.5)
    if near:
        return f"; did you mean {' or '.join(map(repr, near))}?"
    return f"; known: {', '.join(known)}." if known else ""
