import asyncio
import base64
import gc
import logging
import os
import sqlite3
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from langchain_core.messages import HumanMessage
from sqlalchemy import bindparam, delete, select

from langmem_isolated import IsolatedMemory, LocalRootKey, RootKey, Scope
from langmem_isolated._crypto.directory import DirectoryKey
from langmem_isolated._crypto.owners import Level, Owner
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._crypto.seal_counter import SealCounter
from langmem_isolated._crypto.sealing import SealingKey, derive, framed, seal
from langmem_isolated._crypto.secret_bytes import SecretBytes
from langmem_isolated._database import schema
from langmem_isolated._database.database import Database
from langmem_isolated._database.driver_errors import Conflict
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._storage.installation import OpenInstallation
from langmem_isolated._storage.key_encryption_keys import context_of
from langmem_isolated._storage.key_sets import Purpose, StoredKey
from langmem_isolated._storage.key_uses import KeyUses
from langmem_isolated._storage.keyring import Keyring
from langmem_isolated._storage.scope_rows import ScopeRows
from langmem_isolated._storage.wrapped_keys import PrincipalKeys, WrappedKeys
from langmem_isolated.errors import (
    DatabaseLocked,
    KeyDestroyed,
    KeyExhausted,
    KeyNotFound,
    LangmemIsolatedError,
    RecordDoesNotOpen,
    RootKeyInvalid,
    RootKeyMismatch,
    RootKeyMissing,
    SessionNotFound,
)
from langmem_isolated.root_keys import ROOT_KEY_VARIABLE
from langmem_isolated.root_keys.files import FileAccess
from tests.conftest import ROOT_KEY, Attacker, Door
from tests.processes import all_at_once, in_child
from tests.spellings import assert_shows_none_of, spellings

TEXT = base64.b64encode(ROOT_KEY).decode()
ALICE, BOB = (Owner.private(Scope(user, "tutor")) for user in ("alice", "bob"))
INSTALLATION_ID = select(schema.installation.c.installation_id)
TABLES = ("installation", "keys", "scopes", "sessions", "records", "key_sets")


def say(memory: IsolatedMemory, text: str, *, user: str = "alice", module: str = "tutor") -> None:
    memory.scope(user_id=user, module_id=module).chat_history("monday").add_user_message(text)


def heard(memory: IsolatedMemory, *, user: str = "alice", module: str = "tutor") -> list[str]:
    history = memory.scope(user_id=user, module_id=module).chat_history("monday")
    return [str(message.content) for message in history.messages]


def rows(url: str) -> dict[str, list[tuple]]:
    """Every row of every table."""
    with closing(Attacker(url)) as attacker:
        return {table: sorted(map(repr, attacker(f"SELECT * FROM {table}"))) for table in TABLES}


def erase(url: str, owner: Owner = ALICE) -> None:
    """What an erasure does: keys first, then every row."""
    of_principal = "scope_id IN (SELECT scope_id FROM scopes WHERE principal = ?)"
    with opened_anew(url) as memory, closing(Attacker(url)) as attacker:
        principal = principal_of(memory, owner)
        memory._keyring.destroy(owner)
        for table in ("records", "sessions", "scopes"):
            attacker(f"DELETE FROM {table} WHERE {of_principal}", principal)


def opened(memory: IsolatedMemory) -> OpenInstallation:
    installation = memory._keyring._installation.open(create=False)
    assert installation is not None
    return installation


def principal_of(memory: IsolatedMemory, owner: Owner = ALICE) -> bytes:
    return opened(memory).directory.principal_of(owner)


def key_file(folder: Path, content: str | bytes = TEXT, mode: int = 0o600) -> Path:
    path = folder / "root.key"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    path.chmod(mode)
    return path


# Where the root key comes from


@pytest.mark.parametrize("text", [TEXT, f"{TEXT}\n", f"  {TEXT}\r\n"])
def test_a_root_key_is_read_from_the_environment(text: str):
    read = LocalRootKey.from_environment({ROOT_KEY_VARIABLE: text})

    assert read.key_id == LocalRootKey(ROOT_KEY).key_id
    assert read.unwrap(LocalRootKey(ROOT_KEY).wrap(bytes(32), b"here"), b"here") == bytes(32)


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_root_key_is_read_from_a_file_of_its_owner_alone(tmp_path: Path, mode: int):
    path = key_file(tmp_path, f"{TEXT}\n", mode)

    for read in (
        LocalRootKey.from_file(path),
        LocalRootKey.from_file(str(path)),
        LocalRootKey.from_environment({f"{ROOT_KEY_VARIABLE}_FILE": str(path)}),
    ):
        assert read.key_id == LocalRootKey(ROOT_KEY).key_id


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o610, 0o601, 0o777])
def test_a_key_file_that_others_can_reach_is_refused(tmp_path: Path, mode: int):
    path = key_file(tmp_path, TEXT, mode)

    with pytest.raises(RootKeyInvalid, match=f"mode {mode:04o}.*chmod 600") as caught:
        LocalRootKey.from_file(path)
    assert_shows_none_of(caught.value, [ROOT_KEY, TEXT.encode()])


def test_a_missing_key_names_the_variable_and_the_command(tmp_path: Path):
    for environment in ({}, {ROOT_KEY_VARIABLE: ""}, {f"{ROOT_KEY_VARIABLE}_FILE": ""}):
        with pytest.raises(RootKeyMissing, match=f"{ROOT_KEY_VARIABLE}.*langmem-isolated keygen"):
            LocalRootKey.from_environment(environment)
    with pytest.raises(RootKeyMissing, match=r"file is not there.*langmem-isolated keygen"):
        LocalRootKey.from_environment({f"{ROOT_KEY_VARIABLE}_FILE": str(tmp_path / "none")})


def test_a_key_in_the_environment_and_another_in_the_file_it_names_are_refused(tmp_path: Path):
    other = base64.b64encode(bytes(32)).decode()
    both = {
        ROOT_KEY_VARIABLE: TEXT,
        f"{ROOT_KEY_VARIABLE}_FILE": str(key_file(tmp_path, other, 0o600)),
    }

    with pytest.raises(RootKeyInvalid, match=r"different root keys.*Unset the variable") as caught:
        LocalRootKey.from_environment(both)
    assert_shows_none_of(caught.value, [ROOT_KEY, TEXT.encode(), other.encode()])


def test_the_same_key_twice_or_a_file_that_is_not_mounted_is_no_conflict(tmp_path: Path):
    for path in (key_file(tmp_path, TEXT, 0o600), tmp_path / "none"):
        both = {ROOT_KEY_VARIABLE: TEXT, f"{ROOT_KEY_VARIABLE}_FILE": str(path)}
        assert LocalRootKey.from_environment(both).key_id == LocalRootKey(ROOT_KEY).key_id


def test_a_key_file_that_cannot_be_read_is_refused(tmp_path: Path):
    with pytest.raises(RootKeyInvalid, match="cannot be read: Is a directory"):
        LocalRootKey.from_file(tmp_path)


CANARY = "canaryKEY7"


