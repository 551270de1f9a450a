"""Erasure: nothing of an erased user is left, everybody else has all, and the receipt says so."""

import json
import multiprocessing
import sqlite3
import threading
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
from langchain_core.messages import HumanMessage

from langmem_isolated import IsolatedMemory, LocalRootKey, ScopedMemory
from langmem_isolated._crypto.owners import Owner
from langmem_isolated._storage.key_sets import KeySets
from langmem_isolated._storage.keyring import Keyring
from langmem_isolated._storage.scope_rows import ScopeRow
from langmem_isolated.errors import DatabaseLocked, KeyDestroyed, LegalHold, ScopeError
from tests.command_line import run
from tests.conftest import Attacker, Door
from tests.test_inventory import fill, operate

_ROWS = (
    "SELECT count(*) FROM {} WHERE scope_id IN (SELECT scope_id FROM scopes WHERE principal = ?)"
)


def said(scope: ScopedMemory) -> list[str]:
    return [message.text for message in scope.chat_history("s").messages]


def principal_of(memory: IsolatedMemory, user: str) -> bytes:
    scopes = memory.scope(user_id=user, module_id="tutor")
    row = memory._keyring.scopes_of(scopes._records.owner)[0]
    return row.principal


def rows_of(attacker: Attacker, principal: bytes) -> dict[str, int]:
    return {
        table: attacker(_ROWS.format(table), principal)[0][0]
        for table in ("records", "sessions", "usage", "key_uses")
    }


async def test_an_erased_user_has_nothing_left_and_the_receipt_is_a_count_of_the_tables(
    memory: IsolatedMemory, attacker: Attacker, door: Door
):
    fill(memory, memory.scope(user_id="alice", module_id="tutor"), None)
    operate(memory, None)
    bob = memory.scope(user_id="bob", module_id="tutor")
    fill(memory, bob, None)
    alices, bobs = principal_of(memory, "alice"), principal_of(memory, "bob")
    before, of_bob = rows_of(attacker, alices), rows_of(attacker, bobs)

    receipt = await door(memory, "erase_user", "alice")

    assert sum(receipt.counts.values()) == before["records"] + before["sessions"]
    assert (receipt.keys_destroyed, receipt.principal) == (2, alices.hex())
    assert Counter(rows_of(attacker, alices)) == Counter(dict.fromkeys(before, 0))
    assert attacker("SELECT count(*) FROM scopes WHERE principal = ?", alices) == [(0,)]
    wrapped = attacker("SELECT wrapped FROM keys WHERE principal = ?", alices)
    assert wrapped == [(None,), (None,)]
    assert rows_of(attacker, bobs) == of_bob
    assert said(bob) == ["a secret", "kept"]
    assert memory.modules("alice") == []


def test_no_byte_of_an_erased_user_is_left_in_the_files_of_sqlite(
    tmp_path: Path, root_key: LocalRootKey
):
    url = f"sqlite:///{tmp_path / 'memory.db'}"
    with IsolatedMemory(url, root_key=root_key) as memory:
        fill(memory, memory.scope(user_id="alice", module_id="tutor"), None)
        memory.scope(user_id="bob", module_id="tutor").chat_history("s").add_user_message("hi")
        attacker, principal = Attacker(url), principal_of(memory, "alice")
        of_alice = "WHERE scope_id IN (SELECT scope_id FROM scopes WHERE principal = ?)"
        sealed = [
            row[0]
            for query in (
                f"SELECT sealed FROM records {of_alice}",
                f"SELECT sealed FROM sessions {of_alice}",
                "SELECT sealed FROM scopes WHERE principal = ?",
                "SELECT wrapped FROM keys WHERE principal = ?",
            )
            for row in attacker(query, principal)
        ]
        assert all(found_in(tmp_path, body) for body in sealed)

        receipt = memory.erase_user("alice")

        assert receipt.heap == "scrubbed"
        # The first bytes of a body are on its own page, whatever overflows.
        assert [body for body in sealed if found_in(tmp_path, body)] == []
        attacker.close()


def found_in(folder: Path, body: bytes) -> bool:
    return any(body[:64] in path.read_bytes() for path in folder.iterdir() if path.is_file())


