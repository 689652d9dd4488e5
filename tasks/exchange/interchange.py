"""Import, find, describe and export SAEs."""

import hashlib
import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from saeuron.errors import ConfigError, UnknownName
from saeuron.pages.cards import sae_card
from saeuron.pipelines import loading as models
from saeuron.sae.autoencoder import SAE, check_width
from saeuron.sae.interchange import BadSAE, Imported, Located, locate, read, seems_hub_id, write
from storage import Workspace
from storage.files import write_atomic
from storage.identity import artifact_id
from storage.manifests import Manifest
from tasks.exchange import cards
from tasks.registry import runs
from tasks.registry.saes import find as find_known
from tasks.train import SAESummary, TrainJob


@dataclass(frozen=True)
class Found:
    """An SAE that a name or place was resolved to."""

    label: str
    """Its id, or the place it was read from."""
    imported: Imported
    manifest: Manifest | None = None
    """Set for an SAE of the workspace."""

    @property
    def sae(self) -> SAE:
        """The SAE itself."""
        return self.imported.sae


def find(workspace: Path, text: str, hookpoint: str = "", scale: float | None = None) -> Found:
    """The SAE that `text` names: a folder, a hub id, or an SAE of the workspace by its hookpoint or a prefix of its id.

    Raises:
        BadSAE: the SAE cannot be read.
        ConfigError: several SAEs fit.
        UnknownName: no SAE fits.
    """
    if not Path(text).expanduser().exists():
        try:
            # A hub id needs no workspace.
            there = (workspace.expanduser() / "workspace.json").exists()
            named = find_known(Workspace.open(workspace, create=False), text) if there else None
        except UnknownName as error:
            if not seems_hub_id(text):
                kind, name, known, _ = error.args
                hint = "Or give a folder, or owner/name[@revision][:subfolder] of the hub."
                raise UnknownName(kind, name, known, hint) from None
            named = None
        if named is not None:
            folder = Workspace.open(workspace, create=False).fetch(named.id)
            return Found(named.id, read(folder, hookpoint), named)
        if not seems_hub_id(text):
            raise UnknownName("SAE", text, (), "Or give a folder, or owner/name[@revision][:subfolder] of the hub.")
    return Found(text, _read(text, hookpoint, scale)[1])


def _read(source: str, hookpoint: str, scale: float | None) -> tuple[Located, Imported]:
    """An SAE from outside; its hookpoint is what the source says, or else the folder's name."""
    place = locate(source, hookpoint)
    imported = read(place.path, hookpoint, scale)
    info = imported.sae.info
    imported.sae.info = replace(info, hookpoint=info.hookpoint or place.hookpoint)
    return place, imported


def bring(
    workspace: Path, source: str, hookpoint: str = "", model: str | None = None, scale: float | None = None
) -> tuple[Manifest, Imported, list[str]]:
    """Read an SAE, check it against the model, and commit it as an artifact of the stage `sae`.

    The id is a hash of the weights and their description, so an SAE has the same id wherever it was found.

    Args:
        source: a folder, or a hub id.
        hookpoint: the module that the SAE reads; empty: the one that the source names.
        model: the diffusion model; None: the model of the workspace's last run.
        scale: factor by which activations are scaled, for a SAELens folder that does not hold it.

    Returns:
        (its manifest, the SAE as read, ids of other SAEs at that hookpoint).

    Raises:
        BadSAE: the SAE cannot be read.
        ConfigError: its hookpoint or the model is unknown.
        UnknownName: the model has no such hookpoint.
        WidthMismatch: the hookpoint has another width.
    """
    start = time.monotonic()
    opened = Workspace.open(workspace, create=model is not None)
    spec = model or runs.remembered(opened).model.spec
    models.check(spec)
    if hookpoint:
        # Before anything is downloaded.
        models.check_hookpoints(spec, [hookpoint])
    place, imported = _read(source, hookpoint, scale)
    sae, at = imported.sae, imported.sae.info.hookpoint
    if not at:
        raise ConfigError(f"{source} does not say where it belongs; give --hookpoint PATH, a module of {spec}.")
    width = models.check_hookpoints(spec, [at])[at] or _captured_width(opened, at)
    if width is not None:
        check_width(sae.info.width, width, f"the SAE of {source}")
    identity = {"hookpoint": at, "weights": content(sae)}
    name = artifact_id(TrainJob.stage, TrainJob.version, identity)
    with opened.lock(name):
        opened.resume(name)
        if not opened.has(name):
            sae.save(opened.folder(name))
            summary = SAESummary(
                **{key: getattr(sae.info, key) for key in ("hookpoint", "variant", "width", "n_latents")},
                k=sae.info.k or None,
                source=source,
                revision=place.revision,
                format=imported.format,
                notes=tuple(imported.notes),
            ).model_dump(mode="json")
            seconds = round(time.monotonic() - start, 3)
            opened.commit(name, config=identity, inputs={}, summary=summary, seconds=seconds)
    others = [m.id for m in opened.artifacts(TrainJob.stage) if m.summary.get("hookpoint") == at and m.id != name]
    return opened.manifest(name), imported, others


