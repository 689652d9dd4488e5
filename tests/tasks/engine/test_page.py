"""What is shown on Prefect's page, and that it costs little and can fail no run."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from PIL import Image

from storage import Workspace
from storage.files import write_json
from tasks.engine import gpu, page, progress
from tasks.engine.job import Clock, Job, Made, Summary, commit
from tasks.engine.step import step


class FiguresSummary(Summary):
    domain: str
    concept: str
    metrics: dict[str, dict[str, float | None]]
    images: int


class FiguresJob(Job):
    stage: ClassVar[str] = "evaluation"
    version: ClassVar[int] = 1

    concept: str
    method: str = "steering"

    def show(self, made: Made) -> None:
        page.show_figures(self, made)


@step("figures")
def figures(job: FiguresJob) -> Made:
    clock = Clock()
    write_json(job.folder / "any.json", 1)
    metrics = {"UA": {"value": 0.5, "unedited": None, "low": 0.25, "high": 0.75}}
    return commit(job, {}, FiguresSummary(domain="style", concept=job.concept, metrics=metrics, images=4), clock)


@step("probe shard")
def shard(job: FiguresJob, index: int) -> Made:
    """Cached, if its index is odd."""
    return Made(id=job.id, cached=bool(index % 2), seconds=0.5)


@step("held")
def held(job: FiguresJob, index: int) -> Made:
    """How many slots of the limit are taken while it works."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        taken = client.read_global_concurrency_limit_by_name(gpu.LIMIT).active_slots
    return Made(id=job.id, summary={"taken": taken, "index": index})


@pytest.fixture
def job(workspace: Workspace) -> FiguresJob:
    return FiguresJob(workspace=workspace.root, concept=f"Néon {time.monotonic_ns()}")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What would have been sent, and is not."""
    found: list[tuple[Any, ...]] = []
    for name in (n for n in vars(page) if n.startswith(("create_", "update_", "emit_"))):
        monkeypatch.setattr(page, name, lambda *args, _name=name, **more: found.append((_name, *args)))
    return found


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if this were part of a run on a server, which would take a second each time."""
    monkeypatch.setattr(page, "watched", lambda: True)


def test_outside_a_run_nothing_is_sent(job: FiguresJob, calls: list[Any], server: None) -> None:
    with progress.listening(page.Bars()):
        progress.stage("train", 0, 1)
        progress.tell("train", 1, 2)
        figures.fn(job)
    assert calls == []


def test_on_a_server_of_the_runs_own_nothing_is_sent(
    job: FiguresJob, calls: list[Any], in_flow: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    def work() -> bool:
        assert page.watched()
        with temporary_settings(restore_defaults={PREFECT_API_URL}):
            page.show(job, Made(id=job.id), 1)
            return page.watched()

    assert in_flow(work) is False and calls == []


def test_an_evaluation_is_a_table(job: FiguresJob, in_flow: Any) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

    made = in_flow(figures, job)
    key = f"figures-n-on-{job.concept.split()[1]}-steering"
    with get_client(sync_client=True) as client:
        (table,) = client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])))
    assert json.loads(table.data) == [{"metric": "UA", "value": "50.0", "unedited": "-", "low": "25.0", "high": "75.0"}]
    assert "style" in table.description and "4 test images" in table.description
    assert table.flow_run_id is not None and not made.cached


def test_a_report_and_the_pictures_of_a_removal_are_linked(workspace: Workspace, in_flow: Any) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

    name = f"c{time.monotonic_ns()}"
    folder = workspace.root / "any"
    folder.mkdir()
    Image.new("RGB", (40, 20), "red").save(folder / "sheet.png")
    about = {
        "workspace": workspace.root,
        "open": workspace,
        "folder": folder,
        "sae_id": f"sae_{name}",
        "domain": "style",
    }
    place = f"pictures/{name}.steering_scores.png"
    job = SimpleNamespace(**about, concept=name, method="steering", places={"scores.png": place})

    def work() -> None:
        page.show_pictures(job, Made(id="any"))
        page.show_diagnosis(job, Made(id="any"))

    in_flow(work)
    expected = {
        f"scores-{name}-steering": (workspace.root / place).as_uri(),
        f"report-sae-{name}": (workspace.reports / f"sae_{name}.html").as_uri(),
        f"sheet-{name}-steering": "data:image/jpeg;base64,",
    }
    with get_client(sync_client=True) as client:
        keys = ArtifactFilter(key=ArtifactFilterKey(any_=list(expected)))
        found = {a.key: a.data for a in client.read_artifacts(artifact_filter=keys)}
    assert set(found) == set(expected) and all(expected[key] in found[key] for key in expected)


def test_what_was_there_is_not_shown_again(job: FiguresJob, calls: list[Any], looked_at: None) -> None:
    assert not figures.fn(job).cached
    assert [c[0] for c in calls] == ["emit_event", "create_table_artifact"]
    assert figures.fn(job).cached
    assert len(calls) == 2


EVALUATION = {
    "concept": "neon",
    "domain": "style",
    "method": "saeuron",
    "value": 0.875,
    "metrics": {"UA": {"value": 1.0, "low": 0.9, "high": 1.0}, "IRA": {"value": None, "low": None, "high": None}},
    "verdict": "weak",
    "reason": "cat lost 30 points",
}


