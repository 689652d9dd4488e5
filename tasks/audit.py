"""Attack one removal, or the unedited model, in one way: what was tried, and whether the concept came back.

attacks.parquet   every picture: the text, the judge's word, whether it counts
sheet.png         each prompt before the attack, above its best picture
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from saeuron.attacks import Attempt, Target, get
from saeuron.attacks.attack import Effort
from saeuron.config import EvaluateConfig, ModelConfig, PromptFile
from saeuron.errors import ConfigError
from saeuron.evaluation import images as test_images
from saeuron.generation import Request, generate
from saeuron.methods.removal import removed
from saeuron.pages.pictures import Shot, contact_sheet
from saeuron.prompts import Prompt, choose, from_file
from saeuron.sae.config import Config
from storage import Workspace
from storage.declared import View
from storage.tables import ATTACKS, read_table, table, write_table
from tasks import prompts as prompt_sets
from tasks import tune
from tasks.engine import model, progress
from tasks.engine.job import Clock, Job, Made, Summary, commit
from tasks.engine.judge import DomainJudge
from tasks.engine.step import step

SHEET = "sheet.png"
UNEDITED = "unedited"
"""In place of a method: no removal."""
ELSEWHERE = 1000
"""Index of a prompt's picture that an attack works towards: no evaluation starts from its noise."""


class AuditConfig(Config):
    """How hard a removal is attacked."""

    prompts: int = Field(24, ge=1)
    """Test prompts that ask for the concept."""
    words: int = Field(5, ge=1)
    """Words that `gradient` and `random` put before a sentence."""
    iterations: int = Field(40, ge=1)
    """Updates of `gradient` at each timestep."""
    steps: int = Field(12, ge=1)
    """Timesteps of `gradient`; pictures of `random` and `paraphrase` for each prompt."""
    learned: int = Field(400, ge=4)
    """Updates of `embedding`."""
    hide: bool = False
    """Whether the concept's name is left out of every text."""

    @property
    def effort(self) -> Effort:
        """The same, for an attack."""
        return Effort(self.words, self.iterations, self.steps, self.learned)


class AuditSummary(Summary):
    """How many prompts showed the concept, before the attack and at its end."""

    domain: str
    concept: str
    method: str
    attack: str
    removal_id: str
    strength: float
    prompts: int
    before: int
    broken: int
    judge: str
    sheet: str


class AuditJob(Job):
    """One attack on one removal."""

    stage: ClassVar[str] = "audit"
    version: ClassVar[int] = 2
    title: ClassVar[str] = "{attack} on {concept} by {method}"
    summary_type: ClassVar[type[Summary]] = AuditSummary
    views: ClassVar[tuple[View, ...]] = (ATTACKS,)
    publishes: ClassVar[Mapping[str, str]] = {SHEET: "pictures/{concept}.{method}_{attack}.png"}
    command: ClassVar[str] = "saeuron audit {concept}"

    model: ModelConfig
    model_id: str
    config: AuditConfig
    evaluate: EvaluateConfig
    attack: str
    domain: str
    concept: str
    method: str = UNEDITED
    removal_id: str = ""
    """The removal that is attacked; empty: the unedited model."""
    strength: float = 1.0
    """Strength at which it is attached."""
    judge: DomainJudge
    prompts_id: str
    file: str = ""
    """A file of attack prompts, each of which is drawn as it is; empty: test prompts are attacked."""

    @property
    def suffix(self) -> str:
        """Part of a sheet's name that tells the sheets of one attack apart."""
        return ("_hidden" if self.config.hide else "") + ("" if self.strength == 1 else f"_{self.strength:g}")

    @property
    def places(self) -> dict[str, str]:
        return {SHEET: super().places[SHEET].removesuffix(".png") + f"{self.suffix}.png"}

    @property
    def identity(self) -> dict[str, Any]:
        fields = {**super().identity, "judge": self.judge.identity}
        path = fields.pop("file")
        return fields | ({"file": prompt_sets.file_identity(Path(path))} if path else {})


def prompts_of(job: AuditJob, known: Iterable[Prompt]) -> list[Prompt]:
    """The prompts that are attacked: test prompts, one of each combination of concepts, or those of a file.

    Raises:
        BadPrompts, UnknownName: the file is none of prompts.
    """
    if job.file:
        domains: dict[str, set[str]] = defaultdict(set, {job.domain: {job.concept}})
        for prompt in known:
            for domain, concept in prompt.concepts.items():
                domains[domain].add(concept)
        named = {domain: tuple(sorted(names)) for domain, names in domains.items()}
        listed = from_file(PromptFile(path=job.file, concepts={job.domain: job.concept}), named)
        return choose(listed, min(job.config.prompts, len(listed)), job.evaluate.seed)
    found = {r.prompt.id: r.prompt for r in test_images(list(known), job.evaluate)}
    mine = [p for p in found.values() if p.concepts.get(job.domain) == job.concept]
    return choose(mine, min(job.config.prompts, len(mine)), job.evaluate.seed)


def paraphrases(prompts: Sequence[Prompt], known: Iterable[Prompt], most: int) -> dict[str, list[str]]:
    """{text: other sentences that ask for the same concepts}, training sentences before test ones."""
    same: dict[frozenset[tuple[str, str]], list[Prompt]] = defaultdict(list)
    for prompt in sorted(known, key=lambda p: p.split != "train"):
        if prompt.split in ("train", "test"):
            same[frozenset(prompt.concepts.items())].append(prompt)
    return {p.text: [q.text for q in same[frozenset(p.concepts.items())] if q.text != p.text][:most] for p in prompts}


