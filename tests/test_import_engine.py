"""Imports: what a source has is in its owners' scopes, once, as it was; and can be taken out."""

import asyncio
import hashlib
import json
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from langmem_isolated import IsolatedMemory, LocalRootKey
from langmem_isolated.errors import (
    BackupRefused,
    ImportPlaceTaken,
    MappingRefused,
    ReceiptRefused,
    RecordsUnmapped,
)
from langmem_isolated.importers import (
    Field,
    Import,
    ImportReceipt,
    Mapping,
    Source,
    Step,
    source_specs,
)
from tests.conftest import ROOT_KEY
from tests.killed_imports import outlives_kills
from tests.lines_source import BROKEN, CANARY, LinesSource, chat_database, sessions, write_lines
from tests.locks import lock, unlock

BY_OWNER = Mapping(module="chat", pattern=r"(?P<user>\w+):(?P<session>\d+)")

Made = Callable[..., Import]


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    """Three users with two sessions of four messages each."""
    return write_lines(tmp_path / "lines.jsonl", sessions(3, 2, 4))


@pytest.fixture
def made(memory: IsolatedMemory, lines: Path, tmp_path: Path) -> Made:
    """Imports of the lines, with what is written beside in a folder of its own."""
    (tmp_path / "beside").mkdir()

    def made(mapping: Mapping = BY_OWNER, **options: Any) -> Import:
        given = {"folder": tmp_path / "beside", **options}
        return Import(memory, LinesSource(lines), mapping, **given)

    return made


def texts(memory: IsolatedMemory, user: str, session: str) -> list[str]:
    history = memory.scope(user_id=user, module_id="chat").chat_history(session)
    return [str(message.content) for message in history.messages]


def everything(memory: IsolatedMemory) -> dict[str, Any]:
    """All that is read of the three users: messages, ids and times."""
    return {
        f"{user}:{session.id}": [
            (timed.message.type, timed.message.id, timed.message.content, timed.said_at)
            for timed in scope.chat_history(session.id).timed()
        ]
        for user in (f"user{number}" for number in range(3))
        for scope in [memory.scope(user_id=user, module_id="chat")]
        for session in scope.sessions()
    }