@pytest.mark.parametrize(
    "text",
    [
        CANARY,
        CANARY * 5,
        f"{TEXT[:-1]}!",
        f"{TEXT[:20]} {TEXT[20:]}",
        f"{TEXT}=",
        TEXT[:-1],
        "\u00e9" * 44,
        ROOT_KEY.hex(),
        base64.b64encode(ROOT_KEY[:31]).decode(),
        base64.b64encode(ROOT_KEY + b"x").decode(),
        base64.urlsafe_b64encode(b"\xff\xfe" * 16).decode(),
    ],
)
def test_text_that_is_no_key_is_refused_without_being_shown(tmp_path: Path, text: str):
    secrets = [ROOT_KEY[:31], TEXT[:-2].encode(), CANARY.encode(), text.encode()]
    for read in (
        partial(LocalRootKey.from_text, text),
        partial(LocalRootKey.from_environment, {ROOT_KEY_VARIABLE: text}),
        partial(LocalRootKey.from_file, key_file(tmp_path, text)),
    ):
        with pytest.raises(RootKeyInvalid, match="must be 32 bytes") as caught:
            read()
        assert_shows_none_of(caught.value, secrets)


@pytest.mark.parametrize("content", [ROOT_KEY, b"\xff" * 32, os.urandom(4096), b"", b"\0" * 44])
def test_a_file_of_raw_bytes_is_refused_without_being_shown(tmp_path: Path, content: bytes):
    with pytest.raises(RootKeyInvalid) as caught:
        LocalRootKey.from_file(key_file(tmp_path, content))

    error = caught.value
    assert error.__cause__ is None
    assert not isinstance(error.__context__, UnicodeDecodeError)
    assert_shows_none_of(error, [content[:8]] if content.strip(b"\0") else [])


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_a_root_key_has_32_bytes(length: int):
    with pytest.raises(RootKeyInvalid, match=f"must be 32 bytes, got {length}"):
        LocalRootKey(bytes(length))


def test_a_generated_key_is_new_each_time_and_can_be_read():
    texts = {LocalRootKey.generate_text() for _ in range(100)}

    assert len(texts) == 100
    assert {len(text) for text in texts} == {44}
    assert len({LocalRootKey.from_text(text).key_id for text in texts}) == 100


def test_there_is_no_default_root_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv(ROOT_KEY_VARIABLE, raising=False)
    monkeypatch.delenv(f"{ROOT_KEY_VARIABLE}_FILE", raising=False)

    with pytest.raises(RootKeyMissing):
        IsolatedMemory(f"sqlite:///{tmp_path}/memory.db")

    assert [*tmp_path.iterdir()] == []


def test_a_memory_takes_its_key_from_the_environment(monkeypatch, sqlite_url, tmp_path: Path):
    monkeypatch.setenv(ROOT_KEY_VARIABLE, TEXT)
    with IsolatedMemory(sqlite_url) as memory:
        say(memory, "hello")
    monkeypatch.delenv(ROOT_KEY_VARIABLE)
    monkeypatch.setenv(f"{ROOT_KEY_VARIABLE}_FILE", str(key_file(tmp_path)))

    with IsolatedMemory(sqlite_url) as memory:
        assert heard(memory) == ["hello"]


# Another root key


async def test_another_root_key_opens_and_writes_nothing(
    memory: IsolatedMemory, database_url: str, door: Door
):
    say(memory, "hello")
    before, right = rows(database_url), LocalRootKey(ROOT_KEY)
    wrong = LocalRootKey(bytes(32))

    other = IsolatedMemory(database_url, root_key=wrong)
    for scope in (Scope("alice", "tutor"), Scope("zoe", "tutor")):
        history = other.scope(scope).chat_history("monday")
        for attempt in (
            partial(door, other, "open"),
            partial(door, history, "messages"),
            partial(door, history, "add_messages", [HumanMessage("mine")]),
            partial(door, history, "count"),
            partial(door, history, "clear"),
            partial(door, other.scope(scope).sessions, "create", "x"),
        ):
            with pytest.raises(RootKeyMismatch) as caught:
                await attempt()
            assert (caught.value.expected, caught.value.received) == (right.key_id, wrong.key_id)
            assert right.key_id in str(caught.value)
            assert wrong.key_id in str(caught.value)
            assert_shows_none_of(caught.value, [ROOT_KEY, TEXT.encode()])
    other.close()

    assert rows(database_url) == before
    assert heard(memory) == ["hello"]


# Keys in the table


def wrapped_keys(attacker: Attacker) -> dict[tuple[bytes, int, int], bytes]:
    found = attacker("SELECT principal, purpose, version, wrapped FROM keys")
    return {
        (principal, purpose, version): wrapped for principal, purpose, version, wrapped in found
    }


def put(attacker: Attacker, place: tuple[bytes, int, int], wrapped: bytes) -> None:
    attacker(
        "UPDATE keys SET wrapped = ? WHERE principal = ? AND purpose = ? AND version = ?",
        wrapped,
        *place,
    )


def opened_anew(url: str, **options) -> IsolatedMemory:
    return IsolatedMemory(url, root_key=LocalRootKey(ROOT_KEY), **options)


def test_a_wrapped_key_opens_only_at_its_own_place(
    memory: IsolatedMemory, database_url: str, attacker: Attacker
):
    """Not for another user, purpose or version: not even a user's own newer key in the older's."""
    say(memory, "alice's")
    say(memory, "bob's", user="bob")
    memory._keyring.rotate(ALICE)
    keys = wrapped_keys(attacker)
    assert len(keys) == 7

    for place, own in keys.items():
        for foreign in set(keys.values()) - {own}:
            put(attacker, place, foreign)
            with pytest.raises(RecordDoesNotOpen) as caught:
                heard_anew(database_url)
            assert caught.value.kind == "key"
        put(attacker, place, own)

    assert heard_anew(database_url) == (["alice's"], ["bob's"])


def heard_anew(url: str) -> tuple[list[str], list[str]]:
    """What alice and bob have, read with keys that no cache holds."""
    memory = opened_anew(url, pool_size=1)
    try:
        return heard(memory), heard(memory, user="bob")
    finally:
        memory.close()


def test_a_changed_wrapped_key_does_not_open(
    memory: IsolatedMemory, database_url: str, attacker: Attacker
):
    say(memory, "hello")

    for place, own in wrapped_keys(attacker).items():
        for changed in (own[:-1], own + b"x", own[:20] + bytes([own[20] ^ 1]) + own[21:], b"x"):
            put(attacker, place, changed)
            with pytest.raises(RecordDoesNotOpen):
                heard_anew(database_url)
        put(attacker, place, own)


def test_older_keys_open_and_the_newest_seals(
    memory: IsolatedMemory, database_url: str, attacker: Attacker
):
    say(memory, "before")
    memory._keyring.rotate(ALICE)
    with opened_anew(database_url) as fresh:
        fresh.reseals_on_read = False
        say(fresh, "after")
        assert heard(fresh) == ["before", "after"]

    key_ids = {sealed[1:17] for (sealed,) in attacker("SELECT sealed FROM records")}
    assert len(key_ids) == 2
    # Who has the older keys cached reads them again when a record names a newer one.
    assert heard(memory) == ["before", "after"]


