"""Pictures on request: the page, the queue's jobs, their pictures; and pictures that are brought to be looked at."""

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response

from flows.explore.pages import link, shown
from flows.explore.shelves import Shelves
from saeuron.errors import ConfigError
from saeuron.pages.document import render
from tasks.explore import looking, trying
from tasks.explore.studio import Full, Job, Studio

BODY, FILE = 16_384, 16_000_000
"""Largest request, and largest picture that is brought, in bytes."""
WORDS = 1000
"""Most letters that may be said of it."""


def routes(shelves: Shelves, studio: Studio) -> APIRouter:
    """The routes of Try it."""
    router = APIRouter()

    @router.get("/try")
    def page(request: Request) -> Response:
        shelf = shelves.now()
        error, asked = "", trying.Request()
        try:
            asked = trying.Request.parse(request.url.query)
        except ConfigError as problem:
            error = str(problem)
        model = trying.model_of(shelf, asked)
        studio.warm(trying.model_of(shelf, trying.Request()))
        names = sorted(f"{c}.{m}" for c, m in shelf.in_use)
        saes = [m for m in shelf.of("sae") if m.summary.get("dictionary") in (None, "trained")] or shelf.of("sae")
        return shown(
            shelves, "try", title="Try it", asked=asked, error=error, names=names, saes=saes, model=model,
            cells=trying.CELLS, example=trying_example(shelf),
        )  # fmt: skip

    @router.post("/api/try")
    async def start(request: Request) -> Response:
        body = await request.body()
        if len(body) > BODY:
            raise ConfigError(f"the request has {len(body)} bytes; expected at most {BODY}.")
        shelf = shelves.now()
        asked = trying.Request.parse(body.decode("utf-8", "replace"))
        trying.check(shelf, asked)
        try:
            job = studio.submit(shelf, asked)
        except Full as full:
            return JSONResponse({"error": str(full)}, 503)
        return JSONResponse(told(studio, job), 202)

    @router.post("/api/look")
    async def look(request: Request, prompt: str = "") -> Response:
        data = bytearray()
        async for part in request.stream():
            data += part
            if len(data) > FILE:
                raise ConfigError(f"the picture has over {FILE // 1_000_000} MB; expected at most that.")
        if len(prompt) > WORDS:
            raise ConfigError(f"what is said of it has {len(prompt)} letters; expected at most {WORDS}.")
        shelf = shelves.now()
        looking.looked_at(shelf)
        try:
            job = studio.submit(shelf, looking.Look(looking.picture(bytes(data)), prompt.strip()))
        except Full as full:
            return JSONResponse({"error": str(full)}, 503)
        return JSONResponse(told(studio, job), 202)

    @router.get("/part/fires")
    def fires(job: str) -> Response:
        found = studio.find(job)
        if found is None or found.state != "done" or "picture" not in found.pictures:
            return JSONResponse({"error": "there is no such picture."}, 404)
        return HTMLResponse(render("explore/part_fires.html", job=found, link=link, hard=shelves.shelf.small))

    @router.get("/api/jobs/{job_id}")
    def state(job_id: str) -> Response:
        job = studio.find(job_id)
        return JSONResponse(told(studio, job)) if job else JSONResponse({"error": "there is no such picture."}, 404)

    @router.delete("/api/jobs/{job_id}")
    def cancel(job_id: str) -> Response:
        studio.cancel(job_id)
        return Response(status_code=204)

    @router.get("/api/jobs/{job_id}/{name}.png")
    def picture(job_id: str, name: str) -> Response:
        job = studio.find(job_id)
        png = job.pictures.get(name) if job else None
        return Response(png, media_type="image/png") if png else Response(status_code=404)

    @router.get("/api/python")
    def python(request: Request) -> Response:
        shelf, asked = shelves.now(), trying.Request.parse(request.url.query)
        trying.check(shelf, asked)
        line = trying.command_line(asked)
        return PlainTextResponse((f"# or: {line} --out image.png\n" if line else "") + trying.python(shelf, asked))

    return router


def told(studio: Studio, job: Job) -> dict[str, object]:
    """The state of a job, for the page."""
    return {
        "id": job.id,
        "state": job.state,
        "ahead": studio.ahead_of(job) if job.state == "waiting" else 0,
        "done": job.done,
        "steps": job.steps,
        "error": job.error,
        "seconds": round(job.seconds, 2),
        "changed": round(job.changed, 2),
        "pictures": sorted(job.pictures),
        "link": f"/try?{job.request.query}",
    }


def trying_example(shelf: object) -> str:
    """A prompt to begin with: one that a test image was made of, or a plain one."""
    from tasks.explore.shelf import Shelf

    assert isinstance(shelf, Shelf)
    rows = shelf.rows(
        "select text from prompts where split = 'test' order by len(map_keys(concepts)) desc, prompt_id limit 1"
    )
    return str(rows[0]["text"]) if rows else "A picture of a cat."
