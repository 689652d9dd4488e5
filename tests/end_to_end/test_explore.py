"""The explorer on a real run: every page, pictures on request, SQL; and that it writes nothing."""

import io
import json
import shutil
import signal
import socket
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from benchmarks.data import trying
from flows.explore.app import create
from flows.explore.guards import Guard
from flows.explore.shelves import Shelves
from storage import Workspace
from tasks.explore.concepts import every
from tasks.explore.latents import uses
from tasks.explore.studio import Studio
from tests.end_to_end.markup import problems, too_wide
from tests.end_to_end.process import Cli, end_session, run_here

BASE = "http://127.0.0.1:8130"
PROMPT = "An image of cat in stripes style."


@pytest.fixture(scope="module")
def place(workspace: Path, workspaces: Path) -> Path:
    return Path(shutil.copytree(workspace, workspaces / "explored"))


@pytest.fixture(scope="module")
def shelves(place: Path) -> Shelves:
    return Shelves(Workspace.open(place, create=False))


@pytest.fixture(scope="module")
def client(shelves: Shelves) -> Iterator[TestClient]:
    studio = Studio(threads=1)
    app = create(shelves, studio, Guard("127.0.0.1", 8130))
    with TestClient(app, base_url=BASE, headers={"origin": BASE, "accept": "text/html"}) as asking:
        yield asking


@pytest.fixture(scope="module")
def sae(shelves: Shelves) -> str:
    return next(m.id for m in shelves.shelf.of("sae") if m.summary["hookpoint"].endswith("attn2"))


def files(place: Path) -> dict[str, int]:
    return {str(p.relative_to(place)): p.stat().st_mtime_ns for p in place.rglob("*") if p.is_file()}


def ok(client: TestClient, address: str) -> str:
    answer = client.get(address)
    assert answer.status_code == 200, (address, answer.text[:400])
    return answer.text


def test_every_page_opens_and_nothing_is_written(client: TestClient, place: Path, sae: str, shelves: Shelves) -> None:
    before = files(place)
    run = next(place.glob("runs/*.json")).stem
    front = ok(client, "/")
    assert "stripes" in front and "/image/images_v3_" in front
    concept = ok(client, "/concept?name=stripes")
    assert "What it cost others" in concept and "asked for stripes" in concept and f"sae={sae}" in concept
    scored = ok(client, "/concept?name=moon")
    assert "there is no removal that was measured" in scored
    assert f"sae={sae}" in ok(client, "/part/best?name=stripes&domain=style")
    latent = ok(client, f"/latent?sae={sae}&i=3")
    assert "Every concept" in latent and "neon" in latent and "was not measured" in latent
    assert ok(client, f"/part/near?sae={sae}&i=3").count("/latent?") == 8
    assert sae in ok(client, "/saes") and "was not measured" in ok(client, f"/sae?id={sae}")
    assert run in ok(client, "/runs") and "What it cost" in ok(client, f"/run?id={run}")
    assert "<pre" in ok(client, "/diff?a=last&b=last")
    assert "Run 1: stripes, cat removed" in ok(client, "/report?of=1")
    assert 'id="prompt"' in ok(client, "/try") and "SELECT" in ok(client, "/sql")
    for name in ("style.css", "explore/explore.css", "explore/explore.js"):
        assert len(ok(client, f"/static/{name}")) > 1000
    assert files(place) == before


def test_every_page_has_names_for_everything_and_room_on_a_phone(
    client: TestClient, place: Path, sae: str, shelves: Shelves
) -> None:
    run = next(place.glob("runs/*.json")).stem
    pages = ["/", "/concept?name=stripes", "/concept?name=moon", f"/latent?sae={sae}&i=3", "/saes", f"/sae?id={sae}"]
    pages += ["/runs", f"/run?id={run}", "/diff?a=last&b=last", "/search", "/search?q=3", "/try", "/report?of=1"]
    pages += ["/sql?q=select+concept,value+from+evaluations", "/sql?q=drop+table+images", "/concept?name=nothing"]
    for page in pages:
        assert problems(client.get(page).text) == [], page
    for name in ("style.css", "explore/explore.css"):
        assert too_wide(ok(client, f"/static/{name}")) == [], name


