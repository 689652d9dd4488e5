"""What a job's id depends on: all that changes its result, and nothing else."""

from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from saeuron.config import (
    CaptureConfig,
    DomainConfig,
    EvaluateConfig,
    ModelConfig,
    PromptsConfig,
    ScoreConfig,
    TuneConfig,
    VerdictConfig,
)
from saeuron.errors import BadPrompts
from saeuron.sae.config import SAEConfig
from saeuron.sae.diagnosis import DiagnosisConfig
from storage.identity import split_id
from tasks.capture import CaptureJob
from tasks.engine.job import Job
from tasks.engine.judge import DomainJudge
from tasks.evaluate import EvaluateJob
from tasks.images import ImagesJob
from tasks.judge import JudgeJob
from tasks.prompts import PromptsJob
from tasks.report import ReportJob
from tasks.sae.report import DiagnosisJob, StabilityJob
from tasks.score import ScoreJob
from tasks.stages import SHIPPED
from tasks.train import TrainJob
from tasks.trials import TrialsJob
from tasks.tune import TuneJob

HERE = Path("/here")
MODEL = {"model": ModelConfig(), "model_id": "m1"}
JUDGE = DomainJudge(spec="clip:/here", id="j1", labels=("dots", "neon"))
STYLE = DomainConfig(concepts=("neon", "dots"), hookpoints=("unet.a",))
TRIALS = TrialsJob(
    workspace=HERE, **MODEL, config=TuneConfig(), domain="style", concept="neon", method="saeuron",
    candidates=({"n": 4, "gamma": -1.0},), reference=("neon", "dots"), prompts_ids=("p1",), images_id="i1",
    hookpoints=("unet.a",), saes={"unet.a": "s1"}, scores={"neon": "n1", "dots": "d1"},
)  # fmt: skip
JOBS: dict[str, Job] = {
    "prompts": PromptsJob(
        workspace=HERE, config=PromptsConfig(templates={"train": ("A {style}.",)}), domains={"style": STYLE},
    ),
    "capture": CaptureJob(
        workspace=HERE, **MODEL, config=CaptureConfig(), prompts_id="p1", images_id="i1", hookpoint="unet.a",
    ),
    "sae": TrainJob(workspace=HERE, config=SAEConfig(), hookpoint="unet.a", capture_id="c1"),
    "diagnosis": DiagnosisJob(workspace=HERE, **MODEL, config=DiagnosisConfig(), sae_id="s1", prompts_id="p1"),
    "stability": StabilityJob(workspace=HERE, sae_id="s1", against_id="s2"),
    "score": ScoreJob(
        workspace=HERE, **MODEL, config=ScoreConfig(), domain="style", concept="neon", score_on="crossed",
        prompts_id="p1", images_id="i1", saes={"unet.a": "s1"},
    ),
    "trials": TRIALS,
    "removal": TuneJob(
        workspace=HERE, trials=TRIALS, trials_id=TRIALS.id, domain="style", concept="neon", method="saeuron",
        domains=("style",), judges={"style": JUDGE},
    ),
    "images": ImagesJob(
        workspace=HERE, **MODEL, config=EvaluateConfig(), prompts_id="p1",
    ),
    "judgements": JudgeJob(workspace=HERE, image_set_id="e1", domain="style", judge=JUDGE),
    "evaluation": EvaluateJob(
        workspace=HERE, domain="style", concept="neon", method="saeuron", domains=("style",), removal_id="r1",
        edited=("e1",), unedited=("u1",), judgements={"e1": ("y1",), "u1": ("y2",)}, seeds=1, verdict=VerdictConfig(),
    ),
    "pictures": ReportJob(
        workspace=HERE, domain="style", concept="neon", method="saeuron", prompts_ids=("p1",), edited=("e1",),
        unedited=("u1",), judgements={"e1": ("y1",), "u1": ("y2",)}, evaluation_id="v1", scores={"neon": "n1"},
        hookpoints=("unet.a",),
    ),
}  # fmt: skip


def changed(job: Job, **fields: object) -> Job:
    return type(job).model_validate({**{k: getattr(job, k) for k in type(job).model_fields}, **fields})