# A key store of its own


@pytest.fixture
def key_store_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/keys.db"


@pytest.fixture
def apart(database_url: str, key_store_url: str) -> Iterator[IsolatedMemory]:
    """A memory whose keys are in a database of their own."""
    with opened_anew(database_url, key_store=key_store_url) as memory:
        yield memory


async def test_the_data_has_no_keys_and_the_key_store_no_data(
    apart: IsolatedMemory, database_url: str, key_store_url: str, door: Door
):
    history = apart.scope(user_id="alice", module_id="tutor").chat_history("monday")
    await door(history, "add_messages", [HumanMessage("hello")])

    data, keys = rows(database_url), rows(key_store_url)

    assert data["keys"] == []
    # The directory key and what wraps all others, and two of the user.
    assert len(keys["keys"]) == 4
    assert [keys[table] for table in ("scopes", "sessions", "records")] == [[], [], []]
    with opened_anew(database_url, key_store=key_store_url) as fresh:
        assert heard(fresh) == ["hello"]


@pytest.mark.parametrize("store", ["none", "an empty one", "another's"])
async def test_without_its_key_store_nothing_opens_and_nothing_is_written(
    apart: IsolatedMemory, database_url: str, tmp_path: Path, door: Door, store: str
):
    say(apart, "hello")
    other_store = f"sqlite:///{tmp_path}/other-keys.db"
    if store == "another's":
        with opened_anew(f"sqlite:///{tmp_path}/other.db", key_store=other_store) as other:
            say(other, "other")
    options = {} if store == "none" else {"key_store": other_store}
    fresh = opened_anew(database_url, **options)
    watched = [database_url, *options.values()]
    for database in filter(None, (fresh._database, fresh._key_store)):
        database.open()
    before = [rows(url) for url in watched]

    for user in ("alice", "zoe"):
        scoped = fresh.scope(user_id=user, module_id="tutor")
        history = scoped.chat_history("monday")
        for attempt in (
            partial(door, fresh, "open"),
            partial(door, history, "messages"),
            partial(door, history, "add_messages", [HumanMessage("mine")]),
            partial(door, scoped.sessions, "create", "x"),
            partial(door, fresh, "modules", user_id=user),
        ):
            with pytest.raises(KeyNotFound, match="key_store="):
                await attempt()
    fresh.close()

    assert [rows(url) for url in watched] == before
    assert heard(apart) == ["hello"]


@pytest.mark.parametrize("lost", ["the whole set", "all keys", "naming", "sealing", "the mac"])
async def test_a_key_store_that_lost_keys_makes_no_new_ones_for_old_memory(
    apart: IsolatedMemory, database_url: str, key_store_url: str, door: Door, lost: str
):
    """New keys would hide what the lost ones sealed, and let the user begin anew unnoticed.

    A whole set is missing in an older copy of the key store; a part of one, where it was changed.
    """
    say(apart, "hello", user="bob")
    say(apart, "hello")
    purposes = {"the mac": (), "naming": (2,), "sealing": (3,)}.get(lost, (2, 3))
    with closing(Attacker(key_store_url)) as attacker:
        for purpose in purposes:
            attacker(
                "DELETE FROM keys WHERE principal = ? AND purpose = ?", principal_of(apart), purpose
            )
        if lost in ("the whole set", "the mac"):
            attacker("DELETE FROM key_sets WHERE principal = ?", principal_of(apart))
    before = [rows(url) for url in (database_url, key_store_url)]

    with opened_anew(database_url, key_store=key_store_url) as fresh:
        for module in ("tutor", "planner"):
            scoped = fresh.scope(user_id="alice", module_id=module)
            history = scoped.chat_history("monday")
            for attempt in (
                partial(door, history, "messages"),
                partial(door, history, "add_messages", [HumanMessage("mine")]),
                partial(door, scoped.sessions, "create", "x"),
            ):
                with pytest.raises((KeyNotFound, RecordDoesNotOpen)) as caught:
                    await attempt()
                told = "older copy" if lost == "the whole set" else "not the set that was stored"
                assert told in str(caught.value)
        assert heard(fresh, user="bob") == ["hello"]

    assert [rows(url) for url in (database_url, key_store_url)] == before


# The cache


class Kms:
    """A root key as a service would hold it: every call is counted, and looked at."""

    key_id = "kms:test/1"

    def __init__(self, watch: Callable[[], None] = lambda: None) -> None:
        self._aead = AESGCM(ROOT_KEY)
        self._watch = watch
        self.calls: list[str] = []

    def wrap(self, key: bytes, context: bytes) -> bytes:
        self._called("wrap")
        nonce = os.urandom(12)
        return nonce + self._aead.encrypt(nonce, key, context)

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        self._called("unwrap")
        return self._aead.decrypt(wrapped[:12], wrapped[12:], context)

    def _called(self, name: str) -> None:
        self.calls.append(name)
        self._watch()

    def taken(self) -> list[str]:
        taken, self.calls = self.calls, []
        return taken


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def ring(sqlite_url: str) -> Iterator[Callable[..., tuple[Keyring, Kms, Clock]]]:
    database = Database(sqlite_url)

    def made(**options) -> tuple[Keyring, Kms, Clock]:
        kms, clock = Kms(), Clock()
        return Keyring(database, kms, clock=clock, **options), kms, clock

    yield made
    database.close()


def owner(number: int) -> Owner:
    return Owner.private(Scope(f"user-{number}", "tutor"))


