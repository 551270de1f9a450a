"""Checks what was played, and shows it: a function for each section of the demo.

Figures are measured and claims are checked, on everything that was played; tables show the first
rows.
"""

import math
import statistics
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

from langchain_core.messages import BaseMessage
from rich.table import Table

from langmem_isolated._crypto.owners import Owner
from langmem_isolated._crypto.sealing import DIGEST_BYTES
from langmem_isolated._database import schema
from langmem_isolated._database.database import Database
from langmem_isolated._database.statements import NO_LIMIT
from langmem_isolated.chat_history import IsolatedChatMessageHistory
from langmem_isolated.cli.demo import attack
from langmem_isolated.cli.demo.conversations import MODULES, Conversation, Place
from langmem_isolated.cli.terminal import cell, one_line, table
from langmem_isolated.memory import IsolatedMemory
from langmem_isolated.scope import Scope

STRANGER = Scope("stranger@example.org", MODULES[0])

_SHOWN = 8


class Section(NamedTuple):
    """What a part of the demo shows, and each claim with whether it was found true."""

    title: str
    tables: list[Table]
    claims: dict[str, bool]


class Before(NamedTuple):
    """What the database held before the demo."""

    messages: dict[Place, list[BaseMessage]]
    sessions: dict[Scope, set[str | None]]
    pieces: set[bytes]


class Spent(NamedTuple):
    """Seconds a turn took, with our memory and with LangChain's in-memory history."""

    scope: Scope
    ours: float
    in_memory: float


@dataclass(frozen=True, slots=True, repr=False)
class Run:
    """A memory in which conversations were played; what the sections look at."""

    memory: IsolatedMemory
    conversations: list[Conversation]
    tries: list[Place]
    """From where others ask: their own scope with the session id of somebody else."""
    before: Before
    spent: list[Spent]

    def read(self, place: Place) -> list[BaseMessage]:
        """What is seen from this place now."""
        return history(self.memory, place).messages

    def expected(self) -> dict[Place, list[BaseMessage]]:
        """What belongs to each place: what was there before and what was said."""
        said = {conversation.place: conversation.messages for conversation in self.conversations}
        return {place: was + said.get(place, []) for place, was in self.before.messages.items()}

    def rows(self, place: Place) -> attack.Rows:
        """How to find this place's rows in the tables."""
        keys = self.memory._keyring.find(Owner.private(place.scope))
        assert keys is not None
        return attack.Rows(keys, place.session_id)

    def shared(self) -> list[list[Place]]:
        """The places that have one session id, for each id that several users use."""
        by_id: dict[str, list[Place]] = defaultdict(list)
        for conversation in self.conversations:
            by_id[conversation.place.session_id].append(conversation.place)
        return [places for places in by_id.values() if len({p.scope.user_id for p in places}) > 1]

    def two_users(self) -> tuple[Place, Place]:
        """Two places of different users that have one session id."""
        one, *others = self.shared()[0]
        return one, next(place for place in others if place.scope.user_id != one.scope.user_id)

    def texts(self) -> set[str]:
        """Every text that must not be readable in the database."""
        return texts_of(self.conversations)


def history(memory: IsolatedMemory, place: Place) -> IsolatedChatMessageHistory:
    """The history of one place, through the door that chains use."""
    return memory.session_history(**place.address())


def listed(memory: IsolatedMemory, scope: Scope) -> set[str | None]:
    """The ids of the sessions that a scope lists."""
    return {session.id for session in memory.scope(scope).sessions(limit=NO_LIMIT)}


def texts_of(conversations: list[Conversation]) -> set[str]:
    """Every text of theirs that must not be readable at rest: all fields and all ids."""
    names = (name for c in conversations for name in c.place.address().values())
    fields = (message.model_dump() for c in conversations for message in c.messages)
    return {*names, *chain.from_iterable(map(_leaves, fields))}


