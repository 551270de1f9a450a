"""`serve`: the admin page behind a token, for browsers and programs, and as a process."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from langmem_isolated import IsolatedMemory, LocalRootKey
from langmem_isolated.admin import standalone_app
from langmem_isolated.admin.operator import standalone
from langmem_isolated.cli import serve as serve_command
from tests.command_line import KEY, error_line, run
from tests.operators import tutor_of

TOKEN = "t" * 40
HOSTS = ("127.0.0.1", "localhost", "[::1]")


@pytest.fixture
def memory(sqlite_url: str, root_key: LocalRootKey) -> Iterator[IsolatedMemory]:
    with IsolatedMemory(sqlite_url, root_key=root_key) as memory:
        tutor_of(memory)
        yield memory


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a wrong token costs is looked at in one test alone."""
    monkeypatch.setattr(standalone, "_PENALTY_SECONDS", 0.0)


def client_of(memory: IsolatedMemory, scheme: str = "http", **options: Any) -> TestClient:
    app = standalone_app(memory, token=TOKEN, operator="carol", allowed_hosts=HOSTS, **options)
    return TestClient(app, base_url=f"{scheme}://127.0.0.1:8321", follow_redirects=False)


def logged_in(client: TestClient) -> httpx.Response:
    return client.post("/login", data={"token": TOKEN})


@pytest.mark.usefixtures("impatient")
def test_without_the_token_everything_is_401_but_health(memory: IsolatedMemory):
    client = client_of(memory)
    for path in ("/", "/users", "/nowhere", "/api/stats", "/api/openapi.json", "/jobs/x"):
        for answer in (client.get(path), client.post(path)):
            assert answer.status_code == 401, path
            assert answer.headers["www-authenticate"] == "Bearer"
            assert answer.headers["x-frame-options"] == "DENY"
            assert "tutor" not in answer.text
    assert client.get("/api/stats").json()["error"].startswith("You are not logged in")
    assert 'action="/login"' in client.get("/").text
    assert client.get("/health").text == "ok"
    assert client.get("/static/style.css").status_code == 200


def test_no_websocket_is_opened_for_anybody(memory: IsolatedMemory):
    client = client_of(memory)
    client.headers["authorization"] = f"Bearer {TOKEN}"
    for path in ("/", "/health", "/static/style.css"):
        with pytest.raises(WebSocketDisconnect), client.websocket_connect(path):
            pass


@pytest.mark.usefixtures("impatient")
def test_a_browser_gives_the_token_once_and_logs_out(memory: IsolatedMemory):
    client = client_of(memory)
    for wrong in ("", TOKEN[:-1], TOKEN + "t", "é"):
        assert client.post("/login", data={"token": wrong}).status_code == 401
    answer = logged_in(client)

    cookie = answer.headers["set-cookie"]
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert "Secure" not in cookie
    assert TOKEN not in cookie
    page = client.get("/users")
    assert page.status_code == 200
    assert client.post("/logout").status_code == 403
    token = page.text.partition('name="csrf_token" value="')[2].partition('"')[0]
    kept = dict(client.cookies)
    assert client.post("/logout", data={"csrf_token": token}).status_code == 303
    client.cookies.update(kept)
    assert client.get("/users").status_code == 401


def test_behind_tls_the_cookie_is_secure(memory: IsolatedMemory):
    assert "Secure" in logged_in(client_of(memory, "https")).headers["set-cookie"]


@pytest.mark.usefixtures("impatient")
def test_a_program_sends_the_token_with_each_request(memory: IsolatedMemory):
    client = client_of(memory)
    for kind in ("Bearer", "bearer"):
        told = client.get("/api/stats", headers={"authorization": f"{kind} {TOKEN}"})
        assert told.json()["total"]["users"] == 1
    for wrong in (f"Basic {TOKEN}", f"Bearer {TOKEN[:-1]}", "Bearer", TOKEN):
        assert client.get("/api/stats", headers={"authorization": wrong}).status_code == 401


