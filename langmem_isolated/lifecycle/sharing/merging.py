"""Merges two modules' memory of one user, copies facts, and undoes both by their receipts."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from functools import partial
from typing import get_args

from langmem_isolated._adapters.context import MemoryContext
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.owners import Level, Owner
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._runtime.arguments import kind_of, refuse_single
from langmem_isolated._runtime.clock import EPOCH, as_moment, now
from langmem_isolated._storage import profiles
from langmem_isolated._storage.copying import journal
from langmem_isolated._storage.copying.copy import Copy
from langmem_isolated._storage.copying.options import Added, Copied
from langmem_isolated._storage.copying.planning import Planned, plan
from langmem_isolated._storage.profiles import Part, ProfileEntries
from langmem_isolated._storage.scoped_database import ScopedDatabase
from langmem_isolated.errors import AddressTaken, ProfileEntryNotFound, ReceiptNotFound, ScopeError
from langmem_isolated.lifecycle.guests.transferred import NewName
from langmem_isolated.lifecycle.profiles.edits import Edits
from langmem_isolated.lifecycle.profiles.forms import fact_entry, fact_id, tag_of
from langmem_isolated.lifecycle.profiles.reader import ProfileReader
from langmem_isolated.lifecycle.profiles.values import Fact
from langmem_isolated.lifecycle.sharing.merge_values import (
    MergeConflicts,
    MergePlan,
    MergeReceipt,
    Named,
    Undone,
    by_kind,
)
from langmem_isolated.scope import Scope, checked_id

_CONFLICTS = get_args(MergeConflicts)
_NO_RECEIPTS: list[journal.Receipt] = []
_NO_PARTS: list[journal.Part] = []
_NOTHING_ADDED: list[Added] = []


class ModulePair:
    """Two modules of one user: from which is copied, and into which.

    Raises:
        ScopeError: An id is missing or malformed, or the modules are one.
    """

    def __init__(
        self, context: MemoryContext, user_id: str, modules: tuple[str, str], project_id: str
    ) -> None:
        self._ids = user_id, modules, project_id
        scopes = [Scope(user_id, module, project_id=project_id) for module in modules]
        if modules[0] == modules[1]:
            raise ScopeError(
                "Two modules are merged or copied between, got one twice. Nothing was changed."
            )
        self.source, self.target = (context.private(scope) for scope in scopes)

    @property
    def owner(self) -> Owner:
        """Into whose memory is copied."""
        return self.target.owner

    def plan(self) -> MergePlan:
        """What a merge would put in, as both modules are now."""
        return _as_plan(plan(self.source, self.target, now()))

    def merge(self, conflicts: MergeConflicts) -> MergeReceipt:
        """Put everything of the one module into the other."""
        from_module = self._ids[1][0]
        if conflicts == "refuse":
            self._refuse_taken(from_module)
        begun = self.target.write(journal.begin, "merge", from_module, conflicts)
        keep = partial(journal.record, token=begun.token)
        Copy(self.source, self.target, begun.token, conflicts, journal=keep).run()
        return self._receipt(self.target.write(journal.finish, begun))

    def _refuse_taken(self, from_module: str) -> None:
        """Refuse where the target has something else than what the same call put in before.

        Raises:
            AddressTaken: So it is.
        """
        asked = "merge", from_module, "refuse"
        own = set(self.target.snapshot(journal.added_by_unfinished, _NOTHING_ADDED, *asked))
        for one in plan(self.source, self.target, now()).taken:
            if one not in own:
                raise AddressTaken(one.kind.label)

    def plan_facts(self, facts: Collection[Fact | str]) -> MergePlan:
        """What a copy of facts would put in."""
        wanted = self._facts(facts)
        planned = self.target.read(profiles.view, Planned(), partial(_planned, wanted), now())
        if not planned.counts and not planned.taken:
            planned.counts[Kind.PROFILE] += len(wanted)
        return _as_plan(planned)

    def copy_facts(self, facts: Collection[Fact | str]) -> MergeReceipt:
        """Put facts of the one module's profile into the other's."""
        wanted = self._facts(facts)
        edits, from_module = Edits(self.target.limits), self._ids[1][0]
        return self._receipt(
            self.target.write(_put_facts, edits=edits, facts=wanted, from_module=from_module)
        )

    def _facts(self, facts: Collection[Fact | str]) -> list[Fact]:
        refuse_single("facts", facts, (Fact,), example="facts=[fact.id]")
        there = {fact.id: fact for fact in ProfileReader(self.source).facts()}
        wanted = [*dict.fromkeys(map(fact_id, facts))]
        if not wanted:
            raise ValueError(
                "facts must hold one fact or more, got none. Choose from profile().facts() of the "
                "module that they are copied from. Nothing was copied."
            )
        if not there.keys() >= set(wanted):
            raise ProfileEntryNotFound.of("fact")
        return [there[one] for one in wanted]

    def _receipt(self, stored: journal.Receipt) -> MergeReceipt:
        parts = self.target.snapshot(journal.all_parts, _NO_PARTS, stored.token)
        user_id, (from_module, into_module), project_id = self._ids
        return MergeReceipt(
            stored.token.hex(),
            stored.what,
            user_id,
            from_module,
            into_module,
            project_id,
            as_moment(stored.begun_at) or EPOCH,
            None if stored.finished_at is None else as_moment(stored.finished_at),
            {Kind(kind).label: count for kind, count in sorted(stored.counts.items())},
            tuple(
                NewName(kind.label, old, new) for part in parts for kind, old, new in part.renamed
            ),
        )


def checked_conflicts(conflicts: object) -> None:
    """Refuse a policy that is not known.

    Raises:
        ValueError: It is none.
    """
    if conflicts not in _CONFLICTS:
        raise ValueError(
            f"conflicts must be one of {', '.join(_CONFLICTS)}, got another {kind_of(conflicts)}. "
            "Nothing was changed."
        )


def receipts(context: MemoryContext, user_id: str, project_id: str) -> list[MergeReceipt]:
    """What was merged and copied between modules of a user in the last 30 days, oldest first.

    Raises:
        ScopeError: An id is missing or malformed.
        RecordDoesNotOpen: A receipt was changed, moved or exchanged.
    """
    project, user = checked_id("project_id", project_id), checked_id("user_id", user_id)
    found = [
        ModulePair(context, user, (stored.from_module, module), project)._receipt(stored)  # noqa: SLF001
        for module, records in _modules(context, project, user)
        for stored in records.read(journal.receipts, _NO_RECEIPTS)
    ]
    return sorted(found, key=lambda receipt: receipt.begun)


def _modules(
    context: MemoryContext, project: str, user: str
) -> Iterator[tuple[str, ScopedDatabase]]:
    for owner in context.keyring.owners(Owner(Level.USER, project, user)):
        if owner.level is Level.PRIVATE and owner.module is not None:
            yield owner.module, context.records(owner)


def undo(context: MemoryContext, receipt: MergeReceipt) -> Undone:
    """Take out what a merge or copy put in, as far as nobody changed it since.

    Raises:
        TypeError: ``receipt`` is no receipt.
        ReceiptNotFound: It was undone before, or is older than 30 days.
        RecordDoesNotOpen: What was put in, or the receipt, was changed, moved or exchanged.
    """
    if not isinstance(receipt, MergeReceipt):
        raise TypeError(
            f"undo() takes a MergeReceipt, got {kind_of(receipt)}. memory.receipts(user_id=…) "
            "lists them. Nothing was changed."
        )
    scope = Scope(receipt.user_id, receipt.into_module, project_id=receipt.project_id)
    target, token = context.private(scope), bytes.fromhex(receipt.id)
    known = target.read(journal.receipts, _NO_RECEIPTS)
    if token not in (one.token for one in known):
        raise ReceiptNotFound
    removed: list[Added] = []
    left: list[Added] = []
    for part in target.read(journal.all_parts, _NO_PARTS, token):
        undone = target.write(journal.undo_part, token, part)
        removed += undone.removed
        left += undone.left
    target.write(journal.forget, token)
    return Undone(by_kind(one.kind.label for one in removed), tuple(map(named, left)))


def named(added: Added) -> Named:
    """What was put in, as people call it."""
    names = added.names
    if added.kind is Kind.PROFILE and names[1:] == Part.FACTS.space:
        # A fact's key is what its id says in other digits.
        return Named(added.kind.label, (names[0].hex(), *map(_shown, names[1:])))
    return Named(added.kind.label, tuple(map(_shown, names)))


def _shown(name: bytes) -> str:
    return name.decode(errors="backslashreplace")


def _as_plan(planned: Planned) -> MergePlan:
    counts = {kind.label: count for kind, count in sorted(planned.counts.items()) if count}
    return MergePlan(counts, tuple(map(named, planned.taken)))


def _planned(facts: list[Fact], found: ProfileEntries) -> Planned:
    planned = Planned()
    for fact in facts:
        if _is_known(found, fact):
            planned.taken.append(_taken(fact))
        else:
            planned.counts[Kind.PROFILE] += 1
    return planned


def _put_facts(
    transaction: Transaction,
    keys: ScopeKeys,
    *,
    edits: Edits,
    facts: list[Fact],
    from_module: str,
) -> journal.Receipt:
    """Put in the facts that are not known there, with their receipt."""
    moment = now()
    added = profiles.edit(transaction, keys, partial(_put_new, edits, facts), moment)
    receipt = journal.begin(transaction, keys, "facts", from_module, "skip")
    journal.record(transaction, keys, added, [], token=receipt.token)
    return journal.finish(transaction, keys, receipt)


def _put_new(edits: Edits, facts: list[Fact], found: ProfileEntries) -> list[Added]:
    copied = Copied()
    for number, fact in enumerate(facts):
        if not _is_known(found, fact):
            entry = fact_entry(replace(fact, position=found.now + number))
            edits.put(found, Part.FACTS, entry)
            copied.note_added(Kind.PROFILE, entry.key, *Part.FACTS.space)
    return copied.added


def _is_known(found: ProfileEntries, fact: Fact) -> bool:
    """Whether a profile has the fact, or one that says the same."""
    (there,) = found.get(Part.FACTS, [bytes.fromhex(fact.id)])
    return there is not None or bool(found.tagged(Part.FACTS, tag_of(fact.text)))


def _taken(fact: Fact) -> Added:
    return Added(Kind.PROFILE, (bytes.fromhex(fact.id), *Part.FACTS.space))