def test_the_report_of_a_run_is_a_table_with_intervals_and_verdicts_and_a_link(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: dict[str, Any] = {}
    for name in ("create_table_artifact", "create_link_artifact"):
        monkeypatch.setattr(page, name, lambda data, key, **more: sent.update({key: (data, more)}))
    path = workspace.reports / "run-3.html"
    page.show_report(workspace.root, path, [EVALUATION])
    table, _ = sent["run-figures"]
    assert table == [
        {
            "removed": "neon",
            "domain": "style",
            "method": "saeuron",
            "mean": "87.5",
            "UA": "100.0 (90.0 to 100.0)",
            "IRA": "-",
            "CRA": "-",
            "verdict": "weak",
            "why": "cat lost 30 points",
        }
    ]
    link, more = sent["run-report"]
    assert link == path.as_uri() and str(path) in more["description"]


def test_a_failed_stage_shows_its_one_line(
    calls: list[Any], looked_at: None, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.config import load
    from flows.run import Run

    def fail(item: str) -> Made:
        raise RuntimeError("the disk is full: make room and run again\nmore")

    run = Run(load(None), workspace.root, "model")
    run.each("score", ["neon"], fail, str)
    assert calls == [("create_markdown_artifact", "**score neon** failed. the disk is full: make room and run again")]


def test_each_shard_is_an_event(job: FiguresJob, calls: list[Any], looked_at: None) -> None:
    for index in range(3):
        shard.fn(job, index)
    ids = [resource["prefect.resource.id"] for name, event, resource in calls if event == "saeuron.shard.written"]
    assert ids == [f"saeuron.shard.{job.id}.{index}" for index in (0, 2)]


def test_a_page_that_is_away_fails_no_step(job: FiguresJob, looked_at: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*args: object, **more: object) -> None:
        raise ConnectionError("nobody there")

    for name in ("emit_event", "create_progress_artifact", "create_table_artifact"):
        monkeypatch.setattr(page, name, away)

    with progress.listening(page.Bars()):
        progress.stage("train", 0, 1)
        progress.tell("train", 1, 2)
        assert figures.fn(job).summary["images"] == 4
    assert job.open.has(job.id)


def test_a_bar_moves_once_a_second_at_most(looked_at: None, monkeypatch: pytest.MonkeyPatch) -> None:
    now, sent = [0.0], list[tuple[float, str]]()

    def create(percent: float, key: str, description: str) -> str:
        sent.append((percent, description))
        now[0] += 0.01
        return key

    def update(bar: str, percent: float, text: str) -> None:
        assert bar == "progress-train"
        # A server under load answers late, and is asked less often.
        now[0] += 0.5
        sent.append((percent, text))

    monkeypatch.setattr(page, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(page, "create_progress_artifact", create)
    monkeypatch.setattr(page, "update_progress_artifact", update)

    with progress.listening(page.Bars()):
        progress.stage("train", 1, 2)
        for step in range(100):
            progress.tell("train up", step, 100, "fvu 0.1")
            now[0] += 0.1
        progress.stage("train", 2, 2)
    # The first took 10 ms and is followed after a second, the second took 500 ms and is followed after 25.
    assert [round(percent, 6) for percent, _ in sent] == [50, 55, 100]
    assert sent[1][1] == "train up: 10 of 100 fvu 0.1" and sent[2][1] == "done"


def test_listeners_stand_beside_each_other() -> None:
    class Ear:
        def __init__(self) -> None:
            self.heard: list[Any] = []

        def stage(self, *args: Any) -> None:
            self.heard.append(args)

        def within(self, *args: Any) -> None:
            self.heard.append(args)

        def line(self, text: str) -> None:
            self.heard.append(text)

    outer, inner = Ear(), Ear()
    with progress.listening(outer):
        with progress.listening(inner):
            progress.stage("a", 0, 1)
            progress.tell("b", 1, 2, "c")
        progress.line("d")
    progress.line("e")
    assert outer.heard == [("a", 0, 1), ("b", 1, 2, "c"), "d"] and inner.heard == outer.heard[:2]


def test_a_sheet_is_a_small_picture_in_itself(tmp_path: Path) -> None:
    Image.new("RGBA", (200, 100), "red").save(tmp_path / "sheet.png")
    kind, _, data = page._inline(tmp_path / "sheet.png").partition(",")
    assert kind == "data:image/jpeg;base64" and 500 < len(data) < 5000


def test_links_are_files_unless_somebody_serves_the_workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "reports" / "a b.html"
    monkeypatch.delenv(page.ADDRESS, raising=False)
    assert page._address(tmp_path, path) == path.as_uri()
    monkeypatch.setenv(page.ADDRESS, "http://box/work/")
    assert page._address(tmp_path, path) == "http://box/work/reports/a%20b.html"


@pytest.mark.parametrize(("text", "key"), [("Van Gogh", "van-gogh"), ("neon", "neon"), ("水", "other")])
def test_keys_of_artifacts(text: str, key: str) -> None:
    assert page._key(text) == key


def test_steps_on_a_gpu_take_turns_where_there_is_a_limit(job: FiguresJob, in_flow: Callable[..., Any]) -> None:
    from prefect.client.orchestration import get_client

    on_gpu = job.model_copy(update={"device": "cuda:0"})
    with get_client(sync_client=True) as client:
        client.upsert_global_concurrency_limit_by_name(gpu.LIMIT, 1)
        assert in_flow(held, job, 0).summary["taken"] == 0
        assert in_flow(held, on_gpu, 0).summary["taken"] == 1
        assert client.read_global_concurrency_limit_by_name(gpu.LIMIT).active_slots == 0
        client.delete_global_concurrency_limit_by_name(gpu.LIMIT)


def test_without_a_limit_no_step_waits(job: FiguresJob, in_flow: Callable[..., Any]) -> None:
    assert not in_flow(figures, job.model_copy(update={"device": "cuda"})).cached
