"""Promise 4, for keys: a user's keys are the set that was stored, or an error says they are not.

Never does it look as if the user had been erased, or had nothing. What someone without the root key
can do unnoticed is held by a test as well, at the end.
"""

from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import Any

import pytest

from langmem_isolated import IsolatedMemory, LocalRootKey, Scope
from langmem_isolated._crypto.directory import DirectoryKey
from langmem_isolated._crypto.owners import Owner
from langmem_isolated._crypto.secret_bytes import SecretBytes
from langmem_isolated._storage.installation import OpenInstallation
from langmem_isolated._storage.key_sets import KeySet, Purpose, State, StoredKey
from langmem_isolated._storage.wrapped_keys import WrappedKeys
from langmem_isolated.errors import (
    DatabaseError,
    KeyDestroyed,
    KeyNotFound,
    LangmemIsolatedError,
    RecordDoesNotOpen,
    RootKeyMismatch,
)
from tests.conftest import ROOT_KEY, Attacker
from tests.processes import all_at_once

ALICE, BOB = (Owner.private(Scope(user, "tutor")) for user in ("alice", "bob"))
NAMES = {
    "keys": ("principal", *StoredKey._fields),
    "key_sets": ("principal", "revision", "mac"),
    "installation": ("id", "version", "installation_id", "directory_id"),
}
REFUSALS = (RecordDoesNotOpen, KeyNotFound, RootKeyMismatch, DatabaseError)
TAMPERED = "the keys of its owner are not the set that was stored"
Rows = dict[str, list[tuple[Any, ...]]]


def opened_anew(url: str) -> IsolatedMemory:
    return IsolatedMemory(url, root_key=LocalRootKey(ROOT_KEY), pool_size=1)


def history(memory: IsolatedMemory, user: str = "alice") -> Any:
    return memory.scope(user_id=user, module_id="tutor").chat_history("monday")


def heard(memory: IsolatedMemory, user: str = "alice") -> list[str]:
    return [str(message.content) for message in history(memory, user).messages]


def opened(memory: IsolatedMemory) -> OpenInstallation:
    found = memory._keyring._installation.open(create=False)
    assert found is not None
    return found


def key_set(memory: IsolatedMemory, owner: Owner = ALICE) -> KeySet:
    directory = opened(memory).directory
    return memory._keyring._sets.read(directory.principal_of(owner), directory)


def refusals(url: str) -> list[LangmemIsolatedError]:
    """What reading and writing of alice's say to whom no cache helps."""
    attempts: list[Callable[[IsolatedMemory], object]] = [
        heard,
        lambda memory: history(memory).add_user_message("more"),
        lambda memory: memory.scope(user_id="alice", module_id="new").sessions.create("x"),
    ]
    caught = []
    for attempt in attempts:
        with closing(opened_anew(url)) as memory, pytest.raises(LangmemIsolatedError) as error:
            attempt(memory)
        caught.append(error.value)
    return caught


def assert_told_of_tampering(url: str) -> None:
    for error in refusals(url):
        assert isinstance(error, RecordDoesNotOpen), error
        assert (error.kind, error.reason) == ("key", TAMPERED)


@pytest.fixture
def said(memory: IsolatedMemory) -> IsolatedMemory:
    """A memory in which alice has two sealing keys, and bob has keys, too."""
    for user in ("alice", "bob"):
        history(memory, user).add_user_message(f"of {user}")
    memory._keyring.rotate(ALICE)
    history(memory).add_user_message("with the second key")
    return memory


def saved(attacker: Attacker) -> Rows:
    """All rows that make up the keys."""
    return {
        table: attacker(f"SELECT {', '.join(names)} FROM {table} ORDER BY 1, 2, 3")
        for table, names in NAMES.items()
    }


def put_back(attacker: Attacker, rows: Rows) -> None:
    for table, kept in rows.items():
        attacker(f"DELETE FROM {table}")
        for row in kept:
            marks = ", ".join("?" * len(row))
            attacker(f"INSERT INTO {table} ({', '.join(NAMES[table])}) VALUES ({marks})", *row)


