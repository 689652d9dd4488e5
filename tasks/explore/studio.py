"""Pictures that are generated or looked at on request, one at a time: a queue, progress, and an end on request.

One thread holds the pipeline, and each job attaches and detaches its own edits: so no job sees another's.
"""

import logging
import queue
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

from saeuron.config import ModelConfig
from saeuron.errors import SaeuronError
from saeuron.pages.pictures import Picture, png_of
from storage.errors import StorageError
from tasks.explore.looking import Look, Seen, look
from tasks.explore.shelf import Shelf
from tasks.explore.trying import Request, generate, model_of

log = logging.getLogger(__name__)

WAITING = 32
"""Jobs that may wait; further ones are refused."""
KEPT = 64
"""Finished jobs whose pictures are kept, and unedited pictures that are not made again."""
FORGOTTEN = 30.0
"""Seconds after which a job that nobody asks about is taken for abandoned."""


class Full(SaeuronError):
    """Too many pictures are waiting."""


class Ended(Exception):
    """The job was cancelled."""


@dataclass
class Job:
    """One request and how far it is."""

    request: Request | Look
    shelf: Shelf
    id: str = field(default_factory=lambda: secrets.token_urlsafe(12))
    state: Literal["waiting", "loading", "drawing", "done", "failed", "cancelled"] = "waiting"
    done: int = 0
    steps: int = 0
    error: str = ""
    seconds: float = 0.0
    changed: float = 0.0
    pictures: dict[str, bytes] = field(default_factory=dict)
    """PNG by name: unedited, and edited where anything is; `picture` of one that is looked at."""
    found: list[Seen] = field(default_factory=list)
    """Latents of SAEs on a picture that was brought."""
    asked: float = field(default_factory=time.monotonic)
    """When somebody last wanted to know."""
    cancelled: bool = False

    @property
    def over(self) -> bool:
        """Whether nothing more will come."""
        return self.state in ("done", "failed", "cancelled")


class Studio:
    """The queue and its thread, which begins with the first job."""

    def __init__(self, device: str = "cpu", threads: int = 1, forgotten: float = FORGOTTEN) -> None:
        self.device, self.threads, self.forgotten = device, threads, forgotten
        self._waiting: queue.Queue[Job | ModelConfig | None] = queue.Queue()
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._plain: OrderedDict[tuple[object, ...], Picture] = OrderedDict()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def submit(self, shelf: Shelf, request: Request | Look) -> Job:
        """Put a request in the queue. Raises Full."""
        job = Job(request, shelf)
        with self._lock:
            if self.ahead_of(job) >= WAITING:
                raise Full(f"{WAITING} pictures are waiting; try again in a moment.")
            for old in [name for name, each in self._jobs.items() if each.over][: max(0, len(self._jobs) - KEPT)]:
                del self._jobs[old]
            self._jobs[job.id] = job
            self._begin()
        self._waiting.put(job)
        return job

    def warm(self, config: ModelConfig) -> None:
        """Load the pipeline, so that the first picture does not wait for it."""
        with self._lock:
            if self._thread is None:
                self._begin()
                self._waiting.put(config)

    def _begin(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="studio", daemon=True)
            self._thread.start()

    def find(self, job_id: str) -> Job | None:
        """A job by its id, which counts as a sign that somebody waits for it."""
        job = self._jobs.get(job_id)
        if job:
            job.asked = time.monotonic()
        return job

    def ahead_of(self, job: Job) -> int:
        """How many jobs come before this one."""
        before = 0
        for each in list(self._jobs.values()):
            if each is job:
                break
            before += not each.over
        return before

    def cancel(self, job_id: str) -> None:
        """End a job: at once if it waits, before its next step if it is being drawn."""
        if job := self._jobs.get(job_id):
            job.cancelled = True
            if job.state == "waiting":
                job.state = "cancelled"

    def close(self) -> None:
        """End every job and the thread."""
        for job in list(self._jobs):
            self.cancel(job)
        if self._thread:
            self._waiting.put(None)
            self._thread.join(timeout=10)

    def _work(self) -> None:
        from tasks.engine import model

        model.set_threads(self.threads)
        while (job := self._waiting.get()) is not None:
            if isinstance(job, ModelConfig):
                # The job that needs it reports what is wrong with it.
                with suppress(Exception):
                    model.pipeline(job, self.device)
            elif self._unwanted(job):
                job.state = "cancelled"
            else:
                self._draw(job)

    def _generate(self, job: Job, request: Request, tell: Callable[[int, int], None]) -> None:
        plain = (request.prompt, request.seed, model_of(job.shelf, request))
        made = generate(job.shelf, request, self.device, tell, self._plain.get(plain))
        self._plain[plain] = made.unedited
        while len(self._plain) > KEPT:
            self._plain.popitem(last=False)
        job.pictures["unedited"] = png_of(made.unedited)
        if made.edited is not None:
            job.pictures["edited"] = png_of(made.edited)
        job.changed = made.changed

    def _unwanted(self, job: Job) -> bool:
        return job.cancelled or time.monotonic() - job.asked > self.forgotten

    def _draw(self, job: Job) -> None:
        start = time.monotonic()

        def tell(done: int, steps: int) -> None:
            if self._unwanted(job):
                raise Ended
            job.state, job.done, job.steps = "drawing", done, steps

        try:
            job.state = "loading"
            if isinstance(job.request, Look):
                seen, job.found = look(job.shelf, job.request, self.device, tell)
                job.pictures["picture"] = png_of(seen)
            else:
                self._generate(job, job.request, tell)
            job.done = job.steps
            job.seconds = time.monotonic() - start
            job.state = "done"
        except Ended:
            job.state = "cancelled"
        except (SaeuronError, StorageError, OSError) as error:
            job.error, job.state = " ".join(str(error).split()), "failed"
        except Exception as error:  # the thread lives on, and somebody waits for an answer
            log.exception("a picture failed")
            job.error, job.state = (
                f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
                "failed",
            )
