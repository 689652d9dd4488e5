"""Who may ask the explorer."""

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from flows.explore.guards import COOKIE, Guard


def client(guard: Guard, base: str = "http://127.0.0.1:8130") -> TestClient:
    app = FastAPI()
    app.middleware("http")(guard)

    @app.api_route("/x", methods=["GET", "POST", "DELETE", "PUT"])
    def x(q: str = "") -> str:
        return f"here {q}"

    return TestClient(app, base_url=base, follow_redirects=False)


@pytest.fixture(scope="module")
def loopback() -> TestClient:
    return client(Guard("127.0.0.1", 8130))


@pytest.mark.parametrize("host", ["127.0.0.1:8130", "localhost:8130", "[::1]:8130", "LOCALHOST:8130"])
def test_its_own_names_are_answered(loopback: TestClient, host: str) -> None:
    answer = loopback.get("/x", headers={"host": host})
    assert answer.status_code == 200
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]


@pytest.mark.parametrize("host", ["evil.example:8130", "127.0.0.1:81", "127.0.0.1", "", "127.0.0.1:8130.evil.example"])
def test_another_host_is_not_even_if_it_resolves_here(loopback: TestClient, host: str) -> None:
    answer = loopback.get("/x", headers={"host": host})
    assert answer.status_code == 421 and "here" not in answer.text


@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_what_changes_something_needs_the_origin_of_its_own_pages(loopback: TestClient, method: str) -> None:
    assert loopback.request(method, "/x", headers={"origin": "http://127.0.0.1:8130"}).status_code == 200
    for origin in ("http://evil.example", "null", "http://127.0.0.1:81", "http://127.0.0.1:8130.evil.example"):
        assert loopback.request(method, "/x", headers={"origin": origin}).status_code == 403
    assert loopback.request(method, "/x").status_code == 403
    # A page of another site may not read either.
    assert loopback.get("/x", headers={"origin": "http://evil.example"}).status_code == 403


def test_other_methods_are_refused(loopback: TestClient) -> None:
    assert loopback.put("/x", headers={"origin": "http://127.0.0.1:8130"}).status_code == 405


def test_elsewhere_the_address_needs_its_token_once() -> None:
    asking = client(Guard("box.example", 8130, "secret"), "http://box.example:8130")
    assert asking.get("/x").status_code == 401
    assert asking.get("/x?token=wrong").status_code == 401
    first = asking.get("/x?q=a+b&token=secret")
    # The token leaves the address, so that no history or link holds it.
    assert first.status_code == 303 and first.headers["location"] == "/x?q=a+b"
    assert "HttpOnly" in first.headers["set-cookie"] and "SameSite=strict" in first.headers["set-cookie"]
    assert asking.get("/x?q=a").text == '"here a"'
    asking.cookies.set(COOKIE, "wrong")
    asking.cookies.delete(COOKIE)
    assert asking.get("/x").status_code == 401
    assert asking.get("/x", headers={"host": "other:8130"}).status_code == 421


def test_on_every_address_any_name_will_do_with_the_token() -> None:
    asking = client(Guard("0.0.0.0", 8130, "secret"), "http://box.example:8130")
    assert asking.get("/x").status_code == 401
    assert asking.get("/x?token=secret").status_code == 303
