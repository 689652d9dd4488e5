"""The explorer in a browser: wide and narrow, by keyboard alone, without errors in the console.

One file: all tests share a browser, and a workspace that takes long to measure. With SAEURON_AXE, the path of
axe.min.js of the npm package axe-core, its serious findings are looked for too. With SAEURON_SCREENSHOTS, a folder,
what was shown is kept there.
"""

import base64
import functools
import os
import re
import shutil
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from PIL import Image

from storage import Workspace
from tests.end_to_end import printed
from tests.end_to_end.driver import Browser, browsing, missing
from tests.sae_workspace import looked_into, served

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "a browser is here")

PAGES = ("/", "/concept?name=stripes", "/concept?name=moon", "/latent?sae={sae}&i={latent}",
         "/latent?sae={bare}&i=3", "/saes", "/sae?id={sae}", "/sae?id={bare}", "/runs", "/run?id={run}",
         "/diff?a=last&b=last", "/search?q=stripes", "/search", "/sql?q=select+concept,value+from+evaluations",
         "/try", "/nowhere", "/report?of=1")  # fmt: skip


@pytest.fixture(scope="module")
def place(workspace: Path, workspaces: Path) -> Path:
    return Path(shutil.copytree(workspace, workspaces / "browsed"))


@pytest.fixture(scope="module")
def names(place: Path) -> dict[str, Any]:
    """What the addresses of pages hold: an SAE that was looked into and a latent of it, another SAE, the run."""
    opened = Workspace.open(place)
    hookpoints = [m.summary["hookpoint"] for m in opened.artifacts("sae")]
    inner = next(h for h in hookpoints if h.endswith("attn2"))
    bare = next(m.id for m in opened.artifacts("sae") if m.summary["hookpoint"] != inner)
    sae, latent = looked_into(opened, inner)
    return {"sae": sae, "latent": latent, "bare": bare, "run": next(path.stem for path in place.glob("runs/*.json"))}


@pytest.fixture(scope="module")
def site(place: Path, names: dict[str, Any]) -> Iterator[str]:
    with served(Workspace.open(place, create=False)) as address:
        yield address


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browsing(tmp_path_factory.mktemp("browser")) as found:
        yield found


@pytest.fixture(scope="module")
def pages(names: dict[str, Any]) -> list[str]:
    return [page.format(**names) for page in PAGES]


SETTLED = """
return document.readyState === "complete" &&
  [...document.querySelectorAll("[data-part]")].every((part) => !part.querySelector("noscript"))
"""
# Things that scroll by themselves may be wider than the page; the page itself may not.
TOO_WIDE = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
BROKEN = """
return [...document.images].filter((i) => i.src && !i.hidden && i.complete && !i.naturalWidth).map((i) => i.src)
"""


SERIOUS = """
const done = arguments[arguments.length - 1];
const told = (v) => [v.impact, v.id, v.nodes.map((n) => n.html.slice(0, 120)).slice(0, 2)];
axe.run().then((found) => done(found.violations.map(told).filter(([how]) => how === "serious" || how === "critical")));
"""


class Seen(NamedTuple):
    """One page at one width."""

    too_wide: int
    """Pixels beyond the window."""
    broken: list[str]
    """Pictures that did not load."""
    errors: list[str]
    """What the console said."""
    headings: int
    """First headings; 0 without a title."""
    serious: list[Any]
    """What axe finds serious, where it is here."""


@pytest.fixture(scope="module")
def look(browser: Browser, site: str, pages: list[str]) -> Callable[[int], dict[str, Seen]]:
    """{page: what is seen of it} at a width in pixels. Each page is opened once."""
    axe = os.environ.get("SAEURON_AXE")
    code = Path(axe).read_text() if axe else ""

    @functools.cache
    def looked(width: int) -> dict[str, Seen]:
        found = {}
        browser.resize(width)
        browser.errors()  # those of former pages
        for page in pages:
            browser.open(site + page)
            browser.until(SETTLED)
            wide, broken = browser.run(TOO_WIDE), browser.run(BROKEN)
            headings = browser.run("return document.title ? document.querySelectorAll('h1').length : 0")
            if folder := os.environ.get("SAEURON_SCREENSHOTS"):
                name = page.split("?")[0].strip("/") or "concepts"
                browser.picture(Path(folder) / f"{pages.index(page):02d}-{name}-{width}.png")
            errors, serious = browser.errors(), []
            if code:
                browser.run(code)
                serious = browser.run_async(SERIOUS)
            found[page] = Seen(wide, broken, errors, headings, serious)
        return found

    return looked


