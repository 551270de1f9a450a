"""Restores: a whole database in one step, without those who were erased since the backup."""

import json
import os
import shutil
import sqlite3
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from langmem_isolated import IsolatedMemory, LocalRootKey
from langmem_isolated._database import replacement
from langmem_isolated._database.database import Database
from langmem_isolated.errors import (
    ErasureLogRefused,
    KeyNotFound,
    RecordDoesNotOpen,
    RestoreRefused,
    RootKeyMismatch,
)
from langmem_isolated.lifecycle import Restored, restore, restore_backup
from tests.command_line import KEY as FORMER
from tests.command_line import error_line, run
from tests.conftest import ROOT_KEY, Attacker
from tests.embeddings import NGramEmbeddings
from tests.postgres import PostgresServer
from tests.processes import Child, in_child
from tests.test_erasure import principal_of
from tests.test_erasure_of_wrapped_stores import wrapped
from tests.test_inventory import fill
from tests.test_tombstones import said, say
from tests.vector_stores import in_memory

KEY = LocalRootKey(ROOT_KEY)


class House:
    """A memory in a SQLite file, a backup of it with alice and bob, and alice erased since."""

    def __init__(self, folder: Path, *, has_key_store: bool = False, is_full: bool = False) -> None:
        self.folder = folder / "house"
        self.folder.mkdir()
        self.data, self.backup = self.folder / "memory.db", folder / "monday.bak"
        self.log = folder / "erasures.jsonl"
        self.keys = folder / "keys.db" if has_key_store else None
        self.keys_backup = folder / "keys.bak" if has_key_store else None
        with self.memory() as memory:
            for user in ("alice", "bob"):
                if is_full:
                    fill(memory, memory.scope(user_id=user, module_id="tutor"), None)
                else:
                    say(memory, user)
                    say(memory, user, "kept")
            self.alice = principal_of(memory, "alice")
            memory.backup(self.backup, key_store=self.keys_backup)
            self.canaries = self._canaries()
            assert memory.erase_user("alice").heap == "scrubbed"
            assert self.left_of_alice() == []
            say(memory, "bob", "later")

    def memory(self, **options: Any) -> IsolatedMemory:
        return IsolatedMemory(
            f"sqlite:///{self.data}",
            **{"root_key": KEY, "erasure_log": self.log, "key_store": self.key_store} | options,
        )

    @property
    def key_store(self) -> str | None:
        return self.keys and f"sqlite:///{self.keys}"

    def restore(self, **options: Any) -> Restored:
        given = {"root_key": KEY, "erasure_log": self.log, "replace": True} | options
        return restore_backup(self.backup, self.data, key_store=self.key_store, **given)

    def bob(self) -> list[str]:
        with self.memory() as memory:
            memory.scope(user_id="bob", module_id="tutor").verify()
            return said(memory, "bob")

    def lose(self) -> None:
        for path in self.folder.iterdir():
            path.unlink()

    def left_of_alice(self) -> list[bytes]:
        """What is in any byte of the database's files, and those of its key store."""
        files = [*self.folder.glob("memory.db"), *self.folder.glob("memory.db-*")]
        files += [] if self.keys is None else [self.keys]
        contents = [path.read_bytes() for path in files]
        return [body for body in self.canaries if any(body[:64] in one for one in contents)]

    def _canaries(self) -> list[bytes]:
        """All that is sealed of alice, and her wrapped keys."""
        of_alice = "WHERE scope_id IN (SELECT scope_id FROM scopes WHERE principal = ?)"
        with (
            closing(Attacker(f"sqlite:///{self.data}")) as data,
            closing(Attacker(self.key_store or f"sqlite:///{self.data}")) as keys,
        ):
            return [
                row[0]
                for attacker, query in (
                    (data, f"SELECT sealed FROM records {of_alice}"),
                    (data, f"SELECT sealed FROM sessions {of_alice}"),
                    (data, "SELECT sealed FROM scopes WHERE principal = ?"),
                    (keys, "SELECT wrapped FROM keys WHERE principal = ?"),
                )
                for row in attacker(query, self.alice)
            ]


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


@pytest.fixture
def apart(tmp_path: Path) -> House:
    """The same with a key store of its own."""
    return House(tmp_path, has_key_store=True)


