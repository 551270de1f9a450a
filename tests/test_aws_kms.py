"""A root key in AWS KMS: against moto in the process, and against servers that fail as KMS does.

moto does not let a disabled or deleted key refuse: what KMS says then is said by a server here.
"""

import json
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import mock_aws

from langmem_isolated import IsolatedMemory, LocalRootKey
from langmem_isolated.errors import (
    KeyringError,
    KeyServiceUnavailable,
    RecordDoesNotOpen,
    RootKeyInvalid,
    RootKeyUnavailable,
)
from langmem_isolated.root_keys import AwsKmsRootKey, RootKey
from tests.command_line import error_line, run, words
from tests.conftest import ROOT_KEY, Attacker
from tests.processes import Child
from tests.spellings import spellings
from tests.test_cli import url_of

ACCOUNT = "123456789012"
KEY = b"k" * 31 + b"7"
# What a server of a test is to say: status and code, or nothing at all.
Says = tuple[int, str] | None


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "eu-central-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def kms(credentials) -> Iterator[Any]:
    with mock_aws():
        client = boto3.client("kms", region_name="eu-central-1")
        yield client
        client.close()


def new_key(kms: Any, alias: str | None = None) -> str:
    key_id: str = kms.create_key()["KeyMetadata"]["KeyId"]
    if alias:
        kms.create_alias(AliasName=alias, TargetKeyId=key_id)
    return key_id


@pytest.fixture
def server(credentials, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Says], list[str]]]:
    """Puts a server in the place of KMS; gives what is said to it, and how often."""
    started = []

    def put(says: Says) -> list[str]:
        asked: list[str] = []
        done = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked.append(self.headers["X-Amz-Target"])
                if says is None:
                    done.wait(30)
                    return
                status, code = says
                message = f"User: arn:aws:iam::{ACCOUNT}:user/x is not authorized"
                body = json.dumps({"__type": code, "message": message}).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        httpd.daemon_threads = True
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        started.append((httpd, thread, done))
        monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", f"http://127.0.0.1:{httpd.server_port}")
        return asked

    yield put
    for httpd, thread, done in started:
        done.set()
        httpd.shutdown()
        thread.join()
        httpd.server_close()


# What it is


@pytest.mark.parametrize(
    ("name", "key_id"),
    [
        ("alias/memory", "aws-kms:alias/memory"),
        (
            "1234abcd-12ab-34cd-56ef-1234567890ab",
            "aws-kms:key/1234abcd-12ab-34cd-56ef-1234567890ab",
        ),
        (f"arn:aws:kms:eu-west-1:{ACCOUNT}:key/mrk-12", "aws-kms:key/mrk-12"),
        (f"arn:aws-us-gov:kms:us-gov-west-1:{ACCOUNT}:alias/a/b", "aws-kms:alias/a/b"),
    ],
)
def test_its_name_is_that_of_the_key_without_account_and_region(name: str, key_id: str):
    root_key = AwsKmsRootKey(name)

    assert isinstance(root_key, RootKey)
    assert root_key.key_id == key_id
    assert ACCOUNT not in repr(root_key)


@pytest.mark.parametrize(
    "name", ["", "alias/", "alias/ä", "a b", "arn:aws:s3:::x", b"alias/x", None]
)
def test_what_is_no_name_of_a_key_is_refused_without_being_shown(name: Any):
    with pytest.raises(
        RootKeyInvalid, match="must be alias/…, a key's id, or an ARN, got"
    ) as error:
        AwsKmsRootKey(name)
    assert "ä" not in str(error.value)


@pytest.mark.parametrize("option", ["connect_timeout", "read_timeout", "attempts"])
def test_a_time_or_number_of_nothing_is_refused(option: str):
    with pytest.raises(ValueError, match=option):
        AwsKmsRootKey("alias/memory", **{option: 0})


# Against moto


def test_a_wrapped_key_opens_at_its_own_place_with_its_own_key_alone(kms: Any):
    one, other = (AwsKmsRootKey(new_key(kms)) for _ in range(2))
    wrapped = one.wrap(KEY, b"here")

    assert KEY not in wrapped
    assert one.unwrap(wrapped, b"here") == KEY
    for attempt in (
        lambda: one.unwrap(wrapped, b"there"),
        lambda: one.unwrap(wrapped[:-1] + bytes([wrapped[-1] ^ 1]), b"here"),
        lambda: one.unwrap(b"x", b"here"),
    ):
        with pytest.raises(RecordDoesNotOpen, match="AWS KMS refuses it for this place"):
            attempt()
    with pytest.raises((RecordDoesNotOpen, RootKeyUnavailable)):
        other.unwrap(wrapped, b"here")


