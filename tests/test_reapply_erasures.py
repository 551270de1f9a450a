"""Erasures that are applied again: an older copy that was put back forgets who was erased since."""

import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from langchain_core.vectorstores import InMemoryVectorStore

from langmem_isolated import IsolatedMemory, LocalRootKey
from langmem_isolated._storage.key_sets import KeySets
from langmem_isolated.errors import ErasureLogRefused, RootKeyMismatch
from langmem_isolated.lifecycle import Reapplied
from langmem_isolated.lifecycle.erasure.run import ErasureRunner
from tests.conftest import Attacker, Door
from tests.embeddings import NGramEmbeddings
from tests.test_erasure import Killed, principal_of, rows_of
from tests.test_inventory import fill, operate
from tests.test_tombstones import lines, said, say

TABLES = ("installation", "keys", "key_sets", "scopes", "key_uses", "usage", "sessions", "records",
          "tombstones", "erasures", "audit", "audit_chains")  # fmt: skip
NOTHING = Reapplied(0, {})


class OldCopy:
    """All tables as they were at a moment, to be put back: as pg_restore and cp do."""

    def __init__(self, url: str) -> None:
        self._url = url
        with closing(Attacker(url)) as attacker:
            self.rows = {table: attacker(f"SELECT * FROM {table}") for table in TABLES}

    def put_back(self) -> None:
        with closing(Attacker(self._url)) as attacker:
            for table in reversed(TABLES):
                attacker(f"DELETE FROM {table}")
            for table, rows in self.rows.items():
                for row in rows:
                    attacker(f"INSERT INTO {table} VALUES ({','.join('?' * len(row))})", *row)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "erasures.jsonl"


@pytest.fixture
def open_memory(database_url: str, root_key: LocalRootKey, log: Path) -> Callable[..., Any]:
    """Opens a memory on one database of either kind, as a process that starts does."""

    def opened(**options: Any) -> IsolatedMemory:
        return IsolatedMemory(database_url, **{"root_key": root_key, "erasure_log": log} | options)

    return opened


def left_of(attacker: Attacker, principal: bytes) -> int:
    """Rows and living keys of a principal."""
    scopes = attacker("SELECT count(*) FROM scopes WHERE principal = ?", principal)[0][0]
    living = "SELECT count(*) FROM keys WHERE principal = ? AND wrapped IS NOT NULL"
    return scopes + sum(rows_of(attacker, principal).values()) + attacker(living, principal)[0][0]


async def test_an_old_copy_forgets_who_was_erased_since_and_keeps_everybody_else(
    open_memory: Callable[..., IsolatedMemory], database_url: str, door: Door
):
    attacker = Attacker(database_url)
    with open_memory() as memory:
        fill(memory, memory.scope(user_id="alice", module_id="tutor"), None)
        operate(memory, None)
        memory.quotas.set(tokens=9, per="day", user_id="alice")
        fill(memory, memory.scope(user_id="bob", module_id="tutor"), None)
        alices, bobs = (principal_of(memory, user) for user in ("alice", "bob"))
        old, of_alice, of_bob = (
            OldCopy(database_url),
            rows_of(attacker, alices),
            rows_of(attacker, bobs),
        )
        memory.erase_user("alice")
    old.put_back()

    with open_memory() as memory:
        assert said(memory, "alice") == ["a secret", "kept"], "the old copy brought her back"
    with open_memory() as memory:
        told: list[int] = []
        done = await door(memory, "reapply_erasures", progress=told.append)

        assert done.principals == 1
        assert sum(done.counts.values()) == of_alice["records"] + of_alice["sessions"] == told[-1]
        assert left_of(attacker, alices) == 0
        assert rows_of(attacker, bobs) == of_bob
        assert said(memory, "bob") == ["a secret", "kept"]
        memory.scope(user_id="bob", module_id="tutor").verify()
        assert await door(memory, "reapply_erasures") == NOTHING
        assert attacker("SELECT count(*) FROM tombstones") == [(1,)], "from the log"

        say(memory, "alice", "in person")
        assert memory.reapply_erasures() == NOTHING
        assert said(memory, "alice") == ["in person"]
    attacker.close()


def test_where_nobody_was_erased_it_does_nothing(memory: IsolatedMemory):
    assert memory.reapply_erasures() == NOTHING
    say(memory, "alice")
    assert memory.reapply_erasures() == NOTHING


def test_the_log_learns_from_the_table_and_the_table_from_the_log(
    open_memory: Callable[..., IsolatedMemory], database_url: str, log: Path
):
    with open_memory(erasure_log=None) as memory:
        for user in ("alice", "bob"):
            say(memory, user)
        empty = OldCopy(database_url)
        memory.erase_user("alice")
    with open_memory() as memory:
        memory.erase_user("bob")
        assert len(lines(log)) == 1
        assert memory.reapply_erasures() == NOTHING
    assert len(lines(log)) == 2

    empty.put_back()
    with open_memory() as memory:
        assert memory.reapply_erasures().principals == 2
    log.unlink()
    with open_memory() as memory:
        memory.reapply_erasures()
    assert len(lines(log)) == 2


