"""An installation moves whole, sealed as it is, and is nowhere until it is whole."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from typer.testing import CliRunner

from langmem_isolated import AuditOptions, IsolatedMemory, LocalRootKey
from langmem_isolated._database import schema
from langmem_isolated._database.database import Database
from langmem_isolated._storage.key_copies import KeyCopies
from langmem_isolated._storage.moved_installation import DATA_TABLES
from langmem_isolated.cli.app import app
from langmem_isolated.errors import (
    KeyNotFound,
    MoveRefused,
    RecordDoesNotOpen,
    RootKeyMismatch,
    UserWasErased,
)
from langmem_isolated.lifecycle.moving.run import KeysMoved
from tests.conftest import ROOT_KEY, Attacker, Door
from tests.locks import lock, unlock
from tests.test_inventory import fill

NEW = LocalRootKey(bytes(range(1, 33)))
TABLES = [*schema.metadata.tables]


def everything(url: str) -> dict[str, list[Any]]:
    """All rows of a database, as whoever has its disk sees them."""
    attacker = Attacker(url)
    try:
        return {
            name: sorted(map(repr, attacker(f"SELECT {columns(name)} FROM {name}")))
            for name in TABLES
        }
    finally:
        attacker.close()


def columns(table: str) -> str:
    return ", ".join(schema.metadata.tables[table].c.keys())


def file_url(path: Path) -> str:
    return f"sqlite:///{path}"


def on_disk(folder: Path) -> bytes:
    return b"".join(one.read_bytes() for one in folder.glob("memory.db*"))


def opened(url: str, **options: Any) -> IsolatedMemory:
    options.setdefault("root_key", LocalRootKey(ROOT_KEY))
    return IsolatedMemory(url, **options)


def lived_in(url: str, **options: Any) -> None:
    """A memory with something of every kind, of people who hold keys, are held, or were erased."""
    with opened(url, audit=AuditOptions(), **options) as memory:
        for user in ("alice", "bob", "carol"):
            fill(memory, memory.scope(user_id=user, module_id="tutor"), None)
        memory.scope(user_id="erased", module_id="tutor").chat_history("s").add_user_message("x")
        memory.erase_user("erased")
        memory.retention.keep("message", module_id="tutor", user_id="bob", days=9)
        memory.retention.hold("bob", reason="a case", by="counsel")
        lock(memory, "carol")


def killed(*_: Any) -> Any:
    raise KeyboardInterrupt


def texts(memory: IsolatedMemory, user: str) -> list[str]:
    history = memory.scope(user_id=user, module_id="tutor").chat_history("s")
    return [message.text for message in history.messages]


@pytest.fixture
def source(sqlite_url: str) -> str:
    lived_in(sqlite_url)
    return sqlite_url


def test_every_table_is_copied_by_one_of_two_ways():
    ours = {table.name for table in DATA_TABLES}

    assert ours | {"keys", "key_sets", "tombstones", "installation"} == set(TABLES)


async def test_a_move_to_postgres_and_back_changes_no_row_and_nothing_at_the_source(
    source: str, postgres_url: str, tmp_path: Path
):
    with opened(source) as memory:
        await memory.amove_to(postgres_url)
    original = everything(source)
    assert everything(postgres_url) == original
    with opened(postgres_url) as memory:
        memory.move_to(file_url(tmp_path / "back.db"))
        assert everything(postgres_url)["records"] == original["records"]

    with opened(file_url(tmp_path / "back.db")) as memory:
        assert texts(memory, "alice") == ["a secret", "kept"]
        assert [hold.reason for hold in memory.retention.holds()] == ["a case"]
        assert memory.lock_state("carol").is_locked
        unlock(memory, "carol")
        assert texts(memory, "carol") == ["a secret", "kept"]
        assert memory.verify().is_clean
        assert "move_to" in {entry.operation for entry in memory.audit.entries()}


def test_who_was_erased_stays_erased(source: str, postgres_url: str, tmp_path: Path):
    with opened(source) as memory:
        memory.move_to(postgres_url)
    with opened(postgres_url) as memory:
        alice = tmp_path / "alice"
        memory.export_user("alice", alice)
        memory.erase_user("alice")
        memory.move_to(file_url(tmp_path / "back.db"))
    with opened(file_url(tmp_path / "back.db")) as memory:
        assert texts(memory, "alice") == []
        with pytest.raises(UserWasErased):
            memory.import_user(alice)
        assert len(memory.erasure.receipts(user_id="alice")) == 1


def test_what_is_half_there_is_opened_by_nobody_and_gone_on_with(source: str, tmp_path: Path):
    target = file_url(tmp_path / "new.db")

    class Killed(Exception):
        pass

    with opened(source) as memory:
        seen: list[int] = []

        def kill(rows: int) -> None:
            seen.append(rows)
            if len(seen) == 3:
                raise Killed

        with pytest.raises(Killed):
            memory.move_to(target, progress=kill)
        with pytest.raises(KeyNotFound), opened(target):
            pass
        assert memory.move_to(target).is_finished
    assert everything(target) == everything(source)


def test_a_second_run_brings_what_changed_since_the_first(source: str, tmp_path: Path):
    target = file_url(tmp_path / "new.db")
    with opened(source) as memory:
        first = memory.move_to(target, finish=False)
        assert not first.is_finished
        alice = memory.scope(user_id="alice", module_id="tutor")
        alice.chat_history("s").add_user_message("later")
        alice.store().delete(("facts",), "one")
        memory.scope(user_id="dan", module_id="tutor").chat_history("s").add_user_message("new")
        memory.retention.release("bob")
        memory.erase_user("bob")
        memory.rotate_keys("alice")

        second = memory.move_to(target)

    assert everything(target) == everything(source)
    assert sum(second.rows.values()) < sum(first.rows.values())
    with opened(target) as memory:
        assert texts(memory, "alice")[-1] == "later"
        assert texts(memory, "bob") == []
        assert memory.verify().is_clean


def test_a_source_that_is_written_all_the_while_is_no_installation_elsewhere(
    source: str, tmp_path: Path
):
    target = file_url(tmp_path / "new.db")
    with opened(source) as memory, opened(source) as busy:
        history = busy.scope(user_id="alice", module_id="tutor").chat_history("s")

        with pytest.raises(MoveRefused, match="being written"):
            memory.move_to(target, progress=lambda _: history.add_user_message("again"))

        with pytest.raises(KeyNotFound), opened(target):
            pass


@pytest.mark.parametrize("kind", ["itself", "another", "twice", "unused"])
def test_a_place_where_something_is_stays_as_it_is(source: str, tmp_path: Path, kind: str):
    target = file_url(tmp_path / "new.db")
    before: Any = None
    with opened(source) as memory:
        if kind == "itself":
            target = source
        elif kind == "another":
            lived_in(target)
        elif kind == "twice":
            memory.move_to(target)
        else:
            memory = opened(file_url(tmp_path / "empty.db"))  # noqa: PLW2901
        if kind != "unused":
            before = everything(target)
        with pytest.raises(MoveRefused):
            memory.move_to(target)
        memory.close()
    assert before is None or everything(target) == before


def test_keys_that_were_tampered_with_do_not_move(source: str, tmp_path: Path):
    attacker = Attacker(source)
    attacker(
        "UPDATE keys SET created_at = 1 "
        "WHERE principal <> (SELECT installation_id FROM installation)"
    )
    attacker.close()

    with opened(source) as memory, pytest.raises(RecordDoesNotOpen):
        memory.move_to(file_url(tmp_path / "new.db"))


def test_keys_go_into_a_key_store_which_has_those_of_others(source: str, tmp_path: Path):
    keys, target = file_url(tmp_path / "keys.db"), file_url(tmp_path / "new.db")
    lived_in(file_url(tmp_path / "others.db"), key_store=keys)
    others = everything(keys)

    with opened(source) as memory:
        memory.move_to(target, key_store=keys)

    assert everything(target)["keys"] == []
    assert set(others["keys"]) < set(everything(keys)["keys"])
    with pytest.raises(KeyNotFound), opened(target):
        pass
    with opened(target, key_store=keys) as memory:
        assert texts(memory, "bob") == ["a secret", "kept"]
        # The data alone: the keys stay where they are.
        before = everything(keys)
        memory.move_to(file_url(tmp_path / "third.db"), key_store=keys)
        assert everything(keys) == before
    with opened(file_url(tmp_path / "others.db"), key_store=keys) as memory:
        assert texts(memory, "bob") == ["a secret", "kept"]
    with opened(file_url(tmp_path / "third.db"), key_store=keys) as memory:
        assert memory.verify().is_clean


async def test_keys_leave_a_database_with_every_byte(source: str, tmp_path: Path, door: Door):
    attacker = Attacker(source)
    wrapped = [row[0] for row in attacker("SELECT wrapped FROM keys WHERE wrapped IS NOT NULL")]
    attacker.close()
    assert wrapped
    keys = file_url(tmp_path / "keys.db")

    with opened(source) as memory:
        assert (await door(memory, "move_keys", keys)).is_scrubbed

    for table in ("keys", "key_sets", "tombstones"):
        assert everything(source)[table] == []
    assert not any(key in on_disk(tmp_path) for key in wrapped)
    with pytest.raises(KeyNotFound), opened(source):
        pass
    with opened(source, key_store=keys) as memory:
        assert texts(memory, "alice") == ["a secret", "kept"]
        assert memory.verify().is_clean


def test_keys_leave_postgres_and_those_who_go_on_with_old_arguments_store_no_key_there(
    postgres_url: str, tmp_path: Path
):
    lived_in(postgres_url)
    with opened(postgres_url) as memory, opened(postgres_url) as old:
        assert texts(old, "alice") == ["a secret", "kept"]

        assert not memory.move_keys(file_url(tmp_path / "keys.db")).is_scrubbed

        with pytest.raises(Exception, match=r"."):
            old.scope(user_id="new", module_id="m").chat_history("s").add_user_message("x")
    assert everything(postgres_url)["keys"] == []


def test_keys_that_do_not_open_the_database_stay_where_they_are(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from langmem_isolated._storage.installation import Installation

    def broken(*_: Any, **__: Any) -> Any:
        raise KeyNotFound("broken")

    before = everything(source)
    with opened(source) as memory:
        memory.open()
        with monkeypatch.context() as patched:
            patched.setattr(Installation, "over", broken)
            with pytest.raises(KeyNotFound, match="broken"):
                memory.move_keys(file_url(tmp_path / "keys.db"))
        assert everything(source)["keys"] == before["keys"]
        assert memory.move_keys(file_url(tmp_path / "keys.db")).key_sets > 0
        with pytest.raises(KeyNotFound):
            memory.move_keys(source)


def test_keys_do_not_move_to_where_they_are_by_whatever_name(
    postgres_url: str, source: str, tmp_path: Path
):
    lived_in(postgres_url)
    (tmp_path / "link.db").symlink_to(tmp_path / "memory.db")
    other_name = f"{postgres_url}{'&' if '?' in postgres_url else '?'}application_name=other"
    for url, same in (
        (postgres_url, other_name),
        (source, file_url(tmp_path / "link.db")),
        (source, source),
    ):
        with opened(url) as memory, pytest.raises(MoveRefused):
            memory.move_keys(same)
        with opened(url) as memory:
            assert texts(memory, "alice") == ["a secret", "kept"]


def test_keys_that_changed_since_a_move_was_killed_are_not_put_back(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    keys = file_url(tmp_path / "keys.db")
    with opened(source) as memory, monkeypatch.context() as patched:
        patched.setattr(KeyCopies, "remove", killed)
        with pytest.raises(KeyboardInterrupt):
            memory.move_keys(keys)
    with opened(source, key_store=keys) as memory:
        memory.scope(user_id="dora", module_id="tutor").chat_history("s").add_user_message("hi")
        memory.erase_user("alice")

    with opened(source) as memory, pytest.raises(MoveRefused, match="key_store="):
        memory.move_keys(keys)

    with opened(source, key_store=keys) as memory:
        assert memory.move_keys(keys).key_sets > 0
        assert everything(source)["keys"] == []
        assert texts(memory, "dora") == ["hi"]
        assert texts(memory, "alice") == []
        assert memory.verify().is_clean


def test_what_a_killed_move_left_of_keys_in_the_file_is_removed(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    keys = file_url(tmp_path / "keys.db")
    with opened(source) as memory, monkeypatch.context() as patched:
        patched.setattr(Database, "scrub", killed)
        with pytest.raises(KeyboardInterrupt):
            memory.move_keys(keys)

    with opened(source, key_store=keys) as memory:
        assert memory.move_keys(keys) == KeysMoved(0, is_scrubbed=True)
        assert texts(memory, "alice") == ["a secret", "kept"]


def test_a_key_store_that_lacks_keys_takes_none_away(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Killed before all were copied: the installation's own may be there alone."""
    keys = file_url(tmp_path / "keys.db")
    with opened(source) as memory, monkeypatch.context() as patched:
        put, own = KeyCopies._put, memory.open()._context.keyring.installation
        directory = own.open(create=False).directory
        patched.setattr(
            KeyCopies, "_put", lambda it, one: one == directory.installation_id and put(it, one)
        )
        patched.setattr(KeyCopies, "remove", killed)
        with pytest.raises(KeyboardInterrupt):
            memory.move_keys(keys)

    with opened(source, key_store=keys) as memory, pytest.raises(MoveRefused, match="lacks"):
        memory.move_keys(keys)
    with opened(source) as memory:
        assert texts(memory, "alice") == ["a secret", "kept"]


