"""Promise 4 for LangGraph threads: no row of theirs can be moved, changed, replayed or downgraded.

What can be done unnoticed by someone who may write to the database is held by tests at the end.
"""

import itertools
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableConfig

from langmem_isolated import IsolatedMemory, LocalRootKey, ScopedMemory
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated.checkpointer import IsolatedCheckpointSaver
from langmem_isolated.errors import RecordDoesNotOpen
from tests.conftest import ROOT_KEY, Attacker, Door, new_postgres_url
from tests.containers import ROW
from tests.threads import at, checkpoint, id_of, listed, put, values_at

_numbers = itertools.count()
SAID = [HumanMessage(f"secret {number} {'x' * 150}", id=str(number)) for number in range(6)]
Row = tuple[int, bytes, bytes]
ATTACKED = [Kind.CHECKPOINT, Kind.WRITE, Kind.ELEMENT]


@dataclass
class Target:
    """A thread of three checkpoints, with writes behind the last, and one of a subgraph."""

    attacker: Attacker
    scoped: ScopedMemory
    thread_id: str
    last: RunnableConfig = field(init=False)
    run_id: str = field(init=False)

    def __post_init__(self) -> None:
        self.run_id = f"run {next(_numbers)}"
        config = at(self.thread_id)
        for number in (2, 4, 6):
            config = put(self.saver, config, {"messages": SAID[:number]}, run_id=self.run_id)
        self.last = config
        for task in ("one", "two"):
            answer = AIMessage(f"secret {task} {'x' * 1500}", id=task)
            self.saver.put_writes(config, [("messages", answer)], task, "~path")
        put(self.saver, at(self.thread_id, None, "agent:1"), {"messages": SAID[:1]})
        keys = self.scoped._records.keys()
        self.scope_id = keys.scope_id
        self.digest = keys.pseudonym(Kind.THREAD, self.thread_id.encode())
        self.root = self.digest + keys.pseudonym(Kind.CHECKPOINT, b"namespace", b"")

    @property
    def saver(self) -> IsolatedCheckpointSaver:
        return self.scoped.checkpointer()

    def forget(self) -> None:
        """As in another process, that has read nothing of it."""
        self.saver._known.forget(self.digest)

    def rows(self, kind: Kind, *, everywhere: bool = False) -> list[Row]:
        """Where its rows of a kind stand, those of the subgraph left out unless ``everywhere``."""
        low = self.digest if everywhere or kind is Kind.ELEMENT else self.root
        found = self.attacker(
            "SELECT kind, parent, key FROM records WHERE scope_id = ? AND kind = ?"
            " AND parent >= ? AND parent <= ? ORDER BY parent, key",
            self.scope_id, int(kind), low, low + b"\xff" * 17 if low == self.digest else low,
        )  # fmt: skip
        return [(number, bytes(parent), bytes(key)) for number, parent, key in found]

    def row(self, kind: Kind) -> Row:
        """The last checkpoint, a write behind it, or an element that all refer to."""
        return self.rows(kind)[0 if kind is Kind.ELEMENT else -1]

    def sealed(self, row: Row) -> bytes:
        [(sealed,)] = self.attacker(
            "SELECT sealed FROM records WHERE scope_id = ? AND kind = ? AND parent = ? AND key = ?",
            self.scope_id, *row,
        )  # fmt: skip
        return bytes(sealed)

    def set(self, row: Row, what: str, *values: object) -> None:
        """Change a row: ``what`` is the SQL behind SET."""
        self.attacker(
            f"UPDATE records SET {what} WHERE scope_id = ? AND kind = ? AND parent = ? AND key = ?",
            *values, self.scope_id, *row,
        )  # fmt: skip

    def drop(self, *rows: Row) -> None:
        for row in rows:
            self.attacker(
                "DELETE FROM records WHERE scope_id = ? AND kind = ? AND parent = ? AND key = ?",
                self.scope_id, *row,
            )  # fmt: skip

    def add(self, row: Row, sealed: bytes) -> None:
        self.attacker(
            "INSERT INTO records (scope_id, kind, parent, key, sealed, size, created_at,"
            " updated_at) VALUES (?, ?, ?, ?, ?, 1, 1, 1)",
            self.scope_id, *row, sealed,
        )  # fmt: skip

    def thread(self, what: str, *values: object) -> None:
        """Change the thread's own row: ``what`` is the SQL behind SET."""
        self.attacker(
            f"UPDATE sessions SET {what} WHERE scope_id = ? AND digest = ?",
            *values, self.scope_id, self.digest,
        )  # fmt: skip

    def state(self) -> tuple[Any, ...]:
        [row] = self.attacker(
            f"SELECT {', '.join(ROW)} FROM sessions WHERE scope_id = ? AND digest = ?",
            self.scope_id, self.digest,
        )  # fmt: skip
        return row

    def set_state(self, state: tuple[Any, ...]) -> None:
        self.thread(", ".join(f"{column} = ?" for column in ROW), *state)