@pytest.mark.usefixtures("impatient")
def test_a_form_of_another_site_does_not_log_in(memory: IsolatedMemory):
    client = client_of(memory)
    for site in ("cross-site", "same-site"):
        answer = client.post("/login", data={"token": TOKEN}, headers={"sec-fetch-site": site})
        assert answer.status_code == 403
    assert client.get("/").status_code == 401


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8321", 401),
        ("localhost", 401),
        ("LOCALHOST:1", 401),
        ("[::1]:8321", 401),
        ("evil.example", 400),
        ("127.0.0.1.evil.example:8321", 400),
        ("localhost:evil", 400),
        ("", 400),
    ],
)
def test_a_name_that_is_not_this_servers_is_refused(memory: IsolatedMemory, host: str, status: int):
    client = client_of(memory)
    assert client.get("/", headers={"host": host}).status_code == status
    assert client.get("/health", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("by_form", [True, False])
def test_guesses_are_slow_and_few_at_once(memory: IsolatedMemory, by_form: bool):
    client = client_of(memory)

    def guess(_: int) -> int:
        if by_form:
            return client.post("/login", data={"token": "x"}).status_code
        headers = {"authorization": "Bearer x"}
        return client.get("/api/stats", headers=headers).status_code

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(guess, range(12)))
    waited = [status for status in answers if status == 401]

    assert set(answers) <= {401, 429}
    assert 1 <= len(waited) <= standalone._MOST_WAITING


@pytest.mark.parametrize("by_form", [True, False])
def test_who_guesses_without_a_break_keeps_nobody_out(
    memory: IsolatedMemory, monkeypatch: pytest.MonkeyPatch, by_form: bool
):
    # As it is while as many wrong tokens wait as may.
    monkeypatch.setattr(standalone, "_MOST_WAITING", 0)
    client = client_of(memory)
    guess = {"authorization": "Bearer x"}
    assert client.get("/api/stats", headers=guess).status_code == 429
    assert client.post("/login", data={"token": "x"}).status_code == 429

    if by_form:
        assert logged_in(client).status_code == 303
        assert client.get("/users").status_code == 200
    else:
        headers = {"authorization": f"Bearer {TOKEN}"}
        assert client.get("/api/stats", headers=headers).status_code == 200


def test_two_servers_on_one_host_log_nobody_out_of_each_other(memory: IsolatedMemory):
    servers = client_of(memory), client_of(memory)
    # Browsers send a host's cookies to all of its ports.
    browser: dict[str, str] = {}
    for server in servers:
        browser |= dict(logged_in(server).cookies)
    for server in servers:
        server.cookies.clear()

        assert server.get("/users", headers=cookies(browser)).status_code == 200


def cookies(held: dict[str, str]) -> dict[str, str]:
    return {"cookie": "; ".join(f"{name}={value}" for name, value in held.items())}


@pytest.mark.parametrize(
    ("wrong", "error"), [("x" * 31, ValueError), (None, TypeError), (b"x" * 40, TypeError)]
)
def test_a_token_that_is_none_is_refused(memory: IsolatedMemory, wrong: Any, error: type):
    with pytest.raises(error, match="token") as caught:
        standalone_app(memory, token=wrong)
    assert "xxx" not in str(caught.value)


def test_all_is_done_in_the_operators_name(memory: IsolatedMemory):
    client = client_of(memory)
    headers = {"authorization": f"Bearer {TOKEN}"}
    page = client.get("/audit", headers=headers).text
    token = page.partition('name="csrf_token" value="')[2].partition('"')[0]
    form = {"csrf_token": token, "confirmed": "yes"}
    assert client.post("/audit/on", data=form, headers=headers).status_code == 303

    assert memory.audit.entries()[-1].actor == "carol"


# --- the command


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(serve_command, "find_spec", lambda name: None if name == "uvicorn" else 1)
    told = error_line(run("serve", "--database", f"sqlite:///{tmp_path}/none.db"))

    assert 'pip install "langmem-isolated[admin]"' in told


