"""Where steps run: what is refused before anything is loaded, and what a run does with several workers."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows import runners
from flows.run import Run
from saeuron.config import RunConfig, RunnerConfig
from saeuron.errors import ConfigError
from storage.errors import DiskFull
from tasks.engine.job import Made
from tasks.engine.worker import Worker
from tests.end_to_end.process import TINY, Done, run_here


@pytest.fixture
def unused() -> int:
    """A port at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


@pytest.fixture
def listening() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as found:
        yield int(found.getsockname()[1])


def run(tmp_path: Path, *settings: str) -> Done:
    return run_here("run", TINY, "-w", tmp_path / "w", *(word for s in settings for word in ("--set", s)))


class TestConfiguration:
    def test_a_name_is_short_for_its_kind(self) -> None:
        config = RunConfig.model_validate(
            {"domains": {"a": {"concepts": ["b"], "hookpoints": ["unet.c"]}}, "runner": "ray"}
        )
        assert config.runner == RunnerConfig(kind="ray")

    @pytest.mark.parametrize(
        ("settings", "said"),
        [
            (("runner=thread",), "runner.kind: Input should be 'threads', 'dask' or 'ray' (found 'thread')"),
            (("runner.worker=2",), "unknown key 'runner.worker'; did you mean 'workers'"),
            (("runner=processes",), "Input should be 'threads', 'dask' or 'ray' (found 'processes')"),
            (("runner.workers=2",), "so run one task at a time; use kind: dask"),
            (("runner.address=tcp://a:1",), "runner.address needs a cluster"),
            (("runner.kind=ray", "runner.workers=2", "runner.devices=[cpu:0]"), "names 1 devices for 2 workers"),
            (("runner.kind=ray", "runner.devices=[cpu:0, cpu:0]"), "names 1 devices for 2 workers"),
            (("runner.devices=[cpu:0]",), "runner.devices needs workers"),
            (("runner.kind=dask", "runner.devices=[cuda:0]"), "runner.devices holds 'cuda:0', but the run is on 'cpu'"),
            (("runner.kind=dask", "runner.address=here"), "runner.address is 'here'; expected tcp://HOST:PORT"),
            (("runner.kind=ray", "runner.address=ray://a:b"), "expected ray://HOST:PORT"),
        ],
    )
    def test_mistakes_are_one_line(self, tmp_path: Path, settings: tuple[str, ...], said: str) -> None:
        done = run(tmp_path, *settings)
        assert done.code == 2 and said in done.complaint

    @pytest.mark.parametrize("kind", ["dask", "ray"])
    def test_an_address_at_which_nobody_answers(self, tmp_path: Path, kind: str, unused: int) -> None:
        scheme = runners.SCHEMES[kind][0]
        done = run(tmp_path, f"runner.kind={kind}", f"runner.address={scheme}://127.0.0.1:{unused}")
        assert done.code == 2 and f"127.0.0.1:{unused}' does not answer (connection refused)" in done.complaint

    def test_an_extra_that_is_not_installed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(runners, "find_spec", lambda name: None)
        done = run(tmp_path, "runner=ray")
        assert done.code == 2 and "pip install 'saeuron[ray]'" in done.complaint

    def test_workers_elsewhere_need_a_server_that_they_can_reach(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listening: int
    ) -> None:
        monkeypatch.setattr(runners, "LOCAL", ())
        monkeypatch.delenv("PREFECT_API_URL", raising=False)
        done = run(tmp_path, "runner.kind=dask", f"runner.address=tcp://127.0.0.1:{listening}")
        assert done.code == 2 and "set PREFECT_API_URL to its address" in done.complaint

    def test_processes_of_one_training_would_take_the_devices_of_others(self) -> None:
        domains = {"a": {"concepts": ["b"], "hookpoints": ["unet.c"]}}
        config = RunConfig.model_validate({"domains": domains, "runner": "dask", "train": {"processes": 2}})
        runners.check(config, "cpu")
        with pytest.raises(ConfigError, match=r"train\.processes is 2"):
            runners.check(config, "cuda")

    @pytest.mark.parametrize(
        ("fields", "device", "count"),
        [
            ({"kind": "threads"}, "cpu", 1),
            ({"kind": "dask", "workers": 3}, "cpu", 3),
            ({"kind": "dask", "devices": ("cuda:0", "cuda:2")}, "cuda", 2),
            ({"kind": "dask"}, "cuda:1", 1),
        ],
    )
    def test_how_many_workers(self, fields: dict[str, object], device: str, count: int) -> None:
        assert runners.width(RunnerConfig.model_validate(fields), device, 1) == count

    @pytest.mark.parametrize(
        ("fields", "given", "each"),
        [
            ({}, 4, 4),
            ({"kind": "dask", "workers": 2}, 5, 2),
            ({"kind": "dask", "workers": 4}, 2, 1),
            ({"kind": "dask", "workers": 2, "threads": 3}, 2, 3),
            ({"kind": "dask", "workers": 2, "address": "tcp://a:1"}, 4, 4),
        ],
    )
    def test_workers_of_this_machine_share_the_threads(self, fields: dict[str, object], given: int, each: int) -> None:
        domains = {"a": {"concepts": ["b"], "hookpoints": ["unet.c"]}}
        assert runners.threads(RunConfig.model_validate({"domains": domains, "runner": fields}), given) == each

    def test_a_worker_without_a_device_is_not_started(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tasks.engine.model.device_count", lambda device: 1)
        assert runners.width(RunnerConfig(kind="dask", workers=2), "cuda", 1) == 1

    def test_as_many_as_the_cores_hold(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("os.cpu_count", lambda: 8)
        assert runners.width(RunnerConfig(kind="dask"), "cpu", 3) == 2
        assert runners.width(RunnerConfig(kind="dask"), "cpu", 16) == 1


class TestTogether:
    """`Run.each` and `Run.every`, where workers are there; what they do here gives no steps."""

    @pytest.fixture
    def crowd(self, tmp_path: Path) -> Run:
        config = RunConfig.model_validate({"domains": {"a": {"concepts": ["b"], "hookpoints": ["unet.c"]}}})
        return Run(config, tmp_path, "m1", worker=Worker(run="r1", threads=1), width=2)

    def test_items_go_on_together_and_come_back_in_order(self, crowd: Run) -> None:
        met = threading.Barrier(4, timeout=60)

        def do(item: int) -> Made:
            met.wait()
            return Made(id=f"a{item}")

        done = crowd.each("stage", range(4), do, str)
        assert [(name, made.id) for name, made in done.items()] == [(str(i), f"a{i}") for i in range(4)]
        assert crowd.every("stage", range(4), lambda i: met.wait() * 0 + i) == [0, 1, 2, 3]
        assert crowd.every("stage", (), do) == []

    def test_one_that_fails_does_not_stop_the_others(self, crowd: Run) -> None:
        last = threading.Event()

        def do(item: int) -> Made:
            if item == 3:
                last.set()
            assert last.wait(60)
            if item in (0, 2):
                raise OSError(f"{item} is broken\nat length")
            return Made(id=f"a{item}")

        assert list(crowd.each("stage", range(4), do, str)) == ["1", "3"]
        assert crowd.failures == [("stage 0", "0 is broken"), ("stage 2", "2 is broken")]

    @pytest.mark.parametrize("final", [ConfigError("wrong"), DiskFull("/full", 0)])
    def test_a_final_error_stops_at_once(self, crowd: Run, final: Exception) -> None:
        begun, held = [], threading.Event()

        def do(item: int) -> Made:
            begun.append(item)
            if item:
                held.wait(60)
                return Made(id="a")
            raise final

        with pytest.raises(type(final)):
            crowd.each("stage", range(40), do, str)
        held.set()
        assert len(begun) <= 2 * crowd.width + 1 and crowd.failures == []

    def test_the_first_failure_stops_every(self, crowd: Run) -> None:
        def do(item: int) -> int:
            if item == 1:
                raise OSError("broken")
            return item

        with pytest.raises(OSError, match="broken"):
            crowd.every("stage", range(3), do)