@dataclass
class Scene:
    """Alice's thread, and others that its rows could come from."""

    target: Target
    other_thread: Target
    other_user: Target
    other_module: Target

    @property
    def others(self) -> list[Target]:
        return [self.other_thread, self.other_user, self.other_module]


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def ground(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[IsolatedMemory, Attacker]]:
    """One database of either kind for all attacks: each has users of its own."""
    if request.param == "postgres":
        url = new_postgres_url(request.getfixturevalue("postgres"))
    else:
        url = f"sqlite:///{tmp_path_factory.mktemp('threads')}/memory.db"
    with IsolatedMemory(url, root_key=LocalRootKey(ROOT_KEY), synchronous="NORMAL") as memory:
        attacker = Attacker(url)
        yield memory, attacker
        attacker.close()


def new_scene(memory: IsolatedMemory, attacker: Attacker) -> Scene:
    number = next(_numbers)
    alice = memory.scope(user_id=f"alice {number}", module_id="tutor")
    bob = memory.scope(user_id=f"bob {number}", module_id="tutor")
    return Scene(
        Target(attacker, alice, "1"),
        Target(attacker, alice, "2"),
        Target(attacker, bob, "1"),
        Target(attacker, alice.module("planner"), "1"),
    )


@pytest.fixture
def scene(ground: tuple[IsolatedMemory, Attacker]) -> Scene:
    return new_scene(*ground)


async def reads(door: Door, target: Target) -> dict[str, Callable[[], Any]]:
    """Every call that opens the last checkpoint of the thread, with what stands behind it."""
    saver, last, thread = target.saver, target.last, at(target.thread_id)
    return {
        "latest": lambda: door(saver, "get_tuple", thread),
        "by id": lambda: door(saver, "get_tuple", last),
        "list": lambda: listed(door, saver, thread),
        "list the newest": lambda: listed(door, saver, thread, limit=1),
        "list all": lambda: listed(door, saver, None),
        "history": lambda: door(
            saver, "get_delta_channel_history", config=last, channels=["messages"]
        ),
        "verify": lambda: door(saver, "verify_thread", target.thread_id),
        "copy": lambda: door(saver, "copy_thread", target.thread_id, "copy"),
        "prune": lambda: door(saver, "prune", [target.thread_id]),
        "delete for runs": lambda: door(saver, "delete_for_runs", [target.run_id]),
    }


# A sweep opens what refers to elements, and not the elements.
OPENS_NO_ELEMENTS = {"prune", "delete for runs"}


async def assert_refused(door: Door, target: Target, *, but: set[str] = frozenset()) -> None:  # type: ignore[assignment]
    for name, read in (await reads(door, target)).items():
        if name not in but:
            with pytest.raises(RecordDoesNotOpen) as caught:
                await read()
            assert "secret" not in repr(caught.value), name


async def assert_sound(door: Door, target: Target) -> None:
    found = await door(target.saver, "get_tuple", at(target.thread_id))
    assert found.checkpoint["channel_values"] == {"messages": SAID}
    assert len(found.pending_writes) == 2
    assert await door(target.saver, "verify_thread", target.thread_id) == 6


def flipped(value: bytes, bit: int) -> bytes:
    changed = bytearray(value)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


# --- the body of a row ----------------------------------------------------------------------------


def of_another_in_the_thread(scene: Scene, kind: Kind) -> bytes:
    target = scene.target
    return target.sealed(next(row for row in target.rows(kind) if row != target.row(kind)))


def of_the_subgraph(scene: Scene, kind: Kind) -> bytes:
    outside = set(scene.target.rows(kind, everywhere=True)) - set(scene.target.rows(kind))
    return scene.target.sealed(outside.pop()) if outside else b""


