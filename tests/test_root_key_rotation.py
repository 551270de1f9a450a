"""The root key is exchanged for another: nothing is lost, and nobody has to stop."""

import asyncio
import random
import shutil
import threading
import time
from contextlib import closing
from functools import partial
from typing import Any

import pytest

from langmem_isolated import IsolatedMemory, LocalRootKey, Scope
from langmem_isolated._crypto.owners import Owner
from langmem_isolated._storage import key_sets
from langmem_isolated._storage.key_sets import KeyEncryptionKeyRetired, KeySets, StoredKey
from langmem_isolated._storage.wrapped_keys import WrappedKeys
from langmem_isolated.errors import (
    KeyringError,
    MemoryLocked,
    RecordDoesNotOpen,
    RootKeyInvalid,
    RootKeyMismatch,
)
from langmem_isolated.lifecycle import RootKeyRotated
from tests.conftest import ROOT_KEY, Attacker, Door
from tests.processes import Child, all_at_once
from tests.test_cli import run, url_of

OLD, NEW = LocalRootKey(ROOT_KEY), LocalRootKey(bytes(31) + b"n")
USERS = ("alice", "bob", "carol")
LIVING = "wrapped IS NOT NULL"


def history(memory: IsolatedMemory, user: str) -> Any:
    return memory.scope(user_id=user, module_id="tutor").chat_history("monday")


def heard(memory: IsolatedMemory, user: str) -> list[str]:
    return [str(message.content) for message in history(memory, user).messages]


def opened_anew(url: str, *root_keys: LocalRootKey, key_store: str | None = None) -> IsolatedMemory:
    first, *accepted = root_keys
    return IsolatedMemory(
        url, root_key=first, accepted_root_keys=accepted, key_store=key_store, pool_size=2
    )


def assert_opens_with_the_new_key_alone(url: str, key_store: str | None = None) -> None:
    with closing(opened_anew(url, OLD, key_store=key_store)) as memory:
        for attempt in (
            memory.open,
            lambda: heard(memory, "alice"),
            lambda: history(memory, "dave").add_user_message("x"),
        ):
            with pytest.raises(RootKeyMismatch):
                attempt()
    with opened_anew(url, NEW, key_store=key_store) as memory:
        for user in USERS:
            assert heard(memory, user) == [f"of {user}"]


@pytest.fixture
def said(memory: IsolatedMemory) -> IsolatedMemory:
    for user in USERS:
        history(memory, user).add_user_message(f"of {user}")
    return memory


async def test_afterwards_the_former_key_opens_nothing_and_the_new_one_everything(
    said: IsolatedMemory, database_url: str, attacker: Attacker, door: Door
):
    records = attacker("SELECT * FROM records ORDER BY 1, 2, 3")
    seen: list[int] = []

    done = await door(said, "rotate_root_key", NEW, progress=seen.append)

    assert (done, seen) == (RootKeyRotated(4, 7), [1, 2, 3, 4])
    assert attacker(f"SELECT DISTINCT root_key_id FROM keys WHERE {LIVING}") == [(NEW.key_id,)]
    assert attacker(f"SELECT purpose, version FROM keys WHERE NOT {LIVING}") == [(4, 1)]
    assert attacker("SELECT * FROM records ORDER BY 1, 2, 3") == records
    assert_opens_with_the_new_key_alone(database_url)
    assert await door(said, "rotate_root_key", NEW) == RootKeyRotated(0, 0)
    history(said, "dave").add_user_message("of dave")
    with opened_anew(database_url, NEW) as fresh:
        assert heard(fresh, "dave") == ["of dave"]


