"""Lines of an export: each record as a dict that JSON has, with all that makes it anew.

Times are ISO 8601 in UTC, lifetimes microseconds, bytes base64. Where the readable form does not
tell all, ``stored`` is the record as it was sealed.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from langmem_isolated._codecs.documents import DOCUMENT_V1
from langmem_isolated._codecs.headers import decode_collection, decode_header
from langmem_isolated._codecs.readable import readable, readable_bytes, readable_message
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.sealing import DIGEST_BYTES
from langmem_isolated._runtime.clock import as_moment
from langmem_isolated._storage.grants import StoredGrant

if TYPE_CHECKING:
    from langmem_isolated._storage.copying.items import FoundItem
    from langmem_isolated._storage.copying.streaming import (
        Found,
        Streamed,
        StreamedDocument,
        StreamedEntry,
    )
    from langmem_isolated._storage.entries import Entry
    from langmem_isolated._storage.sessions.channel_limits import NamedLimits
    from langmem_isolated.lifecycle.audit.values import AuditEntry

Line = dict[str, Any]


def base64_of(value: bytes) -> str:
    """Bytes as JSON has them."""
    return base64.b64encode(value).decode()


def time_of(microseconds: int | None) -> str | None:
    """A moment in ISO 8601, UTC, to the microsecond."""
    moment = None if microseconds is None else as_moment(microseconds)
    return None if moment is None else moment.isoformat(timespec="microseconds")


def _with_stored(line: Line, stored: bytes, *, is_exact: bool) -> Line:
    return line if is_exact else {**line, "stored": base64_of(stored)}


def _row(of: Found) -> Line:
    state = of.state
    return {
        "closed": state.is_closed,
        "archived": state.is_archived,
        "pinned": bool(state.is_pinned),
        "idle_lifetime": state.idle_lifetime,
        "absolute_lifetime": state.absolute_lifetime,
        "created_at": time_of(state.created_at),
        "updated_at": time_of(state.updated_at),
        "expires_at": time_of(state.expires_at),
        "next_sequence": state.next_sequence,
        "count": state.count,
        "stored": base64_of(of.header),
    }


def container_line(of: Found) -> Line:
    """A session or thread, by its header and row."""
    header = decode_header(of.header)
    return {
        "id": header.session_id,
        "title": header.title,
        "channel": header.channel,
        "summary": header.summary,
        "summarized": header.summarized,
        "origin": header.origin,
        "untrusted": bool(header.is_untrusted),
        **_row(of),
    }


def limits_line(limits: NamedLimits | None) -> Line | None:
    """How many messages of which channels a session keeps."""
    if limits is None:
        return None
    return {"own": limits.is_own, "channels": {n: of.limit for n, of in limits.kept.items()}}


def message_line(session: str, one: Streamed) -> Line:
    """A message of a session."""
    message, metadata, is_exact = readable_message(one.plaintext)
    line = {
        "session": session,
        "sequence": int.from_bytes(one.key),
        "stored_at": time_of(one.stored_at),
        "form": one.plaintext[0],
        "written_at": metadata and time_of(metadata.written),
        "channel": metadata and metadata.channel,
        "untrusted": bool(metadata and metadata.is_untrusted),
        "tokens": metadata and metadata.tokens,
        "found_by_id": one.has_alias,
        "message": message,
    }
    return _with_stored(line, one.plaintext, is_exact=is_exact)


def history_line(thread: str, namespaces: dict[bytes, str], one: Streamed) -> Line:
    """A checkpoint, what a task wrote behind one, or an element that they refer to."""
    line: Line = {"thread": thread, "record": one.kind.label, "stored_at": time_of(one.stored_at)}
    if one.kind is Kind.ELEMENT:
        line["number"] = int.from_bytes(one.key)
    else:
        # A write stands behind its checkpoint's id, at a digest that is made anew elsewhere.
        line["namespace"] = namespaces.get(one.parent)
        line["checkpoint"] = one.key[:DIGEST_BYTES].hex()
    return {**line, "stored": base64_of(one.plaintext)}


def item_line(found: FoundItem) -> Line:
    """An item of a store."""
    item = found.item
    (value, key, *namespace), is_exact = readable(item.body)
    line = {
        "namespace": namespace,
        "key": key,
        "value": value,
        "created_at": time_of(item.created),
        "updated_at": time_of(item.updated),
        "lifetime": item.lifetime,
        "expires_at": time_of(found.expires_at),
        "vectors": [base64_of(vector) for vector in found.vectors],
    }
    return _with_stored(line, item.body, is_exact=is_exact)


def collection_line(of: Found) -> Line:
    """A collection, whose documents have lines of their own."""
    header, state = decode_collection(of.header), of.state
    return {
        "collection": header.collection,
        "embedded_by": header.embedding_name,
        "created_at": time_of(state.created_at),
        "updated_at": time_of(state.updated_at),
        "count": state.count,
    }


def document_line(of: Found, one: StreamedDocument) -> Line:
    """A document of a collection, with its embedding."""
    header = decode_collection(of.header)
    (_, text, metadata), is_exact = readable(one.body[len(DOCUMENT_V1) :])
    line = {
        "collection": header.collection,
        "embedded_by": header.embedding_name,
        "id": one.id,
        "text": text,
        "metadata": metadata,
        "stored_at": time_of(one.stored_at),
        "embedding": base64_of(one.embedding),
    }
    return _with_stored(line, one.body, is_exact=is_exact)


def entry_line(kind: Kind, one: StreamedEntry) -> Line:
    """An entry of a kind: what it says in a readable form, where it has one."""
    entry = one.entry
    return {
        "space": [_text(name) for name in one.names],
        "key": _text(entry.key),
        "value": _value(kind, entry),
        "created_at": time_of(one.created_at),
        "updated_at": time_of(one.updated_at),
        "expires_at": time_of(one.expires_at),
        "stored": {
            "names": [base64_of(name) for name in one.names],
            "key": base64_of(entry.key),
            "tag": None if entry.tag is None else base64_of(entry.tag),
            "value": base64_of(entry.value),
        },
    }


def audit_line(entry: AuditEntry) -> Line:
    """An entry of the audit log that is about the user."""
    return {
        "module": entry.module_id,
        "time": entry.time.isoformat(timespec="microseconds"),
        "operation": entry.operation,
        "outcome": entry.outcome,
        "actor": entry.actor,
        "reason": entry.reason,
        "count": entry.count,
        "until": entry.until and entry.until.isoformat(timespec="microseconds"),
    }


def _granted(entry: Entry) -> Line | None:
    """What a grant says; the ledger, under an empty key, only names those that are in force."""
    if not entry.key:
        return None
    grant = StoredGrant.of(entry.value)
    return {
        "granted_at": time_of(grant.granted_at),
        "ends_at": time_of(grant.ends_at or None),
        "terms": readable(grant.terms).value,
    }


def _value(kind: Kind, entry: Entry) -> Any:
    if kind is Kind.GRANT:
        return _granted(entry)
    if kind is Kind.RECEIPT:
        return readable(entry.value).value
    return readable_bytes(entry.value)


def _text(name: bytes) -> str:
    return name.decode(errors="backslashreplace")
