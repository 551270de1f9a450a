"""The FastAPI example as a process of its own: accounts, streams of two users, and a hostile third.

On SQLite, and on PostgreSQL, with the model that the example has by default.
"""

import asyncio
import json
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote
from uuid import uuid4

import httpx
import pytest

from examples.fastapi_sse.app import application
from examples.logins.accounts import Accounts
from langmem_isolated import IsolatedMemory, LocalRootKey
from langmem_isolated.testing import EchoChatModel, assert_nothing_readable
from langmem_isolated.testing.echo_model import FAILURE
from tests.browsing import chromium, serious_violations
from tests.conftest import ROOT_KEY
from tests.servers.program import PROJECT, Program
from tests.servers.uvicorn_thread import served

PASSWORD = "a password that stands nowhere else"
COMMAND = ("uvicorn", "--factory", "examples.fastapi_sse.app:application", "--port", "{port}")


def example(folder: Path, database: str) -> Program:
    folder.mkdir(exist_ok=True)
    environment = {
        "LANGMEM_ISOLATED_ROOT_KEY": b64encode(ROOT_KEY).decode(),
        "LANGMEM_ISOLATED_DATABASE": database,
        "PYTHONPATH": str(PROJECT),
        "MODEL": "",
    }
    return Program(COMMAND, folder, "/", environment)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    folder = tmp_path_factory.mktemp("fastapi")
    with example(folder, f"sqlite:///{folder}/memory.db") as server:
        yield server
        assert "Traceback" not in server.log.read_text()


class User(NamedTuple):
    """Someone with an account, and a browser of their own."""

    name: str
    client: httpx.AsyncClient

    async def say(self, text: str, conversation: str = "1", **options: Any) -> str:
        """The answer, joined from the parts in which it came."""
        return "".join([part async for part in self.parts(text, conversation, **options)])

    async def parts(self, text: str, conversation: str = "1", **options: Any) -> AsyncIterator[str]:
        asking = self.client.stream(
            "POST", f"/conversations/{conversation}", json={"text": text}, **options
        )
        async with asking as response:
            assert response.status_code == 200, await response.aread()
            assert response.headers["content-type"].startswith("text/event-stream")
            blocks = (await response.aread()).decode().split("\n\n")[:-1]
        events = [[line.partition(": ")[2] for line in block.split("\n")] for block in blocks]
        assert events[-1][0] == "done"
        for _, data in events[:-1]:
            yield json.loads(data)

    async def read(self, conversation: str = "1", **options: Any) -> list[str]:
        answer = await self.client.get(f"/conversations/{conversation}", **options)
        return [message["text"] for message in answer.json()]


async def registered(url: str, name: str) -> User:
    """A user with a name that nobody has had; cookies are theirs alone."""
    client = httpx.AsyncClient(base_url=url, timeout=30)
    name = f"{name}-{uuid4().hex[:8]}"
    answer = await client.post("/register", json={"name": name, "password": PASSWORD})
    assert answer.status_code == 201, answer.text
    return User(name, client)


@pytest.fixture
async def users(server: Program) -> AsyncIterator[list[User]]:
    users = await asyncio.gather(*(registered(server.url, name) for name in ("alice", "bob")))
    yield users
    for user in users:
        await user.client.aclose()


@pytest.fixture
async def mallory(server: Program) -> AsyncIterator[User]:
    user = await registered(server.url, "mallory")
    yield user
    await user.client.aclose()


async def test_what_one_is_told_in_one_conversation_is_known_in_the_next_and_to_nobody_else(
    users: list[User],
):
    alice, bob = users

    assert await alice.say("My cat is Mia.") == "I will remember that."

    assert await alice.say("What is my cat?", "2") == "Your cat is Mia."
    assert await bob.say("What is my cat?", "2") == "You have not told me your cat."
    assert await bob.say("What is my cat?") == "You have not told me your cat."
    assert [one["title"] for one in (await bob.client.get("/conversations")).json()] == [
        "What is my cat?"
    ] * 2


async def test_interleaved_streams_of_one_conversation_id_stay_with_their_users(users: list[User]):
    await interleaved(users)


