"""The explorer: its routes put together, and errors as a page."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from importlib.resources import files

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from flows.explore import pages, queries, trying
from flows.explore.guards import Guard
from flows.explore.shelves import Shelves
from saeuron.errors import SaeuronError
from storage.errors import StorageError
from tasks.explore.studio import Studio

STATIC = {"style.css": "text/css", "explore/explore.css": "text/css", "explore/explore.js": "text/javascript"}


def create(shelves: Shelves, studio: Studio, guard: Guard) -> FastAPI:
    """The application. It writes nothing to the workspace."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        studio.close()

    app = FastAPI(title="saeuron explore", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    app.middleware("http")(guard)
    app.include_router(pages.routes(shelves))
    app.include_router(trying.routes(shelves, studio))
    app.include_router(queries.routes(shelves))

    @app.get("/favicon.ico")
    def icon() -> Response:
        return Response(status_code=204)

    @app.get("/static/{name:path}")
    def static(name: str) -> Response:
        if name not in STATIC:
            return Response(status_code=404)
        return Response(_file(name), media_type=f"{STATIC[name]}; charset=utf-8", headers={"Cache-Control": "no-cache"})

    def problem(request: Request, status: int, why: str) -> Response:
        if request.url.path.startswith("/api/") or not pages.wants_html(request):
            return JSONResponse({"error": why}, status)
        return pages.shown(shelves, "problem", status, title="Not here", why=why)

    @app.exception_handler(SaeuronError)
    @app.exception_handler(StorageError)
    def known(request: Request, error: Exception) -> Response:
        from saeuron.errors import UnknownName, UserError
        from storage.errors import UserError as StorageUserError

        status = (
            404 if isinstance(error, UnknownName) else 400 if isinstance(error, UserError | StorageUserError) else 500
        )
        return problem(request, status, " ".join(str(error).split()))

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return problem(request, 400, f"{first['loc'][-1]}: {first['msg'][:1].lower()}{first['msg'][1:]}.")

    @app.exception_handler(HTTPException)
    def unknown(request: Request, error: HTTPException) -> Response:
        why = f"there is no page {request.url.path}." if error.status_code == 404 else str(error.detail)
        return problem(request, error.status_code, why)

    return app


@cache
def _file(name: str) -> bytes:
    return files("saeuron.pages").joinpath("templates", name).read_bytes()
