"""A root key in a token of PKCS#11: a real SoftHSM, whose keys can be destroyed."""

import itertools
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pkcs11
import pytest

from langmem_isolated import IsolatedMemory, LocalRootKey
from langmem_isolated.errors import (
    KeyServiceUnavailable,
    LangmemIsolatedError,
    RecordDoesNotOpen,
    RootKeyInvalid,
    RootKeyUnavailable,
)
from langmem_isolated.root_keys import Pkcs11RootKey, RootKey
from tests.command_line import run, words
from tests.conftest import Attacker
from tests.processes import Child
from tests.spellings import spellings
from tests.test_cli import url_of

pytestmark = pytest.mark.system("softhsm2-util")

MODULE = "/usr/lib/softhsm/libsofthsm2.so"
PIN = "86420-pin"
KEY = b"k" * 31 + b"7"
_numbers = itertools.count()


@pytest.fixture(scope="module")
def softhsm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for tokens: the library reads once in a process where it is."""
    folder = tmp_path_factory.mktemp("softhsm")
    (folder / "tokens").mkdir()
    config = folder / "softhsm2.conf"
    config.write_text(f"directories.tokendir = {folder}/tokens\nobjectstore.backend = file\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOFTHSM2_CONF", str(config))
        yield folder
        pkcs11.lib(MODULE).finalize()


@pytest.fixture
def token(softhsm: Path) -> str:
    """The label of a fresh token, which the library learns of when it is initialised."""
    label = f"token {next(_numbers)}"
    subprocess.run(
        [
            *("softhsm2-util", "--init-token", "--free", "--label", label),
            *("--so-pin", "12345678", "--pin", PIN),
        ],
        check=True,
        capture_output=True,
    )
    pkcs11.lib(MODULE).reinitialize()
    return label


def root_key_of(token: str, key: str = "memory", pin: str | None = PIN) -> Pkcs11RootKey:
    return Pkcs11RootKey(module=MODULE, token=token, key=key, pin=pin)


@pytest.fixture
def hsm_key(token: str) -> Pkcs11RootKey:
    return root_key_of(token).make_key()


def in_token(token: str, key: str = "memory") -> Any:
    """The key as whoever administers the token has it."""
    session = pkcs11.lib(MODULE).get_token(token_label=token).open(rw=True)
    return session.get_key(object_class=pkcs11.ObjectClass.SECRET_KEY, label=key)


def history(memory: IsolatedMemory, user: str = "alice") -> Any:
    return memory.scope(user_id=user, module_id="tutor").chat_history("monday")


# What it keeps


def test_a_wrapped_key_opens_at_its_own_place_with_its_own_key_alone(
    hsm_key: Pkcs11RootKey, token: str
):
    other = root_key_of(token, "other").make_key()
    wrapped = hsm_key.wrap(KEY, b"here")

    assert isinstance(hsm_key, RootKey)
    assert KEY not in wrapped
    assert len(wrapped) == 1 + 12 + 32 + 16
    assert wrapped != hsm_key.wrap(KEY, b"here")
    assert hsm_key.unwrap(wrapped, b"here") == KEY
    with pytest.raises(RecordDoesNotOpen, match="refuses it for this place"):
        hsm_key.unwrap(wrapped, b"there")
    with pytest.raises(RecordDoesNotOpen):
        other.unwrap(wrapped, b"here")
    for place in range(len(wrapped)):
        changed = wrapped[:place] + bytes([wrapped[place] ^ 1]) + wrapped[place + 1 :]
        with pytest.raises(RecordDoesNotOpen):
            hsm_key.unwrap(changed, b"here")
    for cut in (b"", wrapped[:28], wrapped[:-1]):
        with pytest.raises(RecordDoesNotOpen):
            hsm_key.unwrap(cut, b"here")


def test_its_name_is_that_of_the_token_and_the_key(hsm_key: Pkcs11RootKey, token: str):
    assert hsm_key.key_id == f"pkcs11:token={token.replace(' ', '%20')};object=memory"
    assert PIN not in repr(hsm_key)


def test_its_key_cannot_leave_the_token(hsm_key: Pkcs11RootKey, token: str):
    hsm_key.wrap(KEY, b"here")
    with pytest.raises(pkcs11.AttributeSensitive):
        in_token(token)[pkcs11.Attribute.VALUE]


@pytest.mark.parametrize(
    "template",
    [{pkcs11.Attribute.EXTRACTABLE: True}, {pkcs11.Attribute.SENSITIVE: False}],
)
def test_a_key_that_could_leave_the_token_is_refused(token: str, template: dict[Any, bool]):
    root_key_of(token, "first").make_key().wrap(KEY, b"here")
    with pkcs11.lib(MODULE).get_token(token_label=token).open(rw=True) as session:
        session.generate_key(
            pkcs11.KeyType.AES, 256, label="loose", store=True,
            template={pkcs11.Attribute.EXTRACTABLE: False, pkcs11.Attribute.SENSITIVE: True}
            | template,
        )  # fmt: skip
    loose = root_key_of(token, "loose")

    for attempt in (lambda: loose.wrap(KEY, b"here"), loose.make_key):
        with pytest.raises(RootKeyInvalid, match="could leave it"):
            attempt()


def test_a_key_is_not_made_over_another(hsm_key: Pkcs11RootKey):
    wrapped = hsm_key.wrap(KEY, b"here")

    with pytest.raises(RootKeyInvalid, match="has a key of this name"):
        hsm_key.make_key()
    assert hsm_key.unwrap(wrapped, b"here") == KEY


# Revocation and outage


def test_a_key_that_was_destroyed_opens_nothing_and_it_is_said_why(
    hsm_key: Pkcs11RootKey, token: str, database_url: str
):
    with IsolatedMemory(database_url, root_key=hsm_key) as memory:
        history(memory).add_user_message("hello")
    with IsolatedMemory(database_url, root_key=hsm_key) as memory:
        assert [message.content for message in history(memory).messages] == ["hello"]
        in_token(token).destroy()
        # What it has in its cache goes on for its time.
        assert history(memory).messages

    memory = IsolatedMemory(database_url, root_key=hsm_key)
    with closing(memory):
        for attempt in (
            memory.open,
            lambda: history(memory).messages,
            lambda: history(memory).add_user_message("late"),
            lambda: memory.modules(user_id="alice"),
            lambda: memory.rotate_root_key(LocalRootKey(bytes(32))),
        ):
            with pytest.raises(RootKeyUnavailable, match=r"NoSuchKey.*it was destroyed") as caught:
                attempt()
            assert caught.value.cause == "NoSuchKey"
    # Another key of the same name opens nothing of it.
    again = root_key_of(token).make_key()
    memory = IsolatedMemory(database_url, root_key=again)
    with closing(memory), pytest.raises(RecordDoesNotOpen):
        memory.open()


def test_a_token_that_is_not_there_is_told_and_asked_again(softhsm: Path, token: str):
    lost = root_key_of("another token")
    with pytest.raises(KeyServiceUnavailable, match="NoSuchToken"):
        lost.wrap(KEY, b"here")

    subprocess.run(
        [
            *("softhsm2-util", "--init-token", "--free", "--label", "another token"),
            *("--so-pin", "12345678", "--pin", PIN),
        ],
        check=True,
        capture_output=True,
    )
    pkcs11.lib(MODULE).reinitialize()
    assert lost.make_key().wrap(KEY, b"here")


# python-pkcs11 ends a search of the session that is no more.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_session_that_has_ended_is_begun_again(hsm_key: Pkcs11RootKey):
    wrapped = hsm_key.wrap(KEY, b"here")

    pkcs11.lib(MODULE).reinitialize()

    assert hsm_key.unwrap(wrapped, b"here") == KEY


def test_a_wrong_pin_is_tried_once(token: str):
    """A token locks itself after some of them."""
    wrong = root_key_of(token, pin="wrong-pin")

    for _ in range(20):
        with pytest.raises(RootKeyUnavailable, match=r"PinIncorrect.*not tried again") as caught:
            wrong.wrap(KEY, b"here")
        assert "wrong-pin" not in str(caught.value)
    assert not pkcs11.lib(MODULE).get_token(token_label=token).flags & (
        pkcs11.TokenFlag.USER_PIN_FINAL_TRY | pkcs11.TokenFlag.USER_PIN_LOCKED
    )
    assert root_key_of(token).make_key().wrap(KEY, b"here")


def test_without_a_pin_the_error_asks_for_it_and_takes_no_key_for_destroyed(
    token: str,
):
    make = "from tests.test_pkcs11 import *; root_key_of({!r}).make_key()"  # its login ends there
    subprocess.run([sys.executable, "-c", make.format(token)], check=True)

    for attempt in (
        lambda: root_key_of(token, pin=None).wrap(KEY, b"here"),
        lambda: root_key_of(token, "new", pin=None).make_key(),
    ):
        with pytest.raises(RootKeyUnavailable, match="No PIN was given") as caught:
            attempt()
        assert "LANGMEM_ISOLATED_PKCS11_PIN_FILE" in str(caught.value)
        assert "destroyed" not in str(caught.value)


def test_an_application_that_has_logged_in_before_goes_on(token: str):
    with pkcs11.lib(MODULE).get_token(token_label=token).open(user_pin=PIN) as session:
        hsm_key = root_key_of(token).make_key()
        assert hsm_key.unwrap(hsm_key.wrap(KEY, b"here"), b"here") == KEY
        assert root_key_of(token, pin=None).wrap(KEY, b"here")
        assert list(session.get_objects())


# Threads and forks


def test_threads_and_two_keys_of_one_token_share_a_login(hsm_key: Pkcs11RootKey, token: str):
    other = root_key_of(token, "other").make_key()
    failures: list[BaseException] = []

    def work(mine: Pkcs11RootKey) -> None:
        try:
            for number in range(20):
                context = bytes([number])
                assert mine.unwrap(mine.wrap(KEY, context), context) == KEY
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    threads = [
        threading.Thread(target=work, args=(mine,)) for mine in (hsm_key, other) for _ in "abcd"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []


def test_forked_children_go_on_and_leave_their_parents_login_alone(hsm_key: Pkcs11RootKey):
    wrapped = hsm_key.wrap(KEY, b"here")

    def in_child() -> bool:
        opened = hsm_key.unwrap(wrapped, b"here")
        return opened == hsm_key.unwrap(hsm_key.wrap(KEY, b"x"), b"x") == KEY

    children = [Child(in_child) for _ in range(3)]
    assert hsm_key.unwrap(wrapped, b"here") == KEY
    assert [child.result() for child in children] == [True] * 3
    assert hsm_key.unwrap(wrapped, b"here") == KEY


def test_the_root_key_moves_into_the_token_within_it_and_out_again(
    hsm_key: Pkcs11RootKey, token: str, memory: IsolatedMemory, database_url: str,
    attacker: Attacker,
):  # fmt: skip
    history(memory).add_user_message("hello")
    last = LocalRootKey(bytes(32))
    for new in (hsm_key, root_key_of(token, "next").make_key(), last):
        assert memory.rotate_root_key(new).keys == 3
        living = "SELECT DISTINCT root_key_id FROM keys WHERE wrapped IS NOT NULL"
        assert attacker(living) == [(new.key_id,)]
    for key in ("memory", "next"):
        in_token(token, key).destroy()

    with IsolatedMemory(database_url, root_key=last) as fresh:
        assert [message.content for message in history(fresh).messages] == ["hello"]


# What is refused, and what shows


@pytest.mark.parametrize(
    ("argument", "value"),
    [("module", "/nowhere.so"), ("module", None), ("token", ""), ("key", b"memory"), ("pin", 5)],
)
def test_what_is_malformed_is_refused_by_its_name(argument: str, value: Any):
    arguments: Any = {"module": MODULE, "token": "t", "key": "k", "pin": PIN} | {argument: value}
    with pytest.raises(RootKeyInvalid, match=argument):
        Pkcs11RootKey(**arguments)


def test_a_file_that_is_no_module_is_told(tmp_path: Path):
    path = tmp_path / "module.so"
    path.write_text("no library")

    with pytest.raises(RootKeyUnavailable, match="Look at the module"):
        Pkcs11RootKey(module=path, token="t", key="k").wrap(KEY, b"here")


def test_no_error_shows_key_or_pin_in_the_variables_of_its_frames(token: str, softhsm: Path):
    secret = [KEY]
    attempts = (
        lambda: root_key_of(token).wrap(secret.pop(), b"here"),
        lambda: root_key_of(token).make_key().make_key(),
        lambda: Pkcs11RootKey(module=MODULE, token="", key="k", pin=PIN_OF[0]),
    )
    for attempt in attempts:
        try:
            attempt()
        except LangmemIsolatedError as error:
            shown = traceback.TracebackException.from_exception(error, capture_locals=True)
            text = "".join(shown.format())
            ours = text[text.index("langmem_isolated/root_keys") :]
            assert not any(spelling in ours for spelling in spellings(KEY))
            assert PIN not in ours
        else:
            pytest.fail("nothing was refused")


PIN_OF = [PIN]


def test_the_command_line_rotates_to_the_token_by_its_uri_and_doctor_finds_it(
    hsm_key: Pkcs11RootKey, memory: IsolatedMemory, tmp_path: Path
):
    history(memory).add_user_message("hello")
    pin = tmp_path / "pin"
    pin.write_text(PIN)
    pin.chmod(0o600)
    name = f"{hsm_key.key_id}?module-path={MODULE}&pin-source=file:{pin}"
    on = ("--database", url_of(memory))

    done = run("rotate-root-key", "--new-root-key", name, *on)
    assert "3 keys of 2 owners were wrapped anew" in done.stdout
    found = words(run("doctor", *on, key=name).stdout)
    assert f"{hsm_key.key_id}; it has wrapped and unwrapped a trial in" in found
    assert "tutor" in run("modules", "--user", "alice", *on, key=name).stdout


class Strict:
    """A library that is initialised in a child as PKCS#11 wants it, which SoftHSM forgives."""

    initialized = True

    def __init__(self) -> None:
        self.calls: list[str] = []

    def finalize(self) -> None:
        self.calls.append("finalize")
        raise pkcs11.PKCS11Error

    def initialize(self) -> None:
        self.calls.append("initialize")

    def get_token(self, **_: object) -> Any:
        self.calls.append("get_token")
        raise pkcs11.TokenNotPresent


def test_a_child_initialises_the_module_before_it_uses_it(tmp_path: Path):
    path, library = tmp_path / "strict.so", Strict()
    path.touch()
    pkcs11._loaded[str(path)] = library
    strict = Pkcs11RootKey(module=path, token="t", key="k")

    def in_child() -> list[str]:
        for _ in range(2):
            with pytest.raises(KeyServiceUnavailable, match="TokenNotPresent"):
                strict.wrap(KEY, b"here")
        return [*library.calls]

    parents = in_child()
    library.calls.clear()
    assert Child(in_child).result()[:3] == ["finalize", "initialize", "get_token"]
    assert set(parents) == {"get_token"}
    del pkcs11._loaded[str(path)]