def test_what_is_wrong_with_a_page_is_noticed() -> None:
    good = (
        '<html lang="en"><meta name="viewport" content="width=device-width"><title>t</title><main><h1>h</h1>{}</main>'
    )
    assert problems(good.format("")) == []
    for bad in (
        "<table></table>",
        "<input name='q'>",
        "<img src='x'>",
        "<svg></svg>",
        "<a href='/x'> </a>",
        "<button><span></span></button>",
        "<h1>two</h1>",
        "<p id='a'></p><p id='a'></p>",
        "<div class='scroll'></div>",
        "<pre>x</pre>",
    ):
        assert len(problems(good.format(bad))) == 1, bad
    assert problems(good.format("<label>Seed <input name='q'></label><label for='x'>X</label><input id='x'>")) == []
    css = ".a { min-width: 900px } .b { max-width: 900px } .c { width: 12px } @media print { .d { width: 900px } }"
    assert too_wide(css) == ["900px"]


def test_the_latent_that_a_removal_edits_names_it(client: TestClient, shelves: Shelves) -> None:
    (sae, latent), users = next(iter(shelves.shelf.once(uses).items()))
    assert f"name={users[0].concept}" in ok(client, f"/latent?sae={sae}&i={latent}")


def test_a_picture_is_the_stored_one(client: TestClient, shelves: Shelves) -> None:
    image_set, key = shelves.shelf.once(every)[0].unedited
    answer = client.get(f"/image/{image_set}/{key}.png")
    assert answer.content == shelves.shelf.png(image_set, key) and "immutable" in answer.headers["cache-control"]
    assert client.get(f"/image/{image_set}/nothing.png").status_code == 404
    assert client.get(f"/image/{shelves.shelf.of('sae')[0].id}/{key}.png").status_code == 404


@pytest.mark.parametrize(
    ("address", "status", "said"),
    [
        ("/concept?name=stripe", 404, "did you mean &#39;stripes&#39;"),
        ("/latent?sae=nothing&i=0", 404, "unknown SAE"),
        ("/latent?sae=unet.up_blocks.0.attentions.1&i=999999", 400, "expected 0 to"),
        ("/latent?sae=x&i=y", 400, "i: "),
        ("/sae?id=unet.up_blocks.0.attentions.1&order=drop", 200, "was not measured"),
        ("/run?id=nothing", 404, "unknown run"),
        ("/nowhere", 404, "there is no page /nowhere"),
        ("/static/../../../pyproject.toml", 404, ""),
        ("/static/base.html", 404, ""),
        ("/sql?q=drop+table+images", 200, "role=\"alert\""),
    ],
)  # fmt: skip
def test_mistakes_are_a_page_with_one_line(client: TestClient, address: str, status: int, said: str) -> None:
    answer = client.get(address)
    assert answer.status_code == status and said in answer.text and "Traceback" not in answer.text


def test_words_numbers_and_latents_are_found(client: TestClient, sae: str) -> None:
    assert "/concept?name=stripes" in ok(client, "/search?q=STRIP")
    assert ok(client, "/search?q=3").count("i=3") == 3
    assert client.get(f"/search?q={sae}:7", follow_redirects=False).headers["location"] == f"/latent?sae={sae}&i=7"
    assert "Nothing is called" in ok(client, "/search?q=%3Cscript%3E")
    assert "<script>" not in ok(client, "/search?q=%3Cscript%3Ex")


def test_a_query_is_a_table_a_plot_and_a_file(client: TestClient) -> None:
    query = "select concept, value from evaluations order by concept"
    page = ok(client, f"/sql?q={query}")
    assert "2 rows" in page and "<svg" in page
    assert client.get(f"/sql.csv?q={query}").text.splitlines()[0] == "concept,value"
    import pyarrow.parquet as pq

    found = pq.read_table(io.BytesIO(client.get(f"/sql.parquet?q={query}").content)).to_pylist()
    assert [row["concept"] for row in found] == ["cat", "stripes"]
    assert client.get("/sql.exe?q=select+1").status_code == 400


