"""Import: reads a source, maps what it has to scopes, backs up the target, copies, verifies."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from langmem_isolated._runtime.arguments import callback, kind_of, refuse_single
from langmem_isolated.errors import ImportPlaceTaken, ReceiptRefused, RecordsUnmapped
from langmem_isolated.importers.backups import back_up
from langmem_isolated.importers.copying import Copying
from langmem_isolated.importers.mapping import Mapping, Target, Unmapped
from langmem_isolated.importers.plan import ImportPlan, Planner
from langmem_isolated.importers.receipts import ImportReceipt
from langmem_isolated.importers.rejects import Rejects
from langmem_isolated.importers.source import Source
from langmem_isolated.lifecycle import ForeignUnit, Rejected
from langmem_isolated.scope import Scope

if TYPE_CHECKING:
    from langchain_core.embeddings import Embeddings

    from langmem_isolated import IsolatedMemory

UnmappedRule = Literal["stop", "skip", "report"]
_RULES = ("stop", "skip", "report")
_TOKEN_BYTES = 16


@dataclass(frozen=True, slots=True)
class Step:
    """How far an import is, told behind each unit."""

    stage: Literal["reading", "copying"]
    place: str
    """Of the unit in the source; no id and no content."""
    state: str
    """``"mapped"``, ``"copied"``, ``"present"``, ``"continued"``, or what became of it instead."""
    records: int
    """Of this unit."""
    done: int
    """Records by now."""
    total: int | None
    """Of how many, where the source knows."""
    seconds: float
    """Since the stage began."""


Progress = Callable[[Step], object]
T = TypeVar("T")


class Import:
    """Moves what a source has into the scopes that a mapping says; the source stays as it is.

    What is put in is read back and compared, record by record. Killed at any point, the same
    import goes on; run a second time, it finds all of it present. ``memory.roll_back(token)``
    takes out exactly what it put in, as far as nobody has changed it since.

    >>> from langmem_isolated.importers import Import, Mapping, Source
    >>> from langmem_isolated.lifecycle import ForeignMessage, ForeignSession
    >>> class OneSession(Source):
    ...     kind, identity = "one-session", "in this program"
    ...
    ...     def units(self):
    ...         said = [ForeignMessage(HumanMessage("Hello"), "message 1")]
    ...         yield ForeignSession("ann:monday", "session 1", said)
    >>> mapping = Mapping(module="tutor", pattern=r"(?P<user>[^:]+):(?P<session>.+)")
    >>> Import(memory, OneSession(), mapping).plan().records
    1

    Args:
        memory: The target.
        source: What is read. Whoever made it closes it.
        mapping: Whose each unit becomes.
        unmapped: What becomes of units without an owner. ``"stop"``: nothing is imported;
            ``"report"``: they go to the file of rejects; ``"skip"``: they are counted.
        readmit: Ids of users who may come back though they were erased here.
        embeddings: Embed documents for which the source has no embedding; without, those are
            rejected.
        folder: Where the receipt, rejects and backup go that have no place of their own; by default
            the current one. Their names begin with ``import-`` and the first digits of the token.
        receipt: Where the receipt goes.
        rejects: Where the rejects go.
        backup: Where the backup of the target goes; ``False`` for none.
        progress: Called behind each unit. What it raises ends the import, and the same one goes on.

    Raises:
        TypeError: An argument has another type.
        ValueError: ``unmapped`` is none of the three.
        MappingRefused: Nothing tells the user, or the module.
    """

    def __init__(
        self,
        memory: IsolatedMemory,
        source: Source,
        mapping: Mapping,
        *,
        unmapped: UnmappedRule = "stop",
        readmit: Iterable[str] = (),
        embeddings: Embeddings | None = None,
        folder: str | os.PathLike[str] = ".",
        receipt: str | os.PathLike[str] | None = None,
        rejects: str | os.PathLike[str] | None = None,
        backup: str | os.PathLike[str] | bool = True,
        progress: Progress | None = None,
    ) -> None:
        if not isinstance(source, Source) or not isinstance(mapping, Mapping):
            raise TypeError(
                "An import takes a Source and a Mapping, got "
                f"{kind_of(source)} and {kind_of(mapping)}. Nothing was imported."
            )
        if unmapped not in _RULES:
            raise ValueError(f"unmapped must be one of {', '.join(_RULES)}. Nothing was imported.")
        if progress is not None:
            callback("progress", progress, example="progress=lambda step: print(step.done)")
        refuse_single("readmit", readmit, (), example='readmit=["ann"]')
        self._memory, self._source, self._unmapped = memory, source, unmapped
        self._mapping = mapping.completed(source.owners)
        self._readmit = tuple(readmit)
        self._embeddings = embeddings
        self._progress: Progress = progress or (lambda _: None)
        self._stopped = threading.Event()
        name = Path(folder) / f"import-{self.token.hex()[:12]}"
        self.receipt_path = Path(receipt or f"{name}.json")
        self._rejects_path = Path(rejects or f"{name}-rejects.jsonl")
        self._wants_backup, self._is_place_given = backup is not False, backup not in (True, False)
        self._backup_path = Path(f"{name}-backup" if isinstance(backup, bool) else backup)

    @property
    def token(self) -> bytes:
        """16 bytes: the same for the same source, options and mapping, and no other."""
        told = [self._source_digest, self._mapping.digest.hex(), dict(self._source.options)]
        # Options may be paths.
        text = json.dumps(told, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).digest()[:_TOKEN_BYTES]

    @property
    def _source_digest(self) -> str:
        told = json.dumps([self._source.kind, self._source.identity])
        return hashlib.sha256(told.encode()).hexdigest()

    def plan(self, *, by_scope: bool = False) -> ImportPlan:
        """Read the source and count what would go where; the target is not touched, nor opened.

        Args:
            by_scope: Count for each scope, too; by default by module, for all users.

        Raises:
            SourceRefused: The source is not what this reads, or cannot be read.
        """
        planner = Planner(by_scope=by_scope)
        since, total = time.monotonic(), self._source.total()
        for unit, target in self._mapped(planner.leave_out, planner.reject):
            records = planner.add(unit, target)
            spent = time.monotonic() - since
            done = planner.tally.records
            self._tell(Step("reading", unit.place, "mapped", records, done, total, spent))
        return replace(
            planner.plan(self._source.kind, self._source.size()), notes=dict(self._source.notes())
        )

    def run(self) -> ImportReceipt:
        """Move all of it.

        Returns:
            The receipt, which stands in its file, too.

        Raises:
            RecordsUnmapped: Something has no owner, and ``unmapped`` is ``"stop"``; nothing was
                written.
            SourceRefused: The source is not what this reads, or cannot be read.
            ImportPlaceTaken: Something else stands where the receipt or the rejects go; nothing was
                written.
            BackupRefused: The backup cannot be written; nothing was.
            ImportNotVerified: What was read back is not what was put in.
            OSError: The receipt, rejects or backup cannot be written.
            DatabaseError: The database refused or failed; the same import goes on.
        """
        if self._unmapped == "stop":
            self._refuse_unmapped()
        former = self._former()
        receipt = ImportReceipt(
            self.token.hex(),
            self._source.kind,
            self._source_digest,
            self._mapping.digest.hex(),
            rejects_place=str(self._rejects_path),
        )
        receipt.write(self.receipt_path)
        with Rejects(self._rejects_path) as rejects:
            copying = Copying(rejects, self._unmapped)
            try:
                receipt = self._backed_up(receipt, former)
                self._copy(copying)
            except BaseException as error:
                told = copying.told() | {"error": type(error).__name__}
                receipt.ended("interrupted", **told).write(self.receipt_path)
                raise
        receipt = receipt.ended("done", **copying.told(), notes=dict(self._source.notes()))
        receipt.write(self.receipt_path)
        return receipt

    async def aplan(self, *, by_scope: bool = False) -> ImportPlan:
        """Count what would go where; see :meth:`plan`. Cancelled, it ends behind a unit."""
        return await self._off_the_loop(lambda: self.plan(by_scope=by_scope))

    async def arun(self) -> ImportReceipt:
        """Move all of it; see :meth:`run`. Cancelled, it ends behind a unit."""
        return await self._off_the_loop(self.run)

    async def _off_the_loop(self, call: Callable[[], T]) -> T:
        self._stopped.clear()
        try:
            return await asyncio.to_thread(call)
        finally:
            self._stopped.set()

    def _tell(self, step: Step) -> None:
        self._progress(step)
        self._refuse_stopped()

    def _refuse_stopped(self) -> None:
        if self._stopped.is_set():
            # Nobody waits for it any more.
            raise asyncio.CancelledError

    def _mapped(
        self,
        on_unmapped: Callable[[Rejected], object],
        on_reject: Callable[[Rejected], object] = lambda _: None,
    ) -> Iterator[tuple[ForeignUnit, Target]]:
        """Units with their targets, one at a time: each is read before the next is asked for."""
        for unit in self._source.units():
            if isinstance(unit, Rejected):
                on_reject(unit)
                continue
            try:
                target = self._mapping.target_of(unit)
            except Unmapped as error:
                on_unmapped(Rejected(unit.place, error.reason))
                continue
            yield unit, target

    def _refuse_unmapped(self) -> None:
        first: Rejected | None = None
        number = 0

        def leave_out(rejected: Rejected) -> None:
            nonlocal first, number
            first, number = first or rejected, number + 1

        for _ in self._mapped(leave_out):
            self._refuse_stopped()
        if first:
            raise RecordsUnmapped(number, first.place, first.reason)

    def _former(self) -> ImportReceipt | None:
        """The receipt that this import has written before.

        Raises:
            ImportPlaceTaken: Something else stands in its place, or in that of the rejects.
        """
        beside = [self.receipt_path, *[self._backup_path] * self._wants_backup]
        if self._rejects_path.resolve() in [path.resolve() for path in beside]:
            raise ImportPlaceTaken("rejects")
        if not self.receipt_path.exists():
            if self._rejects_path.exists():
                raise ImportPlaceTaken("rejects")
            return None
        try:
            former = ImportReceipt.read(self.receipt_path)
        except ReceiptRefused:
            raise ImportPlaceTaken("receipt") from None
        if former.token != self.token.hex():
            raise ImportPlaceTaken("receipt")
        if self._rejects_path.exists() and former.rejects_place != str(self._rejects_path):
            raise ImportPlaceTaken("rejects")
        return former

    def _backed_up(self, receipt: ImportReceipt, former: ImportReceipt | None) -> ImportReceipt:
        """The receipt with a backup from before this import wrote anything."""
        is_going_on = former is not None and former.status != "rolled back"
        if former and is_going_on and former.backup_state in ("made", "nothing there"):
            # What is there by now is this import's own, too.
            kept = replace(receipt, backup=former.backup, backup_state=former.backup_state)
        elif not self._wants_backup:
            kept = replace(receipt, backup_state="not wanted")
        else:
            place = back_up(self._memory, self._backup_place(), self._scopes())
            kept = replace(receipt, backup=place, backup_state="made" if place else "nothing there")
        kept.write(self.receipt_path)
        return kept

    def _backup_place(self) -> Path:
        """Where nothing stands, unless a place was given: a backup replaces none."""
        numbered = (self._backup_path.with_name(f"{self._backup_path.name}-{n}") for n in count(2))
        if self._is_place_given:
            return self._backup_path
        return next(path for path in chain([self._backup_path], numbered) if not path.exists())

    def _scopes(self) -> Iterator[Scope]:
        return (target.scope for _, target in self._mapped(lambda _: None))

    def _copy(self, copying: Copying) -> None:
        since, total = time.monotonic(), self._source.total()
        bulk = self._memory.bulk_import(self.token, source=self._source.kind, readmit=self._readmit)
        with bulk:
            mapped = self._mapped(copying.leave_out, copying.reject)
            for put in copying.put_all(bulk, mapped):
                spent = time.monotonic() - since
                done = copying.tally.records
                self._tell(Step("copying", put.place, put.state, put.records, done, total, spent))
