"""Whoever attacks one's memory page gets nothing: other users, other sites, what is stored."""

import hashlib
import logging
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from html.parser import HTMLParser
from typing import Any

import httpx
import pytest
from starlette.exceptions import HTTPException
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

from langmem_isolated import AuditOptions, IsolatedMemory, LocalRootKey, SessionRules
from langmem_isolated.admin import memory_app
from langmem_isolated.admin.web.signing import Signer
from langmem_isolated.errors import KeyDestroyed
from langmem_isolated.scope import Scope
from tests.browsing import serving
from tests.my_memory import (
    Person,
    client_of,
    forms_of,
    links_of,
    remember,
    scope_of_header,
    walked,
)

EVIL = "\"'><img src=x onerror=alert(1)><script>alert(2)</script>{{7919*7919}}"
SENT = {
    **dict.fromkeys(("text", "title", "query"), "x"),
    **dict.fromkeys(("new", "again", "passphrase"), "12345678"),
    "confirmed": "yes",
    "sentence": "forget this module",
}
# What is in the forms of these pages is not there for whoever has no lock.
OF_LOCKS = {"unlock", "close_lock", "change_lock", "remove_lock"}
# A search, and what only those have who were guests.
BY_HAND = {"confirm_claimed"}


def routes_of(client: TestClient) -> list[Route]:
    return [route for route in client.app.routes if isinstance(route, Route)]


def name_of(client: TestClient, method: str, path: str) -> str:
    """The route that answers to a path."""
    asked = {"type": "http", "method": method, "path": path.partition("?")[0], "root_path": ""}
    return next(route.name for route in routes_of(client) if route.matches(asked)[0].value == 2)


def forms_on(person: Person) -> list[tuple[str, dict[str, str]]]:
    """Every form of every page, once."""
    found = {}
    for path, answer in walked(person):
        for action, fields in forms_of(answer.text):
            found[action or path, fields.get("form")] = (action or path, fields)
    return [*found.values()]


@pytest.fixture
def memory(sqlite_url: str, root_key: LocalRootKey) -> Iterator[IsolatedMemory]:
    """What pages refuse they refuse above the database; what is done in it, others test on both."""
    with IsolatedMemory(sqlite_url, root_key=root_key) as memory:
        yield memory


@pytest.fixture
def client(memory: IsolatedMemory) -> TestClient:
    remember(memory, "alice")
    remember(memory, "bob")
    return client_of(memory)


@pytest.fixture
def alice(client: TestClient) -> Person:
    return Person(client, "alice")


def shown(person: Person) -> dict[str, str]:
    """All that somebody's pages say, without tokens."""
    pages = {path: answer.text for path, answer in walked(person)}
    for path, text in pages.items():
        for _, fields in forms_of(text):
            pages[path] = pages[path].replace(fields["csrf_token"], "")
    return pages


def test_the_forms_of_these_tests_are_all_there_are(client: TestClient, alice: Person):
    """So that what is tested of each is tested of all."""
    named = {name_of(client, "POST", path) for path, _ in forms_on(alice)}
    posts = {route.name for route in routes_of(client) if "POST" in (route.methods or ())}

    assert named == posts - OF_LOCKS - BY_HAND
    assert {name_of(client, "GET", path) for path, _ in walked(alice)} == {
        route.name for route in routes_of(client) if "GET" in (route.methods or ())
    }


def test_no_form_does_anything_without_the_users_own_token(client: TestClient, alice: Person):
    before = shown(alice)
    page = alice.path_to("tutor", "Conversations")
    paths = [path for path, _ in forms_on(alice)]
    paths += ["/lock/open", "/lock/close", "/lock/change", "/lock/remove", f"{page}/confirm"]
    bobs = forms_of(Person(client, "bob").get("/lock").text)[0][1]["csrf_token"]
    sentences = ["forget everything about me", "forget this module"]
    for path in paths:
        for token in ("", "x", bobs, Signer(bytes(32)).csrf_token("alice")):
            for sentence in sentences:
                form = SENT | {"csrf_token": token, "sentence": sentence}
                assert client.post(path, data=form, headers={"who": "alice"}).status_code == 403

    assert shown(alice) == before


def test_nothing_is_shown_or_done_without_a_login(client: TestClient, alice: Person):
    paths = [*dict(walked(alice)), *(path for path, _ in forms_on(alice))]
    for path in paths:
        for answer in (client.get(path), client.post(path, data={"confirmed": "yes"})):
            assert answer.status_code in (401, 405)
            assert "tutor" not in answer.text


