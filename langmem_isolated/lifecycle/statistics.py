"""Statistics: how much there is, by project, module, scope and day."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import date, datetime, timedelta
from typing import Any

from langmem_isolated._adapters.context import MemoryContext
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.owners import Level, Owner
from langmem_isolated._database.admission import Admission, AdmissionToAll
from langmem_isolated._runtime.arguments import whole_number
from langmem_isolated._runtime.clock import EPOCH, as_moment, now
from langmem_isolated._storage import statistics, usage
from langmem_isolated._storage.statistics import Counted
from langmem_isolated.errors import KeyDestroyed, RecordDoesNotOpen
from langmem_isolated.scope import checked_id

_MOST_DAYS = 36_500
_MOST_SCOPES = 2**31 - 1
_FIRST_DAY = EPOCH.date()
# What a row of each kind stands for, and what it counts below itself; of others each is one.
_CONTAINERS = {
    Kind.SESSION: ("sessions", "messages"),
    Kind.THREAD: ("threads", "checkpoints"),
    Kind.COLLECTION: ("collections", "documents"),
}
_SINGLES = {
    Kind.ITEM: "items",
    Kind.VECTOR: "vectors",
    Kind.ENTRY: "entries",
    Kind.GRANT: "grants",
    Kind.PROFILE: "profiles",
    Kind.POLICY: "policies",
    Kind.CLAIM: "claims",
    Kind.RECEIPT: "receipts",
}
COUNTED = {
    **{kind: names[0] for kind, names in _CONTAINERS.items()},
    **_SINGLES,
    Kind.SCOPE: "scopes",
    Kind.MESSAGE: "messages",
    Kind.CHECKPOINT: "checkpoints",
    Kind.DOCUMENT: "documents",
}
"""Under which name of :class:`Totals` each kind is counted."""
NOT_COUNTED = {
    Kind.WRITE: "in the bytes of its thread",
    Kind.ELEMENT: "in the bytes of its thread",
    Kind.EMBEDDING: "in the bytes of its collection; one of a message is made again at need",
    Kind.INBOX: "it waits for a locked user; lock_state() counts it",
    Kind.BLIND_INDEX: "no record: digests beside items and documents are of it",
    Kind.AUDIT: "reserved: the audit log has a table of its own",
    Kind.NODE_CACHE: "nothing writes it: a node's cache has entries",
    Kind.USAGE: "it is what days are told from",
    Kind.STORE_NOTE: "it notes where documents are, which is not in this database",
}
"""Every other kind, and why it has no count of its own."""


@dataclass(slots=True)
class Totals:
    """How much there is; what has expired is absent."""

    scopes: int = 0
    users: int = 0
    guests: int = 0
    """Anonymous ones."""
    sessions: int = 0
    messages: int = 0
    threads: int = 0
    checkpoints: int = 0
    collections: int = 0
    documents: int = 0
    items: int = 0
    vectors: int = 0
    entries: int = 0
    """Of caches, byte stores and indexes."""
    profiles: int = 0
    grants: int = 0
    policies: int = 0
    claims: int = 0
    receipts: int = 0
    bytes: int = 0
    """Of records, sealed, without embeddings of messages."""
    last_activity: datetime | None = None
    """In a session, thread or collection, UTC."""

    def add(self, kind: int, rows: int, below: int, size: int, last: int | None) -> None:
        """Count what a row of sums says."""
        container = _CONTAINERS.get(kind)  # type: ignore[call-overload]
        if container:
            self._count(container[0], rows)
            self._count(container[1], below)
        elif name := _SINGLES.get(kind):  # type: ignore[call-overload]
            self._count(name, rows)
        self.bytes += size
        moment = None if last is None else as_moment(last)
        if moment and (self.last_activity is None or moment > self.last_activity):
            self.last_activity = moment

    def add_people(self, level: int, count: int) -> None:
        """Count users or guests."""
        self._count("users" if level == Level.PRIVATE else "guests", count)

    def _count(self, name: str, more: int) -> None:
        setattr(self, name, getattr(self, name) + more)


@dataclass(frozen=True, slots=True)
class ModuleStats:
    """What the scopes of one module of a project have."""

    project: str
    module: str | None
    """``None`` for what belongs to a user in all modules, or to everyone in the project."""
    totals: Totals


@dataclass(frozen=True, slots=True)
class ScopeStats:
    """What one scope has."""

    digest: str
    """By which tables and logs know it, in hexadecimal digits; ``langmem-isolated digest`` computes
    it from the names."""
    totals: Totals


@dataclass(slots=True)
class Day:
    """What happened on a day, UTC."""

    day: date
    active_users: int = 0
    """Who wrote anything, each once."""
    sessions: int = 0
    threads: int = 0
    messages: int = 0
    bytes: int = 0
    """Of sessions, threads and collections. These four are what was added on the day, less what was
    removed until the owner wrote on another."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """What one model was asked in a module on a day, as ``usage_metadata`` told it."""

    day: date
    project: str
    module: str | None
    model: str
    """As ``response_metadata`` names it; empty where it does not."""
    answers: int
    input_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Stats:
    """How much there is, and how it came about. Nobody is named."""

    total: Totals
    projects: dict[str, Totals]
    modules: list[ModuleStats]
    largest: list[ScopeStats]
    days: list[Day] = field(default_factory=list)
    """Of the last days, today's last; those on which nothing happened, too."""
    tokens: list[Tokens] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """The same as dicts and lists, for JSON."""
        return asdict(self)