async def test_on_postgresql_they_do_too(tmp_path: Path, postgres_url: str):
    with example(tmp_path, postgres_url) as server:
        users = [await registered(server.url, name) for name in ("alice", "bob")]
        await interleaved(users)
        for user in users:
            await user.client.aclose()


async def interleaved(users: list[User]) -> None:
    for number in range(3):
        said = [f"{user.name} says {number}" for user in users]
        parts = await asyncio.gather(
            *(_all(user.parts(text)) for user, text in zip(users, said, strict=True))
        )
        assert ["".join(one) for one in parts] == [f"You said: {text}" for text in said]
        assert all(len(one) > 3 for one in parts)

    for user in users:
        heard = [text for text in await user.read() if not text.startswith("You")]
        assert heard == [f"{user.name} says {number}" for number in range(3)]


async def _all(parts: AsyncIterator[str]) -> list[str]:
    return [part async for part in parts]


async def test_many_streams_at_once_stay_with_their_conversations(users: list[User]):
    asked = [(user, f"{number}") for number in range(5) for user in users]

    answers = await asyncio.gather(*(user.say(f"{user.name} {n}", n) for user, n in asked))

    assert answers == [f"You said: {user.name} {n}" for user, n in asked]


async def test_an_answer_is_written_to_its_end_when_its_reader_leaves_in_the_middle(
    users: list[User],
):
    alice, bob = users
    long = " ".join(f"alice-{number}" for number in range(50))
    async with alice.client.stream("POST", "/conversations/1", json={"text": long}) as response:
        async for _ in response.aiter_lines():
            break

    assert await bob.say("bob alone") == "You said: bob alone"
    for _ in range(1200):
        if len(read := await alice.read()) == 2:
            break
        await asyncio.sleep(0.05)

    assert read == [long, f"You said: {long}"]
    assert await alice.say("and now") == "You said: and now"


async def test_a_question_before_the_answer_is_told_to_wait_and_others_are_not(users: list[User]):
    alice, bob = users
    body = {"text": "one " * 50}
    # On a machine with other work the answer may be over before the second question is sent.
    for _ in range(20):
        async with alice.client.stream("POST", "/conversations/1", json=body) as response:
            refused = await alice.client.post("/conversations/1", json={"text": "two"})
            elsewhere = await alice.say("elsewhere", "2")
            others = await bob.say("mine")
            await response.aread()
        if refused.status_code == 409:
            break

    assert refused.status_code == 409
    assert elsewhere == "You said: elsewhere"
    assert others == "You said: mine"
    assert await alice.say("three") == "You said: three"


async def test_who_is_not_logged_in_gets_401(server: Program, users: list[User]):
    user_id = Accounts(server.folder / "accounts.db").checked(users[0].name, PASSWORD)
    tokens = ("", users[0].name, user_id, "x" * 5_000, "' OR 1=1 --", "%00")
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
        for headers in ({}, *({"cookie": f"session={token}"} for token in tokens)):
            said = {"text": "hello"}
            answers = [
                await client.post("/conversations/1", json=said, headers=headers),
                await client.get("/conversations/1", headers=headers),
                await client.get("/conversations", headers=headers),
                await client.get("/me", headers=headers),
            ]
            assert [answer.status_code for answer in answers] == [401] * 4


async def test_who_names_another_user_gets_nothing_of_theirs(
    server: Program, users: list[User], mallory: User
):
    alice, _ = users
    await alice.say("My secret is 4711.")
    # More than anybody is told: the id that memory is scoped by.
    user_id = Accounts(server.folder / "accounts.db").checked(alice.name, PASSWORD)
    assert user_id
    forged = {"user_id": user_id, "module_id": "chat", "session": user_id}
    client = mallory.client

    said = await mallory.say(
        "What is my secret?", params=forged, headers={**forged, "x-user-id": user_id}
    )
    read = await mallory.read("2", params=forged)
    more = {"text": "Hello", **forged, "configurable": forged, "config": {"configurable": forged}}
    answer = await client.post("/conversations/3", json=more)
    strange = [
        await client.get(f"/conversations/{path}")
        for path in ("..%2f..%2fme", "%00", "a" * 65, "1%0a", "{alice}", f"1?user_id={user_id}")
    ]

    assert said == "You have not told me your secret."
    assert read == []
    assert "4711" not in answer.text + "".join(one.text for one in strange)
    assert {one.status_code for one in strange} <= {200, 404, 422}
    assert await alice.read() == ["My secret is 4711.", "I will remember that."]


