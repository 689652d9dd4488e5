"""The state of one run: its configuration, where it works, what was made, what failed.

Three methods say what may run at once: `shards` the parts of one artifact, `every` and `each` the same work for several
items. The steps of one item stay in order. Without workers everything runs one after another, in this process.
"""

import functools
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from contextvars import copy_context
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from flows import environment, runners
from saeuron import extractors, judges
from saeuron.config import DomainConfig, RunConfig
from saeuron.pipelines.loading import identity
from storage import Workspace
from storage.errors import StorageError
from storage.manifests import Manifest
from tasks.engine import progress
from tasks.engine.job import Job, Made
from tasks.engine.judge import DomainJudge
from tasks.engine.step import FINAL_ERRORS, Step, in_place
from tasks.engine.worker import Worker
from tasks.registry import runs
from tasks.registry.concepts import Added, Roster

Item = TypeVar("Item")
Result = TypeVar("Result")
Sought = TypeVar("Sought", bound=Job)


@dataclass
class Run:
    """State shared by the stages; ids and small records only."""

    config: RunConfig
    workspace: Path
    model_id: str
    device: str = "cpu"
    roster: Roster = field(default_factory=Roster)
    """The concepts that were added to the workspace, and those that were dropped."""
    judge_ids: dict[str, str] = field(default_factory=dict)
    """{domain: identity of its judge, a hash of its content}; `domain/concept` for a concept with its own judge."""
    features_id: str = ""
    """Id of the features that Frechet distances are computed from; empty: each judge's own."""
    made: dict[str, Made] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    """Seconds that each artifact took in this run, shards included."""
    failures: list[tuple[str, str]] = field(default_factory=list)
    """(what, why) of each step that failed."""
    worker: Worker | None = None
    """Settings for worker processes; None: steps run in this process."""
    width: int = 1
    """Number of workers."""
    followed: bool = False
    """Whether the progress of the workers' steps is shown."""
    known: dict[str, list[Manifest]] = field(default_factory=dict)
    """{stage: its artifacts}, filled by `earlier`."""
    publishes: ClassVar[bool] = True
    """Whether removals are for use: published, and drawn for people."""
    planning: ClassVar[bool] = False
    """Whether steps are only noted: nothing can be read of what they would make."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    """Guards bookkeeping and task submission; the first submission starts the cluster."""

    @classmethod
    def of(cls, workspace: Workspace, config: RunConfig, device: str) -> Self:
        """A run of `config` with the concepts of the workspace."""
        roster, model_id = Roster.of(workspace, config), cls.identified(config.model.spec)
        # A judge that cannot be loaded is an error before anything is made.
        judge_ids = {name: judges.of_domain(name, domain).identity for name, domain in config.domains.items()}
        for added in roster.added:
            if added.judge:
                own = judges.of_domain(added.domain, added.judged(config.domains[added.domain]))
                judge_ids[f"{added.domain}/{added.name}"] = own.identity
        features = extractors.create(config.features).extractor if config.features else ""
        return cls(config, workspace.root, model_id, device, roster, judge_ids, features)

    @staticmethod
    def identified(spec: str) -> str:
        """A model's id by content; its files are fetched if they are missing."""
        return identity(spec)

    def step(self, task: Step, job: Sought, *args: int, prepare: Callable[[Sought], Sought] | None = None) -> Made:
        """Run one step and note the result.

        `prepare` completes the job with what it is made from; it is called only if the artifact has to be made.
        """
        return self._note(self._begin(task, job, *args, prepare=prepare)(), job, *args)

    def shards(
        self,
        task: Step,
        job: Sought,
        count: Callable[[Any], int],
        stage: str = "",
        prepare: Callable[[Sought], Sought] | None = None,
    ) -> None:
        """Run the steps of an artifact that is made in shards, unless it is there; `count(job)` is their number.

        `prepare` is as in `step`, and called once.
        """
        if self.opened.has(job.id):
            return
        if prepare:
            job = prepare(job)
        total = count(job)
        waiting = [self._begin(task, job, index) for index in range(total)]
        for index, wait in enumerate(waiting):
            if stage:
                progress.stage(stage, index, total)
            self._note(wait(), job, index)

    def earlier(self, stage: str) -> list[Manifest]:
        """The artifacts of a stage at the time of the first call; there may be hundreds, so they are read once."""
        with self.lock:
            if stage not in self.known:
                self.known[stage] = Workspace(self.workspace).artifacts(stage)
            return self.known[stage]

    def say(self, line: str) -> None:
        """Show a line to whoever watches this run."""
        progress.line(line)

    def publish(self, do: Callable[[Any], object], job: Job) -> None:
        """Copy what a job made to where people look for it: `do(job)`."""
        do(job)

    def every(self, stage: str, items: Iterable[Item], do: Callable[[Item], Result]) -> list[Result]:
        """Do the same for each item. What follows needs all of them, so the first failure stops the run."""
        todo = list(items)
        done: dict[int, Result] = {}
        if todo:
            progress.stage(stage, 0, len(todo))
        for i, finish in self._together(todo, do):
            done[i] = finish()
            progress.stage(stage, len(done), len(todo))
        return [done[i] for i in range(len(todo))]

    def each(
        self, stage: str, items: Iterable[Item], do: Callable[[Item], Made], name: Callable[[Item], str]
    ) -> dict[str, Made]:
        """Do the same for each item; a failure is noted and does not stop the others.

        A user's mistake or a full disk stops the run at once, because every item would fail in the same way.
        """
        todo = list(items)
        done: dict[int, Made] = {}
        failed: dict[int, str] = {}
        progress.stage(stage, 0, len(todo))
        for i, finish in self._together(todo, do):
            try:
                done[i] = finish()
            except FINAL_ERRORS:
                raise
            except Exception as error:
                failed[i] = _first_line(error)
                _show_failure(f"{stage} {name(todo[i])}", failed[i])
                progress.line(f"FAILED {stage} {name(todo[i])}: {failed[i]}")
            progress.stage(stage, len(done) + len(failed), len(todo))
        self.failures += [(f"{stage} {name(todo[i])}", failed[i]) for i in sorted(failed)]
        return {name(todo[i]): done[i] for i in sorted(done)}

    def _begin(
        self, task: Step, job: Sought, *args: int, prepare: Callable[[Sought], Sought] | None = None
    ) -> Callable[[], Made]:
        """Start a step, on a worker if there are any; the returned function waits for it and returns its result.

        Prefect is not told of artifacts that are in place: for hundreds of concepts the messages would take a minute.
        """
        if (there := in_place(job, self.opened)) is not None:
            return lambda: there
        if prepare:
            job = prepare(job)
        if self.worker is None:
            return functools.partial(task, job, *args)
        with self.lock:
            wait = task.submit(job.model_copy(update={"worker": self.worker}), *args)
            if not self.followed:
                runners.follow()
                self.followed = True
            return wait

    def _note(self, made: Made, job: Job, *args: int) -> Made:
        with self.lock:
            self.made.setdefault("_".join([made.id, *map(str, args)]), made)
            self.seconds[made.id] = self.seconds.get(made.id, 0.0) + (0.0 if made.cached else made.seconds)
        if not made.cached and not args:
            progress.line(f"{job.stage:<10} {job.label}  {self.seconds[made.id]:.1f} s")
        return made

    def _together(self, todo: list[Item], do: Callable[[Item], Result]) -> Iterator[tuple[int, Callable[[], Result]]]:
        """(index, function that returns the result) of each item: in order, or with workers as they finish."""
        if self.worker is None or not todo:
            yield from ((i, functools.partial(do, item)) for i, item in enumerate(todo))
            return
        # Each thread follows one item and waits for workers: an item's steps run in order, those of others in between.
        threads = ThreadPoolExecutor(min(len(todo), 2 * self.width), thread_name_prefix="item")
        try:
            futures = {threads.submit(copy_context().run, do, item): i for i, item in enumerate(todo)}
            for future in as_completed(futures):
                yield futures[future], future.result
        finally:
            # After a final error or an interrupt, the other items are not waited for.
            threads.shutdown(wait=False, cancel_futures=True)

    @contextmanager
    def recorded(self, flow: str) -> Iterator[str]:
        """Record the run for the length of a `with` block, which gets its id: alive, and then how it ended."""
        with runs.living(self.opened, flow, self.config, environment.command) as run_id:
            try:
                yield run_id
            except BaseException as error:
                state = "failed" if isinstance(error, Exception) else "interrupted"
                if isinstance(error, Exception):
                    _show_failure("run", _first_line(error))
                # On a full disk this cannot be noted either; the first error is the one to report.
                with suppress(OSError, StorageError):
                    runs.finish(self.opened, run_id, state, self.counts, _first_line(error), self.artifacts)
                raise
            reason = "; ".join(f"{what}: {why}" for what, why in self.failures)
            state = "failed" if self.failures else "completed"
            runs.finish(self.opened, run_id, state, self.counts, reason, self.artifacts)

    @functools.cached_property
    def opened(self) -> Workspace:
        """The workspace, opened once, because a run asks it for thousands of artifacts."""
        return Workspace.open(self.workspace)

    @property
    def counts(self) -> dict[str, int]:
        """Numbers of steps that were made, found in place, or failed."""
        cached = sum(m.cached for m in self.made.values())
        return {"made": len(self.made) - cached, "cached": cached, "failed": len(self.failures)}

    @property
    def artifacts(self) -> dict[str, bool]:
        """{artifact that this run used: whether it was there before}."""
        return {made.id: made.cached for key, made in self.made.items() if key == made.id}

    @property
    def added(self) -> tuple[Added, ...]:
        """Added concepts, and dropped ones that a removal is still computed against."""
        return self.roster.added

    @property
    def dropped(self) -> frozenset[str]:
        """Dropped concepts: they are not scored and get no removal."""
        return self.roster.dropped

    @property
    def domain_concepts(self) -> dict[str, tuple[str, ...]]:
        """{domain: its concepts}, added ones last, dropped ones left out."""
        return self.roster.present(self.config)

    def domain_of(self, concept: str) -> str | None:
        """The domain of a concept, also of a dropped one that a removal is computed against."""
        record = self.added_as(concept)
        return record.domain if record else self.config.domain_of(concept)

    def unjudged(self, concept: str) -> tuple[str, ...]:
        """The domains that have no judge when a concept is removed."""
        return tuple(domain for domain, d in self._judged(concept).items() if d.judge == judges.NONE)

    def _judged(self, concept: str) -> dict[str, DomainConfig]:
        """The domains as the removal of a concept is judged: an added concept may have a judge of its own."""
        record = self.added_as(concept)
        domains = dict(self.config.domains)
        if record:
            domains[record.domain] = record.judged(domains[record.domain])
        return domains

    def judges(self, concept: str) -> dict[str, DomainJudge]:
        """{domain: its judge and labels} for the removal of a concept; domains without a judge are left out.

        A judge that has no labels of its own chooses among the reference set of the removal in the concept's domain,
        and among the concepts of the configuration in the others. So an added concept changes no judgement of another
        removal.
        """
        concepts = {d: config.concepts for d, config in self.config.domains.items()}
        concepts |= {str(self.domain_of(concept)): self.roster.reference(self.config, concept)}
        return {
            d: DomainJudge(
                spec=config.judge,
                templates=config.judge_templates,
                renamed=tuple(sorted(config.judge_labels.items())),
                id=self.judge_ids.get(f"{d}/{concept}", self.judge_ids[d]),
                labels=judges.choices(judges.of_domain(d, config), concepts[d]),
            )
            for d, config in self._judged(concept).items()
            if config.judge != judges.NONE
        }

    def own_judges(self) -> dict[str, DomainJudge]:
        """The judges of the configuration's domains; those of added concepts judge only these."""
        own = [concept for domain in self.config.domains.values() for concept in domain.concepts]
        return self.judges(own[0]) if own else {}

    def added_as(self, concept: str) -> Added | None:
        """The record of an added concept; None for one of the configuration's own."""
        return next((a for a in self.added if a.name == concept), None)


def _show_failure(what: str, why: str) -> None:
    # Here, because a run that finds everything in place needs no Prefect.
    from tasks.engine import page

    page.show_failure(what, why)


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
