"""Adoption: gives documents of a third-party vector store without an owner to scopes, in place."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from langmem_isolated.errors import (
    AdoptionNotVerified,
    KeyDestroyed,
    LangmemIsolatedError,
    LegalHold,
    MemoryLocked,
    RecordsUnmapped,
    UserWasErased,
)
from langmem_isolated.importers.adoption_journal import (
    Journal,
    JournalEntry,
    JournalHead,
    read_entries,
    read_head,
)
from langmem_isolated.importers.mapping import Mapping, Unmapped
from langmem_isolated.importers.plan import ImportPlan, Planner
from langmem_isolated.importers.vector_stores import document_of
from langmem_isolated.lifecycle import Rejected
from langmem_isolated.memory import IsolatedMemory
from langmem_isolated.scope import Scope

if TYPE_CHECKING:
    from langchain_core.vectorstores import VectorStore

    from langmem_isolated.lifecycle import AdoptedDocuments
    from langmem_isolated.wrapping import Stored, VectorStoreAdapter

AT_ONCE = 500
"""So many documents at most are in memory, with their vectors."""

_WHY: dict[type[Exception], str] = {
    UserWasErased: "erased",
    KeyDestroyed: "erased",  # meanwhile
    MemoryLocked: "locked",
    LegalHold: "held",
}

UnmappedChoice = Literal["stop", "skip", "report"]
Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Adopted:
    """What an adoption has done."""

    documents: int
    """Given to their owners, read back, and found by a search."""
    scopes: int
    left: dict[str, int] = field(default_factory=dict)
    """What bears no owner still, by why: ``"unmapped"``, ``"rejected"``, ``"taken"`` (the scope has
    another document of this id), ``"erased"`` and ``"locked"`` users."""


@dataclass(frozen=True, slots=True)
class AdoptionUndone:
    """What a roll back has done."""

    documents: int
    """Without an owner again, under the ids that they had."""
    left: dict[str, int] = field(default_factory=dict)
    """What stays: ``"changed"`` by its owner since, ``"taken"`` (something else has its former id),
    and of ``"erased"``, ``"locked"`` or ``"held"`` users."""


class Adoption:
    """One adoption: documents that bear no owner get the one that the mapping says, in place.

    Each is written as its owner's document of the same id, with the vector that it has; read as its
    owner reads it, compared, and searched for; and then removed as it was before. So a search finds
    the same with the same scores, for its owner alone. Whoever is killed leaves some documents both
    ways; the same adoption, with the same journal, goes on.

    >>> from langmem_isolated.importers import Adoption, Field, Mapping
    >>> ids = shared.add_texts(["Fractions are parts."], [{"owner": "alice"}], ids=["1"])
    >>> mapping = Mapping(user=Field("owner"), module="tutor")
    >>> Adoption(memory, shared, mapping).plan().records
    1

    Args:
        memory: Whose scopes; it is open.
        store: The store that the application searches in.
        mapping: Says whose each is, by its id and its metadata.
        journal: A file for the way back, of mode 0600; needed to :meth:`run`.
        unmapped: What becomes of documents that the mapping says no owner of: ``"stop"`` adopts
            nothing at all, ``"skip"`` and ``"report"`` leave them as they are.
        seal: Whether text and metadata are sealed in the store.
        adapter: What knows the store; by default found by its class.
        name: By which erasures know the store; as in ``vector_store(wrapping=…)``.
        readmit: Ids of users who may come back though they were erased.
        on_reject: Told of each document that is left as it is.
        progress: Told after each part how many documents were looked at.

    Raises:
        TypeError: The store has no adapter that lists its documents, or cannot be sealed.
        MappingRefused: Nothing tells the user, or the module.
    """

    def __init__(
        self,
        memory: IsolatedMemory,
        store: VectorStore,
        mapping: Mapping,
        *,
        journal: str | os.PathLike[str] | None = None,
        unmapped: UnmappedChoice = "stop",
        seal: bool = False,
        adapter: VectorStoreAdapter | None = None,
        name: str | None = None,
        readmit: Iterable[str] = (),
        on_reject: Callable[[Rejected], None] = lambda _: None,
        progress: Progress = lambda _: None,
    ) -> None:
        self._store = memory.adopting(store, adapter=adapter, seal=seal, name=name, readmit=readmit)
        self._mapping, self._unmapped = mapping.completed(()), _choice(unmapped)
        self._head = JournalHead(self._store.name, seal)
        self._journal = None if journal is None else Path(journal)
        self._on_reject, self._progress = on_reject, progress

    def plan(self, *, by_scope: bool = False) -> ImportPlan:
        """What would go where; nothing is written, not even a journal.

        Args:
            by_scope: Count for each user, too.
        """
        planner = Planner(by_scope=by_scope)
        for _, found in self._parts():
            for place, one in found:
                self._plan(planner, place, one)
        return planner.plan(self._store.name, None)

    def run(self) -> Adopted:
        """Adopt; called again, it goes on, and in the end there is nothing left to do.

        Raises:
            RecordsUnmapped: A document has no owner, and ``unmapped`` is ``"stop"``; nothing was
                changed.
            AdoptionNotVerified: What an owner finds is not what the store has.
            WrappedStoreKeeps: The store keeps what it was told to remove.
            JournalRefused: There is no journal, or it is of another adoption.
            DatabaseError: The database refused or failed.
        """
        if self._journal is None:
            raise TypeError(
                "An adoption needs a journal, got None. Give journal=… a new file: it has the way "
                "back. Nothing was changed."
            )
        if self._unmapped == "stop":
            self._refuse_unmapped()
        counts, left, scopes = Counter[str](), Counter[str](), set[Scope]()
        with Journal(self._journal, self._head) as journal:
            giving = _Giving(self._store, journal, left, self._on_reject)
            for looked_at, found in self._parts():
                for scope, part in self._by_scope(found, giving).items():
                    if given := giving.give(scope, part):
                        counts["documents"] += given
                        scopes.add(scope)
                self._progress(looked_at)
        return Adopted(counts["documents"], len(scopes), dict(left))

    def _parts(self) -> Iterator[tuple[int, list[tuple[str, Stored]]]]:
        """Parts of what bears no owner, with places, and how many were looked at by then."""
        ids, done = iter(self._store.unowned_ids()), 0
        while part := [*islice(ids, AT_ONCE)]:
            found = self._store.stored(part)
            places = (f"{self._store.name}, document {done + n}" for n in range(1, len(part) + 1))
            yield done + len(part), [*zip(places, found, strict=False)]
            done += len(part)

    def _plan(self, planner: Planner, place: str, one: Stored) -> None:
        unit = document_of(self._store.name, place, one)
        if isinstance(unit, Rejected):
            planner.reject(unit)
            return
        try:
            planner.add(unit, self._mapping.target_of(unit))
        except Unmapped as error:
            planner.leave_out(Rejected(place, error.reason))

    def _refuse_unmapped(self) -> None:
        plan = self.plan()
        if plan.unmapped:
            first = plan.unmapped_first[0]
            raise RecordsUnmapped(plan.unmapped, first.place, first.reason)

    def _by_scope(
        self, found: list[tuple[str, Stored]], giving: _Giving
    ) -> dict[Scope, list[tuple[str, Stored]]]:
        parts: dict[Scope, list[tuple[str, Stored]]] = {}
        for place, one in found:
            unit = document_of(self._store.name, place, one)
            if isinstance(unit, Rejected):
                giving.leave("rejected", unit)
                continue
            try:
                scope = self._mapping.target_of(unit).scope
            except Unmapped as error:
                giving.leave("unmapped", Rejected(place, error.reason))
            else:
                parts.setdefault(scope, []).append((place, one))
        return parts


class _Giving:
    """Gives documents to scopes, the journal first."""

    def __init__(
        self,
        store: Any,
        journal: Journal,
        left: Counter[str],
        on_reject: Callable[[Rejected], None],
    ) -> None:
        self._store, self._journal = store, journal
        self._left, self._on_reject = left, on_reject
        self._searched: set[Scope] = set()

    def leave(self, why: str, rejected: Rejected) -> None:
        """Count what stays as it is."""
        self._left[why] += 1
        self._on_reject(rejected)

    def give(self, scope: Scope, part: Sequence[tuple[str, Stored]]) -> int:
        """Give documents to a scope; returns how many it took."""
        try:
            return self._give(scope, part)
        except (UserWasErased, KeyDestroyed, MemoryLocked) as error:
            why = _WHY[type(error)]
            for place, _ in part:
                self.leave(why, Rejected(place, f"its user is {why}"))
        except (TypeError, ValueError) as error:
            # One of them may not be stored: each by itself, and that one stays.
            if len(part) > 1:
                return sum(self.give(scope, [one]) for one in part)
            told = str(error) if isinstance(error, LangmemIsolatedError) else type(error).__name__
            self.leave("rejected", Rejected(part[0][0], f"it cannot be stored: {told}"))
        return 0

    def _give(self, scope: Scope, part: Sequence[tuple[str, Stored]]) -> int:
        own = self._store.of(scope)
        taken = own.taken([one for _, one in part])
        for place, one in part:
            if str(one.id) in taken:
                self.leave("taken", Rejected(place, "its owner has another document of this id"))
        part = [(place, one) for place, one in part if str(one.id) not in taken]
        if not part:
            return 0
        found = [one for _, one in part]
        marks = own.marks(found)
        self._journal.add(
            [JournalEntry(one.id, scope, mark) for one, mark in zip(found, marks, strict=True)]
        )
        own.put(found)
        _verify(own, part)
        self._search_once(scope, own, part[0])
        self._store.remove([one.id for one in found])
        return len(found)

    def _search_once(self, scope: Scope, own: AdoptedDocuments, first: tuple[str, Stored]) -> None:
        # In every part it would take most of the time: 246 documents a second were adopted.
        if scope not in self._searched and not own.is_found(first[1]):
            raise AdoptionNotVerified(first[0], "a search by its vector does not find it")
        self._searched.add(scope)


def roll_back_adoption(
    memory: IsolatedMemory,
    store: VectorStore,
    journal: str | os.PathLike[str],
    *,
    adapter: VectorStoreAdapter | None = None,
    progress: Progress = lambda _: None,
) -> AdoptionUndone:
    """Put what was adopted back as it was before, as far as its owners have not changed it since.

    Each document is stored without an owner under its former id, with its vector, compared, and
    then removed as its owner's. Whoever is killed calls it again.

    Args:
        memory: As for the adoption.
        store: The store.
        journal: What the adoption wrote.
        adapter: What knows the store.
        progress: Told after each part how many documents were looked at.

    Raises:
        JournalRefused: The file is no journal, or of another store.
        AdoptionNotVerified: What was put back is not what its owner had.
        WrappedStoreKeeps: The store keeps what it was told to remove.
    """
    path = Path(journal)
    head = read_head(path)
    adopted = memory.adopting(store, adapter=adapter, seal=head.is_sealed)
    own_name = adopted.name
    if own_name != head.store:
        adopted = memory.adopting(store, adapter=adapter, seal=head.is_sealed, name=head.store)
    left, count, done = Counter[str](), 0, 0
    entries = read_entries(path)
    while part := [*islice(entries, AT_ONCE)]:
        for scope in dict.fromkeys(one.scope for one in part):
            count += _undo(adopted, scope, [one for one in part if one.scope == scope], left)
        done += len(part)
        progress(done)
    return AdoptionUndone(count, dict(left))


def _undo(store: Any, scope: Scope, entries: Sequence[JournalEntry], left: Counter[str]) -> int:
    try:
        store.refuse_held(scope)
        own = store.of(scope)
        found = {one.id: one for one in own.stored([str(one.id) for one in entries])}
    except (UserWasErased, KeyDestroyed, MemoryLocked, LegalHold) as error:
        left[_WHY[type(error)]] += len(entries)
        return 0
    there = [one for one in entries if str(one.id) in found]
    if not there:
        return 0
    marks, back = own.marks([found[str(one.id)] for one in there]), []
    for entry, mark in zip(there, marks, strict=True):
        if mark != entry.mark:
            left["changed"] += 1
        else:
            back.append(found[str(entry.id)]._replace(id=entry.id))
    return _put_back(store, own, back, left)


def _put_back(store: Any, own: AdoptedDocuments, back: Sequence[Stored], left: Counter[str]) -> int:
    held = {one.id: one.document for one in store.stored([one.id for one in back])}
    free = [one for one in back if one.id not in held or store.is_same(held[one.id], one.document)]
    if len(free) < len(back):
        left["taken"] += len(back) - len(free)
    if not free:
        return 0
    store.put_back(free)
    stored = store.stored([one.id for one in free])
    if len(stored) < len(free) or not all(
        store.is_same(one.document, there.document) for one, there in zip(free, stored, strict=True)
    ):
        raise AdoptionNotVerified(f"{store.name}, one of {len(free)} documents", "it is not back")
    own.remove([str(one.id) for one in free])
    return len(free)


def _verify(own: AdoptedDocuments, part: Sequence[tuple[str, Stored]]) -> None:
    places = {str(one.id): place for place, one in part}
    if (differs := own.difference([one for _, one in part])) is not None:
        id_, what = differs
        raise AdoptionNotVerified(places[id_], what)


def _choice(unmapped: str) -> UnmappedChoice:
    if unmapped not in ("stop", "skip", "report"):
        raise ValueError(
            f'unmapped must be "stop", "skip" or "report", got another of {len(unmapped)} '
            "characters. Leave it out to adopt nothing unless all have an owner."
        )
    return unmapped  # type: ignore[return-value]