def others(value: object, column: str) -> list[object]:
    """What a column could hold instead."""
    if column == "wrapped":
        assert isinstance(value, bytes)
        return [value[:-1] + bytes([value[-1] ^ 1]), b"", None]
    if column.startswith("second_"):
        return [b"x", b""]
    if isinstance(value, str):
        return [f"{value}x", ""]
    if value is None:
        return [7, 0]
    assert isinstance(value, int)
    return [value + 9, -1, 0] if column in ("version", "created_at") else [value + 9, 3 - value]


@pytest.mark.parametrize("column", StoredKey._fields)
def test_whatever_column_of_a_users_key_is_changed_is_refused(
    said: IsolatedMemory, database_url: str, attacker: Attacker, column: str
):
    alice, before = key_set(said), saved(attacker)

    for key in alice.keys:
        for other in others(getattr(key, column), column):
            attacker(
                f"UPDATE keys SET {column} = ? WHERE principal = ? AND purpose = ? AND version = ?",
                other, alice.principal, key.purpose, key.version,
            )  # fmt: skip
            assert_told_of_tampering(database_url)
            put_back(attacker, before)

    with opened_anew(database_url) as fresh:
        assert heard(fresh) == ["of alice", "with the second key"]


# What is done to the rows of keys and sets, {alice} and {bob} being the two principals.
TAMPERINGS = {
    "an erasure is feigned": [
        "UPDATE keys SET state = 3, wrapped = NULL, destroyed_at = 1 WHERE principal = {alice}"
    ],
    "one state is feigned": ["UPDATE keys SET state = 2 WHERE principal = {alice} AND purpose = 3"],
    "the older key is made the one that seals": [
        (
            "UPDATE keys SET is_primary = 2 - version, state = version"
            " WHERE principal = {alice} AND purpose = 3"
        )
    ],
    "a key is removed": [
        "DELETE FROM keys WHERE principal = {alice} AND purpose = 3 AND version = 1"
    ],
    "the newest key is removed": [
        "DELETE FROM keys WHERE principal = {alice} AND purpose = 3 AND version = 2"
    ],
    "all keys are removed": ["DELETE FROM keys WHERE principal = {alice}"],
    "a key is added": [
        (
            "INSERT INTO keys SELECT principal, purpose, 9, state, is_primary, wrapping, kek,"
            " wrapped, second_wrapped, second_parameters, root_key_id, created_at,"
            " destroyed_at FROM keys WHERE principal = {alice} AND version = 2"
        )
    ],
    "the row of the set is removed": ["DELETE FROM key_sets WHERE principal = {alice}"],
    "an earlier revision is feigned": [
        "UPDATE key_sets SET revision = revision - 1 WHERE principal = {alice}"
    ],
    "another's MAC is taken": [
        (
            "UPDATE key_sets SET mac = (SELECT mac FROM key_sets WHERE principal = {bob})"
            " WHERE principal = {alice}"
        )
    ],
    "the MAC is cut off": ["UPDATE key_sets SET mac = {empty} WHERE principal = {alice}"],
    "users exchange keys and sets": [
        f"UPDATE {table} SET principal = {{{new}}} WHERE principal = {{{old}}}"
        for table in ("keys", "key_sets")
        for old, new in (("alice", "third"), ("bob", "alice"), ("third", "bob"))
    ],
}


def tamper(attacker: Attacker, statements: list[str], **values: bytes) -> None:
    for statement in statements:
        names = {name: f"'\\x{value.hex()}'::bytea" if attacker.is_postgres else
                 f"x'{value.hex()}'" for name, value in values.items()}  # fmt: skip
        attacker(statement.format(**names))


@pytest.mark.parametrize("how", TAMPERINGS)
def test_a_set_that_is_not_as_it_was_stored_is_refused(
    said: IsolatedMemory, database_url: str, attacker: Attacker, how: str
):
    alice, bob = (key_set(said, owner).principal for owner in (ALICE, BOB))
    before = saved(attacker)

    tamper(attacker, TAMPERINGS[how], alice=alice, bob=bob, third=b"third", empty=b"")

    assert_told_of_tampering(database_url)
    with closing(opened_anew(database_url)) as fresh, pytest.raises(RecordDoesNotOpen):
        fresh.modules(user_id="alice")
    put_back(attacker, before)
    with opened_anew(database_url) as fresh:
        assert heard(fresh) == ["of alice", "with the second key"]
        assert heard(fresh, "bob") == ["of bob"]


