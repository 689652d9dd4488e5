"""Steps in a real flow: cached by what is on disk, retried when that can help."""

import errno
import shutil
from pathlib import Path
from typing import Any, ClassVar

import pytest

from saeuron.errors import ConfigError
from storage import Workspace
from storage.errors import ArtifactDamaged, BadQuery, DiskFull
from storage.files import write_json
from tasks.engine.job import Clock, Job, Made, Summary, commit
from tasks.engine.step import step

CALLS: list[str] = []
"""What the step below was called with; flows and tasks run in this process."""
FAULTS: list[BaseException] = []
"""What its next calls raise, in turn."""


class ProbeSummary(Summary):
    word: str


class ProbeJob(Job):
    stage: ClassVar[str] = "probe"
    version: ClassVar[int] = 1
    excluded_from_id: ClassVar[frozenset[str]] = frozenset({"note"})

    word: str
    note: str = ""

    @property
    def label(self) -> str:
        return self.word


@step("probe")
def probe(job: ProbeJob) -> Made:
    clock = Clock()
    CALLS.append(job.word)
    if FAULTS:
        raise FAULTS.pop(0)
    write_json(job.folder / "word.json", job.word)
    return commit(job, {}, ProbeSummary(word=job.word), clock)


@step("probe part")
def part(job: ProbeJob, index: int) -> Made:
    write_json(job.folder / f"{index}.json", index)
    return Made(id=job.id, seconds=2.5, cached=index == 2)


@pytest.fixture(autouse=True)
def fresh() -> None:
    CALLS.clear()
    FAULTS.clear()


@pytest.fixture
def job(workspace: Workspace) -> ProbeJob:
    return ProbeJob(workspace=workspace.root, word="neon")