def test_who_came_back_and_is_in_the_copy_stays_and_leftovers_of_before_go(
    open_memory: Callable[..., IsolatedMemory], database_url: str
):
    attacker = Attacker(database_url)
    with open_memory() as memory:
        say(memory, "alice", "first life")
        memory.scope(user_id="alice", module_id="planner").chat_history("s").add_user_message("x")
        first = OldCopy(database_url)
        principal = principal_of(memory, "alice")
        memory.erase_user("alice")
        say(memory, "alice", "second life")
        # A row of the first life that an old copy of the data alone brings back.
        planner = next(
            row for row in first.rows["scopes"] if not attacker(
                "SELECT 1 FROM scopes WHERE scope_id = ?", row[0])
        )  # fmt: skip
        attacker(f"INSERT INTO scopes VALUES ({','.join('?' * len(planner))})", *planner)

    with open_memory() as memory:
        assert memory.reapply_erasures().principals == 1
        assert said(memory, "alice") == ["second life"]
        assert attacker("SELECT count(*) FROM scopes WHERE principal = ?", principal) == [(1,)]
        memory.erase_user("alice")
        first.put_back()
    with open_memory() as memory:
        memory.reapply_erasures()
        assert left_of(attacker, principal) == 0
        say(memory, "alice", "third life")
        assert memory.reapply_erasures() == NOTHING, "the third, in a copy that knew of one"
        assert said(memory, "alice") == ["third life"]
    attacker.close()


def test_who_first_came_after_the_copy_and_was_erased_begins_a_later_life_in_it(
    open_memory: Callable[..., IsolatedMemory], database_url: str
):
    with open_memory() as memory:
        say(memory, "bob")
        before_alice = OldCopy(database_url)
        say(memory, "alice")
        memory.erase_user("alice")
    before_alice.put_back()

    with open_memory() as memory:
        assert memory.reapply_erasures() == NOTHING
        say(memory, "alice", "new")
        assert memory.reapply_erasures() == NOTHING
        assert said(memory, "alice") == ["new"]


def test_holds_that_the_copy_brings_back_stop_nothing_and_go_and_later_ones_stay(
    open_memory: Callable[..., IsolatedMemory], database_url: str
):
    with open_memory() as memory:
        for user in ("alice", "bob"):
            say(memory, user)
            memory.retention.hold(user, reason="case", by="counsel")
        old = OldCopy(database_url)
        memory.retention.release("alice")
        memory.erase_user("alice")
    old.put_back()

    with open_memory() as memory:
        done = memory.reapply_erasures()
        assert (done.principals, done.counts["policy"]) == (1, 1)
        assert [hold.user_id for hold in memory.retention.holds()] == ["bob"]
        memory.retention.hold("alice", reason="case 8", by="counsel")
        assert memory.reapply_erasures() == NOTHING
        assert len(memory.retention.holds()) == 2


@pytest.mark.parametrize("kept", ["keys", "rows"])
def test_where_only_keys_or_only_rows_came_back_they_go(
    open_memory: Callable[..., IsolatedMemory], database_url: str, kept: str
):
    attacker = Attacker(database_url)
    with open_memory() as memory:
        say(memory, "alice")
        principal, old = principal_of(memory, "alice"), OldCopy(database_url)
        memory.erase_user("alice")
        destroyed = {table: attacker(f"SELECT * FROM {table}") for table in ("keys", "key_sets")}
    old.put_back()
    if kept == "keys":
        for table in ("records", "sessions", "usage", "key_uses", "scopes"):
            attacker(f"DELETE FROM {table}")
    else:
        for table, rows in destroyed.items():
            attacker(f"DELETE FROM {table}")
            for row in rows:
                attacker(f"INSERT INTO {table} VALUES ({','.join('?' * len(row))})", *row)
    assert left_of(attacker, principal)

    with open_memory() as memory:
        done = memory.reapply_erasures()

        assert done == Reapplied(1, {} if kept == "keys" else {"message": 1, "session": 1})
        assert left_of(attacker, principal) == 0
        assert memory.reapply_erasures() == NOTHING
    attacker.close()