def test_anothers_pages_and_forms_are_as_if_they_never_were(client: TestClient, alice: Person):
    bob = Person(client, "bob")
    before = shown(alice)
    own = set(dict(walked(bob)))
    pages = [path for path in dict(walked(alice)) if path not in own]
    never = bob.get("/m/AAAAAAAAAAAAAAAAAAAAAA").text
    assert len(pages) >= 10
    for path in pages:
        answer = bob.get(path)
        assert (answer.status_code, answer.text) == (404, never)

    actions = {path for path, _ in forms_on(alice)} - {path for path, _ in forms_on(bob)}
    assert len(actions) >= 12
    for path in actions:
        answer = bob.post(path, **SENT)
        assert (answer.status_code, answer.text) == (404, never)
    # What is hers below a module of his own.
    module = bob.path_to("tutor")
    parts = [path.split("/", 3)[3] for path in (*actions, *pages) if path.count("/") > 3]
    below = [part for part in parts if not part.endswith(("/search", "/confirm", "/summary"))]
    assert len(below) >= 10
    for part in below:
        assert bob.post(f"{module}/{part}", **SENT).status_code in (404, 405)
        assert bob.get(f"{module}/{part}").status_code in (404, 405)
    assert shown(alice) == before


def test_references_are_of_no_use_to_whoever_guesses(client: TestClient, alice: Person):
    for path in (
        *(
            "/m/tutor",
            "/m/../m",
            "/m/%2e%2e/kept",
            "/m/alice",
            "/m/%00",
            "/m/é",
            "/m/" + "A" * 5000,
        ),
        *("/m/{module}", "/sharing/1", "/%2e%2e/static", "/static/../application.py"),
        "/static/%2e%2e/templates/base.html",
    ):
        assert alice.get(path).status_code in (404, 405)


def test_parameters_that_nobody_offered_change_nothing(client: TestClient, alice: Person):
    for path, _ in [*walked(alice)]:
        base = path.partition("?")[0]
        for query in ("user_id=bob", "who=bob", "page=-1", "before=%00", "page=1&page=bob"):
            answer = alice.get(f"{base}?{query}")
            assert answer.status_code == 200
    facts = alice.form(alice.path_to("tutor", "What is known"), "/facts/")
    for revision in ("-1", "x", "9" * 40, "\u0663"):
        answer = alice.post(facts, text="x", revision=revision, user_id="bob", project_id="p")
        assert answer.status_code in (303, 409)
    assert "Likes chess." in "".join(shown(Person(client, "bob")).values())


def test_locked_memory_is_read_and_changed_by_no_page_and_no_form(
    client: TestClient, memory: IsolatedMemory, alice: Person
):
    """Somebody at a desk that was left: what is counted is shown, and a sharing can be ended."""
    tutor = memory.scope(user_id="alice", module_id="tutor")
    before, forms = tutor.stats(days=1).total, forms_on(alice)
    paths = [*dict(walked(alice))]
    alice.post("/lock", new="correct horse battery", again="correct horse battery")

    answers = {path: alice.get(path) for path in paths}
    for path, fields in forms:
        if not path.startswith(("/lock", "/forget", "/sharing")):
            # A page that asks for the sentence says nothing of what is there.
            sent = {**SENT, **fields, "sentence": ""}
            answers[f"POST {path}"] = alice.post(path, **sent)

    for path, answer in answers.items():
        asks = path.startswith("POST /m/") and path.count("/") == 3 and path.endswith("/forget")
        assert answer.status_code in ((400,) if asks else (200, 423)), path
        for text in ("half", "chess", "Fractions", "Plans", "German"):
            assert text not in answer.text, path
    assert all(a.status_code in (400, 423) for path, a in answers.items() if path[:4] == "POST")
    after = tutor.stats(days=1).total
    for kind in ("messages", "threads", "items", "documents", "profiles"):
        assert getattr(after, kind) == getattr(before, kind) > 0


def test_what_other_modules_share_is_shown_on_their_own_pages_alone(
    memory: IsolatedMemory, client: TestClient, alice: Person
):
    memory.grants.allow(
        user_id="alice", from_module="planner", to_module="tutor", kinds=["message", "profile"]
    )
    memory.scope(user_id="alice", module_id="planner").chat_history("x").add_user_message(
        "Private."
    )
    page = alice.path_to("tutor", "Conversations")

    found = alice.post(f"{page}/search", query="private when")

    assert "Private." not in found.text
    theirs = f"{alice.path_to('planner')}/conversations/"
    where = [path for path, answer in walked(alice) if "Private." in answer.text]
    assert len(where) == 1
    assert where[0].startswith(theirs)


