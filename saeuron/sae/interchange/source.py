"""Find an SAE's folder: on disk, or on the hub, from which only configurations and safetensors are fetched."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from saeuron.errors import hub_id, why_not_fetched
from saeuron.sae.interchange.folder import PICKLED, PICKLES, BadSAE, has_pickles

_HUB = re.compile(r"(?P<id>[A-Za-z0-9][\w.-]*/[\w.-]+(?:@[\w./+-]*)?)(?::(?P<inner>[\w./-]+))?")
"""A revision holds no colon: git allows none in a name."""
_FILES = ("cfg.json", "sae.safetensors", "sae_weights.safetensors", "activation_scaler.json")
_SHOWN = 8
_MOST = 10_000
"""Files and folders below a folder that are looked through for an SAE: more than any release of SAEs has."""


@dataclass(frozen=True)
class Located:
    """A folder that holds `cfg.json`."""

    path: Path
    revision: str | None = None
    """The commit it was fetched at; None for a folder on disk."""

    @property
    def hookpoint(self) -> str:
        """The folder's name, if it is a module path, as SAeUron and sparsify name folders; else empty."""
        name = self.path.name
        return name if re.fullmatch(r"[A-Za-z_]\w*(\.\w+)+", name) else ""


def seems_hub_id(text: str) -> bool:
    """Whether the text has the form `owner/name[@revision][:subfolder]`."""
    return _HUB.fullmatch(text) is not None


def locate(source: str, hookpoint: str = "") -> Located:
    """The folder that `source` names.

    Args:
        source: a folder, or a file in it; or `owner/name[@revision][:subfolder]` on the hub.
        hookpoint: which SAE to take if there are several, by the name of its folder.

    Raises:
        BadSAE: nothing is found, or no SAE or several, or a pickle.
        BadModel: nothing follows @.
    """
    path = Path(source).expanduser()
    if path.is_file():
        if path.suffix in PICKLES:
            raise BadSAE(f"{source} is a pickle; {PICKLED}")
        path = path.parent
    if path.is_dir():
        return Located(_descend(path, source, hookpoint))
    match = _HUB.fullmatch(source)
    if match is None or path.suffix in PICKLES:
        raise BadSAE(
            f"no such folder: {source}; expected a folder with cfg.json, or owner/name[@revision][:subfolder] on the "
            "hub."
        )
    return _fetched(match["id"], match["inner"], source, hookpoint)


def _fetched(spec: str, inner: str | None, source: str, hookpoint: str) -> Located:
    if inner is None:
        # Configurations are small: they identify one SAE among many before any weights are fetched.
        root = _snapshot(spec, ["*cfg.json"])
        inner = _descend(root, source, hookpoint).relative_to(root).as_posix()
    prefix = "" if inner == "." else f"{inner.strip('/')}/"
    root = _snapshot(spec, [prefix + name for name in _FILES])
    path = root / prefix
    if not (path / "cfg.json").is_file():
        raise BadSAE(
            f"{source} holds no cfg.json; expected a folder of SAeUron, sparsify or SAELens ({spec}:subfolder)."
        )
    return Located(path, root.name)


def _snapshot(spec: str, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download

    repo, revision = hub_id(spec)
    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=patterns))
    except Exception as error:
        reason = why_not_fetched(repo, revision, error)
        raise BadSAE(f"cannot fetch SAE {spec!r} from the hub, and it is not a folder here: {reason}") from error


def _below(top: Path, source: str) -> list[Path]:
    """The folders below `top` that hold `cfg.json`. A folder of many other things is not read to its end."""
    found, waiting, seen = [], [top], 0
    for folder in waiting:
        try:
            entries = [*os.scandir(folder)]
        except OSError:
            # One that may not be read holds no SAE for this user.
            continue
        seen += len(entries)
        if seen > _MOST:
            raise BadSAE(
                f"{source} holds too much to look for an SAE (over {_MOST} files); expected the folder of one, with "
                "cfg.json, of saeuron, SAeUron, sparsify or SAELens."
            )
        found += [folder for entry in entries if entry.name == "cfg.json"]
        waiting += [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
    return found


def _descend(top: Path, source: str, hookpoint: str) -> Path:
    """`top` itself if it holds `cfg.json`, else the only folder below that does, or the one named like the hookpoint.

    Of several with that name, the highest: SAeUron keeps SAEs for other data in folders of their own.
    """
    if (top / "cfg.json").is_file():
        return top
    below = sorted(_below(top, source))
    named = [p for p in below if hookpoint and p.name == hookpoint]
    highest = min((len(p.parts) for p in named), default=0)
    found = [p for p in named if len(p.parts) == highest] or below
    if len(found) == 1:
        return found[0]
    if not found:
        if has_pickles(top):
            raise BadSAE(f"{source} holds its weights only as a pickle; {PICKLED}")
        raise BadSAE(f"{source} holds no cfg.json; expected a folder of saeuron, SAeUron, sparsify or SAELens.")
    names = [p.relative_to(top).as_posix() for p in found]
    shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    between = ":" if not Path(source).expanduser().is_dir() else "/"
    raise BadSAE(
        f"{source} holds {len(names)} SAEs; name one, as in {source.rstrip('/')}{between}{names[0]} ({shown})."
    )
