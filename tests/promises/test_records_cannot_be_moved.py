"""Promise 4: rows cannot be moved, replayed, downgraded or reordered, nor an end cut off.

What the tests attack is what someone can do who may write to the database and has no key. What such
a person can do unnoticed is held by tests as well, at the end.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from langchain_core.messages import BaseMessage, HumanMessage

from langmem_isolated import (
    IsolatedChatMessageHistory,
    IsolatedMemory,
    LocalRootKey,
    ScopedMemory,
)
from langmem_isolated._codecs.messages import encode_message
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._database import schema
from langmem_isolated.errors import KeyDestroyed, LangmemIsolatedError, RecordDoesNotOpen
from tests.conftest import ROOT_KEY, Attacker, Door, new_postgres_url
from tests.containers import ROW

_numbers = itertools.count()
SAID = [f"message {number}" for number in range(6)]


def texts(messages: list[BaseMessage]) -> list[str]:
    return [str(message.content) for message in messages]


# Columns of which 5 is as good a value as another.
NUMBERS = ["next_sequence", "count", "size"]


@dataclass
class Target:
    """One session, and where an attacker finds its rows."""

    scoped: ScopedMemory
    session_id: str
    scope_id: bytes = field(init=False)
    digest: bytes = field(init=False)

    def __post_init__(self) -> None:
        self.history.add_messages([HumanMessage(text) for text in SAID])
        keys = self.scoped._records._keyring.find(self.scoped._records.owner)
        assert keys is not None
        self.scope_id = keys.scope_id
        self.digest = keys.pseudonym(Kind.SESSION, self.session_id.encode())

    @property
    def history(self) -> IsolatedChatMessageHistory:
        return self.scoped.chat_history(self.session_id)


@dataclass
class Scene:
    """Alice's session, others that its rows could come from, and who moves them."""

    attacker: Attacker
    target: Target
    other_session: Target
    other_user: Target
    other_module: Target

    def rows(self, target: Target, column: str = "sealed") -> list[Any]:
        sql = f"SELECT {column} FROM records WHERE scope_id = ? AND parent = ? ORDER BY key"
        return [row[0] for row in self.attacker(sql, target.scope_id, target.digest)]

    def message(self, number: int, what: str, *values: object) -> None:
        """Change the target's message of that number: ``what`` is the SQL behind SET."""
        self.attacker(
            f"UPDATE records SET {what} WHERE scope_id = ? AND parent = ? AND key = ?",
            *values, self.target.scope_id, self.target.digest, key_of(number),
        )  # fmt: skip

    def drop(self, *numbers: int) -> None:
        for number in numbers:
            self.attacker(
                "DELETE FROM records WHERE scope_id = ? AND parent = ? AND key = ?",
                self.target.scope_id, self.target.digest, key_of(number),
            )  # fmt: skip

    def add(self, key: bytes, sealed: bytes) -> None:
        """Put one more message below the target's session."""
        self.attacker(
            "INSERT INTO records (scope_id, kind, parent, key, sealed, size, created_at,"
            " updated_at) VALUES (?, ?, ?, ?, ?, 1, 1, 1)",
            self.target.scope_id, int(Kind.MESSAGE), self.target.digest, key, sealed,
        )  # fmt: skip

    def session(self, what: str, *values: object, of: Target | None = None) -> None:
        """Change the session's row: ``what`` is the SQL behind SET."""
        of = of or self.target
        self.attacker(
            f"UPDATE sessions SET {what} WHERE scope_id = ? AND digest = ?",
            *values, of.scope_id, of.digest,
        )  # fmt: skip

    def state(self, of: Target | None = None) -> dict[str, Any]:
        of = of or self.target
        [row] = self.attacker(
            f"SELECT {', '.join(ROW)} FROM sessions WHERE scope_id = ? AND digest = ?",
            of.scope_id, of.digest,
        )  # fmt: skip
        return dict(zip(ROW, row, strict=True))

    def put_row(self, columns: dict[str, Any]) -> None:
        """Put columns of a row as :meth:`state` gave them into the session's."""
        self.session(", ".join(f"{name} = ?" for name in columns), *columns.values())


def key_of(number: int) -> bytes:
    return number.to_bytes(8)


def flipped(value: bytes, bit: int) -> bytes:
    changed = bytearray(value)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def ground(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[IsolatedMemory, Attacker]]:
    """One database of either kind for all attacks: each has users of its own."""
    if request.param == "postgres":
        url = new_postgres_url(request.getfixturevalue("postgres"))
    else:
        url = f"sqlite:///{tmp_path_factory.mktemp('ground')}/memory.db"
    with IsolatedMemory(url, root_key=LocalRootKey(ROOT_KEY)) as memory:
        attacker = Attacker(url)
        yield memory, attacker
        attacker.close()


