"""Export: walks over a user's scopes, and writes a line for each record into an archive.

Each container is read in one state of the database; two of them may be of two states.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from langmem_isolated._codecs.checkpoints.serializer import Serde
from langmem_isolated._codecs.readable import readable_state
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.owners import Level, Owner
from langmem_isolated._runtime.clock import now
from langmem_isolated._storage import wrapped_stores
from langmem_isolated._storage.copying import streaming
from langmem_isolated._storage.copying.items import item_pages
from langmem_isolated._storage.sessions.channel_limits import CUSTOMARY, NamedLimits
from langmem_isolated.checkpointer import thread_values
from langmem_isolated.lifecycle.audit.reading import all_of
from langmem_isolated.lifecycle.export import lines
from langmem_isolated.lifecycle.export.archive import Archive
from langmem_isolated.lifecycle.export.bag import Bag
from langmem_isolated.lifecycle.export.mem_bundle import MemBundle
from langmem_isolated.lifecycle.export.portable import Portable
from langmem_isolated.lifecycle.statistics import stats_of

if TYPE_CHECKING:
    from langmem_isolated._adapters.context import MemoryContext
    from langmem_isolated._crypto.scope_keys import ScopeKeys
    from langmem_isolated._database.transactions import Transaction
    from langmem_isolated._storage.copying.streaming import Found
    from langmem_isolated._storage.scoped_database import ScopedDatabase

Progress = Callable[[int], object]
Profile = Literal["full", "mem"]

# By the kind of entry, the file that has it.
ENTRY_FILES = {
    Kind.PROFILE: "profiles",
    Kind.ENTRY: "entries",
    Kind.GRANT: "grants",
    Kind.POLICY: "policies",
    Kind.RECEIPT: "receipts",
}
AUDIT_FILE = "audit"
"""Who looked at the user's memory or changed it: for the user to have, and imported nowhere."""
FILES = (
    *("messages", "sessions", "threads", "checkpoints", "items", "documents", "collections"),
    *ENTRY_FILES.values(),
    AUDIT_FILE,
)
# What no file has.
NOT_EXPORTED = {
    Kind.CLAIM: "it names a guest that was claimed, or says how far an import has come",
    Kind.INBOX: "it waits for its user; an unlock, or collect_inbox(), brings it into sessions",
    Kind.STORE_NOTE: "it finds documents of this database's owner tags, for an erasure alone",
}


class ExportStopped(Exception):
    """Who asked for the export does not wait for it any more."""


@dataclass(frozen=True, slots=True)
class Exported:
    """Where an export is, and how many lines each of its files has."""

    path: str
    counts: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    """How many records of which kind the format has no place for; none in a full export."""
    stores: tuple[str, ...] = ()
    """Names of third-party vector stores that the user has written to: what they hold of the user
    is in no export."""

    def as_dict(self) -> dict[str, Any]:
        """The same as a dict, for JSON."""
        return asdict(self)


class Export:
    """Writes what a user has.

    Args:
        context: Whose memory.
        user: Whose.
        module: Only in this module, and nothing that all modules share; by default all.
        profile: ``"full"`` for all of it, ``"mem"`` for what the portable format has a place for.
        progress: Told after each page how many lines there are by now.
        is_stopped: Asked after each page.
    """

    def __init__(
        self,
        context: MemoryContext,
        user: Owner,
        module: str | None,
        profile: Profile,
        progress: Progress | None,
        is_stopped: Callable[[], bool],
    ) -> None:
        self._context, self._user, self._module = context, user, module
        self._profile = profile
        self._progress, self._is_stopped = progress, is_stopped
        self._now = now()

    def write_to(self, output: Path) -> Exported:
        """Write an archive at ``output``.

        Raises:
            RecordDoesNotOpen: A record is not as it was stored; nothing stands at ``output``.
        """
        with closing(self._archive(output)) as archive:
            owners = self._owners()
            for owner in owners:
                _OfOwner(self._context.operators(owner), archive, self._now, self._told).write()
            self._audit(archive)
            stores = self._stores(owners)
            archive.publish(self._about(owners, archive, stores))
            return Exported(str(output), dict(archive.counts), dict(archive.left_out), stores)

    def _audit(self, archive: Archive) -> None:
        about, module = self._user, self._module
        if module is not None:
            about = replace(about, level=Level.PRIVATE, module=module)
        for entry in all_of(self._context, about):
            archive.add(AUDIT_FILE, lines.audit_line(entry))
        self._told(archive.read)

    def _archive(self, output: Path) -> Archive:
        if self._profile == "full":
            return Bag(output, FILES)
        return MemBundle(output, Portable(self._user.project, self._user.user or ""))

    def _owners(self) -> list[Owner]:
        found = self._context.keyring.owners(self._user)
        if self._module is not None:
            found = [owner for owner in found if owner.module == self._module]
        return sorted(found, key=lambda owner: owner.module or "")

    def _stores(self, owners: list[Owner]) -> tuple[str, ...]:
        found: set[str] = set()
        for owner in owners:
            nothing: list[str] = []
            records = self._context.operators(owner)
            found.update(records.snapshot(wrapped_stores.stores_noted, nothing, self._now))
        return tuple(sorted(found))

    def _told(self, written: int) -> None:
        if self._progress is not None:
            self._progress(written)
        if self._is_stopped():
            raise ExportStopped

    def _about(
        self, owners: list[Owner], archive: Archive, stores: tuple[str, ...]
    ) -> dict[str, Any]:
        return {
            "exported_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "project": self._user.project,
            "user": self._user.user,
            "modules": [owner.module for owner in owners if owner.level is Level.PRIVATE],
            "only_module": self._module,
            "counts": {f"{name}.jsonl": count for name, count in archive.counts.items()},
            "stores": stores,
            "statistics": [self._statistics(owner) for owner in owners],
        }

    def _statistics(self, owner: Owner) -> dict[str, Any]:
        found = stats_of(self._context, owner)
        days = [day for day in found.days if day.messages or day.bytes or day.active_users]
        return {
            "module": owner.module,
            "total": _plain(asdict(found.total)),
            "days": [_plain(asdict(day)) for day in days],
            "tokens": [_plain(asdict(one)) for one in found.tokens],
        }


