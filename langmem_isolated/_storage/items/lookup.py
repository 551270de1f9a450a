"""Indexed lookup: items that may pass a filter's equality conditions, and those not indexed yet."""

from collections.abc import Mapping

from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._crypto.sealing import HEADER_BYTES
from langmem_isolated._database.transactions import Row, Transaction
from langmem_isolated._storage import equalities
from langmem_isolated._storage.items import statements as sql
from langmem_isolated._storage.items.rows import Filter, body_of, digests_of


class Lookup:
    """One search by a filter; where nothing in it is indexed, it asks for every item.

    What was put without digests, by whom ever, is let pass by the database and opened.
    :attr:`unindexed` then has its digests, to be stored.
    """

    def __init__(self, keys: ScopeKeys, wanted: Filter) -> None:
        self.wanted = wanted
        self.unindexed: list[equalities.NewDigests] = []
        self._keys = keys
        self._asked = equalities.Conditions(keys, equalities.STORE, wanted.terms)

    @property
    def is_indexed(self) -> bool:
        """Whether the database answers a part of the filter."""
        return bool(self._asked.count)

    @property
    def asked(self) -> tuple[int, Mapping[str, object]]:
        """How many values the database is asked for, and the parameters of these."""
        return self._asked.count, self._asked.values

    def rows(self, transaction: Transaction, below: dict[str, object]) -> list[Row]:
        """All that may pass below a prefix, in no order of time."""
        statement = sql.every(self._asked.count, is_postgres=transaction.is_postgres)
        return transaction.rows(statement, **below, **self._asked.values)

    def look_at(self, row: Row, plaintext: bytes) -> None:
        """Remember an item that is not indexed, once it was opened."""
        if not self.is_indexed or not self._asked.lacks_digests(row[-1]):
            return
        assert self.wanted.terms_of is not None
        place, terms = row[:2], self.wanted.terms_of(body_of(plaintext))
        new = digests_of(self._keys, place, plaintext, terms, row[-1])
        if new is not None and new != row[-1]:
            self.unindexed.append(equalities.NewDigests(place, row[2][:HEADER_BYTES], new))
