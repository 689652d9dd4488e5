"""Check that requests are to the explorer's own name, from its own pages, with the token where one is needed.

A page on the internet can send a browser to a loopback address. The check of Host stops one whose name was made to
resolve to it, the check of Origin stops its forms and scripts.
"""

import hmac
from collections.abc import Awaitable, Callable
from urllib.parse import parse_qsl, urlencode, urlsplit

from fastapi import Request
from fastapi.responses import PlainTextResponse, RedirectResponse, Response

LOOPBACK = ("127.0.0.1", "localhost", "::1")
COOKIE = "saeuron-token"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; "
    "script-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Guard:
    """The checks of one server, as a middleware."""

    def __init__(self, host: str, port: int, token: str = "") -> None:
        """`token`: what an address must hold; empty: it listens on loopback only, and needs none."""
        names = {host, *LOOPBACK} if host in LOOPBACK else {host}
        # Where it listens on every address, no name is known: the token decides.
        self.any_name = host in ("0.0.0.0", "::", "")
        self.hosts = {f"[{name}]:{port}" if ":" in name else f"{name}:{port}" for name in names}
        self.token = token

    async def __call__(self, request: Request, then: Callable[[Request], Awaitable[Response]]) -> Response:
        """Let a request through, or say why not."""
        host = request.headers.get("host", "").lower()
        if not self.any_name and host not in self.hosts:
            return _refused(f"Host is {host!r}; expected {' or '.join(sorted(self.hosts))}.", 421)
        if request.method not in ("GET", "HEAD", "POST", "DELETE"):
            return _refused("only GET, POST and DELETE are known here.", 405)
        origin = request.headers.get("origin")
        if request.method in ("POST", "DELETE") or origin is not None:
            given = urlsplit(origin or "")
            if given.scheme not in ("http", "https") or given.netloc.lower() != host:
                return _refused(f"Origin is {origin!r}; expected a page of {host}.", 403)
        if self.token:
            query = dict(parse_qsl(request.url.query, keep_blank_values=True))
            if self._is(query.get("token", "")):
                rest = [(k, v) for k, v in parse_qsl(request.url.query, keep_blank_values=True) if k != "token"]
                response: Response = RedirectResponse(request.url.path + (f"?{urlencode(rest)}" if rest else ""), 303)
                response.set_cookie(COOKIE, self.token, httponly=True, samesite="strict")
                return _with_headers(response)
            if not self._is(request.cookies.get(COOKIE, "")):
                return _refused("this address needs its token; use the one that `saeuron explore` printed.", 401)
        return _with_headers(await then(request))

    def _is(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self.token.encode())


def _with_headers(response: Response) -> Response:
    response.headers.update(HEADERS)
    return response


def _refused(why: str, status: int) -> Response:
    return _with_headers(PlainTextResponse(f"explorer: {why}\n", status))