def test_the_new_installation_takes_another_root_key(source: str, tmp_path: Path):
    target = file_url(tmp_path / "new.db")
    with opened(source) as memory:
        memory.move_to(target)
    with opened(target) as memory:
        memory.rotate_root_key(NEW)

    with pytest.raises(RootKeyMismatch), opened(target):
        pass
    with opened(target, root_key=NEW) as memory:
        assert texts(memory, "alice") == ["a secret", "kept"]
    with opened(source) as memory:
        assert texts(memory, "alice") == ["a secret", "kept"]


def test_records_of_any_size_move_in_pages_of_some_megabytes(sqlite_url: str, tmp_path: Path):
    with opened(sqlite_url, compress=False) as memory:
        store = memory.scope(user_id="alice", module_id="tutor").store()
        for n in range(12):
            store.put(("large",), str(n), {"text": "x" * 2_000_000})
        seen: list[int] = []
        memory.move_to(file_url(tmp_path / "new.db"), progress=seen.append)
    assert everything(file_url(tmp_path / "new.db")) == everything(sqlite_url)
    assert len(seen) > len(DATA_TABLES) + 1


def test_the_commands_move_all_and_the_keys(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("LANGMEM_ISOLATED_ROOT_KEY", LocalRootKey.generate_text())
    url, target, keys = (file_url(tmp_path / name) for name in ("a.db", "b.db", "k.db"))
    with IsolatedMemory(url) as memory:
        memory.scope(user_id="alice", module_id="tutor").chat_history("s").add_user_message("hi")
    CliRunner().invoke(app, ["keygen", "--file", str(tmp_path / "new.key")])
    run = CliRunner().invoke

    copied = run(app, ["move", "--to", target, "--copy-only", "--database", url, "--json"])
    moved = run(
        app,
        ["move", "--to", target, "--new-key-file", str(tmp_path / "new.key"), "--database", url],
    )
    again = run(app, ["move", "--to", target, "--database", url])
    monkeypatch.setenv("LANGMEM_ISOLATED_ROOT_KEY_FILE", str(tmp_path / "new.key"))
    monkeypatch.delenv("LANGMEM_ISOLATED_ROOT_KEY")
    out = run(app, ["keys", "move", "--to", keys, "--database", target])

    assert (copied.exit_code, moved.exit_code, again.exit_code, out.exit_code) == (0, 0, 1, 0), (
        copied.output + moved.output + again.output + out.output
    )
    assert json.loads(copied.output)["is_finished"] is False
    assert "alice" not in copied.output + moved.output + out.output
    with IsolatedMemory(target, key_store=keys) as memory:
        assert texts(memory, "alice") == ["hi"]


KILLED = """
import sys
from langmem_isolated import IsolatedMemory, LocalRootKey
with IsolatedMemory(sys.argv[1], root_key=LocalRootKey(bytes(range(32)))) as memory:
    memory.move_to(sys.argv[2], progress=lambda rows: print(rows, flush=True))
"""


@pytest.mark.slow
@pytest.mark.parametrize("lines", [1, 4, 7])
def test_a_move_that_was_killed_is_gone_on_with(sqlite_url: str, tmp_path: Path, lines: int):
    with opened(sqlite_url) as memory:
        for user in ("alice", "bob"):
            scope = memory.scope(user_id=user, module_id="tutor")
            scope.chat_history("s").add_messages([HumanMessage(str(n)) for n in range(1500)])
    target = file_url(tmp_path / "new.db")
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, sqlite_url, target], stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    for _ in range(lines):
        child.stdout.readline()
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()

    with opened(sqlite_url) as memory:
        try:
            opened(target).open().close()
        except KeyNotFound:
            memory.move_to(target)
    assert everything(target) == everything(sqlite_url)