def test_a_single_key_put_back_from_before_a_change_is_refused(
    said: IsolatedMemory, database_url: str, attacker: Attacker
):
    alice, before = key_set(said), saved(attacker)
    said._keyring.rotate(ALICE)
    of_alice = [row for row in before["keys"] if row[0] == alice.principal and row[1] == 3]

    put_back(attacker, {"keys": [r for r in saved(attacker)["keys"] if r[:3] != of_alice[-1][:3]]})
    marks = ", ".join("?" * len(of_alice[-1]))
    attacker(f"INSERT INTO keys ({', '.join(NAMES['keys'])}) VALUES ({marks})", *of_alice[-1])

    assert_told_of_tampering(database_url)


def test_a_user_whose_keys_are_all_gone_with_their_set_does_not_begin_anew(
    said: IsolatedMemory, database_url: str, attacker: Attacker
):
    principal = key_set(said).principal
    for table in ("keys", "key_sets"):
        attacker(f"DELETE FROM {table} WHERE principal = ?", principal)

    for error in refusals(database_url):
        assert isinstance(error, KeyNotFound), error
        assert "older copy" in str(error)


# The installation and its directory key


@pytest.mark.parametrize(
    "how",
    [
        "UPDATE installation SET installation_id = {other}",
        "UPDATE installation SET installation_id = {other}, directory_id = NULL",
        "UPDATE installation SET directory_id = {other}",
        "DELETE FROM installation",
        "DELETE FROM keys WHERE principal = {installation}",
        "DELETE FROM key_sets WHERE principal = {installation}",
        "UPDATE keys SET wrapped = {other} WHERE principal = {installation}",
        "UPDATE keys SET wrapped = NULL WHERE principal = {installation}",
        "UPDATE keys SET state = 3 WHERE principal = {installation}",
        "UPDATE keys SET version = 2 WHERE principal = {installation}",
        "UPDATE keys SET purpose = 2 WHERE principal = {installation} AND purpose = 1",
        "UPDATE keys SET purpose = 2 WHERE principal = {installation} AND purpose = 4",
        "UPDATE keys SET kek = 2 WHERE principal = {installation} AND purpose = 1",
        "UPDATE keys SET state = 2 WHERE principal = {installation} AND purpose = 4",
        "UPDATE keys SET is_primary = 0 WHERE principal = {installation} AND purpose = 4",
        "UPDATE keys SET state = 3 WHERE principal = {installation} AND purpose = 4",
        "UPDATE keys SET version = 2 WHERE principal = {installation} AND purpose = 4",
        "DELETE FROM keys WHERE principal = {installation} AND purpose = 4",
        "UPDATE keys SET root_key_id = 'x' WHERE principal = {installation}",
        "UPDATE keys SET created_at = 1 WHERE principal = {installation}",
        "UPDATE key_sets SET revision = 2 WHERE principal = {installation}",
    ],
)
@pytest.mark.parametrize("directory_id", ["kept", "removed"])
def test_nobody_seems_to_have_nothing_where_the_installation_was_tampered_with(
    said: IsolatedMemory, database_url: str, attacker: Attacker, how: str, directory_id: str
):
    [(installation,)] = attacker("SELECT installation_id FROM installation")
    if directory_id == "removed":
        attacker("UPDATE installation SET directory_id = NULL")

    tamper(attacker, [how], installation=installation, other=b"another of 16 b.")

    for error in refusals(database_url):
        assert isinstance(error, REFUSALS), error


def test_a_directory_key_and_set_that_are_gone_are_never_made_anew(
    said: IsolatedMemory, database_url: str, attacker: Attacker
):
    attacker("UPDATE installation SET directory_id = NULL")
    for table in ("keys", "key_sets"):
        attacker(
            f"DELETE FROM {table} WHERE principal = (SELECT installation_id FROM installation)"
        )

    for error in refusals(database_url):
        assert isinstance(error, KeyNotFound), error


def test_a_key_opens_in_its_own_installation_only(said: IsolatedMemory):
    alice = key_set(said)
    other = WrappedKeys(opened(said).keys.key_encryption_keys, b"another of 16 b.")

    assert len(opened(said).keys.unwrap(alice.principal, alice.keys[0])) == 32
    with pytest.raises(RecordDoesNotOpen):
        other.unwrap(alice.principal, alice.keys[0])
    with pytest.raises(RecordDoesNotOpen):
        opened(said).keys.unwrap(b"another user", alice.keys[0])