def test_an_old_backup_is_restored_without_a_byte_of_who_was_erased_since(tmp_path: Path):
    house = House(tmp_path, is_full=True)
    before = house.backup.read_bytes()
    assert sum(body[:64] in before for body in house.canaries) == len(house.canaries)
    house.lose()

    done = house.restore(replace=False)

    assert house.left_of_alice() == []
    assert (done.principals_erased, done.had_tombstones_from) == (1, ("erasure log",))
    assert (done.size, done.kept) == (house.data.stat().st_size, ())
    assert {"message", "session", "item", "document"} <= done.counts.keys()
    assert stat.S_IMODE(house.data.stat().st_mode) == 0o600
    assert [path.name for path in house.folder.iterdir()] == ["memory.db"]
    assert house.bob() == ["a secret", "kept"]
    assert house.backup.read_bytes() == before
    with house.memory() as memory:
        assert memory.modules("alice") == said(memory, "alice") == []
        say(memory, "alice", "in person")
        assert memory.reapply_erasures().principals == 0
        assert said(memory, "alice") == ["in person"]


def test_without_a_log_the_database_that_is_replaced_tells_and_is_kept(house: House):
    former = house.data.read_bytes()

    done = house.restore(erasure_log=None)

    assert done.had_tombstones_from == ("replaced database",)
    assert house.left_of_alice() == []
    assert house.bob() == ["a secret", "kept"]
    (kept,) = done.kept
    assert kept.name.startswith("memory.db.replaced-")
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert len(kept.read_bytes()) == len(former)
    house.data.unlink()
    kept.rename(house.data)
    assert house.bob() == ["a secret", "kept", "later"], "nothing is lost"


def test_where_nothing_tells_who_was_erased_it_is_refused_unless_it_is_meant(house: House):
    house.lose()

    with pytest.raises(RestoreRefused, match="without_tombstones=True"):
        house.restore(erasure_log=None)
    assert not [*house.folder.iterdir()]

    done = house.restore(erasure_log=None, without_tombstones=True)
    assert (done.had_tombstones_from, done.principals_erased) == ((), 0)
    assert len(house.left_of_alice()) == len(house.canaries), "as it says"


def test_a_log_that_is_not_there_is_no_log(house: House, tmp_path: Path):
    house.lose()
    with pytest.raises(ErasureLogRefused, match="none at the place"):
        house.restore(erasure_log=tmp_path / "another.jsonl")
    assert not [*house.folder.iterdir()]


def test_a_database_is_replaced_only_where_that_is_said(house: House):
    before = house.bob()
    with pytest.raises(RestoreRefused, match="replace=True"):
        house.restore(replace=False)
    assert house.bob() == before


@contextmanager
def used_by(house: House, user: str) -> Iterator[None]:
    """Somebody who has the database open, and at this moment does nothing with it."""
    if user == "this process":
        with house.memory() as memory:
            said(memory, "bob")
            yield
            say(memory, "bob", "goes on")
    elif user == "a tool":
        with closing(sqlite3.connect(house.data)) as tool:
            tool.execute("SELECT count(*) FROM keys").fetchall()
            yield
    else:
        is_there = house.folder.parent / "is there"

        def use() -> None:
            said(house.memory(), "bob")
            is_there.touch()
            time.sleep(60)

        child = Child(use)
        while not is_there.exists():
            time.sleep(0.01)
        yield
        child.kill()