def test_a_memory_lives_on_it_and_asks_it_six_times_for_a_hundred_users(
    kms: Any, database_url: str
):
    new_key(kms, "alias/memory")
    asked: list[str] = []
    root_key = AwsKmsRootKey("alias/memory")
    root_key._client().meta.events.register(
        "before-call.kms", lambda model, **_: asked.append(model.name)
    )
    with IsolatedMemory(database_url, root_key=root_key) as memory:
        for number in range(100):
            scope = memory.scope(user_id=f"user {number}", module_id="tutor")
            scope.chat_history("monday").add_user_message("hello")
    assert asked == ["Encrypt", "Decrypt", "Decrypt", "Encrypt", "Decrypt", "Decrypt"]
    asked.clear()

    with IsolatedMemory(database_url, root_key=root_key) as memory:
        for number in range(100):
            scope = memory.scope(user_id=f"user {number}", module_id="tutor")
            assert scope.chat_history("monday").messages[0].content == "hello"
    # Tried once in each memory; then one question.
    assert asked == ["Encrypt", "Decrypt", "Decrypt", "Decrypt"]


def test_the_root_key_moves_into_the_service_within_it_and_out_again(
    kms: Any, memory: IsolatedMemory, database_url: str, attacker: Attacker
):
    history = memory.scope(user_id="alice", module_id="tutor").chat_history("monday")
    history.add_user_message("hello")
    last = LocalRootKey(bytes(32))
    for new in (AwsKmsRootKey(new_key(kms)), AwsKmsRootKey(new_key(kms)), last):
        assert memory.rotate_root_key(new).keys == 3
        living = "SELECT DISTINCT root_key_id FROM keys WHERE wrapped IS NOT NULL"
        assert attacker(living) == [(new.key_id,)]

    with IsolatedMemory(database_url, root_key=last) as fresh:
        again = fresh.scope(user_id="alice", module_id="tutor").chat_history("monday")
        assert [message.content for message in again.messages] == ["hello"]


def test_a_forked_child_has_connections_of_its_own(kms: Any):
    root_key = AwsKmsRootKey(new_key(kms))
    wrapped, client = root_key.wrap(KEY, b"here"), root_key._client()

    def in_child() -> tuple[bool, bool]:
        opened = root_key.unwrap(wrapped, b"here") == KEY
        return opened, root_key._client() is client

    assert Child(in_child).result() == (True, False)
    assert root_key.unwrap(wrapped, b"here") == KEY


# Against a service that fails


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        ("DisabledException", "Enable the key"),
        ("KMSInvalidStateException", "Cancel its deletion"),
        ("NotFoundException", "a deleted key opens nothing any more"),
        ("AccessDeniedException", "kms:Encrypt and kms:Decrypt"),
        ("IncorrectKeyException", "The alias leads to another key"),
        ("ExpiredTokenException", "credentials"),
    ],
)
def test_a_key_that_may_not_be_used_is_told_with_its_cause_and_asked_for_once(
    server, code: str, advice: str
):
    asked = server((400, code))

    for attempt in (
        lambda: AwsKmsRootKey("alias/memory").wrap(KEY, b"here"),
        lambda: AwsKmsRootKey("alias/memory").unwrap(b"wrapped", b"here"),
    ):
        with pytest.raises(RootKeyUnavailable, match=code) as caught:
            attempt()
        assert advice in str(caught.value)
        assert ACCOUNT not in str(caught.value)
        assert caught.value.cause == code
    assert asked == ["TrentService.Encrypt", "TrentService.Decrypt"]


@pytest.mark.parametrize(
    "says",
    [(500, "KMSInternalException"), (503, "ServiceUnavailable"), (400, "ThrottlingException")],
)
def test_a_service_that_fails_for_now_is_asked_again_and_then_told(server, says: Says):
    asked = server(says)

    with pytest.raises(KeyServiceUnavailable, match=says[1]):
        AwsKmsRootKey("alias/memory", attempts=2).unwrap(b"wrapped", b"here")
    assert len(asked) == 2


