"""What all pages have: headers, tokens, forms, escaping, errors; in a browser, too."""

from typing import Any

import pytest
from playwright.sync_api import Browser
from starlette.responses import Response
from starlette.routing import Route
from starlette.testclient import TestClient

from langmem_isolated import IsolatedMemory
from langmem_isolated.admin import admin_app, memory_app
from langmem_isolated.admin.web.application import application
from langmem_isolated.admin.web.endpoints import Endpoints, Visit
from langmem_isolated.admin.web.signing import TOKEN_SECONDS, Signer
from langmem_isolated.admin.web.templates import size
from langmem_isolated.errors import AuditIsOff
from langmem_isolated.scope import Scope
from tests.browsing import SCHEMES, serious_violations, serving
from tests.my_memory import fields_of

SHOWN = {"application": "Test", "styles": "person.css"}


@pytest.fixture
def signer() -> Signer:
    return Signer()


@pytest.fixture
def done() -> list[dict[str, str]]:
    return []


@pytest.fixture
def client(signer: Signer, done: list[dict[str, str]]) -> TestClient:
    """Pages of whoever the header `who` names."""
    pages: Endpoints[str] = Endpoints(
        lambda request: request.headers.get("who"), lambda who: who, signer, SHOWN
    )

    def act(visit: Visit[str]) -> Response:
        if not visit.is_confirmed:
            return visit.ask("Sure?", consequences=["All of it goes."], button="Remove")
        done.append({"who": visit.who, **visit.form})
        return visit.back("act")

    def fail(visit: Visit[str]) -> Response:
        raise KeyError("content of alice")

    def refuse(visit: Visit[str]) -> Response:
        raise AuditIsOff

    routes: list[Route] = [
        pages.get("/act", lambda visit: visit.page("error.html", title="T", text="x"), "act"),
        pages.post("/act", act, "do"),
        pages.get("/fails", fail, "fails"),
        pages.get("/api/fails", fail, "api_fails"),
        pages.get("/refuses", refuse, "refuses"),
    ]
    return TestClient(application(routes, SHOWN), follow_redirects=False)


def sent(client: TestClient, form: dict[str, str], who: str = "alice", **headers: str) -> Any:
    return client.post("/act", data=form, headers={"who": who, **headers})


def test_nobody_sees_a_page_without_being_known(client: TestClient):
    for answer in (client.get("/act"), client.post("/act"), client.get("/api/fails")):
        assert answer.status_code == 401


def test_a_form_without_a_token_or_with_anothers_does_nothing(
    client: TestClient, signer: Signer, done: list[dict[str, str]]
):
    for token in ("", "x", "é", signer.csrf_token("bob"), signer.csrf_token("alice")[:-1] + "~"):
        assert sent(client, {"confirmed": "yes", "csrf_token": token}).status_code == 403

    assert done == []


def test_a_form_from_another_site_does_nothing(
    client: TestClient, signer: Signer, done: list[dict[str, str]]
):
    form = {"confirmed": "yes", "csrf_token": signer.csrf_token("alice")}
    for site in ("cross-site", "same-site"):
        assert sent(client, form, **{"sec-fetch-site": site}).status_code == 403
    assert sent(client, form, **{"sec-fetch-site": "same-origin"}).status_code == 303

    assert len(done) == 1


def test_a_token_ends_after_twelve_hours():
    time = [1_000_000.0]
    signer = Signer(bytes(32), lambda: time[0])
    token = signer.csrf_token("alice")
    time[0] += TOKEN_SECONDS
    assert signer.is_csrf_token("alice", token)
    time[0] += 1
    assert not signer.is_csrf_token("alice", token)
    time[0] -= TOKEN_SECONDS + 2
    assert not signer.is_csrf_token("alice", token)


def test_an_action_asks_first_and_keeps_what_was_sent(
    client: TestClient, signer: Signer, done: list[dict[str, str]]
):
    asked = sent(client, {"name": "<b>&\"'", "csrf_token": signer.csrf_token("alice")})

    assert asked.status_code == 200
    assert 'name="name" value="&lt;b&gt;&amp;&#34;&#39;"' in asked.text
    assert done == []


def test_what_is_confirmed_is_what_was_sent_also_where_nobody_sees_it(
    client: TestClient, signer: Signer, done: list[dict[str, str]]
):
    # Marks that turn direction may be in an id: another spelling is another user.
    form = {"name": "a\u202eb\u2066\U000e0061", "csrf_token": signer.csrf_token("alice")}
    asked = sent(client, form)
    assert sent(client, fields_of(asked.text)).status_code == 303

    assert [one["name"] for one in done] == [form["name"]]


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1_200, "1.2 kB"),
        (9_949, "9.9 kB"),
        (9_951, "10 kB"),
        (999_499, "999 kB"),
        (999_500, "1.0 MB"),
        (999_999_999, "1.0 GB"),
        (10**18, "1000000 TB"),
        # What was removed of earlier days may be more than what was added.
        (-5, "-5 B"),
        (-5_000_000, "-5.0 MB"),
    ],
)
def test_bytes_are_in_the_unit_that_leaves_up_to_three_digits(count: int, shown: str):
    assert size(count) == shown