@pytest.mark.parametrize("user", ["this process", "another process", "a tool"])
def test_a_database_that_somebody_uses_is_not_replaced(
    house: House, user: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(replacement, "_PATIENCE_SECONDS", 0.2)
    before = house.data.stat().st_ino
    with used_by(house, user), pytest.raises(RestoreRefused, match="Stop every process"):
        house.restore()
    assert house.data.stat().st_ino == before
    assert house.restore().principals_erased == 1


def test_nobody_writes_to_a_database_while_it_is_being_replaced(
    house: House, monkeypatch: pytest.MonkeyPatch
):
    refused: list[Exception] = []
    real = restore.reapplied

    def meanwhile(*arguments: Any) -> Any:
        try:
            with closing(sqlite3.connect(house.data, timeout=0.1)) as tool:
                tool.execute("SELECT count(*) FROM keys").fetchall()
        except sqlite3.OperationalError as error:
            refused.append(error)
        return real(*arguments)

    monkeypatch.setattr(restore, "reapplied", meanwhile)
    house.restore()
    assert [str(error) for error in refused] == ["database is locked"]


def test_what_was_written_last_and_is_in_the_log_of_sqlite_alone_is_kept_and_not_played_back(
    house: House,
):
    def die() -> None:
        memory = house.memory()
        say(memory, "bob", "in the log")
        os._exit(0)

    with pytest.raises(AssertionError, match="without a word"):
        in_child(die)
    assert Path(f"{house.data}-wal").stat().st_size

    done = house.restore()

    assert house.bob() == ["a secret", "kept"]
    (kept,) = done.kept
    shutil.move(kept, house.data)
    assert house.bob()[-1] == "in the log"


def test_a_log_of_sqlite_without_its_database_is_refused(house: House):
    house.lose()
    Path(f"{house.data}-wal").write_bytes(b"remains")
    with pytest.raises(RestoreRefused, match="-wal"):
        house.restore()
    assert not house.data.exists()


@pytest.mark.parametrize("content", [b"", b"not a database" * 100, None])
def test_what_is_no_backup_is_refused_and_what_is_there_stays(house: House, content: bytes | None):
    before = house.bob()
    if content is None:
        content = bytearray(house.backup.read_bytes())
        content[4096 * 3 : 4096 * 9] = bytes(4096 * 6)
    house.backup.write_bytes(content)
    with pytest.raises(RestoreRefused):
        house.restore()
    assert house.bob() == before
    assert [path.name for path in house.folder.iterdir()] == ["memory.db"]


def test_another_root_key_and_another_installation_are_refused(house: House, tmp_path: Path):
    before = house.bob()
    with pytest.raises(RootKeyMismatch):
        house.restore(root_key=LocalRootKey(bytes(32)))
    (tmp_path / "elsewhere").mkdir()
    other = House(tmp_path / "elsewhere")
    with pytest.raises(RestoreRefused, match="no other state of this one"):
        restore_backup(other.backup, house.data, root_key=KEY, erasure_log=other.log, replace=True)
    with pytest.raises(ErasureLogRefused, match="Line 1"):
        house.restore(erasure_log=other.log)
    assert house.bob() == before


def test_an_unreadable_database_is_not_replaced_since_it_may_tell_of_erasures(house: House):
    house.data.write_bytes(b"damaged" * 1000)
    with pytest.raises(RestoreRefused, match="Move it elsewhere"):
        house.restore()
    assert house.data.read_bytes() == b"damaged" * 1000


def test_an_empty_database_that_a_process_has_made_meanwhile_is_replaced(house: House):
    house.lose()
    with house.memory():
        pass
    with pytest.raises(RestoreRefused, match="without_tombstones"):
        house.restore(erasure_log=None)
    assert house.restore().principals_erased == 1
    assert house.bob() == ["a secret", "kept"]


def test_a_tampered_tombstone_in_what_is_replaced_is_no_tombstone_less(house: House):
    with closing(Attacker(f"sqlite:///{house.data}")) as attacker:
        attacker("UPDATE tombstones SET incarnation = 0")
    with pytest.raises(RecordDoesNotOpen):
        house.restore(erasure_log=None)


def test_with_a_key_store_the_data_alone_is_restored_and_the_key_store_tells(apart: House):
    apart.lose()

    done = apart.restore(erasure_log=None)

    assert (done.had_tombstones_from, done.principals_erased) == (("key store",), 1)
    assert apart.left_of_alice() == []
    assert apart.bob() == ["a secret", "kept"]


@pytest.mark.parametrize("is_lost", [False, True])
def test_data_and_key_store_are_restored_together(apart: House, is_lost: bool):
    if is_lost:
        apart.lose()
        assert apart.keys
        for path in apart.keys.parent.glob("keys.db*"):
            path.unlink()
        with pytest.raises(RestoreRefused, match="none was made"):
            apart.restore()

    done = apart.restore(
        key_store_backup=apart.keys_backup, erasure_log=apart.log if is_lost else None
    )

    source = "erasure log" if is_lost else "key store"
    assert (done.had_tombstones_from, done.principals_erased) == ((source,), 1)
    assert len(done.kept) == (0 if is_lost else 2)
    assert apart.left_of_alice() == []
    assert apart.bob() == ["a secret", "kept"]


def test_a_key_store_of_another_installation_is_refused(apart: House, tmp_path: Path):
    (tmp_path / "elsewhere").mkdir()
    other = House(tmp_path / "elsewhere", has_key_store=True)
    with pytest.raises(KeyNotFound):
        restore_backup(
            apart.backup, apart.data, root_key=KEY, key_store=other.key_store, replace=True
        )


def test_a_backup_from_before_a_rotation_of_the_root_key_wants_the_former_key(house: House):
    new = LocalRootKey(bytes(31) + b"n")
    with house.memory() as memory:
        memory.rotate_root_key(new)
    with pytest.raises(RootKeyMismatch):
        house.restore(root_key=new)

    assert house.restore(root_key=new, accepted_root_keys=[KEY]).principals_erased == 1

    assert house.left_of_alice() == []
    with house.memory(root_key=new, accepted_root_keys=[KEY]) as memory:
        assert said(memory, "bob") == ["a secret", "kept"]


def test_a_copy_of_the_files_of_a_database_in_use_is_a_backup_too(house: House):
    with house.memory() as memory:
        say(memory, "bob", "in the log")
        for suffix in ("", "-wal"):
            shutil.copy(f"{house.data}{suffix}", f"{house.backup}{suffix}")
    house.restore()
    assert house.bob()[-1] == "in the log"


STEPS = (
    (restore, "_draft"),
    (restore, "taken_out_of_use"),
    (restore, "opened_copy"),
    (restore, "reapplied"),
    (restore, "copy_into"),
    (replacement, "make_durable"),
    (replacement.os, "link"),
    (Path, "replace"),
    (Database, "close"),
)


def dying(function: Callable[..., Any], place: tuple[Any, str], nth: int, is_done: bool) -> Any:
    """Run ``function`` and end the process as `kill -9` does, before or behind a step."""
    owner, name = place
    real, calls = getattr(owner, name), []

    def step(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == nth and not is_done:
            os._exit(1)
        result = real(*args, **kwargs)
        if len(calls) == nth:
            os._exit(1)
        return result

    setattr(owner, name, step)
    return function()


@pytest.mark.parametrize("has_key_store", [False, True], ids=["one file", "two files"])
@pytest.mark.parametrize("place", STEPS, ids=lambda place: place[1])
def test_killed_at_any_step_the_former_database_is_there_or_the_restored_one(
    tmp_path: Path, place: tuple[Any, str], has_key_store: bool
):
    house = House(tmp_path, has_key_store=has_key_store)
    options = {"key_store_backup": house.keys_backup} if has_key_store else {}
    seen = set()
    for nth, is_done in ((1, False), (1, True), (2, False), (2, True)):
        child = Child(dying, lambda: house.restore(**options), place, nth, is_done)
        try:
            child.result()
        except AssertionError as death:
            assert "without a word" in str(death)  # noqa: PT017 - it was killed

        assert house.left_of_alice() == []
        bob = house.bob()
        assert bob in (["a secret", "kept", "later"], ["a secret", "kept"])
        seen.add(len(bob))
    house.restore(**options)
    assert house.left_of_alice() == []
    assert house.bob() == ["a secret", "kept"]
    assert [*tmp_path.rglob(".*")] == [], "what killed ones left, alice in it, went"
    assert 3 in seen or place[1] == "close"


def test_arguments_that_cannot_be_meant_are_refused(house: House, postgres_url: str):
    for error, match, options in (
        (TypeError, "replace", {"replace": "yes"}),
        (TypeError, "progress", {"progress": 7}),
        (TypeError, "erasure_log", {"erasure_log": 7}),
        (RestoreRefused, "no place without", {"key_store_backup": house.backup}),
    ):
        with pytest.raises(error, match=match):
            house.restore(**options)
    with pytest.raises(RestoreRefused, match="names the database itself"):
        restore_backup(
            house.backup,
            house.data,
            root_key=KEY,
            key_store=f"sqlite:///{house.data}",
            replace=True,
        )
    for error, match, places in (
        (TypeError, "backup must be", (7, house.data)),
        (TypeError, "database must be", (house.backup, 7)),
        (RestoreRefused, "no backup", (house.folder, house.data)),
        (RestoreRefused, "itself", (house.data, house.data)),
        (RestoreRefused, "folder", (house.backup, house.folder / "no" / "where")),
        (RestoreRefused, "no file", (house.backup, "sqlite://")),
        (RestoreRefused, "pg_restore", (house.backup, postgres_url)),
    ):
        with pytest.raises(error, match=match):
            restore_backup(*places, root_key=KEY, erasure_log=house.log, replace=True)


def test_where_a_link_leads_to_is_replaced_and_the_link_stays(house: House, tmp_path: Path):
    link = tmp_path / "link.db"
    link.symlink_to(house.data)

    restore_backup(house.backup, link, root_key=KEY, erasure_log=house.log, replace=True)

    assert link.is_symlink()
    assert house.bob() == ["a secret", "kept"]


def test_progress_is_told_how_much_was_removed(house: House):
    told: list[int] = []
    done = house.restore(progress=told.append)
    assert told == sorted(told)
    assert told[-1] == sum(done.counts.values())


def on(house: House, *more: object) -> list[object]:
    return ["restore", *more, "--database", f"sqlite:///{house.data}"]


def test_the_command_restores_and_asks_before(house: House):
    refused = run(*on(house, house.backup, "--erasure-log", house.log), stdin="n\n")
    assert refused.exit_code == 1
    assert house.bob()[-1] == "later"

    done = run(*on(house, house.backup), stdin="y\n", LANGMEM_ISOLATED_ERASURE_LOG=str(house.log))

    assert done.exit_code == 0, done.output
    assert "1 who were erased since are forgotten (erasure log, replaced database)" in done.stdout
    assert ".replaced-" in done.stdout
    assert house.left_of_alice() == []
    assert house.bob() == ["a secret", "kept"]


def test_the_command_asks_nothing_where_no_database_would_be_replaced(house: House):
    house.lose()

    absent = run(*on(house, house.folder / "none.bak", "--erasure-log", house.log))
    done = run(*on(house, house.backup, "--erasure-log", house.log))

    assert "no backup of this name" in error_line(absent)
    assert done.exit_code == 0, done.output
    assert house.left_of_alice() == []


def test_the_command_says_that_a_former_root_key_is_needed_until_the_next_rotation(
    house: House, tmp_path: Path
):
    new, former = tmp_path / "new.key", tmp_path / "former.key"
    former.write_text(FORMER)
    former.chmod(0o600)
    assert run("keygen", "--file", new).exit_code == 0
    with house.memory() as memory:
        memory.rotate_root_key(LocalRootKey.from_file(new))
    keys = ("--accept-key-file", former, "--erasure-log", house.log, "--yes")

    done = run(*on(house, house.backup, *keys), key=None, LANGMEM_ISOLATED_ROOT_KEY_FILE=str(new))

    assert done.exit_code == 0, done.output
    assert "rotate-root-key --new-key-file" in done.stdout


def test_the_command_says_that_third_party_stores_were_not_asked(house: House):
    house.lose()
    shutil.copy(house.backup, house.data)
    with house.memory() as memory:
        wrapped(memory, in_memory(NGramEmbeddings()), "alice").add_texts(["a note"])
        memory.backup(house.folder / "tuesday.bak")
    house.data.unlink()

    done = run(*on(house, house.folder / "tuesday.bak", "--erasure-log", house.log))

    assert "third-party vector stores, which were not asked" in done.stdout


def test_the_command_prints_json_and_refuses_where_nothing_tells(house: House):
    house.lose()
    refused = run(*on(house, house.backup, "--yes"))
    assert "--without-erasure-log" in error_line(refused)
    told = run(*on(house, house.backup, "--yes", "--json", "--without-erasure-log"))
    assert json.loads(told.stdout)["had_tombstones_from"] == []


def test_the_command_without_a_file_erases_again_on_both_databases(
    memory: IsolatedMemory, database_url: str, tmp_path: Path
):
    say(memory, "bob")
    log = tmp_path / "erasures.jsonl"
    without = ["restore", "--database", database_url]
    assert "--erasure-log" in error_line(run(*without))
    assert "none at the place" in error_line(run(*without, "--erasure-log", log))
    with IsolatedMemory(database_url, root_key=KEY, erasure_log=log) as logged:
        logged.erase_user("bob")
    done = run(*without, "--erasure-log", log, "--json")
    assert json.loads(done.stdout) == {"principals": 0, "counts": {}}


def test_the_commands_erase_and_sweep_keep_the_log(
    memory: IsolatedMemory, database_url: str, tmp_path: Path
):
    say(memory, "bob")
    log = tmp_path / "erasures.jsonl"
    options = ["--database", database_url, "--erasure-log", log]
    run("erase", "--user", "bob", "--yes", "--tombstone-days", "7", *options)
    (line,) = log.read_text().splitlines()
    erased = json.loads(line)
    assert erased["expires_at"] - erased["erased_at"] == 7 * 86_400_000_000
    assert run("sweep", *options).exit_code == 0


def test_a_dump_of_postgresql_put_back_by_its_own_tools_forgets_with_the_command(
    postgres: PostgresServer, postgres_url: str, tmp_path: Path
):
    log, name = tmp_path / "erasures.jsonl", postgres_url.rpartition("/")[2]
    with IsolatedMemory(postgres_url, root_key=KEY, erasure_log=log) as memory:
        for user in ("alice", "bob"):
            say(memory, user)
        dump = postgres.dump(name)
        memory.erase_user("alice")
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA langmem_isolated CASCADE")
    psql = postgres.programs / "psql"
    subprocess.run([psql, "-q", postgres_url], input=dump, check=True, stdout=subprocess.DEVNULL)

    done = run("restore", "--database", postgres_url, "--erasure-log", log)

    assert done.exit_code == 0, done.output
    assert "1 who were erased since the backup were erased again" in done.stdout
    with IsolatedMemory(postgres_url, root_key=KEY) as memory:
        assert (said(memory, "alice"), said(memory, "bob")) == ([], ["a secret"])