def test_a_guest_and_what_a_project_shared_are_forgotten_too(
    open_memory: Callable[..., IsolatedMemory], database_url: str
):
    """By whatever erases them: a tombstone is one of any principal."""
    attacker = Attacker(database_url)
    with open_memory() as memory:
        guest = memory.anonymous(module_id="tutor")
        guest.chat_history("s").add_user_message("a secret")
        owner = guest._records.owner
        principal, old = memory._keyring.scopes_of(owner)[0].principal, OldCopy(database_url)
        memory._keyring.tombstones.put(principal, 1)
        memory._keyring.destroy(owner)
    old.put_back()

    with open_memory() as memory:
        assert memory.reapply_erasures().principals == 1
    assert left_of(attacker, principal) == 0
    attacker.close()


def test_a_copy_from_before_a_rotation_of_the_root_key_forgets_with_the_former_key(
    open_memory: Callable[..., IsolatedMemory], database_url: str, root_key: LocalRootKey
):
    attacker, new = Attacker(database_url), LocalRootKey(bytes(32))
    with open_memory() as memory:
        for user in ("alice", "bob"):
            say(memory, user)
        principal, old = principal_of(memory, "alice"), OldCopy(database_url)
        memory.rotate_root_key(new)
        memory.erase_user("alice")
    old.put_back()

    with closing(open_memory(root_key=new)) as memory, pytest.raises(RootKeyMismatch):
        memory.reapply_erasures()
    with open_memory(root_key=new, accepted_root_keys=[root_key]) as memory:
        assert memory.reapply_erasures().principals == 1
        assert left_of(attacker, principal) == 0
        assert said(memory, "bob") == ["a secret"]
        memory.rotate_root_key(new)
    with open_memory(root_key=new) as memory:
        assert said(memory, "bob") == ["a secret"]
        assert said(memory, "alice") == []
    attacker.close()


def test_a_line_of_the_log_that_was_changed_stops_it_before_anything_is_erased(
    open_memory: Callable[..., IsolatedMemory], database_url: str, log: Path
):
    with open_memory() as memory:
        for user in ("alice", "bob"):
            say(memory, user)
        old = OldCopy(database_url)
        memory.erase_user("alice")
    log.write_text(log.read_text().replace('"incarnation":1', '"incarnation":7'))
    old.put_back()

    with open_memory() as memory:
        with pytest.raises(ErasureLogRefused):
            memory.reapply_erasures()
        assert said(memory, "alice") == ["a secret"]


def test_killed_at_any_step_it_goes_on_when_it_is_called_again(
    open_memory: Callable[..., IsolatedMemory], database_url: str, monkeypatch: pytest.MonkeyPatch
):
    attacker = Attacker(database_url)
    with open_memory() as memory:
        for user in ("alice", "bob"):
            say(memory, user)
        memory.retention.hold("alice", reason="case", by="counsel")
        principal, old = principal_of(memory, "alice"), OldCopy(database_url)
        memory.retention.release("alice")
        memory.erase_user("alice")
    steps = ends_at = killed = 0

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **kwargs: Any) -> Any:
            nonlocal steps
            steps += 1
            if steps == ends_at:
                raise Killed
            return real(*args, **kwargs)

        return step

    for ends_at in range(1, 20):  # noqa: B007 - the step reads it
        old.put_back()
        steps = 0
        with open_memory() as memory, monkeypatch.context() as patched:
            patched.setattr(KeySets, "swap", counted(KeySets.swap))
            patched.setattr(memory._database, "write", counted(memory._database.write))
            try:
                memory.reapply_erasures()
            except Killed:
                killed += 1
        with open_memory() as memory:
            memory.reapply_erasures()
            assert left_of(attacker, principal) == 0
            assert memory.retention.holds() == []
    assert killed >= 5
    attacker.close()


def test_a_module_that_never_had_a_key_of_its_own_is_forgotten_too_and_nothing_that_is_newer(
    open_memory: Callable[..., IsolatedMemory], database_url: str
):
    with open_memory() as memory:
        say(memory, "alice")
        elsewhere = memory.scope(user_id="alice", module_id="planner")
        elsewhere.chat_history("s").add_user_message("stays")
        old = OldCopy(database_url)
        assert memory.erase_module("tutor").scopes == 1
        say(memory, "alice", "new")
        assert memory.reapply_erasures() == NOTHING
        assert said(memory, "alice") == ["new"]
    old.put_back()

    with open_memory() as memory:
        done = memory.reapply_erasures()

        assert (done.principals, done.counts["session"]) == (1, 1)
        assert said(memory, "alice") == []
        assert memory.scope(user_id="alice", module_id="planner").sessions() != []
        assert memory.reapply_erasures() == NOTHING


