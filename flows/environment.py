"""Settings of Prefect and of the libraries, made before they are imported. What the user has set wins."""

import os
from pathlib import Path

QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Devices are claimed by the steps themselves; Ray would hide them from whoever did not ask it for one.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "PREFECT_CLI_PROMPT": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
    # Who is killed, or ends at once, gives no semaphores back; Python's tracker does it for them, but complains.
    "PYTHONWARNINGS": "ignore:resource_tracker",
    # Sleeping threads leave the cores to others; spinning ones make a shared machine many times slower.
    "OMP_WAIT_POLICY": "PASSIVE",
}


def prepare(workspace: Path, verbose: bool) -> None:
    """No telemetry leaves the machine; without a server of the user's own, Prefect's state stays in the workspace."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "INFO" if verbose else "CRITICAL")
    os.environ.setdefault("PREFECT_SERVER_LOGGING_LEVEL", "WARNING" if verbose else "CRITICAL")
    os.environ.setdefault("DASK_LOGGING__DISTRIBUTED", "info" if verbose else "critical")
    if "PREFECT_API_URL" not in os.environ:
        os.environ.setdefault("PREFECT_HOME", str(workspace.absolute() / ".prefect"))
        os.environ.setdefault("PREFECT_PROFILES_PATH", str(workspace.absolute() / ".prefect" / "profiles.toml"))
