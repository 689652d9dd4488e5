"""Post to SAEURON_NOTIFY_URL that a scheduled run failed or crashed."""

import json
import logging
import os
from typing import Any
from urllib.request import Request, urlopen

TARGET = "SAEURON_NOTIFY_URL"
"""Environment variable with the address to post JSON to. It may hold a secret, so it is never stored."""
TIMEOUT = 10.0
"""Seconds."""

log = logging.getLogger(__name__)


def notify(flow: Any, flow_run: Any, state: Any) -> None:
    """Post the state of a flow run to `SAEURON_NOTIFY_URL`, if that is set; a hook of Prefect's. Never fails a run.

    The key `text` holds everything in one line, which chat services show.
    """
    target = os.environ.get(TARGET)
    if not target:
        return
    from prefect.settings import PREFECT_UI_URL

    reason = next(iter((state.message or "").splitlines()), "")
    where = f"{PREFECT_UI_URL.value()}/runs/flow-run/{flow_run.id}" if PREFECT_UI_URL.value() else ""
    body = {
        "text": f"saeuron: {flow.name} {flow_run.name}: {state.name}: {reason}",
        "flow": flow.name,
        "flow_run": flow_run.name,
        "flow_run_id": str(flow_run.id),
        "state": state.name,
        "message": reason,
        "page": where,
    }
    try:
        if not target.startswith(("http://", "https://")):
            raise ValueError(target)
        request = Request(target, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urlopen(request, timeout=TIMEOUT):
            pass
    except (OSError, ValueError) as error:
        # The address may be a secret, and the error's text may hold it: neither is logged.
        log.warning("%s: the notification was not sent: %s", TARGET, type(error).__name__)
