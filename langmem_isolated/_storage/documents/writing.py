"""Writes a collection: replaces, removes and clears documents."""

from collections.abc import Callable, Sequence

from langmem_isolated._codecs.headers import (
    CollectionHeader,
    encode_collection,
)
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._storage.container_state import UNSEEN, ContainerState
from langmem_isolated._storage.documents import statements as sql
from langmem_isolated._storage.documents.collection import (
    Collection,
    expect_no_records,
)
from langmem_isolated._storage.documents.unit_of_work import ROWS, NewDocument, UnitOfWork


def put(
    transaction: Transaction,
    keys: ScopeKeys,
    name: bytes,
    header: CollectionHeader,
    documents: Sequence[NewDocument],
    birth: bytes,
    now: int,
    *,
    replaces: bool = True,
) -> bool:
    """Store documents, no two of one id, in place of those that have their ids.

    Args:
        name: The collection's.
        header: What the collection's row seals: by which model its documents are embedded.
        documents: One or more, with embeddings of one length.
        birth: 16 random bytes for a new collection's row.
        replaces: Whether those that have their ids are replaced.

    Returns:
        Whether they are stored; if not, one of their ids has a document, and nothing was written.

    Raises:
        ScopeGone: The scope was erased; nothing was written.
        EmbeddingModelChanged: The collection's embeddings are of another model, or have another
            length; nothing was written.
        RecordDoesNotOpen: The collection's row, or what is to be replaced, was tampered with.
    """
    digest = keys.pseudonym(Kind.COLLECTION, name)
    state = ROWS.get_or_create(transaction, keys, digest, encode_collection(header), birth, now)
    collection = Collection(transaction, keys, digest, state)
    change = UnitOfWork(collection)
    digests = [collection.document_digest(document.name) for document in documents]
    if state.next_sequence:
        if not replaces and any(collection.at(digests)):
            return False
        change.remove_documents(digests)
    else:
        # Nothing to look up: on SQLite each look-up beside a value of 4 MB reads all of that.
        expect_no_records(transaction, keys, digest)
    length = len(documents[0].embedding)
    change.check_length(length)
    change.take_model(header)
    change.insert(dict(zip(digests, documents, strict=True)), length)
    change.flush(now)
    return True


def reembed(
    transaction: Transaction,
    keys: ScopeKeys,
    name: bytes,
    header: CollectionHeader,
    vector_of: Callable[[bytes], bytes | None],
    birth: bytes,
    now: int,
) -> tuple[int, list[bytes]]:
    """Give every document of a collection another embedding; all or none.

    The collection begins another life: no embedding of the former one opens any more. Documents
    stay as old as they are.

    Args:
        name: The collection's.
        header: Takes the place of the row's.
        vector_of: The embedding of a document, by its plaintext, all of one length; ``None`` where
            there is none yet, because the document was stored a moment ago.
        birth: 16 random bytes.

    Returns:
        How many documents have another embedding now, and those that still need one: if there are
        any, nothing was written.

    Raises:
        RecordDoesNotOpen: A document was changed, added, removed or restored.
    """
    digest = keys.pseudonym(Kind.COLLECTION, name)
    state = ROWS.locked(transaction, keys, digest)
    if state is None or state.is_absent or not state.count:
        return 0, []
    documents = Collection(transaction, keys, digest, state).everything_proved()
    vectors = {at: vector_of(document.body) for at, document in documents.items()}
    if missing := [documents[at].body for at, vector in vectors.items() if vector is None]:
        return 0, missing
    ROWS.delete_children(transaction, keys, digest, has_row=True)
    sealed_header = encode_collection(header)
    ROWS.begin_again(transaction, keys, digest, state, sealed_header, birth, now)
    begun = ROWS.locked(transaction, keys, digest)
    assert begun is not None
    change = UnitOfWork(Collection(transaction, keys, digest, begun))
    # How long they are kept is told from when they were stored, by whatever model embeds them.
    new = {
        at: NewDocument(b"", body, vectors[at] or b"", stored_at)
        for at, (body, stored_at) in documents.items()
    }
    change.insert(new, len(next(iter(new.values())).embedding))
    change.flush(now)
    return len(documents), []


