"""Profile: what one module knows of a user, or what all modules of a user share."""

import secrets
from collections.abc import Callable, Iterable
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

from langmem_isolated._runtime.arguments import callback, refuse_single
from langmem_isolated._runtime.calls import explains_calls, made_by
from langmem_isolated._runtime.clock import now
from langmem_isolated._runtime.operations import counted, given, observed, one
from langmem_isolated._storage import profiles
from langmem_isolated._storage.entries import Entry
from langmem_isolated._storage.profiles import Part, ProfileEntries
from langmem_isolated._storage.scoped_database import ScopedDatabase
from langmem_isolated.errors import ProfileEntryChanged, ProfileEntryNotFound
from langmem_isolated.lifecycle.profiles import edits
from langmem_isolated.lifecycle.profiles.forms import (
    ID_BYTES,
    SUMMARY_KEY,
    as_microseconds,
    checked_json,
    checked_text,
    fact_id,
    interest_key,
    source_of,
    value_entry,
    value_of,
)
from langmem_isolated.lifecycle.profiles.reader import ProfileReader, attribute
from langmem_isolated.lifecycle.profiles.values import MADE_BY, Fact, Interest, ProfileCleared
from langmem_isolated.scope import checked_id

T = TypeVar("T")
_FEWEST_TO_MERGE = 2
# Others would have to change the same attribute between each reading and writing.
_ATTEMPTS = 50