def of_another_kind(scene: Scene, kind: Kind) -> bytes:
    return scene.target.sealed(scene.target.row(next(other for other in ATTACKED if other != kind)))


BODIES: dict[str, Callable[[Scene, Kind], bytes]] = {
    "another's of the thread": of_another_in_the_thread,
    "the subgraph's": of_the_subgraph,
    "another kind's": of_another_kind,
    "another thread's": lambda scene, kind: scene.other_thread.sealed(scene.other_thread.row(kind)),
    "another user's": lambda scene, kind: scene.other_user.sealed(scene.other_user.row(kind)),
    "another module's": lambda scene, kind: scene.other_module.sealed(scene.other_module.row(kind)),
    "nothing": lambda *_: b"",
    "plaintext": lambda *_: b"\x01\x92\x90\x90",
    "plaintext behind our header": lambda scene, kind: (
        scene.target.sealed(scene.target.row(kind))[:29] + b"\x01\x92\x90\x90" + bytes(16)
    ),
    "the other form": lambda scene, kind: flipped(scene.target.sealed(scene.target.row(kind)), 1),
    "a head of it": lambda scene, kind: scene.target.sealed(scene.target.row(kind))[:-1],
    "more than it": lambda scene, kind: scene.target.sealed(scene.target.row(kind)) + b"\x00",
}


@pytest.mark.parametrize("kind", ATTACKED)
@pytest.mark.parametrize("body", BODIES)
async def test_a_body_that_was_not_sealed_for_its_row_is_refused_by_every_read(
    scene: Scene, door: Door, kind: Kind, body: str
):
    target = scene.target
    before, changed = target.sealed(target.row(kind)), BODIES[body](scene, kind)
    assert before != changed

    target.set(target.row(kind), "sealed = ?", changed)

    await assert_refused(
        door, target, but=OPENS_NO_ELEMENTS if kind is Kind.ELEMENT else frozenset()
    )
    for other in scene.others:
        await assert_sound(door, other)
    target.set(target.row(kind), "sealed = ?", before)
    await assert_sound(door, target)


@pytest.mark.parametrize("kind", ATTACKED)
def test_any_flipped_bit_is_noticed(scene: Scene, kind: Kind):
    target = scene.target
    row = target.row(kind)
    sealed = target.sealed(row)
    header, last = 29 * 8, len(sealed) * 8
    for bit in (*range(0, header, 7), *range(header, last, 97), *range(last - 128, last, 11)):
        target.set(row, "sealed = ?", flipped(sealed, bit))
        with pytest.raises(RecordDoesNotOpen):
            target.saver.get_tuple(at("1"))


# --- the place of a row ---------------------------------------------------------------------------


def swap(target: Target, one: Row, other: Row) -> None:
    bodies = target.sealed(one), target.sealed(other)
    target.set(one, "sealed = ?", bodies[1])
    target.set(other, "sealed = ?", bodies[0])


def repeat_behind(target: Target, kind: Kind) -> None:
    """Once more, where every read comes by: it would be the newest, or stand behind the newest."""
    number, parent, key = target.row(kind)
    target.add((number, parent, b"\xff" + key[1:]), target.sealed(target.row(kind)))


def take_from_the_subgraph(target: Target) -> None:
    [row] = set(target.rows(Kind.CHECKPOINT, everywhere=True)) - {*target.rows(Kind.CHECKPOINT)}
    target.set(row, "parent = ?", target.root)


MOVES: dict[str, Callable[[Target], object]] = {
    "exchange two checkpoints": lambda t: swap(
        t, t.rows(Kind.CHECKPOINT)[1], t.rows(Kind.CHECKPOINT)[2]
    ),
    "exchange two writes": lambda t: swap(t, *t.rows(Kind.WRITE)),
    "a checkpoint under a later id": lambda t: repeat_behind(t, Kind.CHECKPOINT),
    "a subgraph's checkpoint to the root": take_from_the_subgraph,
    "a write under another task": lambda t: t.add(
        (int(Kind.WRITE), t.root, t.row(Kind.CHECKPOINT)[2] + bytes(16)),
        t.sealed(t.row(Kind.WRITE)),
    ),
    "an older checkpoint's body as the last": lambda t: t.set(
        t.row(Kind.CHECKPOINT), "sealed = ?", t.sealed(t.rows(Kind.CHECKPOINT)[0])
    ),
}


