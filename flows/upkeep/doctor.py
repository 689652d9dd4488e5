"""Checks of what a run needs from its machine, one by one. Without a model's name nothing asks the network."""

import os
import re
import shutil
import sys
import textwrap
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal, NamedTuple

from saeuron.errors import BadModel

ROOM = 2e9
"""Bytes of disk and of memory below which a run of the default configuration does not fit."""
SHOWN = ("torch", "diffusers", "transformers", "prefect", "duckdb")


class Finding(NamedTuple):
    """One thing that was looked at."""

    verdict: Literal["ok", "note", "bad"]
    what: str
    found: str
    todo: str = ""
    """What to do; empty: nothing."""

    def __str__(self) -> str:
        text = f"{self.verdict:<4}  {self.what:<9}  {self.found}" + (f": {self.todo}" if self.todo else "")
        return textwrap.fill(text, 80, subsequent_indent=" " * 17, break_long_words=False, break_on_hyphens=False)


def examine(workspace: Path, model: str | None = None) -> list[Finding]:
    """Every finding, in the order in which they are shown."""
    found = [*_versions(), *_devices(), _threads(), _memory(), _disk(workspace), *_hub()]
    return [*found, _model(model)] if model else found


def _versions() -> list[Finding]:
    from packaging.requirements import Requirement

    python = ".".join(map(str, sys.version_info[:3]))
    shown = ", ".join(f"{name} {version(name)}" for name in SHOWN)
    found = [
        Finding("ok", "python", ", ".join([python, " ".join(["saeuron", version("saeuron")])])),
        Finding("ok", "packages", shown),
    ]
    for line in requires("saeuron") or ():
        asked = Requirement(line)
        if asked.marker and not asked.marker.evaluate({"extra": ""}):
            continue
        try:
            have = version(asked.name)
        except PackageNotFoundError:
            have = "not installed"
        if have == "not installed" or not asked.specifier.contains(have, prereleases=True):
            wanted = f"{asked.name}{asked.specifier}"
            found.append(Finding("bad", "packages", f"{asked.name} {have}", f"pip install '{wanted}'"))
    return found


def _devices() -> list[Finding]:
    from tasks.engine.model import devices

    known = devices()
    shown = [f"{name}, {about}" for name, about in known.items()]
    if len(known) > 1:
        return [Finding("ok", "devices", each) for each in shown]
    return [Finding("note", "devices", shown[0], "no GPU that torch can use; canvas runs here, larger models hardly")]


def _threads() -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    policy = os.environ.get("OMP_WAIT_POLICY", "unset")
    return Finding("ok", "threads", f"{cores} cores, --threads is 2 unless given, threads wait {policy.lower()}ly")


def _memory() -> Finding:
    try:
        lines = Path("/proc/meminfo").read_text()
    except OSError:
        return Finding("note", "memory", "unknown on this system")
    total, free = (
        int(re.search(rf"{name}: +(\d+)", lines)[1]) * 1024  # type: ignore[index]
        for name in ("MemTotal", "MemAvailable")
    )
    shown = f"{free / 1e9:.1f} of {total / 1e9:.1f} GB free"
    return (
        Finding("ok", "memory", shown) if free > ROOM else Finding("bad", "memory", shown, "end other programs first")
    )


def _disk(workspace: Path) -> Finding:
    folder = workspace.expanduser().absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    shown = f"{free / 1e9:.1f} GB free at {workspace}"
    if free > ROOM:
        return Finding("ok", "disk", shown)
    return Finding("bad", "disk", shown, "make room (saeuron gc --dry-run), or name another place with -w")


def _hub() -> list[Finding]:
    from huggingface_hub import constants, get_token, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        cache = scan_cache_dir()
    except CacheNotFound:
        found = [Finding("ok", "hub cache", f"empty ({constants.HF_HUB_CACHE})")]
    else:
        models = sorted((r for r in cache.repos if r.repo_type == "model"), key=lambda r: -r.size_on_disk)
        size = f"{len(models)} models, {cache.size_on_disk / 1e9:.1f} GB in {constants.HF_HUB_CACHE}"
        found = [Finding("ok", "hub cache", size)]
        found += [Finding("ok", "cached", f"{r.repo_id}, {r.size_on_disk / 1e9:.1f} GB") for r in models]
    if constants.HF_HUB_OFFLINE:
        found.append(Finding("note", "hub", "HF_HUB_OFFLINE is set", "models that are not cached cannot be fetched"))
    elif get_token() is None:
        found.append(Finding("note", "hub", "not logged in", "gated models need: hf auth login"))
    else:
        found.append(Finding("ok", "hub", "logged in"))
    return found


def _model(spec: str) -> Finding:
    """Whether a model's files are here, or the hub would give them."""
    from saeuron.pipelines import loading, source

    try:
        folder = source.folder_of(spec)
        if folder is None:
            family = loading.family_at(spec)  # asks the hub: a gate answers here
            try:
                folder = source.fetched(spec, fetch=False)
            except BadModel:
                return Finding("ok", "model", f"{spec}: {family.name}, not cached", "the first run downloads it")
        family = loading.family_at(spec)
        source.check_parts(spec, folder, family)
    except BadModel as error:
        return Finding("bad", "model", str(error))
    size = loading.image_size(spec)
    about = f", images of {size[0]} x {size[1]}" if size else ""
    return Finding("ok", "model", f"{spec}: {family.name}{about}, in {folder}")
