"""Module merges: what a memory gives to bring together what its modules know of one user."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, overload

from langmem_isolated._adapters.context import MemoryContext
from langmem_isolated._runtime.arguments import true_or_false
from langmem_isolated._runtime.calls import explains_calls
from langmem_isolated._runtime.operations import found, observed

if TYPE_CHECKING:
    from collections.abc import Collection

    from langmem_isolated.lifecycle.profiles.values import Fact
    from langmem_isolated.lifecycle.sharing.merge_values import (
        MergeConflicts,
        MergePlan,
        MergeReceipt,
        Undone,
    )


@explains_calls
class ModuleMerges:
    """Merges and copies between modules of one user, as :class:`IsolatedMemory` has them."""

    _context: MemoryContext

    @overload
    def merge_modules(
        self,
        *,
        user_id: str,
        from_module: str,
        into_module: str,
        dry_run: Literal[True] = ...,
        conflicts: MergeConflicts = ...,
        project_id: str = ...,
    ) -> MergePlan: ...

    @overload
    def merge_modules(
        self,
        *,
        user_id: str,
        from_module: str,
        into_module: str,
        dry_run: Literal[False],
        conflicts: MergeConflicts = ...,
        project_id: str = ...,
    ) -> MergeReceipt: ...

    def merge_modules(
        self,
        *,
        user_id: str,
        from_module: str,
        into_module: str,
        dry_run: bool = True,
        conflicts: MergeConflicts = "rename",
        project_id: str = "default",
    ) -> MergePlan | MergeReceipt:
        """Put all that a user has in one module into another, too; by default only say what.

        Sessions, threads, items, documents, profile and the entries of caches and indexes, with
        their times. The one module keeps what it has; grants, policies and receipts stay with it.
        It is done in transactions of at most 500 rows: interrupted, the same call goes on where it
        was. :meth:`undo` takes out again what was put in.

        >>> scope.chat_history("monday").add_user_message("My test is on Friday.")
        >>> planner = scope.module("planner")
        >>> planner.chat_history("monday").add_user_message("Remind me to practise.")
        >>> between = {"user_id": "alice", "from_module": "tutor", "into_module": "planner"}
        >>> plan = memory.merge_modules(**between)
        >>> plan.counts, plan.conflicts
        ({'session': 1, 'message': 1}, (Named(kind='session', names=('monday',)),))
        >>> receipt = memory.merge_modules(**between, dry_run=False)
        >>> [message.text for message in planner.chat_history("monday-2").messages]
        ['My test is on Friday.']
        >>> memory.undo(receipt).removed
        {'session': 1}

        Args:
            user_id: Whose modules.
            from_module: Whose memory is copied.
            into_module: Where it comes to.
            dry_run: Whether to say what would be done, and do nothing.
            conflicts: What happens to a name that the other module has for something else:
                ``"rename"``, ``"skip"`` or ``"refuse"``; see :data:`MergeConflicts`.
            project_id: In which project.

        Raises:
            ScopeError: An id is missing or malformed, or the modules are one.
            TypeError: ``dry_run`` is neither true nor false.
            ValueError: ``conflicts`` is not known.
            AddressTaken: A name is taken, and that is refused; nothing was put in.
            RecordDoesNotOpen: Something of either module is not as it was stored.
            DatabaseLocked: The one module was written to whenever it was compared.
            KeyDestroyed: The user was erased meanwhile.
            DatabaseError: The database refused or failed; the same call goes on.
        """
        from langmem_isolated.lifecycle.sharing.merging import ModulePair, checked_conflicts

        checked_conflicts(conflicts)
        true_or_false("dry_run", dry_run)
        pair = ModulePair(self._context, user_id, (from_module, into_module), project_id)
        if dry_run:
            return pair.plan()
        with self._context.audit.job("merge", pair.owner) as job:
            receipt = pair.merge(conflicts)
            job.count = sum(receipt.counts.values())
        return receipt

    async def amerge_modules(
        self,
        *,
        user_id: str,
        from_module: str,
        into_module: str,
        dry_run: bool = True,
        conflicts: MergeConflicts = "rename",
        project_id: str = "default",
    ) -> MergePlan | MergeReceipt:
        """Put all that a user has in one module into another; see :meth:`merge_modules`."""
        return await self._context.database.arun(
            self.merge_modules,  # type: ignore[arg-type]
            user_id=user_id,
            from_module=from_module,
            into_module=into_module,
            dry_run=dry_run,
            conflicts=conflicts,
            project_id=project_id,
        )

    def copy_facts(
        self,
        *,
        user_id: str,
        from_module: str,
        to_module: str,
        facts: Collection[Fact | str],
        dry_run: bool = False,
        project_id: str = "default",
    ) -> MergePlan | MergeReceipt:
        """Put some facts of one module's profile into another's, all or none.

        A fact that the other has, or that says the same as one of its, is left out. Each keeps its
        sources, so it tells from which module it came. :meth:`undo` takes them out again.

        >>> fact = scope.profile().add_fact("Prefers short answers.")
        >>> receipt = memory.copy_facts(
        ...     user_id="alice", from_module="tutor", to_module="planner", facts=[fact]
        ... )
        >>> [(known.text, known.sources[0].module_id)
        ...  for known in scope.module("planner").profile().facts()]
        [('Prefers short answers.', 'tutor')]

        Args:
            user_id: Whose modules.
            from_module: Whose facts.
            to_module: Where they come to.
            facts: Facts, or their ids; one or more.
            dry_run: Whether to say what would be done, and do nothing.
            project_id: In which project.

        Raises:
            ProfileEntryNotFound: The one module knows no such fact; none was copied.
            ScopeError: An id is missing or malformed, or the modules are one.
            TypeError: ``facts`` is no list of facts or ids, or ``dry_run`` neither true nor false.
            ValueError: ``facts`` has none.
            LimitExceeded: The profile would hold too many.
            RecordDoesNotOpen: Something of either profile is not as it was stored.
            KeyDestroyed: The user was erased meanwhile.
        """
        from langmem_isolated.lifecycle.sharing.merging import ModulePair

        true_or_false("dry_run", dry_run)
        pair = ModulePair(self._context, user_id, (from_module, to_module), project_id)
        if dry_run:
            return pair.plan_facts(facts)
        with self._context.audit.job("copy_facts", pair.owner) as job:
            receipt = pair.copy_facts(facts)
            job.count = sum(receipt.counts.values())
        return receipt

    async def acopy_facts(
        self,
        *,
        user_id: str,
        from_module: str,
        to_module: str,
        facts: Collection[Fact | str],
        dry_run: bool = False,
        project_id: str = "default",
    ) -> MergePlan | MergeReceipt:
        """Put some facts of one module's profile into another's; see :meth:`copy_facts`."""
        return await self._context.database.arun(
            self.copy_facts,
            user_id=user_id,
            from_module=from_module,
            to_module=to_module,
            facts=facts,
            dry_run=dry_run,
            project_id=project_id,
        )

    @observed("search_memory", "receipt", found, records="_context")
    def receipts(self, user_id: str, *, project_id: str = "default") -> list[MergeReceipt]:
        """What was merged and copied between a user's modules in 30 days, the oldest first.

        Raises:
            ScopeError: An id is missing or malformed.
            RecordDoesNotOpen: A receipt was changed, moved or exchanged.
        """
        from langmem_isolated.lifecycle.sharing.merging import receipts

        return receipts(self._context, user_id, project_id)

    async def areceipts(self, user_id: str, *, project_id: str = "default") -> list[MergeReceipt]:
        """What was merged and copied between a user's modules; see :meth:`receipts`."""
        return await self._context.database.arun(
            self.receipts, user_id=user_id, project_id=project_id
        )

    def undo(self, receipt: MergeReceipt) -> Undone:
        """Take out what a merge or copy put in; what was changed since is left, and told.

        It is done in transactions of at most 500 rows, and a session at a time: interrupted, the
        same call goes on. What somebody wrote into a session that was put in keeps it there.

        Raises:
            ReceiptNotFound: It was undone before, or is older than 30 days.
            TypeError: ``receipt`` is no receipt.
            RecordDoesNotOpen: What was put in, or the receipt, was changed, moved or exchanged.
        """
        from langmem_isolated.lifecycle.sharing.merging import undo

        with self._context.audit.job("undo") as job:
            undone = undo(self._context, receipt)
            job.count = sum(undone.removed.values())
        return undone

    async def aundo(self, receipt: MergeReceipt) -> Undone:
        """Take out what a merge or copy put in; see :meth:`undo`."""
        return await self._context.database.arun(self.undo, receipt)
