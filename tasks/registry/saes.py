"""Find an SAE of a workspace by id, prefix or hookpoint."""

from collections.abc import Mapping

from saeuron.errors import ConfigError, UnknownName
from storage import Workspace
from storage.files import read_json
from storage.manifests import Manifest

CFG = "cfg.json"
"""The description of an SAE beside its weights."""


def find(workspace: Workspace, name: str, hint: str = "Give an id, its beginning, or a hookpoint.") -> Manifest:
    """The SAE with the id `name`, with an id or hash that begins with it, or at that hookpoint.

    The end of a hookpoint is enough if no other hookpoint ends in it, such as `up_blocks.0.attentions.1`. Of several
    SAEs at one hookpoint, the one scored last is taken, or else the newest; a control only if there is no other.

    Raises:
        UnknownName: no SAE fits; the message names the nearest.
        ConfigError: several ids begin with it, or several hookpoints end with it.
    """
    known = workspace.artifacts("sae")
    begin = [m for m in known if m.id.startswith(name) or m.id.rpartition("_")[2].startswith(name)] if name else []
    if len(begin) > 1:
        raise ConfigError(
            f"{name!r} is the beginning of {len(begin)} SAEs: {', '.join(m.id for m in begin)}; give more."
        )
    if begin:
        return begin[0]
    hookpoints = {str(m.summary.get("hookpoint")) for m in known}
    ends = {name} & hookpoints or {h for h in hookpoints if name and h.endswith(f".{name}")}
    if len(ends) > 1:
        raise ConfigError(f"{name!r} is the end of {len(ends)} hookpoints: {', '.join(sorted(ends))}; give more.")
    if not ends:
        raise UnknownName("SAE", name, {*(m.id for m in known), *hookpoints}, hint)
    there = {m.id: m for m in known if m.summary.get("hookpoint") in ends}
    controls = {
        i
        for i, m in there.items()
        if m.summary.get("dictionary") in ("untrained", "frozen") or m.summary.get("without")
    }
    there = {i: m for i, m in there.items() if i not in controls} or there
    scored = [
        (manifest.created, each["sae_id"])
        for manifest in workspace.artifacts("score")
        for each in manifest.summary["saes"]
        if each["sae_id"] in there
    ]
    return there[max(scored)[1]] if scored else max(there.values(), key=lambda m: (m.created, m.id))


def given(workspace: Workspace, saes: Mapping[str, str]) -> dict[str, str]:
    """{hookpoint: SAE id} from a configuration's `saes`, {hookpoint: id or prefix}.

    Raises:
        UnknownName, ConfigError: as `find`; or the SAE belongs to another hookpoint.
    """
    found = {}
    for hookpoint, name in saes.items():
        sae = find(workspace, name, "(saes; `saeuron sae import` brings one from elsewhere)")
        if (at := sae.summary.get("hookpoint")) != hookpoint:
            raise ConfigError(f"saes: {sae.id} belongs to {at}, not to {hookpoint}; give one of that hookpoint.")
        found[hookpoint] = sae.id
    return found


def activation(workspace: Workspace, sae_id: str) -> str:
    """The activation function of an SAE at inference: topk, threshold or top_afa. No weights are read."""
    about = read_json(workspace.fetch(sae_id, CFG) / CFG)
    # Files of version 0.1 have no activation: the variant implies it.
    return str(about.get("activation") or ("topk" if about.get("variant") == "topk" else "threshold"))
