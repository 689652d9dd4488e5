"""What stays in a workspace of its runs."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from flows.config import load
from saeuron.config import RunConfig
from saeuron.errors import ConfigError
from storage import Workspace
from storage.catalog.query import run_query
from storage.files import read_json
from tasks.engine import progress
from tasks.registry import runs


@pytest.fixture(scope="module")
def config() -> RunConfig:
    return load("canvas")


class TestRecord:
    def test_from_start_to_finish(self, workspace: Workspace, config: RunConfig) -> None:
        run_id = runs.start(workspace, "pipeline", config)
        query = "select run_id, flow, state, made, cached, failed, message, finished from runs"
        with workspace.living(run_id):
            [row] = run_query(workspace, query).to_pylist()
        assert row["state"] == "running" and row["finished"] is None
        runs.finish(workspace, run_id, "failed", {"made": 3, "cached": 2, "failed": 1}, "tune cat: why")
        [row] = run_query(workspace, query).to_pylist()
        assert row["finished"] is not None
        del row["finished"]
        assert row == {
            "run_id": run_id,
            "flow": "pipeline",
            "state": "failed",
            "made": 3,
            "cached": 2,
            "failed": 1,
            "message": "tune cat: why",
        }

    def test_runs_are_counted_whatever_the_clock_says(
        self, workspace: Workspace, config: RunConfig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Back(datetime):
            @classmethod
            def now(cls, tz: Any = None) -> datetime:
                return datetime.now(tz) - timedelta(hours=5)

        before = [runs.start(workspace, "pipeline", config) for _ in range(2)]
        (workspace.runs / "torn.json").write_text("{")
        monkeypatch.setattr(runs, "datetime", Back)
        after = [runs.start(workspace, "pipeline", config) for _ in range(3)]
        assert [r.run_id for r in runs.records(workspace)] == [*before, *after]
        rows = run_query(workspace, "select run_id, number from runs order by number").to_pylist()
        assert rows == [{"run_id": r, "number": n} for n, r in enumerate([*before, *after], 1)]

    def test_says_how_it_was_begun_and_what_it_made(self, workspace: Workspace, config: RunConfig) -> None:
        run_id = runs.start(workspace, "pipeline", config, "saeuron run --set seed=3")
        query = "select command, artifacts, configuration from runs where run_id = '" + run_id + "'"
        [row] = run_query(workspace, query).to_pylist()
        assert row["command"] == "saeuron run --set seed=3" and row["artifacts"] is None
        assert RunConfig.model_validate_json(row["configuration"]) == config
        runs.finish(workspace, run_id, "completed", {"made": 1}, artifacts={"sae_v2_b": True, "sae_v2_a": False})
        [row] = run_query(workspace, query).to_pylist()
        assert row["artifacts"] == ["sae_v2_a", "sae_v2_b"]

    def test_holds_the_whole_configuration(self, workspace: Workspace, config: RunConfig) -> None:
        run_id = runs.start(workspace, "pipeline", config)
        stored = read_json(workspace.runs / "configs" / f"{run_id}.json")
        assert RunConfig.model_validate(stored) == config


class TestRemembered:
    def test_keeps_the_order_of_domains(self, workspace: Workspace, config: RunConfig) -> None:
        turned = config.model_copy(update={"domains": dict(reversed(config.domains.items()))})
        for each in (config, turned):
            runs.remember(workspace, each)
            found = runs.remembered(workspace)
            assert found == each and list(found.domains) == list(each.domains)

    def test_nothing_has_been_run(self, workspace: Workspace) -> None:
        with pytest.raises(ConfigError, match="nothing has been run"):
            runs.remembered(workspace)


class TestProgress:
    def test_nobody_listens_by_default(self) -> None:
        progress.stage("capture", 0, 3)
        progress.tell("shard", 1, 2)
        progress.line("done")

    def test_reaches_the_listener_of_the_context(self) -> None:
        heard: list[tuple[Any, ...]] = []

        class Ear:
            def stage(self, *what: Any) -> None:
                heard.append(what)

            within = line = stage

        with progress.listening(Ear()):
            progress.stage("capture", 0, 3)
            progress.tell("shard", 1, 2, "images")
            progress.line("done")
        progress.line("unheard")
        assert heard == [("capture", 0, 3), ("shard", 1, 2, "images"), ("done",)]
