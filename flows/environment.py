"""Environment variables, set before Prefect and torch are imported. The user's own settings win."""

import os
from pathlib import Path

from saeuron.errors import ConfigError

START_SERVER = "PREFECT_SERVER_ANALYTICS_ENABLED=false prefect server start"
"""How a user starts a server of their own; Prefect's sends telemetry unless told not to."""
QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # Of a hub that cannot be reached one line is said, not one for each attempt.
    "HF_HUB_VERBOSITY": "error",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Steps claim devices themselves; Ray would hide devices from steps that did not ask it for one.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "PREFECT_CLI_PROMPT": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
    # A killed process leaves semaphores behind; Python's tracker frees them, with a warning.
    "PYTHONWARNINGS": "ignore:resource_tracker",
}


command = ""
"""The command line of this process, which records of runs keep; set by `flows.cli`."""
NO_PROXY = ("NO_PROXY", "no_proxy")
LOOPBACK = ("127.0.0.1", "localhost", "::1")
PATIENCE = 30.0
"""Seconds in which the user's server must answer: on a busy machine more than five were seen. One that is not there
refuses at once."""


def prepare(workspace: Path, verbose: bool) -> None:
    """Turn telemetry off; without a server of the user's own, keep Prefect's state in the workspace."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    bare = [host for name in NO_PROXY for host in os.environ.get(name, "").split(",") if host]
    if "*" not in bare:
        # The run's own server is on this machine, where no proxy finds it. One of the two names would hide the other.
        os.environ.update(dict.fromkeys(NO_PROXY, ",".join(dict.fromkeys([*bare, *LOOPBACK]))))
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "INFO" if verbose else "CRITICAL")
    os.environ.setdefault("PREFECT_SERVER_LOGGING_LEVEL", "WARNING" if verbose else "CRITICAL")
    os.environ.setdefault("DASK_LOGGING__DISTRIBUTED", "info" if verbose else "critical")
    if server_address():
        # The library's log goes to that server; warnings go to the terminal too.
        os.environ.setdefault("PREFECT_LOGGING_EXTRA_LOGGERS", "flows,tasks,saeuron,storage")
        os.environ.setdefault("PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW", "ignore")
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "INFO" if verbose else "WARNING")
    else:
        os.environ.setdefault("PREFECT_HOME", str(workspace.absolute() / ".prefect"))
        os.environ.setdefault("PREFECT_PROFILES_PATH", str(workspace.absolute() / ".prefect" / "profiles.toml"))


def server_address() -> str:
    """The address of the Prefect server that the user named; empty: a run starts one for itself."""
    return os.environ.get("PREFECT_API_URL", "")


def check_server() -> None:
    """Raise ConfigError, within seconds, if the server that the user named is not there, or cannot be asked."""
    from importlib.util import find_spec
    from urllib.error import HTTPError, URLError
    from urllib.parse import urlsplit
    from urllib.request import urlopen

    for name in ("ALL_PROXY", "all_proxy", "HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"):
        if os.environ.get(name, "").startswith("socks") and find_spec("socksio") is None:
            raise ConfigError(
                f"{name} is a SOCKS proxy, which Prefect's client needs socksio for; install it, or unset it."
            )
    if not (address := server_address()):
        return
    # The address may hold a password.
    shown = address.replace(f"{urlsplit(address).netloc.rpartition('@')[0]}@", "")
    if not address.startswith(("http://", "https://")):
        raise ConfigError(f"PREFECT_API_URL is {shown!r}; expected an address such as http://127.0.0.1:4200/api.")
    try:
        with urlopen(f"{address.rstrip('/')}/health", timeout=PATIENCE):
            pass
    except HTTPError:
        # The server answers; Prefect will report whether it lets this user in.
        pass
    except OSError as error:
        reason = error.reason if isinstance(error, URLError) else error
        raise ConfigError(
            f"no Prefect server answers at {shown} (PREFECT_API_URL): {reason}; start it with `{START_SERVER}`, "
            "or unset PREFECT_API_URL to run without one."
        ) from None