@pytest.mark.parametrize("move", MOVES)
async def test_a_row_in_another_place_is_refused_by_every_read(scene: Scene, door: Door, move: str):
    MOVES[move](scene.target)

    # By its id the last is found where it stands, and nothing behind it.
    but = {"by id", "history"} if "later id" in move or "subgraph" in move else set()
    await assert_refused(door, scene.target, but=but)


async def test_exchanged_elements_are_refused(scene: Scene, door: Door):
    swap(scene.target, *scene.target.rows(Kind.ELEMENT)[:2])

    await assert_refused(door, scene.target, but=OPENS_NO_ELEMENTS)


async def test_a_missing_element_is_refused_by_every_read_that_returns_it(scene: Scene, door: Door):
    scene.target.drop(scene.target.row(Kind.ELEMENT))

    await assert_refused(door, scene.target, but=OPENS_NO_ELEMENTS - {"copy"})
    assert await door(scene.target.saver, "get_tuple", at("3")) is None


async def test_an_element_under_another_ones_alias_is_not_taken_for_it(scene: Scene, door: Door):
    """The alias is how a message is found again that this process has not read."""
    target = scene.target
    one, other = target.rows(Kind.ELEMENT)[:2]
    (alias,), (others,) = (
        target.attacker(
            "SELECT alias FROM records WHERE scope_id = ? AND kind = ? AND parent = ? AND key = ?",
            target.scope_id, *row,
        )[0]
        for row in (one, other)
    )  # fmt: skip
    target.set(one, "alias = NULL")
    target.set(other, "alias = ?", alias)
    target.forget()

    with pytest.raises(RecordDoesNotOpen):
        await door(target.saver, "put", target.last, checkpoint({"a": [SAID[0]]}), {}, {})
    with pytest.raises(RecordDoesNotOpen):
        await door(target.saver, "verify_thread", target.thread_id)
    target.set(other, "alias = ?", others)
    target.set(one, "alias = ?", alias)

    await assert_sound(door, target)


@pytest.mark.parametrize("to", ["another thread", "another user", "another module"])
async def test_a_whole_thread_moved_elsewhere_does_not_open_there(
    scene: Scene, door: Door, to: str
):
    target = scene.target
    there = {
        "another thread": Target(target.attacker, target.scoped, "3"),
        "another user": scene.other_user,
        "another module": scene.other_module,
    }[to]
    there.saver.delete_thread(there.thread_id)
    before = target.rows(Kind.CHECKPOINT)

    move_thread(target, there)

    there.last = at(there.thread_id, id_of(target.last))
    for name, read in (await reads(door, there)).items():
        if name != "delete for runs":  # its runs are names of the other scope
            with pytest.raises(RecordDoesNotOpen):
                await read()
    assert await door(target.saver, "get_tuple", at("1")) is None
    move_thread(there, target)
    assert target.rows(Kind.CHECKPOINT) == before
    await assert_sound(door, target)


def move_thread(source: Target, there: Target) -> None:
    source.thread("scope_id = ?, digest = ?", there.scope_id, there.digest)
    spaces = source.attacker(
        "SELECT DISTINCT parent FROM records WHERE scope_id = ? AND parent >= ? AND parent <= ?",
        source.scope_id, source.digest, source.digest + b"\xff" * 17,
    )  # fmt: skip
    for (parent,) in spaces:
        renamed = there.root if bytes(parent) == source.root else there.digest + bytes(parent)[16:]
        source.attacker(
            "UPDATE records SET scope_id = ?, parent = ? WHERE scope_id = ? AND parent = ?",
            there.scope_id, renamed, source.scope_id, bytes(parent),
        )  # fmt: skip


# --- the thread's own row -------------------------------------------------------------------------