def drawn(client: TestClient, query: str) -> dict[str, Any]:
    told: dict[str, Any] = client.post("/api/try", content=query).json()
    end = time.monotonic() + 120
    while told.get("state") not in ("done", "failed", "cancelled"):
        assert "error" not in told or not told["error"], told
        assert time.monotonic() < end
        time.sleep(0.02)
        told = client.get(f"/api/jobs/{told['id']}").json()
    return told


def pixels(client: TestClient, told: dict[str, Any], name: str) -> Any:
    png = client.get(f"/api/jobs/{told['id']}/{name}.png").content
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def test_what_is_drawn_is_what_the_python_and_the_command_draw(
    client: TestClient, place: Path, sae: str, tmp_path: Path
) -> None:
    region = "f" * 32 + "0" * 32
    query = f"prompt={PROMPT}&seed=3&latent={sae}:3:on:2.5&removal=stripes.saeuron:0.5&first=1&last=2&region={region}"
    told = drawn(client, query)
    assert told["state"] == "done" and told["changed"] > 0 and told["link"].startswith("/try?prompt=")
    names: dict[str, Any] = {}
    exec(client.get(f"/api/python?{query}").text, names)  # what the page offers is what is tested
    assert np.array_equal(names["picture"], pixels(client, told, "edited"))
    # The link says the same again.
    again = drawn(client, told["link"].partition("?")[2])
    assert np.array_equal(pixels(client, again, "edited"), names["picture"])
    # And what a command can draw, it draws.
    from tasks.generate import compare
    from tasks.registry.removals import file_of

    workspace = Workspace.open(place, create=False)
    out = tmp_path / "both.png"
    compare(place, PROMPT, [file_of(workspace, "stripes")], 3, None, None, out, "cpu", 1)
    both = np.asarray(Image.open(out))
    plain = drawn(client, f"prompt={PROMPT}&seed=3&removal=stripes.saeuron")
    for name, left in (("unedited", 0), ("edited", 268)):
        assert np.array_equal(both[24::8, left : left + 256 : 8][:32], pixels(client, plain, name))
    assert "saeuron generate" in client.get(f"/api/python?prompt={PROMPT}&removal=stripes.saeuron").text


def test_the_benchmark_draws_with_every_removal_and_sae(
    place: Path, shelves: Shelves, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "figures.json"
    words = ["--workspace", place, "--prompt", PROMPT, "--repeats", "1", "--json", out]
    monkeypatch.setattr("sys.argv", ["trying", *map(str, words)])
    trying.main()
    timed = {f["name"] for f in json.loads(out.read_text()) if f["baseline"] and f["name"][0] != " " and f["value"] > 0}
    assert {name for name in timed if name.startswith("removal ")} == {
        f"removal {concept}.{method}" for concept, method in shelves.shelf.in_use
    }
    assert any(name.startswith("latent ") for name in timed) and "  slowest" in capsys.readouterr().out


def test_two_browsers_see_their_own_pictures(client: TestClient, sae: str) -> None:
    queries = [f"prompt={PROMPT}&seed={seed}&latent={sae}:3:on:{value}" for seed in (1, 2) for value in (3, -3)]
    alone = [pixels(client, drawn(client, q), "edited") for q in queries]
    jobs = [client.post("/api/try", content=q).json() for q in queries]
    assert len({j["id"] for j in jobs}) == 4
    for job, expected in zip(jobs, alone, strict=True):
        while client.get(f"/api/jobs/{job['id']}").json()["state"] != "done":
            time.sleep(0.02)
        assert np.array_equal(pixels(client, job, "edited"), expected)
    assert client.get("/api/jobs/guessed").status_code == 404


def test_one_that_waits_is_cancelled(client: TestClient) -> None:
    first = client.post("/api/try", content=f"prompt={PROMPT}&seed=50&steps=50").json()
    assert client.delete(f"/api/jobs/{first['id']}").status_code == 204
    end = time.monotonic() + 30
    while client.get(f"/api/jobs/{first['id']}").json()["state"] != "cancelled":
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("prompt=", 400),
        ("prompt=x&removal=kat", 404),
        ("prompt=x&latent=sae_none:1:off", 404),
        ("prompt=x&latent={sae}:999999:off", 400),
        ("prompt=x&first=40", 400),
        ("prompt=x&removal=cat:7", 400),
        ("prompt=x&seed=one", 400),
        ("prompt=" + "x" * 20_000, 400),
    ],
)
def test_a_request_that_cannot_be_met_is_one_line_before_anything_is_drawn(
    client: TestClient, sae: str, query: str, status: int
) -> None:
    answer = client.post("/api/try", content=query.replace("{sae}", sae))
    assert answer.status_code == status and len(answer.json()["error"].splitlines()) == 1


