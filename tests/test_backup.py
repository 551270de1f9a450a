"""Backups: whole, free of what was deleted, and never in the place of something else."""

import asyncio
import json
import os
import re
import shlex
import signal
import sqlite3
import stat
import subprocess
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from langmem_isolated import IsolatedMemory, LocalRootKey
from langmem_isolated._database import row_level_security
from langmem_isolated._database.database import Database
from langmem_isolated.errors import (
    BackupElsewhere,
    BackupRefused,
    DatabaseCorrupt,
    DatabaseError,
    KeyNotFound,
    RootKeyMismatch,
)
from langmem_isolated.lifecycle import backup as backups
from tests.command_line import error_line, run
from tests.conftest import Attacker, Door
from tests.postgres import PostgresServer
from tests.processes import Child
from tests.test_drafts import without_links


@pytest.fixture
def memory(sqlite_url: str, root_key: LocalRootKey) -> Any:
    """An open memory in a SQLite file."""
    with IsolatedMemory(sqlite_url, root_key=root_key) as memory:
        yield memory


@pytest.fixture
def apart(tmp_path: Path, root_key: LocalRootKey) -> Any:
    """A memory whose wrapped keys are in a key store of its own."""
    keys = f"sqlite:///{tmp_path}/keys.db"
    with IsolatedMemory(
        f"sqlite:///{tmp_path}/data.db", root_key=root_key, key_store=keys
    ) as memory:
        history(memory).add_user_message("Hi")
        yield memory


def history(memory: IsolatedMemory, session: str = "monday", user: str = "ann") -> Any:
    return memory.scope(user_id=user, module_id="tutor").chat_history(session)


def texts(
    url: object, root_key: LocalRootKey, session: str = "monday", **options: Any
) -> list[str]:
    """What a copy has, by an application that opens it."""
    with IsolatedMemory(f"sqlite:///{url}", root_key=root_key, **options) as memory:
        memory.scope(user_id="ann", module_id="tutor").verify()
        return [message.content for message in history(memory, session).messages]


async def test_a_backup_has_all_messages_for_the_same_root_key_alone(
    memory: IsolatedMemory, root_key: LocalRootKey, tmp_path: Path, door: Door
):
    for number in range(20):
        history(memory).add_user_message(f"{number}")
    copy = tmp_path / "a folder?" / "100% ~mon day.bak"
    copy.parent.mkdir()

    done = await door(memory, "backup", copy)

    assert [path.name for path in copy.parent.iterdir()] == [copy.name]
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert (done.size, done.has_wrapped_keys) == (copy.stat().st_size, True)
    assert done.key_store_size is None
    plain = copy.rename(tmp_path / "restored.db")
    assert texts(plain, root_key) == [f"{number}" for number in range(20)]
    with pytest.raises(RootKeyMismatch):
        texts(plain, LocalRootKey(bytes(32)))


def test_a_backup_holds_no_byte_of_what_was_deleted_and_a_copy_of_pages_would(
    sqlite_url: str, root_key: LocalRootKey, tmp_path: Path
):
    path = sqlite_url.removeprefix("sqlite:///")
    with IsolatedMemory(sqlite_url, root_key=root_key) as memory:
        for number in range(60):
            history(memory, "gone").add_user_message(f"{number} " + "secret " * 20)
        history(memory, "kept").add_user_message("stays")
        attacker = Attacker(sqlite_url)
        canaries = [row[0] for row in attacker("SELECT sealed FROM records")]
        # Somebody's own tool deletes without overwriting; the page keeps what was there.
        attacker("PRAGMA secure_delete = OFF")
        attacker("CREATE TABLE copied AS SELECT sealed FROM records")
        attacker("DROP TABLE copied")
        history(memory, "gone").clear()
        memory.backup(tmp_path / "ours.db")
        with (
            closing(sqlite3.connect(path)) as source,
            closing(sqlite3.connect(tmp_path / "pages.db")) as target,
        ):
            source.backup(target)
        attacker.close()

    def found_in(name: str) -> int:
        written = (tmp_path / name).read_bytes()
        return sum(canary[:40] in written or canary[-40:] in written for canary in canaries)

    assert len(canaries) == 61
    assert found_in("ours.db") == 1, "the message that stays"
    assert found_in("pages.db") > 30
    assert texts(tmp_path / "ours.db", root_key, "kept") == ["stays"]