@pytest.fixture
def scene(ground: tuple[IsolatedMemory, Attacker]) -> Scene:
    memory, attacker = ground
    number = next(_numbers)
    alice = memory.scope(user_id=f"alice {number}", module_id="tutor")
    return Scene(
        attacker,
        target=Target(alice, "1"),
        other_session=Target(alice, "2"),
        other_user=Target(memory.scope(user_id=f"bob {number}", module_id="tutor"), "1"),
        other_module=Target(alice.module("planner"), "1"),
    )


def swap_keys(scene: Scene, one: int, other: int) -> None:
    scene.message(one, "key = ?", b"meanwhile")
    scene.message(other, "key = ?", key_of(one))
    scene.attacker(
        "UPDATE records SET key = ? WHERE parent = ? AND key = ?",
        key_of(other), scene.target.digest, b"meanwhile",
    )  # fmt: skip


def swap_bodies(scene: Scene, one: int, other: int) -> None:
    bodies = scene.rows(scene.target)
    scene.message(one, "sealed = ?", bodies[other])
    scene.message(other, "sealed = ?", bodies[one])


def replay_after_clear(scene: Scene, number: int) -> None:
    old = scene.rows(scene.target)
    scene.target.history.clear()
    scene.target.history.add_messages([HumanMessage(f"new {text}") for text in SAID])
    scene.message(number, "sealed = ?", old[number])


def replay_after_delete(scene: Scene, number: int) -> None:
    old = scene.rows(scene.target)
    scene.target.scoped.sessions.delete(scene.target.session_id)
    scene.target.history.add_messages([HumanMessage(f"new {text}") for text in SAID])
    scene.message(number, "sealed = ?", old[number])


def replay_the_tail_after_clear(scene: Scene) -> None:
    """Put the old messages back behind fewer new ones."""
    old = scene.rows(scene.target)
    scene.target.history.clear()
    scene.target.history.add_messages([HumanMessage("new")])
    for number in range(1, len(old)):
        scene.add(key_of(number), old[number])


def exchange_the_newest_by_one_of_a_branch(scene: Scene) -> None:
    """Roll the session back to a whole older state, let it go on, and mix in what had come then."""
    old = scene.state()
    scene.target.history.add_user_message("of the branch")
    of_the_branch = scene.rows(scene.target)[-1]
    scene.drop(len(SAID))
    scene.put_row(old)
    scene.target.history.add_user_message("newest")
    scene.message(len(SAID), "sealed = ?", of_the_branch)


def take(scene: Scene, source: Target, number: int) -> None:
    scene.message(number, "sealed = ?", scene.rows(source)[number])


def plaintext(number: int) -> bytes:
    return encode_message(HumanMessage(f"forged {number}"))


Attack = Callable[[Scene], object]
NEWEST, MIDDLE, OLDEST = len(SAID) - 1, 2, 0
BY_NUMBER: dict[str, Callable[[Scene, int], object]] = {
    "delete": lambda scene, number: scene.drop(number),
    "put another session's there": lambda scene, n: take(scene, scene.other_session, n),
    "put another user's there": lambda scene, n: take(scene, scene.other_user, n),
    "put another module's there": lambda scene, n: take(scene, scene.other_module, n),
    "put an older one there after clear": replay_after_clear,
    "put an older one there after delete": replay_after_delete,
    "put plaintext there": lambda scene, n: scene.message(n, "sealed = ?", plaintext(n)),
    "put plaintext with our header there": lambda scene, n: scene.message(
        n, "sealed = ?", scene.rows(scene.target)[n][:29] + plaintext(n) + bytes(16)
    ),
    "put nothing there": lambda scene, n: scene.message(n, "sealed = ?", b""),
    "put a head of it there": lambda scene, n: scene.message(
        n, "sealed = ?", scene.rows(scene.target)[n][:-1]
    ),
    "put more of it there": lambda scene, n: scene.message(
        n, "sealed = ?", scene.rows(scene.target)[n] + b"\x00"
    ),
    "move to another session": lambda scene, n: scene.message(
        n, "parent = ?", b"elsewhere 123456"
    ),
    "move to another scope": lambda scene, n: scene.message(
        n, "scope_id = ?, parent = ?", scene.other_user.scope_id, b"elsewhere 123456"
    ),
    "move to another kind": lambda scene, n: scene.message(n, "kind = ?", int(Kind.WRITE)),
    "move far behind": lambda scene, n: scene.message(n, "key = ?", key_of(2**40)),
    "move to a key of another length": lambda scene, n: scene.message(n, "key = ?", b"\x00"),
}  # fmt: skip
MESSAGE_ATTACKS: dict[str, Attack] = {
    **{
        f"{name}: {place}": lambda scene, attack=attack, number=number: attack(scene, number)
        for name, attack in BY_NUMBER.items()
        for place, number in (("newest", NEWEST), ("middle", MIDDLE), ("oldest", OLDEST))
    },
    "delete the two newest": lambda scene: scene.drop(NEWEST, NEWEST - 1),
    "delete all": lambda scene: scene.drop(*range(len(SAID))),
    "exchange two": lambda scene: swap_keys(scene, MIDDLE, MIDDLE + 1),
    "exchange the newest with another": lambda scene: swap_keys(scene, NEWEST, MIDDLE),
    "exchange the bodies of two": lambda scene: swap_bodies(scene, OLDEST, MIDDLE),
    "repeat the newest": lambda scene: scene.add(
        key_of(NEWEST + 1), scene.rows(scene.target)[NEWEST]
    ),
    "repeat the oldest behind": lambda scene: scene.add(
        key_of(NEWEST + 1), scene.rows(scene.target)[OLDEST]
    ),
    "repeat one far behind": lambda scene: scene.add(key_of(2**40), scene.rows(scene.target)[1]),
    "repeat one before the oldest": lambda scene: scene.add(b"", scene.rows(scene.target)[0]),
    "add plaintext behind": lambda scene: scene.add(key_of(NEWEST + 1), plaintext(9)),
    "add another user's behind": lambda scene: scene.add(
        key_of(NEWEST + 1), scene.rows(scene.other_user)[NEWEST]
    ),
    "put the old ones back behind new ones": replay_the_tail_after_clear,
    "exchange the newest by one of a branch": exchange_the_newest_by_one_of_a_branch,
}


