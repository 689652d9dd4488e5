"""Steps in several processes of this machine, for Prefect: one whose process is killed is run again in a new one.

Prefect's own pool of processes gives up everything once a worker is killed. Here each worker is a pool of its own, so
that one which dies takes only its own step with it.
"""

import logging
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
from collections.abc import Iterable
from concurrent.futures import CancelledError, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.util import Finalize
from types import FrameType
from typing import Any, Self
from uuid import uuid4

import cloudpickle
from prefect.context import serialize_context
from prefect.futures import PrefectConcurrentFuture, PrefectFuture
from prefect.task_engine import run_task_sync
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from saeuron.errors import SaeuronError

ATTEMPTS = 4
"""How often a step is begun whose process is killed."""
GRACE = 5.0
"""Seconds in which a process that is told to end may put its things in order."""


class Processes(TaskRunner[PrefectConcurrentFuture[Any]]):
    """A task runner with `workers` processes, which start when there is something to do."""

    def __init__(self, workers: int) -> None:
        super().__init__()
        self.workers = workers
        self._lanes: list[Lane] = []
        self._threads: ThreadPoolExecutor | None = None
        self._mine = threading.local()

    def __reduce__(self) -> Any:
        # With a step goes the flow that it is of, its runner included; a worker starts no workers.
        return ThreadPoolTaskRunner, (1,)

    def duplicate(self) -> Self:
        return type(self)(self.workers)

    def submit(
        self,
        task: Any,
        parameters: dict[str, Any],
        wait_for: Iterable[PrefectFuture[Any]] | None = None,
        dependencies: dict[str, set[Any]] | None = None,
    ) -> PrefectConcurrentFuture[Any]:
        """Queue a task; its parameters are values, not futures."""
        del wait_for
        if self._threads is None:
            raise RuntimeError("the task runner must be started before it is given work")
        call = {"task": task, "task_run_id": uuid4(), "parameters": parameters, "dependencies": dependencies}
        blob = cloudpickle.dumps({**call, "context": serialize_context()})
        waiting: Future[Any] = self._threads.submit(self._through, task.name, blob)
        return PrefectConcurrentFuture(task_run_id=call["task_run_id"], wrapped_future=waiting)

    def _through(self, name: str, blob: bytes) -> Any:
        """In a thread of the lanes: give a call to the process of this thread, and wait for the state it ends in."""
        if not hasattr(self._mine, "lane"):
            self._mine.lane = Lane()
            self._lanes.append(self._mine.lane)
        return cloudpickle.loads(self._mine.lane.run(name, blob))

    def __enter__(self) -> Self:
        super().__enter__()
        self._threads = ThreadPoolExecutor(self.workers, thread_name_prefix="lane")
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
        # What still runs is of a run that has failed or was interrupted: the next one goes on from what is whole.
        for lane in self._lanes:
            lane.end()
        super().__exit__(kind, error, trace)


class Lane:
    """One process, replaced when it dies."""

    def __init__(self) -> None:
        self._ended = False
        self._lock = threading.Lock()
        self._pool = self._new()

    def _new(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), initializer=_begin)

    def run(self, name: str, blob: bytes) -> bytes:
        """The answer of `_work`.

        Raises:
            SaeuronError: every process that had the call was killed.
            CancelledError: the run has ended.
        """
        for _ in range(ATTEMPTS):
            with self._lock:
                if self._ended:
                    raise CancelledError
                waiting = self._pool.submit(_work, blob)
            try:
                return waiting.result()
            except BrokenProcessPool:
                with self._lock:
                    self._pool.shutdown(wait=False)
                    if not self._ended:
                        self._pool = self._new()
        raise SaeuronError(
            f"{name}: its process was killed {ATTEMPTS} times, perhaps for want of memory; lower runner.workers"
        )

    def end(self) -> None:
        """End the process, politely first."""
        with self._lock:
            self._ended = True
            processes = list((self._pool._processes or {}).values())
        for process in processes:
            process.terminate()
        for process in processes:
            process.join(GRACE)
            process.kill()
        self._pool.shutdown()


def _begin() -> None:
    """What a new process does first."""
    # Ctrl-C reaches every process of a terminal; the run's own decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_outlive, args=(parent.sentinel,), daemon=True).start()
    Finalize(None, _tell_the_rest, exitpriority=10)


def _outlive(sentinel: int) -> None:
    """End this process once the one that started it has died: nobody would ever tell it to."""
    multiprocessing.connection.wait([sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os._exit(1)


def _end(signum: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + signum)


def _tell_the_rest() -> None:
    """Send the server what it was not told yet, which at the end of such a process nobody else does."""
    from prefect.events.worker import EventsWorker

    # That it takes a moment is no news for a user.
    logging.getLogger(EventsWorker.__name__).setLevel(logging.ERROR)
    EventsWorker.drain_all(timeout=GRACE)


def _work(blob: bytes) -> bytes:
    """Run a task; the answer is the state that it ended in."""
    try:
        return cloudpickle.dumps(run_task_sync(**cloudpickle.loads(blob), return_type="state"))
    except SystemExit:
        # Told to end: the step has cleaned up, but the pool's own loop would take this for an answer and go on.
        _tell_the_rest()
        os._exit(1)
