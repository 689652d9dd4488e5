"""Additions to Prefect's page of a run: progress bars, tables, pictures, events, log lines.

Errors here fail no run. Nothing is sent to the server that a run starts for itself: nobody can look at it.
"""

import logging
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import UUID

from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.context import FlowRunContext, TaskRunContext
from prefect.events import emit_event
from prefect.settings import PREFECT_API_URL

from tasks.engine.job import Job, Made

LIBRARIES = ("flows", "tasks", "saeuron", "storage")
"""Loggers that Prefect's page shows; `flows.environment` gives Prefect the same names."""
ADDRESS = "SAEURON_WORKSPACE_URL"
"""Environment variable: URL at which a web server shows the workspace's folder, for links."""
OWN_SERVER = "SAEURON_OWN_SERVER"
"""Environment variable, set if the run started the server for itself; see `flows.server`."""
_SPARE = 50
"""After an update of a bar that took t seconds, none follows for 50 t: bars take at most 2 percent of a run."""

log = logging.getLogger(__name__)


def _named() -> bool:
    return bool(PREFECT_API_URL.value()) and OWN_SERVER not in os.environ


def watched() -> bool:
    """Whether this code runs in a flow or task on a server that the user named."""
    return _named() and (FlowRunContext.get() or TaskRunContext.get()) is not None


def hear_libraries() -> None:
    """Send INFO lines of the project's loggers to the server. Prefect gives them a handler but no level."""
    for name in LIBRARIES if _named() else ():
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.INFO)


@contextmanager
def _decoration() -> Iterator[None]:
    """Log errors of the block instead of raising them: a page must not fail a run."""
    try:
        yield
    except Exception as error:
        log.debug("not shown on Prefect's page: %s", error)


class Bars:
    """A listener of `tasks.engine.progress` that shows a progress artifact for each stage that makes something."""

    def __init__(self) -> None:
        self.now = ("", 0, 1)  # (stage, steps done, steps in all)
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
    """Emit an event for a new shard or artifact, and show the artifact."""
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
    """Show the metrics of a removal as a table."""
    about = made.summary
    rows = [
        {"metric": name, **{key: _percent(figure[key]) for key in ("value", "unedited", "low", "high")}}
        for name, figure in about["metrics"].items()
    ]
    what = f"{about['domain']} {about['concept']} removed by {job.method}: percent, on {about['images']} test images"
    if verdict := about.get("verdict"):
        what += f". Verdict: {verdict}" + (f", {about['reason']}" if about["reason"] else "")
    create_table_artifact(rows, key=f"figures-{_key(f'{job.concept} {job.method}')}", description=what)


def show_report(workspace: Path, path: Path, evaluations: Iterable[Mapping[str, Any]]) -> None:
    """Show a run's figures as one table, with intervals and verdicts, and a link to its report."""
    with _decoration():
        rows = []
        for e in evaluations:
            row = {"removed": e["concept"], "domain": e["domain"], "method": e["method"], "mean": _percent(e["value"])}
            for name in ("UA", "IRA", "CRA"):
                row[name] = _interval(e["metrics"].get(name))
            rows.append(row | {"verdict": e["verdict"], "why": e["reason"]})
        create_table_artifact(rows, key="run-figures", description="Percent on test prompts, with 95 % intervals.")
        link = _address(workspace, path)
        what = f"Pictures, figures with their controls, damage, latents, provenance: {path}"
        create_link_artifact(link, key="run-report", link_text="report of this run", description=what)


def show_failure(what: str, why: str) -> None:
    """Show the one-line message of a failure: what is wrong and what to do."""
    if not watched():
        return
    with _decoration():
        create_markdown_artifact(f"**{what}** failed. {why}", key=f"failed-{_key(what)}", description="What to do")


def show_pictures(job: Any, made: "Made") -> None:
    """Show the contact sheet of a removal, and a link to the plot of its scores."""
    del made
    name, concept = _key(f"{job.concept} {job.method}"), job.concept
    title = f"{job.domain} {concept} removed by {job.method}: unedited above, removed below"
    create_image_artifact(_inline(job.folder / "sheet.png"), key=f"sheet-{name}", description=title)
    if place := job.places.get("scores.png"):
        link = _address(job.workspace, job.open.root / place)
        what = f"The best latents of {job.domain} {concept}."
        create_link_artifact(link, key=f"scores-{name}", link_text=f"scores of {concept}", description=what)


def show_diagnosis(job: Any, made: "Made") -> None:
    """Show a link to the page of an SAE."""
    del made
    link = _address(job.workspace, job.open.reports / f"{job.sae_id}.html")
    key, text = f"report-{_key(job.sae_id)}", f"report of {job.sae_id}"
    create_link_artifact(link, key=key, link_text=text, description="What an SAE keeps and loses.")


def _key(text: str) -> str:
    """A name as a key of a Prefect artifact: lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "other"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _interval(figure: Mapping[str, float | None] | None) -> str:
    """`95.0 (92.1 to 97.0)`."""
    if not figure or figure["value"] is None:
        return "-"
    return f"{_percent(figure['value'])} ({_percent(figure['low'])} to {_percent(figure['high'])})"


def _address(workspace: Path, path: Path) -> str:
    """Link to a file of the workspace: below `SAEURON_WORKSPACE_URL`, or on this machine."""
    base = os.environ.get(ADDRESS, "").rstrip("/")
    return f"{base}/{quote(path.relative_to(workspace).as_posix())}" if base else path.as_uri()


def _inline(path: Path) -> str:
    """A picture as a data URL: browsers show no file:// picture on a page loaded over http."""
    from PIL import Image

    from saeuron.pages.document import encoded

    return encoded(Image.open(path).convert("RGB"), "JPEG", quality=80)
