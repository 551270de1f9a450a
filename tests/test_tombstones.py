"""Tombstones: who was erased is kept outside of what is restored, and by nobody else's word."""

import json
import os
import stat
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from langmem_isolated import IsolatedMemory, LocalRootKey
from langmem_isolated._crypto.directory import DirectoryKey
from langmem_isolated._crypto.owners import Level, Owner
from langmem_isolated._crypto.secret_bytes import SecretBytes
from langmem_isolated._runtime.clock import now
from langmem_isolated._storage import erasure_log, tombstones
from langmem_isolated._storage.erasure_log import ErasureLog, Tombstone
from langmem_isolated._storage.key_sets import KeySets
from langmem_isolated.errors import ErasureLogRefused, RecordDoesNotOpen
from langmem_isolated.lifecycle.retention import sweeping
from tests.conftest import Attacker
from tests.processes import all_at_once

ALICE = Owner(Level.USER, "default", "alice")


def say(memory: IsolatedMemory, user: str, text: str = "a secret") -> None:
    memory.scope(user_id=user, module_id="tutor").chat_history("s").add_user_message(text)


def said(memory: IsolatedMemory, user: str) -> list[str]:
    history = memory.scope(user_id=user, module_id="tutor").chat_history("s")
    return [message.text for message in history.messages]


