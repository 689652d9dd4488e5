"""Facts from a workspace for the model card of an SAE or a removal."""

import shlex
from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from saeuron.config import RunConfig
from saeuron.errors import ConfigError, hub_id
from saeuron.methods.removal import Removal
from saeuron.pages.cards import SAEFacts, published, removal_card
from storage import Workspace
from storage.errors import StorageError
from storage.files import read_json, write_atomic
from storage.manifests import Manifest
from storage.tables import METRICS, read_table
from tasks.registry import runs
from tasks.registry.removals import file_of

RUN = "run.yaml"


def sae_facts(workspace: Path, name: str, manifest: Manifest | None, format: str) -> SAEFacts:
    """The origin of an SAE. Without a manifest only `name`, the place it was read from, is known."""
    if manifest is None:
        shown = published(name)
        return SAEFacts(shown, format, f"saeuron sae export {shlex.quote(shown)} --format {format} --out DIR")
    about = manifest.summary
    if about.get("source"):
        source = published(about["source"])
        if about.get("revision"):
            # The commit that was read, whatever a branch holds today.
            spec, colon, inner = source.partition(":")
            source = f"{hub_id(spec)[0]}@{about['revision']}{colon}{inner}"
        command = f"saeuron sae import {shlex.quote(source)} --hookpoint {about['hookpoint']}"
        return SAEFacts(manifest.id, format, command)
    if made_of := manifest.inputs.get("sae"):
        return SAEFacts(
            manifest.id, format, f"saeuron run with saes: {made_of} and thresholds: {manifest.config['thresholds']}"
        )
    opened = Workspace.open(workspace, create=False)
    capture = next((m for m in opened.artifacts("capture") if m.id == manifest.inputs.get("capture")), None)
    config = _made_by(opened, manifest, capture)
    command = f"saeuron run {RUN} --workspace DIR"
    if "device" in manifest.config:
        command += f" --device {manifest.config['device']}"
    return SAEFacts(
        name=manifest.id,
        format=format,
        command=command if config else "not known: the workspace no longer holds the configuration of its run",
        model=published(config.model.spec) if config else "",
        model_id=str(capture.config.get("model_id", "")) if capture else "",
        run=_yaml(config) if config else None,
        training=manifest.config.get("config", {}),
        capture=_captured(capture) if capture else {},
        figures={key: about.get(key) for key in ("fvu", "l0", "dead", "rows", "seconds")},
    )


def _yaml(config: RunConfig) -> str:
    # The runner changes no result, and may name private machines.
    fields = config.model_dump(mode="json", exclude={"runner"})
    fields["model"]["spec"] = published(config.model.spec)
    fields["prompts"]["files"] = [
        published(file)
        if isinstance(file, str)
        else file.model_dump(mode="json", exclude_defaults=True) | {"path": published(file.path)}
        for file in config.prompts.files
    ]
    for domain in fields["domains"].values():
        name, colon, argument = domain["judge"].partition(":")
        domain["judge"] = f"{name}{colon}{published(argument) if argument else ''}"
    return yaml.safe_dump(fields, sort_keys=False)


def _captured(capture: Manifest) -> dict[str, Any]:
    config, about = capture.config.get("config", {}), capture.summary
    return {
        "images": about.get("images"),
        "denoising steps of each": about.get("steps"),
        "rows": about.get("rows"),
        "half of the guidance batch": config.get("half"),
        "of the module": config.get("read"),
        "capture": f"`{capture.id}`",
    }


def _made_by(workspace: Workspace, sae: Manifest, capture: Manifest | None) -> RunConfig | None:
    """The configuration of a run that makes this SAE: the last one, or an earlier one stored in the workspace."""
    if capture is None:
        return None
    for config in _configs(workspace):
        model = config.model.model_dump(mode="json", exclude={"spec"})
        same = (
            sae.config.get("hookpoint") in config.hookpoints
            and _within(sae.config.get("config", {}), config.train.identity)
            and _within(capture.config.get("config", {}), config.capture.model_dump(mode="json"))
            and _within(capture.config.get("model", {}), model)
        )
        if same:
            return config
    return None


def _within(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether the recorded settings equal those given now. Options added later are ignored."""
    return all(name in now and now[name] == value for name, value in recorded.items())


def _configs(workspace: Workspace) -> Iterator[RunConfig]:
    paths = sorted((workspace.runs / "configs").glob("*.json"), reverse=True)
    for path in (workspace.root / runs.CONFIG, *paths):
        try:
            yield RunConfig.model_validate(read_json(path))
        except (StorageError, ValidationError):
            # Damaged or of an earlier version, which this version cannot run.
            continue


def _evaluation(workspace: Workspace, removal_id: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows of the metrics of a removal's newest evaluation, and its summary; both empty if there is none."""
    found = [m for m in workspace.artifacts("evaluation") if m.inputs.get("removal") == removal_id]
    if not found:
        return [], {}
    newest = max(found, key=lambda m: (m.created, m.id))
    rows: list[dict[str, Any]] = read_table(workspace.fetch(newest.id, METRICS.file) / METRICS.file).to_pylist()
    return rows, newest.summary


def check_empty(folder: Path, mine: Set[str]) -> None:
    """Raise ConfigError if `folder` holds other files than `mine`, or is not a folder."""
    others = sorted(p.name for p in folder.iterdir() if p.name not in mine) if folder.is_dir() else []
    if others or (folder.exists() and not folder.is_dir()):
        raise ConfigError(f"{folder} holds other things ({', '.join(others[:3])}); give --out a new or empty folder.")


def export_removal(workspace: Path, concept: str, out: Path) -> tuple[list[Path], bool]:
    """Copy the removal of a concept to `out` and write its card; returns (files, whether it was measured).

    Raises:
        UnknownName: the workspace has no such removal.
        ConfigError: `out` holds other files.
    """
    opened = Workspace.open(workspace, create=False)
    source = file_of(opened, concept)
    file = out / source.name
    # A README alone is somebody's own; a card lies beside its removal, which is written first.
    check_empty(out, {"README.md", file.name} if file.exists() else {*()})
    removal = Removal.load(source)
    figures, outcome = _evaluation(opened, str(removal.provenance.get("removal_id", "")))
    write_atomic(file, source.read_bytes())
    write_atomic(out / "README.md", removal_card(removal, figures, outcome, file.name).encode())
    return [file, out / "README.md"], bool(figures)
