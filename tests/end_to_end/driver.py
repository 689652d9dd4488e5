"""A browser that tests drive: Debian's chromium through its driver, by the WebDriver protocol, without a library."""

import base64
import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

KEYS = {"tab": "\ue004", "enter": "\ue007", "space": " ", "down": "\ue015", "right": "\ue014", "control": "\ue009"}
KEYS |= {"shift": "\ue008"}


def missing() -> str:
    """Why no browser can be driven here; empty: one can."""
    lacking = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"no {' and no '.join(lacking)} is installed (apt-get install chromium chromium-driver)" if lacking else ""


class Browser:
    """One window."""

    def __init__(self, port: int, profile: Path) -> None:
        self.port = port
        self.base = f"http://127.0.0.1:{port}"
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={profile}"]
        # It asks nothing of other hosts.
        flags += ["--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
        options = {"goog:chromeOptions": {"args": flags}, "goog:loggingPrefs": {"browser": "ALL"}}
        made = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": {"browserName": "chrome", **options}}})
        self.session = f"/session/{made['sessionId']}"

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None and method == "GET" else json.dumps(body or {}).encode()
        request = urllib.request.Request(self.base + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(json.load(error)["value"]["message"]) from None

    @contextlib.contextmanager
    def another(self, profile: Path) -> Iterator["Browser"]:
        """A second browser with a profile of its own, for the length of a `with` block."""
        other = Browser(self.port, profile)
        try:
            yield other
        finally:
            other._ask("DELETE", other.session)

    def resize(self, width: int, height: int = 1000) -> None:
        """The size of what is shown, which may be narrower than a window can be."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.devtools("Emulation.setDeviceMetricsOverride", **metrics)

    def open(self, address: str) -> None:
        """Load a page, and wait until it was painted: what the mouse does before then is lost."""
        self._ask("POST", f"{self.session}/url", {"url": address})
        self.run_async(
            "const done = arguments[arguments.length - 1];"
            "requestAnimationFrame(() => requestAnimationFrame(() => done(true)))"
        )

    def run(self, script: str, *arguments: Any) -> Any:
        """What a script returns, in the page."""
        return self._ask("POST", f"{self.session}/execute/sync", {"script": script, "args": list(arguments)})

    def run_async(self, script: str) -> Any:
        """What a script hands to its last argument."""
        return self._ask("POST", f"{self.session}/execute/async", {"script": script, "args": []})

    def press(self, *keys: str) -> None:
        """Keys one after another, by their names in KEYS or as they are; `shift+tab`: both at once."""
        actions = []
        for key in keys:
            held = [KEYS.get(each, each) for each in (key.split("+") if len(key) > 1 else [key])]
            actions += [{"type": "keyDown", "value": each} for each in held]
            actions += [{"type": "keyUp", "value": each} for each in reversed(held)]
        self._ask("POST", f"{self.session}/actions", {"actions": [{"type": "key", "id": "keys", "actions": actions}]})

    def element(self, selector: str) -> str:
        """The path of the one element that a selector of CSS finds."""
        found = self._ask("POST", f"{self.session}/element", {"using": "css selector", "value": selector})
        return f"{self.session}/element/{next(iter(found.values()))}"

    def click(self, selector: str) -> None:
        """Click an element with the mouse; one that is hidden or covered is refused."""
        self._ask("POST", f"{self.element(selector)}/click")

    def write(self, selector: str, text: str) -> None:
        """Type into a field, or choose a file by its path."""
        self._ask("POST", f"{self.element(selector)}/value", {"text": text})

    def devtools(self, method: str, **parameters: Any) -> Any:
        """A command of Chromium's DevTools protocol, and its answer."""
        return self._ask("POST", f"{self.session}/goog/cdp/execute", {"cmd": method, "params": parameters})

    def drop(self, selector: str, path: Path) -> None:
        """Drop a file on an element, as from a file manager."""
        box = "const b = document.querySelector(arguments[0]).getBoundingClientRect(); return [b.x + 5, b.y + 5]"
        x, y = self.run(box, selector)
        data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.devtools("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def errors(self) -> list[str]:
        """What the console said since the last call, warnings left out."""
        found = self._ask("POST", f"{self.session}/se/log", {"type": "browser"})
        return [entry["message"] for entry in found if entry["level"] == "SEVERE"]

    def until(self, script: str, seconds: float = 60) -> Any:
        """Wait for a script to return something true."""
        end = time.monotonic() + seconds
        while not (found := self.run(script)):
            assert time.monotonic() < end, f"never: {script}"
            time.sleep(0.05)
        return found

    def picture(self, path: Path) -> None:
        """What is shown, as a PNG."""
        path.write_bytes(base64.b64decode(self._ask("GET", f"{self.session}/screenshot")))


@contextlib.contextmanager
def browsing(folder: Path) -> Iterator[Browser]:
    """A browser for the length of a `with` block."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    driver = subprocess.Popen(
        ["chromedriver", f"--port={port}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "HOME": str(folder)},
    )
    try:
        end = time.monotonic() + 30
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/status", timeout=5):
                break
            assert time.monotonic() < end
            time.sleep(0.1)
        browser = Browser(port, folder / "profile")
        try:
            yield browser
        finally:
            browser._ask("DELETE", browser.session)
    finally:
        driver.terminate()
        driver.wait(timeout=20)
