"""Confirmation of what came from elsewhere: the mark of being untrusted, found and taken away."""

from langmem_isolated._codecs.headers import decode_header, encode_header
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._storage.copying.containers import ROWS, Source, sources


def unconfirmed(transaction: Transaction, keys: ScopeKeys, now: int) -> list[Source]:
    """The sessions and threads of a scope that nobody has confirmed.

    Raises:
        RecordDoesNotOpen: A row was changed, moved or exchanged.
    """
    return [one for one in sources(transaction, keys, now) if _is_marked(transaction, keys, one)]


def _is_marked(transaction: Transaction, keys: ScopeKeys, source: Source) -> bool:
    found = ROWS[source.kind].header(transaction, keys, source.digest)
    return found is not None and bool(decode_header(found[1]).is_untrusted)


def confirm(transaction: Transaction, keys: ScopeKeys, source: Source, now: int) -> bool:
    """Take the mark away from a session or thread; ``False`` if it is not there."""
    rows = ROWS[source.kind]
    state = rows.locked(transaction, keys, source.digest)
    found = rows.header(transaction, keys, source.digest)
    if state is None or found is None or state.is_expired(now):
        return False
    header = decode_header(found[1])
    if header.is_untrusted:
        confirmed = encode_header(header._replace(is_untrusted=None))
        rows.rewrite(transaction, keys, source.digest, state, confirmed)
    return True