async def refused(door: Door, target: object, name: str, *arguments: Any, **options: Any) -> None:
    with pytest.raises(RecordDoesNotOpen) as caught:
        await door(target, name, *arguments, **options)
    assert not any(text in str(caught.value) for text in SAID)


@pytest.mark.parametrize("attack", MESSAGE_ATTACKS)
async def test_a_session_whose_messages_were_tampered_with_does_not_open(
    scene: Scene, door: Door, attack: str
):
    MESSAGE_ATTACKS[attack](scene)

    history = scene.target.history
    await refused(door, history, "messages")
    await refused(door, history, "last", 100)
    await refused(door, history, "page", limit=100)
    await refused(door, history, "window", max_tokens=10_000)
    for other in (scene.other_session, scene.other_user, scene.other_module):
        assert texts(await door(other.history, "messages")) == SAID


@pytest.mark.parametrize(
    "attack", [name for name in MESSAGE_ATTACKS if "newest" in name or "behind" in name]
)
async def test_a_tampered_end_is_noticed_by_reading_a_single_message(
    scene: Scene, door: Door, attack: str
):
    MESSAGE_ATTACKS[attack](scene)

    await refused(door, scene.target.history, "last", 1)
    await refused(door, scene.target.history, "page", limit=1)


async def test_reading_the_newest_does_not_touch_what_was_tampered_with_below(
    scene: Scene, door: Door
):
    """Where a read legitimately sees nothing of it: reading reads only what it returns."""
    scene.message(OLDEST, "sealed = ?", b"gone")

    assert texts(await door(scene.target.history, "last", 3)) == SAID[-3:]
    assert await door(scene.target.history, "count") == len(SAID)
    await refused(door, scene.target.history, "page", before=1, limit=1)


def test_any_flipped_bit_of_a_message_is_noticed(scene: Scene):
    for number in (NEWEST, MIDDLE):
        body = scene.rows(scene.target)[number]
        for place in range(len(body)):
            scene.message(number, "sealed = ?", flipped(body, place * 8 + place % 8))
            with pytest.raises(RecordDoesNotOpen):
                _ = scene.target.history.messages
        scene.message(number, "sealed = ?", body)

    assert texts(scene.target.history.messages) == SAID


def aliased(scene: Scene) -> tuple[IsolatedChatMessageHistory, list[Any]]:
    """A session of two messages with ids, and their aliases in that order."""
    history = scene.target.scoped.chat_history("aliased", idempotent=True)
    history.add_messages([HumanMessage("one", id="1"), HumanMessage("two", id="2")])
    digest = scene.target.scoped._records.keys().pseudonym(Kind.SESSION, b"aliased")
    rows = scene.attacker("SELECT alias FROM records WHERE parent = ? ORDER BY key", digest)
    return history, [alias for (alias,) in rows]


async def test_a_message_under_another_ones_alias_is_not_taken_for_it(scene: Scene, door: Door):
    """By its alias a message is found that an append must leave out."""
    history, (one, two) = aliased(scene)
    scene.attacker("UPDATE records SET alias = NULL WHERE alias = ?", one)
    scene.attacker("UPDATE records SET alias = ? WHERE alias = ?", one, two)

    with pytest.raises(RecordDoesNotOpen, match="alias"):
        await door(history, "add_messages", [HumanMessage("one", id="1")])
    with pytest.raises(RecordDoesNotOpen, match="alias"):
        await door(scene.target.scoped, "verify")


async def test_a_message_that_lost_its_alias_is_found_by_verifying(scene: Scene, door: Door):
    _, (one, _) = aliased(scene)
    await door(scene.target.scoped, "verify")

    scene.attacker("UPDATE records SET alias = NULL WHERE alias = ?", one)

    with pytest.raises(RecordDoesNotOpen):
        await door(scene.target.scoped, "verify")