@pytest.mark.parametrize("width", [1280, 390])
def test_every_page_fits_and_says_nothing_in_the_console(look: Callable[[int], dict[str, Seen]], width: int) -> None:
    for page, seen in look(width).items():
        # The answer 404 to the page itself is what was asked for.
        errors = [e for e in seen.errors if "/nowhere" not in e]
        assert (max(seen.too_wide, 0), seen.broken, errors, seen.headings) == (0, [], [], 1), (page, width)


@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing_serious(look: Callable[[int], dict[str, Seen]], width: int) -> None:
    if not os.environ.get("SAEURON_AXE"):
        pytest.skip("SAEURON_AXE names no axe.min.js (npm install axe-core)")
    assert {page: seen.serious for page, seen in look(width).items() if seen.serious} == {}


def test_what_was_measured_of_a_latent_and_its_sae_is_drawn(browser: Browser, site: str, names: dict[str, Any]) -> None:
    """Heatmaps over images, tiles, curves, bars of words, steering; and SAEs of one hookpoint beside one another."""
    browser.resize(1280)
    browser.errors()  # those of former pages
    browser.open(f"{site}/latent?sae={names['sae']}&i={names['latent']}")
    browser.until(SETTLED)
    sizes = "return [...document.querySelectorAll(arguments[0])].map((e) => Math.min(e.clientWidth, e.clientHeight))"
    drawn = ((".strip .im", 1), (".strip .over img", 1), (".thirds img", 3), (".tile", 5), (".plots svg", 3))
    for selector, least in drawn:
        found = browser.run(sizes, selector)
        assert len(found) >= least and min(found) > 20, (selector, found)
    # Under each image the map where it is largest, and those over thirds of the steps, which are smaller and named.
    counts = "return arguments[0].map((s) => document.querySelectorAll(s).length)"
    figures, peaks, thirds = browser.run(counts, [".strip figure", ".strip figure > .over img", ".thirds img"])
    assert figures == peaks == thirds / 3
    assert max(browser.run(sizes, ".thirds img")) < min(browser.run(sizes, ".strip figure > .over img")) / 2
    said = (
        "return [...document.querySelectorAll('.thirds > div')].map((e) => [e.innerText, e.querySelector('img').alt])"
    )
    told = [(name.strip(), alt) for name, alt in browser.run(said)]
    assert [name for name, _ in told] == ["noisy third", "middle third", "clean third"] * figures
    assert all(alt.startswith(f"{name}: ") for name, alt in told)
    text = browser.run("return document.querySelector('main').innerText")
    for said in ("Fires on: ", "Turned up and down", "a latent drawn at random", "Words that it fires by", "stability"):
        assert said in text or said in browser.run("return document.querySelector('main').innerHTML"), said
    browser.open(f"{site}/sae?id={names['sae']}")
    text = browser.run("return document.querySelector('main').innerText")
    assert "Beside other SAEs of this hookpoint" in text and "untrained" in text
    # Its trained form, an untrained one and a frozen one.
    assert browser.run("return document.querySelectorAll('.beside svg circle').length") >= 3
    # The most active latent is the first of the table, and its link leads to it.
    browser.click("td a[href^='/latent?']")
    browser.until("return document.querySelector('h1').textContent.startsWith('Latent ')")
    assert browser.run("return document.querySelectorAll('.strip .over img').length") >= 1
    assert browser.errors() == []


CUT = """
const room = document.documentElement.clientWidth, found = [];
const clipped = (e) => getComputedStyle(e).overflowX !== "visible" && e.scrollWidth > e.clientWidth + 1;
for (const e of document.querySelectorAll("main :not(title)")) {
  if (![...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim())) continue;
  const text = document.createRange();
  text.selectNodeContents(e);
  const box = text.getBoundingClientRect();
  let within = e;
  while (within !== document.body && !clipped(within)) within = within.parentElement;
  const hidden = !e.checkVisibility({ contentVisibilityAuto: true }) || within !== document.body;
  if (hidden || box.left < -1 || box.right > room + 1) found.push(e.textContent.slice(0, 60));
}
return found
"""
"""Texts that are hidden, beyond the page's sides, or cut by something that they are in."""
ROWS = """
return [...document.querySelectorAll("tr")].map((row) => [...row.cells].map((cell) => cell.textContent).join(" "))
"""