@pytest.fixture
def unwrapped(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The purpose of every key that is unwrapped, of users and of the installation."""
    purposes: list[int] = []
    unwrap = WrappedKeys.unwrap

    def watched(self: WrappedKeys, principal: bytes, key: StoredKey) -> SecretBytes:
        purposes.append(key.purpose)
        return unwrap(self, principal, key)

    monkeypatch.setattr(WrappedKeys, "unwrap", watched)
    return purposes


def test_cached_keys_are_not_unwrapped_again_until_they_expire(ring, unwrapped: list[int]):
    keyring, kms, clock = ring(cache_seconds=10)
    first = keyring.obtain(ALICE)
    assert "unwrap" in kms.taken()
    unwrapped.clear()

    clock.now += 9.9
    assert keyring.obtain(ALICE) is first
    assert keyring.find(ALICE) is first
    assert (kms.taken(), unwrapped) == ([], [])

    clock.now += 0.2
    again = keyring.find(ALICE)
    assert again is not first
    # The service unwraps what unwraps all others.
    assert kms.taken() == ["unwrap"]
    assert unwrapped == [Purpose.DIRECTORY, Purpose.NAMING, Purpose.SEALING]
    assert (again.scope_id, again.sealing.id) == (first.scope_id, first.sealing.id)


def test_the_cache_keeps_the_owners_last_used_and_no_more(ring, unwrapped: list[int]):
    keyring, kms, _ = ring(cache_size=3)
    for number in range(3):
        keyring.obtain(owner(number))
    keyring.find(owner(0))
    keyring.obtain(owner(3))
    kms.taken()
    unwrapped.clear()

    for number in (0, 2, 3):
        assert keyring.find(owner(number))
    assert unwrapped == []
    assert keyring.find(owner(1))
    assert unwrapped == [Purpose.NAMING, Purpose.SEALING]
    assert kms.taken() == []
    for number in range(100):
        keyring.obtain(owner(number))
        assert len(keyring._cache) <= 3


def test_what_is_forgotten_is_read_again(ring, unwrapped: list[int]):
    keyring, kms, _ = ring()
    keyring.obtain(ALICE)
    keyring.forget(ALICE)
    keyring.forget(BOB)
    kms.taken()
    unwrapped.clear()

    assert keyring.find(ALICE)
    assert unwrapped == [Purpose.NAMING, Purpose.SEALING]
    assert kms.taken() == []


def test_a_service_is_asked_once_whatever_the_number_of_users(ring):
    keyring, kms, _ = ring(cache_size=1)
    for number in range(20):
        keyring.obtain(owner(number))
    first = kms.taken()
    for number in range(20):
        assert keyring.find(owner(number))

    # Tried once, one key wrapped and unwrapped to begin with, and unwrapped from where it stands.
    assert first == ["wrap", "unwrap", "unwrap", "wrap", "unwrap", "unwrap"]
    assert kms.taken() == []


def test_expired_keys_leave_nothing_behind(ring):
    keyring, _, clock = ring(cache_seconds=10)
    keyring.obtain(ALICE)
    clock.now += 11

    keyring.forget(ALICE)

    assert len(keyring._cache) == 0


async def test_asking_for_what_was_never_stored_makes_nothing(
    memory: IsolatedMemory, database_url: str, door: Door
):
    for stage in ("an empty database", "one with another user's memory"):
        before = rows(database_url)
        scoped = memory.scope(user_id="alice", module_id="tutor")
        history = scoped.chat_history("monday")

        assert await door(history, "messages") == [], stage
        assert await door(history, "last", 3) == []
        assert await door(history, "count") == 0
        assert await door(history, "window", max_tokens=10) == []
        assert await door(scoped.sessions, "__call__") == []
        assert await door(memory, "modules", user_id="alice") == []
        await door(history, "clear")

        assert rows(database_url) == before
        say(memory, "hello", user="bob")


def test_a_user_of_one_module_has_nothing_in_another_until_it_stores_something(
    memory: IsolatedMemory, database_url: str
):
    say(memory, "hello")
    before = rows(database_url)

    assert heard(memory, module="planner") == []
    assert rows(database_url) == before
    say(memory, "plan", module="planner")

    assert len(rows(database_url)["keys"]) == 4
    assert len(rows(database_url)["scopes"]) == 2
    assert memory.modules(user_id="alice") == ["planner", "tutor"]


# Several processes at first use


@pytest.mark.parametrize("keys_apart", [False, True])
def test_processes_that_come_first_together_agree_on_all_keys(
    database_url: str, key_store_url: str, keys_apart: bool
):
    options = {"key_store": key_store_url} if keys_apart else {}
    users, modules, processes = 6, ("tutor", "planner"), 4

    def first_use(process: int) -> list[list[str]]:
        with opened_anew(database_url, **options) as mine:
            for user in range(users):
                for module in modules:
                    say(mine, f"from {process}", user=f"user-{user}", module=module)
            return [heard(mine, user=f"user-{user}") for user in range(users)]

    seen = all_at_once([partial(first_use, process) for process in range(processes)])

    everyone = sorted(f"from {process}" for process in range(processes))
    with opened_anew(database_url, **options) as memory:
        for user in range(users):
            for module in modules:
                assert sorted(heard(memory, user=f"user-{user}", module=module)) == everyone
            # Whatever a process saw is a beginning of what there is now.
            now = heard(memory, user=f"user-{user}")
            assert all(now[: len(then[user])] == then[user] for then in seen)
    stored = rows(key_store_url if keys_apart else database_url)
    assert len(stored["keys"]) == 2 + 2 * users
    assert len(rows(database_url)["scopes"]) == users * len(modules)


def test_a_first_use_stores_all_keys_of_a_user_or_none(
    memory: IsolatedMemory, database_url: str, attacker: Attacker
):
    """They stand in one set, and a set is stored in one transaction."""
    say(memory, "hello", user="bob")
    before = rows(database_url)
    if attacker.is_postgres:
        attacker(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE 'disk on fire'; END $$"
        )
        attacker(
            "CREATE TRIGGER no_sealing_key BEFORE INSERT ON keys FOR EACH ROW"
            " WHEN (new.purpose = 3) EXECUTE FUNCTION refuse()"
        )
        attacker("ALTER TABLE keys ENABLE ALWAYS TRIGGER no_sealing_key")
    else:
        attacker(
            "CREATE TRIGGER no_sealing_key BEFORE INSERT ON keys WHEN new.purpose = 3"
            " BEGIN SELECT RAISE(ABORT, 'disk on fire'); END"
        )
    with opened_anew(database_url) as fresh, pytest.raises(LangmemIsolatedError):
        say(fresh, "hello")
    assert rows(database_url) == before

    attacker("DROP TRIGGER no_sealing_key" + " ON keys" * attacker.is_postgres)
    with opened_anew(database_url) as fresh:
        assert heard(fresh) == []
        say(fresh, "hello")
        assert heard(fresh) == ["hello"]


def test_a_first_use_that_died_before_the_database_knew_its_key_is_completed(database_url: str):
    with opened_anew(database_url) as memory, closing(Attacker(database_url)) as attacker:
        memory._keyring._installation.open(create=True)
        attacker("UPDATE installation SET directory_id = NULL")

    with opened_anew(database_url) as memory:
        assert heard(memory) == []
        say(memory, "hello")
    with opened_anew(database_url) as memory:
        assert heard(memory) == ["hello"]


# After an erasure elsewhere


def test_a_scope_removed_by_another_process_takes_no_write(
    memory: IsolatedMemory, database_url: str
):
    say(memory, "hello")
    say(memory, "hello", user="bob")
    scoped = memory.scope(user_id="alice", module_id="tutor")
    warm = scoped.chat_history("monday")
    assert len(warm.messages) == 1
    in_child(erase, database_url)
    before = rows(database_url)

    for write in (
        lambda: warm.add_user_message("late"),
        lambda: scoped.chat_history("new").add_user_message("late"),
        lambda: scoped.sessions.create("newer"),
        lambda: warm.add_messages([HumanMessage("late", id="7"), HumanMessage("later")]),
    ):
        with pytest.raises(KeyDestroyed, match="Nothing was written"):
            write()

    assert rows(database_url)["records"] == before["records"]
    assert rows(database_url)["sessions"] == before["sessions"]
    assert heard(memory, user="bob") == ["hello"]


@pytest.mark.parametrize(
    ("write", "raises"),
    [
        (lambda scoped: scoped.chat_history("monday").add_user_message("late"), KeyDestroyed),
        (lambda scoped: scoped.chat_history("new").add_user_message("late"), KeyDestroyed),
        (lambda scoped: scoped.sessions.create("new"), KeyDestroyed),
        (lambda scoped: scoped.sessions.rename("monday", "late"), SessionNotFound),
        (lambda scoped: scoped.sessions.delete("monday"), SessionNotFound),
        # What was to be removed is gone already.
        (lambda scoped: scoped.chat_history("monday").clear(), None),
    ],
)
def test_the_first_use_after_an_erasure_elsewhere_writes_nothing(
    memory: IsolatedMemory, database_url: str, write, raises
):
    say(memory, "hello")
    scoped = memory.scope(user_id="alice", module_id="tutor")
    assert len(scoped.chat_history("monday").messages) == 1
    in_child(erase, database_url)
    before = rows(database_url)

    with pytest.raises(raises) if raises else nullcontext():
        write(scoped)

    assert rows(database_url) == before


def test_an_old_handle_stays_dead_and_a_new_one_starts_anew(
    memory: IsolatedMemory, database_url: str, attacker: Attacker
):
    say(memory, "first life")
    old = memory.scope(user_id="alice", module_id="tutor")
    assert len(old.chat_history("monday").messages) == 1

    def erase_and_come_back() -> list[str]:
        erase(database_url)
        with opened_anew(database_url) as theirs:
            say(theirs, "second life")
            return heard(theirs)

    assert in_child(erase_and_come_back) == ["second life"]

    for _ in range(2):
        for use in (
            lambda: old.chat_history("monday").add_user_message("late"),
            lambda: old.sessions.create("late"),
        ):
            with pytest.raises(KeyDestroyed):
                use()
        # The keys that this process still has open nothing of the second life.
        try:
            assert old.chat_history("monday").messages == []
        except KeyDestroyed:
            assert old.sessions is not None
        assert heard(memory) == ["second life"]
    say(memory, "goes on")
    assert heard(memory) == ["second life", "goes on"]
    with pytest.raises(KeyDestroyed):
        assert old.chat_history("monday").messages

    assert attacker("SELECT incarnation FROM scopes") == [(2,)]


def test_rows_of_an_earlier_life_do_not_open_in_a_later_one(
    memory: IsolatedMemory, database_url: str, attacker: Attacker
):
    say(memory, "first life")
    saved = {t: attacker(f"SELECT * FROM {t}") for t in ("keys", "sessions", "records")}
    erase(database_url)
    with opened_anew(database_url) as fresh:
        say(fresh, "second life")
    ((digest, generation),) = attacker("SELECT digest, generation FROM sessions")

    def insert(table: str, row: tuple) -> None:
        attacker(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", *row)

    for table in ("sessions", "records"):
        for row in saved[table]:
            insert(table, row)
    with opened_anew(database_url) as fresh:
        assert heard(fresh) == ["second life"]
        listed = fresh.scope(Scope("alice", "tutor")).sessions()
        assert sorted(session.damaged for session in listed) == [False, True]

    # In the place of a record of the later life, under its name and number:
    ((old_digest,),) = attacker("SELECT DISTINCT parent FROM records WHERE parent <> ?", digest)
    attacker("DELETE FROM records WHERE parent = ?", digest)
    attacker("UPDATE records SET parent = ? WHERE parent = ?", digest, old_digest)
    with opened_anew(database_url) as fresh, pytest.raises(RecordDoesNotOpen):
        heard(fresh)

    # And with its session's row as well:
    attacker("DELETE FROM sessions WHERE digest = ?", digest)
    attacker("UPDATE sessions SET digest = ? WHERE digest = ?", digest, old_digest)
    with opened_anew(database_url) as fresh, pytest.raises(RecordDoesNotOpen):
        heard(fresh)
    assert generation not in {row[8] for row in saved["sessions"]}


OF_ALICE = select(schema.scopes.c.scope_id).where(schema.scopes.c.principal == bindparam("alice"))
DELETES = [
    delete(table).where(table.c.scope_id.in_(OF_ALICE))
    for table in (schema.records, schema.sessions, schema.scopes)
]


def test_who_comes_back_by_several_calls_at_once_is_not_told_of_the_erasure_before(
    database_url: str, root_key: LocalRootKey, monkeypatch: pytest.MonkeyPatch
):
    """Another call makes the new life between one's look at the keys and its look for rows."""
    with (
        IsolatedMemory(database_url, root_key=root_key) as memory,
        IsolatedMemory(database_url, root_key=root_key) as other,
    ):
        memory.scope(user_id="bob", module_id="tutor").chat_history("1").add_user_message("before")
        memory.erase_user("bob")
        look = ScopeRows.traces

        def late(rows: ScopeRows, *place: bytes, **options: bool) -> Any:
            monkeypatch.setattr(ScopeRows, "traces", look)
            other.scope(user_id="bob", module_id="tutor").chat_history("1").add_user_message("one")
            return look(rows, *place, **options)

        monkeypatch.setattr(ScopeRows, "traces", late)
        history = memory.scope(user_id="bob", module_id="tutor").chat_history("1")
        history.add_user_message("two")
        assert [message.text for message in history.messages] == ["one", "two"]


def test_first_uses_and_erasures_at_once_are_told_of_erasures_and_of_nothing_else(
    memory: IsolatedMemory, database_url: str
):
    """Whatever comes between whose two steps: nobody hears of tampering or of a lost key."""
    say(memory, "hello", user="bob")
    alice = principal_of(memory)

    def erase_all(transaction: Transaction) -> None:
        for statement in DELETES:
            transaction.execute(statement, alice=alice)

    def eraser() -> int:
        with opened_anew(database_url) as mine:
            for _ in range(25):
                mine._keyring.destroy(ALICE)
                # Who is writing keeps the scope's row for as long as it takes.
                for _ in range(200):
                    with suppress(Conflict, DatabaseLocked):
                        mine._database.write(erase_all)
                        break
        return 0

    def writer(number: int) -> int:
        said, modules = 0, ("tutor", "planner", f"own-{number}")
        with opened_anew(database_url, key_cache_seconds=0) as mine:
            for turn in range(90):
                with suppress(KeyDestroyed, DatabaseLocked):
                    scoped = mine.scope(user_id="alice", module_id=modules[turn % 3])
                    scoped.sessions.create(f"{number}.{turn}")
                    said += 1
                mine._keyring.find(Owner.private(Scope("alice", modules[turn % 2])))
        return said

    said = all_at_once([eraser, *(partial(writer, number) for number in range(3))])

    assert sum(said) > 0
    erase(database_url)
    with opened_anew(database_url) as fresh:
        say(fresh, "after all of it")
        assert heard(fresh) == ["after all of it"]


def test_while_keys_are_destroyed_and_rows_not_yet_gone_the_user_cannot_write(
    memory: IsolatedMemory, database_url: str, attacker: Attacker
):
    say(memory, "hello")
    memory._keyring.destroy(ALICE)
    before = rows(database_url)

    with opened_anew(database_url) as fresh:
        assert heard(fresh) == []
        with pytest.raises(KeyDestroyed):
            say(fresh, "too early")

    after = rows(database_url)
    assert [after[t] for t in TABLES[2:]] == [before[t] for t in TABLES[2:]]


# A root key somewhere else


async def test_a_root_key_of_a_service_works_and_is_asked_only_outside_of_loop_and_transaction(
    database_url: str, door: Door, tmp_path: Path
):
    loop_thread, problems = threading.get_ident(), []

    def watch() -> None:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            on_loop = False
        else:
            on_loop = True
        if is_async and (on_loop or threading.get_ident() == loop_thread):
            problems.append("asked on the event loop")
        if memory._database._engine.pool.checkedout():
            problems.append("asked while a connection was in use")
        if open_transactions(database_url):
            problems.append("asked inside a transaction")

    kms = Kms(watch)
    assert isinstance(kms, RootKey)
    is_async = "async" in os.environ["PYTEST_CURRENT_TEST"]
    memory = IsolatedMemory(database_url, root_key=kms, key_cache_seconds=0)
    history = memory.scope(user_id="alice", module_id="tutor").chat_history("monday")
    await door(memory, "open")
    await door(history, "add_messages", [HumanMessage("one")])
    await door(history, "add_messages", [HumanMessage("two")])
    assert [m.content for m in await door(history, "messages")] == ["one", "two"]
    await door(memory.scope(user_id="bob", module_id="tutor").sessions, "create", "x")
    assert await door(memory, "modules", user_id="bob") == ["tutor"]
    await door(memory, "close")

    assert problems == []
    # What wraps the keys of all users, and one with which the service was tried.
    assert kms.calls.count("wrap") == 2
    assert kms.calls.count("unwrap") > 5


def open_transactions(url: str) -> int:
    """How many transactions others have open: on SQLite, whether one may begin to write."""
    if url.startswith("sqlite"):
        probe = sqlite3.connect(url.removeprefix("sqlite:///"), timeout=0, isolation_level=None)
        try:
            probe.execute("BEGIN IMMEDIATE")
            probe.execute("ROLLBACK")
        except sqlite3.OperationalError:
            return 1
        finally:
            probe.close()
        return 0
    with psycopg.connect(url, autocommit=True) as connection:
        (count,) = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND pid <> pg_backend_pid() AND xact_start IS NOT NULL"
        ).fetchone()
    return count