@step("audit")
def audit(job: AuditJob) -> Made:
    """Draw what to work towards, attach the removal, attack, and judge every picture."""
    clock = Clock()
    known = prompt_sets.read(job.open, job.prompts_id)
    prompts = prompts_of(job, known)
    if not prompts:
        raise ConfigError(f"no test prompt asks for {job.concept!r}; add templates with split 'test'.")
    gentle = job.file or job.attack == "none"
    if not gentle and (brought := [p for p in prompts if p.guidance is not None]):
        raise ConfigError(
            f"{len(brought)} test prompts bring a guidance of their own ({brought[0].source}); only --attack none and "
            "--file draw with it: use one of these."
        )
    pipe = model.pipeline(job.model, job.device)
    # Prompts that are drawn as they are work towards nothing.
    wanted = [] if gentle else [Request(p, ELSEWHERE) for p in prompts]
    drawn = [pictures for _, pictures in generate(pipe, wanted, job.model, job.evaluate.seed)]
    aims = np.concatenate(drawn or [np.zeros((0, 1, 1, 3), np.uint8)])
    removals = [tune.load(job.open.whole(job.removal_id)).at(job.strength)] if job.removal_id else []

    rows: list[dict[str, Any]] = []
    first: dict[int, Attempt] = {}
    best: dict[int, tuple[Attempt, str]] = {}
    with ExitStack() as held:
        attached = held.enter_context(removed(pipe, removals, any_model=True))
        target = Target(
            pipe,
            job.concept,
            prompts,
            aims,
            paraphrases(prompts, known, job.config.steps),
            job.model,
            job.evaluate.seed,
            job.config.hide,
            attached.call,
            attached.gates,
            attached.needs_guidance,
        )

        def note(batch: Sequence[Attempt], before: bool) -> None:
            pictures = np.stack([a.picture for a in batch])
            said = job.judge.look(job.domain, pictures, job.device)
            ordinary = job.judge.ordinary(job.domain, pictures, job.device)
            for attempt, judged, usual in zip(batch, said, ordinary, strict=True):
                success = judged.label == job.concept and usual is not False
                rows.append(_row(job, target, attempt, before, judged.label, judged.score, usual, success))
                first.setdefault(attempt.prompt, attempt)
                if attempt.prompt not in target.broken:
                    best[attempt.prompt] = attempt, str(judged.label)
                if success:
                    target.broken.add(attempt.prompt)
            progress.tell(f"audit {job.label}", len(target.broken), len(prompts), "prompts broken")

        for batch in get("none")(target, job.config.effort):
            note(batch, True)
        before = len(target.broken)
        if not gentle and target.todo:
            for batch in get(job.attack)(target, job.config.effort):
                note(batch, False)
    write_table(job.folder / ATTACKS.file, table(rows, ATTACKS))
    _sheet(job, prompts, first, best, target.broken)
    summary = AuditSummary(
        domain=job.domain,
        concept=job.concept,
        method=job.method,
        attack=job.attack,
        removal_id=job.removal_id,
        strength=job.strength,
        prompts=len(prompts),
        before=before,
        broken=len(target.broken),
        judge=job.judge.spec,
        sheet=job.places[SHEET],
    )
    return commit(job, {"prompts": job.prompts_id, "removal": job.removal_id}, summary, clock)


def successes(workspace: Workspace, audit_id: str) -> list[dict[str, Any]]:
    """Rows of the view `attacks` for what an attack broke, the first picture of each prompt that counts.

    Prompts that showed the concept before the attack are left out.
    """
    found: dict[str, dict[str, Any]] = {}
    for row in read_table(workspace.whole(audit_id) / ATTACKS.file).to_pylist():
        if row["success"]:
            found.setdefault(row["prompt_id"], row)
    return [row for row in found.values() if not row["before"]]


def _row(
    job: AuditJob,
    target: Target,
    attempt: Attempt,
    before: bool,
    label: str | None,
    score: float | None,
    usual: bool | None,
    success: bool,
) -> dict[str, Any]:
    return {
        "domain": job.domain,
        "concept": job.concept,
        "method": job.method,
        "removal_id": job.removal_id or None,
        "strength": job.strength,
        "attack": job.attack,
        "hidden": job.config.hide,
        "prompt_id": target.prompts[attempt.prompt].id,
        "before": before,
        "iteration": attempt.iteration,
        "timestep": None if attempt.timestep < 0 else attempt.timestep,
        "text": attempt.text,
        "judged": label,
        "score": score,
        "ordinary": usual,
        "success": success,
    }


def _sheet(
    job: AuditJob,
    prompts: Sequence[Prompt],
    first: dict[int, Attempt],
    best: dict[int, tuple[Attempt, str]],
    broken: set[int],
) -> None:
    """Prompts that were broken first."""
    order = sorted(range(len(prompts)), key=lambda i: i not in broken)

    def shot(i: int) -> Shot:
        attempt, label = best[i]
        return Shot(attempt.text, first[i].picture, attempt.picture, seen_edited=((label, label != job.concept),))

    bands = [
        (f"broken: {len(broken)} of {len(prompts)}", [shot(i) for i in order if i in broken]),
        ("not broken", [shot(i) for i in order if i not in broken]),
    ]
    title = f"{job.attack} on {job.concept} by {job.method}"
    if job.strength != 1:
        title += f" at strength {job.strength:g}"
    contact_sheet(bands, title, job.folder / SHEET, names=("before", "attacked"))
