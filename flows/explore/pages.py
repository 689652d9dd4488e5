"""Pages of concepts, latents, SAEs and runs."""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from flows.explore.report import Subject
from flows.explore.shelves import Shelves
from flows.upkeep import diff
from saeuron.errors import UnknownName
from saeuron.pages import dots, plots
from saeuron.pages.document import Gallery, render
from saeuron.pages.removals import RemovalRecord
from storage.manifests import Manifest
from tasks.explore import history, latents
from tasks.explore.concepts import ConceptRow, every
from tasks.explore.inspected import inspected
from tasks.explore.removals import record
from tasks.explore.saes import Beside, beside, names
from tasks.explore.shelf import Row, Shelf
from tasks.registry import runs

PAGE = 50
"""Rows of a long table on one page."""
FOREVER = {"Cache-Control": "private, max-age=31536000, immutable"}
"""Header for files of artifacts, which never change under one id."""

Page = Callable[..., HTMLResponse]


def link(kind: str, **what: object) -> str:
    """The address of a page."""
    given = [(name, value) for name, value in what.items() if value not in (None, "")]
    return f"/{kind}" + (f"?{urlencode(given)}" if given else "")


def image(image_set_id: str, key: str) -> str:
    """The address of a picture."""
    return f"/image/{image_set_id}/{key}.png"


def source(image_set_id: str, rows: Sequence[Row]) -> dict[str, str]:
    """The addresses of pictures, by key."""
    return {row["key"]: image(image_set_id, row["key"]) for row in rows}


def shown(shelves: Shelves, template: str, status: int = 200, **records: Any) -> HTMLResponse:
    """A page of `templates/explore/`."""
    common = {"link": link, "image": image, "address": shelves.workspace.address, "read": shelves.read}
    return HTMLResponse(render(f"explore/{template}.html", **common, hard=shelves.shelf.small, **records), status)