def test_what_a_service_raises_reaches_the_caller_and_nothing_is_stored(sqlite_url: str):
    class Denied(Exception):
        pass

    def deny() -> None:
        raise Denied

    kms = Kms()
    with IsolatedMemory(sqlite_url, root_key=kms, key_cache_seconds=0) as memory:
        say(memory, "hello")
        before = rows(sqlite_url)
        kms._watch = deny
        with pytest.raises(Denied):
            say(memory, "late")
        with pytest.raises(Denied):
            say(memory, "hello", user="zoe")
        assert rows(sqlite_url) == before
        kms._watch = lambda: None
        say(memory, "again")
        assert heard(memory) == ["hello", "again"]


# A root key that does not keep its promises


class Broken(Kms):
    """A service that hands over something else than it should."""

    def __init__(
        self,
        *,
        wrapped: Callable[[bytes], object] = bytes,
        unwrapped: Callable[[bytes], object] = bytes,
        is_bound: bool = True,
    ) -> None:
        super().__init__()
        self._wrapped, self._unwrapped, self._is_bound = wrapped, unwrapped, is_bound

    def wrap(self, key: bytes, context: bytes):
        return self._wrapped(super().wrap(key, context if self._is_bound else b""))

    def unwrap(self, wrapped: bytes, context: bytes):
        return self._unwrapped(super().unwrap(wrapped, context if self._is_bound else b""))