class TestOnce:
    """Without Prefect, as `.fn` runs it."""

    def test_makes_and_commits(self, job: ProbeJob, workspace: Workspace) -> None:
        made = probe.fn(job)
        assert made.id == job.id and made.summary == {"word": "neon"} and not made.cached
        assert workspace.has(job.id)
        assert workspace.manifest(job.id).config == {"word": "neon"}

    def test_what_is_there_is_not_made_again(self, job: ProbeJob) -> None:
        probe.fn(job)
        again = probe.fn(job.model_copy(update={"note": "changes nothing"}))
        assert again.cached and again.summary == {"word": "neon"} and CALLS == ["neon"]

    def test_the_manifest_counts_the_seconds_of_the_parts(self, job: ProbeJob, workspace: Workspace) -> None:
        for index in (0, 1, 1, 2):
            part.fn(job, index)
        made = probe.fn(job)
        manifest = workspace.manifest(job.id)
        # Part 1 was made twice and counts once; part 2 was there before.
        assert made.seconds < 2.5 and manifest.seconds == pytest.approx(5 + made.seconds)
        assert sorted(file.name for file in manifest.files) == ["0.json", "1.json", "2.json", "word.json"]
        assert not list(job.folder.glob(".*"))
        assert probe.fn(job).seconds == manifest.seconds

    def test_a_part_that_is_made_again_below_a_manifest_leaves_no_note(self, job: ProbeJob) -> None:
        part.fn(job, 0)
        probe.fn(job)
        (job.folder / "0.json").unlink()
        assert not part.fn(job, 0).cached and probe.fn(job).cached
        assert not list(job.folder.glob(".*"))

    def test_a_note_of_seconds_that_is_damaged_counts_nothing(self, job: ProbeJob, workspace: Workspace) -> None:
        part.fn(job, 0)
        (job.folder / ".0.seconds").write_text("{")
        assert workspace.manifest(probe.fn(job).id).seconds < 2.5

    def test_what_is_damaged_is_made_again(self, job: ProbeJob) -> None:
        probe.fn(job)
        (job.folder / "word.json").write_text("")
        assert not probe.fn(job).cached and CALLS == ["neon", "neon"]

    def test_no_room_in_the_library_is_no_room(self, job: ProbeJob) -> None:
        FAULTS.append(OSError(28, "No space left on device", "/full/sae.safetensors"))
        with pytest.raises(DiskFull, match=r"no room to write /full/sae\.safetensors; free some space"):
            probe.fn(job)
        FAULTS.append(OSError(5, "Input/output error"))
        with pytest.raises(OSError, match="Input/output error"):
            probe.fn(job)

    def test_no_room_for_a_lock_is_no_room(self, job: ProbeJob, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*args: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device", str(args[0]))

        monkeypatch.setattr("storage.locks.os.open", full)
        with pytest.raises(DiskFull, match=r"no room to write .*\.lock"):
            probe.fn(job)
        assert CALLS == []

    def test_a_damaged_file_is_set_aside_so_that_the_next_run_makes_it(
        self, job: ProbeJob, workspace: Workspace
    ) -> None:
        probe.fn(job)
        other = ProbeJob(workspace=workspace.root, word="dots")
        FAULTS.append(ArtifactDamaged(job.folder / "word.json", "other bytes", "these"))
        with pytest.raises(ArtifactDamaged):
            probe.fn(other)
        assert not workspace.has(job.id)
        assert not probe.fn(job).cached and not probe.fn(other).cached


class TestInAFlow:
    def test_a_copy_of_a_workspace_is_judged_by_itself(
        self, in_flow: Any, job: ProbeJob, workspace: Workspace, tmp_path: Path
    ) -> None:
        assert not in_flow(probe, job).cached
        copied = job.model_copy(update={"workspace": Path(shutil.copytree(workspace.root, tmp_path / "copy"))})
        assert in_flow(probe, copied).cached and CALLS == ["neon"]
        (copied.folder / "word.json").unlink()
        assert not in_flow(probe, copied).cached and copied.open.has(job.id) and CALLS == ["neon", "neon"]

    def test_what_is_gone_is_made_again(self, in_flow: Any, job: ProbeJob, workspace: Workspace) -> None:
        in_flow(probe, job)
        (job.folder / "word.json").unlink()
        assert in_flow(probe, job).id == job.id and CALLS == ["neon", "neon"] and workspace.has(job.id)

    def test_prefect_takes_no_step_for_another(self, in_flow: Any, job: ProbeJob, workspace: Workspace) -> None:
        other = job.model_copy(update={"workspace": Workspace.open(workspace.root.parent / "other").root})

        found = in_flow(lambda: [probe(job), probe(other), probe(job)])
        assert [made.cached for made in found] == [False, False, True] and CALLS == ["neon", "neon"]
        assert not (workspace.root / "records").exists()

    @pytest.mark.parametrize(
        "error",
        [
            ConfigError("wrong"),
            BadQuery("wrong"),
            DiskFull("/full", 3),
            ArtifactDamaged("/nowhere", "bytes", "none"),
        ],
        ids=lambda e: type(e).__name__,
    )
    def test_what_a_retry_cannot_mend_is_tried_once(self, in_flow: Any, job: ProbeJob, error: Exception) -> None:
        FAULTS.extend([error] * 3)
        with pytest.raises(type(error)):
            in_flow(probe, job)
        assert CALLS == ["neon"]

    def test_a_transient_fault_is_tried_again(self, in_flow: Any, job: ProbeJob, workspace: Workspace) -> None:
        FAULTS.append(ConnectionResetError("for a moment"))
        assert not in_flow(probe, job).cached
        assert CALLS == ["neon", "neon"] and workspace.has(job.id)


class TestRun:
    """`flows.run.Run`: many items, of which some fail."""

    def test_one_that_fails_does_not_stop_the_others(
        self, monkeypatch: pytest.MonkeyPatch, workspace: Workspace
    ) -> None:
        from flows.config import load
        from flows.run import Run

        run = Run(load("canvas"), workspace.root, "m1")

        def do(word: str) -> Made:
            FAULTS.extend([RuntimeError("out of luck\nand more")] if word == "dots" else [])
            return run.step(probe.fn, ProbeJob(workspace=workspace.root, word=word))

        made = run.each("score", ["neon", "dots", "stripes"], do, str)
        assert list(made) == ["neon", "stripes"] and CALLS == ["neon", "dots", "stripes"]
        assert run.failures == [("score dots", "out of luck")]
        assert run.counts == {"made": 2, "cached": 0, "failed": 1}

    @pytest.mark.parametrize("error", [ConfigError("wrong"), DiskFull("/full", 3)], ids=lambda e: type(e).__name__)
    def test_what_every_item_would_meet_stops_the_run(self, workspace: Workspace, error: Exception) -> None:
        from flows.config import load
        from flows.run import Run

        run = Run(load("canvas"), workspace.root, "m1")
        FAULTS.append(error)
        with pytest.raises(type(error)):
            run.each(
                "score",
                ["neon", "dots"],
                lambda w: run.step(probe.fn, ProbeJob(workspace=workspace.root, word=w)),
                str,
            )
        assert CALLS == ["neon"] and run.failures == []


def test_paths_are_accepted_as_text(workspace: Workspace) -> None:
    assert ProbeJob(workspace=str(workspace.root), word="a").workspace == Path(workspace.root)  # type: ignore[arg-type]
