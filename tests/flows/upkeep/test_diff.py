"""Two runs compared, from their records and the manifests of what they used."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from flows.config import load
from flows.explore.report import Subject
from flows.upkeep import diff
from saeuron.errors import ConfigError, UnknownName
from storage import Workspace
from storage.identity import artifact_id
from storage.seals import write_sealed
from tasks.registry import runs
from tests.end_to_end.process import TINY, run_here

Interval = tuple[float | None, float | None, float | None]
SAE = [artifact_id("sae", 1, {"k": k}) for k in (8, 9)]
PROMPTS = artifact_id("prompts", 1, {})


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.open(tmp_path / "w")


@pytest.fixture
def run(workspace: Workspace) -> Callable[..., str]:
    """Record a run at a minute of the day that used some artifacts; returns its id."""

    def run(minute: int, *settings: str, artifacts: Mapping[str, bool] | None = None, end: bool = True) -> str:
        made = runs.start(workspace, "pipeline", load(str(TINY), list(settings)))
        if end:
            runs.finish(workspace, made, "completed", {"made": 1}, artifacts=artifacts)
        path = workspace.runs / f"{made}.json"
        known = runs.record(path).model_dump(mode="json")
        write_sealed(path, known | {"started": f"2026-01-02T03:{minute:02}:00Z"})
        return made

    return run


def evaluation(workspace: Workspace, seed: int, concept: str, **metrics: Interval) -> str:
    name = artifact_id("evaluation", 1, {"seed": seed, "concept": concept})
    workspace.folder(name).mkdir(parents=True)
    shown = {m: dict(zip(("value", "low", "high"), v, strict=True)) for m, v in metrics.items()}
    summary = {"domain": "style", "concept": concept, "method": "saeuron", "metrics": shown}
    workspace.commit(name, config={}, inputs={}, summary=summary, seconds=0)
    return name


class TestResolve:
    def test_by_id_by_beginning_and_from_the_end(self, workspace: Workspace, run: Callable[..., str]) -> None:
        # The order is that in which they began; the clock was set back after the first.
        ids = [run(minute) for minute in (2, 1, 3)]
        assert [diff.resolve(workspace, each).run_id for each in ids] == ids
        assert [diff.resolve(workspace, t).run_id for t in ("last~2", "last~1", "last~0")] == ids
        assert diff.resolve(workspace, "last").run_id == ids[2]
        assert [diff.resolve(workspace, number).run_id for number in "123"] == ids
        for each in ids:
            if sum(i.startswith(each[:-2]) for i in ids) == 1:
                assert diff.resolve(workspace, each[:-2]).run_id == each

    def test_a_name_that_is_the_beginning_of_another(self, workspace: Workspace, run: Callable[..., str]) -> None:
        short = run(1)
        known = runs.record(workspace.runs / f"{short}.json").model_dump(mode="json")
        write_sealed(workspace.runs / f"{short}0.json", known | {"run_id": f"{short}0"})
        assert diff.resolve(workspace, short).run_id == short

    def test_what_names_none_or_several(self, workspace: Workspace, run: Callable[..., str]) -> None:
        with pytest.raises(UnknownName, match="there are none yet"):
            diff.resolve(workspace, "20260101")
        with pytest.raises(ConfigError, match="there are 0 runs here"):
            diff.resolve(workspace, "last")
        ids = [run(minute) for minute in (1, 2)]
        with pytest.raises(UnknownName, match=f"did you mean .*'{ids[0]}'"):
            diff.resolve(workspace, f"x{ids[0]}")
        with pytest.raises(ConfigError, match=f"is the beginning of 2: {ids[0]}, {ids[1]}; give more of it"):
            diff.resolve(workspace, ids[0][:8])
        with pytest.raises(ConfigError, match="there are 2 runs here; expected last~1 at most"):
            diff.resolve(workspace, "last~2")
        with pytest.raises(UnknownName):
            diff.resolve(workspace, "")


class TestCompare:
    def test_configurations_and_artifacts(self, workspace: Workspace, run: Callable[..., str]) -> None:
        run(1, artifacts={PROMPTS: False, SAE[0]: False})
        run(2, "train.k=9", "tune.settings.saeuron.n=[4,8]", artifacts={PROMPTS: True, SAE[1]: False})
        found = diff.compare(workspace, diff.resolve(workspace, "last~1"), diff.resolve(workspace, "last"))
        assert sorted(found.config) == [("train.k", 8, 9), ("tune.settings.saeuron.n", None, [4, 8])]
        assert (found.only_a, found.only_b, found.both) == ([SAE[0]], [SAE[1]], 1)
        assert found.notes == [] and found.figures == []

    def test_what_tables_say_of_what_has_the_same_part_in_both(
        self, workspace: Workspace, run: Callable[..., str]
    ) -> None:
        def made(stage: str, seed: int, content: bytes = b"", **summary: object) -> str:
            name = artifact_id(stage, 1, {"seed": seed, **{k: summary.get(k) for k in ("hookpoint", "concept")}})
            workspace.folder(name).mkdir(parents=True)
            (workspace.folder(name) / "weights").write_bytes(content)
            workspace.commit(name, config={}, inputs={}, summary=summary, seconds=0)
            return name

        same = made("sae", 0, hookpoint="down", fvu=0.5)
        a = [
            same,
            made("sae", 1, b"one", hookpoint="mid", fvu=0.25, k=8, seconds=5.0, model_id="x", losses=[1, 2]),
            made("sae", 1, b"one", hookpoint="up", fvu=0.5, k=8),
            made("score", 1, b"abc", domain="style", concept="neon", saes=[{"hookpoint": "mid"}], protocol="p"),
            made("removal", 1, domain="style", concept="neon", n=4),
        ]
        b = [
            same,
            made("sae", 2, b"two", hookpoint="mid", fvu=0.125, k=9, seconds=7.0, model_id="y", losses=[3]),
            made("sae", 2, b"two", hookpoint="up", fvu=0.5, k=8),
            made("score", 2, b"abc", domain="style", concept="neon", saes=[{"hookpoint": "mid"}], protocol="q"),
            made("removal", 2, domain="style", concept="dots", n=8),
        ]
        run(1, artifacts=dict.fromkeys(a, False))
        run(2, artifacts=dict.fromkeys(b, False))
        found = diff.compare(workspace, diff.resolve(workspace, "last~1"), diff.resolve(workspace, "last"))
        told = [(c.stage, c.name, c.column, c.a, c.b) for c in found.cells]
        assert [cell for cell in told if cell[1] == "mid"] == [
            ("sae", "mid", "fvu", 0.25, 0.125),
            ("sae", "mid", "k", 8, 9),
        ]
        # All that is said of them is the same, and what they hold is not; and statistics that are the same bytes.
        (contents,) = [c for c in found.cells if c.name == "up"]
        assert contents.column == "contents" and contents.a != contents.b and len(told) == 3
        lines = diff.page(found).splitlines()
        assert "summaries: 3 values differ, of artifacts of the same stage and name" in lines
        assert ["sae", "mid", "fvu", "0.25", "0.125"] in [line.split() for line in lines]
        assert {"stage": "sae", "name": "mid", "column": "k", "a": 8, "b": 9} in diff.as_json(found)["summaries"]

    def test_figures_whose_intervals_do_not_meet(self, workspace: Workspace, run: Callable[..., str]) -> None:
        none: Interval = (None, None, None)
        cat = [
            evaluation(workspace, 1, "cat", UA=(0.2, 0.1, 0.3), IRA=(0.5, 0.4, 0.6), CRA=(0.9, 0.8, 1.0), Lone=none),
            evaluation(workspace, 2, "cat", UA=(0.5, 0.4, 0.6), IRA=(0.7, 0.6, 0.8), CRA=(0.5, 0.4, 0.7), Lone=none),
        ]
        dog = evaluation(workspace, 1, "dog", UA=(0.1, 0.0, 0.2), IRA=(0.1, 0.0, 0.2))
        owl = evaluation(workspace, 1, "owl", UA=(0.1, 0.0, 0.2))
        run(1, artifacts={cat[0]: False, dog: False})
        run(2, artifacts={cat[1]: False, dog: True, owl: False})
        found = diff.compare(workspace, diff.resolve(workspace, "last~1"), diff.resolve(workspace, "last"))
        # Two intervals that share an end point do meet.
        assert {f.metric: f.beyond for f in found.figures} == {"UA": True, "IRA": False, "CRA": True}
        assert (found.same, found.unmatched) == (2, 2)
        turned = diff.compare(workspace, found.b, found.a)
        assert {f.metric: f.beyond for f in turned.figures} == {f.metric: f.beyond for f in found.figures}
        text = diff.page(found)
        assert "figures: 2 beyond intervals, 1 within, 2 of the same evaluation, 2 in one run only" in text
        rows = [line for line in text.splitlines() if line.endswith("beyond intervals")]
        assert rows == [
            "cat      CRA     90.0 [80.0, 100.0]  50.0 [40.0, 70.0]  beyond intervals",
            "cat      UA      20.0 [10.0, 30.0]   50.0 [40.0, 60.0]  beyond intervals",
        ]

    def test_what_is_gone_or_was_never_noted(self, workspace: Workspace, run: Callable[..., str]) -> None:
        gone = evaluation(workspace, 1, "cat", UA=(0.2, 0.1, 0.3))
        workspace.delete(gone)
        run(1)
        run(2, artifacts={gone: False})
        run(3, end=False)
        old, new, begun = (diff.resolve(workspace, f"last~{i}") for i in (2, 1, 0))
        notes = diff.compare(workspace, old, new).notes
        assert len(notes) == 2 and "is from before artifacts were noted" in notes[0]
        assert notes[1] == "1 evaluations are not there any more, or damaged; their figures are left out"
        assert "B " in diff.compare(workspace, new, begun).notes[0]
        # Its process is dead, as its lock says.
        assert begun.state == "interrupted" and "was interrupted" in diff.compare(workspace, new, begun).notes[0]
        listed = json.loads(run_here("runs", "-w", workspace.root, "--json").out)
        assert [row["state"] for row in listed] == ["interrupted", "completed", "completed"]
        with workspace.living(begun.run_id):
            alive = diff.resolve(workspace, "last")
            assert alive.state == "running" and "has not ended" in diff.compare(workspace, new, alive).notes[0]


def test_the_last_run_of_a_report_is_the_last_that_measured(workspace: Workspace, run: Callable[..., str]) -> None:
    first, second = (run(i, artifacts={evaluation(workspace, i, "cat", UA=(0.2, 0.1, 0.3)): False}) for i in (1, 2))
    run(3, artifacts={artifact_id("relatives", 1, {}): False})
    runs.remember(workspace, load(str(TINY), []))
    for name, meant in ((None, second), ("last", second), ("last~1", first)):
        found = Subject(workspace, name).run
        assert found is not None and found.run_id == meant


class TestCommand:
    def test_a_page_and_json(self, workspace: Workspace, run: Callable[..., str]) -> None:
        first = run(1, artifacts={artifact_id("score", 1, {"i": i}): False for i in range(30)})
        second = run(2, "score.images=5", artifacts={SAE[0]: False})
        done = run_here("diff", "last~1", second, "-w", workspace.root)
        assert done.code == 0, done.err
        lines = done.out.splitlines()
        assert lines[:2] == [
            f"A  {first}  completed, started 2026-01-02 03:01",
            f"B  {second}  completed, started 2026-01-02 03:02",
        ]
        assert [line.split() for line in lines if line.startswith("score.images")] == [["score.images", "4", "5"]]
        assert "artifacts: 0 in both, 30 only in A, 1 only in B" in lines
        assert "and 10 more; --json lists them all" in lines
        assert max(map(len, lines)) <= 100
        answer = json.loads(run_here("diff", first, second, "-w", workspace.root, "--json").out)
        assert answer["config"] == [{"key": "score.images", "a": 4, "b": 5}]
        assert len(answer["artifacts"]["only_a"]) == 30 and answer["artifacts"]["only_b"] == [SAE[0]]
        assert (answer["a"]["run_id"], answer["b"]["run_id"]) == (first, second)
        assert answer["figures"] == {"same": 0, "unmatched": 0, "compared": []}

    def test_runs_that_have_nothing_in_common(self, workspace: Workspace, run: Callable[..., str]) -> None:
        run(1, artifacts={})
        run(2, artifacts={artifact_id("relatives", 1, {}): False})
        lines = run_here("diff", "last~1", "last", "-w", workspace.root).out.splitlines()
        assert len(lines) == 3 and lines[2].startswith("nothing to compare: A is a run of pipeline, B of pipeline")

    def test_of_a_run_with_itself_nothing_differs(self, workspace: Workspace, run: Callable[..., str]) -> None:
        run(1, artifacts={evaluation(workspace, 1, "cat", UA=(0.2, 0.1, 0.3)): False})
        done = run_here("diff", "last", "last", "-w", workspace.root)
        assert "configuration: no keys differ" in done.out
        assert "artifacts: 1 in both, 0 only in A, 0 only in B" in done.out
        assert "figures: 0 beyond intervals, 0 within, 1 of the same evaluation" in done.out

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["last", "nonsense"], "unknown run 'nonsense'"),
            (["last~7", "last"], "there are 1 runs here"),
            (["last", "last~x"], "unknown run 'last~x'"),
        ],
    )
    def test_mistakes(self, workspace: Workspace, run: Callable[..., str], words: list[str], said: str) -> None:
        run(1)
        done = run_here("diff", *words, "-w", workspace.root)
        assert done.code == 2 and said in done.complaint and not done.out

    def test_no_workspace(self, tmp_path: Path) -> None:
        assert run_here("diff", "last", "last", "-w", tmp_path / "none").code == 2