# --- the session's row ----------------------------------------------------------------------------


def replace_by_the_row_of(scene: Scene, source: Target) -> None:
    """All that the row says, the counters too, comes from another session of the same length."""
    scene.put_row(scene.state(source))


def replay_the_row(scene: Scene) -> None:
    """The row as it was when there were fewer messages: the newest would be hidden."""
    old = scene.state()
    scene.target.history.add_user_message("newer")
    scene.put_row(old)


def replay_the_row_and_cut_off(scene: Scene) -> None:
    """As above, with the counters of now and the row MAC of then."""
    old = scene.state()
    scene.target.history.add_user_message("newer")
    scene.put_row({"row_mac": old["row_mac"]})
    scene.drop(len(SAID))


def cut_off_and_count_down(scene: Scene) -> None:
    """What a cut-off without a row MAC could not tell: all counters agree."""
    scene.drop(NEWEST)
    scene.session("next_sequence = next_sequence - 1, count = count - 1")


def cut_off_the_oldest_and_count_down(scene: Scene) -> None:
    scene.drop(OLDEST)
    scene.session("count = count - 1")


ROW_ATTACKS: dict[str, Attack] = {
    "next_sequence up": lambda scene: scene.session("next_sequence = next_sequence + 1"),
    "next_sequence down": lambda scene: scene.session("next_sequence = next_sequence - 1"),
    "next_sequence below zero": lambda scene: scene.session("next_sequence = -1"),
    "next_sequence as high as can be": lambda scene: scene.session(f"next_sequence = {2**63 - 1}"),
    "count up": lambda scene: scene.session("count = count + 1"),
    "count down": lambda scene: scene.session("count = count - 1"),
    "count zero": lambda scene: scene.session("count = 0, next_sequence = 0"),
    "count below zero": lambda scene: scene.session("count = -1"),
    "expiry in the future": lambda scene: scene.session(f"expires_at = {2**60}"),
    "expiry in the past": lambda scene: scene.session("expires_at = 1"),
    "expiry before 1970": lambda scene: scene.session("expires_at = -1"),
    "another generation": lambda scene: scene.session("generation = ?", b"88888888"),
    "a shorter generation": lambda scene: scene.session(
        "generation = ?", scene.state()["generation"][:-1]
    ),
    "another birth": lambda scene: scene.session("birth = ?", bytes(16)),
    "another session's birth": lambda scene: scene.session(
        "birth = ?", scene.state(scene.other_session)["birth"]
    ),
    "another multiset hash": lambda scene: scene.session(
        "members = ?", scene.state(scene.other_session)["members"]
    ),
    "another newest": lambda scene: scene.session(
        "newest = ?", scene.state(scene.other_session)["newest"]
    ),
    "no newest": lambda scene: scene.session("newest = NULL"),
    "another size": lambda scene: scene.session("size = size + 1"),
    "another revision": lambda scene: scene.session("revision = revision + 1"),
    "another begin": lambda scene: scene.session("created_at = created_at - 1"),
    "another last activity": lambda scene: scene.session("updated_at = updated_at + 1"),
    "closed": lambda scene: scene.session("state = 2"),
    "pinned": lambda scene: scene.session("is_pinned = 1"),
    "counts by channel": lambda scene: scene.session("channels = ?", b"x"),
    "no counts by channel": lambda scene: scene.session("channels = ?", b""),
    "a lifetime when idle": lambda scene: scene.session("idle_lifetime = 1"),
    "a lifetime": lambda scene: scene.session("absolute_lifetime = 1"),
    "no row MAC": lambda scene: scene.session("row_mac = ?", b""),
    "a row MAC of zeros": lambda scene: scene.session("row_mac = ?", bytes(16)),
    "a longer row MAC": lambda scene: scene.session(
        "row_mac = ?", scene.state()["row_mac"] + b"\x00"
    ),
    "half a row MAC": lambda scene: scene.session("row_mac = ?", scene.state()["row_mac"][:8]),
    "another session's row MAC": lambda scene: scene.session(
        "row_mac = ?", scene.state(scene.other_session)["row_mac"]
    ),
    "another session's row": lambda scene: replace_by_the_row_of(scene, scene.other_session),
    "another user's row": lambda scene: replace_by_the_row_of(scene, scene.other_user),
    "another module's row": lambda scene: replace_by_the_row_of(scene, scene.other_module),
    "an older row MAC": replay_the_row_and_cut_off,
    "the newest cut off": cut_off_and_count_down,
    "the oldest cut off": cut_off_the_oldest_and_count_down,
}  # fmt: skip


