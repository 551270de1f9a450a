"""The chat before the login over HTTP: cookies, recovery, planted links, and the claim."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import httpx
import pytest
from fastapi import FastAPI

from examples.anonymous_chat import application
from langmem_isolated import IsolatedMemory, LocalRootKey
from tests.servers.models import Echo

ALICE = {"name": "alice", "password": "wonderland"}
BOB = {"name": "bob", "password": "builder"}


@pytest.fixture
def memory(sqlite_url: str, root_key: LocalRootKey) -> Iterator[IsolatedMemory]:
    with IsolatedMemory(sqlite_url, root_key=root_key) as memory:
        yield memory


@pytest.fixture
def app(memory: IsolatedMemory) -> FastAPI:
    return application(memory, Echo())


@asynccontextmanager
async def browser(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """Keeps cookies as a browser does; `Secure` ones for HTTPS alone."""
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="https://chat.test") as client:
        yield client


async def say(client: httpx.AsyncClient, text: str) -> str:
    answer = await client.post("/chat", json={"text": text})
    assert answer.status_code == 200
    return str(answer.json()).strip()


async def read(client: httpx.AsyncClient) -> list[str]:
    found: list[str] = (await client.get("/chat")).json()
    return found


async def test_a_guest_is_known_by_a_cookie_that_no_script_and_no_other_site_gets(app: FastAPI):
    async with browser(app) as guest, browser(app) as other:
        answer = await guest.post("/chat", json={"text": "Hi"})
        cookie = answer.headers["set-cookie"].lower()

        assert all(part in cookie for part in ("httponly", "secure", "samesite=strict"))
        assert await say(guest, "again") == "You said: Hi, again"
        assert await say(other, "mine") == "You said: mine"


async def test_what_was_said_is_the_users_once_the_user_says_so(app: FastAPI):
    async with browser(app) as client:
        await say(client, "before the login")
        logged_in = await client.post("/login", json=ALICE)
        assert logged_in.json() == {"ask_whose_it_is": True}
        assert await read(client) == []

        claimed = await client.post("/claim", json={"was_me": True})

        assert claimed.json()["thread"] == 1
        assert "guest" not in client.cookies
        assert await say(client, "after it") == "You said: before the login, after it"
        await client.post("/logout")
        assert await say(client, "a guest anew") == "You said: a guest anew"


async def test_a_planted_login_link_collects_nothing(app: FastAPI, memory: IsolatedMemory):
    async with browser(app) as victim, browser(app) as attacker:
        await say(victim, "my secret")
        await victim.post("/login", json=BOB)  # the attacker's account
        await victim.post("/claim", json={"was_me": False})

        await attacker.post("/login", json=BOB)
        assert await read(attacker) == []
        assert (await attacker.post("/claim", json={"was_me": True})).status_code == 404
    assert memory.modules(user_id="bob") == []


@pytest.mark.parametrize("sent", [{}, {"was_me": None}, {"was_me": "perhaps"}])
async def test_a_claim_without_an_answer_is_refused(app: FastAPI, sent: dict[str, object]):
    async with browser(app) as client:
        await say(client, "Hi")
        await client.post("/login", json=ALICE)

        assert (await client.post("/claim", json=sent)).status_code == 422
        assert "guest" in client.cookies


async def test_nobody_claims_without_a_login_or_twice(app: FastAPI):
    async with browser(app) as client:
        await say(client, "Hi")
        stolen = client.cookies["guest"]
        assert (await client.post("/claim", json={"was_me": True})).status_code == 401
        await client.post("/login", json=ALICE)
        await client.post("/claim", json={"was_me": True})
    async with browser(app) as thief:
        await thief.post("/login", json=BOB)
        thief.cookies.set("guest", stolen, domain="chat.test", path="/")

        assert (await thief.post("/claim", json={"was_me": True})).status_code == 404
        assert await read(thief) == []


async def test_a_wrong_password_logs_nobody_in(app: FastAPI):
    async with browser(app) as client:
        wrong = {"name": "alice", "password": ""}

        assert (await client.post("/login", json=wrong)).status_code == 401
        assert (await client.post("/login", json={**wrong, "name": "x"})).status_code == 401
