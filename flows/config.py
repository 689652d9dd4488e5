"""Read a run's YAML file and `--set` options into a `RunConfig`; one clear line for each mistake."""

from collections.abc import Hashable, Sequence
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from saeuron.canvas import FOLDERS
from saeuron.config import ConceptConfig, RunConfig, twice
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
        text = path.read_bytes()
    elif "/" not in source and embedded.is_file():
        text = embedded.read_bytes()
    else:
        raise UnknownName("configuration", source, names(), "Or give the path of a YAML file.")
    values = _parse(text, source)
    # Embedded configurations have bases too; none is its own base.
    while "base" in values:
        base = values.pop("base")
        if base not in names():
            raise UnknownName("base", str(base), names(), f"({source})")
        values = _merge(_parse((EMBEDDED / f"{base}.yaml").read_bytes(), source), values)
    for setting in settings:
        _set(values, setting)
    return _placed(validated(RunConfig, values, source, settings))


def changed(config: RunConfig, settings: Sequence[str]) -> RunConfig:
    """The configuration with `key.key=value` settings over it. Raises as `load`."""
    values = config.model_dump(mode="json")
    for setting in settings:
        _set(values, setting)
    return _placed(validated(RunConfig, values, "the workspace's configuration", settings)) if settings else config


def _placed(config: RunConfig) -> RunConfig:
    """The same with absolute paths: later commands read the configuration again, maybe in another folder."""
    files = tuple(
        _absolute(file) if isinstance(file, str) else file.model_copy(update={"path": _absolute(file.path)})
        for file in config.prompts.files
    )
    spec = config.model.spec
    extractor, _, weights = config.features.partition(":")
    domains = {}
    for name, domain in config.domains.items():
        judge, colon, argument = domain.judge.partition(":")
        domains[name] = domain.model_copy(update={"judge": f"{judge}{colon}{_absolute(argument)}"})
    return config.model_copy(
        update={
            "model": config.model.model_copy(update={"spec": spec if spec in FOLDERS else _absolute(spec)}),
            "prompts": config.prompts.model_copy(
                update={"files": files, "unlearncanvas": _absolute(config.prompts.unlearncanvas)}
            ),
            "domains": domains,
            "features": f"{extractor}:{_absolute(weights)}" if weights else extractor,
        }
    )


def _absolute(path: str) -> str:
    """The absolute path of a file or folder that is there; other text, such as a hub id, as it is."""
    found = Path(path).expanduser()
    return str(found.absolute()) if path and found.exists() else path


def load_concept(path: Path) -> ConceptConfig:
    """The concept of a YAML file.

    Raises:
        ConfigError: the file is missing, not YAML, or not a concept.
    """
    if not path.is_file():
        raise ConfigError(f"no such file: {path}; give a YAML file with `name` and `domain`.")
    return validated(ConceptConfig, _parse(path.read_bytes(), str(path)), str(path))


class _Loader(yaml.SafeLoader):
    """YAML in which a key that stands twice is a mistake: PyYAML alone keeps the last and drops the first."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        if (key := twice(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))) is not None:
            raise yaml.YAMLError(f"the key {key!r} stands twice in one section (line {node.start_mark.line + 1})")
        return super().construct_mapping(node, deep)


def _yaml(text: str | bytes) -> Any:
    """The value of a YAML text. Raises ValueError in one line, also for bytes that are not UTF-8."""
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # such as an impossible date, or 1,000 brackets
        raise ValueError(" ".join(str(error).split())) from None


def _parse(text: bytes, source: str) -> dict[str, Any]:
    try:
        values = _yaml(text)
    except ValueError as error:
        raise ConfigError(f"{source} is not YAML: {error}") from None
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
        inner[last] = _yaml(text)
    except ValueError:
        raise ConfigError(f"--set {setting!r}: {text!r} is not a YAML value.") from None


def validated(model: type[Model], values: dict[str, Any], source: str, settings: Sequence[str] = ()) -> Model:
    """The model of some values; raises a ConfigError of one line.

    The line starts with `source`, or with the one of `settings` that gave what is wrong.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(p) for p in first["loc"])
        keys = {setting.partition("=")[0]: setting for setting in settings}
        source = next((f"--set {s}" for key, s in keys.items() if f"{place}.".startswith(f"{key}.")), source)
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