STATES: dict[str, Callable[[Scene], object]] = {
    "row MAC flipped": lambda s: s.target.thread("row_mac = ?", flipped(s.target.state()[0], 3)),
    "another thread's row MAC": lambda s: s.target.thread("row_mac = ?", s.other_thread.state()[0]),
    "another user's state": lambda s: s.target.set_state(s.other_user.state()),
    "another module's state": lambda s: s.target.set_state(s.other_module.state()),
    "another thread's state": lambda s: s.target.set_state(s.other_thread.state()),
    "the next number back": lambda s: s.target.thread("next_sequence = next_sequence - 1"),
    "the next number forward": lambda s: s.target.thread("next_sequence = next_sequence + 1"),
    "fewer checkpoints": lambda s: s.target.thread("count = count - 1"),
    "more checkpoints": lambda s: s.target.thread("count = count + 1"),
    "an expiry": lambda s: s.target.thread("expires_at = 1"),
    "a later expiry": lambda s: s.target.thread("expires_at = ?", 2**60),
    "another generation": lambda s: s.target.thread("generation = ?", bytes(8)),
    "no generation": lambda s: s.target.thread("generation = ?", b""),
    "another birth": lambda s: s.target.thread("birth = ?", bytes(16)),
    "another multiset hash": lambda s: s.target.thread("members = ?", bytes(48)),
    "no multiset hash": lambda s: s.target.thread("members = ?", b""),
    "a newest": lambda s: s.target.thread("newest = ?", bytes(16)),
    "another size": lambda s: s.target.thread("size = size + 1"),
    "another revision": lambda s: s.target.thread("revision = 1"),
    "another last activity": lambda s: s.target.thread("updated_at = updated_at + 1"),
    "closed": lambda s: s.target.thread("state = 2"),
    "pinned": lambda s: s.target.thread("is_pinned = 1"),
    "counts by channel": lambda s: s.target.thread("channels = ?", b""),
    "a lifetime": lambda s: s.target.thread("idle_lifetime = 1, absolute_lifetime = 1"),
}


@pytest.mark.parametrize("attack", STATES)
async def test_a_changed_row_of_the_thread_is_refused_by_every_read_and_write(
    scene: Scene, door: Door, attack: str
):
    target = scene.target
    before = target.state()

    STATES[attack](scene)

    # An expiry leaves a thread out of the list of threads, which looks at no more than that.
    await assert_refused(door, target)
    with pytest.raises(RecordDoesNotOpen):
        await door(target.saver, "put", target.last, checkpoint({"a": 1}), {}, {})
    with pytest.raises(RecordDoesNotOpen):
        await door(target.saver, "put_writes", target.last, [("a", 1)], "three")
    threads = {thread.id: thread.damaged for thread in await door(target.saver, "threads")}
    assert threads in ({None: True, "2": False}, {"2": False})
    target.set_state(before)
    await assert_sound(door, target)


async def test_a_thread_without_its_row_is_refused_by_every_read(scene: Scene, door: Door):
    target = scene.target
    target.attacker("DELETE FROM sessions WHERE digest = ?", target.digest)

    await assert_refused(door, target, but={"copy", "prune", "delete for runs"})
    assert {thread.id for thread in await door(target.saver, "threads")} == {"2"}


@pytest.mark.parametrize("source", ["flipped", "another thread's", "another user's", "plaintext"])
async def test_a_thread_does_not_take_another_ones_name(scene: Scene, door: Door, source: str):
    target = scene.target
    names = {
        "flipped": flipped(target.state()[-1], 300),
        "another thread's": scene.other_thread.state()[-1],
        "another user's": scene.other_user.state()[-1],
        "plaintext": b"\x012",
    }
    target.thread("sealed = ?", names[source])

    for read in (
        lambda: listed(door, target.saver, at("1")),
        lambda: listed(door, target.saver, None),
        lambda: door(target.saver, "verify_thread", "1"),
    ):
        with pytest.raises(RecordDoesNotOpen):
            await read()
    threads = await door(target.saver, "threads")
    assert {thread.id: thread.damaged for thread in threads} == {None: True, "2": False}


async def test_an_older_row_over_newer_checkpoints_takes_no_message_and_is_not_sound(
    scene: Scene, door: Door
):
    """Numbers that were given out are not given out again, so no reference changes its meaning."""
    target = scene.target
    before = target.state()
    put(target.saver, target.last, {"messages": [HumanMessage("newer", id="newer")]})
    target.set_state(before)

    with pytest.raises(RecordDoesNotOpen):
        await door(target.saver, "verify_thread", "1")
    target.forget()
    new = checkpoint({"messages": [HumanMessage("newest", id="newest")]})
    with pytest.raises(RecordDoesNotOpen):
        await door(target.saver, "put", target.last, new, {}, {})