def test_stores_that_this_process_does_not_have_do_not_stop_it_and_participants_are_asked_again(
    open_memory: Callable[..., IsolatedMemory], database_url: str
):
    store, asked = InMemoryVectorStore(NGramEmbeddings()), list[str | None]()
    with open_memory() as memory:
        scope = memory.scope(user_id="alice", module_id="tutor")
        scope.vector_store(wrapping=store).add_texts(["a secret"])
        old = OldCopy(database_url)
        memory.erase_user("alice")
    old.put_back()

    with open_memory() as memory:
        memory.erasure.register("crm", lambda it: asked.append(it.user_id), lambda _: True)
        assert memory.reapply_erasures().principals == 1

        assert asked == ["alice"]
        (receipt,) = memory.erasure.receipts()
        assert receipt.participants == {"crm": "confirmed"}
        assert "InMemoryVectorStore" in str(receipt)


def erase_place(memory: IsolatedMemory, what: str) -> None:
    if what == "module":
        memory.erase_module("tutor")
    else:
        memory.erase_project("default")


@pytest.mark.parametrize("what", ["module", "project"])
def test_a_copy_from_between_two_erasures_of_a_place_forgets_what_came_between(
    open_memory: Callable[..., IsolatedMemory], database_url: str, what: str
):
    with open_memory() as memory:
        say(memory, "alice")
        erase_place(memory, what)
        say(memory, "bob")
        between = OldCopy(database_url)
        erase_place(memory, what)
    between.put_back()

    with open_memory() as memory:
        assert memory.reapply_erasures().principals >= 1
        assert said(memory, "bob") == []


def fill_in_the_midst(memory: IsolatedMemory, what: str, copy: Callable[[], object]) -> None:
    """Erase a place, in which somebody begins anew before anything of it is destroyed."""

    def come(_: object) -> None:
        time.sleep(0.002)
        say(memory, "bob")
        copy()

    memory.erasure.register("newcomer", come, lambda _: True)
    erase_place(memory, what)
    memory.erasure.register("newcomer", lambda _: None, lambda _: True)


@pytest.mark.parametrize("what", ["module", "project"])
def test_whoever_began_in_a_place_while_it_was_erased_stays_when_erasures_are_applied_again(
    memory: IsolatedMemory, what: str
):
    say(memory, "alice")
    fill_in_the_midst(memory, what, lambda: None)
    say(memory, "carol")
    assert said(memory, "bob")

    assert memory.reapply_erasures() == NOTHING
    assert said(memory, "bob")
    assert said(memory, "carol")


@pytest.mark.parametrize("what", ["module", "project"])
def test_a_copy_from_the_midst_of_an_erasure_of_a_place_forgets_what_was_before_and_keeps_the_rest(
    open_memory: Callable[..., IsolatedMemory], database_url: str, what: str
):
    copies = list[OldCopy]()
    with open_memory() as memory:
        say(memory, "alice")
        fill_in_the_midst(memory, what, lambda: copies.append(OldCopy(database_url)))
    copies[0].put_back()

    with open_memory() as memory:
        assert said(memory, "alice")
        assert memory.reapply_erasures().principals >= 1
        assert said(memory, "alice") == []
        assert said(memory, "bob")


@pytest.mark.parametrize("what", ["module", "project"])
def test_a_hold_that_was_released_before_a_place_was_erased_keeps_nothing_of_it_in_a_copy(
    open_memory: Callable[..., IsolatedMemory], database_url: str, what: str
):
    with open_memory() as memory:
        for user in ("alice", "bob"):
            say(memory, user)
        memory.retention.hold("bob", reason="case 7", by="counsel")
        held = OldCopy(database_url)
        memory.retention.release("bob")
        erase_place(memory, what)
    held.put_back()

    with open_memory() as memory:
        assert memory.reapply_erasures().principals >= 1
        assert said(memory, "alice") == said(memory, "bob") == []


@pytest.mark.parametrize("step", ["_end_lives", "_remove_all", "_remove_holds", "_completed"])
@pytest.mark.parametrize("what", ["user", "module", "project"])
def test_a_copy_from_the_midst_of_an_erasure_no_longer_names_who_was_erased(
    open_memory: Callable[..., IsolatedMemory],
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
    step: str,
):
    def erase(memory: IsolatedMemory) -> None:
        memory.erase_user("alice") if what == "user" else erase_place(memory, what)

    def ends(*_: object) -> None:
        raise Killed

    with open_memory() as memory:
        for user in ("alice", "bob"):
            say(memory, user)
        with monkeypatch.context() as patched:
            patched.setattr(ErasureRunner, step, ends)
            with pytest.raises(Killed):
                erase(memory)
        copy = OldCopy(database_url)
        erase(memory)
    copy.put_back()

    with open_memory() as memory:
        assert len(memory.erasure.pending()) == 1
        memory.reapply_erasures()
        assert memory.erasure.pending() == []
        assert [one.what for one in memory.erasure.receipts()] == [what]
        assert said(memory, "alice") == []
        assert bool(said(memory, "bob")) == (what == "user")
        assert memory.reapply_erasures() == NOTHING