def _leaves(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _leaves(part)


def what_each_user_sees(run: Run) -> Section:
    """Everything they said, and nothing else."""
    shown = table("user", "module", "session", "messages", "begins with")
    expected = run.expected()
    read = {conversation.place: run.read(conversation.place) for conversation in run.conversations}
    for place, messages in list(read.items())[:_SHOWN]:
        shown.add_row(*_names(place), str(len(messages)), _beginning(messages))
    whole = sum(read[place] == expected[place] for place in read)
    return Section(
        "What each user sees",
        [shown],
        {
            f"{whole} of {len(read)} conversations come back whole, message by message"
            f"{_of_rows(len(read))}": whole == len(read)
        },
    )


def _names(place: Place) -> list[Any]:
    return [cell(name) for name in place.address().values()]


def _beginning(messages: list[BaseMessage]) -> Any:
    return cell(_cut(one_line(messages[0].text)) if messages else "")


def _cut(text: str, length: int = 20) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _of_rows(count: int) -> str:
    return f" (the first {_SHOWN} are shown)" if count > _SHOWN else ""


def what_the_others_see(run: Run) -> Section:
    """Each scope, and a stranger, ask for every session id that somebody else uses."""
    shown = table("who asks", "in module", "ids asked", "messages got", "listed")
    expected = run.expected()
    asked: dict[Scope, int] = defaultdict(int)
    seen: dict[Scope, int] = defaultdict(int)
    for place in run.tries:
        asked[place.scope] += 1
        seen[place.scope] += _foreign(run.read(place), expected[place])
    strange = {scope: listed(run.memory, scope) - _own_ids(run, scope) for scope in asked}
    for scope in sorted(asked, key=lambda scope: scope != STRANGER)[:_SHOWN]:
        counts = (asked[scope], seen[scope], len(strange[scope]))
        shown.add_row(cell(scope.user_id), cell(scope.module_id), *map(str, counts))
    total, strangers = sum(seen.values()), sum(map(len, strange.values()))
    return Section(
        "What the others see when they send the same session id",
        [shown],
        {
            f"{len(run.tries)} questions with a session id of another user or module are answered "
            f"with {total} messages of theirs{_of_rows(len(asked))}": total == 0,
            f"{strangers} sessions of theirs are listed": strangers == 0,
        },
    )


def _foreign(read: list[BaseMessage], own: list[BaseMessage]) -> int:
    return 0 if read == own else max(1, sum(message not in own for message in read))


def _own_ids(run: Run, scope: Scope) -> set[str | None]:
    said = {c.place.session_id for c in run.conversations if c.place.scope == scope}
    return run.before.sessions[scope] | said


def one_session_id(run: Run) -> Section:
    """Where LangChain tells conversations apart by the session id alone, these would be one."""
    shown = table("session", "user", "module", "begins with", "stored as")
    expected, shared = run.expected(), run.shared()
    for place in shared[0][:_SHOWN]:
        read, name = run.read(place), run.rows(place).digest.hex()
        user, module, session = _names(place)
        shown.add_row(session, user, module, _beginning(read), f"{name[:8]}…")
    apart = sum(
        all(run.read(place) == expected[place] for place in places)
        and len({run.rows(place).digest for place in places}) == len(places)
        for places in shared
    )
    return Section(
        "One session id, several users",
        [shown],
        {
            f"{apart} of {len(shared)} shared session ids hold a conversation of its own for each "
            "user, stored under different names": apart == len(shared)
        },
    )


def what_a_thief_reads(run: Run) -> Section:
    """The rows as they are, and a search for every text in all that the database keeps."""
    database = run.memory._database
    texts = run.texts()
    searched = set(filter(attack.is_searchable, texts))
    pieces = attack.pieces_of(searched) - run.before.pieces
    unprotected = attack.found_in(attack.unprotected(pieces), pieces)
    shown = table("searched", "bytes", "pieces of text found")
    found = set()
    for name, kept in attack.stored(database).items():
        hits = attack.found_in(kept, pieces)
        found |= hits
        shown.add_row(cell(name), f"{len(kept):,}", str(len(hits)))
    plain = f"{len(unprotected)} of {len(pieces)}"
    shown.add_row("the same texts in a plain SQLite file", "", plain)
    if not pieces:
        shown.caption = cell("No text is long enough to be searched for, so nothing is claimed.")
        shown.caption_justify = "left"
    not_searched = _not_searched(len(texts) - len(searched), len(run.before.pieces))
    claims = {
        f"{len(searched)} texts (contents and all ids, in {len(pieces)} pieces and spellings) "
        f"are found {len(found)} times{not_searched}": not found,
        f"the search finds what is not protected: {plain}": len(unprotected) == len(pieces),
    }
    return Section(
        "What somebody reads who has the database but not the key",
        [*_raw_rows(database), shown],
        claims if pieces else {},
    )


def _not_searched(left_out: int, before: int) -> str:
    short = f"; {left_out} shorter than {attack.SHORTEST_BYTES} bytes are not counted"
    stood = f"; {before} pieces stood there before the demo"
    return short * bool(left_out) + stood * bool(before)


def _raw_rows(database: Database) -> list[Table]:
    times = ("scope_id", "kind", "digest", "count", "sealed", "size", "created_at")
    numbers = ("scope_id", "kind", "parent", "key", "sealed", "size")
    tables = [
        _raw_table(database, schema.sessions, 2, times),
        _raw_table(database, schema.records, 4, numbers),
    ]
    tables[-1].caption = "Numbers, sizes and times are readable, and which rows belong together."
    tables[-1].caption_justify = "left"
    return tables


def _raw_table(database: Database, of: Any, count: int, columns: tuple[str, ...]) -> Table:
    shown = table(*columns)
    shown.title, shown.title_justify = f"table {of.name}", "left"
    query = of.select().with_only_columns(*(of.c[name] for name in columns)).limit(count)
    for row in database.inspect(lambda connection: connection.execute(query).all()):
        shown.add_row(*map(_raw, row))
    return shown


# Of a message's number everything is shown, of a digest and of what is sealed the first bytes.
_SHOWN_BYTES = {8: 8, DIGEST_BYTES: 4}


def _raw(value: object) -> str:
    if not isinstance(value, bytes):
        return str(value)
    shown = value[: _SHOWN_BYTES.get(len(value), 10)]
    return shown.hex() + ("…" if len(shown) < len(value) else "")


def rows_that_were_changed(run: Run) -> Section:
    """What a user gets after someone with the database has changed rows; each change is undone."""
    shown = table("done to the rows of a user's session", "what this user then reads")
    victim, reader = run.two_users()
    expected = run.expected()[reader]
    refused = 0
    for name, harm in _HARMS.items():
        got = attack.read_after(run.memory._database, harm, run.rows(victim), run.rows(reader))
        refused += isinstance(got, str)
        shown.add_row(name, f"refused: {got}" if isinstance(got, str) else f"{got} messages")
    unharmed = attack.read_after(
        run.memory._database, attack.leave_alone, run.rows(victim), run.rows(reader)
    )
    return Section(
        "Rows that somebody moves or changes",
        [shown],
        {
            f"{refused} of {len(_HARMS)} changes are refused": refused == len(_HARMS),
            f"in the same way, but without a change, {unharmed} of {len(expected)} messages are "
            "read": unharmed == len(expected),
            "every change was undone": run.read(reader) == expected,
        },
    )


_HARMS: dict[str, attack.Harm] = {
    "another user's message is put in the place of this user's": attack.move_message,
    "another user's whole session is put in the place of this user's": attack.move_session,
    "one bit of a message is changed": attack.flip_bit,
    "the newest message is removed": attack.cut_end,
}


def time_per_turn(run: Run) -> Section:
    """How long a turn of the whole chain takes; the model takes next to nothing of it."""
    shown = table("history", "turns", "median ms", "95th percentile ms")
    firsts = {id(spent) for spent in {s.scope: s for s in reversed(run.spent)}.values()}
    for name, seconds in {
        "this package": [s.ours for s in run.spent if id(s) not in firsts],
        "the same, first turn of each scope": [s.ours for s in run.spent if id(s) in firsts],
        "LangChain's in-memory history": [s.in_memory for s in run.spent],
    }.items():
        if seconds:
            middle, late = statistics.median(seconds) * 1000, _percentile_95(seconds) * 1000
            shown.add_row(name, str(len(seconds)), f"{middle:.2f}", f"{late:.2f}")
    title = "Time per turn: prompt, offline model, reading and writing the history"
    return Section(title, [shown], {})


def _percentile_95(values: list[float]) -> float:
    return sorted(values)[math.ceil(len(values) * 0.95) - 1]