@pytest.mark.parametrize("attack", ["state", "row", "checkpoint", "element", "write"])
async def test_a_damaged_thread_can_be_deleted_and_does_not_touch_the_others(
    scene: Scene, door: Door, attack: str
):
    target = scene.target
    if attack == "state":
        target.thread("count = 7")
    elif attack == "row":
        target.attacker("DELETE FROM sessions WHERE digest = ?", target.digest)
    else:
        target.set(target.row(Kind[attack.upper()]), "sealed = ?", b"gone")

    await assert_sound(door, scene.other_thread)
    await door(target.saver, "delete_thread", "1")

    assert await door(target.saver, "get_tuple", at("1")) is None
    assert [t.id for t in await door(target.saver, "threads")] == ["2"]
    assert len(await listed(door, target.saver, None)) == 4
    config = await door(target.saver, "put", at("1"), checkpoint({"messages": SAID}), {}, {})
    assert values_at(target.saver, config) == {"messages": SAID}
    assert await door(target.saver, "verify_thread", "1") == 1


# --- what SQLite would keep in any column ---------------------------------------------------------

ODD_VALUES = ["text", "é" * 16, 5, 2.5, -(2**63), "9" * 40]


@pytest.fixture
def odd_target(sqlite_url: str, root_key: LocalRootKey) -> Iterator[Target]:
    with IsolatedMemory(sqlite_url, root_key=root_key, synchronous="NORMAL") as memory:
        attacker = Attacker(sqlite_url)
        yield Target(attacker, memory.scope(user_id="alice", module_id="tutor"), "1")
        attacker.close()


def all_reads(target: Target) -> list[Callable[[], Any]]:
    saver, last = target.saver, target.last
    return [
        lambda: saver.get_tuple(last),
        lambda: saver.get_tuple(at("1")),
        lambda: list(saver.list(at("1"))),
        lambda: list(saver.list(None)),
        lambda: saver.get_delta_channel_history(config=last, channels=["messages"]),
        lambda: saver.verify_thread("1"),
        lambda: saver.copy_thread("1", f"copy {next(_numbers)}"),
        lambda: saver.prune(["1"], keep_last=2),
    ]


@pytest.mark.parametrize("value", ODD_VALUES, ids=repr)
@pytest.mark.parametrize("kind", ATTACKED)
def test_bodies_of_odd_types_are_refused(odd_target: Target, kind: Kind, value: Any):
    odd_target.set(odd_target.row(kind), "sealed = ?", value)

    reads = all_reads(odd_target)
    for read in reads[:-1] if kind is Kind.ELEMENT else reads:
        with pytest.raises(RecordDoesNotOpen):
            read()


@pytest.mark.parametrize("value", ODD_VALUES, ids=repr)
@pytest.mark.parametrize("kind", ATTACKED)
@pytest.mark.parametrize("column", ["key", "parent"])
@pytest.mark.parametrize("others", [True, False])
def test_addresses_of_odd_types_are_refused_or_as_if_the_row_were_not_there(
    odd_target: Target, column: str, kind: Kind, value: Any, others: bool
):
    target, row = odd_target, odd_target.row(kind)
    if not others:
        target.drop(*target.rows(Kind.CHECKPOINT)[:-1])
    target.set(row, f"{column} = ?", value)

    for read in all_reads(target):
        with suppress(RecordDoesNotOpen):
            read()
    with suppress(RecordDoesNotOpen):
        target.saver.delete_for_runs([target.run_id])


@pytest.mark.parametrize("value", ODD_VALUES, ids=repr)
@pytest.mark.parametrize("column", ROW)
def test_values_of_odd_types_in_the_row_of_a_thread_are_refused(
    odd_target: Target, column: str, value: Any
):
    target, other = (
        odd_target,
        Target(odd_target.attacker, odd_target.scoped, "2"),
    )

    target.thread(f"{column} = ?", value)

    # What is sealed in it is its name, which lists give.
    for read in all_reads(target)[2:4] if column == "sealed" else all_reads(target):
        with pytest.raises(RecordDoesNotOpen):
            read()
    threads = {thread.id: thread.damaged for thread in target.saver.threads()}
    assert threads in ({None: True, "2": False}, {"2": False})
    assert values_at(other.saver, other.last) == {"messages": SAID}


@pytest.mark.parametrize("value", [*ODD_VALUES, 2**62, -(2**62)], ids=repr)
@pytest.mark.parametrize("column", ["size", "created_at", "updated_at"])
def test_odd_sizes_and_times_do_not_take_down_the_list_of_threads(
    odd_target: Target, column: str, value: Any
):
    Target(odd_target.attacker, odd_target.scoped, "2")

    odd_target.thread(f"{column} = ?", value)

    assert {"2"} <= {thread.id for thread in odd_target.saver.threads()} <= {"1", "2", None}
    assert odd_target.saver.thread_size("2") > 0
    with pytest.raises(RecordDoesNotOpen):
        values_at(odd_target.saver, odd_target.last)


