"""The explorer in a browser: wide and narrow, by keyboard alone, without errors in the console.

With SAEURON_AXE, the path of axe.min.js of the npm package axe-core, its serious findings are looked for too. With
SAEURON_SCREENSHOTS, a folder, what was shown is kept there.
"""

import os
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.explore.app import create
from flows.explore.guards import Guard
from flows.explore.shelves import Shelves
from storage import Workspace
from tasks.explore.studio import Studio
from tests.end_to_end.driver import Browser, browsing, missing

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "a browser is here")

PAGES = ("/", "/concept?name=stripes", "/concept?name=moon", "/latent?sae={sae}&i=3", "/saes", "/sae?id={sae}",
         "/runs", "/run?id={run}", "/search?q=stripes", "/search", "/sql?q=select+concept,value+from+evaluations",
         "/try", "/nowhere", "/report?of=1")  # fmt: skip


@pytest.fixture(scope="module")
def place(workspace: Path, workspaces: Path) -> Path:
    return Path(shutil.copytree(workspace, workspaces / "browsed"))


@pytest.fixture(scope="module")
def site(place: Path) -> Iterator[str]:
    import uvicorn

    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        app = create(Shelves(Workspace.open(place, create=False)), Studio(threads=1), Guard("127.0.0.1", port))
        server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{port}"
        server.should_exit = True
        thread.join(timeout=20)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browsing(tmp_path_factory.mktemp("browser")) as found:
        yield found


@pytest.fixture(scope="module")
def pages(place: Path) -> list[str]:
    opened = Workspace.open(place, create=False)
    sae = next(m.id for m in opened.artifacts("sae") if m.summary["hookpoint"].endswith("attn2"))
    run = next(path.stem for path in place.glob("runs/*.json"))
    return [page.format(sae=sae, run=run) for page in PAGES]


SETTLED = """
return document.readyState === "complete" &&
  [...document.querySelectorAll("[data-part]")].every((part) => !part.querySelector("noscript"))
"""
# Things that scroll by themselves may be wider than the page; the page itself may not.
TOO_WIDE = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
BROKEN = """
return [...document.images].filter((i) => i.src && !i.hidden && i.complete && !i.naturalWidth).map((i) => i.src)
"""


@pytest.mark.parametrize("width", [1280, 390])
def test_every_page_fits_and_says_nothing_in_the_console(
    browser: Browser, site: str, pages: list[str], width: int
) -> None:
    browser.resize(width)
    for page in pages:
        browser.open(site + page)
        browser.until(SETTLED)
        assert browser.run(TOO_WIDE) <= 0, (page, width)
        assert browser.run(BROKEN) == [], page
        # The answer 404 to the page itself is what was asked for.
        assert [e for e in browser.errors() if "/nowhere" not in e] == [], page
        assert browser.run("return document.title && document.querySelectorAll('h1').length") == 1, page
        if folder := os.environ.get("SAEURON_SCREENSHOTS"):
            name = page.split("?")[0].strip("/") or "concepts"
            browser.picture(Path(folder) / f"{name}-{width}.png")


def test_axe_finds_nothing_serious(browser: Browser, site: str, pages: list[str]) -> None:
    axe = os.environ.get("SAEURON_AXE")
    if not axe:
        pytest.skip("SAEURON_AXE names no axe.min.js (npm install axe-core)")
    code, found = Path(axe).read_text(), dict[str, Any]()
    browser.resize(1280)
    for page in pages:
        browser.open(site + page)
        browser.until(SETTLED)
        browser.run(code)
        ask = "const done = arguments[arguments.length - 1]; axe.run().then((r) => done(r.violations.map((v) => [v.impact, v.id, v.nodes.map((n) => n.html.slice(0, 120)).slice(0, 2)])))"  # noqa: E501
        serious = [v for v in browser.run_async(ask) if v[0] in ("serious", "critical")]
        if serious:
            found[page] = serious
    assert found == {}


def focused(browser: Browser) -> str:
    return str(browser.run("const e = document.activeElement; return e.id || e.name || e.textContent.trim()"))


def tab_to(browser: Browser, name: str) -> None:
    for _ in range(60):
        browser.press("tab")
        if focused(browser) == name:
            return
    raise AssertionError(f"no tab leads to {name}")


def test_a_picture_is_drawn_by_keyboard_alone(browser: Browser, site: str) -> None:
    browser.resize(1280)
    browser.open(f"{site}/try")
    browser.errors()  # those of former pages
    tab_to(browser, "To the content")
    browser.press("enter")
    tab_to(browser, "prompt")
    tab_to(browser, "latent")
    browser.press("3")
    tab_to(browser, "add-latent")
    browser.press("enter")
    assert browser.run("return document.querySelectorAll('#latents .chip').length") == 1
    tab_to(browser, "go")
    # The grid has one place in the order of tabs; arrows move within it.
    browser.run("document.querySelector('#grid [tabindex=\"0\"]').focus()")
    browser.press("right", "down", "space", "right", "space")
    assert browser.run("return document.querySelector('#where').textContent") == "2 of 256 cells"
    browser.run("document.querySelector('#go').focus()")
    browser.press("enter")
    browser.until("return document.querySelector('#edited').naturalWidth === 32", 120)
    assert browser.errors() == []
    link = browser.run("return location.href")
    assert "region=" in link and "latent=sae" in link
    # The link that was made draws the same again, and Python is offered.
    first = browser.run("return document.querySelector('#changed').textContent")
    browser.open(link)
    browser.until("return document.querySelector('#edited').naturalWidth === 32", 60)
    assert browser.run("return document.querySelector('#changed').textContent") == first
    browser.until("return document.querySelector('#python').textContent.includes('torch.tensor(bits)')")
    assert browser.run("return document.querySelector('#where').textContent") == "2 of 256 cells"


def test_a_region_is_painted_with_the_mouse(browser: Browser, site: str) -> None:
    browser.resize(1280)
    browser.open(f"{site}/try")
    box = browser.run("const b = document.querySelector('#grid').getBoundingClientRect(); return [b.x, b.y, b.width]")
    x, y, cell = box[0], box[1], box[2] / 16

    def moved(column: float, row: float) -> dict[str, Any]:
        return {"type": "pointerMove", "duration": 0, "x": int(x + column * cell), "y": int(y + row * cell)}

    steps = [moved(2.5, 2.5), {"type": "pointerDown", "button": 0}, *(moved(2.5 + i, 2.5) for i in range(1, 5))]
    mouse = {"type": "pointer", "id": "mouse", "actions": [*steps, {"type": "pointerUp", "button": 0}]}
    browser._ask("POST", f"{browser.session}/actions", {"actions": [mouse]})
    browser.until("return document.querySelector('#where').textContent === '5 of 256 cells'", 10)