def remove(
    transaction: Transaction, keys: ScopeKeys, name: bytes, names: Sequence[bytes], now: int
) -> None:
    """Remove the documents that have these ids."""
    digest = keys.pseudonym(Kind.COLLECTION, name)
    state = ROWS.locked(transaction, keys, digest)
    if state is not None and not state.is_absent:
        collection = Collection(transaction, keys, digest, state)
        change = UnitOfWork(collection)
        change.remove_documents(dict.fromkeys(map(collection.document_digest, names)))
        change.flush(now)


def remove_older(
    transaction: Transaction, keys: ScopeKeys, digest: bytes, until: int, most: int, now: int
) -> int:
    """Remove up to ``most`` documents that were stored at ``until`` or before; returns how many.

    Args:
        digest: The collection's.
        until: In µs.
        most: How many at once.
        now: The time, in µs.

    Raises:
        RecordDoesNotOpen: The collection's row, or what is to be removed, was tampered with.
    """
    state = ROWS.locked(transaction, keys, digest)
    if state is None or state.is_absent:
        return 0
    collection = Collection(transaction, keys, digest, state)
    rows = transaction.rows(sql.OLDER, **collection.shared, until=until, limit=most)
    change = UnitOfWork(collection)
    change.remove_documents(key for (key,) in rows)
    change.flush(now)
    return len(rows)


def count_older(transaction: Transaction, keys: ScopeKeys, digest: bytes, until: int) -> int:
    """How many documents of a collection were stored at ``until`` or before, in µs."""
    row = transaction.row(sql.COUNT_OLDER, scope_id=keys.scope_id, digest=digest, until=until)
    return row[0] if row else 0


def clear(transaction: Transaction, keys: ScopeKeys, name: bytes) -> None:
    """Remove every document, whatever was done to them, and the collection's row."""
    ROWS.remove(transaction, keys, keys.pseudonym(Kind.COLLECTION, name))


# --- staged: until it is published nobody sees it -------------------------------------------------


def stage(
    transaction: Transaction, keys: ScopeKeys, header: CollectionHeader, birth: bytes, now: int
) -> ContainerState:
    """Make a collection's row, unseen and empty, in place of what is there; how it is left.

    Raises:
        ScopeGone: The scope was erased; nothing was written.
    """
    digest = keys.pseudonym(Kind.COLLECTION, header.collection.encode())
    sealed = encode_collection(header)
    ROWS.remove(transaction, keys, digest)
    made = ROWS.get_or_create(transaction, keys, digest, sealed, birth, now)
    return ROWS.update(transaction, keys, digest, made._replace(expires_at=UNSEEN)).but_keys


def put_staged(
    transaction: Transaction,
    keys: ScopeKeys,
    name: bytes,
    left: ContainerState,
    documents: Sequence[NewDocument],
    now: int,
) -> ContainerState | None:
    """Put in further documents, of other ids; the row as it is left, ``None`` if it was another."""
    digest = keys.pseudonym(Kind.COLLECTION, name)
    state = ROWS.locked(transaction, keys, digest)
    if state is None or state.but_keys != left:
        return None
    collection = Collection(transaction, keys, digest, state)
    change = UnitOfWork(collection)
    length = len(documents[0].embedding)
    change.check_length(length)
    digests = [collection.document_digest(document.name) for document in documents]
    change.insert(dict(zip(digests, documents, strict=True)), length)
    change.flush(now)
    stored = ROWS.locked(transaction, keys, digest)
    return stored and stored.but_keys


def publish(
    transaction: Transaction, keys: ScopeKeys, name: bytes, left: ContainerState, updated_at: int
) -> bool:
    """Let a staged collection be seen; ``False`` if its row is another."""
    digest = keys.pseudonym(Kind.COLLECTION, name)
    state = ROWS.locked(transaction, keys, digest)
    if state is None or state.but_keys != left:
        return False
    seen = state._replace(expires_at=None, updated_at=updated_at)
    ROWS.update(transaction, keys, digest, seen)
    return True