def test_a_report_on_paper_has_all_its_text(browser: Browser, site: str) -> None:
    browser.open(f"{site}/report?of=1")
    pdf = base64.b64decode(browser.devtools("Page.printToPDF", paperWidth=8.27, paperHeight=11.69)["data"])
    pages = printed.pages(pdf)
    text = plain("".join(pages))
    rows = browser.run(ROWS)
    folded = browser.run("return [...document.querySelectorAll('details')].map((d) => d.textContent)")
    assert len(rows) > 60 and len(folded) == 3
    assert [row for row in rows if plain(row) not in text] == []
    # What is folded on a screen is in the PDF: the artifacts of either removal, and the configuration.
    assert all(plain(said)[-40:] in text for said in folded)
    # The run and either removal begin a page, and no page is empty.
    assert len(pages) >= 3 and len(pages) == len(re.findall(rb"/Type\s*/Page\b", pdf)) and all(pages)
    assert sum(plain(page).startswith(("stripesstyle,removed", "catobject,removed")) for page in pages) == 2
    # And nothing of it lies beyond the paper, whose width is 210 mm less two margins of a centimetre.
    try:
        browser.resize(717)
        browser.devtools("Emulation.setEmulatedMedia", media="print")
        assert browser.run(CUT) == []
    finally:
        browser.devtools("Emulation.setEmulatedMedia", media="")


def plain(text: str) -> str:
    """Without spaces, and letters that fonts join as single ones."""
    return re.sub(r"\s", "", unicodedata.normalize("NFKC", text))


def focused(browser: Browser) -> str:
    """What has the focus, by its id, its field's name, its name for those who do not see it, or its text."""
    return str(
        browser.run(
            "const e = document.activeElement;"
            "return e.id || e.name || e.getAttribute('aria-label') || e.textContent.trim()"
        )
    )


def tab_to(browser: Browser, name: str, key: str = "tab") -> None:
    for _ in range(60):
        browser.press(key)
        if focused(browser) == name:
            return
    raise AssertionError(f"no {key} leads to {name}")


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
    tab_to(browser, "row 1, column 1")
    browser.press("right", "down", "space", "right", "space")
    assert browser.run("return document.querySelector('#where').textContent") == "2 of 256 cells"
    tab_to(browser, "clear")
    tab_to(browser, "row 2, column 3", "shift+tab")
    tab_to(browser, "go", "shift+tab")
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


def drawn(browser: Browser, seconds: float = 120) -> str:
    """Wait until what was asked for is drawn, and return the edited picture, as a data URI."""
    browser.until("return /^[0-9.]+ s$/.test(document.querySelector('#said').textContent)", seconds)
    browser.until("const p = document.querySelector('#edited'); return p.complete && p.naturalWidth === 32", 20)
    return str(
        browser.run(
            "const p = document.querySelector('#edited'), c = document.createElement('canvas');"
            "c.width = p.naturalWidth; c.height = p.naturalHeight;"
            "c.getContext('2d').drawImage(p, 0, 0); return c.toDataURL()"
        )
    )


def test_a_long_drawing_is_stopped(browser: Browser, site: str) -> None:
    browser.resize(1280)
    browser.open(f"{site}/try")
    browser.write("[name=steps]", "200")
    browser.click("#go")
    browser.until("return document.querySelector('#said').textContent.startsWith('step ')", 60)
    assert browser.run("const p = document.querySelector('#progress'); return !p.hidden && p.value < 0.9")
    browser.click("#stop")
    browser.until("return document.querySelector('#said').textContent === 'cancelled'", 20)
    assert browser.run("return document.querySelector('#stop').hidden && document.querySelector('#progress').hidden")
    assert browser.run("return document.querySelector('#edited').hidden")
    # The next one is not held up by it.
    browser.run("document.querySelector('[name=steps]').value = ''")
    browser.click("#go")
    browser.until("return document.querySelector('#unedited').naturalWidth === 32", 60)
    assert browser.errors() == []


def test_two_browsers_do_not_disturb_each_other(
    browser: Browser, site: str, names: dict[str, Any], tmp_path: Path
) -> None:
    links = [f"{site}/try?prompt=A+cat&seed={seed}&latent={names['sae']}:3:on:{30 * seed}" for seed in (1, 2)]
    alone = []
    for link in links:
        browser.open(link)
        alone.append(drawn(browser))
    assert alone[0] != alone[1]
    with browser.another(tmp_path / "profile") as other:
        for each, link in zip((browser, other), links, strict=True):
            each.open(link + "&steps=12")
        # The second waits or draws; that the first is stopped does not reach it.
        browser.click("#stop")
        browser.until("return document.querySelector('#said').textContent === 'cancelled'", 20)
        drawn(other)
        for each, link in zip((browser, other), links, strict=True):
            each.open(link)
        assert [drawn(each) for each in (browser, other)] == alone
        assert browser.errors() == other.errors() == []


