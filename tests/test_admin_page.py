"""The admin page: what operators see and do, and what nobody gets out of it."""

import asyncio
import json
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from fastapi import FastAPI
from jsonschema import Draft202012Validator
from langchain_core.messages import AIMessage
from openapi_spec_validator import validate
from starlette.requests import Request
from starlette.testclient import TestClient

from langmem_isolated import AuditOptions, IsolatedMemory, LocalRootKey
from langmem_isolated.admin import admin_app
from langmem_isolated.admin.operator import erasures
from langmem_isolated.admin.operator.application import TABLE
from langmem_isolated.admin.operator.pages import Page
from langmem_isolated.admin.web.signing import Signer
from tests.conftest import Attacker
from tests.my_memory import fields_of
from tests.operators import Operator, operator_of, paths, tutor_of
from tests.test_statistics import store_everything

NAMES = [page.name for page in TABLE if isinstance(page, Page)]
EVIL = "<script>alert(1)</script>\"><img src=x onerror=alert(2)>' javascript:alert(3)"
CANARY = "canary-7f3a@example.org"


@pytest.fixture
def carol(memory: IsolatedMemory) -> Operator:
    return operator_of(memory)


@pytest.fixture
def plain(sqlite_url: str, root_key: LocalRootKey) -> Iterator[IsolatedMemory]:
    """On SQLite alone: where the database makes no difference."""
    with IsolatedMemory(sqlite_url, root_key=root_key) as memory:
        yield memory