def digests(folder: Path) -> dict[str, str]:
    """Every file below a folder, but SQLite's own index of its log."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.endswith("-shm")
    }


# --- nothing is written where something is wrong


def test_a_dry_run_touches_neither_the_source_nor_the_target_nor_what_is_beside_them(
    made: Made, memory: IsolatedMemory, tmp_path: Path
):
    memory.scope(user_id="user0", module_id="chat").chat_history("0").add_user_message("Before")
    before = digests(tmp_path)

    plan = made().plan(by_scope=True)

    assert digests(tmp_path) == before
    (counted,) = plan.modules
    assert (counted.users, counted.units, counted.records) == (3, 6, 24)
    assert plan.is_whole
    assert {scope.user_id: count for scope, count in plan.by_scope.items()} == {
        f"user{number}": 8 for number in range(3)
    }
    assert "user0" not in repr(plan)


def test_what_has_no_owner_stops_the_import_before_anything_is_written(
    made: Made, memory: IsolatedMemory, tmp_path: Path
):
    mapping = Mapping(module="chat", pattern=r"(?P<user>\w+[01]):(?P<session>\d+)")

    with pytest.raises(RecordsUnmapped) as caught:
        made(mapping).run()

    assert (caught.value.count, caught.value.place) == (2, "line 5")
    assert "user2" not in str(caught.value)
    assert memory.stats().total.scopes == 0
    assert list((tmp_path / "beside").iterdir()) == []


def test_no_import_is_without_a_rule_for_users(made: Made):
    with pytest.raises(MappingRefused, match="no default"):
        made(Mapping(module="chat"))


def test_a_receipt_or_backup_never_takes_the_place_of_another_file(
    made: Made, memory: IsolatedMemory, tmp_path: Path
):
    (tmp_path / "mine.json").write_text("{}")
    memory.scope(user_id="ann", module_id="chat").chat_history("0").add_user_message("Before")

    for name in ("receipt", "rejects"):
        with pytest.raises(ImportPlaceTaken, match=f"--{name}"):
            made(**{name: tmp_path / "mine.json"}).run()
    if not memory._context.database.is_postgres:
        with pytest.raises(BackupRefused):
            made(backup=tmp_path / "mine.json").run()

    with pytest.raises(ImportPlaceTaken, match="--rejects"):
        made(receipt=tmp_path / "both.json", rejects=tmp_path / "both.json").run()

    assert (tmp_path / "mine.json").read_text() == "{}"
    assert memory.modules("user0") == []


# --- all of it is in, once


def test_an_import_puts_all_into_its_owners_scopes_and_rolls_back_to_what_was_before(
    made: Made, memory: IsolatedMemory, tmp_path: Path
):
    before = everything(memory)

    receipt = made().run()

    assert receipt.is_whole
    assert receipt.units == {"copied": 6}
    assert receipt.records == 24
    assert receipt.backup_state == "nothing there"
    assert texts(memory, "user1", "0") == [f"1 0 {index} {CANARY}" for index in range(4)]
    assert memory.verify().is_clean
    assert memory.roll_back(bytes.fromhex(receipt.token)).is_done
    assert everything(memory) == before
    assert memory.stats().total.scopes == 0


def test_a_second_run_finds_all_of_it_present(made: Made, memory: IsolatedMemory):
    made().run()
    once = everything(memory)

    again = made().run()

    assert again.units == {"present": 6}
    assert everything(memory) == once


def test_an_import_that_is_stopped_anywhere_goes_on(made: Made, memory: IsolatedMemory):
    steps: list[Step] = []

    def stop(step: Step) -> None:
        steps.append(step)
        if len(steps) == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        made(progress=stop).run()
    stopped = ImportReceipt.read(made().receipt_path)
    receipt = made().run()

    assert (stopped.status, stopped.error) == ("interrupted", "InterruptedError")
    assert receipt.units == {"present": 3, "copied": 3}
    assert receipt.token == stopped.token
    assert len(everything(memory)) == 6


async def test_an_import_that_nobody_waits_for_any_more_ends_behind_a_unit(
    made: Made, memory: IsolatedMemory
):
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()
    running = asyncio.create_task(
        made(progress=lambda _: loop.call_soon_threadsafe(begun.set)).arun()
    )
    await begun.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    plan, receipt = await made().aplan(), await made().arun()

    assert receipt.is_whole
    assert plan.records == receipt.records
    assert sum(receipt.units.values()) == 6


def test_the_source_and_its_log_stay_as_they_are_byte_by_byte(
    memory: IsolatedMemory, tmp_path: Path
):
    (tmp_path / "theirs").mkdir()
    path = chat_database(tmp_path / "theirs" / "chats.db", users=2, messages=3)
    with closing(sqlite3.connect(path)) as application:
        application.execute("PRAGMA journal_mode = WAL")
        application.execute("UPDATE message_store SET owner = 'in the log alone'")
        application.commit()
        before = digests(tmp_path / "theirs")

        with source_specs()["sql-chat-history"].make(str(path)) as source:
            done = Import(memory, source, BY_OWNER, folder=tmp_path)
            assert done.plan().records == 6
            assert done.run().is_whole

        assert set(before) == {"chats.db", "chats.db-wal"}
        assert digests(tmp_path / "theirs") == before


# --- what cannot be put in is told, and the rest goes on


def test_what_is_broken_is_told_with_its_place_and_the_rest_goes_on(
    memory: IsolatedMemory, tmp_path: Path
):
    told = sessions(1, 1, 2)
    told[0]["messages"].insert(1, BROKEN)
    source = LinesSource(write_lines(tmp_path / "broken.jsonl", [BROKEN, *told]))
    done = Import(memory, source, BY_OWNER, folder=tmp_path)

    assert done.plan().rejected == 2
    receipt = done.run()

    assert not receipt.is_whole
    assert receipt.rejects == {"rejected": 2}
    rejects = Path(receipt.rejects_file or "")
    places = [json.loads(line)["place"] for line in rejects.read_text().splitlines()]
    assert places == ["line 1", "line 2, message 1"]
    assert stat.S_IMODE(rejects.stat().st_mode) == 0o600
    assert len(texts(memory, "user0", "0")) == 2


@pytest.mark.parametrize(("rule", "lines_told"), [("skip", {}), ("report", {"unmapped": 2})])
def test_what_has_no_owner_is_left_out_if_that_is_said(
    made: Made, memory: IsolatedMemory, rule: str, lines_told: dict[str, int]
):
    mapping = Mapping(module="chat", pattern=r"(?P<user>\w+[01]):(?P<session>\d+)")

    receipt = made(mapping, unmapped=rule).run()

    assert receipt.units == {"copied": 4, "unmapped": 2}
    assert receipt.rejects == lines_told
    assert receipt.is_whole == (rule == "skip")
    assert memory.modules("user2") == []


def test_who_was_erased_stays_erased_unless_named(made: Made, memory: IsolatedMemory):
    memory.scope(user_id="user1", module_id="chat").chat_history("0").add_user_message("Hi")
    memory.erase_user("user1")

    receipt = made().run()

    assert receipt.units == {"copied": 4, "rejected": 2}
    assert receipt.rejects == {"erased": 2}
    assert memory.modules("user1") == []
    assert made(readmit=["user1"]).run().units == {"present": 4, "copied": 2}
    assert memory.modules("user1") == ["chat"]


def test_a_user_who_alone_has_the_keys_is_left_out_until_they_unlock(
    made: Made, memory: IsolatedMemory
):
    memory.scope(user_id="user1", module_id="chat").chat_history("old").add_user_message("Hi")
    lock(memory, "user1")

    receipt = made().run()

    assert receipt.units == {"copied": 4, "rejected": 2}
    assert receipt.rejects == {"locked": 2}
    unlock(memory, "user1")
    assert made().run().units == {"present": 4, "copied": 2}


def test_what_stands_under_a_name_already_stays(made: Made, memory: IsolatedMemory):
    memory.scope(user_id="user1", module_id="chat").chat_history("0").add_user_message("Mine")

    receipt = made().run()

    assert receipt.rejects == {"taken": 1}
    assert texts(memory, "user1", "0") == ["Mine"]


def test_items_of_one_scope_are_put_in_together_and_one_that_is_refused_alone_is_left_out(
    memory: IsolatedMemory, tmp_path: Path
):
    items = [
        {"namespace": ["memories", user], "key": str(number), "value": {"n": number}}
        for user in ("ann", "bob")
        for number in range(3)
    ]
    memory.scope(user_id="ann", module_id="chat").store().put(("memories",), "1", {"n": "mine"})
    source = LinesSource(write_lines(tmp_path / "items.jsonl", items))
    mapping = Mapping(module="chat", pattern=r"memories\.(?P<user>\w+)", drop_labels=True)

    receipt = Import(memory, source, mapping, folder=tmp_path).run()

    assert receipt.units == {"copied": 5, "rejected": 1}
    store = memory.scope(user_id="bob", module_id="chat").store()
    assert {item.key: item.value for item in store.search(("memories",))} == {
        str(number): {"n": number} for number in range(3)
    }


# --- backup and receipt


def test_the_target_is_backed_up_before_anything_is_written_and_not_again(
    made: Made, memory: IsolatedMemory, tmp_path: Path
):
    memory.scope(user_id="user1", module_id="chat").chat_history("old").add_user_message("Before")

    receipt = made().run()
    again = made().run()

    assert receipt.backup is not None
    place = Path(receipt.backup)
    assert (again.backup, again.backup_state) == (receipt.backup, "made")
    if memory._context.database.is_postgres:
        # Of those alone who are touched and had something.
        (archive,) = place.iterdir()
        assert stat.S_IMODE(place.stat().st_mode) == 0o700
        assert memory.import_user(archive, user_id="copy").counts["messages"] == 1
    else:
        with IsolatedMemory(f"sqlite:///{place}", root_key=LocalRootKey(ROOT_KEY)) as copy:
            assert list(everything(copy)) == ["user1:old"]


def test_an_import_that_was_stopped_while_it_backed_up_goes_on(
    postgres_url: str, lines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Its archives are in plaintext: none is left behind, either."""
    place = tmp_path / "backup"
    with IsolatedMemory(postgres_url, root_key=LocalRootKey(ROOT_KEY)) as memory:
        for user in ("user0", "user1"):
            memory.scope(user_id=user, module_id="chat").chat_history("old").add_user_message("A")
        export, calls = IsolatedMemory.export_user, iter([None])

        def stopped(*args: Any, **kwargs: Any) -> Any:
            if next(calls, export) is export:
                raise KeyboardInterrupt
            return export(*args, **kwargs)

        moving = Import(memory, LinesSource(lines), BY_OWNER, folder=tmp_path, backup=place)
        with monkeypatch.context() as patched:
            patched.setattr(IsolatedMemory, "export_user", stopped)
            with pytest.raises(KeyboardInterrupt):
                moving.run()
        assert not [*tmp_path.rglob("user-*")]

        receipt = moving.run()
        assert (receipt.backup_state, receipt.backup) == ("made", str(place))
        assert len([*place.iterdir()]) == 2
        assert stat.S_IMODE(place.stat().st_mode) == 0o700

        other = Import(
            memory,
            LinesSource(lines),
            Mapping(user="user0", module="m"),
            folder=tmp_path,
            backup=place,
        )
        with pytest.raises(BackupRefused, match="has this name already"):
            other.run()
        assert memory.modules("user0") == ["chat"]