def lines(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Where an erasure log is made."""
    return tmp_path / "erasures.jsonl"


@pytest.fixture
def logged(database_url: str, root_key: LocalRootKey, log: Path) -> Any:
    """An open memory with an erasure log, of either kind."""
    with IsolatedMemory(database_url, root_key=root_key, erasure_log=log) as memory:
        yield memory


def test_an_erasure_leaves_a_tombstone_in_the_table_and_in_the_log(
    logged: IsolatedMemory, database_url: str, log: Path
):
    for user in ("alice", "bob"):
        say(logged, user)
    assert not logged._context.is_tombstoned(ALICE)

    receipt = logged.erase_user("alice")

    attacker = Attacker(database_url)
    rows = attacker("SELECT principal, incarnation, erased_at, expires_at, row_mac FROM tombstones")
    attacker.close()
    (principal, life, erased_at, expires_at, mac), *others = rows
    assert (principal.hex(), life, expires_at, others) == (receipt.principal, 1, None, [])
    assert lines(log) == [
        {"v": 1, "principal": principal.hex(), "incarnation": 1, "erased_at": erased_at,
         "expires_at": None, "mac": mac.hex()}
    ]  # fmt: skip
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert logged._context.is_tombstoned(ALICE)
    assert logged._context.is_tombstoned(Owner(Level.PRIVATE, "default", "alice", "tutor"))
    assert not logged._context.is_tombstoned(Owner(Level.USER, "default", "bob"))
    assert not logged._context.is_tombstoned(Owner(Level.USER, "other", "alice"))


def test_the_tombstone_is_there_before_a_key_is_destroyed(
    logged: IsolatedMemory, database_url: str, log: Path, monkeypatch: pytest.MonkeyPatch
):
    say(logged, "alice")
    with monkeypatch.context() as patched:
        patched.setattr(KeySets, "swap", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            logged.erase_user("alice")

    assert len(lines(log)) == 1
    assert logged._context.is_tombstoned(ALICE)
    assert said(logged, "alice") == ["a secret"]

    logged.erase_user("alice")
    logged.erase_user("alice")
    assert len(lines(log)) == 1, "of one life"


def test_each_life_that_ends_has_one_and_who_comes_back_in_person_is_new(
    logged: IsolatedMemory, log: Path
):
    for life in (1, 2):
        say(logged, "alice", f"life {life}")
        assert said(logged, "alice") == [f"life {life}"]
        logged.erase_user("alice")
    logged.erase_user("nobody")

    assert [line["incarnation"] for line in lines(log)] == [1, 2]
    say(logged, "alice", "again")
    assert said(logged, "alice") == ["again"]
    assert logged._context.is_tombstoned(ALICE), "what is imported is not in person"


@pytest.mark.parametrize("place", ["no folder", "a folder", "not to be written"])
def test_where_the_log_cannot_be_written_nothing_is_erased(
    memory: IsolatedMemory, database_url: str, root_key: LocalRootKey, tmp_path: Path, place: str
):
    log = tmp_path / "logs" / "erasures.jsonl"
    if place == "a folder":
        log.mkdir(parents=True)
    elif place == "not to be written":
        # Root may write anything: a file in the place of the folder refuses it too.
        log.parent.write_bytes(b"")
    say(memory, "alice")

    with (
        IsolatedMemory(database_url, root_key=root_key, erasure_log=log) as logged,
        pytest.raises(ErasureLogRefused, match="cannot be"),
    ):
        logged.erase_user("alice")

    assert said(memory, "alice") == ["a secret"]


def test_a_disk_that_takes_half_a_line_keeps_the_user_and_the_log(
    logged: IsolatedMemory, log: Path, monkeypatch: pytest.MonkeyPatch
):
    for user in ("alice", "bob"):
        say(logged, user)
    logged.erase_user("bob")
    write = os.write
    with monkeypatch.context() as patched:
        patched.setattr(erasure_log.os, "write", lambda file, text: write(file, text[:40]))
        with pytest.raises(ErasureLogRefused, match="a part of it"):
            logged.erase_user("alice")
    assert said(logged, "alice") == ["a secret"]
    assert not log.read_text().endswith("\n")
    assert len(logged._keyring.tombstones.merged()) == 1, "readers pass over what is torn"

    logged.erase_user("alice")

    assert len(lines(log)) == 2, "the next one takes it away"


def test_a_last_line_that_lacks_only_its_end_counts_and_is_given_it(
    logged: IsolatedMemory, log: Path
):
    for user in ("alice", "bob"):
        say(logged, user)
    logged.erase_user("alice")
    log.write_bytes(log.read_bytes()[:-1])

    assert logged._keyring.tombstones.log.read(logged._keyring.directory())
    logged.erase_user("bob")

    assert len(lines(log)) == 2


@pytest.mark.parametrize("change", ["a digit", "a field", "a line", "spaces", "deep", "version"])
def test_a_line_that_was_changed_is_refused_by_its_number_and_nothing_is_quoted(
    logged: IsolatedMemory, log: Path, change: str
):
    for user in ("alice", "bob"):
        say(logged, user)
        logged.erase_user(user)
    first, second = log.read_text().splitlines()
    changed = {
        "a digit": second.replace('"incarnation":1', '"incarnation":2'),
        "a field": second.replace('"v":1,', '"v":1,"user":"bob",'),
        "a line": "bob",
        "spaces": second.replace(",", ", "),
        "deep": "[" * 100_000,
        "version": second.replace('"v":1', '"v":2'),
    }[change]
    log.write_text(f"{first}\n{changed}\n")

    with pytest.raises(ErasureLogRefused, match="Line 2 ") as refusal:
        logged._keyring.tombstones.merged()

    assert json.loads(second)["principal"] not in str(refusal.value)


def test_the_log_of_another_installation_is_refused(
    logged: IsolatedMemory, log: Path, root_key: LocalRootKey, tmp_path: Path
):
    say(logged, "alice")
    logged.erase_user("alice")
    with IsolatedMemory(
        f"sqlite:///{tmp_path}/other.db", root_key=root_key, erasure_log=log
    ) as other:
        say(other, "alice")
        with pytest.raises(ErasureLogRefused, match="another one's"):
            other._keyring.tombstones.merged()


@pytest.mark.parametrize(
    "change",
    ["incarnation = 2", "erased_at = 1", "expires_at = 1", "row_mac = ?", "principal = ?"],
)
def test_a_row_that_was_changed_is_refused(memory: IsolatedMemory, attacker: Attacker, change: str):
    say(memory, "alice")
    memory.erase_user("alice")

    attacker(f"UPDATE tombstones SET {change}", *[bytes(16)] * change.count("?"))

    with pytest.raises(RecordDoesNotOpen, match="tombstone"):
        memory._keyring.tombstones.merged()
    if "expires_at" in change:
        assert memory.sweep().damaged == 1
        assert attacker("SELECT count(*) FROM tombstones") == [(1,)]
    if "principal" not in change:
        with pytest.raises(RecordDoesNotOpen):
            memory._context.is_tombstoned(ALICE)


def test_a_key_store_of_two_databases_keeps_each_ones_apart(root_key: LocalRootKey, tmp_path: Path):
    keys = f"sqlite:///{tmp_path}/keys.db"
    one, other = (
        IsolatedMemory(f"sqlite:///{tmp_path}/{name}.db", root_key=root_key, key_store=keys)
        for name in ("one", "other")
    )
    with one, other:
        for memory in (one, other):
            say(memory, "alice")
        one.erase_user("alice")

        assert one._context.is_tombstoned(ALICE)
        assert not other._context.is_tombstoned(ALICE)
        assert (len(one._keyring.tombstones.merged()), other._keyring.tombstones.merged()) == (
            1,
            [],
        )
        attacker = Attacker(f"sqlite:///{tmp_path}/one.db")
        assert attacker("SELECT count(*) FROM tombstones") == [(0,)], "it is in the key store"
        attacker.close()


def test_a_sweep_forgets_who_was_erased_when_the_time_of_that_is_over(
    database_url: str, root_key: LocalRootKey, log: Path, monkeypatch: pytest.MonkeyPatch
):
    def opened(days: int | None) -> IsolatedMemory:
        return IsolatedMemory(database_url, root_key=root_key, erasure_log=log, tombstone_days=days)

    with opened(None) as memory:
        say(memory, "bob")
        memory.erase_user("bob")
    with opened(30) as memory:
        say(memory, "alice")
        memory.erase_user("alice")
        assert memory.sweep().counts == {}
        later = now() + 30 * 86_400_000_000
        monkeypatch.setattr(tombstones, "now", lambda: later)
        monkeypatch.setattr(sweeping, "now", lambda: later)
        assert not memory._context.is_tombstoned(ALICE), "over is absent"

        assert memory.sweep(dry_run=True).counts == {"tombstone": 1}
        assert len(lines(log)) == 2
        assert memory.sweep().counts == {"tombstone": 1}
        assert memory.sweep().counts == {}

    (kept,) = lines(log)
    assert kept["expires_at"] is None
    attacker = Attacker(database_url)
    assert attacker("SELECT principal, expires_at FROM tombstones") == [
        (bytes.fromhex(kept["principal"]), None)
    ]
    attacker.close()


def test_erased_again_after_its_tombstone_is_over_is_kept_anew(
    database_url: str, root_key: LocalRootKey, log: Path, monkeypatch: pytest.MonkeyPatch
):
    with IsolatedMemory(
        database_url, root_key=root_key, erasure_log=log, tombstone_days=1
    ) as memory:
        say(memory, "alice")
        memory.erase_user("alice")
        later = now() + 86_400_000_000
        monkeypatch.setattr(tombstones, "now", lambda: later)
        assert not memory._context.is_tombstoned(ALICE)

        memory.erase_user("alice")

        assert memory._context.is_tombstoned(ALICE)
        assert len(lines(log)) == 2
        assert len(memory._keyring.tombstones.merged()) == 1


def directory_key() -> DirectoryKey:
    return DirectoryKey(SecretBytes(bytes(range(32))))


def append_many(path: Path, number: int) -> None:
    log, directory = ErasureLog(path), directory_key()
    for count in range(30):
        log.append(Tombstone.of(directory, bytes([number] * 15 + [count]), 1, 5, None))


def test_four_processes_append_at_once_and_no_line_is_lost(log: Path):
    all_at_once([partial(append_many, log, number) for number in range(4)])

    found = ErasureLog(log).read(directory_key())
    assert len(found) == len({one.principal for one in found}) == 120


def remove_all_over(path: Path) -> None:
    for moment in range(30):
        ErasureLog(path).remove(directory_key(), moment)


def append_expiring(path: Path) -> None:
    log, directory = ErasureLog(path), directory_key()
    for count in range(30):
        log.append(Tombstone.of(directory, bytes([count] * 16), 9, 5, count))


def test_what_is_appended_while_another_process_rewrites_the_log_is_kept(log: Path):
    all_at_once([partial(append_many, log, 1), partial(append_expiring, log),
                 partial(remove_all_over, log)])  # fmt: skip

    kept = [one for one in ErasureLog(log).read(directory_key()) if one.expires_at is None]
    assert len(kept) == 30
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


def test_tombstones_make_the_bytes_that_were_frozen(log: Path):
    stones = (
        Tombstone.of(directory_key(), bytes(range(16)), 3, 1_700_000_000_000_000, None),
        Tombstone.of(directory_key(), bytes(16), 1, 1, 2),
    )
    ErasureLog(log).append(*stones)

    frozen = Path(__file__).parent / "vectors" / "erasure_log_v1.jsonl"
    assert log.read_bytes() == frozen.read_bytes()
    assert ErasureLog(frozen).read(directory_key()) == [*stones]


def test_arguments_that_cannot_be_meant_are_refused(root_key: LocalRootKey):
    for wrong, error in (
        ({"erasure_log": 7}, TypeError),
        ({"tombstone_days": 1.5}, TypeError),
        ({"tombstone_days": 0}, ValueError),
    ):
        with pytest.raises(error, match=next(iter(wrong))):
            IsolatedMemory("sqlite://", root_key=root_key, **wrong)