def content(sae: SAE) -> str:
    """SHA-256, hexadecimal, of an SAE's tensors (as float32) and description."""
    found = hashlib.sha256(json.dumps(asdict(sae.info), sort_keys=True).encode())
    for key, tensor in sorted(sae.state_dict().items()):
        found.update(f"{key} {list(tensor.shape)}".encode() + tensor.float().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def _captured_width(workspace: Workspace, hookpoint: str) -> int | None:
    """D of the captured activations of a hookpoint; None if there are none."""
    found = (m.summary for m in workspace.artifacts("capture"))
    return next((int(s["width"]) for s in found if s.get("hookpoint") == hookpoint), None)


def notes(found: Found) -> list[str]:
    """Notes on what was left out or changed when the SAE was read, now or when it was imported."""
    return [*(found.manifest.summary.get("notes", ()) if found.manifest else ()), *found.imported.notes]


def described(found: Found) -> dict[str, Any]:
    """The properties of an SAE, as JSON values."""
    sae, imported = found.sae, found.imported
    norms = sae.W_dec.detach().norm(dim=1)
    about = found.manifest.summary if found.manifest else {}
    fields: dict[str, Any] = {
        "sae": found.label,
        "format": imported.format,
        **asdict(sae.info),
        "dtype": imported.dtype,
        "bytes": imported.bytes,
        "decoder_norm": {"minimum": float(norms.min()), "mean": float(norms.mean()), "maximum": float(norms.max())},
        "fvu": about.get("fvu"),
        "l0": about.get("l0"),
        "dead": about.get("dead"),
        "source": about.get("source"),
        "capture": found.manifest.inputs.get("capture") if found.manifest else None,
        "notes": notes(found),
    }
    if sae.info.activation == "threshold":
        fields["threshold"] = {"minimum": float(sae.threshold.min()), "maximum": float(sae.threshold.max())}
    return fields


def export(workspace: Path, found: Found, format: str, out: Path) -> list[Path]:
    """Write `out/<hookpoint>/` in another library's format, with a model card and, if known, the run that made it.

    Returns the files, the card last.

    Raises:
        BadSAE: the format cannot express the SAE, or its hookpoint cannot name a folder.
        ConfigError: `out` holds other files.
    """
    hookpoint = found.sae.info.hookpoint
    inner = out / (hookpoint or "sae")
    # A link of that name may lead elsewhere.
    if inner.resolve().parent != out.resolve():
        raise BadSAE(
            f"hookpoint {hookpoint!r} cannot be a folder in {out}; give --out a new folder, or another --hookpoint."
        )
    facts = cards.sae_facts(workspace, found.label, found.manifest, format)
    names = {"cfg.json", "sae_weights.safetensors" if format == "saelens" else "sae.safetensors"}
    # A README alone is somebody's own; a card lies beside its SAE, which is written first.
    for folder, mine in ((out, {"README.md", cards.RUN, inner.name} if inner.exists() else {*()}), (inner, names)):
        cards.check_empty(folder, mine)
    write(found.sae, inner, format, facts.model)
    files = [inner / name for name in sorted(names)]
    if facts.run is not None:
        write_atomic(out / cards.RUN, facts.run.encode())
        files.append(out / cards.RUN)
    write_atomic(out / "README.md", sae_card(found.sae, facts, notes(found)).encode())
    return [*files, out / "README.md"]