@pytest.fixture
def stored(plain: IsolatedMemory, sqlite_url: str) -> Iterator[Callable[[], Any]]:
    """All that is in the database of `plain`."""
    attacker = Attacker(sqlite_url)

    def everything() -> Any:
        tables = attacker("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
        return {name: sorted(attacker(f"SELECT * FROM {name}"), key=repr) for (name,) in tables}

    yield everything
    attacker.close()


def page_path(memory: IsolatedMemory, name: str, job: str = "x") -> str:
    (path,) = (page.path for page in TABLE if page.name == name)
    return path.replace("{digest}", memory.user_digest("alice") or "").replace("{job}", job)


def filled(path: str, digest: str | None, job: str) -> str:
    """A path with something in place of its parts."""
    named = path.replace("{digest}", digest or "").replace("{job}", job)
    return named.replace("{session}", "x")


# --- what is seen


@pytest.mark.parametrize("name", [name for name in NAMES if name != "job"])
def test_every_page_and_its_json_answer(memory: IsolatedMemory, carol: Operator, name: str):
    store_everything(tutor_of(memory))
    memory.audit.switch_on(AuditOptions())
    path = page_path(memory, name)
    (api,) = (page.api_path for page in TABLE if isinstance(page, Page) and page.name == name)
    api = api.replace("{digest}", memory.user_digest("alice") or "")

    page, told = carol.get(path), carol.get(api)

    assert (page.status_code, told.status_code) == (200, 200), page.text
    assert 'aria-current="page"' in page.text
    assert isinstance(told.json(), dict)
    assert "What is 6 times 7?" not in page.text + told.text


def test_every_page_opens_on_an_empty_memory(plain: IsolatedMemory):
    carol = operator_of(plain)
    for name in NAMES:
        if name not in ("user", "job"):
            assert carol.get(page_path(plain, name)).status_code == 200
    assert carol.get(f"/users/{'00' * 16}").status_code == 404


def test_the_json_is_as_openapi_describes_it(memory: IsolatedMemory, carol: Operator):
    store_everything(tutor_of(memory))
    memory.audit.switch_on(AuditOptions())
    memory.retention.keep("message", days=30)
    memory.retention.hold("alice", reason="case", by="legal")
    memory.erase_user(tutor_of(memory, "bob").scope.user_id)
    job = carol.job("/retention/sweep", dry_run="yes")
    digest = memory.user_digest("alice") or ""
    described = carol.get("/api/openapi.json").json()

    assert set(described["paths"]) == {p.api_path for p in TABLE if isinstance(p, Page)}
    for path, operations in described["paths"].items():
        told = carol.get(path.replace("{digest}", digest).replace("{job}", job["id"])).json()
        answer = operations["get"]["responses"]["200"]
        Draft202012Validator(answer["content"]["application/json"]["schema"]).validate(told)


@pytest.mark.parametrize(
    "wrong",
    ["/users?after=x", "/users?project=x", "/audit?before=x", "/users/{digest}", "/jobs/{job}"],
)
def test_refusals_are_as_openapi_describes_them(plain: IsolatedMemory, wrong: str):
    tutor_of(plain)
    carol = operator_of(plain)
    described = carol.get("/api/openapi.json").json()
    answer = carol.get(f"/api{wrong}")
    responses = described["paths"]["/api" + wrong.partition("?")[0]]["get"]["responses"]

    schema = responses[str(answer.status_code)]["content"]["application/json"]["schema"]
    assert schema == {"$ref": "#/components/schemas/Error"}
    Draft202012Validator(described["components"]["schemas"]["Error"]).validate(answer.json())


def test_who_does_not_mean_it_goes_back_to_where_it_was_asked(plain: IsolatedMemory):
    tutor_of(plain)
    plain.audit.switch_on()
    outer = FastAPI()
    outer.mount("/m", admin_app(plain, authorize=lambda _: "carol"))
    carol, user = Operator(outer, "/m"), f"/users/{plain.user_digest('alice')}"

    for path, page in (
        (f"{user}/rotate", user),
        (f"{user}/break-glass/end", user),
        ("/retention/sweep", "/retention"),
        ("/audit/verify", "/audit"),
    ):
        back = carol.post(path).text.rpartition('href="')[2].partition('"')[0]
        assert back == f"/m{page}"
        assert carol.get(page).status_code == 200


def test_openapi_is_valid(carol: Operator):
    validate(carol.get("/api/openapi.json").json())


def test_a_user_is_found_by_the_exact_id_alone(memory: IsolatedMemory, carol: Operator):
    tutor_of(memory)
    found = carol.post("/users/find", user_id="alice", project_id="default")

    assert found.status_code == 303
    assert found.headers["location"] == f"/users/{memory.user_digest('alice')}"
    for near in ("Alice", "alice ", "alic", "%", "*", "bob"):
        assert carol.post("/users/find", user_id=near).status_code == 404
    assert carol.post("/users/find", user_id="alice", project_id="other").status_code == 404


def test_users_are_paged_and_narrowed_to_a_project(plain: IsolatedMemory):
    for number in range(60):
        tutor_of(plain, f"u{number}", "red" if number % 2 else "blue")
    carol, seen = operator_of(plain), set()
    page = carol.get("/api/users").json()
    while True:
        seen |= {user["digest"] for user in page["users"]}
        if page["next"] is None:
            break
        page = carol.get(f"/api/users?after={page['next']}").json()
    red = next(one for one in carol.get("/api/projects").json()["projects"] if one["tokens"] == 0
               and one["project_id"] == "red")  # fmt: skip

    assert len(seen) == 60
    of_red = carol.get(f"/api/users?project={red['reference']}").json()["users"]
    assert {user["project_id"] for user in of_red} == {"red"}
    assert len(of_red) == 30
    assert carol.get("/users?project=guess").status_code == 404
    assert carol.get("/users?after=guess").status_code == 400


def test_one_user_is_shown_as_counts_and_times(memory: IsolatedMemory, carol: Operator):
    scope = tutor_of(memory)
    scope.sessions.rename("monday", "Multiplication")
    scope.profile().add_fact("Likes chess.")
    digest = memory.user_digest("alice")

    page, told = carol.get(f"/users/{digest}").text, carol.get(f"/api/users/{digest}").json()

    [module] = told["modules"]
    assert (module["module_id"], module["totals"]["messages"]) == ("tutor", 1)
    assert module["overview"]["facts"] == 1
    assert [one["records"] for one in module["containers"]] == [1]
    for content in ("Multiplication", "monday", "Likes chess", "alice", "What is 6"):
        assert content not in page + json.dumps(told)


# --- what is done


def test_a_user_is_erased_with_a_receipt_by_who_types_the_id(
    memory: IsolatedMemory, carol: Operator
):
    tutor_of(memory)
    digest = memory.user_digest("alice")
    for wrong in ("", "bob", "Alice"):
        assert carol.post(f"/users/{digest}/erase", user_id=wrong).status_code == 400
    job = carol.job(f"/users/{digest}/erase", user_id="alice", reason="Ticket 12")

    assert job["state"] == "done"
    assert (job["outcome"]["principal"], job["outcome"]["counts"]["message"]) == (digest, 1)
    assert job["outcome"]["does_not_prove"]
    assert memory.users() == []
    gone = carol.get(f"/users/{digest}")
    assert gone.status_code == 404
    assert "was erased" in gone.text
    [receipt] = carol.get("/api/erasures").json()["receipts"]
    assert receipt["principal"] == digest
    assert digest in carol.get("/erasures").text


def test_an_id_with_marks_that_nobody_sees_is_confirmed_as_it_is(
    plain: IsolatedMemory,
):
    evil = "ali\u202ece"
    tutor_of(plain, evil)
    carol, digest = operator_of(plain), plain.user_digest(evil)
    for path, form in (
        ("/retention/keep", {"kind": "message", "module_id": evil, "days": "9"}),
        (f"/users/{digest}/erase", {"user_id": evil}),
    ):
        asked = carol.post(path, **form)
        assert carol.client.post(path, data=fields_of(asked.text)).status_code == 303

    assert [one.module_id for one in plain.retention.list()] == [evil]


def test_of_many_receipts_the_newest_are_shown_and_all_are_counted(
    plain: IsolatedMemory, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(erasures, "_RECEIPTS", 2)
    digests = []
    for user in ("ann", "bob", "zoe"):
        tutor_of(plain, user)
        digests.append(plain.user_digest(user))
        plain.erase_user(user)
    carol = operator_of(plain)
    told = carol.get("/api/erasures").json()

    assert told["finished"] == 3
    assert [one["principal"] for one in told["receipts"]] == [digests[2], digests[1]]
    page = carol.get("/erasures").text
    assert "The newest 2 of 3" in page
    assert digests[0] not in page


def test_a_hold_is_placed_seen_and_released(memory: IsolatedMemory, carol: Operator):
    tutor_of(memory)
    digest = memory.user_digest("alice")
    assert carol.post(f"/users/{digest}/hold", reason="").status_code == 400
    assert carol.do(f"/users/{digest}/hold", reason="Case 12", days="30").status_code == 303

    [hold] = memory.retention.holds()
    assert (hold.user_id, hold.by, hold.reason) == ("alice", "carol", "Case 12")
    assert hold.until is not None
    assert carol.get(f"/api/users/{digest}").json()["hold"]["by"] == "carol"
    held = carol.job(f"/users/{digest}/erase", user_id="alice")
    assert (held["state"], memory.user_digest("alice")) == ("failed", digest)
    assert "hold" in held["error"]
    [listed] = carol.get("/api/retention").json()["holds"]
    assert carol.post("/retention/release", hold="guess").status_code == 404
    assert carol.do("/retention/release", hold=listed["reference"]).status_code == 303
    assert memory.retention.holds() == []


def test_a_page_from_before_ends_no_hold_and_no_policy_that_came_since(plain: IsolatedMemory):
    tutor_of(plain)
    carol, digest = operator_of(plain), plain.user_digest("alice")
    carol.do(f"/users/{digest}/hold", reason="Case 12")
    carol.do("/retention/keep", kind="message", days="30")
    former = carol.get("/api/retention").json()
    forms = (
        ("/retention/release", {"hold": former["holds"][0]["reference"]}),
        ("/retention/remove", {"policy": former["policies"][0]["reference"]}),
    )
    asked = [carol.post(path, **form) for path, form in forms]
    assert "Why: Case 12" in asked[0].text
    assert "30 days" in asked[1].text
    assert forms[0][1]["hold"] in carol.get(f"/users/{digest}").text
    plain.retention.release("alice")
    plain.retention.hold("alice", reason="Case 13", by="legal")
    plain.retention.keep("message", days=900)

    for path, form in forms:
        assert carol.post(path, **form, confirmed="yes").status_code == 404
    assert [hold.reason for hold in plain.retention.holds()] == ["Case 13"]
    assert [policy.age for policy in plain.retention.list()] == [timedelta(days=900)]


def test_policies_are_kept_and_ended_and_a_sweep_has_a_dry_run(
    memory: IsolatedMemory, carol: Operator
):
    scope = tutor_of(memory)
    scope.store().put(("drafts",), "a", {"n": 1}, ttl=60 / 10**9)
    for wrong in ({"kind": "message"}, {"kind": "x", "days": 1}, {"kind": "message", "days": "-1"}):
        assert carol.post("/retention/keep", **wrong).status_code == 400
    assert carol.do("/retention/keep", kind="session", idle_days="9").status_code == 303
    refused = carol.do("/retention/keep", kind="item", idle_days="9")
    assert refused.status_code == 400
    assert carol.do("/retention/keep", kind="item", module_id="tutor", days="9").status_code == 303

    policies = {one.kind: one for one in memory.retention.list()}
    assert policies["session"].idle == timedelta(days=9)
    assert (policies["item"].module_id, policies["item"].age) == ("tutor", timedelta(days=9))
    listed = carol.get("/api/retention").json()["policies"]
    reference = next(one["reference"] for one in listed if one["kind"] == "item")
    assert carol.post("/retention/remove", policy="guess").status_code == 404
    assert carol.do("/retention/remove", policy=reference).status_code == 303
    assert [one.kind for one in memory.retention.list()] == ["session"]
    dry = carol.job("/retention/sweep", dry_run="yes")
    assert (dry["outcome"]["counts"], dry["outcome"]["is_dry_run"]) == ({"item": 1}, True)
    assert carol.job("/retention/sweep")["outcome"]["counts"] == {"item": 1}
    assert carol.job("/retention/sweep")["outcome"]["counts"] == {}


@pytest.mark.parametrize(
    ("age", "shown"),
    [
        (timedelta(days=90), "90 days"),
        (timedelta(days=1), "1 day"),
        (timedelta(hours=25), "25 hours"),
        (timedelta(minutes=5), "5 minutes"),
    ],
)
def test_how_long_a_policy_keeps_is_told_exactly(plain: IsolatedMemory, age: timedelta, shown: str):
    plain.retention.keep("message", age=age)

    assert f"<td>{shown}</td>" in operator_of(plain).get("/retention").text


def test_keys_are_rotated_and_what_is_stored_is_verified(memory: IsolatedMemory, carol: Operator):
    tutor_of(memory).module("planner").chat_history("x").add_user_message("Hi")
    digest = memory.user_digest("alice")

    assert carol.job(f"/users/{digest}/rotate")["outcome"]["keys_destroyed"] == 1
    assert carol.job("/keys/rotate")["outcome"]["is_done"]
    assert carol.get("/api/keys").json()["pending"] == 0
    assert [key["state"] for key in carol.get(f"/api/users/{digest}").json()["keys"]["keys"]]
    assert carol.job(f"/users/{digest}/verify")["outcome"]["is_clean"]
    assert carol.job(f"/users/{digest}/verify-isolation")["outcome"]["pairs"] == 2
    assert carol.job("/verification/run", read_only="yes", sample="1")["outcome"]["is_clean"]
    assert carol.get("/api/verification").json()["report"]["is_clean"]
    assert "Nothing was found." in carol.get("/verification").text
    assert carol.job("/erasures/resume")["outcome"] == {"receipts": []}
    assert carol.job("/erasures/finish")["outcome"]["heap"] in ("scrubbed", "pending")


def test_what_was_tampered_with_is_told_and_other_modules_are_shown(
    memory: IsolatedMemory, carol: Operator, attacker: Attacker
):
    tutor_of(memory)
    digest = memory.user_digest("alice")
    attacker("UPDATE sessions SET row_mac = ?", bytes(16))

    assert carol.get(f"/users/{digest}").status_code == 200
    report = carol.job("/verification/run", read_only="yes")["outcome"]
    assert not report["is_clean"]
    assert 'role="alert"' in carol.get("/verification").text


def test_who_holds_the_keys_is_counted_verified_and_erased_and_never_read(
    memory: IsolatedMemory, carol: Operator
):
    tutor_of(memory).profile().add_fact("Likes chess.")
    memory.audit.switch_on(AuditOptions())
    memory.lock_with("alice", secret=bytes(range(32)))
    digest = memory.user_digest("alice")

    page, told = carol.get(f"/users/{digest}").text, carol.get(f"/api/users/{digest}").json()
    assert told["is_locked"]
    assert told["modules"][0]["totals"]["messages"] == 1
    assert "The user holds the keys" in page
    assert "break-glass" not in page
    carol.do(f"/users/{digest}/break-glass", reason="Ticket")
    read = carol.post(f"/users/{digest}/read")
    assert read.status_code == 409
    assert "Likes chess" not in read.text
    assert carol.job(f"/users/{digest}/rotate")["state"] == "failed"
    assert carol.job(f"/users/{digest}/verify")["outcome"]["locked"] == 1
    assert carol.job(f"/users/{digest}/erase", user_id="alice")["state"] == "done"


# --- the audit log, and break-glass


def test_content_is_read_with_a_reason_and_the_user_sees_who_it_was(
    memory: IsolatedMemory, carol: Operator
):
    scope = tutor_of(memory)
    scope.sessions.rename("monday", "Multiplication")
    scope.profile().add_fact("Likes chess.")
    memory.audit.switch_on(AuditOptions())
    digest = memory.user_digest("alice")
    refused = carol.post(f"/users/{digest}/read")
    assert refused.status_code == 403
    assert "Likes chess" not in refused.text
    for wrong in ({"reason": ""}, {"reason": "Ticket", "minutes": "x"}, {"reason": "x" * 1001}):
        assert carol.post(f"/users/{digest}/break-glass", **wrong).status_code == 400
    too_long = carol.do(f"/users/{digest}/break-glass", reason="Ticket", minutes="1441")
    assert too_long.status_code == 400
    assert carol.do(f"/users/{digest}/break-glass", reason="Ticket 12", minutes="5").is_redirect

    read = carol.post(f"/users/{digest}/read")
    assert read.status_code == 200
    assert "Likes chess." in read.text
    assert "Multiplication" in read.text
    reference = read.text.partition("/read/")[2].partition('"')[0]
    session = carol.post(f"/users/{digest}/read/{reference}")
    assert "What is 6 times 7?" in session.text
    assert carol.post(f"/users/{digest}/read/guess").status_code == 404
    for other in ("dave", "Carol", "carol "):
        refused = operator_of(memory, other).post(f"/users/{digest}/read/{reference}")
        assert refused.status_code == 403
    dave = operator_of(memory, "dave")
    assert dave.post(f"/users/{digest}/read").status_code == 403
    noted = [(one.operation, one.outcome, one.actor, one.reason) for one in scope.audit_log()]
    assert ("break_glass", "done", "carol", "Ticket 12") in noted
    assert ("show", "done", "carol", "Ticket 12") in noted
    assert ("compare_modules", "done", "carol", "Ticket 12") in noted
    assert ("sessions", "refused", "dave", None) in noted
    assert "Ticket 12" in carol.get(f"/users/{digest}").text
    assert carol.do(f"/users/{digest}/break-glass/end").is_redirect
    assert carol.post(f"/users/{digest}/read").status_code == 403


def test_a_permission_is_for_nobody_of_the_same_id_in_another_project(plain: IsolatedMemory):
    digests = []
    for project in ("default", "other"):
        tutor_of(plain, "alice", project).sessions.rename("monday", f"Of {project}")
        digests.append(plain.user_digest("alice", project_id=project))
    plain.audit.switch_on()
    carol, (here, there) = operator_of(plain), digests
    carol.do(f"/users/{here}/break-glass", reason="Ticket")
    read = carol.post(f"/users/{here}/read").text
    reference = read.partition("/read/")[2].partition('"')[0]

    assert "Of default" in read
    assert "Of other" not in read
    for path in (f"/users/{there}/read", f"/users/{there}/read/{reference}"):
        assert carol.post(path).status_code == 403
    carol.do(f"/users/{there}/break-glass", reason="Ticket")
    assert carol.post(f"/users/{there}/read/{reference}").status_code == 404


def test_a_long_session_is_read_page_by_page(plain: IsolatedMemory):
    history = tutor_of(plain).chat_history("long")
    for number in range(60):
        history.add_user_message(f"<{number:03}>")
    plain.audit.switch_on()
    carol, digest = operator_of(plain), plain.user_digest("alice")
    carol.do(f"/users/{digest}/break-glass", reason="Ticket")
    listed = carol.post(f"/users/{digest}/read").text
    texts = [
        carol.post(f"/users/{digest}/read/{part.partition(chr(34))[0]}").text
        for part in listed.split("/read/")[1:]
    ]
    page = next(text for text in texts if "&lt;059&gt;" in text)

    assert "&lt;010&gt;" in page
    assert "&lt;009&gt;" not in page
    before = page.partition('name="before" value="')[2].partition('"')[0]
    reference = listed.split("/read/")[1 + texts.index(page)].partition('"')[0]
    older = carol.post(f"/users/{digest}/read/{reference}", before=before).text
    assert "&lt;000&gt;" in older
    assert "&lt;010&gt;" not in older


def test_without_the_audit_log_nobody_reads_content(memory: IsolatedMemory, carol: Operator):
    tutor_of(memory).profile().add_fact("Likes chess.")
    digest = memory.user_digest("alice")

    for answer in (
        carol.post(f"/users/{digest}/read"),
        carol.post(f"/users/{digest}/break-glass", reason="Ticket"),
    ):
        assert answer.status_code == 409
        assert "audit log is off" in answer.text
        assert "Likes chess" not in answer.text
    assert carol.do("/audit/on").is_redirect
    assert memory.audit.status().is_on
    assert carol.post("/audit/off").status_code == 400
    assert carol.job("/audit/verify")["outcome"]["entries"] > 0
    assert carol.do("/audit/off", reason="Moved").is_redirect
    last = memory.audit.entries()[0]
    assert (last.actor, last.reason) == ("carol", "Moved")


def test_every_action_is_noted_with_who_did_it_and_why(memory: IsolatedMemory, carol: Operator):
    memory.audit.switch_on(AuditOptions())
    tutor_of(memory)
    digest = memory.user_digest("alice")
    carol.do("/retention/keep", kind="item", days="9", reason="Policy 7")
    carol.do(f"/users/{digest}/hold", reason="Case 12")
    [hold] = carol.get("/api/retention").json()["holds"]
    carol.do("/retention/release", hold=hold["reference"])
    carol.job(f"/users/{digest}/rotate")
    carol.job(f"/users/{digest}/verify-isolation")

    entries = memory.audit.entries(limit=100)
    by = {one.operation: one.actor for one in entries}
    assert {"policy", "hold", "hold_released", "rotate_keys", "verify_module_isolation"} <= set(by)
    assert set(by.values()) <= {"carol", None}
    assert [one.reason for one in entries if one.operation == "policy"] == ["Policy 7"]
    page = carol.get("/audit").text
    assert "rotate_keys" in page
    assert "alice" not in page


def test_the_audit_log_is_paged(plain: IsolatedMemory):
    plain.audit.switch_on()
    for number in range(130):
        plain.retention.keep("item", module_id=f"m{number}", days=1)
    carol = operator_of(plain)
    first = carol.get("/api/audit").json()
    second = carol.get(f"/api/audit?before={first['next']}").json()

    assert len(first["entries"]) == 100
    assert len(second["entries"]) >= 30
    assert second["next"] is None
    for wrong in ("x", "1e400", "nan", "-1e300"):
        assert carol.get(f"/audit?before={wrong}").status_code == 400


# --- hostile


def test_every_post_without_a_token_or_with_anothers_does_nothing(
    plain: IsolatedMemory, stored: Callable[[], Any]
):
    tutor_of(plain)
    plain.audit.switch_on()
    secret = bytes(range(32))
    carol = operator_of(plain, secret=secret)
    digest, before = plain.user_digest("alice"), stored()
    form = {"confirmed": "yes", "reason": "x", "user_id": "alice", "kind": "item", "days": "1"}
    every = [filled(path, digest, "x") for path in paths(carol.app, "POST")]
    dave = operator_of(plain, "dave", secret=secret).token()

    assert len(every) > 20
    for path in every:
        for token in ("", "x", dave, Signer(bytes(32)).csrf_token("carol")):
            answer = carol.client.post(path, data={**form, "csrf_token": token})
            assert answer.status_code == 403, path
        for site in ("cross-site", "same-site"):
            answer = carol.client.post(
                path,
                data={**form, "csrf_token": carol.token()},
                headers={"sec-fetch-site": site},
            )
            assert answer.status_code == 403, path
    assert stored() == before


def test_get_changes_nothing(plain: IsolatedMemory, stored: Callable[[], Any]):
    store_everything(tutor_of(plain))
    plain.audit.switch_on()
    plain.retention.hold("alice", reason="x", by="legal")
    carol = operator_of(plain)
    job = carol.job("/retention/sweep", dry_run="yes")["id"]
    digest, before = plain.user_digest("alice") or "", stored()

    every = {*paths(carol.app, "GET"), *paths(carol.app, "POST")}
    for path in (filled(path, digest, job) for path in every):
        for asked in (path, f"{path}?confirmed=yes&reason=x&user_id=alice&kind=item&days=1"):
            assert carol.get(asked).status_code in (200, 404, 405)
    assert stored() == before


def test_nobody_who_is_not_authorized_sees_anything(plain: IsolatedMemory):
    tutor_of(plain)
    app = admin_app(plain, authorize=lambda _: None)
    client = TestClient(app)
    for path in paths(app, "GET"):
        answer = client.get(path.replace("{digest}", plain.user_digest("alice") or ""))
        assert answer.status_code == (200 if path == "/health" else 401), path
        assert "tutor" not in answer.text
    for path in paths(app, "POST"):
        assert client.post(path, data={"confirmed": "yes"}).status_code == 401


@pytest.mark.parametrize("wrong", [True, 7, "", b"carol", "x" * 1001])
def test_who_is_authorized_by_no_name_does_and_sees_nothing(plain: IsolatedMemory, wrong: Any):
    tutor_of(plain)
    app = admin_app(plain, authorize=lambda _: wrong)
    for path in ("/", "/api/stats", "/users"):
        answer = TestClient(app).get(path)
        assert answer.status_code in (400, 500)
        assert "tutor" not in answer.text


def test_what_users_wrote_is_never_markup(plain: IsolatedMemory):
    scope = plain.scope(user_id=EVIL, module_id=EVIL, project_id=EVIL)
    scope.chat_history(EVIL).add_user_message(EVIL)
    scope.sessions.rename(EVIL, EVIL)
    scope.profile().add_fact(EVIL)
    scope.profile().add_interest(EVIL)
    scope.profile().set_attribute(EVIL, EVIL)
    scope.profile().set_summary(EVIL)
    scope.cross_module().add_fact(EVIL)
    plain.audit.switch_on()
    with plain.audit.acting_as(EVIL, EVIL):
        plain.retention.keep("message", module_id=EVIL, channel=EVIL, project_id=EVIL, days=9)
        plain.retention.hold(EVIL, reason=EVIL, by=EVIL, project_id=EVIL)
    evil = operator_of(plain, EVIL)
    digest = plain.user_digest(EVIL, project_id=EVIL)
    evil.do(f"/users/{digest}/break-glass", reason=EVIL)
    pages = [evil.get(page.path.replace("{digest}", digest or "")) for page in TABLE
             if isinstance(page, Page) and page.name != "job"]  # fmt: skip
    read = evil.post(f"/users/{digest}/read")
    reference = read.text.partition("/read/")[2].partition('"')[0]
    pages += [read, evil.post(f"/users/{digest}/read/{reference}")]
    pages += [evil.post(f"/users/{digest}/hold", reason=EVIL)]
    pages += [evil.post("/retention/keep", kind="message", days="1", module_id=EVIL)]

    for page in pages:
        assert page.status_code == 200
        assert "<script>alert" not in page.text
        assert "<img src=x" not in page.text
        assert 'href="javascript' not in page.text
    assert sum("&lt;script&gt;alert" in page.text for page in pages) >= 8


def test_what_turns_text_around_is_written_out(plain: IsolatedMemory):
    # A right-to-left override.
    evil = "\u202eevil"
    scope = plain.scope(user_id=evil, module_id=evil, project_id=evil)
    scope.chat_history(evil).add_message(AIMessage(evil, name=evil, tool_calls=[
        {"name": evil, "args": {}, "id": "1"}]))  # fmt: skip
    scope.sessions.rename(evil, evil)
    scope.profile().set_attribute(evil, evil)
    scope.cross_module().set_attribute(evil, evil)
    plain.audit.switch_on()
    plain.retention.keep("message", module_id=evil, channel=evil, project_id=evil, days=9)
    plain.retention.hold(evil, reason=evil, by=evil, project_id=evil)
    carol, digest = operator_of(plain, evil), plain.user_digest(evil, project_id=evil)
    carol.do(f"/users/{digest}/break-glass", reason=evil)
    read = carol.post(f"/users/{digest}/read")
    reference = read.text.partition("/read/")[2].partition('"')[0]
    job = carol.job("/retention/sweep", dry_run="yes")["id"]
    pages = [carol.get(page_path(plain, name, job).replace("/users/", f"/users/{digest}"))
             for name in NAMES]  # fmt: skip
    pages += [read, carol.post(f"/users/{digest}/read/{reference}")]

    for page in pages:
        assert page.status_code == 200
        assert evil not in page.text, page.url
    assert sum("[U+202E]evil" in page.text for page in pages) >= 8


def test_no_id_is_in_an_address_or_a_log(plain: IsolatedMemory, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    tutor_of(plain, CANARY, CANARY).sessions.rename("monday", CANARY)
    plain.audit.switch_on()
    carol, asked = operator_of(plain), []
    carol.client.event_hooks["response"].append(
        lambda answer: asked.extend([str(answer.url), answer.headers.get("location", "")])
    )
    found = carol.post("/users/find", user_id=CANARY, project_id=CANARY)
    user = found.headers["location"]
    carol.get(user)
    carol.do(f"{user}/break-glass", reason=CANARY)
    read = carol.post(f"{user}/read").text
    carol.post(f"{user}/read/{read.partition('/read/')[2].partition(chr(34))[0]}")
    for page in ("/projects", "/users", "/audit", "/retention"):
        text = carol.get(page).text
        links = [part.partition('"')[0] for part in text.split('href="')[1:]]
        assert CANARY not in " ".join(links)
    carol.do(f"{user}/hold", reason=CANARY)
    carol.post("/users/find", user_id=f"not-{CANARY}")
    carol.post(f"{user}/erase", user_id=f"not-{CANARY}")
    carol.do("/retention/release", hold=carol.get(f"/api{user}").json()["hold"]["reference"])
    carol.job(f"{user}/erase", user_id=CANARY)

    assert len(asked) > 20
    assert CANARY not in " ".join(asked)
    assert "canary" not in caplog.text


@pytest.mark.parametrize(
    "path",
    ["/users/..%2f..", "/users/alice", "/users/%00", "/users/" + "0" * 31, "/users/" + "g" * 32,
     "/users/" + "é" * 32, "/jobs/1", "/jobs/../users", "/static/../application.py",
     "/static/..%2fapplication.py", "/api/users/x", "/users//erase"],
)  # fmt: skip
def test_guessed_paths_lead_nowhere(plain: IsolatedMemory, path: str):
    tutor_of(plain)
    answer = operator_of(plain).get(path)

    assert answer.status_code in (404, 405, 200)
    assert "import" not in answer.text
    assert "tutor" not in answer.text or answer.url.path == "/users"


def test_a_surrogate_in_what_is_stored_hides_nothing_from_the_operator(plain: IsolatedMemory):
    scope = tutor_of(plain)
    scope.sessions.rename("monday", "Bad \udc80 title")
    scope.chat_history("monday").add_user_message("Bad \ud800 text")
    plain.audit.switch_on()
    with plain.audit.acting_as("bo\ud800b", "why\ud800"):
        plain.retention.hold("alice", reason="case\ud800", by="bo\ud800b")
    carol, digest = operator_of(plain), plain.user_digest("alice")
    carol.do(f"/users/{digest}/break-glass", reason="Ticket")
    read = carol.post(f"/users/{digest}/read")
    reference = read.text.partition("/read/")[2].partition('"')[0]

    assert "Bad [U+DC80] title" in read.text
    session = carol.post(f"/users/{digest}/read/{reference}").text
    assert "Bad [U+D800] text" in session
    for path in ("/retention", "/audit", f"/users/{digest}"):
        assert carol.get(path).status_code == 200
        assert carol.get(f"/api{path}").status_code == 200


@pytest.mark.parametrize("name", ["minutes", "days"])
@pytest.mark.parametrize("wrong", ["0", "-1", "1.5", "²", "٣", "9" * 11, "1e3"])
def test_a_number_that_is_none_is_told_before_anything_is_asked(
    plain: IsolatedMemory, name: str, wrong: str
):
    tutor_of(plain)
    plain.audit.switch_on()
    action = {"minutes": "break-glass", "days": "hold"}[name]
    path = f"/users/{plain.user_digest('alice')}/{action}"
    refused = operator_of(plain).post(path, reason="Ticket", **{name: wrong})

    assert refused.status_code == 400
    assert f"{name} must be a whole number of 1 or more" in refused.text


def test_no_answer_sends_anybody_to_the_host_that_a_request_names(plain: IsolatedMemory):
    carol = operator_of(plain)
    carol.client.headers["host"] = "evil.example"
    tutor_of(plain)
    answers = [
        carol.get("/users/"),
        carol.get("/static"),
        carol.get("//evil.example/users/"),
        carol.post("/users/find", user_id="alice"),
    ]

    assert "evil" not in " ".join(answer.headers.get("location", "") for answer in answers)


def test_no_frame_may_hold_a_page(plain: IsolatedMemory):
    headers = operator_of(plain).get("/").headers

    assert headers["x-frame-options"] == "DENY"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]


def test_fifty_operators_at_once_all_get_their_pages(memory: IsolatedMemory):
    for number in range(5):
        store_everything(tutor_of(memory, f"u{number}"))
    app = admin_app(memory, authorize=lambda request: request.headers.get("who"))
    digest = memory.user_digest("u1")

    def visit(number: int) -> list[int]:
        client = TestClient(app, headers={"who": f"operator {number}"})
        asked = ("/", "/users", f"/users/{digest}", "/retention", "/api/stats", "/health")
        return [client.get(path).status_code for path in asked]

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(visit, range(50)))

    assert answers == [[200] * 6] * 50


# --- where it stands


def test_mounted_it_is_found_below_its_path(plain: IsolatedMemory):
    tutor_of(plain)
    outer = FastAPI()
    outer.mount("/memory", admin_app(plain, authorize=lambda _: "carol"))
    carol = Operator(outer, "/memory")
    digest = plain.user_digest("alice")

    page = carol.get("/users")
    assert f'href="/memory/users/{digest}"' in page.text
    assert 'href="/memory/static/operator.css"' in page.text
    assert "<script" not in page.text
    assert carol.job("/retention/sweep", dry_run="yes")["state"] == "done"
    found = carol.post("/users/find", user_id="alice")
    assert found.headers["location"] == f"/memory/users/{digest}"


def test_endpoints_of_the_application_around_it_take_no_link_and_no_form(plain: IsolatedMemory):
    tutor_of(plain)
    outer = FastAPI()
    for route in admin_app(plain, authorize=lambda _: None).routes:
        outer.add_api_route(f"/outer{route.path}", lambda: "outer", name=route.name)
    outer.mount("/memory", admin_app(plain, authorize=lambda _: "carol"), name="static")
    carol, digest = Operator(outer, "/memory"), plain.user_digest("alice")

    for page in ("/", "/projects", "/users", f"/users/{digest}", "/retention", "/erasures"):
        shown = carol.get(page).text
        for link in ("href", "action", "src"):
            targets = [part.partition('"')[0] for part in shown.split(f'{link}="')[1:]]
            assert all(one.startswith(("/memory/", "#")) for one in targets), targets
    assert carol.post("/users/find", user_id="alice").headers["location"].startswith("/memory/")


def test_who_may_see_it_may_be_asked_of_somebody_else(plain: IsolatedMemory):
    async def authorize(request: Request) -> str | None:
        await asyncio.sleep(0)
        return request.headers.get("who")

    client = TestClient(admin_app(plain, authorize=authorize))
    assert client.get("/").status_code == 401
    assert client.get("/", headers={"who": "carol"}).status_code == 200


def test_a_database_that_is_away_is_told_by_health_and_pages(
    sqlite_url: str, root_key: LocalRootKey
):
    memory = IsolatedMemory(sqlite_url, root_key=root_key).open()
    client = TestClient(admin_app(memory, authorize=lambda _: "carol"))
    assert (client.get("/health").status_code, client.get("/health").text) == (200, "ok")
    memory.close()

    assert (client.get("/health").status_code, client.get("/health").text) == (503, "unavailable")
    assert client.get("/").status_code == 503
    assert client.get("/api/stats").status_code == 503
