"""Users' own locks while several processes make, change, remove and lend them at once."""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from langmem_isolated import IsolatedMemory, LocalRootKey
from langmem_isolated._adapters import appending
from langmem_isolated._crypto.owners import Level, Owner
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._crypto.secret_bytes import SecretBytes
from langmem_isolated._storage import inbox, transcripts
from langmem_isolated._storage.key_sets import KeySets
from langmem_isolated._storage.lent_locks import LentLocks, LockKey
from langmem_isolated._storage.owner_state import OwnerPlace
from langmem_isolated._storage.transcripts import Transcript
from langmem_isolated.errors import MemoryLocked, RecordDoesNotOpen, WrongSecret
from tests.locks import CHEAP, PASSPHRASE, lock, unlock

ANOTHER = "another battery staple"


@pytest.fixture
def locked(memory: IsolatedMemory) -> IsolatedMemory:
    """A memory in which Alice has said something, and locked it."""
    say(memory, "before")
    lock(memory)
    return memory


@pytest.fixture
def other(
    locked: IsolatedMemory, database_url: str, root_key: LocalRootKey
) -> Iterator[IsolatedMemory]:
    """What another process has."""
    with IsolatedMemory(database_url, root_key=root_key) as other:
        yield other


def say(memory: IsolatedMemory, text: str) -> None:
    memory.scope(user_id="alice", module_id="tutor").chat_history("monday").add_user_message(text)


def texts(memory: IsolatedMemory) -> list[str]:
    history = memory.scope(user_id="alice", module_id="tutor").chat_history("monday")
    return [str(message.content) for message in history.messages]


def lock_anew(memory: IsolatedMemory, passphrase: str = ANOTHER) -> None:
    """Remove Alice's lock, and make another."""
    memory.remove_lock("alice", passphrase=PASSPHRASE)
    memory.lock_with("alice", passphrase=passphrase, cost=CHEAP)


def test_no_key_is_made_under_a_lock_that_another_process_has_exchanged(
    locked: IsolatedMemory, other: IsolatedMemory
):
    unlock(locked)
    lock_anew(other)

    with pytest.raises(MemoryLocked):
        locked.rotate_keys("alice")

    other.unlock("alice", passphrase=ANOTHER, seconds=600)
    assert texts(other) == ["before"]


def test_who_was_lent_a_lock_that_was_exchanged_is_locked_and_told_of_no_damage(
    locked: IsolatedMemory, other: IsolatedMemory
):
    unlock(locked)
    lock_anew(other)

    with pytest.raises(MemoryLocked):
        texts(locked)
    assert locked.lock_state("alice").is_locked
    say(locked, "meanwhile")
    with pytest.raises(MemoryLocked):
        locked.collect_inbox("alice")

    other.unlock("alice", passphrase=ANOTHER, seconds=600)
    assert texts(other) == ["before", "meanwhile"]