def routes(shelves: Shelves) -> APIRouter:
    """The routes of these pages."""
    router = APIRouter()
    page: Page = partial(shown, shelves)

    @router.get("/")
    def concepts(q: str = "", domain: str = "", state: str = "", sort: str = "measured first", p: int = 0) -> Response:
        rows = shelves.now().once(every)
        found = [r for r in rows if _fits(r, q, domain, state)]
        found.sort(key=SORTS.get(sort, SORTS["name"]))
        return page(
            "concepts",
            title="Concepts",
            rows=found[PAGE * p : PAGE * (p + 1)],
            total=len(found),
            all=len(rows),
            domains=sorted({r.domain for r in rows}),
            states=sorted({r.state for r in rows} | {r.verdict for r in rows if r.verdict}),
            asked={"q": q, "domain": domain, "state": state, "sort": sort},
            p=p,
            pages=-(-len(found) // PAGE),
            sorts=list(SORTS),
        )

    @router.get("/concept")
    def concept(name: str, method: str = "") -> Response:
        shelf = shelves.now()
        row = next((r for r in shelf.once(every) if r.concept == name), None)
        if row is None:
            raise UnknownName("concept", name, [r.concept for r in shelf.once(every)])
        methods = {m: e for (c, m), e in shelf.evaluations.items() if c == name}
        evaluation = methods.get(method or row.method)
        found = remembered(shelf, evaluation) if evaluation else None
        prompt = _prompt(shelf, row) or name
        return page(
            "concept", title=name, about=row, record=found, methods=list(methods), gallery=Gallery(), prompt=prompt
        )

    @router.get("/part/best")
    def best(name: str, domain: str) -> Response:
        places = latents.best(shelves.now(), domain, name, link)
        return HTMLResponse(render("explore/part_best.html", places=places, gallery=Gallery()))

    @router.get("/latent")
    def latent(sae: str, i: int) -> Response:
        found = latents.latent_page(shelves.now(), _sae(shelves.now(), sae).id, i)
        gallery = Gallery()
        for example in found.measured.examples if found.measured else ():
            gallery.add(example.key, example.picture)
        also = inspected(shelves.now(), found.sae_id, i)
        words = [(w["name"], 100 * (w["share"] or 0)) for w in also.words]
        bars = plots.bars(words, f"Words that it fires by, % of what raises it, {also.images} images") if words else ""
        return page(
            "latent",
            title=f"Latent {i}",
            found=found,
            gallery=gallery,
            plots=_latent_plots(found),
            also=also,
            bars=bars,
        )

    @router.get("/part/near")
    def near(sae: str, i: int) -> Response:
        return HTMLResponse(
            render("explore/part_near.html", near=latents.near(shelves.now(), sae, i), sae=sae, link=link)
        )

    @router.get("/saes")
    def saes() -> Response:
        shelf = shelves.now()
        measured = {m.summary["sae_id"]: m.summary for m in shelf.of("diagnosis")}
        compared = {m.summary["sae_id"]: m.summary for m in shelf.of("stability")}
        return page("saes", title="SAEs", saes=shelf.of("sae"), measured=measured, compared=compared)

    @router.get("/sae")
    def sae(id: str, order: str = "maximum", up: bool = False, p: int = 0) -> Response:
        shelf = shelves.now()
        about = _sae(shelf, id)
        measured = latents.diagnosis(shelf, about.id)
        rows = latents.table(shelf, about.id, order, not up, PAGE, PAGE * p) if measured else []
        others = beside(shelf, about)
        return page(
            "sae",
            title=f"SAE at {about.summary['hookpoint']}",
            sae=about,
            measured=measured,
            plots=_sae_plots(measured) if measured else {},
            names=names(shelf, about.id, lambda latent: link("latent", sae=about.id, i=latent)),
            others=others,
            pareto=_pareto(others, about) if len(others.saes) > 1 else "",
            rows=rows,
            orders=latents.ORDERS,
            asked={"id": about.id, "order": order, "up": int(up)},
            p=p,
            pages=-(-about.summary["n_latents"] // PAGE),
        )

    @router.get("/runs")
    def all_runs() -> Response:
        found = list(reversed(runs.records(shelves.workspace)))
        return page("runs", title="Runs", runs=found)

    @router.get("/run")
    def one_run(id: str) -> Response:
        shelf = shelves.now()
        return page("run", title="Run", run=history.run_page(shelf, id))

    @router.get("/diff")
    def two_runs(a: str, b: str) -> Response:
        workspace = shelves.workspace
        found = diff.compare(workspace, diff.resolve(workspace, a), diff.resolve(workspace, b))
        return page("diff", title="Two runs", text=diff.page(found))

    @router.get("/report")
    def report(of: str) -> Response:
        # Written aside: the explorer changes nothing in the workspace.
        import tempfile
        from pathlib import Path

        with tempfile.TemporaryDirectory() as folder:
            return HTMLResponse(Subject(shelves.workspace, of).write(Path(folder) / "report.html").read_text("utf-8"))

    @router.get("/search")
    def search(q: str = "") -> Response:
        shelf, words = shelves.now(), q.strip()
        if numbered := re.fullmatch(r"(\S+)[:\s](\d+)", words):
            fitting = _named(shelf, numbered[1])
            if len(fitting) == 1:
                return RedirectResponse(link("latent", sae=fitting[0].id, i=numbered[2]), 303)
        number = int(words) if words.isdecimal() and len(words) < 10 else None
        saes = _named(shelf, words) if words and number is None else []
        numbered_in = [m for m in shelf.of("sae") if number is not None and number < m.summary["n_latents"]]
        found = [r for r in shelf.once(every) if words and words.lower() in r.concept.lower()]
        explained = latents.firing_on(shelf, words, PAGE) if number is None else []
        lists = {"concepts": found[:PAGE], "saes": saes[:PAGE], "latents": numbered_in, "explained": explained}
        return page("search", title="Search", q=q, number=number, **lists)

    @router.get("/image/{image_set_id}/{key}.png")
    def picture(image_set_id: str, key: str) -> Response:
        shelf = shelves.shelf
        about = shelf.manifests.get(image_set_id)
        png = shelf.png(image_set_id, key) if about and about.stage == "images" else None
        return Response(png, media_type="image/png", headers=FOREVER) if png else Response(status_code=404)

    return router


SORTS: dict[str, Callable[[ConceptRow], Any]] = {
    "measured first": lambda r: (not r.method, r.domain, r.concept),
    "name": lambda r: (r.domain, r.concept),
    "mean": lambda r: (r.value is None, -(r.value or 0), r.concept),
    "UA": lambda r: _by(r, "UA"),
    "IRA": lambda r: _by(r, "IRA"),
    "CRA": lambda r: _by(r, "CRA"),
    "harms": lambda r: (-r.harmed, r.concept),
}


def _by(row: ConceptRow, metric: str) -> Any:
    value = row.metrics.get(metric, {}).get("value")
    return (value is None, -(value or 0), row.concept)


def _fits(row: ConceptRow, q: str, domain: str, state: str) -> bool:
    named = q.strip().lower() in row.concept.lower()
    return named and domain in ("", row.domain) and state in ("", row.state, row.verdict)


def remembered(shelf: Shelf, evaluation: Manifest) -> RemovalRecord:
    """The record of an evaluation, kept with its shelf."""
    kept: dict[str, RemovalRecord] = shelf.__dict__.setdefault("_records", {})
    if evaluation.id not in kept:
        if len(kept) > 100:
            kept.clear()
        known = {row.concept for row in shelf.once(every)}

        def linked(kind: str, **what: object) -> str:
            # A judge's label need not be a concept.
            return "" if kind == "concept" and what.get("name") not in known else link(kind, **what)

        kept[evaluation.id] = record(shelf, evaluation, source, link=linked, shown=2)
    return kept[evaluation.id]


def _prompt(shelf: Shelf, row: ConceptRow) -> str:
    """The prompt of the concept's picture."""
    if row.unedited is None:
        return ""
    prompt_id, _, _ = row.unedited[1].rpartition("_")
    found = shelf.rows("select text from prompts where prompt_id = ? limit 1", prompt_id)
    return str(found[0]["text"]) if found else ""


def _named(shelf: Shelf, words: str) -> list[Manifest]:
    """SAEs by their id, a beginning of it, or a part of their hookpoint."""
    saes = shelf.of("sae")
    exact = [m for m in saes if words in (m.id, m.summary["hookpoint"])]
    return exact or [m for m in saes if m.id.startswith(words) or words.lower() in m.summary["hookpoint"].lower()]


def _sae(shelf: Shelf, words: str) -> Manifest:
    found = _named(shelf, words)
    if not found:
        raise UnknownName("SAE", words, [m.id for m in shelf.of("sae")])
    return found[-1]


def _latent_plots(found: latents.LatentPage) -> dict[str, str]:
    drawn = {}
    if found.measured:
        steps = found.measured.timesteps
        drawn["profile"] = plots.lines(steps, [("mean", found.measured.profile)], "Mean activation at each step")
    if found.scores:
        best = found.scores[:6]
        curves = [(s.concept[:14], s.scores) for s in best if list(s.timesteps) == list(best[0].timesteps)]
        drawn["scores"] = plots.lines(best[0].timesteps, curves, "Score of its best concepts at each step")
    return drawn


def _sae_plots(measured: Any) -> Mapping[str, str]:
    import numpy as np

    density = measured.latents["density"]
    steps = [s for s in measured.steps() if s.half == measured.figures["half"]]
    timesteps = [s.timestep for s in steps]
    drawn = {
        "density": plots.histogram(np.log10(density[density > 0]), "Firing density", "log10 of the share of rows"),
        "cosine": plots.histogram(measured.latents["max_cosine"], "Decoder: nearest other row", "largest cosine"),
        "fvu": plots.lines(timesteps, [("FVU", [s.fvu for s in steps])], "FVU at each step"),
    }
    if measured.stability is not None:
        drawn["stability"] = plots.histogram(measured.stability, "Stability", "largest cosine to the other SAE")
    return drawn


def _pareto(others: Beside, about: Manifest) -> str:
    return dots.tradeoff(
        [(row.words, row.l0, row.fvu, row.sae.id == about.id) for row in others.saes],
        "FVU by the number of active latents",
        "L0, latents that fire on a row",
        "FVU in percent",
        scale=(1.0, 100.0),
        best=[(row.l0, row.fvu) for row in others.saes if row.best],
    )


def wants_html(request: Request) -> bool:
    """Whether an error is answered with a page."""
    return "text/html" in request.headers.get("accept", "")