# --- what can be done unnoticed -------------------------------------------------------------------


def test_a_whole_older_state_with_the_threads_row_opens_as_what_it_was(scene: Scene):
    target = scene.target
    state, stood = target.state(), {*target.rows(Kind.CHECKPOINT), *target.rows(Kind.ELEMENT)}
    newer = put(target.saver, target.last, {"messages": [HumanMessage("newer", id="newer")]})
    assert values_at(target.saver, newer)["messages"][0].content == "newer"

    target.drop(*{*target.rows(Kind.CHECKPOINT), *target.rows(Kind.ELEMENT)} - stood)
    target.set_state(state)

    assert values_at(target.saver, at("1")) == {"messages": SAID}
    assert target.saver.verify_thread("1") == 6


def test_removed_checkpoints_are_noticed_by_verifying_alone(scene: Scene):
    target = scene.target
    for row in (target.row(Kind.CHECKPOINT), target.rows(Kind.CHECKPOINT)[0]):
        target.drop(row)
        found = target.saver.get_tuple(at("1"))
        assert found is not None
        assert found.checkpoint["channel_values"] == {"messages": SAID[:4]}
        with pytest.raises(RecordDoesNotOpen, match="it has not the records that it stands for"):
            target.saver.verify_thread("1")
    target.drop(target.rows(Kind.CHECKPOINT)[0])
    assert target.saver.get_tuple(at("1")) is None


def test_removed_writes_are_noticed_by_verifying_alone(scene: Scene):
    target = scene.target

    target.drop(*target.rows(Kind.WRITE))

    found = target.saver.get_tuple(at("1"))
    assert found is not None
    assert found.pending_writes == []
    with pytest.raises(RecordDoesNotOpen, match="it has not the records that it stands for"):
        target.saver.verify_thread("1")


def test_an_older_body_put_back_where_it_stood_is_noticed_by_verifying_alone(scene: Scene):
    """Where one is rewritten in place: a write to a special channel, a checkpoint put again."""
    target = scene.target
    before = set(target.rows(Kind.WRITE))
    target.saver.put_writes(target.last, [("__resume__", "early")], "three")
    [row] = set(target.rows(Kind.WRITE)) - before
    early = target.sealed(row)
    target.saver.put_writes(target.last, [("__resume__", "late")], "three")

    target.set(row, "sealed = ?", early)

    found = target.saver.get_tuple(at("1"))
    assert found is not None
    assert ("three", "__resume__", "early") in (found.pending_writes or [])
    with pytest.raises(RecordDoesNotOpen, match="it has not the records that it stands for"):
        target.saver.verify_thread("1")


def test_a_whole_thread_without_any_row_is_as_if_it_had_never_been(scene: Scene):
    target = scene.target
    everything = [row for kind in ATTACKED for row in target.rows(kind, everywhere=True)]

    target.drop(*everything)
    target.attacker("DELETE FROM sessions WHERE digest = ?", target.digest)

    assert target.saver.get_tuple(at("1")) is None
    assert target.saver.verify_thread("1") == 0
    assert [thread.id for thread in target.saver.threads()] == ["2"]


def test_what_is_exchanged_for_what_took_its_number_after_a_whole_older_state_is_not_noticed(
    scene: Scene,
):
    """Rolled back, let go on, and the former future put back over elements of the new one."""
    target = scene.target
    state, elements = target.state(), set(target.rows(Kind.ELEMENT))
    before = set(target.rows(Kind.CHECKPOINT))
    former = put(target.saver, target.last, {"messages": [HumanMessage("yes", id="y")]})
    [checkpoint_row] = set(target.rows(Kind.CHECKPOINT)) - before
    sealed = target.sealed(checkpoint_row)
    target.drop(checkpoint_row, *set(target.rows(Kind.ELEMENT)) - elements)
    target.set_state(state)
    target.forget()
    put(target.saver, target.last, {"messages": [HumanMessage("no", id="n")]})

    target.add(checkpoint_row, sealed)

    assert values_at(target.saver, former)["messages"][0].content == "no"