@pytest.mark.parametrize("attack", ROW_ATTACKS)
async def test_a_session_whose_row_was_tampered_with_does_not_open_nor_take_messages(
    scene: Scene, door: Door, attack: str
):
    knows_it = scene.target.history
    assert texts(await door(knows_it, "messages")) == SAID
    sessions = scene.target.scoped.sessions

    ROW_ATTACKS[attack](scene)

    # Appending does not heal it either, whether or not the object has seen the session before.
    for history in (knows_it, scene.target.history, knows_it):
        await refused(door, history, "add_messages", [HumanMessage("more")])
        await refused(door, history, "messages")
        await refused(door, history, "last", 1)
        await refused(door, history, "page", limit=1)
        await refused(door, history, "count")
        await refused(door, history, "clear")
        await refused(door, sessions, "rename", "1", "title")
        await refused(door, sessions, "create", "1")
    for other in (scene.other_session, scene.other_user, scene.other_module):
        assert texts(await door(other.history, "messages")) == SAID


async def test_an_older_row_over_newer_messages_is_noticed(scene: Scene, door: Door):
    replay_the_row(scene)

    await refused(door, scene.target.history, "messages")
    await refused(door, scene.target.history, "last", 1)
    with pytest.raises(LangmemIsolatedError):
        await door(scene.target.history, "add_messages", [HumanMessage("more")])
    await refused(door, scene.target.history, "messages")


async def test_messages_without_their_session_row_are_noticed(scene: Scene, door: Door):
    scene.attacker("DELETE FROM sessions WHERE digest = ?", scene.target.digest)

    for name, arguments in (("messages", ()), ("last", (1,)), ("page", ())):
        await refused(door, scene.target.history, name, *arguments)
    with pytest.raises(LangmemIsolatedError):
        await door(scene.target.history, "add_messages", [HumanMessage("more")])
    await refused(door, scene.target.history, "messages")


def test_any_flipped_bit_of_what_a_session_row_vouches_for_is_noticed(scene: Scene):
    state = scene.state()
    for column in ("row_mac", "birth", "generation", "members", "newest"):
        value = state[column]
        for place in range(len(value)):
            scene.session(f"{column} = ?", flipped(value, place * 8 + place % 8))
            for read in (lambda h: h.messages, lambda h: h.count(), lambda h: h.last(1)):
                with pytest.raises(RecordDoesNotOpen):
                    read(scene.target.history)
        scene.session(f"{column} = ?", value)

    assert texts(scene.target.history.messages) == SAID


def move_session(scene: Scene, source: Target, to: Target) -> None:
    for table, column in (("sessions", "digest"), ("records", "parent")):
        scene.attacker(
            f"UPDATE {table} SET scope_id = ?, {column} = ? WHERE scope_id = ? AND {column} = ?",
            to.scope_id, to.digest, source.scope_id, source.digest,
        )  # fmt: skip


@pytest.mark.parametrize("receiver", ["other_session", "other_module", "other_user"])
async def test_a_whole_session_moved_to_another_place_does_not_open_there(
    scene: Scene, door: Door, receiver: str
):
    """Row and messages together, under the name by which the receiver looks for its own."""
    there: Target = getattr(scene, receiver)
    there.scoped.sessions.delete(there.session_id)

    move_session(scene, scene.target, there)

    await refused(door, there.history, "messages")
    await refused(door, there.history, "last", 1)
    await refused(door, there.history, "count")
    assert await door(scene.target.history, "messages") == []
    move_session(scene, there, scene.target)
    assert texts(await door(scene.target.history, "messages")) == SAID


# --- what SQLite would keep in any column ---------------------------------------------------------


@pytest.fixture
def odd_scene(sqlite_url: str, root_key: LocalRootKey) -> Iterator[Scene]:
    with IsolatedMemory(sqlite_url, root_key=root_key) as memory:
        attacker = Attacker(sqlite_url)
        alice = memory.scope(user_id="alice", module_id="tutor")
        target, other = Target(alice, "1"), Target(alice, "2")
        yield Scene(attacker, target, other, other, other)
        attacker.close()


ODD_VALUES = ["text", "é" * 16, 5, 2.5, -(2**63), "9" * 40]


def test_values_of_odd_types_in_a_session_row_are_noticed(odd_scene: Scene):
    scene, sessions = odd_scene, odd_scene.target.scoped.sessions
    columns = [name for name in ROW if name != "sealed"]
    for column, value in itertools.product(columns, ODD_VALUES):
        if value == 5 and column in NUMBERS:
            continue  # not odd there, but another number, as above
        before = scene.state()
        scene.session(f"{column} = ?", value)

        for call in (
            lambda: scene.target.history.messages,
            lambda: scene.target.history.last(1),
            scene.target.history.count,
            lambda: scene.target.history.add_user_message("more"),
            lambda: sessions.rename("1", "title"),
        ):
            with pytest.raises(RecordDoesNotOpen):
                call()
        assert [session.id for session in sessions() if not session.damaged] == ["2"]
        scene.put_row(before)
    assert texts(scene.target.history.messages) == SAID