def test_what_was_acknowledged_before_is_in_it_while_four_threads_go_on_writing(
    memory: IsolatedMemory, root_key: LocalRootKey, tmp_path: Path
):
    acknowledged: list[list[str]] = [[], [], [], []]
    ended = threading.Event()

    def write(number: int) -> None:
        while not ended.is_set():
            text = f"{len(acknowledged[number])}"
            history(memory, f"s{number}").add_user_message(text)
            acknowledged[number].append(text)

    writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for writer in writers:
        writer.start()
    try:
        while not all(len(written) > 3 for written in acknowledged):
            time.sleep(0.005)
        before = [len(written) for written in acknowledged]
        for number in range(3):
            memory.backup(tmp_path / f"{number}.bak")
        after = [len(written) for written in acknowledged]
    finally:
        ended.set()
        for writer in writers:
            writer.join()

    assert sum(after) > sum(before), "nobody wrote meanwhile"
    for number in range(4):
        copied = texts(tmp_path / "0.bak", root_key, f"s{number}")
        assert len(copied) >= before[number]
        assert copied == acknowledged[number][: len(copied)]


@pytest.mark.parametrize("kind", ["file", "folder", "dangling link"])
def test_a_name_that_is_taken_is_refused_and_left_alone(
    memory: IsolatedMemory, tmp_path: Path, kind: str
):
    taken = tmp_path / "taken"
    if kind == "file":
        taken.write_bytes(b"mine")
    elif kind == "folder":
        taken.mkdir()
    else:
        taken.symlink_to(tmp_path / "nowhere")
    before = sorted(tmp_path.iterdir())

    with pytest.raises(BackupRefused, match="has this name already"):
        memory.backup(taken)

    assert [path for path in sorted(tmp_path.iterdir()) if "memory.db" not in path.name] == [
        path for path in before if "memory.db" not in path.name
    ]
    assert kind != "file" or taken.read_bytes() == b"mine"