def test_a_picture_that_is_brought_is_looked_at_and_kept_nowhere(
    client: TestClient, place: Path, shelves: Shelves
) -> None:
    before = files(place)
    image_set, key = shelves.shelf.once(every)[0].unedited
    png = client.get(f"/image/{image_set}/{key}.png").content
    told = client.post("/api/look?prompt=a+cat", content=png).json()
    end = time.monotonic() + 120
    while told["state"] != "done":
        assert not told["error"] and time.monotonic() < end
        time.sleep(0.02)
        told = client.get(f"/api/jobs/{told['id']}").json()
    assert np.array_equal(pixels(client, told, "picture"), np.asarray(Image.open(io.BytesIO(png)).convert("RGB")))
    page = ok(client, f"/part/fires?job={told['id']}")
    assert page.count("<h3>") == len({m.summary["hookpoint"] for m in shelves.shelf.of("sae")})
    assert "/latent?sae=" in page and "data:image/png" in page and "By a picture" in ok(client, "/search")
    assert client.get("/part/fires?job=guessed").status_code == 404 and files(place) == before


@pytest.mark.parametrize(
    ("query", "data", "said"),
    [
        ("", b"", "this is not a picture"),
        ("", b"x" * 16_000_001, "over 16 MB"),
        ("?prompt=" + "x" * 1001, b"", "1001 letters"),
    ],
)
def test_what_cannot_be_looked_at_is_one_line(client: TestClient, query: str, data: bytes, said: str) -> None:
    answer = client.post(f"/api/look{query}", content=data)
    assert answer.status_code == 400 and said in answer.json()["error"]


def test_from_another_site_nothing_is_drawn(client: TestClient) -> None:
    for address in ("/api/try", "/api/look"):
        answer = client.post(address, content=f"prompt={PROMPT}", headers={"origin": "http://evil.example"})
        assert answer.status_code == 403


def test_the_command_says_where_it_is_and_ends_when_interrupted(cli: Cli, place: Path) -> None:
    process = cli.start("explore", "-w", place, "--port", "0", "--threads", "1")
    try:
        assert process.stdout is not None
        address = process.stdout.readline().split()[1]
        with urllib.request.urlopen(address, timeout=30) as answer:
            assert b"stripes" in answer.read()
        process.send_signal(signal.SIGINT)
        # People press it twice.
        time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        done = cli.finish(process)
    finally:
        end_session(process.pid)
    assert done.code == 0 and "closed http://127.0.0.1:" in done.out and "Traceback" not in done.err


def test_a_port_that_is_taken_is_one_line(place: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = run_here("explore", "-w", place, "--port", str(taken.getsockname()[1]))
    assert done.code == 2 and "address already in use; try --port 0" in done.complaint


def test_what_is_made_later_is_seen_without_a_restart(place: Path, workspaces: Path) -> None:
    mine = Path(shutil.copytree(place, workspaces / "grows"))
    shelves = Shelves(Workspace.open(mine, create=False))
    gone = shelves.shelf.of("evaluation", concept="cat")[0].id
    Workspace.open(mine).delete(gone)
    end = time.monotonic() + 30
    while gone in shelves.now().manifests:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert {r.concept for r in shelves.now().once(every) if r.state == "measured"} == {"stripes"}