def test_values_of_odd_types_in_a_message_are_noticed(odd_scene: Scene):
    scene = odd_scene
    for number, value in itertools.product((NEWEST, MIDDLE), ODD_VALUES):
        body = scene.rows(scene.target)[number]
        scene.message(number, "sealed = ?", value)
        with pytest.raises(RecordDoesNotOpen):
            _ = scene.target.history.messages
        scene.message(number, "sealed = ?", body)

        scene.message(number, "key = ?", value)
        with pytest.raises(RecordDoesNotOpen):
            _ = scene.target.history.messages
        scene.attacker("UPDATE records SET key = ? WHERE key = ?", key_of(number), value)
    assert texts(scene.target.history.messages) == SAID


def test_values_of_odd_types_in_a_header_damage_that_session_alone(odd_scene: Scene):
    scene, sessions = odd_scene, odd_scene.target.scoped.sessions
    before = scene.state()
    for column, value in itertools.product(ROW, [*ODD_VALUES, b"", b"x" * 60]):
        if value == 5 and column in NUMBERS:
            continue
        scene.session(f"{column} = ?", value)

        listed = {session.id: session.damaged for session in sessions()}
        assert listed == {"2": False, None: True} or column in ("expires_at", "updated_at")
        assert listed["2"] is False
        scene.put_row(before)
    assert texts(scene.target.history.messages) == SAID


# --- one corrupt row does not take down the others ------------------------------------------------


@pytest.mark.parametrize(
    "attack",
    [
        *(name for name in ROW_ATTACKS if name != "expiry in the past" and "1970" not in name),
        "sealed header flipped",
        "another session's sealed header",
        "a time that no clock shows",
    ],
)
async def test_a_corrupt_session_row_is_listed_as_damaged_beside_the_sound_ones(
    scene: Scene, door: Door, attack: str
):
    more: dict[str, Attack] = {
        "sealed header flipped": lambda scene: scene.session(
            "sealed = ?", flipped(scene.state()["sealed"], 300)
        ),
        "another session's sealed header": lambda scene: scene.session(
            "sealed = ?", scene.state(scene.other_session)["sealed"]
        ),
        "a time that no clock shows": lambda scene: scene.session(
            f"created_at = {-(2**62)}, updated_at = {2**62}"
        ),
    }
    sessions = scene.target.scoped.sessions
    (ROW_ATTACKS | more)[attack](scene)

    listed = await door(sessions, "__call__")

    sound, damaged = sorted(listed, key=lambda session: session.damaged)
    assert (sound.id, sound.damaged, sound.messages) == ("2", False, len(SAID))
    assert (damaged.id, damaged.title, damaged.channel, damaged.damaged) == (None, None, None, True)
    # The owner can get rid of it, and begin anew.
    await door(sessions, "delete", "1")
    await door(scene.target.history, "add_messages", [HumanMessage("anew")])
    assert texts(await door(scene.target.history, "messages")) == ["anew"]
    assert [session.id for session in await door(sessions, "__call__")] == ["1", "2"]


async def test_a_corrupt_message_does_not_take_down_other_sessions_or_the_list(
    scene: Scene, door: Door
):
    scene.message(MIDDLE, "sealed = ?", b"gone")

    assert texts(await door(scene.other_session.history, "messages")) == SAID
    listed = await door(scene.target.scoped.sessions, "__call__")
    assert {(session.id, session.damaged) for session in listed} == {("1", False), ("2", False)}
    # Its owner can clear it: clearing reads no message.
    await door(scene.target.history, "clear")
    assert await door(scene.target.history, "messages") == []


# --- keys and scopes ------------------------------------------------------------------------------


def test_keys_moved_to_another_user_do_not_open(
    scene: Scene, ground: tuple[IsolatedMemory, Attacker]
):
    """Bob's wrapped keys under Alice's name: the wrapping names whose they are."""
    url = ground[0]._database.url.render_as_string(hide_password=False)
    [alice], [bob] = (
        scene.attacker("SELECT principal FROM scopes WHERE scope_id = ?", target.scope_id)
        for target in (scene.target, scene.other_user)
    )
    scene.attacker("UPDATE keys SET principal = ? WHERE principal = ?", b"meanwhile", alice[0])
    scene.attacker("UPDATE keys SET principal = ? WHERE principal = ?", alice[0], bob[0])

    with (
        IsolatedMemory(url, root_key=LocalRootKey(ROOT_KEY)) as fresh,
        pytest.raises(RecordDoesNotOpen) as caught,
    ):
        _ = fresh.scope(scene.target.scoped.scope).chat_history("1").messages
    assert caught.value.kind == "key"


def test_scopes_moved_to_another_user_do_not_name_modules(
    scene: Scene, ground: tuple[IsolatedMemory, Attacker]
):
    alice, bob = (target.scoped.scope.user_id for target in (scene.target, scene.other_user))
    [[bobs_entry]] = scene.attacker(
        "SELECT sealed FROM scopes WHERE scope_id = ?", scene.other_user.scope_id
    )
    scene.attacker(
        "UPDATE scopes SET sealed = ? WHERE scope_id = ?", bobs_entry, scene.target.scope_id
    )

    with pytest.raises(RecordDoesNotOpen):
        ground[0].modules(user_id=alice)
    assert ground[0].modules(user_id=bob) == ["tutor"]