@made_by(MADE_BY, first=ScopedDatabase)
@explains_calls
class Profile(ProfileReader):
    """What one module knows of a user: facts, interests, free attributes, a summary.

    Made by ``memory.scope(…).profile()``; ``memory.scope(…).cross_module()`` makes the notebook
    that all modules of the user share. Making one reads nothing; each call reads or writes what is
    there then, so nothing has to be flushed, and what others wrote is seen. Each fact, interest and
    attribute is an entry of its own: writers of two never meet, those of one wait for each other.

    How much it may hold is in ``Limits.profile_entries`` and ``profile_bytes``; what is beyond
    raises `ProfileFull` or another :class:`~langmem_isolated.errors.LimitExceeded`, and nothing is
    written.

    >>> profile = scope.profile()
    >>> fact = profile.add_fact("Has a test on Friday.", source="user", session_id="monday")
    >>> _ = profile.correct(fact, "Has a test on Monday.")
    >>> profile.set_attribute("level", 3)
    >>> [fact.text for fact in profile.facts()], profile.attributes()
    (['Has a test on Monday.'], {'level': 3})
    >>> scope.module("planner").profile().facts()
    []
    """

    def __init__(self, records: ScopedDatabase, module_id: str | None = None) -> None:
        super().__init__(records)
        self._module_id = module_id or records.owner.module or ""
        self._edits = edits.Edits(records.limits)

    def add_fact(
        self,
        text: str,
        *,
        source: str = "application",
        session_id: str | None = None,
        message_id: str | None = None,
        time: datetime | None = None,
    ) -> Fact:
        """Add a fact; one that says the same gets another source instead.

        Case, white space and forms of characters (Unicode NFKC) make no other fact.

        Args:
            text: What is known.
            source: Who said so: ``"application"``, ``"user"``, ``"model"``, or a word of your own.
            session_id: The chat session or thread in which it was learned.
            message_id: The message.
            time: When it was learned, with a time zone; by default now.

        Returns:
            The fact as it stands, with its id.

        Raises:
            ValueNotStorable: ``text`` is no ``str``.
            ValueError: ``text`` is empty, or ``time`` has no time zone.
            ScopeError: ``source`` or an id is malformed.
            LimitExceeded: There are too many, or it is too long.
            KeyDestroyed: The scope was erased.
        """
        return self._added([text], source, session_id, message_id, time)[0]

    async def aadd_fact(
        self,
        text: str,
        *,
        source: str = "application",
        session_id: str | None = None,
        message_id: str | None = None,
        time: datetime | None = None,
    ) -> Fact:
        """Add a fact; see :meth:`add_fact`."""
        added = await self._records.arun(self._added, [text], source, session_id, message_id, time)
        return added[0]

    def add_facts(
        self,
        texts: Iterable[str],
        *,
        source: str = "application",
        session_id: str | None = None,
        message_id: str | None = None,
        time: datetime | None = None,
    ) -> list[Fact]:
        """Add facts of one source, all or none; those that say the same are folded into one.

        Returns:
            The fact as it stands for each text.

        Raises:
            TypeError: ``texts`` is one text.
        """
        refuse_single("texts", texts, (), example='["Likes chess.", "Has a test on Friday."]')
        return self._added([*texts], source, session_id, message_id, time)

    async def aadd_facts(
        self,
        texts: Iterable[str],
        *,
        source: str = "application",
        session_id: str | None = None,
        message_id: str | None = None,
        time: datetime | None = None,
    ) -> list[Fact]:
        """Add facts of one source; see :meth:`add_facts`."""
        refuse_single("texts", texts, (), example='["Likes chess.", "Has a test on Friday."]')
        return await self._records.arun(self._added, [*texts], source, session_id, message_id, time)

    @observed("upsert_memory", "profile", given)
    def _added(
        self,
        texts: list[str],
        source: str,
        session_id: str | None,
        message_id: str | None,
        time: datetime | None,
    ) -> list[Fact]:
        self._records.limits.check("profile_entries", len(texts))
        learned = now() if time is None else as_microseconds(time)
        origin = source_of(source, self._module_id, session_id, message_id, learned)
        new = [
            edits.NewFact(secrets.token_hex(ID_BYTES), checked_text("fact", text), origin)
            for text in texts
        ]
        return self._edit(lambda found: self._edits.add(found, new)) if new else []

    @observed("update_memory", "profile", one)
    def correct(self, fact: Fact | str, text: str) -> Fact:
        """Give a fact another text.

        Args:
            fact: The fact as it was read: where somebody else has changed it since, nothing is
                written. Or its id: then the last one wins.
            text: What is known now.

        Raises:
            ProfileEntryNotFound: There is no such fact.
            ProfileEntryChanged: It was changed since it was read.
        """
        revision = fact.revision if isinstance(fact, Fact) else None
        known, text = fact_id(fact), checked_text("fact", text)
        return self._found("fact", lambda found: self._edits.correct(found, known, text, revision))

    async def acorrect(self, fact: Fact | str, text: str) -> Fact:
        """Give a fact another text; see :meth:`correct`."""
        return await self._records.arun(self.correct, fact, text)

    @observed("delete_memory", "profile", one)
    def remove(self, fact: Fact | str) -> None:
        """Remove a fact, or the one that has an id.

        Raises:
            ProfileEntryNotFound: There is no such fact.
        """
        self._remove("fact", Part.FACTS, bytes.fromhex(fact_id(fact)))

    async def aremove(self, fact: Fact | str) -> None:
        """Remove a fact; see :meth:`remove`."""
        await self._records.arun(self.remove, fact)

    @observed("update_memory", "profile", one)
    def merge(self, *facts: Fact | str, text: str | None = None) -> Fact:
        """Make one fact of two or more: the first, with the sources of all; the others go.

        Args:
            facts: Facts, or their ids.
            text: What the one says; by default what the first says.

        Raises:
            ProfileEntryNotFound: There is no such fact; none was changed.
            ValueError: There are fewer than two.
        """
        ids = [*dict.fromkeys(map(fact_id, facts))]
        if len(ids) < _FEWEST_TO_MERGE:
            raise ValueError(
                f"merge() takes two or more facts, got {len(ids)}. correct() changes the text of "
                "one, fold_duplicates() merges those that say the same. Nothing was changed."
            )
        told = None if text is None else checked_text("fact", text)
        return self._found("fact", lambda found: self._edits.merge(found, ids, told))

    async def amerge(self, *facts: Fact | str, text: str | None = None) -> Fact:
        """Make one fact of two or more; see :meth:`merge`."""
        return await self._records.arun(self.merge, *facts, text=text)

    @observed("update_memory", "profile", counted)
    def fold_duplicates(self) -> int:
        """Merge facts that came to say the same by corrections; returns how many went."""
        return self._change(0, self._edits.fold)

    async def afold_duplicates(self) -> int:
        """Merge facts that came to say the same; see :meth:`fold_duplicates`."""
        return await self._records.arun(self.fold_duplicates)

    @observed("upsert_memory", "profile", one)
    def add_interest(self, name: str) -> Interest:
        """Add an interest, or count another mention of it."""
        name = checked_text("interest", name)
        return self._edit(lambda found: self._edits.add_interest(found, name))

    async def aadd_interest(self, name: str) -> Interest:
        """Add an interest; see :meth:`add_interest`."""
        return await self._records.arun(self.add_interest, name)

    @observed("delete_memory", "profile", one)
    def remove_interest(self, name: str) -> None:
        """Remove an interest.

        Raises:
            ProfileEntryNotFound: There is none of that name.
        """
        self._remove("interest", Part.INTERESTS, interest_key(checked_text("interest", name)))

    async def aremove_interest(self, name: str) -> None:
        """Remove an interest; see :meth:`remove_interest`."""
        await self._records.arun(self.remove_interest, name)

    @observed("upsert_memory", "profile", one)
    def set_attribute(self, name: str, value: Any) -> None:
        """Store an attribute in place of the one of that name.

        Args:
            name: An id: 1 to 255 bytes without control characters.
            value: A JSON value.

        Raises:
            ScopeError: ``name`` is malformed.
            ValueNotStorable: ``value`` is no JSON value.
            LimitExceeded: There are too many, or it is too long.
        """
        entry = value_entry(checked_id("name", name).encode(), checked_json(value))
        self._edit(lambda found: self._edits.put(found, Part.ATTRIBUTES, entry))

    async def aset_attribute(self, name: str, value: Any) -> None:
        """Store an attribute; see :meth:`set_attribute`."""
        await self._records.arun(self.set_attribute, name, value)

    @observed("upsert_memory", "profile", one)
    def update_attribute(self, name: str, change: Callable[[Any], Any]) -> Any:
        """Store what ``change`` makes of an attribute, so that no change of others is lost.

        Compare-and-swap: where others change it meanwhile, it is read and changed again.

        >>> scope.profile().update_attribute("visits", lambda visits: (visits or 0) + 1)
        1

        Args:
            name: Of the attribute.
            change: Gets the value, or ``None`` where there is none; may be called several times.

        Returns:
            What is stored now.

        Raises:
            TypeError: ``change`` is no function, or one to be awaited.
            ProfileEntryChanged: Others changed it 50 times meanwhile.
        """
        checked_id("name", name)
        callback("change", change, example="lambda visits: (visits or 0) + 1")
        for _ in range(_ATTEMPTS):
            there = self._records.read(profiles.view, None, partial(attribute, name=name), now())
            value = checked_json(change(None if there is None else value_of(there)))
            entry = value_entry(name.encode(), value)
            if self._swap(entry, there):
                return value
        raise ProfileEntryChanged.of("attribute")

    async def aupdate_attribute(self, name: str, change: Callable[[Any], Any]) -> Any:
        """Store what ``change`` makes of an attribute, in a worker thread.

        See :meth:`update_attribute`.
        """
        return await self._records.arun(self.update_attribute, name, change)

    @observed("delete_memory", "profile", one)
    def remove_attribute(self, name: str) -> None:
        """Remove an attribute.

        Raises:
            ProfileEntryNotFound: There is none of that name.
        """
        self._remove("attribute", Part.ATTRIBUTES, checked_id("name", name).encode())

    async def aremove_attribute(self, name: str) -> None:
        """Remove an attribute; see :meth:`remove_attribute`."""
        await self._records.arun(self.remove_attribute, name)

    @observed("upsert_memory", "profile", one)
    def set_summary(self, summary: str | None) -> None:
        """Set the module's summary of the user; ``None`` removes what there is.

        It is this module's alone, beside those of its sessions.
        """
        if summary is None:
            self._change(0, lambda found: edits.remove(found, Part.SUMMARY, SUMMARY_KEY))
            return
        entry = value_entry(SUMMARY_KEY, checked_text("summary", summary))
        self._edit(lambda found: self._edits.put(found, Part.SUMMARY, entry))

    async def aset_summary(self, summary: str | None) -> None:
        """Set the module's summary of the user; see :meth:`set_summary`."""
        await self._records.arun(self.set_summary, summary)

    @observed("delete_memory", "profile")
    def clear(self) -> ProfileCleared:
        """Remove all of it, what was tampered with, too; returns how much there was."""
        return self._change(ProfileCleared(0, 0, 0, 0), edits.clear)

    async def aclear(self) -> ProfileCleared:
        """Remove all of it; see :meth:`clear`."""
        return await self._records.arun(self.clear)

    def _edit(self, body: Callable[[ProfileEntries], T]) -> T:
        return self._records.write(profiles.edit, body, now())

    def _swap(self, entry: Entry, expected: bytes | None) -> bool:
        return self._edit(lambda found: self._edits.swap(found, Part.ATTRIBUTES, entry, expected))

    def _change(self, nothing: T, body: Callable[[ProfileEntries], T]) -> T:
        """Run ``body``; ``nothing`` where nothing was ever stored."""
        return self._records.write_if_exists(profiles.edit, nothing, body, now())

    def _found(self, what: str, body: Callable[[ProfileEntries], T]) -> T:
        """Run ``body``, which changes something that is there."""
        found = self._records.write_if_exists(profiles.edit, None, body, now())
        if not found:
            raise ProfileEntryNotFound.of(what)
        return found

    def _remove(self, what: str, part: Part, key: bytes) -> None:
        self._found(what, lambda found: edits.remove(found, part, key))