@pytest.mark.parametrize("stage", JOBS)
class TestId:
    def test_is_that_of_its_stage(self, stage: str) -> None:
        assert split_id(JOBS[stage].id) == (stage, type(JOBS[stage]).version)

    def test_is_the_same_wherever_it_is_made(self, stage: str) -> None:
        assert changed(JOBS[stage], workspace=Path("/elsewhere")).id == JOBS[stage].id

    def test_knows_the_kind_of_device_but_not_its_number(self, stage: str) -> None:
        first, second = (changed(JOBS[stage], device=d).id for d in ("cuda", "cuda:1"))
        assert first == second
        if stage != "prompts":
            assert first != JOBS[stage].id

    def test_changes_with_the_version(self, stage: str) -> None:
        kind = type(JOBS[stage])
        newer = type("Newer", (kind,), {"version": kind.version + 1})
        assert changed(newer(**{k: getattr(JOBS[stage], k) for k in kind.model_fields})).id != JOBS[stage].id

    def test_of_a_changed_copy_is_worked_out_anew(self, stage: str) -> None:
        first = JOBS[stage].id
        copied = JOBS[stage].model_copy(update={"device": "cuda"})
        assert copied.id == changed(JOBS[stage], device="cuda").id
        assert (copied.id == first) == (stage == "prompts") and JOBS[stage].id == first

    def test_survives_json(self, stage: str) -> None:
        kind = type(JOBS[stage])
        assert kind.model_validate_json(JOBS[stage].model_dump_json()).id == JOBS[stage].id


def test_ids_are_all_different() -> None:
    assert len({job.id for job in JOBS.values()}) == len(JOBS)


@pytest.mark.parametrize(
    ("stage", "fields"),
    [
        ("prompts", {"config": PromptsConfig(templates={"test": ("A {style}.",)})}),
        ("prompts", {"domains": {"style": STYLE.model_copy(update={"concepts": ("neon",)})}}),
        ("capture", {"config": CaptureConfig(seed=1)}),
        ("capture", {"hookpoint": "unet.b"}),
        ("capture", {"model": ModelConfig(steps=3)}),
        ("capture", {"model_id": "m2"}),
        ("capture", {"images_id": "i2"}),
        ("sae", {"config": SAEConfig(k=16)}),
        ("sae", {"capture_id": "c2"}),
        ("sae", {"hookpoint": "unet.b"}),
        ("score", {"concept": "dots"}),
        ("score", {"score_on": "plain"}),
        ("score", {"saes": {"unet.a": "s2"}}),
        ("score", {"images_id": "i2"}),
        ("score", {"config": ScoreConfig(every=2)}),
        ("trials", {"images_id": "i2"}),
        ("trials", {"learning_id": "l1"}),
        ("trials", {"method": "steering"}),
        ("trials", {"candidates": ({"n": 8, "gamma": -1.0},)}),
        ("trials", {"config": TuneConfig(half="conditional")}),
        ("trials", {"reference": ("neon",)}),
        ("trials", {"scores": {"neon": "n1"}}),
        ("trials", {"saes": {"unet.a": "s2"}}),
        ("removal", {"trials_id": "t2"}),
        ("removal", {"method": "steering"}),
        ("removal", {"judges": {}}),
        ("removal", {"judges": {"style": JUDGE.model_copy(update={"id": "j2"})}}),
        ("removal", {"judges": {"style": JUDGE.model_copy(update={"labels": ("neon",)})}}),
        ("judgements", {"judge": JUDGE.model_copy(update={"id": "j2"})}),
        ("judgements", {"judge": JUDGE.model_copy(update={"labels": ("neon",)})}),
        ("judgements", {"image_set_id": "e2"}),
        ("judgements", {"domain": "object"}),
        ("evaluation", {"judgements": {"e1": ("y1",), "u1": ("y3",)}}),
        ("images", {"config": EvaluateConfig(seeds=1)}),
        ("images", {"contents": ("c1",)}),
        ("images", {"sampled_for": ("style", "neon")}),
        ("evaluation", {"removal_id": "r2"}),
        ("pictures", {"edited": ("e2",)}),
    ],
)
def test_id_changes_with_what_it_depends_on(stage: str, fields: dict[str, object]) -> None:
    assert changed(JOBS[stage], **fields).id != JOBS[stage].id