def test_a_reader_makes_it_pending_until_it_is_finished(tmp_path: Path, root_key: LocalRootKey):
    path = tmp_path / "memory.db"
    with IsolatedMemory(f"sqlite:///{path}", root_key=root_key) as memory:
        memory.scope(user_id="alice", module_id="tutor").chat_history("s").add_user_message("hi")
        reader = sqlite3.connect(path, isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM records").fetchall()

        receipt = memory.erase_user("alice")

        assert receipt.heap == memory.finish_erasure() == "pending"
        assert "finish_erasure" in str(receipt)
        reader.execute("COMMIT")
        assert memory.finish_erasure() == "scrubbed"
        reader.close()


def test_a_large_file_is_pending_until_it_is_written_anew(tmp_path: Path, root_key: LocalRootKey):
    path = tmp_path / "memory.db"
    with IsolatedMemory(f"sqlite:///{path}", root_key=root_key) as memory:
        memory.scope(user_id="alice", module_id="tutor").chat_history("s").add_user_message("hi")
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE large AS SELECT zeroblob(?) AS sealed", (2**26,))

        receipt = memory.erase_user("alice")

        assert receipt.heap == "pending"
        assert "64 MiB" in str(receipt)
        assert memory.finish_erasure() == "scrubbed"
        assert [one.heap for one in memory.erasure.receipts()] == ["scrubbed"]


def test_on_postgresql_a_receipt_never_says_scrubbed(postgres_url: str, root_key: LocalRootKey):
    with IsolatedMemory(postgres_url, root_key=root_key) as memory:
        memory.scope(user_id="alice", module_id="tutor").chat_history("s").add_user_message("hi")
        receipt = memory.erase_user("alice")

        assert (receipt.heap, receipt.is_postgres) == ("pending", True)
        assert receipt.root_key_ids == (root_key.key_id,)
        assert "dead tuples" in str(receipt)


def test_whoever_comes_back_is_new(memory: IsolatedMemory):
    former = memory.scope(user_id="alice", module_id="tutor")
    former.chat_history("s").add_user_message("before")
    memory.erase_user("alice")

    alice = memory.scope(user_id="alice", module_id="tutor")
    assert said(alice) == []
    alice.chat_history("s").add_user_message("after")

    assert said(alice) == ["after"]
    with pytest.raises(KeyDestroyed):
        former.chat_history("s").add_user_message("of the former life")


def test_a_user_on_hold_is_not_erased(memory: IsolatedMemory):
    alice = memory.scope(user_id="alice", module_id="tutor")
    alice.chat_history("s").add_user_message("evidence")
    memory.retention.hold("alice", reason="case 7", by="counsel")

    with pytest.raises(LegalHold):
        memory.erase_user("alice")
    assert said(alice) == ["evidence"]

    memory.retention.release("alice")
    assert memory.erase_user("alice").counts["message"] == 1


def test_erasing_twice_and_erasing_nobody_are_fine(memory: IsolatedMemory):
    memory.scope(user_id="alice", module_id="tutor").chat_history("s").add_user_message("hi")
    memory.erase_user("alice")

    for user in ("alice", "nobody"):
        receipt = memory.erase_user(user)
        assert (receipt.counts, receipt.scopes, receipt.keys_destroyed) == ({}, 0, 0)


def test_the_same_id_in_another_project_is_another_user(memory: IsolatedMemory):
    here, there = (
        memory.scope(user_id="alice", module_id="tutor", project_id=project)
        for project in ("default", "other")
    )
    for scope in (here, there):
        scope.chat_history("s").add_user_message("hi")

    memory.erase_user("alice")

    assert (said(here), said(there)) == ([], ["hi"])


@pytest.mark.parametrize("user", ["", None, 7, "a\x00b"])
def test_a_malformed_id_erases_nobody(memory: IsolatedMemory, user: str):
    with pytest.raises(ScopeError):
        memory.erase_user(user)


class Killed(BaseException):
    """The process ends here."""


def test_an_erasure_killed_at_any_step_goes_on_when_it_is_called_again(
    memory: IsolatedMemory, attacker: Attacker, monkeypatch: pytest.MonkeyPatch
):
    steps, ends_at = 0, 0
    real_swap, real_write = KeySets.swap, memory._database.write

    def counted(real):  # type: ignore[no-untyped-def]
        def step(*args, **kwargs):  # type: ignore[no-untyped-def]
            nonlocal steps
            steps += 1
            if steps == ends_at:
                raise Killed
            return real(*args, **kwargs)

        return step

    killed = 0
    for ends_at in range(1, 40):  # noqa: B007 - the step reads it
        fill(memory, memory.scope(user_id="alice", module_id="tutor"), None)
        principal, steps = principal_of(memory, "alice"), 0
        with monkeypatch.context() as patched:
            patched.setattr(KeySets, "swap", counted(real_swap))
            patched.setattr(memory._database, "write", counted(real_write))
            try:
                memory.erase_user("alice")
            except Killed:
                killed += 1
        memory.erase_user("alice")

        assert sum(rows_of(attacker, principal).values()) == 0
        assert attacker("SELECT count(*) FROM scopes WHERE principal = ?", principal) == [(0,)]
        living = "SELECT count(*) FROM keys WHERE principal = ? AND wrapped IS NOT NULL"
        assert attacker(living, principal) == [(0,)]
    assert killed >= 5


def test_nothing_is_left_while_threads_write_and_read_and_search(
    memory: IsolatedMemory, attacker: Attacker
):
    alice = memory.scope(user_id="alice", module_id="tutor")
    alice.chat_history("s").add_user_message("a secret")
    principal, is_over = principal_of(memory, "alice"), threading.Event()
    refused: list[type[Exception]] = []

    def work(number: int) -> None:
        scope = alice if number % 2 else alice.module(f"m{number}")
        while not is_over.is_set():
            try:
                scope.chat_history("s").add_user_message("more")
                scope.recall("more")
            except DatabaseLocked:
                continue
            except Exception as error:  # noqa: BLE001 - looked at below
                refused.append(type(error))
                return

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    threading.Event().wait(0.5)
    memory.erase_user("alice")
    for thread in threads:
        thread.join(60)
    is_over.set()

    assert {*refused} == {KeyDestroyed}
    assert sum(rows_of(attacker, principal).values()) == 0


def write_until_refused(
    url: str, key: bytes, is_begun: "multiprocessing.synchronize.Event"
) -> None:
    with IsolatedMemory(url, root_key=LocalRootKey(key)) as memory:
        alice = memory.scope(user_id="alice", module_id="tutor")
        while True:
            try:
                alice.chat_history("s").add_user_message("more")
            except KeyDestroyed:
                return
            except DatabaseLocked:
                # On PostgreSQL among rows that are being removed: nothing was written.
                continue
            is_begun.set()


def test_other_processes_with_cached_keys_write_nothing_any_more(
    memory: IsolatedMemory, database_url: str, attacker: Attacker
):
    spawned = multiprocessing.get_context("spawn")
    begun = [spawned.Event() for _ in range(2)]
    writers = [
        spawned.Process(target=write_until_refused, args=(database_url, bytes(range(32)), event))
        for event in begun
    ]
    for writer in writers:
        writer.start()
    assert all(event.wait(60) for event in begun)
    principal = principal_of(memory, "alice")

    memory.erase_user("alice")
    for writer in writers:
        writer.join(60)

    assert [writer.exitcode for writer in writers] == [0, 0]
    assert sum(rows_of(attacker, principal).values()) == 0
    assert said(memory.scope(user_id="alice", module_id="tutor")) == []


def test_the_receipt_is_json_and_names_nobody(memory: IsolatedMemory):
    alice = memory.scope(user_id="alice-the-user", module_id="tutor-module")
    alice.chat_history("s").add_user_message("a secret")
    receipt = memory.erase_user("alice-the-user")

    told = json.loads(receipt.to_json())
    assert told["counts"] == receipt.counts == {"session": 1, "message": 1}
    assert any("Backups" in sentence for sentence in told["does_not_prove"])
    for text in (receipt.to_json(), str(receipt)):
        assert not any(name in text for name in ("alice", "tutor-module", "secret"))


def test_progress_is_told_how_much_is_removed(memory: IsolatedMemory):
    alice = memory.scope(user_id="alice", module_id="tutor")
    alice.chat_history("s").add_messages([HumanMessage("m")] * 1_200)
    told: list[int] = []

    receipt = memory.erase_user("alice", progress=told.append)

    assert told == sorted(told)
    assert told[-1] == sum(receipt.counts.values()) == 1_201
    assert max(after - before for before, after in zip([0, *told], told, strict=False)) <= 500


def test_what_a_user_who_came_back_has_is_not_removed_by_an_erasure_from_before(
    memory: IsolatedMemory, monkeypatch: pytest.MonkeyPatch
):
    memory.scope(user_id="alice", module_id="tutor").chat_history("s").add_user_message("before")
    found = Keyring.scopes_of

    def overtaken(keyring: Keyring, owner: Owner) -> list[ScopeRow]:
        rows = found(keyring, owner)
        monkeypatch.setattr(Keyring, "scopes_of", found)
        memory.erase_user("alice")
        alice = memory.scope(user_id="alice", module_id="tutor")
        alice.chat_history("s").add_user_message("after")
        return rows

    monkeypatch.setattr(Keyring, "scopes_of", overtaken)
    receipt = memory.erase_user("alice")

    assert receipt.counts == {}
    assert said(memory.scope(user_id="alice", module_id="tutor")) == ["after"]


def on(database_url: str, *more: str) -> list[str]:
    return ["erase", *more, "--database", database_url]


def test_the_command_asks_for_the_id_again_and_takes_no_other(
    memory: IsolatedMemory, database_url: str
):
    alice = memory.scope(user_id="alice", module_id="tutor")
    alice.chat_history("s").add_user_message("hi")

    refused = run(*on(database_url, "--user", "alice"), stdin="bob\n")
    assert refused.exit_code == 2
    assert said(alice) == ["hi"]

    done = run(*on(database_url, "--user", "alice"), stdin="alice\n")
    assert done.exit_code == 0
    assert "Keys destroyed: 2" in done.stdout
    assert memory.modules("alice") == []


def test_the_command_prints_json_and_finishes(memory: IsolatedMemory, database_url: str):
    memory.scope(user_id="alice", module_id="tutor").chat_history("s").add_user_message("hi")

    told = run(*on(database_url, "--user", "alice", "--yes", "--json"))
    finished = run(*on(database_url, "--finish", "--json"))

    heap = "pending" if database_url.startswith("postgresql") else "scrubbed"
    assert json.loads(told.stdout)["counts"] == {"session": 1, "message": 1}
    assert (json.loads(told.stdout)["heap"], json.loads(finished.stdout)) == (heap, {"heap": heap})
    assert (told.exit_code, finished.exit_code) == (0, 0)
    assert run(*on(database_url, "--finish", "--user", "alice")).exit_code == 2


def test_the_command_ends_with_1_while_somebody_reads(tmp_path: Path, root_key: LocalRootKey):
    path = tmp_path / "memory.db"
    with IsolatedMemory(f"sqlite:///{path}", root_key=root_key) as memory:
        memory.scope(user_id="alice", module_id="tutor").chat_history("s").add_user_message("hi")
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM records").fetchall()

    done = run(*on(f"sqlite:///{path}", "--user", "alice", "--yes"))
    reader.close()

    assert done.exit_code == 1
    assert "pending" in done.stdout
    assert run(*on(f"sqlite:///{path}", "--finish")).exit_code == 0


def test_who_writes_on_after_an_erasure_in_another_process_begins_no_new_life(
    memory: IsolatedMemory, database_url: str, root_key: LocalRootKey, attacker: Attacker
):
    """What is refused leaves no keys, and no row that names the user."""
    with IsolatedMemory(database_url, root_key=root_key) as other:
        alice = other.scope(user_id="alice", module_id="tutor")
        history, store = alice.chat_history("s"), alice.store()
        history.add_user_message("Hi")
        principal = principal_of(memory, "alice")
        memory.erase_user("alice")

        for _ in range(2):
            with pytest.raises(KeyDestroyed):
                history.add_user_message("again")
            with pytest.raises(KeyDestroyed):
                store.put(("a",), "k", {"v": 1})

    assert attacker("SELECT count(*) FROM scopes") == [(0,)]
    living = "SELECT count(*) FROM keys WHERE wrapped IS NOT NULL AND principal = ?"
    assert attacker(living, principal) == [(0,)]