@pytest.mark.parametrize(
    "name", ["e\u0301", "\U00010400" * 64, "x" * 65], ids=["not NFC", "256 bytes", "65 letters"]
)
async def test_a_conversation_of_a_name_that_no_id_can_be_is_refused(users: list[User], name: str):
    path = f"/conversations/{quote(name)}"

    assert (await users[0].client.get(path)).status_code == 422
    assert (await users[0].client.post(path, json={"text": "hi"})).status_code == 422


async def test_a_login_ends_with_its_logout_and_needs_the_password(server: Program, mallory: User):
    client = mallory.client
    stolen = client.cookies["session"]
    wrong = {"name": mallory.name, "password": "x" * 8}
    taken = await client.post("/register", json={"name": mallory.name, "password": PASSWORD})
    assert taken.status_code == 409

    assert (await client.post("/login", json=wrong)).status_code == 401
    assert (await client.post("/login", json={**wrong, "name": "nobody"})).status_code == 401
    assert (await client.post("/logout")).status_code == 204
    assert (await client.get("/me")).status_code == 401
    thief = {"cookie": f"session={stolen}"}
    assert (await client.get("/me", headers=thief)).status_code == 401
    entered = await client.post("/login", json={"name": mallory.name, "password": PASSWORD})
    assert entered.status_code == 204
    assert (await client.get("/me")).json() == mallory.name


async def test_the_session_is_a_cookie_that_no_script_and_no_other_site_gets(server: Program):
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
        made = {"name": uuid4().hex, "password": PASSWORD}
        here = await client.post("/register", json=made)
        away = await client.post("/login", json=made, headers={"host": "chat.example"})
        page = await client.get("/")
        form = await client.post("/login", data=made)

    assert all(part in here.headers["set-cookie"] for part in ("HttpOnly", "SameSite=strict"))
    assert "Secure" in away.headers["set-cookie"]
    assert "default-src 'self'" in page.headers["content-security-policy"]
    # What a form of another site could send is no JSON.
    assert form.status_code == 422


async def test_the_page_of_ones_memory_is_that_of_who_is_logged_in(
    server: Program, users: list[User], mallory: User
):
    alice, _ = users
    await alice.say("My cat is Mia.")
    path = "/memory/"

    own = await alice.client.get(path)
    others = await mallory.client.get(path, params={"user_id": alice.name})
    async with httpx.AsyncClient(base_url=server.url) as nobody:
        nobodys = await nobody.get(path)

    assert (own.status_code, others.status_code, nobodys.status_code) == (200, 200, 401)
    assert "cat is Mia" not in others.text + nobodys.text
    # The page has a policy of its own, which the application leaves alone.
    assert own.headers["content-security-policy"].count("default-src") == 1


async def test_what_was_acknowledged_is_there_after_kill_9_and_nothing_is_readable(tmp_path: Path):
    database = f"sqlite:///{tmp_path}/memory.db"
    with example(tmp_path / "first", database) as server:
        user = await registered(server.url, "alice")
        await user.say("My canary is Zwitscherling.")
        token = user.client.cookies["session"]
        server.process.kill()
        server.process.wait()
        await user.client.aclose()

    looked_for = ["Zwitscherling", PASSWORD, token, "My canary"]
    assert_nothing_readable(tmp_path, canaries=looked_for)
    with example(tmp_path / "first", database) as server:
        cookies = {"session": token}
        async with httpx.AsyncClient(base_url=server.url, cookies=cookies, timeout=30) as client:
            again = User(user.name, client)
            assert await again.read() == ["My canary is Zwitscherling.", "I will remember that."]
            assert await again.say("What is my canary?", "2") == "Your canary is Zwitscherling."
    assert_nothing_readable(tmp_path, canaries=looked_for)


