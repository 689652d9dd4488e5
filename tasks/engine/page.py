"""What Prefect's page shows of a run beside its states: bars, tables, pictures, events, lines of the log.

All of it is decoration. Nothing is sent where nobody can look, on the server that a run without one starts for itself,
and what goes wrong here fails no run.
"""

import base64
import io
import logging
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import UUID

from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.context import FlowRunContext, TaskRunContext
from prefect.events import emit_event
from prefect.settings import PREFECT_API_URL

from tasks.engine.job import Job, Made

LIBRARIES = ("flows", "tasks", "saeuron", "storage")
"""Loggers that Prefect's page shows; `flows.environment` names them to Prefect."""
ADDRESS = "SAEURON_WORKSPACE_URL"
"""Environment variable: where a web server shows the workspace's folder, for links that a browser follows."""
OWN_SERVER = "SAEURON_OWN_SERVER"
"""Environment variable: the server is that of a run alone; see `flows.server`."""
_SPARE = 50
"""An update of a bar that took t seconds is followed by none for 50 t: bars cost 2 percent of a run at most."""

log = logging.getLogger(__name__)


def _named() -> bool:
    return bool(PREFECT_API_URL.value()) and OWN_SERVER not in os.environ


def watched() -> bool:
    """Whether this is part of a run on a server that the user named."""
    return _named() and (FlowRunContext.get() or TaskRunContext.get()) is not None


def hear_libraries() -> None:
    """Let what the project's own loggers say at INFO through to a server: Prefect gives them a handler, no level."""
    for name in LIBRARIES if _named() else ():
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.INFO)


@contextmanager
def _decoration() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        log.debug("not shown on Prefect's page: %s", error)


class Bars:
    """Listens to `tasks.engine.progress`: a progress artifact for each stage in which something is made."""

    def __init__(self) -> None:
        self.now = ("", 0, 1)
        self.bars: dict[str, UUID] = {}
        self.rests_until = 0.0

    def stage(self, name: str, done: int, total: int) -> None:
        self.now = (name, done, total)
        if name in self.bars and done == total:
            self._update(name, 100.0, "done")

    def within(self, what: str, done: int, total: int, note: str) -> None:
        if time.monotonic() < self.rests_until or not watched():
            return
        name, finished, steps = self.now
        percent = 100 * (finished + min(done / max(total, 1), 1.0)) / max(steps, 1)
        self._update(name, min(percent, 100.0), f"{what}: {done} of {total} {note}".rstrip())

    def line(self, text: str) -> None:
        log.info(text)

    def _update(self, name: str, percent: float, text: str) -> None:
        start = time.monotonic()
        with _decoration():
            if name in self.bars:
                update_progress_artifact(self.bars[name], percent, text)
            else:
                self.bars[name] = create_progress_artifact(percent, key=f"progress-{_key(name)}", description=text)
        now = time.monotonic()
        self.rests_until = now + max(1.0, _SPARE * (now - start))


def show(job: "Job", made: "Made", *shard: int) -> None:
    """Tell of what a step has just made: an event for a shard or an artifact, and what people look at of it."""
    if made.cached or not watched():
        return
    with _decoration():
        about = {"prefect.resource.name": job.label, "saeuron.stage": job.stage}
        artifact = {"prefect.resource.id": f"saeuron.artifact.{job.id}", **about}
        payload: dict[str, Any] = {"seconds": made.seconds, "workspace": str(job.workspace)}
        if shard:
            name = "_".join(map(str, shard))
            resource = {"prefect.resource.id": f"saeuron.shard.{job.id}.{name}", **about}
            related = [{**artifact, "prefect.resource.role": "artifact"}]
            emit_event("saeuron.shard.written", resource, related=related, payload=payload)
        else:
            emit_event("saeuron.artifact.written", artifact, payload=payload)
            job.show(made)


def show_figures(job: Any, made: "Made") -> None:
    """The metrics of a removal."""
    about = made.summary
    rows = [
        {"metric": name, **{key: _percent(figure[key]) for key in ("value", "unedited", "low", "high")}}
        for name, figure in about["metrics"].items()
    ]
    what = f"{about['domain']} {about['concept']} removed by {job.method}: percent, on {about['images']} test images"
    create_table_artifact(rows, key=f"figures-{_key(f'{job.concept} {job.method}')}", description=what)


def show_pictures(job: Any, made: "Made") -> None:
    """The contact sheet of a removal, and where the plot of its scores will be."""
    del made
    name, concept = _key(f"{job.concept} {job.method}"), job.concept
    title = f"{job.domain} {concept} removed by {job.method}: unedited above, removed below"
    create_image_artifact(_inline(job.folder / "sheet.png"), key=f"sheet-{name}", description=title)
    if place := job.places.get("scores.png"):
        link = _address(job.workspace, job.open.root / place)
        what = f"The best latents of {job.domain} {concept}."
        create_link_artifact(link, key=f"scores-{name}", link_text=f"scores of {concept}", description=what)


def show_diagnosis(job: Any, made: "Made") -> None:
    """Where the page about an SAE will be."""
    del made
    link = _address(job.workspace, job.open.reports / f"{job.sae_id}.html")
    key, text = f"report-{_key(job.sae_id)}", f"report of {job.sae_id}"
    create_link_artifact(link, key=key, link_text=text, description="What an SAE keeps and loses.")


def _key(text: str) -> str:
    """A name as keys of artifacts must be: lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "other"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _address(workspace: Path, path: Path) -> str:
    """A file of the workspace as a link: below `SAEURON_WORKSPACE_URL`, or on this machine."""
    base = os.environ.get(ADDRESS, "").rstrip("/")
    return f"{base}/{quote(path.relative_to(workspace).as_posix())}" if base else path.as_uri()


def _inline(path: Path) -> str:
    """A picture as a data URL. A page that came by http shows no file:// picture, and no other server need run."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.open(path).convert("RGB").save(buffer, format="JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