def digest_of(context: MemoryContext, owner: Owner) -> str | None:
    """By which tables and logs know an owner's scope; ``None`` when nothing was ever stored."""
    directory = context.keyring.directory()
    return None if directory is None else directory.scope_id_of(owner).hex()


def stats(
    context: MemoryContext,
    *,
    project_id: str | None = None,
    module_id: str | None = None,
    days: int = 30,
    largest: int = 0,
) -> Stats:
    """How much there is of everybody's, or in a project or its module; see `IsolatedMemory.stats`.

    Raises:
        TypeError: ``days`` or ``largest`` is no whole number.
        ValueError: One is negative, or ``days`` is 0 or above 36,500.
        ScopeError: An id is malformed, or a module is given without its project.
        DatabaseError: The database refused or failed.
    """
    project = None if project_id is None else checked_id("project_id", project_id)
    module = None if module_id is None else checked_id("module_id", module_id)
    if module is not None and project is None:
        project = "default"
    directory = context.keyring.directory()
    asked = None if directory is None else directory.digests_of(project, module)
    return _counted(context, asked, days, largest)


def stats_of(context: MemoryContext, owner: Owner, *, days: int = 30) -> Stats:
    """How much one owner has; see :func:`stats`."""
    directory = context.keyring.directory()
    asked = None if directory is None else {"scope_id": directory.scope_id_of(owner)}
    return _counted(context, asked, days, 0)


def _counted(
    context: MemoryContext, asked: Mapping[str, bytes] | None, days: int, largest: int
) -> Stats:
    whole_number("days", days, least=1, advice="It is how many days are told of.")
    whole_number("largest", largest, advice="It is how many scopes are told of by themselves.")
    if days > _MOST_DAYS:
        raise ValueError(f"days must be {_MOST_DAYS:,} or less, got {days:,}. Give fewer.")
    largest = min(largest, _MOST_SCOPES)
    moment = now()
    today = moment // usage.DAY
    span = [Day(_date(day)) for day in range(today - days + 1, today + 1)]
    if asked is None:
        return Stats(Totals(), {}, [], [], span)
    of_one = asked.get("scope_id")
    database = context.database
    # What one owner has is part of an export, which lacks nothing.
    door = database.snapshot_lagging if of_one is None else database.snapshot
    with AdmissionToAll() if of_one is None else Admission(of_one):
        rows = door(statistics.counted, asked, today - days + 1, largest, moment)
        return _told(_Names(context), rows, span)