@pytest.mark.parametrize("how", ["chosen", "dropped"])
def test_a_picture_that_is_brought_is_looked_at(browser: Browser, site: str, tmp_path: Path, how: str) -> None:
    Image.effect_noise((32, 32), 90).convert("RGB").save(tmp_path / "mine.png")
    browser.resize(1280)
    browser.open(f"{site}/search")
    if how == "chosen":
        browser.write("#look [type=file]", str(tmp_path / "mine.png"))
        browser.click("#look button")
    else:
        browser.drop("#look", tmp_path / "mine.png")
    browser.until("return document.querySelectorAll('#fires h3').length === 3", 120)
    browser.until("return [...document.querySelectorAll('#fires img')].every((i) => i.complete)", 20)
    assert browser.run("return document.querySelectorAll('#fires a[href^=\"/latent?\"]').length") > 3
    assert browser.run(BROKEN) == [] and browser.errors() == []
    # What is no picture is said to be none.
    (tmp_path / "other.png").write_bytes(b"no picture")
    browser.write("#look [type=file]", str(tmp_path / "other.png"))
    browser.click("#look button")
    browser.until(
        "return document.querySelector('#look [data-said]').textContent.includes('this is not a picture')", 20
    )
    assert [e for e in browser.errors() if "/api/look" not in e] == []


def test_a_query_is_asked_mended_and_stopped(browser: Browser, site: str) -> None:
    browser.resize(1280)
    browser.open(f"{site}/sql")
    browser.write("#query", "select concept, valu from evaluations")
    browser.click(".sql button")
    browser.until("return document.querySelector('[role=alert]')?.textContent.includes('valu')", 30)
    browser.run("document.querySelector('#query').select()")
    browser.write("#query", "select concept, value from evaluations order by concept")
    browser.press("control+enter")
    browser.until("return document.querySelectorAll('.scroll tbody tr').length === 2", 30)
    assert browser.run("return document.querySelector('.scroll tbody').innerText.split(/\\s+/)[0]") == "cat"
    assert browser.run("return document.querySelectorAll('.plots svg').length") == 1
    csv = (
        "const done = arguments[0]; fetch(document.querySelector('a[download]').href).then((a) => a.text()).then(done)"
    )
    assert browser.run_async(csv).splitlines()[0] == "concept,value"
    # One that never ends: the form stays as it is, and can be asked again.
    browser.open(f"{site}/sql")
    browser.write("#query", "select count(*) from range(1000000) a, range(1000000) b where a.range + b.range = -1")
    # The driver waits for a page that is on its way, so what is pressed meanwhile is told beforehand.
    browser.run(
        "const said = document.querySelector('.sql [data-said]'), stop = document.querySelector('.sql [data-stop]');"
        "setTimeout(() => document.querySelector('.sql button').click(), 0);"
        "setTimeout(() => { window.seen = [said.textContent, stop.hidden]; stop.click(); }, 500)"
    )
    browser.until("return window.seen", 30)
    assert browser.run("return window.seen") == ["asking", False]
    assert browser.run("return document.querySelector('.sql [data-said]').textContent") == "stopped"
    assert browser.run("return document.querySelector('#query').value").startswith("select count(*) from range")
    assert browser.errors() == []


def test_an_address_with_a_token_opens_and_one_without_does_not(browser: Browser, place: Path) -> None:
    with served(Workspace.open(place, create=False), "a-long-secret") as address:
        browser.open(address)
        assert "needs its token" in browser.run("return document.body.textContent")
        browser.errors()
        browser.open(f"{address}/sql?token=a-long-secret&q=select+1")
        assert browser.run("return location.search") == "?q=select+1"
        assert browser.run("return document.querySelector('h1').textContent") == "SQL"
        # It is not asked for again, also not by what a page fetches, and no script can read it.
        browser.open(f"{address}/concept?name=stripes")
        browser.until(SETTLED)
        assert browser.run(BROKEN) == [] and browser.run("return document.cookie") == ""
        # The page that was refused asked for an icon, which was refused too.
        assert [e for e in browser.errors() if "/favicon.ico" not in e] == []