def test_what_went_meanwhile_is_not_here(client: TestClient, memory: IsolatedMemory, alice: Person):
    """Deleted elsewhere, at the end of its time, and all of it forgotten while a chat goes on."""
    scope = memory.scope(user_id="alice", module_id="tutor")
    history = scope.chat_history("s")
    page = alice.path_to("tutor", "Conversations", "Fractions")
    scope.sessions.set_lifetime("s", absolute=timedelta(microseconds=1))
    for answer in (
        alice.get(page),
        alice.post(f"{page}/rename", title="x"),
        alice.post(f"{page}/export", form="json"),
        alice.post(f"{page}/delete", confirmed="yes"),
    ):
        assert answer.status_code == 404

    assert alice.post("/forget", sentence="forget everything about me").status_code == 200
    with pytest.raises(KeyDestroyed):
        history.add_user_message("late")
    assert "No module remembers anything about you." in alice.get("/").text
    back = memory.scope(user_id="alice", module_id="tutor")
    back.chat_history("s").add_user_message("I am back.")
    assert "half" not in "".join(shown(alice).values())


class Seen(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.handlers: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.handlers += [name for name, _ in attrs if name.startswith(("on", "hx-", "style"))]
        self.addresses += [str(v) for name, v in attrs if name in ("href", "src", "action")]


def test_nothing_that_is_stored_becomes_markup(sqlite_url: str, root_key: LocalRootKey):
    """Titles, messages, tool calls, facts, sources, keys, values, names of modules, the log."""
    rules = SessionRules(channel_limits={f"c{EVIL}": 9})
    with IsolatedMemory(
        sqlite_url, root_key=root_key, audit=AuditOptions(), session_rules=rules
    ) as memory:
        remember(memory, "eve", EVIL)
        with memory.audit.acting_as(f"carol{EVIL}"):
            memory.audit.break_glass("eve", reason=f"Ticket{EVIL}", minutes=5)
        memory.retention.keep("message", channel=f"r{EVIL}", days=3)
        eve = Person(client_of(memory), "eve")
        page = eve.path_to("tutor", "Conversations")
        answers = dict(walked(eve))
        answers["search"] = eve.post(f"{page}/search", query=f"fractions half {EVIL}")
        for path, fields in forms_on(eve):
            if "export" not in path and path not in ("/forget", "/lock", "/download"):
                answers[f"POST {path}"] = eve.post(path, **{**fields, "query": EVIL, "text": ""})

        evil = 0
        for path, answer in answers.items():
            seen = Seen()
            seen.feed(answer.text)
            assert "img" not in seen.tags, path
            assert "script" not in seen.tags, path
            assert seen.handlers == [], path
            assert all(one.startswith(("/", "?", "#")) for one in seen.addresses), path
            assert "62710561" not in answer.text, path
            evil += "&lt;img src=x" in answer.text
        assert evil >= 20


def test_no_user_id_is_in_an_address_a_page_a_header_or_a_log(
    memory: IsolatedMemory, caplog: pytest.LogCaptureFixture
):
    canary = "alice-canary-4711"
    caplog.set_level(logging.DEBUG)
    remember(memory, canary)
    person = Person(client_of(memory), canary)
    answers = dict(walked(person))
    for path, fields in forms_on(person):
        if path not in ("/forget", "/lock"):
            sent = {"query": "half", "text": "x", "title": "x", **fields}
            answers[f"POST {path}"] = person.post(path, **sent)
    answers["nowhere"] = person.get("/nowhere")
    for path, answer in answers.items():
        # An archive is the user's own, and says whose it is.
        text = "" if path == "POST /download" else answer.text
        assert canary not in path + text + str(answer.headers) + str(answer.url)

    assert canary not in caplog.text
    assert "half" not in caplog.text


def test_pages_can_stand_in_no_frame_and_are_not_kept(alice: Person):
    for path, answer in walked(alice):
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"], path
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["cache-control"] == "no-store"
    download = alice.post("/download")
    assert download.headers["cache-control"] == "no-store"
    assert download.headers["x-content-type-options"] == "nosniff"


def test_to_ask_for_a_page_changes_nothing(sqlite_url: str, root_key: LocalRootKey):
    with IsolatedMemory(sqlite_url, root_key=root_key) as memory:
        tutor = remember(memory, "alice")
        tutor.store(ttl={"default_ttl": 60, "refresh_on_read": True}).put(("a",), "k", {"v": 1})
        alice = Person(client_of(memory), "alice")
        actions = [path for path, _ in forms_on(alice)]
        before = digest_of(sqlite_url)
        for path in [*dict(walked(alice)), *actions]:
            alice.get(path)

        assert digest_of(sqlite_url) == before
        alice.confirm(alice.form("/sharing", "/sharing/"))
        assert digest_of(sqlite_url) != before


def digest_of(sqlite_url: str) -> str:
    """What is in a database, as a hash."""
    connection = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"))
    dump = "\n".join(connection.iterdump())
    connection.close()
    return hashlib.sha256(dump.encode()).hexdigest()


class Strange:
    user_id = "alice"
    module_id = "tutor"
    project_id = "default"


@pytest.mark.parametrize(
    ("given", "status"),
    [
        (None, 401),
        ("alice", 500),
        (("alice", "tutor"), 500),
        (Strange(), 500),
        (False, 500),
        (KeyError("canary-4711"), 500),
        (HTTPException(403, "Not you."), 403),
    ],
)
def test_whoever_cannot_be_told_sees_nothing(
    client: TestClient, memory: IsolatedMemory, given: Any, status: int
):
    def scope_of(_: Any) -> Any:
        if isinstance(given, Exception):
            raise given
        return given

    async def ascope_of(request: Any) -> Any:
        return scope_of(request)

    app = memory_app(memory, scope_of=scope_of)
    for answer in (
        TestClient(app).get("/"),
        TestClient(app).post("/forget", data={"sentence": "forget everything about me"}),
    ):
        assert answer.status_code == status
        assert "canary" not in answer.text
        assert "tutor" not in answer.text
    assert len(memory.modules("alice")) == 2


def test_a_coroutine_function_says_whose_memory_it_is(client: TestClient, memory: IsolatedMemory):
    async def scope_of(request: Any) -> Scope | None:
        return scope_of_header(request)

    with pytest.raises(TypeError, match="scope_of"):
        memory_app(memory, scope_of="alice")  # type: ignore[arg-type]
    found = TestClient(memory_app(memory, scope_of=scope_of)).get("/", headers={"who": "alice"})
    assert "tutor" in found.text


def test_the_same_id_in_another_project_is_another_user(memory: IsolatedMemory):
    remember(memory, "alice")
    app = memory_app(memory, scope_of=lambda _: Scope("alice", "tutor", project_id="other"))

    assert "No module remembers anything about you." in TestClient(app).get("/").text


def test_fifty_users_at_once_each_see_their_own(database_url: str, root_key: LocalRootKey):
    names = [f"user-{number:02}-" for number in range(50)]
    with IsolatedMemory(database_url, root_key=root_key) as memory:
        for name in names:
            scope = memory.scope(user_id=name, module_id="tutor")
            scope.profile().add_fact(f"of {name}")
            scope.chat_history("a").add_user_message(f"said by {name}")
        app = memory_app(memory, scope_of=scope_of_header)
        with serving(app) as address, ThreadPoolExecutor(50) as pool:
            visits = [*pool.map(partial(visited, address), names)]

    for name, found in zip(names, visits, strict=True):
        assert f"of {name}" in found[1]
        assert f"said by {name}" in found[3]
        others = [one for one in names if one != name]
        assert not any(one in page for page in found for one in others)


def visited(address: str, name: str) -> list[str]:
    """First page, profile, conversations and one of them, as somebody sees them."""
    with httpx.Client(base_url=address, headers={"who": name}, timeout=60) as browser:
        first = browser.get("/").text
        module = next(path for path in links_of(first) if path.startswith("/m/"))
        found = [browser.get(f"{module}/{name}").text for name in ("profile", "conversations")]
        chat = next(path for path in links_of(found[1]) if "/conversations/" in path)
        return [first, *found, browser.get(chat).text]


def test_only_routes_and_static_files_are_served(client: TestClient):
    kinds = {type(route) for route in client.app.routes}

    assert kinds == {Route, Mount}
    assert [route.path for route in client.app.routes if isinstance(route, Mount)] == ["/static"]