def scope_refusals(ground: tuple[IsolatedMemory, Attacker], of: Target) -> set[tuple[str, str]]:
    """What uses of a scope say, each to whom no cache helps: the kind and the reason."""
    url = ground[0]._database.url.render_as_string(hide_password=False)
    uses: list[Callable[[ScopedMemory], object]] = [
        lambda scoped: scoped.chat_history("1").messages,
        lambda scoped: scoped.chat_history("1").add_user_message("more"),
        lambda scoped: scoped.chat_history("another").add_user_message("more"),
        lambda scoped: scoped.sessions(),
        lambda scoped: scoped.recall("message"),
        lambda scoped: scoped.store().put(("a",), "b", {"c": 1}),
    ]
    told = set()
    for use in uses:
        fresh = IsolatedMemory(url, root_key=LocalRootKey(ROOT_KEY), pool_size=1)
        with fresh, pytest.raises(RecordDoesNotOpen) as caught:
            use(fresh.scope(of.scoped.scope))
        told.add((caught.value.kind, caught.value.reason))
    return told


CHANGED = {("scope", "its row is not as it was stored")}
# By how often the count was begun it is decided whether a put asks again.
BESIDE_THE_MAC = {"scope_id", "renewals"}
SCOPE_COLUMNS = [
    column.name for column in schema.scopes.columns if column.name not in BESIDE_THE_MAC
]


def test_a_changed_number_of_renewals_changes_nothing(
    scene: Scene, ground: tuple[IsolatedMemory, Attacker]
):
    scene.attacker("UPDATE scopes SET renewals = 7 WHERE scope_id = ?", scene.target.scope_id)

    url = ground[0]._database.url.render_as_string(hide_password=False)
    with IsolatedMemory(url, root_key=LocalRootKey(ROOT_KEY)) as fresh:
        scoped = fresh.scope(scene.target.scoped.scope)
        assert texts(scoped.chat_history("1").messages) == SAID
        scoped.store().put(("facts",), "k", {"v": 1})
        assert scoped.verify().items == 1


@pytest.mark.parametrize("column", SCOPE_COLUMNS)
def test_whatever_column_of_a_scopes_row_is_changed_is_refused(
    scene: Scene, ground: tuple[IsolatedMemory, Attacker], column: str
):
    """Neither does the memory look empty then, nor as if it had been erased."""
    [(value,)] = scene.attacker(
        f"SELECT {column} FROM scopes WHERE scope_id = ?", scene.target.scope_id
    )
    others: list[object] = [3, 0, -1]
    if isinstance(value, bytes):
        others = [flipped(value, 0), flipped(value, 127), b""]
        others += [None] * (column in ("project", "module"))
    elif value is not None:
        others = [value + 1, -value]

    for other in others:
        scene.attacker(
            f"UPDATE scopes SET {column} = ? WHERE scope_id = ?", other, scene.target.scope_id
        )
        assert scope_refusals(ground, scene.target) == CHANGED
    scene.attacker(
        f"UPDATE scopes SET {column} = ? WHERE scope_id = ?", value, scene.target.scope_id
    )
    assert texts(scene.target.history.messages) == SAID


@pytest.mark.parametrize("other", ["other_user", "other_module"])
def test_scopes_that_exchange_their_rows_are_refused(
    scene: Scene, ground: tuple[IsolatedMemory, Attacker], other: str
):
    one, two = scene.target, getattr(scene, other)
    for old, new in (
        (one.scope_id, b"meanwhile"),
        (two.scope_id, one.scope_id),
        (b"meanwhile", two.scope_id),
    ):
        scene.attacker("UPDATE scopes SET scope_id = ? WHERE scope_id = ?", new, old)

    assert scope_refusals(ground, one) == CHANGED
    assert scope_refusals(ground, two) == CHANGED


def test_a_scopes_row_that_is_gone_while_its_records_are_there_is_missed(
    scene: Scene, ground: tuple[IsolatedMemory, Attacker]
):
    scene.attacker("DELETE FROM scopes WHERE scope_id = ?", scene.target.scope_id)
    removed = {("scope", "its row was removed, and its records were not")}

    assert scope_refusals(ground, scene.target) == removed
    # Its session's row alone is enough.
    scene.attacker("DELETE FROM records WHERE scope_id = ?", scene.target.scope_id)
    assert scope_refusals(ground, scene.target) == removed


Rows = dict[str, list[tuple[Any, ...]]]
OF_A_SCOPE = ("records", "sessions", "scopes")


def kept_rows(scene: Scene) -> Rows:
    """What there is of the target's scope."""
    scope_id = scene.target.scope_id
    return {
        t: scene.attacker(f"SELECT * FROM {t} WHERE scope_id = ?", scope_id) for t in OF_A_SCOPE
    }