def _plain(numbers: dict[str, Any]) -> dict[str, Any]:
    """With days and moments in ISO 8601."""
    return {n: v.isoformat() if hasattr(v, "isoformat") else v for n, v in numbers.items()}


class _OfOwner:
    """Writes what one owner has."""

    def __init__(
        self, records: ScopedDatabase, archive: Archive, now: int, told: Callable[[int], None]
    ) -> None:
        self._records, self._archive, self._now, self._told = records, archive, now, told

    def write(self) -> None:
        """Write all of it."""
        for kind, write in (
            (Kind.SESSION, self._session),
            (Kind.THREAD, self._thread),
            (Kind.COLLECTION, self._collection),
        ):
            nothing: list[bytes] = []
            for digest in self._records.snapshot(streaming.digests, nothing, kind):
                self._in_one_state(self._container, kind, digest, write)
        self._in_one_state(self._items)
        for kind in ENTRY_FILES:
            self._in_one_state(self._entries, kind)

    def _in_one_state(self, write: Callable[..., None], *args: Any) -> None:
        # Run again with fresh keys, it must not write twice.
        mark = self._archive.mark()

        def once(transaction: Transaction, keys: ScopeKeys) -> None:
            self._archive.back_to(mark)
            write(transaction, keys, *args)

        self._records.snapshot(once, None)

    def _add(self, file: str, line: lines.Line, within: lines.Line | None = None) -> None:
        self._archive.add(file, {"module": self._records.owner.module, **line}, within)

    def _page_is_done(self) -> None:
        self._told(self._archive.read)

    def _container(
        self,
        transaction: Transaction,
        keys: ScopeKeys,
        kind: Kind,
        digest: bytes,
        write: Callable[[Transaction, ScopeKeys, Found], None],
    ) -> None:
        found = streaming.container(transaction, keys, kind, digest, self._now)
        if found is not None:
            write(transaction, keys, found)
            self._page_is_done()

    def _session(self, transaction: Transaction, keys: ScopeKeys, of: Found) -> None:
        line, channels = lines.container_line(of), {*CUSTOMARY}
        for page in streaming.messages(transaction, keys, of):
            for one in page:
                message = lines.message_line(line["id"], one)
                channels |= {message["channel"] or CUSTOMARY[0]}
                self._add("messages", message, line)
            self._page_is_done()
        named = NamedLimits.of(keys, of.state, channels | ({line["channel"]} - {None}))
        self._add("sessions", {**line, "limits": lines.limits_line(named)})

    def _thread(self, transaction: Transaction, keys: ScopeKeys, of: Found) -> None:
        line = lines.container_line(of)
        namespaces: dict[bytes, str] = {}
        for page in streaming.history(transaction, keys, of):
            for one in page:
                if one.kind is Kind.CHECKPOINT:
                    namespaces.setdefault(one.parent, streaming.namespace_of(one))
                self._add("checkpoints", lines.history_line(line["id"], namespaces, one))
            self._page_is_done()
        values = thread_values(transaction, keys, line["id"], Serde(), self._now)
        state = None if values is None else readable_state(values)
        self._add("threads", {**line, "state": state})

    def _collection(self, transaction: Transaction, keys: ScopeKeys, of: Found) -> None:
        for page in streaming.collected(transaction, keys, of):
            for one in page:
                self._add("documents", lines.document_line(of, one))
            self._page_is_done()
        self._add("collections", lines.collection_line(of))

    def _items(self, transaction: Transaction, keys: ScopeKeys) -> None:
        for page in item_pages(transaction, keys, self._now):
            for one in page:
                self._add("items", lines.item_line(one))
            self._page_is_done()

    def _entries(self, transaction: Transaction, keys: ScopeKeys, kind: Kind) -> None:
        for page in streaming.kept(transaction, keys, kind, self._now):
            for one in page:
                self._add(ENTRY_FILES[kind], lines.entry_line(kind, one))
            self._page_is_done()