def test_what_no_form_is_does_nothing(
    client: TestClient, signer: Signer, done: list[dict[str, str]]
):
    headers = {"who": "alice", "X-CSRF-Token": signer.csrf_token("alice")}
    kind = "application/x-www-form-urlencoded"
    for content, type_, status in (
        (b"{}", "application/json", 415),
        (b"a=%ff", kind, 400),
        (b"a=1&" * 101, kind, 400),
        (b"a" * 65537, kind, 413),
    ):
        answer = client.post("/act", content=content, headers={**headers, "content-type": type_})
        assert answer.status_code == status

    assert done == []


def test_an_error_that_nobody_expected_shows_and_logs_its_type_alone(
    client: TestClient, caplog: pytest.LogCaptureFixture
):
    answers = [client.get(path, headers={"who": "alice"}) for path in ("/fails", "/api/fails")]

    assert [answer.status_code for answer in answers] == [500, 500]
    assert answers[1].json()["error"].startswith("This page failed")
    assert "content of alice" not in answers[0].text + answers[1].text + caplog.text
    assert "KeyError" in caplog.text


def test_an_error_of_the_library_tells_what_happened(client: TestClient):
    answer = client.get("/refuses", headers={"who": "alice"})

    assert answer.status_code == 409
    assert "Auditing is off" in answer.text


def test_every_answer_has_the_security_headers(client: TestClient):
    for path in ("/act", "/fails", "/nowhere", "/static/style.css"):
        headers = client.get(path, headers={"who": "alice"}).headers
        assert headers["content-security-policy"].startswith("default-src 'self'; ")
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-frame-options"] == "DENY"
        assert headers["x-content-type-options"] == "nosniff"
    assert client.get("/act", headers={"who": "alice"}).headers["cache-control"] == "no-store"


def test_an_address_that_is_none_is_told_in_words(client: TestClient):
    missing, put = client.get("/nowhere"), client.put("/act")

    assert (missing.status_code, put.status_code) == (404, 405)
    assert "There is no such page." in missing.text
    assert "Not Found" not in missing.text
    assert "not asked in this way" in put.text
    assert {"GET", "HEAD"} <= set(put.headers["allow"].split(", "))
    assert client.get("/api/nowhere").json() == {
        "error": "There is no such page. Nothing was done."
    }


def test_static_files_are_sent_once_and_asked_for_again(client: TestClient):
    sent = client.get("/static/htmx.min.js")
    again = client.get("/static/htmx.min.js", headers={"if-none-match": sent.headers["etag"]})

    assert [answer.headers["cache-control"] for answer in (sent, again)] == ["no-cache"] * 2
    assert (sent.status_code, again.status_code, again.content) == (200, 304, b"")
    assert client.get("/static/none.js").headers["cache-control"] == "no-store"


@pytest.mark.parametrize("wrong", ["x" * 32, None, 7])
def test_a_page_without_a_function_for_who_asks_is_refused(memory: IsolatedMemory, wrong: Any):
    with pytest.raises(TypeError, match="authorize"):
        admin_app(memory, authorize=wrong)
    with pytest.raises(TypeError, match="scope_of"):
        memory_app(memory, scope_of=wrong)


@pytest.mark.parametrize(("wrong", "error"), [("x" * 32, TypeError), (b"x" * 31, ValueError)])
def test_a_secret_that_is_none_is_refused(memory: IsolatedMemory, wrong: Any, error: type):
    with pytest.raises(error, match="secret"):
        memory_app(memory, scope_of=lambda _: None, secret=wrong)


@pytest.mark.system("chromium")
def test_both_pages_open_in_a_browser_without_a_word_of_complaint(
    browser: Browser, memory: IsolatedMemory
):
    memory.scope(user_id="alice", module_id="tutor").chat_history("s").add_user_message("Hi")
    for app in (
        admin_app(memory, authorize=lambda _: "carol"),
        memory_app(memory, scope_of=lambda _: Scope("alice", "tutor")),
    ):
        with serving(app) as address:
            for scheme in SCHEMES:
                page = browser.new_page(color_scheme=scheme)
                complaints: list[str] = []
                page.on("console", lambda said, to=complaints: to.append(said.text))
                page.goto(address)
                assert complaints == []
                assert serious_violations(page) == []
                page.close()