def test_the_receipt_has_counts_and_no_user_and_its_owner_alone_reads_it(
    made: Made, memory: IsolatedMemory
):
    done = made(backup=False)
    receipt = done.run()

    text = done.receipt_path.read_text()

    assert stat.S_IMODE(done.receipt_path.stat().st_mode) == 0o600
    assert "user1" not in text
    assert CANARY not in text
    assert str(Path.cwd()) not in text
    assert ImportReceipt.read(done.receipt_path) == receipt
    assert receipt.backup_state == "not wanted"


@pytest.mark.parametrize("place", ["receipt", "backup"])
def test_rejects_never_take_the_place_of_the_receipt_or_the_backup(
    made: Made, memory: IsolatedMemory, tmp_path: Path, place: str
):
    memory.scope(user_id="user1", module_id="chat").chat_history("old").add_user_message("Before")
    options: dict[str, Any] = {place: tmp_path / "one", "rejects": tmp_path / "beside/../one"}

    with pytest.raises(ImportPlaceTaken, match="rejects"):
        made(**options).run()
    assert list(everything(memory)) == ["user1:old"]
    assert not (tmp_path / "one").exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{}", b"5", b"null", b'"5"', b"\xff", b'{"format": 1, "version": 1}'],
)
def test_what_is_no_receipt_is_refused(tmp_path: Path, content: bytes):
    (tmp_path / "receipt.json").write_bytes(content)

    with pytest.raises(ReceiptRefused):
        ImportReceipt.read(tmp_path / "receipt.json")