def test_a_service_that_does_not_answer_is_given_up_in_time(server):
    asked = server(None)
    root_key = AwsKmsRootKey("alias/memory", read_timeout=0.1, attempts=1)

    with pytest.raises(KeyServiceUnavailable, match="ReadTimeoutError"):
        root_key.unwrap(b"wrapped", b"here")
    # The server may come to read it later.
    deadline = time.monotonic() + 60
    while not asked:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert asked == ["TrentService.Decrypt"]


def test_a_service_that_is_not_there_is_told(credentials, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", "http://127.0.0.1:9")

    with pytest.raises(KeyServiceUnavailable, match="EndpointConnectionError"):
        AwsKmsRootKey("alias/memory", attempts=1).wrap(KEY, b"here")


def test_a_process_without_credentials_is_told_so(monkeypatch: pytest.MonkeyPatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")

    with pytest.raises(RootKeyUnavailable, match=r"NoCredentialsError.*credentials and the region"):
        AwsKmsRootKey("alias/memory", region="eu-central-1").wrap(KEY, b"here")
    with pytest.raises(RootKeyUnavailable, match="NoRegionError"):
        AwsKmsRootKey("alias/memory").wrap(KEY, b"here")


@pytest.mark.parametrize("says", [(400, "DisabledException"), (500, "KMSInternalException")])
def test_no_error_shows_the_key_in_the_variables_of_its_frames(server, says: Says):
    server(says)
    root_key = AwsKmsRootKey("alias/memory", attempts=1)
    secret = [KEY]

    try:
        root_key.wrap(secret.pop(), b"here")
    except KeyringError as error:
        shown = traceback.TracebackException.from_exception(error, capture_locals=True)
        text = "".join(shown.format())
    assert "aws_kms.py" in text
    assert not any(spelling in text for spelling in spellings(KEY))


def test_a_memory_begun_while_the_service_is_down_has_stored_nothing(server, sqlite_url: str):
    server((500, "KMSInternalException"))
    memory = IsolatedMemory(sqlite_url, root_key=AwsKmsRootKey("alias/memory", attempts=1))
    with closing(memory), pytest.raises(KeyServiceUnavailable):
        memory.scope(user_id="alice", module_id="tutor").chat_history("x").add_user_message("hello")
    with closing(Attacker(sqlite_url)) as attacker:
        assert attacker("SELECT COUNT(*) FROM keys") == [(0,)]
    with IsolatedMemory(sqlite_url, root_key=LocalRootKey(ROOT_KEY)) as other:
        other.scope(user_id="alice", module_id="tutor").chat_history("x").add_user_message("hello")


# By its name, on the command line


def test_the_command_line_rotates_from_a_file_to_the_service_and_back(
    kms: Any, memory: IsolatedMemory, tmp_path: Path
):
    new_key(kms, "alias/memory")
    memory.scope(user_id="alice", module_id="tutor").chat_history("x").add_user_message("hello")
    url, file, name = url_of(memory), tmp_path / "new.key", "aws-kms:alias/memory"
    assert run("keygen", "--file", file).exit_code == 0
    on, to_service = ("--database", url), ("rotate-root-key", "--new-root-key", name)

    done = run(*to_service, *on, "--most-per-second", "50", "--json")
    assert json.loads(done.stdout) == {"root_key_id": name, "key_sets": 2, "keys": 3}
    found = words(run("doctor", *on, key=name).stdout)
    assert f"{name}; it has wrapped and unwrapped a trial in" in found
    assert "it opens the keys of this database" in found
    assert name in error_line(run("modules", "--user", "alice", *on))
    assert run("modules", "--user", "alice", *on, key=name).exit_code == 0

    back = run("rotate-root-key", "--new-key-file", file, *on, key=name)
    assert "3 keys of 2 owners were wrapped anew" in back.stdout
    shown = run(
        "modules", "--user", "alice", *on, key=None, LANGMEM_ISOLATED_ROOT_KEY_FILE=str(file)
    )
    assert "tutor" in shown.stdout


def test_the_command_wants_one_new_key(tmp_path: Path):
    for options in ((), ("--new-key-file", tmp_path / "x", "--new-root-key", "aws-kms:alias/x")):
        done = run("rotate-root-key", *options)
        assert done.exit_code == 2
        assert "--new-key-file" in done.stderr


def test_doctor_says_that_the_service_does_not_answer(server, sqlite_url: str):
    server((500, "KMSInternalException"))

    done = run("doctor", "--database", sqlite_url, key="aws-kms:alias/memory")

    assert done.exit_code == 1
    assert "AWS KMS does not answer (KMSInternalException)" in words(done.stdout)
