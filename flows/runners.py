"""Where steps run: the task runner of a configuration, checked before anything heavy is loaded."""

import os
import socket
import sys
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

from flows.environment import START_SERVER
from saeuron.config import RunConfig, RunnerConfig
from saeuron.errors import ConfigError

EXTRAS = {"ray": ("prefect_ray", "ray")}
"""{kind: modules that the package's extra of the same name installs}."""
SCHEMES = {"dask": ("tcp", "tls"), "ray": ("ray",)}
PATIENCE = 5.0
"""Seconds in which a cluster must answer."""
IN_FLIGHT = 8
"""Assumed number of a cluster's workers, if `workers` does not give it."""
LOCAL = ("localhost", "127.0.0.1", "::1")
OBJECT_STORE = 80 * 1024 * 1024
"""Bytes; close to Ray's minimum, because steps pass ids, never tensors."""


KEPT = "365 days"
"""How long the place of a Dask worker that died is kept for the one that is started in its stead."""


def check(config: RunConfig, device: str) -> None:
    """Raise the first mistake of a configuration's runner.

    Raises:
        ConfigError: a package is not installed, nothing answers at the address, workers there could reach no Prefect
            server, there are too few devices, or they are not of the kind that the run or its kernels need.
    """
    runner = config.runner
    for module in EXTRAS.get(runner.kind, ()):
        if find_spec(module) is None:
            raise ConfigError(
                f"runner {runner.kind!r} needs {module}, which is not installed; "
                f"pip install 'saeuron[{runner.kind}]', or take runner: dask."
            )
    for name in runner.devices or ():
        if name.split(":")[0] != device.split(":")[0]:
            raise ConfigError(f"runner.devices holds {name!r}, but the run is on {device!r}; name devices of one kind.")
    if config.train.kernels == "triton" and device.split(":")[0] != "cuda":
        raise ConfigError(f"train.kernels 'triton' are for CUDA, but the run is on {device!r}; take 'torch' or 'auto'.")
    if runner.kind == "threads" and device.split(":")[0] != "cpu" and config.train.processes > 1:
        from tasks.engine.model import device_count

        if (count := device_count(device)) < config.train.processes:
            raise ConfigError(
                f"train.processes is {config.train.processes}, but this machine has {count} {device.split(':')[0]} "
                "devices, of which each takes one; lower it."
            )
    if runner.kind != "threads" and device.split(":")[0] != "cpu" and config.train.processes > 1:
        raise ConfigError(
            f"train.processes is {config.train.processes}, but each worker of runner {runner.kind!r} has one device; "
            "set train.processes to 1, or take runner: threads."
        )
    if runner.address is not None:
        _check_address(runner.kind, runner.address)


def _check_address(kind: str, address: str) -> None:
    expected = f"{SCHEMES[kind][0]}://HOST:PORT"
    parts = urlsplit(address)
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if parts.scheme not in SCHEMES[kind] or not host or not port:
        raise ConfigError(f"runner.address is {address!r}; expected {expected}, where the {kind} cluster listens.")
    try:
        socket.create_connection((host, port), timeout=PATIENCE).close()
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(
            f"runner.address {address!r} does not answer ({reason.lower()}); start the {kind} cluster first, "
            "or leave the address out to have one on this machine."
        ) from None
    if host not in LOCAL and "PREFECT_API_URL" not in os.environ:
        raise ConfigError(
            f"runner.address {address!r} is on another machine, whose workers cannot reach the Prefect server of this "
            f"process; start `{START_SERVER} --host 0.0.0.0` and set PREFECT_API_URL to its address."
        )


def threads(config: RunConfig, given: int) -> int:
    """Torch threads of each process that runs steps: the runner's own, or `given`, divided among its workers."""
    runner = config.runner
    shared = runner.workers if runner.kind != "threads" and not runner.address else None
    return runner.threads or max(1, given // (shared or 1))


def width(runner: RunnerConfig, device: str, threads: int) -> int:
    """Number of workers, assumed if unknown."""
    if runner.kind == "threads":
        return 1
    if runner.devices:
        return runner.workers or len(runner.devices)
    if runner.address:
        return runner.workers or IN_FLIGHT
    if device == "cpu":
        return runner.workers or max(1, (os.cpu_count() or 1) // threads)
    if ":" in device:
        return 1
    from tasks.engine.model import device_count

    # Each worker claims a device; one without would wait for it and fail.
    return min(runner.workers or sys.maxsize, device_count(device))


def task_runner(runner: RunnerConfig, workers: int) -> Any:
    """Prefect's task runner for a kind, not started yet."""
    return {"dask": _dask, "ray": _ray}[runner.kind](runner, workers)


def follow() -> None:
    """Show the progress of steps on the workers of the flow that runs, if they are Dask's; to be called in the flow."""
    from prefect.context import FlowRunContext

    from tasks.engine import relay

    context = FlowRunContext.get()
    if (client := getattr(context and context.task_runner, "client", None)) is not None:
        relay.follow(client)


def _dask(runner: RunnerConfig, workers: int) -> Any:
    from prefect_dask import DaskTaskRunner

    if runner.address:
        return DaskTaskRunner(address=runner.address)
    import dask

    # Some time after a worker died, Dask looks whether one of its name is there, and if not, gives its place up for
    # good. A worker that is just being started again is not there, and the run would wait forever.
    dask.config.set({"distributed.deploy.lost-worker-timeout": KEPT})
    # By default its workers give freed memory back at once, which makes tensors on the CPU 1.6 times as slow.
    environment = dask.config.get("distributed.nanny.pre-spawn-environ")
    kept = {name: value for name, value in environment.items() if name != "MALLOC_TRIM_THRESHOLD_"}
    dask.config.set({"distributed.nanny.pre-spawn-environ": kept})
    local = {
        "n_workers": workers,
        "threads_per_worker": 1,
        "processes": True,
        # Any free port, on this machine only, for its status; no dashboard.
        "dashboard_address": "127.0.0.1:0",
        "scheduler_kwargs": {"dashboard": False},
        "memory_limit": 0,
    }
    return DaskTaskRunner(cluster_class="distributed.LocalCluster", cluster_kwargs=local)


def _ray(runner: RunnerConfig, workers: int) -> Any:
    from prefect_ray import RayTaskRunner

    if runner.address:
        return RayTaskRunner(address=runner.address)
    local = {
        "num_cpus": workers,
        "include_dashboard": False,
        "object_store_memory": OBJECT_STORE,
        "log_to_driver": False,
        "logging_level": "ERROR",
    }
    return RayTaskRunner(init_kwargs=local)
