"""The removal that a name means, and why there is none."""

import shlex
from pathlib import Path

from saeuron.errors import ConfigError, UnknownName
from storage import Workspace
from storage.errors import ArtifactDamaged
from storage.files import file_name
from storage.published import published, published_name
from tasks.registry import runs
from tasks.registry.concepts import Roster


def place(workspace: Path, name: str) -> Path:
    """The file of a removal: `name` itself, if it is one, or that of the workspace's removal. Raises as `file_of`."""
    path = Path(name)
    if path.suffix == ".safetensors" and path.is_file():
        return path
    return file_of(Workspace.open(workspace, create=False), name)


def file_of(workspace: Workspace, name: str) -> Path:
    """The file of a workspace's removal, by `CONCEPT` or `CONCEPT.METHOD`.

    Of several for a concept, the one by the first method of the last run's configuration is meant.

    Raises:
        UnknownName: there is no such removal.
        ConfigError: there is no such file; it is a control, or a concept without a removal; or a concept has removals
            by several methods, none by the first of the configuration, and the name gives no method.
        ArtifactDamaged: its file is damaged.
    """
    known = published(workspace)
    fitting = {p: a for p, a in known.items() if name in (a.concept, f"{a.concept}.{a.method}")}
    if not fitting:
        raise refusal(workspace, name)
    first = runs.remembered(workspace).method[0] if workspace.root.joinpath(runs.CONFIG).exists() else ""
    meant = workspace.removals / f"{published_name(name, first)}.safetensors"
    # Another method's removal must not stand in for a damaged one.
    if meant.exists() and meant not in known:
        raise _damaged(meant)
    if len(fitting) > 1:
        fitting = {p: a for p, a in fitting.items() if a.method == first} or fitting
    if len(fitting) > 1:
        several = ", ".join(f"{a.concept}.{a.method}" for a in fitting.values())
        raise ConfigError(f"concept {name!r} has {len(fitting)} removals; give one of {several}.")
    return next(iter(fitting))


def refusal(workspace: Workspace, name: str) -> Exception:
    """Why the workspace has no removal of this name, and what to do."""
    known, path = published(workspace), Path(name)
    files = {p.name.removesuffix(".safetensors"): p for p in sorted(workspace.removals.glob("*.safetensors"))}
    for stem, file in files.items():
        if file not in known and (stem == file_name(name) or stem.startswith(f"{file_name(name)}.")):
            return _damaged(file)
    about = [m.summary for m in workspace.artifacts("removal")]
    if any(name == f"{a['concept']}.{a['method']}" for a in about):
        concept = next(a["concept"] for a in about if name == f"{a['concept']}.{a['method']}")
        kept = [f"{a.concept}.{a.method}" for a in known.values() if a.concept == concept]
        instead = f"expected one of {', '.join(kept)}." if kept else f"make one with: {_remove(concept)}"
        return ConfigError(f"removal {name!r} is only measured, as a control, and not kept to be used; {instead}")
    if name in _concepts(workspace):
        return ConfigError(f"concept {name!r} has no removal here; make one with: {_remove(name)}")
    if path.is_dir():
        return ConfigError(f"{name} is a folder; expected a removal's file, NAME.safetensors, or a concept.")
    if "/" in name or path.suffix == ".safetensors":
        return ConfigError(f"no such file: {name}; expected a removal's file, NAME.safetensors, or a concept.")
    names = {n for a in known.values() for n in (a.concept, f"{a.concept}.{a.method}")}
    return UnknownName("removal", name, names, "Make one with: saeuron remove CONCEPT")


def _damaged(file: Path) -> ArtifactDamaged:
    return ArtifactDamaged(file, "a whole removal", "something else")


def _remove(concept: str) -> str:
    return shlex.join(["saeuron", "remove", concept])


def _concepts(workspace: Workspace) -> set[str]:
    """The concepts that can be removed here; none before the first run."""
    if not workspace.root.joinpath(runs.CONFIG).exists():
        return set()
    config = runs.remembered(workspace)
    return {name for names in Roster.of(workspace, config).present(config).values() for name in names}