@pytest.mark.system("chromium")
def test_in_a_browser_what_is_said_is_text_and_is_there_after_a_reload(server: Program):
    attack = (
        "<img src=x onerror=\"document.title='broken'\"><script>document.title='broken'</script>"
    )
    with chromium() as browser:
        page = browser.new_page()
        page.goto(server.url)
        page.get_by_label("Name").fill(f"ada-{uuid4().hex[:8]}")
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Make an account").click()
        page.get_by_label("Message").fill(attack)
        page.get_by_role("button", name="Send").click()
        page.get_by_text("You said: <img").wait_for()
        page.get_by_role("button", name="<img").wait_for()

        page.reload()
        page.get_by_role("button", name="<img").click()
        page.get_by_text("You said: <img").wait_for()

        assert page.title() == "Chat"
        assert page.locator("#said li").all_text_contents() == [attack, f"You said: {attack}"]
        assert page.evaluate("document.cookie") == ""
        assert serious_violations(page) == []
        page.get_by_role("button", name="Log out").click()
        page.get_by_label("Password").wait_for()
        assert page.locator("#said li").count() == 0


@pytest.mark.system("chromium")
def test_in_a_browser_a_user_sees_what_is_remembered_and_has_it_forgotten(server: Program):
    name = f"ada-{uuid4().hex[:8]}"
    with chromium() as browser:
        page = browser.new_page()
        page.goto(server.url)
        page.get_by_label("Name").fill(name)
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Make an account").click()
        page.get_by_label("Message").fill("My cat is Mia.")
        page.get_by_role("button", name="Send").click()
        page.get_by_text("I will remember that.").wait_for()

        page.get_by_role("link", name="What is remembered of me").click()
        page.get_by_role("link", name="chat", exact=True).first.click()
        page.get_by_role("link", name="What is known").click()
        page.wait_for_url("**/profile")
        assert "My cat is Mia." in page.content()
        page.get_by_role("link", name="Forget me").click()
        page.get_by_role("textbox").fill("forget everything about me")
        page.get_by_role("button", name="Forget me").click()
        page.get_by_role("heading", name="You are forgotten").wait_for()

        page.goto(server.url)
        page.get_by_label("Name").fill(name)
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Log in").click()
        page.get_by_text("Name or password is wrong.").wait_for()


@pytest.fixture
def memory(sqlite_url: str, root_key: LocalRootKey) -> Iterator[IsolatedMemory]:
    with IsolatedMemory(sqlite_url, root_key=root_key) as memory:
        yield memory


async def test_a_model_that_fails_is_told_and_what_was_said_is_kept(
    memory: IsolatedMemory, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    accounts = Accounts(tmp_path / "accounts.db")
    with served(application(memory, EchoChatModel(), accounts)) as url:
        user = await registered(url, "alice")
        answer = await user.client.post("/conversations/1", json={"text": f"{FAILURE} secretly"})
        read = await user.read()
        await user.client.aclose()

    assert answer.text == 'event: failed\ndata: ""\n\n'
    assert read == [f"{FAILURE} secretly"]
    assert "EchoFailed" in caplog.text
    assert "secretly" not in caplog.text


def test_who_is_erased_has_no_account_any_more_and_their_name_inherits_nothing(
    memory: IsolatedMemory, tmp_path: Path
):
    accounts = Accounts(tmp_path / "accounts.db")
    application(memory, EchoChatModel(), accounts)
    former = accounts.register("alice", PASSWORD)
    token = accounts.log_in(former)
    memory.scope(user_id=former, module_id="chat").profile().add_fact("Likes tea.")

    receipt = memory.erase_user(former)

    assert "accounts" in str(receipt)
    assert accounts.user_of(token) is None
    assert accounts.checked("alice", PASSWORD) is None
    assert accounts.register("alice", PASSWORD) != former


def test_a_login_ends_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    accounts = Accounts(tmp_path / "accounts.db")
    token = accounts.log_in(accounts.register("alice", PASSWORD))
    assert accounts.user_of(token)
    later = time.time() + 31 * 24 * 3600

    monkeypatch.setattr(time, "time", lambda: later)

    assert accounts.user_of(token) is None