def test_a_receipt_whose_counts_are_none_is_refused(made: Made):
    done = made(backup=False)
    done.run()
    told = json.loads(done.receipt_path.read_text())
    told["modules"][0]["records"] = "many"
    done.receipt_path.write_text(json.dumps(told))

    with pytest.raises(ReceiptRefused):
        ImportReceipt.read(done.receipt_path)


def test_nothing_of_the_content_is_in_the_targets_files(lines: Path, tmp_path: Path):
    url = f"sqlite:///{tmp_path}/target.db"
    with IsolatedMemory(url, root_key=LocalRootKey(ROOT_KEY)) as memory:
        Import(memory, LinesSource(lines), BY_OWNER, folder=tmp_path).run()

    for path in tmp_path.glob("target.db*"):
        content = path.read_bytes()
        assert CANARY.encode() not in content
        assert b"user1" not in content


def test_the_token_is_of_the_source_its_options_and_the_mapping(made: Made, lines: Path):
    tokens = {
        made().token,
        made(readmit=["ann"], unmapped="skip").token,
        made(Mapping(user="ann", module="chat")).token,
        made(Mapping(user=Field("owner"), module="chat")).token,
    }
    assert len(tokens) == 3
    source = LinesSource(lines)
    source.options = {"branches": "all"}
    assert made().token != Import(made()._memory, source, BY_OWNER).token


def test_every_source_that_can_be_named_is_found_where_its_entry_says():
    for kind, spec in source_specs().items():
        module, _, name = spec.home.partition(":")
        assert spec.kind == kind
        assert issubclass(getattr(import_module(module), name), Source)


# --- processes that are killed


def test_an_import_that_is_killed_anywhere_goes_on_as_if_nothing_had_been(
    lines: Path, tmp_path: Path
):
    def make(memory: IsolatedMemory, beside: Path) -> Import:
        return Import(memory, LinesSource(lines), BY_OWNER, folder=beside)

    outlives_kills(make, tmp_path, kills=3)


@pytest.mark.slow
def test_a_chat_history_that_is_killed_at_20_moments_goes_on(tmp_path: Path):
    path = chat_database(tmp_path / "chats.db", users=5, messages=20)

    def make(memory: IsolatedMemory, beside: Path) -> Import:
        source = source_specs()["sql-chat-history"].make(str(path))
        return Import(memory, source, BY_OWNER, folder=beside)

    outlives_kills(make, tmp_path, kills=20)