@pytest.mark.parametrize(
    ("content", "mode", "told"),
    [
        ("x" * 31, 0o600, "32 characters or more of ASCII, got 31"),
        ("é" * 40, 0o600, "got 0"),
        (TOKEN, 0o644, "mode 0644"),
        (None, 0, "cannot be read: FileNotFoundError"),
    ],
)
def test_a_token_file_that_is_none_is_refused(
    tmp_path: Path, content: str | None, mode: int, told: str
):
    file = tmp_path / "token"
    if content is not None:
        file.write_text(content)
        file.chmod(mode)
    line = error_line(run("serve", "--token-file", file, "--database", "sqlite:///none.db"))

    assert told in line
    assert TOKEN not in line


def test_a_port_that_is_taken_is_told(memory: IsolatedMemory, sqlite_url: str):
    with serve_command._bound("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        told = error_line(run("serve", "--port", port, "--database", sqlite_url))

    assert f"Port {port}" in told
    assert "Nothing was served" in told


Started = Callable[..., tuple[subprocess.Popen[str], str]]


@pytest.fixture
def start(sqlite_url: str, memory: IsolatedMemory) -> Iterator[Started]:
    """Starts `serve` as a process; gives it, and what it printed until it was there."""
    del memory
    running: list[subprocess.Popen[str]] = []

    def started(*options: str) -> tuple[subprocess.Popen[str], str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "langmem_isolated", "serve", "--port", "0", *options],
            env={**os.environ, "LANGMEM_ISOLATED_ROOT_KEY": KEY,
                 "LANGMEM_ISOLATED_DATABASE": sqlite_url},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        running.append(process)
        assert process.stdout
        return process, process.stdout.readline().strip()

    yield started
    for process in running:
        process.kill()
        process.communicate()


def test_a_process_prints_its_token_once_serves_and_ends_on_sigterm(start: Started):
    process, line = start()
    address = line.removeprefix("Admin page: ")
    assert process.stdout
    token = process.stdout.readline().removeprefix("Token, shown this once: ").strip()
    with httpx.Client(base_url=address, headers={"authorization": f"Bearer {token}"}) as client:
        assert client.get("/api/stats").json()["total"]["users"] == 1
        assert client.get("/users?after=canary").status_code == 400
        assert httpx.get(address).status_code == 401
        assert httpx.get(f"{address}health").text == "ok"
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)

    assert process.returncode == 0
    assert token not in out + err
    assert "canary" not in out + err
    assert "no terminal" in err


def test_the_address_that_is_printed_is_answered_on_every_loopback_address(start: Started):
    process, line = start("--host", "127.0.0.2", "--root-path", "/memory/")
    address = line.removeprefix("Admin page: ")

    assert address.endswith("/memory/")
    assert not address.endswith("//")
    assert httpx.get(address.replace("/memory/", "/")).status_code == 401
    assert process.poll() is None


def test_a_root_path_that_does_not_begin_at_the_root_is_refused(sqlite_url: str):
    told = error_line(run("serve", "--root-path", "memory", "--database", sqlite_url))

    assert "--root-path" in told
    assert "Nothing was served" in told


def test_a_token_in_a_file_is_not_printed_and_others_reach_it_where_that_is_meant(
    start: Started, tmp_path: Path
):
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    file.chmod(0o400)
    process, line = start("--host", "0.0.0.0", "--token-file", str(file), "--root-path", "/memory")
    assert line.startswith("Admin page: http://0.0.0.0:")
    assert line.endswith("/memory/")
    address = line.removeprefix("Admin page: ").replace("0.0.0.0", "127.0.0.1")
    headers = {"authorization": f"Bearer {TOKEN}", "host": "admin.example"}
    page = httpx.get(address.replace("/memory/", "/users"), headers=headers)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)

    assert page.status_code == 200
    assert 'href="/memory/users"' in page.text
    assert process.returncode == 0
    assert "Token" not in out
    assert "TLS" in err
