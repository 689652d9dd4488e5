"""Judgements of stored images: what the table holds, and that another judge generates nothing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import saeuron.generation
from flows.run import Run
from flows.stages.evaluate import evaluate
from flows.stages.prompts import prompts as prompts_stage
from flows.stages.tune import Wanted
from flows.stages.tune import tune as tune_stage
from saeuron import judges
from saeuron.canvas.vocabularies import CANVAS20
from saeuron.canvas.vocabulary import STYLE_CLASSES
from saeuron.config import RunConfig
from saeuron.errors import BadModel, ConfigError
from saeuron.judges import Judgement
from storage import Workspace
from storage.catalog.query import run_query
from storage.errors import ArtifactDamaged
from tasks.engine import progress
from tasks.engine.job import Job, Made
from tasks.engine.judge import DomainJudge
from tasks.engine.step import in_place
from tasks.images import batches, index, pictures
from tasks.judge import JudgeJob, judge, read
from tasks.registry import runs
from tasks.registry.concepts import Roster
from tasks.totals import TotalsJob, totals
from tasks.trials import TrialsJob, trials
from tasks.tune import TuneJob, tune
from tests.sae_workspace import HOOKPOINTS, build


class Bright:
    """The label is chosen by the sum of the pixels, the score is the mean of green."""

    labels = None
    calls = 0

    def __init__(self, argument: str, domain: str, templates: Sequence[str], device: str) -> None:
        del domain, templates, device
        self.identity = f"bright-{argument}"

    def __call__(self, images: NDArray[np.uint8], labels: Sequence[str]) -> list[Judgement]:
        Bright.calls += 1
        return [expected(image, labels) for image in images]


def expected(image: NDArray[np.uint8], labels: Sequence[str]) -> Judgement:
    return Judgement(labels[int(image.sum(dtype=np.int64)) % len(labels)], float(image[..., 1].mean() / 255))


@dataclass
class Direct(Run):
    """A run whose steps are called in place, without Prefect."""

    def step(
        self, task: Callable[..., Made], job: Any, *args: int, prepare: Callable[[Any], Any] | None = None
    ) -> Made:
        if (there := in_place(job)) is None:
            there = task.fn(prepare(job) if prepare else job, *args)  # type: ignore[attr-defined]
        return self._note(there, job, *args)

    def shards(
        self,
        task: Callable[..., Made],
        job: Any,
        count: Callable[[Any], int],
        stage: str = "",
        prepare: Callable[[Any], Any] | None = None,
    ) -> None:
        if in_place(job) is None:
            for i in range(count(job)):
                self.step(task, prepare(job) if prepare else job, i)

    def publish(self, do: Callable[[Any], object], job: Job) -> None:
        """Nothing is copied."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Workspace:
    return build(tmp_path_factory.mktemp("judge") / "w", tiny_model_folder)


