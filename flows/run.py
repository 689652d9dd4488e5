"""The state of one run: its configuration, where it works, what was made, what failed."""

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

from saeuron import judges
from saeuron.config import RunConfig
from saeuron.models import identity
from storage import Workspace
from tasks import progress, runs
from tasks.runs import Added, Roster
from tasks.step import FINAL_ERRORS, Job, Made

Item = TypeVar("Item")


@dataclass
class Run:
    """Passed from stage to stage; ids and small records only."""

    config: RunConfig
    workspace: Path
    model_id: str
    device: str = "cpu"
    roster: Roster = field(default_factory=Roster)
    """Who joined the workspace after its configuration was written, and who left."""
    made: dict[str, Made] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    """What each artifact took in this run, its shards included."""
    failures: list[tuple[str, str]] = field(default_factory=list)
    """(what, why) of each step that failed."""

    @classmethod
    def of(cls, workspace: Workspace, config: RunConfig, device: str) -> Self:
        """A run of `config` with the concepts that the workspace holds."""
        return cls(config, workspace.root, identity(config.model.spec), device, runs.roster(workspace, config))

    def step(self, task: Callable[..., Made], job: Job, *args: int) -> Made:
        """Run one step and remember what came of it."""
        made = task(job, *args)
        key = "_".join([made.id, *map(str, args)])
        if key not in self.made:
            self.made[key] = made
        self.seconds[made.id] = self.seconds.get(made.id, 0.0) + (0.0 if made.cached else made.seconds)
        if not made.cached and not args:
            progress.line(f"{job.stage:<10} {job.label}  {self.seconds[made.id]:.1f} s")
        return made

    def shards(self, task: Callable[..., Made], job: Job, count: Callable[[Any], int], stage: str = "") -> None:
        """Run the steps of an artifact that is made in shards, unless it is there; `count` says how many they are."""
        if job.open.has(job.id):
            return
        total = count(job)
        for index in range(total):
            if stage:
                progress.stage(stage, index, total)
            self.step(task, job, index)

    def publish(self, do: Callable[[Any], object], job: Job) -> None:
        """Put what a step made where people look for it."""
        do(job)

    def each(
        self, stage: str, items: Iterable[Item], do: Callable[[Item], Made], name: Callable[[Item], str]
    ) -> dict[str, Made]:
        """Do the same for each item; one that fails is noted, and does not stop the others.

        A user's mistake or a full disk stops the run at once: it would fail for every item alike.
        """
        todo, done = list(items), {}
        for i, item in enumerate(todo):
            progress.stage(stage, i, len(todo))
            try:
                done[name(item)] = do(item)
            except FINAL_ERRORS:
                raise
            except Exception as error:
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                self.failures.append((f"{stage} {name(item)}", reason))
                progress.line(f"FAILED {stage} {name(item)}: {reason}")
        progress.stage(stage, len(todo), len(todo))
        return done

    @property
    def counts(self) -> dict[str, int]:
        """Steps made anew, found in place, and failed."""
        cached = sum(m.cached for m in self.made.values())
        return {"made": len(self.made) - cached, "cached": cached, "failed": len(self.failures)}

    @property
    def artifacts(self) -> dict[str, bool]:
        """{artifact: whether it was there before} of what this run used."""
        return {made.id: made.cached for key, made in self.made.items() if key == made.id}

    @property
    def added(self) -> tuple[Added, ...]:
        """Concepts that joined, and those that have left since but that a removal is still computed against."""
        return self.roster.added

    @property
    def removed(self) -> frozenset[str]:
        """Concepts that have left: they are not scored, nor taken out of images, any more."""
        return self.roster.removed

    @property
    def domain_concepts(self) -> dict[str, tuple[str, ...]]:
        """Every concept that is there by domain, added ones last."""
        return self.roster.present(self.config)

    def domain_of(self, concept: str) -> str | None:
        """The domain of a concept that is there, or that a removal is computed against."""
        record = self.added_as(concept)
        return record.domain if record else self.config.domain_of(concept)

    @property
    def judges(self) -> dict[str, str]:
        """{domain: judge}."""
        return {domain: d.judge for domain, d in self.config.domains.items()}

    @functools.cached_property
    def judge_id(self) -> str:
        """What the judges are, by content."""
        return judges.identity(self.judges)

    def added_as(self, concept: str) -> Added | None:
        """The record of an added concept; None for one of the configuration's own."""
        return next((a for a in self.added if a.name == concept), None)