@pytest.mark.parametrize(
    ("stage", "fields"),
    [
        ("prompts", {"domains": {"style": STYLE.model_copy(update={"judge": "none", "hookpoints": ("unet.b",)})}}),
        ("sae", {"config": SAEConfig(checkpoint_every=7)}),
        ("trials", {"config": TuneConfig(concepts=("neon",))}),
        ("trials", {"config": TuneConfig(settings={"saeuron": {"n": (4,)}})}),
        ("capture", {"prompts_id": "p2"}),
        ("capture", {"beside": ("unet.b",)}),
        ("score", {"prompts_id": "p2"}),
        ("score", {"bases": ("s9",)}),
        ("trials", {"prompts_ids": ("p2",)}),
        ("trials", {"scores": {"dots": "d1", "neon": "n1"}}),
        ("score", {"model": ModelConfig(spec="/a/copy/of/canvas")}),
        ("capture", {"model": ModelConfig(spec="/a/copy/of/canvas")}),
        ("trials", {"model": ModelConfig(spec="/a/copy/of/canvas")}),
        ("images", {"model": ModelConfig(spec="/a/copy/of/canvas")}),
        ("images", {"removal_ids": ("r1",)}),
        ("judgements", {"judge": JUDGE.model_copy(update={"spec": "clip:/elsewhere", "templates": ("{label}",)})}),
        ("removal", {"judges": {"style": JUDGE.model_copy(update={"spec": "clip:/elsewhere"})}}),
    ],
)
def test_id_does_not_change_with_what_changes_no_result(stage: str, fields: dict[str, object]) -> None:
    assert changed(JOBS[stage], **fields).id == JOBS[stage].id


def test_statistics_compare_when_they_share_the_model_and_how_it_was_scored() -> None:
    score = JOBS["score"]
    assert isinstance(score, ScoreJob)
    same = {"concept": "dots", "prompts_id": "p2", "saes": {"unet.a": "s2"}}
    assert changed(score, **same).protocol == score.protocol  # type: ignore[attr-defined]
    for fields in ({"config": ScoreConfig(seed=9)}, {"model": ModelConfig(steps=3)}, {"model_id": "m2"}):
        assert changed(score, **fields).protocol != score.protocol  # type: ignore[attr-defined]


def test_a_prompt_file_counts_by_its_bytes(tmp_path: Path) -> None:
    def job(name: str, text: str) -> PromptsJob:
        (tmp_path / name).write_text(text)
        return PromptsJob(workspace=HERE, config=PromptsConfig(files=(str(tmp_path / name),)), domains={"style": STYLE})

    assert job("a.txt", "A cat.").id == job("b.txt", "A cat.").id != job("c.txt", "A dog.").id
    # The same bytes are read otherwise: here the first line is a heading.
    assert job("a.txt", "text\nA cat.").id != job("a.csv", "text\nA cat.").id == job("b.csv", "text\nA cat.").id
    # Prompts of a benchmark have the file's name as their source.
    i2p = "prompt,sd_seed,sd_guidance_scale,categories\nA cat.,1,7.5,none\n"
    assert job("i2p.csv", i2p).id != job("other.csv", i2p).id
    with pytest.raises(BadPrompts, match="no such prompt file"):
        _ = PromptsJob(workspace=HERE, config=PromptsConfig(files=("none.txt",)), domains={"style": STYLE}).id


def test_what_a_step_reads_is_what_it_was_made_from_unless_it_knows_better() -> None:
    """On an object store that is fetched before the step begins; locally nobody asks."""
    a, b, c, d = (f"{stage}_v1_{'0' * 19}{i}" for i, stage in enumerate(("prompts", "sae", "images", "judgements")))
    score = JOBS["score"].model_copy(update={"prompts_id": a, "saes": {"unet.a": b}})
    assert score.reads == {a: (), b: ()}
    train = JOBS["sae"].model_copy(update={"capture_id": a})
    assert train.reads == {a: ("unet.a",)}
    update = {"edited": (c,), "unedited": (b,), "judgements": {c: (d,), b: ()}}
    assert JOBS["evaluation"].model_copy(update=update).reads == {c: (), b: (), d: ()}


def untyped(of: type[BaseModel]) -> list[str]:
    """Fields of a model, and of the models in its fields, that may hold anything."""
    found = []
    for name, field in of.model_fields.items():
        kinds = (field.annotation, *get_args(field.annotation))
        found += [name] if "Any" in str(field.annotation) or {dict, list, object} & {*kinds} else []
        found += [inner for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)
                  for inner in untyped(kind)]  # fmt: skip
    return found


@pytest.mark.parametrize("stage", SHIPPED, ids=lambda stage: stage.stage)
def test_every_field_of_a_stages_summary_has_a_type(stage: type[Job]) -> None:
    assert stage.summary_type.model_fields
    assert untyped(stage.summary_type) == []
