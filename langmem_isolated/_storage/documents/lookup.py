"""Indexed lookup of documents: those that may pass a filter, and those not indexed yet."""

from collections.abc import Callable, Sequence

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._search.equality import Term
from langmem_isolated._storage import equalities
from langmem_isolated._storage.documents import statements as sql
from langmem_isolated._storage.documents.collection import Collection
from langmem_isolated._storage.documents.unit_of_work import ROWS


class Lookup:
    """One search of a collection by equality conditions.

    Args:
        collection: As the transaction sees it.
        terms: One or more, of what passes.
        terms_of: The terms of a body, in every field that is indexed.
    """

    def __init__(
        self,
        collection: Collection,
        terms: Sequence[Term],
        terms_of: Callable[[bytes], Sequence[Term]],
    ) -> None:
        self.unindexed: list[equalities.NewDigests] = []
        """Documents that were opened for having no digests, and those that they get."""
        self._of = collection
        self._terms_of = terms_of
        asked = equalities.Conditions(collection.keys, collection.digest, terms)
        is_postgres = collection.transaction.is_postgres
        statement = sql.candidates(asked.count, is_postgres=is_postgres)
        rows = collection.transaction.rows(statement, **collection.shared, **asked.values)
        self.candidates = {key for key, *_ in rows}
        """The digests of documents that may pass."""
        self._without = {row[0]: row[1:] for row in rows if asked.lacks_digests(row[1])}

    def look_at(self, digest: bytes, body: bytes) -> None:
        """Remember a document that is not indexed, once it was opened."""
        if digest in self._without:
            former, head, stored_at = self._without[digest]
            terms = self._terms_of(body)
            new = self._of.digests_for(digest, stored_at, terms, body, former)
            if new is not None and new != former:
                address = self._of.digest, digest
                self.unindexed.append(equalities.NewDigests(address, head, new))


def index(
    transaction: Transaction,
    keys: ScopeKeys,
    unindexed: Sequence[equalities.NewDigests],
) -> None:
    """Store by what equality filters find documents of one collection."""
    # Its writers lock the row first, and then documents in no order.
    ROWS.lock(transaction, keys, unindexed[0].address[0])
    equalities.store(transaction, keys, Kind.DOCUMENT, unindexed)