def test_one_key_store_serves_two_installations_and_keeps_them_apart(tmp_path):
    store = f"sqlite:///{tmp_path}/keys.db"
    for name in ("one", "two", "one", "two"):
        memory = IsolatedMemory(
            f"sqlite:///{tmp_path}/{name}.db", root_key=LocalRootKey(ROOT_KEY), key_store=store
        )
        with memory:
            history(memory).add_user_message(f"in {name}")
    with IsolatedMemory(
        f"sqlite:///{tmp_path}/one.db", root_key=LocalRootKey(ROOT_KEY), key_store=store
    ) as memory:
        assert heard(memory) == ["in one", "in one"]


# Changing a set


def test_a_new_sealing_key_retires_the_former_and_versions_are_not_given_twice(
    said: IsolatedMemory, attacker: Attacker
):
    former = key_set(said)
    assert [(k.version, k.state, k.is_primary) for k in former.living(Purpose.SEALING)] == [
        (1, State.RETIRED, 0),
        (2, State.ACTIVE, 1),
    ]
    said._keyring.destroy(ALICE)

    destroyed = key_set(said)
    assert [key.state for key in destroyed.keys] == [State.DESTROYED] * 3
    assert all(key.wrapped is None and key.destroyed_at for key in destroyed.keys)
    assert destroyed.next_version(Purpose.SEALING) == 3
    assert destroyed.revision == former.revision + 1
    for table in ("records", "sessions", "scopes"):
        attacker(f"DELETE FROM {table}")
    with opened_anew(said._database.url.render_as_string(hide_password=False)) as fresh:
        history(fresh).add_user_message("second life")
        later = key_set(fresh)
    assert [(k.purpose, k.version) for k in later.keys if k.state != State.DESTROYED] == [
        (Purpose.NAMING, 2),
        (Purpose.SEALING, 3),
    ]


def test_processes_that_change_a_set_together_lose_no_change(
    said: IsolatedMemory, database_url: str
):
    processes, each = 4, 5

    def rotate() -> None:
        with opened_anew(database_url) as mine:
            for _ in range(each):
                mine._keyring.rotate(ALICE)
                assert heard(mine)[0] == "of alice"

    all_at_once([partial(rotate)] * processes)

    with opened_anew(database_url) as fresh:
        found = key_set(fresh)
        sealing = found.living(Purpose.SEALING)
        assert sorted(key.version for key in sealing) == list(range(1, 3 + processes * each))
        assert [key.version for key in sealing if key.is_primary] == [2 + processes * each]
        assert found.revision == 2 + processes * each
        assert heard(fresh) == ["of alice", "with the second key"]
        history(fresh).add_user_message("goes on")
        assert heard(fresh)[-1] == "goes on"


def test_whoever_lost_the_swap_changes_nothing(said: IsolatedMemory, attacker: Attacker):
    directory, keys = opened(said)
    old = key_set(said)
    said._keyring.rotate(ALICE)
    before = saved(attacker)

    assert not said._keyring._sets.swap(old, old.destroyed(1), directory)
    assert not said._keyring._sets.swap(
        KeySet(old.principal), keys.with_new_keys(KeySet(old.principal), Purpose.NAMING), directory
    )
    assert saved(attacker) == before


def test_a_set_that_was_made_without_the_root_key_is_refused(
    said: IsolatedMemory, database_url: str, attacker: Attacker
):
    """Everything about a set can be known and written, but not its MAC."""
    forged, old = DirectoryKey(SecretBytes.random()), key_set(said)
    assert said._keyring._sets.swap(old, old.destroyed(1), forged)

    assert_told_of_tampering(database_url)


# What cannot be told without an anchor outside the database


def test_a_whole_older_set_put_back_opens_as_what_it_was(
    said: IsolatedMemory, database_url: str, attacker: Attacker
):
    before = saved(attacker)
    said._keyring.destroy(ALICE)
    with opened_anew(database_url) as fresh, pytest.raises(KeyDestroyed):
        history(fresh).add_user_message("late")

    put_back(attacker, before)

    with opened_anew(database_url) as fresh:
        assert heard(fresh) == ["of alice", "with the second key"]