def put_back(scene: Scene, rows: Rows, *tables: str) -> None:
    for table in tables:
        scene.attacker(f"DELETE FROM {table} WHERE scope_id = ?", scene.target.scope_id)
        for row in rows[table]:
            scene.attacker(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", *row)


def begin_anew(scene: Scene, memory: IsolatedMemory, *, erased: bool) -> Rows:
    """Remove the target's scope, or erase its user, and say something; what was there before."""
    owner, former = scene.target.scoped._records.owner, kept_rows(scene)
    gone = [scene.target.scope_id]
    if erased:
        memory._keyring.destroy(owner)
        gone.append(scene.other_module.scope_id)
    for table in OF_A_SCOPE:
        for scope_id in gone:
            scene.attacker(f"DELETE FROM {table} WHERE scope_id = ?", scope_id)
    memory._keyring.forget(owner)
    memory.scope(scene.target.scoped.scope).chat_history("1").add_user_message("later life")
    return former


@pytest.mark.parametrize("tables", [("records",), ("sessions",), ("sessions", "records")])
def test_nothing_of_a_scopes_former_life_opens_in_its_later_one(
    scene: Scene, ground: tuple[IsolatedMemory, Attacker], tables: tuple[str, ...]
):
    """Its keys and names are the same: the scope was removed and made again, not erased."""
    scope = scene.target.scoped.scope
    former = begin_anew(scene, ground[0], erased=False)
    later = kept_rows(scene)
    assert {row[2] for row in former["sessions"]} > {row[2] for row in later["sessions"]}

    put_back(scene, former, *tables)
    with pytest.raises(RecordDoesNotOpen):
        _ = ground[0].scope(scope).chat_history("1").messages

    put_back(scene, later, *tables)
    assert texts(ground[0].scope(scope).chat_history("1").messages) == ["later life"]


def test_a_scopes_row_of_a_former_life_put_back_over_the_later_one_is_refused(
    scene: Scene, ground: tuple[IsolatedMemory, Attacker]
):
    former = begin_anew(scene, ground[0], erased=True)

    put_back(scene, former, "scopes")

    assert scope_refusals(ground, scene.target) == {
        ("scope", "its row is of a former life of its owner")
    }


def test_a_row_that_a_first_use_left_behind_when_an_erasure_overtook_it_is_cleared_away(
    scene: Scene, ground: tuple[IsolatedMemory, Attacker]
):
    """Nothing is below it: keys for the later life were made when no row was left."""
    former = begin_anew(scene, ground[0], erased=True)
    put_back(scene, {**former, "records": [], "sessions": []}, *OF_A_SCOPE)
    url = ground[0]._database.url.render_as_string(hide_password=False)

    with IsolatedMemory(url, root_key=LocalRootKey(ROOT_KEY)) as fresh:
        history = fresh.scope(scene.target.scoped.scope).chat_history("1")
        assert history.messages == []
        history.add_user_message("goes on")
        assert texts(history.messages) == ["goes on"]


def test_a_cached_scope_that_began_anew_elsewhere_opens_nothing_of_its_other_life(
    scene: Scene, ground: tuple[IsolatedMemory, Attacker]
):
    """The keys of the cache are of the former birth: what is there now is not theirs to open."""
    url = ground[0]._database.url.render_as_string(hide_password=False)
    with IsolatedMemory(url, root_key=LocalRootKey(ROOT_KEY)) as warm:
        history = warm.scope(scene.target.scoped.scope).chat_history("1")
        assert texts(history.messages) == SAID
        begin_anew(scene, ground[0], erased=False)

        with pytest.raises(KeyDestroyed):
            _ = history.messages
        fresh = warm.scope(scene.target.scoped.scope).chat_history("1")
        assert texts(fresh.messages) == ["later life"]


# --- what cannot be told without an anchor outside the database -----------------------------------


def test_a_whole_older_state_with_its_session_row_opens_as_what_it_was(scene: Scene):
    old = scene.state()
    scene.target.history.add_user_message("newer")
    scene.drop(len(SAID))
    scene.put_row(old)

    assert texts(scene.target.history.messages) == SAID


def test_a_session_without_any_row_is_as_if_it_had_never_been(scene: Scene):
    scene.attacker("DELETE FROM sessions WHERE digest = ?", scene.target.digest)
    scene.attacker("DELETE FROM records WHERE parent = ?", scene.target.digest)

    assert scene.target.history.messages == []
    assert [session.id for session in scene.target.scoped.sessions()] == ["2"]


def test_an_older_title_put_back_into_its_own_row_is_noticed(scene: Scene):
    sessions = scene.target.scoped.sessions
    sessions.rename("1", "old")
    old = scene.state()
    sessions.rename("1", "new")
    scene.put_row({"sealed": old["sealed"]})

    assert {one.id: (one.title, one.damaged) for one in sessions()} == {
        None: (None, True),
        "2": (None, False),
    }


def test_sizes_and_times_of_messages_are_clear_and_not_vouched_for(scene: Scene):
    for number in range(len(SAID)):
        scene.message(number, "size = 7, created_at = 0, updated_at = 0, expires_at = 1")

    assert texts(scene.target.history.messages) == SAID