@pytest.mark.parametrize("nth", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("is_stored", [False, True])
def test_a_rotation_that_dies_at_any_swap_is_gone_on_with_by_another_process(
    said: IsolatedMemory, database_url: str, monkeypatch, nth: int, is_stored: bool
):
    swap, calls = KeySets.swap, []

    def dying(*arguments: Any) -> bool:
        calls.append(1)
        if len(calls) < nth or is_stored:
            swap(*arguments)
        if len(calls) == nth:
            raise KeyboardInterrupt
        return True

    with monkeypatch.context() as patched, opened_anew(database_url, OLD) as killed:
        patched.setattr(KeySets, "swap", dying)
        with pytest.raises(KeyboardInterrupt):
            killed.rotate_root_key(NEW)
        # What it has done already it opens, and the rest.
        assert [heard(killed, user) for user in USERS] == [[f"of {user}"] for user in USERS]

    # The first swap retires the former key-encryption key, the next three are of users.
    done = max(0, (nth if is_stored else nth - 1) - 1)
    if done < 4:
        with opened_anew(database_url, OLD):
            pass  # The directory key comes last: whoever has the former key can begin.
    with closing(opened_anew(database_url, OLD)) as other:
        assert other.rotate_root_key(NEW).key_sets == 4 - done
    assert_opens_with_the_new_key_alone(database_url)


def test_another_memory_that_accepts_the_new_key_goes_on_meanwhile(
    said: IsolatedMemory, database_url: str, attacker: Attacker
):
    with opened_anew(database_url, OLD, NEW) as other:

        def meanwhile(number: int) -> None:
            for user in USERS:
                other._keyring._cache.clear()
                assert heard(other, user)[0] == f"of {user}"
                history(other, user).add_user_message("more")
            if number <= 3:
                history(other, f"new {number}").add_user_message("hello")

        done = said.rotate_root_key(NEW, progress=meanwhile)

        # Who came meanwhile is wrapped by the new one from the first.
        assert done.key_sets == 4
        # It wraps nothing by the former key, though it began with that one: there is nothing left.
        history(other, "late").add_user_message("hello")
        assert attacker(f"SELECT DISTINCT root_key_id FROM keys WHERE {LIVING}") == [(NEW.key_id,)]
        assert said.rotate_root_key(NEW) == RootKeyRotated(0, 0)
    with opened_anew(database_url, NEW) as fresh:
        for user in ("new 1", "new 2", "new 3", "late"):
            assert heard(fresh, user) == ["hello"]


def test_an_accepted_key_opens_and_wraps_nothing(said: IsolatedMemory, database_url, attacker):
    with opened_anew(database_url, NEW, OLD) as other:
        history(other, "dave").add_user_message("of dave")
        assert heard(other, "alice") == ["of alice"]

    assert attacker("SELECT DISTINCT root_key_id FROM keys") == [(OLD.key_id,)]
    with opened_anew(database_url, OLD) as former:
        assert heard(former, "dave") == ["of dave"]
    with closing(opened_anew(database_url, LocalRootKey(bytes(32)), NEW)) as third:
        with pytest.raises(RootKeyMismatch, match="accepted besides") as caught:
            third.open()
        assert caught.value.accepted == (NEW.key_id,)


def test_a_copy_from_before_does_not_open_with_the_new_key(sqlite_url: str, tmp_path):
    with opened_anew(sqlite_url, OLD) as memory:
        history(memory, "alice").add_user_message("of alice")
    shutil.copy(tmp_path / "memory.db", tmp_path / "copy.db")
    with opened_anew(sqlite_url, OLD) as memory:
        memory.rotate_root_key(NEW)

    copy = f"sqlite:///{tmp_path}/copy.db"
    with closing(opened_anew(copy, NEW)) as memory, pytest.raises(RootKeyMismatch):
        memory.open()
    with opened_anew(copy, OLD) as memory:
        assert heard(memory, "alice") == ["of alice"]


def test_a_key_store_of_two_installations_is_rotated_for_one(database_url: str, tmp_path):
    store, second = f"sqlite:///{tmp_path}/keys.db", f"sqlite:///{tmp_path}/second.db"
    for url in (database_url, second):
        with opened_anew(url, OLD, key_store=store) as memory:
            for user in USERS:
                history(memory, user).add_user_message(f"of {user}")

    with opened_anew(database_url, OLD, key_store=store) as memory:
        assert memory.rotate_root_key(NEW) == RootKeyRotated(4, 7)

    assert_opens_with_the_new_key_alone(database_url, store)
    with opened_anew(second, OLD, key_store=store) as memory:
        assert heard(memory, "alice") == ["of alice"]
        assert memory.rotate_root_key(NEW) == RootKeyRotated(4, 7)
    assert_opens_with_the_new_key_alone(second, store)


class Forgetful:
    key_id = "forgetful"

    def wrap(self, key: bytes, _: bytes) -> bytes:
        return key

    def unwrap(self, _: bytes, __: bytes) -> bytes:
        return bytes(32)


@pytest.mark.parametrize("new", ["text", bytes(32), None, LocalRootKey, Forgetful()])
def test_what_is_no_root_key_is_refused_and_changes_nothing(
    said: IsolatedMemory, database_url: str, attacker: Attacker, new: Any
):
    before = attacker("SELECT * FROM keys ORDER BY 1, 2, 3")

    with pytest.raises(RootKeyInvalid):
        said.rotate_root_key(new)

    assert attacker("SELECT * FROM keys ORDER BY 1, 2, 3") == before
    history(said, "dave").add_user_message("of dave")
    with opened_anew(database_url, OLD) as fresh:
        assert heard(fresh, "dave") == ["of dave"]


def test_who_has_neither_key_rotates_nothing(
    said: IsolatedMemory, database_url: str, attacker: Attacker
):
    before = attacker("SELECT * FROM keys ORDER BY 1, 2, 3")

    stranger = opened_anew(database_url, LocalRootKey(bytes(32)))
    with closing(stranger), pytest.raises(RootKeyMismatch):
        stranger.rotate_root_key(NEW)

    assert attacker("SELECT * FROM keys ORDER BY 1, 2, 3") == before


def test_a_set_that_only_says_it_is_wrapped_by_the_new_key_is_refused(
    said: IsolatedMemory, attacker: Attacker
):
    attacker("UPDATE keys SET root_key_id = ? WHERE purpose <> 1", NEW.key_id)

    with pytest.raises(RecordDoesNotOpen):
        said.rotate_root_key(NEW)


def test_what_an_old_copy_has_of_the_erased_does_not_open_with_the_new_key(
    said: IsolatedMemory, database_url: str, attacker: Attacker
):
    """Which it would if the rotation had wrapped but the key-encryption key anew."""
    bob = Owner.private(Scope("bob", "tutor"))
    names = ", ".join(("principal", *StoredKey._fields))
    opened = said._keyring.installation.open(create=False)
    assert opened
    principal = opened.directory.principal_of(bob)
    old = [
        StoredKey(*row[1:]) for row in attacker(f"SELECT {names} FROM keys") if row[0] == principal
    ]
    said._keyring.destroy(bob)

    said.rotate_root_key(NEW)

    with opened_anew(database_url, NEW) as fresh:
        found = fresh._keyring.installation.open(create=False)
        assert found
        for key in old:
            for kek in (1, 2):
                with pytest.raises(RecordDoesNotOpen):
                    found.keys.unwrap(principal, key._replace(kek=kek))


def test_a_key_that_was_wrapped_before_the_rotation_is_not_stored_behind_it(
    said: IsolatedMemory, database_url: str, monkeypatch, attacker: Attacker
):
    """Another process wraps, the rotation runs from begin to end, and only then it stores."""
    make, rotations = WrappedKeys.with_new_keys, []

    def slow(*arguments: Any) -> Any:
        made = make(*arguments)
        if not rotations:
            rotations.append(said.rotate_root_key(NEW))
        return made

    with opened_anew(database_url, OLD, NEW) as other:
        heard(other, "alice")
        monkeypatch.setattr(WrappedKeys, "with_new_keys", slow)
        history(other, "dave").add_user_message("of dave")
        other._keyring.rotate(Owner.private(Scope("alice", "tutor")))

    assert rotations == [RootKeyRotated(4, 7)]
    assert attacker(f"SELECT DISTINCT kek FROM keys WHERE {LIVING} AND purpose <> 4") == [(2,)]
    with opened_anew(database_url, NEW) as fresh:
        assert heard(fresh, "dave") == ["of dave"]
    with closing(opened_anew(database_url, OLD)) as former, pytest.raises(RootKeyMismatch):
        heard(former, "dave")


def test_a_process_without_the_new_key_stores_nothing_more_once_the_rotation_has_begun(
    said: IsolatedMemory, database_url: str, attacker: Attacker
):
    with opened_anew(database_url, OLD) as other:
        assert heard(other, "alice") == ["of alice"]
        refused = []

        def meanwhile(_: int) -> None:
            with pytest.raises(RootKeyMismatch):
                history(other, "dave").add_user_message("of dave")
            assert heard(other, "alice") == ["of alice"]
            refused.append(1)

        said.rotate_root_key(NEW, progress=meanwhile)

    assert len(refused) == 4
    assert attacker(f"SELECT COUNT(*) FROM keys WHERE {LIVING}") == [(8,)]


def test_users_who_come_in_other_processes_meanwhile_are_all_wrapped_anew(
    said: IsolatedMemory, database_url: str, attacker: Attacker
):
    each = 12

    def come(name: str) -> None:
        with opened_anew(database_url, OLD, NEW) as mine:
            for number in range(each):
                history(mine, f"{name} {number}").add_user_message("hello")

    def rotate() -> None:
        with opened_anew(database_url, OLD, NEW) as mine:
            time.sleep(0.02)
            mine.rotate_root_key(NEW)

    all_at_once([partial(come, "one"), partial(come, "two"), rotate, rotate])

    assert attacker(f"SELECT DISTINCT root_key_id FROM keys WHERE {LIVING}") == [(NEW.key_id,)]
    assert attacker(f"SELECT COUNT(*) FROM keys WHERE {LIVING} AND purpose = 4") == [(1,)]
    with opened_anew(database_url, NEW) as fresh:
        assert all(heard(fresh, f"{name} {n}") for name in ("one", "two") for n in range(each))


def test_what_was_begun_to_another_root_key_is_not_gone_on_with_by_who_cannot_open_it(
    said: IsolatedMemory, database_url: str, attacker: Attacker
):
    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with opened_anew(database_url, OLD) as killed, pytest.raises(KeyboardInterrupt):
        killed.rotate_root_key(NEW, progress=stop)
    before, third = attacker("SELECT * FROM keys ORDER BY 1, 2, 3"), LocalRootKey(bytes(32))

    with closing(opened_anew(database_url, OLD)) as other, pytest.raises(RootKeyMismatch):
        other.rotate_root_key(third)
    assert attacker("SELECT * FROM keys ORDER BY 1, 2, 3") == before

    with closing(opened_anew(database_url, OLD, NEW)) as other:
        assert other.rotate_root_key(third) == RootKeyRotated(4, 7)
    with opened_anew(database_url, third) as fresh:
        assert heard(fresh, "alice") == ["of alice"]


def test_of_two_rotations_to_different_keys_the_later_one_wins(
    said: IsolatedMemory, database_url: str
):
    third = LocalRootKey(bytes(32))
    with closing(opened_anew(database_url, OLD, NEW)) as other:

        def overtaken(number: int) -> None:
            if number == 1:
                assert other.rotate_root_key(third).keys == 7

        with pytest.raises(KeyringError, match="Another rotation"):
            said.rotate_root_key(NEW, progress=overtaken)
    with opened_anew(database_url, third) as fresh:
        assert [heard(fresh, user) for user in USERS] == [[f"of {user}"] for user in USERS]


def test_destroyed_keys_stay_as_they_are(said: IsolatedMemory, attacker: Attacker):
    asked = "SELECT * FROM keys WHERE state = 3 AND purpose <> 4 ORDER BY 1, 2, 3"
    said._keyring.destroy(Owner.private(Scope("bob", "tutor")))
    before = attacker(asked)
    assert len(before) == 2

    assert said.rotate_root_key(NEW) == RootKeyRotated(3, 5)
    assert attacker(asked) == before


def test_the_command_rotates_and_finds_nothing_the_second_time(said: IsolatedMemory, tmp_path):
    file = tmp_path / "new.key"
    assert run("keygen", "--file", file).exit_code == 0
    arguments = ("rotate-root-key", "--new-key-file", file, "--database", url_of(said))

    assert "7 keys of 4 owners were wrapped anew" in run(*arguments).stdout
    assert "before" in run(*arguments).stdout
    assert '"keys": 0' in run(*arguments, "--json").stdout
    with opened_anew(url_of(said), LocalRootKey.from_file(file)) as fresh:
        assert heard(fresh, "alice") == ["of alice"]


def test_a_rotation_can_be_slowed_down(memory: IsolatedMemory):
    for number in range(6):
        history(memory, f"user {number}").add_user_message("hello")
    began = time.monotonic()
    assert memory.rotate_root_key(NEW, most_per_second=20).key_sets == 7

    assert time.monotonic() - began >= 7 / 20


async def test_a_slow_rotation_that_is_cancelled_ends_at_once_and_can_be_gone_on_with(
    said: IsolatedMemory, database_url: str
):
    rotating = asyncio.create_task(said.arotate_root_key(NEW, most_per_second=0.01))
    await asyncio.sleep(0.3)
    rotating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await rotating

    assert said.rotate_root_key(NEW).key_sets > 0
    assert_opens_with_the_new_key_alone(database_url)


@pytest.mark.parametrize(("wrong", "kind"), [(0, ValueError), (-1, ValueError), ("9", TypeError)])
def test_a_rate_that_is_none_is_refused_and_changes_nothing(
    said: IsolatedMemory, attacker: Attacker, wrong: Any, kind: type[Exception]
):
    before = attacker("SELECT * FROM keys ORDER BY 1, 2, 3")
    with pytest.raises(kind, match="most_per_second"):
        said.rotate_root_key(NEW, most_per_second=wrong)
    assert attacker("SELECT * FROM keys ORDER BY 1, 2, 3") == before


def test_a_state_of_the_key_that_wraps_which_nobody_gave_it_ends_in_an_error_and_not_in_a_loop(
    said: IsolatedMemory, database_url: str, attacker: Attacker, monkeypatch: pytest.MonkeyPatch
):
    def never(*_: object) -> None:
        raise KeyEncryptionKeyRetired(1)

    with monkeypatch.context() as patched:
        patched.setattr(key_sets, "_prove", never)
        with pytest.raises(RecordDoesNotOpen, match="another state"):
            history(said, "dave").add_user_message("of dave")
    attacker("UPDATE keys SET state = 2 WHERE purpose = 4")
    with pytest.raises(RecordDoesNotOpen):
        history(said, "dave").add_user_message("of dave")


def test_a_rotation_that_is_killed_again_and_again_completes_while_others_read_and_come(
    database_url: str, attacker: Attacker
):
    users = [f"user {number}" for number in range(25)]
    with opened_anew(database_url, OLD) as memory:
        for user in users:
            history(memory, user).add_user_message(f"of {user}")
    kills = random.Random(7)

    def rotate() -> int:
        with opened_anew(database_url, OLD, NEW) as mine:
            return mine.rotate_root_key(NEW, most_per_second=400).key_sets

    with opened_anew(database_url, OLD, NEW) as other:
        for number in range(8):
            child = Child(rotate)
            time.sleep(kills.uniform(0.005, 0.15))
            child.kill()
            other._keyring._cache.clear()
            assert [heard(other, user) for user in users] == [[f"of {user}"] for user in users]
            history(other, f"new {number}").add_user_message("hello")
    Child(rotate).result()

    assert attacker(f"SELECT DISTINCT root_key_id FROM keys WHERE {LIVING}") == [(NEW.key_id,)]
    with opened_anew(database_url, NEW) as fresh:
        assert [heard(fresh, user) for user in users] == [[f"of {user}"] for user in users]
        assert all(heard(fresh, f"new {number}") == ["hello"] for number in range(8))


def test_a_rotation_waits_for_who_is_storing_what_the_former_key_wrapped(
    said: IsolatedMemory, database_url: str, monkeypatch: pytest.MonkeyPatch
):
    """Whoever has looked whether it is in use must have stored before it goes out of use."""
    prove, looked, rotated = key_sets._prove, threading.Event(), threading.Event()

    def slow(installation_id: bytes, wrappers: set[int | None], transaction: Any) -> None:
        prove(installation_id, wrappers, transaction)
        if threading.current_thread() is storing and not looked.is_set():
            looked.set()
            assert not rotated.wait(0.5)

    with opened_anew(database_url, OLD, NEW) as other:
        storing = threading.Thread(
            target=lambda: other._keyring.rotate(Owner.private(Scope("alice", "tutor")))
        )
        heard(other, "alice")
        monkeypatch.setattr(key_sets, "_prove", slow)
        storing.start()
        assert looked.wait(60)
        assert said.rotate_root_key(NEW).keys == 8
        rotated.set()
        storing.join()

    assert_opens_with_the_new_key_alone(database_url)


def test_what_a_user_holds_is_wrapped_anew_without_the_users_secret(
    said: IsolatedMemory, database_url: str
):
    said.lock_with("alice", secret=bytes(32))
    said.lock("alice")

    assert said.rotate_root_key(NEW).key_sets == 4

    with opened_anew(database_url, NEW) as fresh:
        with pytest.raises(MemoryLocked):
            heard(fresh, "alice")
        fresh.unlock("alice", secret=bytes(32), seconds=60)
        assert heard(fresh, "alice") == ["of alice"]