@pytest.fixture
def sampled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The prompts that images are generated of."""
    seen: list[str] = []

    def sample(pipe: Any, texts: Sequence[str], *rest: Any) -> Any:
        seen.extend(texts)
        return real(pipe, texts, *rest)

    real = saeuron.generation.sample
    monkeypatch.setattr(saeuron.generation, "sample", sample)
    return seen


@pytest.fixture(autouse=True)
def _bright(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judges, "JUDGES", {**judges.JUDGES, "bright": Bright})


def configured(workspace: Workspace, style: str, **more: Any) -> RunConfig:
    config = runs.remembered(workspace)
    evaluation = config.evaluate.model_copy(update={"seeds": 2, "shard_images": 5})
    domains = config.domains | {"style": config.domains["style"].model_copy(update={"judge": style, **more})}
    return config.model_copy(update={"domains": domains, "evaluate": evaluation})


def removal(workspace: Workspace, config: RunConfig, method: str = "saeuron", **settings: Any) -> tuple[TuneJob, Made]:
    """One of neon with one candidate, for there is no judge."""
    scores = {m.summary["concept"]: m.id for m in workspace.artifacts("score")}
    [sae_id] = {i for m in workspace.artifacts("score") for i in [m.config["saes"][HOOKPOINTS[0]]]}
    sums = TotalsJob(
        workspace=workspace.root, domain="style", hookpoint=HOOKPOINTS[0], sae_id=sae_id,
        scores=tuple(sorted(scores.values())),
    )  # fmt: skip
    tried = TrialsJob(
        workspace=workspace.root, model=config.model, model_id=Run.of(workspace, config, "cpu").model_id,
        config=config.tune, domain="style", concept="neon", method=method,
        candidates=(settings or {"n": 2, "gamma": -1.5},), reference=tuple(scores),
        prompts_ids=(workspace.artifacts("prompts")[0].id,), images_id="", hookpoints=HOOKPOINTS[:1],
        saes={HOOKPOINTS[0]: sae_id}, scores=scores, totals={HOOKPOINTS[0]: totals.fn(sums).id},
    )  # fmt: skip
    job = TuneJob(
        workspace=workspace.root, trials=tried, trials_id=trials.fn(tried).id, domain="style", concept="neon",
        method=method, domains=("style", "object"), judges={},
    )  # fmt: skip
    return job, tune.fn(job)


def measured(workspace: Workspace, config: RunConfig) -> tuple[Direct, dict[str, Any]]:
    run = Direct.of(workspace, config, "cpu")
    found = evaluate(run, {Wanted("neon", "saeuron"): removal(workspace, config)})
    assert run.failures == []
    _, evaluation = found[Wanted("neon", "saeuron")]
    return run, evaluation.summary["metrics"]


def new(run: Run) -> list[str]:
    return sorted(name.split("_v")[0] for name, cached in run.artifacts.items() if not cached)


JUDGED = ["evaluation", "judgements", "judgements", "pictures"]
"""What another judge makes; the contact sheet shows what it sees."""


def test_another_judge_or_label_judges_stored_images_and_generates_none(made: Workspace, sampled: list[str]) -> None:
    assert removal(made, configured(made, "none"))[1].summary["settings"] == {"n": 2, "gamma": -1.5}
    run, figures = measured(made, configured(made, "none"))
    assert new(run) == ["evaluation", "images", "images", "pictures"]
    assert figures["UA"]["value"] is None and figures["UA"]["unedited"] is None
    # Unedited and edited: two seeds of each of four cells, see `build`.
    count = sum(m.summary["images"] for m in made.artifacts("images"))
    assert count == len({*sampled}) * 2 * 2 == 16
    sampled.clear()

    run, figures = measured(made, configured(made, "bright:1"))
    assert sampled == [] and new(run) == JUDGED
    assert figures["UA"]["value"] is not None and figures["CRA"]["value"] is None
    run, _ = measured(made, configured(made, "bright:2"))
    assert sampled == [] and new(run) == JUDGED
    # The same again finds everything, by whatever name the judge is configured.
    calls = Bright.calls
    run, again = measured(made, configured(made, "bright:1"))
    assert sampled == [] and new(run) == [] and again == figures and Bright.calls == calls

    # A judge with labels of its own, whose list of classes is corrected.
    run, _ = measured(made, configured(made, "canvas20"))
    assert sampled == [] and new(run) == JUDGED
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "saeuron.judges.canvas.Canvas20Judge.vocabulary", replace(CANVAS20, style_classes=STYLE_CLASSES[:-1])
        )
        run, _ = measured(made, configured(made, "canvas20"))
    assert sampled == [] and new(run) == JUDGED


def test_rows_are_what_the_judge_says_of_each_image_in_order(made: Workspace, sampled: list[str]) -> None:
    measured(made, configured(made, "bright:3"))
    sets = [m.id for m in made.artifacts("images")]
    for image_set_id in sets:
        [own] = [
            m for m in made.artifacts("judgements")
            if m.inputs["images"] == image_set_id and m.summary["judge"] == "bright:3"
        ]  # fmt: skip
        assert own.config["judge"] == {"id": "bright-3", "labels": ["dots", "neon"]}
        found = run_query(
            made, f"select * exclude judgements_id from judgements where judgements_id = '{own.id}'"
        ).to_pylist()
        rows = index(made, image_set_id)
        every = pictures(made, image_set_id, {row["key"] for row in rows})
        wanted = []
        for row in rows:
            label, score, _ = expected(every[row["key"]], ("dots", "neon"))
            wanted.append(
                {
                    "image_set_id": image_set_id, "key": row["key"], "prompt_id": row["prompt_id"],
                    "image_index": row["image_index"], "domain": "style", "asked": dict(row["asked"]).get("style"),
                    "judge": "bright:3", "label": label, "score": pytest.approx(score),
                }
            )  # fmt: skip
        assert found == wanted and len({row["label"] for row in found}) == 2
        # What is read back is what was asked and seen.
        for seen, row in zip(read(made, {image_set_id: [own.id]}), wanted, strict=True):
            assert (seen.prompt_id, seen.index) == (row["prompt_id"], row["image_index"])
            assert seen.seen == {"style": row["label"]} and seen.asked.get("style") == row["asked"]
        assert {tuple(seen.seen) for seen in read(made, {image_set_id: []})} == {()}


def test_where_a_prompt_asks_for_nothing_of_a_domain_asked_is_null(made: Workspace) -> None:
    measured(made, configured(made, "none"))
    by = DomainJudge(spec="bright:4", id="bright-4", labels=("here", "there"))
    image_set_id = made.artifacts("images")[0].id
    job = JudgeJob(workspace=made.root, image_set_id=image_set_id, domain="place", judge=by)
    found = run_query(made, f"select distinct asked from judgements where judgements_id = '{judge.fn(job).id}'")
    assert found.to_pylist() == [{"asked": None}]


def test_batches_hold_every_image_once_in_order_whatever_their_size(made: Workspace) -> None:
    measured(made, configured(made, "none"))
    image_set_id = made.artifacts("images")[0].id
    rows = index(made, image_set_id)
    every = pictures(made, image_set_id, {row["key"] for row in rows})
    for size, most in ((1, 1), (2, 2), (99, 5)):
        found = list(batches(made, image_set_id, rows, size))
        assert [row for group, _ in found for row in group] == rows
        assert max(len(group) for group, _ in found) == most
        for group, images in found:
            assert images.dtype == np.uint8 and len(images) == len(group)
            assert all((image == every[row["key"]]).all() for row, image in zip(group, images, strict=True))


def test_a_damaged_shard_is_not_judged(made: Workspace) -> None:
    measured(made, configured(made, "none"))
    image_set_id = made.artifacts("images")[0].id
    path = made.folder(image_set_id) / "00001.tar"
    whole = path.read_bytes()
    path.write_bytes(whole[:1500] + bytes([whole[1500] ^ 1]) + whole[1501:])
    by = DomainJudge(spec="bright:9", id="bright-9", labels=("dots", "neon"))
    job = JudgeJob(workspace=made.root, image_set_id=image_set_id, domain="style", judge=by)
    with pytest.raises(ArtifactDamaged):
        judge.fn(job)
    assert in_place(job) is None
    # The step that failed has set the shard aside.
    path.write_bytes(whole)
    assert judge.fn(job).summary == {
        "domain": "style", "judge": "bright:9", "judge_id": "bright-9", "images": len(index(made, image_set_id)),
    }  # fmt: skip


def test_labels_of_a_removal_are_its_reference_set_and_the_configurations_concepts(made: Workspace) -> None:
    config = configured(made, "bright:1")
    config = config.model_copy(
        update={"domains": {d: c.model_copy(update={"judge": "bright:1"}) for d, c in config.domains.items()}}
    )
    run = Run.of(made, config, "cpu")
    assert run.unjudged("neon") == ()
    run.roster = Roster(references={"neon": ("sepia", "neon")})
    found = run.judges("neon")
    assert {d: j.labels for d, j in found.items()} == {"style": ("neon", "sepia"), "object": ("cat", "moon")}
    assert run.judges("dots")["style"].labels == ("dots", "neon")
    assert {j.id for j in found.values()} == {"bright-1"}
    partly = Run.of(made, configured(made, "bright:1"), "cpu")
    assert partly.unjudged("neon") == ("object",) and list(partly.judges("neon")) == ["style"]


def test_a_judge_that_cannot_be_fetched_is_told_of_before_anything_is_made(made: Workspace) -> None:
    with pytest.raises(BadModel, match="cannot fetch the judge's model 'nobody/nothing'"):
        Run.of(made, configured(made, "clip:nobody/nothing"), "cpu")


def test_templates_reach_the_judge(made: Workspace) -> None:
    with pytest.raises(ConfigError, match="uses no sentences"):
        Run.of(made, configured(made, "canvas20", judge_templates=("{label}",)), "cpu").judges("neon")


@pytest.mark.parametrize(
    ("judges_of", "said"),
    [
        ({"style": "none", "object": "none"}, ["no judge for style, object: nothing is judged"]),
        ({"style": "canvas20", "object": "none"}, ["no judge for object: its pictures are not judged"]),
        ({"style": "canvas20", "object": "canvas20"}, []),
    ],
)
def test_tuning_says_in_one_line_that_it_does_not_search(
    made: Workspace, judges_of: dict[str, str], said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = runs.remembered(made)
    domains = {d: c.model_copy(update={"judge": judges_of[d]}) for d, c in config.domains.items()}
    heard: list[str] = []

    class Ear:
        def stage(self, name: str, done: int, total: int) -> None: ...

        def within(self, what: str, done: int, total: int, note: str) -> None: ...

        def line(self, text: str) -> None:
            heard.append(text)

    run = Run.of(made, config.model_copy(update={"domains": domains}), "cpu")
    # What would be tuned is known, but nothing is done.
    monkeypatch.setattr(run, "each", lambda *_: {})
    monkeypatch.setattr(run, "step", lambda task, job, **_: Made(id=job.id, cached=True))
    with progress.listening(Ear()):
        tune_stage(
            run, [Wanted("neon", "negative_prompt"), Wanted("cat", "negative_prompt")], prompts_stage(run), {}, {}
        )
    assert [line.split(", figures")[0] for line in heard] == said
    if said:
        assert "(each removal takes the mildest of its grid); set domains.NAME.judge" in heard[0]