@pytest.fixture
def before_the_swap(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Has something happen, once, before the next key set is swapped."""
    swap = KeySets.swap

    def happens(what: Callable[[], object]) -> None:
        def swap_behind(*args: object) -> bool:
            monkeypatch.setattr(KeySets, "swap", swap)
            what()
            return swap(*args)

        monkeypatch.setattr(KeySets, "swap", swap_behind)

    return happens


def test_a_secret_that_was_changed_meanwhile_changes_nothing_any_more(
    locked: IsolatedMemory, other: IsolatedMemory, before_the_swap
):
    before_the_swap(
        lambda: other.change_secret(
            "alice", passphrase=PASSPHRASE, new_passphrase=ANOTHER, cost=CHEAP
        )
    )

    with pytest.raises(WrongSecret):
        locked.change_secret(
            "alice", passphrase=PASSPHRASE, new_passphrase="a third of them", cost=CHEAP
        )

    other.unlock("alice", passphrase=ANOTHER, seconds=600)
    assert texts(other) == ["before"]


@pytest.mark.parametrize("passphrase", [PASSPHRASE, ANOTHER])
def test_a_secret_is_changed_of_the_lock_that_is_there_and_of_no_former_one(
    locked: IsolatedMemory, other: IsolatedMemory, before_the_swap, passphrase: str
):
    before_the_swap(lambda: lock_anew(other, passphrase))
    try:
        locked.change_secret(
            "alice", passphrase=PASSPHRASE, new_passphrase="a third of them", new_recovery=True,
            cost=CHEAP,
        )  # fmt: skip
    except WrongSecret:
        opens = passphrase
    else:
        opens = "a third of them"

    other.unlock("alice", passphrase=opens, seconds=600)
    assert texts(other) == ["before"]


def test_keys_that_are_taken_back_while_they_are_read_are_not_kept(
    locked: IsolatedMemory, monkeypatch: pytest.MonkeyPatch
):
    scope_keys = OwnerPlace.scope_keys

    def taken_back(*args: Any, **named: Any) -> ScopeKeys:
        monkeypatch.setattr(OwnerPlace, "scope_keys", scope_keys)
        made = scope_keys(*args, **named)
        locked.lock("alice")
        return made

    unlock(locked)
    locked._context.keyring._cache.clear()
    monkeypatch.setattr(OwnerPlace, "scope_keys", taken_back)
    # Who was about to read may still do so, and nobody behind it.
    with suppress(MemoryLocked):
        texts(locked)

    with pytest.raises(MemoryLocked):
        texts(locked)


def test_what_was_opened_leaves_the_plaintext_cache_though_its_keys_have_left_theirs(
    database_url: str, root_key: LocalRootKey
):
    options = {"root_key": root_key, "plaintext_cache_seconds": 600.0, "key_cache_size": 1}
    with IsolatedMemory(database_url, **options) as memory:
        say(memory, "Grandma likes chess")
        lock(memory)
        with unlock(memory):
            assert memory.scope(user_id="alice", module_id="tutor").recall("chess")
            memory.scope(user_id="bob", module_id="tutor").chat_history("a").add_user_message("Hi")
            assert len(memory._context.plaintext_cache._entries)
        assert not len(memory._context.plaintext_cache._entries)


def test_what_is_being_opened_as_the_user_locks_does_not_get_into_the_plaintext_cache(
    database_url: str, root_key: LocalRootKey, monkeypatch: pytest.MonkeyPatch
):
    options = {"root_key": root_key, "plaintext_cache_seconds": 600.0}
    with IsolatedMemory(database_url, **options) as memory:
        say(memory, "Grandma likes chess")
        lock(memory)
        lent, read = unlock(memory), transcripts.read

        def read_as_the_user_locks(*args: Any) -> list[Transcript]:
            found = read(*args)
            lent.lock()
            return found

        monkeypatch.setattr(transcripts, "read", read_as_the_user_locks)
        memory.scope(user_id="alice", module_id="tutor").recall("chess")

        assert not len(memory._context.plaintext_cache._entries)


def test_another_lock_has_another_inbox_which_no_key_from_before_opens(
    locked: IsolatedMemory, other: IsolatedMemory
):
    say(locked, "to the first")
    locked.remove_lock("alice", passphrase=PASSPHRASE)
    alice = Owner(Level.USER, "default", "alice")
    # The server has these, and so has a copy of the database from this moment.
    from_before = locked._context.keyring.locks().inbox_keys(alice)
    assert from_before
    locked.lock_with("alice", passphrase=ANOTHER, cost=CHEAP)
    say(locked, "to the second")

    tutors = locked._context.records(Owner(Level.PRIVATE, "default", "alice", "tutor"))
    ((digest, _),) = tutors.read(inbox.waiting, [])
    with pytest.raises(RecordDoesNotOpen):
        tutors.write(inbox.take, digest, from_before, lambda opened: pytest.fail(repr(opened)))

    other.unlock("alice", passphrase=ANOTHER, seconds=600)
    assert texts(other) == ["before", "to the first", "to the second"]


def test_what_is_put_into_the_inbox_just_before_the_lock_is_removed_is_brought_in(
    locked: IsolatedMemory, other: IsolatedMemory, before_the_swap
):
    before_the_swap(lambda: say(other, "meanwhile"))

    assert locked.remove_lock("alice", passphrase=PASSPHRASE).messages == 1

    assert texts(other) == ["before", "meanwhile"]


@pytest.mark.parametrize("is_for_good", [True, False])
def test_what_is_put_into_the_inbox_just_behind_an_unlock_is_brought_in_by_who_says_it(
    locked: IsolatedMemory, monkeypatch: pytest.MonkeyPatch, *, is_for_good: bool
):
    let_wait = appending.let_wait

    def let_wait_behind(*args: Any) -> None:
        if is_for_good:
            locked.remove_lock("alice", passphrase=PASSPHRASE)
        else:
            unlock(locked)
        let_wait(*args)

    monkeypatch.setattr(appending, "let_wait", let_wait_behind)
    say(locked, "meanwhile")

    assert texts(locked) == ["before", "meanwhile"]


def test_a_lock_that_is_lent_anew_as_its_time_is_over_stays_lent():
    now = [0.0]
    lent = LentLocks(lambda: now[0])
    for user in (b"alice", b"bob"):
        lent.lend(user, LockKey(SecretBytes.random()), 60)
    # Bob unlocks again while Alice's keys are being let go of.
    lent.ended = lambda ended: (
        lent.lend(b"bob", LockKey(SecretBytes.random()), 60) if ended == b"alice" else None
    )
    now[0] = 60.0

    lent.end_over_time()

    assert lent.of(b"alice") is None
    assert lent.of(b"bob") is not None
    lent.ended = lambda _: None
    lent.end_all()


def test_who_says_something_and_who_unlocks_never_wait_for_each_other_in_a_ring(
    locked: IsolatedMemory, other: IsolatedMemory, monkeypatch: pytest.MonkeyPatch
):
    say(locked, "first")
    put, has_begun = inbox.put, threading.Event()

    def put_slowly(*args: Any) -> None:
        # It has the session's row, and will want that of the inbox.
        has_begun.set()
        time.sleep(0.5)
        put(*args)

    monkeypatch.setattr(inbox, "put", put_slowly)
    with ThreadPoolExecutor(1) as pool:
        said = pool.submit(say, locked, "second")
        assert has_begun.wait(30)
        unlock(other)
        said.result()
    other.collect_inbox("alice")

    assert texts(other) == ["before", "first", "second"]


def test_files_that_are_copied_behind_the_lock_have_no_key_and_no_record_from_before(
    sqlite_url: str, root_key: LocalRootKey
):
    path = sqlite_url.removeprefix("sqlite:///")
    with IsolatedMemory(sqlite_url, root_key=root_key) as memory:
        for number in range(20):
            say(memory, f"{number}")
        with closing(sqlite3.connect(path)) as connection:
            old = connection.execute("SELECT wrapped FROM keys WHERE purpose = 3").fetchall()
            old += connection.execute("SELECT sealed FROM records").fetchall()

        lock(memory)

        files = b"".join(Path(path + end).read_bytes() for end in ("", "-wal"))
        assert not [sealed for (sealed,) in old if sealed in files]
