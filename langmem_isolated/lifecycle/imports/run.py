"""Import: reads an archive twice, once to check all of it, and once to put it in.

Both go through the lines in one order: owner by owner, each file of an owner from its first line to
its last, messages beside their sessions and the history of threads beside these. What the second
has put in is kept as a number of lines, in the transaction that put them in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langmem_isolated._codecs.classes import AllowedTypes
from langmem_isolated._codecs.foreign import ForeignForms
from langmem_isolated._codecs.refusals import NotStorable
from langmem_isolated._crypto.owners import Level, Owner
from langmem_isolated._runtime.clock import now
from langmem_isolated.errors import ImportRefused, UserWasErased
from langmem_isolated.lifecycle.imports.archive import ExportArchive
from langmem_isolated.lifecycle.imports.entries import Entries
from langmem_isolated.lifecycle.imports.looking import Look
from langmem_isolated.lifecycle.imports.putting import Put
from langmem_isolated.lifecycle.imports.reading import Reading, Sink
from langmem_isolated.lifecycle.imports.records import Records
from langmem_isolated.scope import checked_id

if TYPE_CHECKING:
    from langmem_isolated._adapters.context import MemoryContext

Progress = Callable[[int], object]
_ABOUT = "data/about.json"


class ImportStopped(Exception):
    """Who asked for the import does not wait for it any more."""


@dataclass(frozen=True, slots=True)
class Imported:
    """Whose memory an archive has become, and how many lines of each of its files."""

    user_id: str = field(repr=False)
    counts: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    """How many were left out; `docs/privacy/leaving.md` says why."""

    def as_dict(self) -> dict[str, Any]:
        """The same as a dict, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Request:
    """What is imported: from where, to whom, with which classes."""

    path: Path
    user_id: str | None
    project_id: str
    types: AllowedTypes
    readmit: frozenset[str]


class Import:
    """Puts the memory of an archive in.

    Args:
        context: Where.
        request: What.
        progress: Told after each batch how many lines are in by now.
        is_stopped: Asked after each batch.
    """

    def __init__(
        self,
        context: MemoryContext,
        request: Request,
        progress: Progress | None,
        is_stopped: Callable[[], bool],
    ) -> None:
        self._context, self._request = context, request
        self._progress, self._is_stopped = progress, is_stopped
        self._now = now()

    def run(self) -> Imported:
        """Import it.

        Raises:
            ImportRefused: It is no export, or not as it was exported.
            ImportConflict: The user has something of the same name.
            UserWasErased: The user was erased here.
        """
        with closing(ExportArchive(self._request.path)) as archive:
            manifest, about = archive.verified()
            told = _About.of(about)
            target = Owner(Level.USER, self._request.project_id, self._request.user_id or told.user)
            self._refuse_erased(target)
            owners = told.owners_for(target)
            looked = self._looked_and_put(archive, manifest, told, target, owners)
        assert target.user is not None
        return Imported(target.user, dict(looked.imported), dict(looked.skipped))

    def _looked_and_put(
        self,
        archive: ExportArchive,
        manifest: bytes,
        told: _About,
        target: Owner,
        owners: list[Owner],
    ) -> Reading:
        put = Put(self._context, owners, manifest, self._now, self._told) if owners else None
        begun_at = None if put is None else put.begun_at
        look = Look(self._context, begun_at, self._now, self._stop)
        looked = self._read(archive, told, target, look, owners)
        if looked.counts != told.counts:
            raise ImportRefused("the files have not as many lines as it gives", _ABOUT)
        if put is not None:
            # It may have taken minutes to look.
            self._refuse_erased(target)
            put.begin(lambda: self._refuse_erased(target))
            self._read(archive, told, target, put, owners)
            put.end()
        return looked

    def _read(
        self,
        archive: ExportArchive,
        told: _About,
        target: Owner,
        sink: Sink,
        owners: list[Owner],
    ) -> Reading:
        limits, forms = self._context.limits, ForeignForms(self._request.types)
        user = Owner(Level.USER, told.project, told.user)
        modules = frozenset(one.module for one in owners if one.module)
        entries = Entries(forms, limits, user, target, modules)
        records = Records(forms, limits, is_known=isinstance(sink, Put))
        reading = Reading(archive, records, entries, sink, self._now)
        reading.read(owners)
        return reading

    def _stop(self) -> None:
        if self._is_stopped():
            raise ImportStopped

    def _told(self, lines: int) -> None:
        if self._progress is not None:
            self._progress(lines)
        self._stop()

    def _refuse_erased(self, target: Owner) -> None:
        is_named = target.user in self._request.readmit
        if not is_named and self._context.is_tombstoned(target):
            raise UserWasErased


@dataclass(frozen=True)
class _About:
    """What an archive says of itself."""

    user: str
    project: str
    modules: list[str | None]
    """Of which owners it has lines, ``None`` for what all modules share."""
    counts: Counter[str]

    @classmethod
    def of(cls, about: dict[str, Any]) -> _About:
        """As it is in the archive.

        Raises:
            ImportRefused: It is not as an export writes it.
        """
        try:
            modules = [one["module"] for one in about["statistics"]]
            for module in modules:
                if module is not None:
                    checked_id("module", module)
            counts = {name.removesuffix(".jsonl"): n for name, n in about["counts"].items()}
            if not all(type(one) is int for one in counts.values()):
                raise NotStorable
            user, project = (
                checked_id("user", about["user"]),
                checked_id("project", about["project"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError):
            raise ImportRefused("it is not as an export writes it", _ABOUT) from None
        if modules != sorted(set(modules), key=lambda one: one or ""):
            raise ImportRefused("its modules are not in their order, each once", _ABOUT)
        return cls(user, project, modules, Counter(counts))

    def owners_for(self, target: Owner) -> list[Owner]:
        """The target's owners of what is in it."""
        user, project = target.user, target.project
        return [
            target if module is None else Owner(Level.PRIVATE, project, user, module)
            for module in self.modules
        ]