def _told(names: _Names, rows: Counted, span: list[Day]) -> Stats:
    total, projects, modules = _totals(rows)
    named = [ModuleStats(*names.of(*place), totals) for place, totals in modules.items()]
    tokens = [
        Tokens(_date(day), *names.of(project, module), names.of_model(model), *counts)
        for day, project, module, model, *counts in rows.tokens
    ]
    return Stats(
        total,
        {names.of_project(project): totals for project, totals in projects.items()},
        sorted(named, key=lambda one: (one.project, one.module or "")),
        _largest(rows.largest),
        _days(rows, span),
        sorted(tokens, key=lambda one: (one.day, one.project, one.module or "", one.model)),
    )


def _totals(
    rows: Counted,
) -> tuple[Totals, dict[bytes, Totals], dict[tuple[bytes, bytes | None], Totals]]:
    """Of all, by project, and by project and module."""
    total = Totals()
    projects: dict[bytes, Totals] = defaultdict(Totals)
    modules: dict[tuple[bytes, bytes | None], Totals] = defaultdict(Totals)
    for project, module, *numbers in (*rows.below, *rows.singly):
        for totals in (total, projects[project], modules[project, module]):
            totals.add(*numbers)
    for project, module, scopes in rows.owners:
        for totals in (total, projects[project], modules[project, module]):
            totals.scopes += scopes
    for project, module, level, count in rows.people:
        modules[project, module].add_people(level, count)
    for project, level, count in rows.people_of_projects:
        for totals in (total, projects[project]):
            totals.add_people(level, count)
    return total, projects, modules


def _largest(rows: Iterable[Any]) -> list[ScopeStats]:
    scopes: dict[bytes, Totals] = defaultdict(lambda: Totals(scopes=1))
    for scope_id, *numbers in rows:
        scopes[scope_id].add(*numbers)
    return [ScopeStats(scope_id.hex(), totals) for scope_id, totals in scopes.items()]


def _days(rows: Counted, span: list[Day]) -> list[Day]:
    days = {day.day: day for day in span}
    for number, users in rows.active:
        if found := days.get(_date(number)):
            found.active_users = users
    for number, *added in rows.grown:
        if found := days.get(_date(number)):
            found.messages, found.bytes, found.sessions, found.threads = added
    return span


def _date(number: int) -> date:
    return _FIRST_DAY + timedelta(days=number)


class _Names:
    """Names of projects, modules and models, each opened from one scope that has it."""

    def __init__(self, context: MemoryContext) -> None:
        self._context = context
        self._places: dict[tuple[bytes, bytes | None], tuple[str, str | None]] = {}
        self._projects: dict[bytes, str] = {}
        self._models: dict[bytes, str] = {}

    def of(self, project: bytes, module: bytes | None) -> tuple[str, str | None]:
        """The names of a module and its project; their digests where no scope opens."""
        place = project, module
        if place not in self._places:
            self._places[place] = self._opened(project, module)
            self._projects.setdefault(project, self._places[place][0])
        return self._places[place]

    def of_project(self, project: bytes) -> str:
        """The name of a project of which a module's was asked."""
        return self._projects[project]

    def _opened(self, project: bytes, module: bytes | None) -> tuple[str, str | None]:
        scopes = self._context.database.read(statistics.scopes_of, project, module)
        owners = (self._owner(scope_id) for scope_id in scopes)
        owner = next((owner for owner in owners if owner), None)
        if owner is None:
            return project.hex(), None if module is None else module.hex()
        return owner.project, owner.module

    def _owner(self, scope_id: bytes) -> Owner | None:
        with suppress(RecordDoesNotOpen):
            return self._context.keyring.owner_of(scope_id)
        return None

    def of_model(self, digest: bytes) -> str:
        """The name of a model; its digest where no row of it opens."""
        if digest not in self._models:
            users = self._context.database.read(statistics.users_of_model, digest)
            names = (self._model(digest, *user) for user in users)
            found = next((name for name in names if name is not None), digest.hex())
            self._models[digest] = found
        return self._models[digest]

    def _model(self, digest: bytes, scope_id: bytes, day: int) -> str | None:
        if owner := self._owner(scope_id):
            with suppress(RecordDoesNotOpen, KeyDestroyed):
                records = self._context.records(owner)
                return records.read(usage.model_name, None, digest, day)
        return None
