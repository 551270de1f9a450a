"""Reading of an audit log: entries by subject and time, opened as far as keys are there."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING

from langmem_isolated._runtime.arguments import kind_of, whole_number
from langmem_isolated._runtime.clock import EPOCH, MICROSECOND
from langmem_isolated._storage.audit_keys import subject_key, subject_of
from langmem_isolated._storage.audit_notes import opened_note
from langmem_isolated.lifecycle.audit.values import AuditEntry

if TYPE_CHECKING:
    from langmem_isolated._adapters.context import MemoryContext
    from langmem_isolated._crypto.owners import Owner
    from langmem_isolated._crypto.sealing import SealingKey
    from langmem_isolated._storage.audit import AuditChains
    from langmem_isolated._storage.audit_rows import AuditRow, Position

_FOR_EVER = 2**62
_PAGE = 500


def entries_of(
    context: MemoryContext,
    owner: Owner | None,
    limit: int,
    before: datetime | None,
    since: datetime | None,
) -> list[AuditEntry]:
    """Entries about an owner's subject, or about everybody, the newest first."""
    whole_number("limit", limit, least=1)
    end, begin = _before(before), _moment("since", since, 0)
    context.audit.flush()
    chains = context.audit.required()
    if owner is None:
        rows = chains.newest(None, end, since=begin, most=limit)
        keys = _keys_of(context, rows, chains)
    else:
        subject, key = _of_subject(context, owner, chains)
        rows = chains.newest(subject, end, since=begin, most=limit)
        keys = {subject: key}
    own = chains.directory.audit
    return [AuditEntry.of(row, opened_note(row, own, keys.get(row.scope_id))) for row in rows]


def _of_subject(
    context: MemoryContext, owner: Owner, chains: AuditChains
) -> tuple[bytes, SealingKey | None]:
    scope_id = chains.directory.scope_id_of(subject_of(owner))
    return scope_id, subject_key(context.keyring, owner)


def _keys_of(
    context: MemoryContext, rows: list[AuditRow], chains: AuditChains
) -> dict[bytes | None, SealingKey | None]:
    """What may open entries about subjects that only their digests name: looked for among all."""
    missing = {row.scope_id for row in rows} - {None}
    found: dict[bytes | None, SealingKey | None] = {}
    for _, owner in context.keyring.walk() if missing else ():
        scope_id = chains.directory.scope_id_of(subject_of(owner))
        if scope_id in missing and (key := subject_key(context.keyring, owner)) is not None:
            found[scope_id] = key
            missing.remove(scope_id)
        if not missing:
            break
    return found


def seen_by(
    context: MemoryContext, owner: Owner, limit: int, before: datetime | None
) -> list[AuditEntry]:
    """Of the entries about a user those of one module, and of none alone, that the user may see.

    Those that the user's key opens: what is sealed otherwise is about a former life.
    """
    whole_number("limit", limit, least=1)
    end = _before(before)
    context.audit.flush()
    if (chains := context.audit.chains()) is None or not chains.heads():
        return []
    shown = (entry for entry in _own(context, owner, chains, end) if _concerns(entry, owner))
    return [entry for entry, _ in zip(shown, range(limit), strict=False)]


def _own(
    context: MemoryContext, owner: Owner, chains: AuditChains, end: Position
) -> Iterator[AuditEntry]:
    """All entries about a subject that its key opens, the newest first."""
    subject, key = _of_subject(context, owner, chains)
    while key and (rows := chains.newest(subject, end, since=0, most=_PAGE)):
        for row in rows:
            if (note := opened_note(row, key)) is not None:
                yield AuditEntry.of(row, note)
        end = rows[-1].position


def _concerns(entry: AuditEntry, owner: Owner) -> bool:
    return owner.module is None or entry.module_id in (None, owner.module)


def all_of(context: MemoryContext, owner: Owner) -> Iterator[AuditEntry]:
    """All that is noted about a user and opens, the newest first; for an export."""
    context.audit.flush()
    if (chains := context.audit.chains()) is not None and chains.heads():
        found = _own(context, owner, chains, _before(None))
        yield from (entry for entry in found if _concerns(entry, owner))


def _before(moment: datetime | None) -> Position:
    return _moment("before", moment, _FOR_EVER), -1, -1


def _moment(name: str, value: object, default: int) -> int:
    if value is None:
        return default
    if not isinstance(value, datetime):
        raise TypeError(f"{name} must be a datetime or None, got {kind_of(value)}.")
    if value.tzinfo is None:
        raise ValueError(
            f"{name} must have a time zone, as datetime.now(UTC) has, got a datetime without."
        )
    return (value - EPOCH) // MICROSECOND