def test_what_takes_the_name_meanwhile_is_left_alone(
    memory: IsolatedMemory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    copied = backups.copy_into

    def overtaken(database: Any, draft: Path) -> None:
        copied(database, draft)
        (tmp_path / "copy").write_bytes(b"mine")

    monkeypatch.setattr(backups, "copy_into", overtaken)

    with pytest.raises(BackupRefused, match="has this name already"):
        memory.backup(tmp_path / "copy")

    assert (tmp_path / "copy").read_bytes() == b"mine"
    assert not [*tmp_path.glob(".copy.*")]


def test_a_killed_backup_leaves_nothing_under_the_name_and_the_next_one_is_whole(
    memory: IsolatedMemory,
    root_key: LocalRootKey,
    sqlite_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    history(memory).add_user_message("Hi")
    filler = Attacker(sqlite_url)
    filler("CREATE TABLE filler AS SELECT randomblob(30000000) AS bytes")
    filler.close()
    copy = tmp_path / "copy"

    def back_up() -> None:
        # Who kills it may come late.
        monkeypatch.setattr(backups, "publish_file", lambda *_: time.sleep(600))
        memory.backup(copy)

    child = Child(back_up)
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size for path in tmp_path.glob(".copy.*/copy.db")):
        assert time.monotonic() < deadline
        time.sleep(0.0005)

    child.kill()

    assert not copy.exists()
    memory.backup(copy)
    assert not [*tmp_path.glob(".copy.*")]
    assert texts(copy, root_key) == ["Hi"]


@pytest.mark.parametrize("span", [range(64), range(7, 8)], ids=["a page", "a count in it"])
def test_a_damaged_copy_gets_no_name(
    memory: IsolatedMemory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, span: range
):
    for number in range(200):
        history(memory).add_user_message(f"{number}")
    copied = backups.copy_into

    def damaged(database: Any, draft: Path) -> None:
        copied(database, draft)
        with closing(sqlite3.connect(draft)) as connection:
            # A page of records: to open the copy reads none of them.
            ((root,),) = connection.execute(
                "SELECT rootpage FROM sqlite_schema WHERE name = 'records'"
            ).fetchall()
        written = bytearray(draft.read_bytes())
        for at in span:
            written[(root - 1) * 4096 + at] = 255
        draft.write_bytes(written)

    monkeypatch.setattr(backups, "copy_into", damaged)

    with pytest.raises(DatabaseCorrupt):
        memory.backup(tmp_path / "copy")

    assert not [*tmp_path.glob("*copy*")]


def test_a_copy_that_the_root_key_does_not_open_gets_no_name(
    memory: IsolatedMemory, sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    history(memory).add_user_message("Hi")
    copied = backups.copy_into

    def without_keys(database: Any, draft: Path) -> None:
        copied(database, draft)
        with closing(sqlite3.connect(draft)) as connection:
            connection.execute("DELETE FROM keys")
            connection.commit()

    monkeypatch.setattr(backups, "copy_into", without_keys)

    with pytest.raises(KeyNotFound):
        memory.backup(tmp_path / "copy")

    assert not [*tmp_path.glob("*copy*")]


def test_with_a_key_store_the_backup_carries_no_key_and_opens_with_its_copy(
    apart: IsolatedMemory, root_key: LocalRootKey, tmp_path: Path
):
    alone = apart.backup(tmp_path / "alone.bak")
    both = apart.backup(tmp_path / "data.bak", key_store=tmp_path / "keys.bak")

    assert not alone.has_wrapped_keys
    assert not both.has_wrapped_keys
    assert both.key_store_size == (tmp_path / "keys.bak").stat().st_size
    with closing(sqlite3.connect(tmp_path / "data.bak")) as connection:
        assert connection.execute("SELECT count(*) FROM keys").fetchone() == (0,)
    with pytest.raises(KeyNotFound):
        texts(tmp_path / "alone.bak", root_key)
    keys = f"sqlite:///{tmp_path}/keys.bak"
    assert texts(tmp_path / "data.bak", root_key, key_store=keys) == ["Hi"]


def test_of_two_files_none_is_left_where_one_cannot_be(
    apart: IsolatedMemory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    data, keys = tmp_path / "data.bak", tmp_path / "keys.bak"
    with pytest.raises(BackupRefused, match="one file"):
        apart.backup(data, key_store=data)
    copied = backups.copy_into

    def overtaken(database: Any, draft: Path) -> None:
        copied(database, draft)
        data.write_bytes(b"mine")

    monkeypatch.setattr(backups, "copy_into", overtaken)
    with pytest.raises(BackupRefused):
        apart.backup(data, key_store=keys)

    assert data.read_bytes() == b"mine"
    assert not keys.exists()


def test_the_copy_of_the_data_goes_where_that_of_the_keys_cannot_be(
    apart: IsolatedMemory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    data, keys = tmp_path / "data.bak", tmp_path / "keys.bak"
    copied = backups.copy_into

    def overtaken(database: Any, draft: Path) -> None:
        copied(database, draft)
        keys.write_bytes(b"mine")

    monkeypatch.setattr(backups, "copy_into", overtaken)
    with pytest.raises(BackupRefused, match="has this name already"):
        apart.backup(data, key_store=keys)

    assert keys.read_bytes() == b"mine"
    assert not data.exists()


def test_killed_between_its_two_names_a_backup_leaves_no_copy_of_the_keys(
    apart: IsolatedMemory, root_key: LocalRootKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    data, keys = tmp_path / "data.bak", tmp_path / "keys.bak"
    named = backups.publish_file

    def killed(draft: Path, target: Path) -> None:
        named(draft, target)
        os.kill(os.getpid(), signal.SIGKILL)

    def back_up() -> None:
        monkeypatch.setattr(backups, "publish_file", killed)
        apart.backup(data, key_store=keys)

    child = Child(back_up)
    os.waitpid(child.pid, 0)

    assert not keys.exists()
    live = f"sqlite:///{tmp_path}/keys.db"
    assert texts(data, root_key, key_store=live) == ["Hi"]
    data.unlink()
    apart.backup(data, key_store=keys)
    assert not [*tmp_path.glob(".*.partial")]


def test_a_file_system_without_hard_links_has_backups_too(
    memory: IsolatedMemory, root_key: LocalRootKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(os, "link", without_links)
    history(memory).add_user_message("Hi")

    memory.backup(tmp_path / "copy")

    assert texts(tmp_path / "copy", root_key) == ["Hi"]
    with pytest.raises(BackupRefused, match="has this name already"):
        memory.backup(tmp_path / "copy")


def test_the_data_alone_is_backed_up_where_the_key_store_is_on_postgresql(
    postgres_url: str, root_key: LocalRootKey, tmp_path: Path
):
    with IsolatedMemory(
        f"sqlite:///{tmp_path}/data.db", root_key=root_key, key_store=postgres_url
    ) as memory:
        history(memory).add_user_message("Hi")
        with pytest.raises(BackupElsewhere, match="key store"):
            memory.backup(tmp_path / "data.bak", key_store=tmp_path / "keys.bak")
        assert not [*tmp_path.glob("*.bak")]

        done = memory.backup(tmp_path / "data.bak")

    assert (done.has_wrapped_keys, done.key_store_size) == (False, None)
    assert texts(tmp_path / "data.bak", root_key, key_store=postgres_url) == ["Hi"]


def test_paths_that_cannot_be_are_refused_in_words(memory: IsolatedMemory, tmp_path: Path):
    with pytest.raises(TypeError, match="path must be a str"):
        memory.backup(7)  # type: ignore[arg-type]
    with pytest.raises(BackupRefused, match="folder that path names is not there"):
        memory.backup(tmp_path / "nowhere" / "copy")
    with pytest.raises(BackupRefused, match="UTF-8"):
        memory.backup(tmp_path / os.fsdecode(b"copy\xff"))
    with pytest.raises(BackupRefused, match="leave it out"):
        memory.backup(tmp_path / "copy", key_store=tmp_path / "keys")
    assert not (tmp_path / "copy").exists()


def test_memory_that_is_nowhere_else_has_backups_too(root_key: LocalRootKey, tmp_path: Path):
    with IsolatedMemory("sqlite://", root_key=root_key) as memory:
        history(memory).add_user_message("Hi")
        asyncio.run(memory.abackup(tmp_path / "copy"))

    assert texts(tmp_path / "copy", root_key) == ["Hi"]


def test_on_postgresql_the_error_says_what_to_run_and_nothing_of_the_url(
    postgres: PostgresServer, postgres_url: str, root_key: LocalRootKey, tmp_path: Path
):
    name = postgres_url.rpartition("/")[2]
    given = postgres_url.replace("postgres@", "postgres:hidden@")
    with IsolatedMemory(given, root_key=root_key) as memory:
        history(memory).add_user_message("Hi")
        with pytest.raises(BackupElsewhere) as refusal:
            memory.backup(tmp_path / "copy")

    told = str(refusal.value)
    assert isinstance(refusal.value, DatabaseError)
    assert not {"hidden", name, "127.0.0.1", str(postgres.port)} & set(re.split(r"[\s:@/]", told))
    assert "BYPASSRLS" in told
    assert not (tmp_path / "copy").exists()


def test_what_postgresql_is_told_to_run_makes_a_dump_that_opens_when_restored(
    postgres: PostgresServer, postgres_url: str, root_key: LocalRootKey, tmp_path: Path
):
    with IsolatedMemory(postgres_url, root_key=root_key) as memory:
        history(memory).add_user_message("Hi")
    name = postgres_url.rpartition("/")[2]
    restored = f"{name}_restored"
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute("DROP ROLE IF EXISTS dumps")
        connection.execute("CREATE ROLE dumps LOGIN BYPASSRLS IN ROLE pg_read_all_data")
        connection.execute(f"CREATE DATABASE {restored}")
    with closing(Database(postgres_url)) as database:
        row_level_security.enable(database)
    told = re.search(r"pg_dump .*--dbname=DATABASE", str(BackupElsewhere("database")))
    assert told
    command = told[0].replace("=FILE", f"={tmp_path}/dump")
    command = command.replace("=DATABASE", f"={postgres.url(name, 'dumps')}")

    for program in (command, f"pg_restore --dbname={postgres.url(restored)} {tmp_path}/dump"):
        first, *rest = shlex.split(program)
        subprocess.run([str(postgres.programs / first), *rest], check=True, capture_output=True)

    try:
        with closing(Database(postgres.url(restored))) as database:
            assert row_level_security.status(database).is_forced
            row_level_security.disable(database)  # it does not bind who restored it
        with IsolatedMemory(postgres.url(restored), root_key=root_key) as memory:
            assert [message.content for message in history(memory).messages] == ["Hi"]
    finally:
        with psycopg.connect(postgres.url(), autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {restored} WITH (FORCE)")


def test_the_command_line_makes_a_backup_and_tells_programs_in_one_value(
    apart: IsolatedMemory, tmp_path: Path
):
    urls = ("--database", f"sqlite:///{tmp_path}/data.db")
    urls += ("--key-store", f"sqlite:///{tmp_path}/keys.db")

    people = run("backup", tmp_path / "one", *urls)
    programs = run(
        "backup", tmp_path / "two", "--key-store-output", tmp_path / "keys", "--json", *urls
    )

    assert people.exit_code == 0, people.output
    assert "No key is in it" in people.stdout
    told = json.loads(programs.stdout)
    assert (told["has_wrapped_keys"], told["size"]) == (False, (tmp_path / "two").stat().st_size)
    assert told["key_store_size"] == (tmp_path / "keys").stat().st_size
    assert "has this name already" in error_line(run("backup", tmp_path / "one", *urls))