class Renaming(Kms):
    """A service whose key has another name each time."""

    @property
    def key_id(self) -> str:
        return os.urandom(4).hex()


class Nameless(Kms):
    key_id = None


BROKEN: dict[str, tuple[Callable[[], Kms], str]] = {
    "text": (lambda: Broken(wrapped=bytes.hex), r"wrap\(\) must give bytes, got str"),
    "changeable": (lambda: Broken(wrapped=bytearray), r"wrap\(\) must give bytes, got bytearray"),
    "short": (lambda: Broken(unwrapped=lambda key: key[:16]), "32 bytes .* got 16 bytes"),
    "changeable key": (lambda: Broken(unwrapped=bytearray), "32 bytes .* got bytearray"),
    "no key": (lambda: Broken(unwrapped=lambda _: None), "32 bytes .* got NoneType"),
    "another key": (lambda: Broken(unwrapped=lambda key: key[::-1]), "gave another key"),
    "bound to nothing": (lambda: Broken(is_bound=False), "must raise for another context"),
    "renamed": (Renaming, "key_id must be text that is not empty and stays the same"),
    "nameless": (Nameless, "key_id must be text .* got NoneType"),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_root_key_that_breaks_a_promise_is_refused_before_it_wraps_a_key(
    sqlite_url: str, broken: str
):
    make, promise = BROKEN[broken]
    with IsolatedMemory(sqlite_url, root_key=make()) as memory:
        with pytest.raises(RootKeyInvalid, match=promise) as caught:
            say(memory, "hello")
        assert "promises of RootKey" in str(caught.value)

    assert rows(sqlite_url)["keys"] == []


def test_a_root_key_that_opens_is_tried_before_anything_it_opened_is_used(sqlite_url: str):
    with IsolatedMemory(sqlite_url, root_key=Kms()) as memory:
        say(memory, "hello")

    memory = IsolatedMemory(sqlite_url, root_key=Broken(is_bound=False))
    with closing(memory), pytest.raises(RootKeyInvalid, match="must raise for another context"):
        memory.open()


def test_every_unwrapped_key_is_looked_at_also_after_the_trial(sqlite_url: str):
    kms = Broken()
    with IsolatedMemory(sqlite_url, root_key=kms, key_cache_seconds=0) as memory:
        say(memory, "hello")
        kms._unwrapped = lambda key: key + b"x"
        with pytest.raises(RootKeyInvalid, match=r"32 bytes .* got 33 bytes"):
            heard(memory)


def test_a_root_key_is_tried_once_in_a_memory(sqlite_url: str):
    kms = Kms()
    with IsolatedMemory(sqlite_url, root_key=kms, key_cache_seconds=0) as memory:
        say(memory, "hello")
        first = kms.taken()
        say(memory, "again")
        assert first.count("wrap") == 2
        assert "wrap" not in kms.taken()


# A key file of whom


@pytest.mark.parametrize(
    ("owner", "group", "mode", "accepted"),
    [
        (1000, 50, 0o600, True),
        (1000, 50, 0o400, True),
        # Mounted: root's file, our group, for reading alone.
        (0, 2000, 0o440, True),
        (0, 2000, 0o400, True),
        # A credential of systemd: root's alone but for a list that the mode does not show.
        (0, 0, 0o440, True),
        (0, 0, 0o444, False),
        (0, 0, 0o640, False),
        (1001, 0, 0o440, False),
        (0, 50, 0o440, False),
        (0, 2000, 0o640, False),
        (0, 2000, 0o460, False),
        (0, 2000, 0o444, False),
        (1000, 2000, 0o440, False),
        (1001, 2000, 0o600, False),
        (1001, 2000, 0o440, False),
        (1000, 2000, 0o604, False),
    ],
)
def test_a_key_file_is_ours_or_a_mounted_secret(owner: int, group: int, mode: int, accepted: bool):
    refusal = FileAccess(owner, group, mode).refusal(user=1000, groups=frozenset({1000, 2000}))

    assert (refusal is None) == accepted
    if refusal:
        assert f"mode {mode:04o}: others may read it" in refusal or "another user" in refusal


def test_a_key_file_of_another_user_is_refused(tmp_path: Path):
    path = key_file(tmp_path)
    if os.geteuid() == 0:
        os.chown(path, 4321, -1)
        with pytest.raises(RootKeyInvalid, match="belongs to another user"):
            LocalRootKey.from_file(path)
        os.chown(path, 0, os.getegid())
        path.chmod(0o440)
    assert LocalRootKey.from_file(path).key_id == LocalRootKey(ROOT_KEY).key_id


# What is over time


def alive(kind: type) -> int:
    gc.collect()
    return sum(isinstance(thing, kind) for thing in gc.get_objects())


def test_keys_that_are_over_time_leave_memory_when_anybody_asks_for_keys(ring):
    keyring, _, clock = ring(cache_seconds=10)
    before = alive(ScopeKeys)
    keyring.obtain(ALICE)
    keyring.obtain(owner(1))
    clock.now += 9
    keyring.obtain(BOB)
    assert alive(ScopeKeys) == before + 3

    clock.now += 2
    keyring.find(BOB)

    assert alive(ScopeKeys) == before + 1

    # The directory key was read anew for Bob, 9 seconds after the first time, and is kept for 10.
    clock.now += 2
    keyring.obtain(owner(2))
    clock.now += 7
    keyring.find(owner(2))

    assert alive(ScopeKeys) == before + 1
    assert keyring._installation._kept is None


def test_a_memory_that_was_closed_holds_no_key(memory: IsolatedMemory):
    kinds = (ScopeKeys, DirectoryKey, PrincipalKeys, SecretBytes)
    before = [alive(kind) for kind in kinds]
    say(memory, "hello")
    assert alive(ScopeKeys) > before[0]
    assert alive(DirectoryKey) > before[1]

    memory.close()

    assert [alive(kind) for kind in kinds] == before


# How often keys are used


class FewSeals(SealCounter):
    """A counter of a key that is good for 100 seals."""

    BATCH, WARN_AT, REFUSE_AT = 10, 50, 100


def seals(url: str) -> list[tuple[int, int]]:
    with closing(Attacker(url)) as attacker:
        return attacker("SELECT key_version, seals FROM key_uses ORDER BY 1, 2")


def counting(url: str, counter: type[SealCounter] = SealCounter) -> IsolatedMemory:
    memory = opened_anew(url)
    memory._keyring._uses = KeyUses(memory._database, counter)
    return memory


def test_seals_are_counted_when_a_memory_is_closed_and_added_up(database_url: str):
    for times in range(1, 4):
        with counting(database_url) as memory:
            say(memory, "one record, and the header of its session")
        [(version, counted)] = seals(database_url)
        assert version == 1
        # A session's header is sealed once, each message once.
        assert counted == times + 1


def test_seals_are_stored_after_each_batch_without_closing(database_url: str):
    with counting(database_url, FewSeals) as memory:
        for number in range(25):
            say(memory, str(number))
        assert seals(database_url)[0][1] in (20, 21, 22)


def test_seals_of_keys_that_left_the_cache_are_not_lost(database_url: str):
    with counting(database_url) as memory:
        for number in range(5):
            say(memory, str(number))
            memory._keyring.forget(ALICE)
        gc.collect()
    assert seals(database_url) == [(1, 6)]


def test_a_key_that_sealed_as_often_as_it_may_is_refused_until_another_is_made(
    database_url: str, caplog: pytest.LogCaptureFixture
):
    """Also in the next process, and what was stored goes on being read."""
    with counting(database_url, FewSeals) as memory:
        for number in range(99):
            say(memory, str(number))
        with pytest.raises(KeyExhausted, match=r"100 records.*rotate"):
            say(memory, "one too many")
    assert seals(database_url) == [(1, 100)]
    assert [record.levelname for record in caplog.records].count("WARNING") == 1
    assert "half of the 2^32" in caplog.text

    with counting(database_url, FewSeals) as memory:
        for _ in range(2):
            with pytest.raises(KeyExhausted):
                say(memory, "late")
        assert len(heard(memory)) == 99
        memory._keyring.rotate(ALICE)
        say(memory, "with the next key")
        assert heard(memory)[99:] == ["with the next key"]
    assert [version for version, _ in seals(database_url)] == [1, 2]


def test_processes_add_to_one_count(database_url: str):
    def work(number: int) -> None:
        with counting(database_url, FewSeals) as mine:
            for turn in range(12):
                say(mine, f"{number}.{turn}")

    all_at_once([partial(work, number) for number in range(3)])

    [(_, counted)] = seals(database_url)
    assert counted >= 3 * 12 + 1


def test_a_count_that_cannot_be_stored_waits_and_disturbs_nobody(
    sqlite_url: str,
):
    with counting(sqlite_url, FewSeals) as memory, closing(Attacker(sqlite_url)) as attacker:
        say(memory, "hello")
        attacker("ALTER TABLE key_uses RENAME TO elsewhere")
        memory._keyring._uses.store()
        assert heard(memory) == ["hello"]
        attacker("ALTER TABLE elsewhere RENAME TO key_uses")
    assert seals(sqlite_url) == [(1, 2)]


def test_a_scope_that_is_gone_is_not_counted(memory: IsolatedMemory, database_url: str):
    say(memory, "hello")
    erase(database_url)
    memory._keyring._uses.store()

    assert seals(database_url) == []


# No key shows in a traceback


def frames_of(work: Callable[[], object]) -> str:
    """A failure as an error reporter shows it: with the variables of every frame."""
    try:
        work()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is looked at
        told, seen = [], error
        while seen is not None:
            shown = traceback.TracebackException.from_exception(seen, capture_locals=True)
            told += shown.format()
            seen = seen.__cause__ or seen.__context__
        return "".join(told)
    raise AssertionError("it did not fail")


def test_no_key_shows_in_the_variables_of_a_failure(
    memory: IsolatedMemory, database_url: str, attacker: Attacker, tmp_path: Path, monkeypatch
):
    say(memory, "hello")
    say(memory, "hello", user="bob")
    kms_url = f"sqlite:///{tmp_path}/kms.db"
    denied = []

    def deny() -> None:
        if denied:
            raise PermissionError("denied")

    kms = Kms(deny)
    with IsolatedMemory(kms_url, root_key=kms, key_cache_seconds=0) as other:
        say(other, "hello")
        denied.append(1)
        shown = {"a service refuses": frames_of(lambda: heard(other))}
        denied.clear()
        secrets = secrets_of(memory) + secrets_of(other)

    def insert_fails() -> None:
        with opened_anew(database_url) as fresh:
            say(fresh, "hello", user="carol")

    attacker("ALTER TABLE keys RENAME TO elsewhere")
    attacker("CREATE TABLE keys AS SELECT * FROM elsewhere")
    # No row can be replaced any more: the table has no primary key.
    shown["a key cannot be inserted"] = frames_of(insert_fails)
    attacker("DROP TABLE keys")
    attacker("ALTER TABLE elsewhere RENAME TO keys")

    attacker("UPDATE records SET sealed = ?", b"\x10" + bytes(60))
    shown["a record does not open"] = frames_of(lambda: heard_anew(database_url))
    attacker("UPDATE scopes SET mac = ?", bytes(16))
    shown["a scope's row does not fit"] = frames_of(lambda: heard_anew(database_url))
    for place, own in wrapped_keys(attacker).items():
        put(attacker, place, own[:-1] + bytes([own[-1] ^ 1]))
        shown[f"key {place[1]} does not open"] = frames_of(lambda: heard_anew(database_url))
        put(attacker, place, own)
    monkeypatch.setenv(ROOT_KEY_VARIABLE, f"{TEXT}!")
    shown["a key is mistyped"] = frames_of(LocalRootKey.from_environment)
    path = key_file(tmp_path, f"{TEXT}!")
    shown["a key file is mistyped"] = frames_of(lambda: LocalRootKey.from_file(path))
    exhausted = SealingKey(SecretBytes(ROOT_KEY), FewSeals(100))
    shown["a key is exhausted"] = frames_of(lambda: seal(exhausted, framed(b"x"), b"hello"))

    wanted = [spelling for secret in secrets for spelling in spellings(secret)]
    for failure, text in shown.items():
        assert "langmem_isolated/" in text, failure
        assert not any(spelling in text for spelling in wanted), failure


# No key shows


def secrets_of(memory: IsolatedMemory) -> list[bytes]:
    """Every key there is, unwrapped, and every subkey of one."""
    directory, wrapped = opened(memory)
    (installation_id,) = memory._database.read(Transaction.row, INSTALLATION_ID)
    sets = memory._keyring._sets
    principal = wrapped.unwrapped(sets.read(principal_of(memory), directory))
    assert principal is not None
    directory_row, kek_row = sets.read(installation_id, directory).keys
    directory_key = wrapped.unwrap(installation_id, directory_row)
    keys = memory._keyring.find(ALICE)
    assert keys is not None
    contexts = (b"", ALICE.framed(), ALICE.framed() + framed(keys.birth))
    purposes = (
        *(b"names", b"heads", b"records", b"directory entries"),
        *(b"key sets", b"scope rows", b"root key", b"key wrapping"),
    )
    kek_context = context_of(installation_id, installation_id, Purpose.KEY_ENCRYPTION, 1)
    kek = memory._keyring._root_keys.primary.unwrap(kek_row.wrapped, kek_context)
    roots = [SecretBytes(ROOT_KEY), kek, directory_key, principal.naming, *principal.sealing]
    derived = [derive(k, p, c) for k in roots for p in purposes for c in contexts]
    return [key.reveal() for key in (*roots, *derived)]


def test_no_key_shows_in_any_object_that_holds_one(memory: IsolatedMemory):
    say(memory, "hello")
    secrets = secrets_of(memory)
    scoped = memory.scope(user_id="alice", module_id="tutor")
    assert len(set(secrets)) == len(secrets)

    holders = [
        memory, memory._keyring, memory._database, memory._keyring._root_keys.primary, scoped,
        scoped._records, scoped.sessions, scoped.chat_history("monday"), memory._keyring._cache,
        opened(memory).keys.key_encryption_keys, opened(memory).keys.key_encryption_keys.primary,
        opened(memory), *opened(memory), memory._keyring.find(ALICE), opened(memory).keys.unwrapped(
            memory._keyring._sets.read(principal_of(memory), opened(memory).directory)),
        memory.history_config, memory._keyring._uses, memory._keyring._installation, Kms(),
    ]  # fmt: skip
    for holder in holders:
        assert_shows_none_of(holder, secrets)


def test_no_object_of_ours_with_attributes_to_print_holds_a_bare_key(memory: IsolatedMemory):
    """`vars` of anything of ours, as debuggers and error reporters print it."""
    say(memory, "hello")
    wanted = [spelling for secret in secrets_of(memory) for spelling in spellings(secret)]
    gc.collect()

    ours = [
        thing
        for thing in gc.get_objects()
        if str(type(thing).__module__).startswith("langmem_isolated") and hasattr(thing, "__dict__")
    ]
    assert len(ours) > 5
    for thing in ours:
        text = repr(vars(thing))
        assert not any(spelling in text for spelling in wanted), type(thing).__name__


def test_no_key_reaches_a_log_or_an_error(
    database_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    for name in (None, "sqlalchemy", "sqlalchemy.engine", "sqlalchemy.pool", "psycopg", "asyncio"):
        caplog.set_level(logging.DEBUG, name)
    errors: list[BaseException] = []

    def attempt(work: Callable[[], object]) -> None:
        with pytest.raises(LangmemIsolatedError) as caught:
            work()
        errors.append(caught.value)

    with opened_anew(database_url) as memory, closing(Attacker(database_url)) as attacker:
        say(memory, "hello")
        secrets = secrets_of(memory)
        with closing(IsolatedMemory(database_url, root_key=LocalRootKey(bytes(32)))) as wrong:
            attempt(wrong.open)
        with closing(opened_anew(database_url, key_store=f"sqlite:///{tmp_path}/no.db")) as apart:
            attempt(apart.open)
        keys = wrapped_keys(attacker)
        for place, own in keys.items():
            put(attacker, place, next(other for other in keys.values() if other != own))
            attempt(lambda: heard_anew(database_url))
            put(attacker, place, own)
        attacker("UPDATE records SET sealed = ?", b"\x10" + bytes(60))
        attempt(lambda: heard(memory))
        erase(database_url)
        attempt(lambda: say(memory, "late"))
        attempt(lambda: LocalRootKey.from_text(TEXT[:-4]))
        attempt(lambda: LocalRootKey.from_file(key_file(tmp_path, ROOT_KEY)))

    for error in errors:
        assert_shows_none_of(error, secrets)
    wanted = [spelling for secret in secrets for spelling in spellings(secret)]
    logged = [
        f"{record.getMessage()} {record.args!r} {record.exc_info!r} {vars(record)!r}"
        for record in caplog.records
    ]
    assert logged, "nothing was logged: this test looks at nothing"
    assert not [line for line in logged if any(spelling in line for spelling in wanted)]


def test_a_child_forked_while_keys_are_looked_up_can_look_them_up(
    memory: IsolatedMemory, database_url: str
):
    say(memory, "hello")
    with memory._keyring._cache._lock:
        assert in_child(heard, memory) == ["hello"]


def test_principals_are_told_apart_by_level(ring):
    keyring, *_ = ring()
    project = Owner(Level.PROJECT, "default")
    keyring.obtain(ALICE)
    keyring.obtain(project)
    keyring.obtain(Owner.private(Scope("alice", "planner")))

    user = Owner(Level.USER, "default", "alice")
    assert {found.module for found in keyring.owners(user)} == {"planner", "tutor"}
    assert keyring.owners(project) == [project]
    assert keyring.owners(Owner(Level.USER, "default", "bob")) == []
