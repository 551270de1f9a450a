"""Batch: a store's operations, checked and encoded, in one transaction."""

import datetime as dt
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

from langgraph.store.base import (
    GetOp,
    InvalidNamespaceError,
    Item,
    ListNamespacesOp,
    MatchCondition,
    Op,
    PutOp,
    Result,
    SearchItem,
    SearchOp,
)

from langmem_isolated._adapters.missing_digests import store_digests
from langmem_isolated._codecs.classes import ENUM
from langmem_isolated._codecs.headers import Header, encode_header
from langmem_isolated._codecs.values import decode_value, encode_value, is_utf8
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._runtime import clock
from langmem_isolated._runtime.arguments import kind_of, mapping
from langmem_isolated._runtime.limits import Limits
from langmem_isolated._runtime.operations import found, observed
from langmem_isolated._search import store_filters
from langmem_isolated._search.equality import EqualityFields, Term
from langmem_isolated._storage.container_state import BIRTH_BYTES
from langmem_isolated._storage.equalities import NewDigests
from langmem_isolated._storage.items import counting, reading, rows, writing
from langmem_isolated._storage.items.addresses import Address, Names
from langmem_isolated._storage.items.lookup import Lookup
from langmem_isolated._storage.items.rows import Filter, NewItem
from langmem_isolated._storage.scoped_database import ScopedDatabase
from langmem_isolated.store.arguments import address_of, check_page, labels_of, lifetime
from langmem_isolated.store.semantic_index import Index

Namespace = tuple[str, ...]
"""Where items stand: labels, the outermost first."""


class Answer(NamedTuple):
    """What an operation that reads returns, and what is to be written because it did."""

    result: Result
    touched: Sequence[rows.Item] = ()
    """Items that live anew."""
    unindexed: Sequence[NewDigests] = ()


Read = Callable[[Transaction, ScopeKeys, int], Answer]

# What every body with a member of an enum holds.
_MEMBER = encode_value(ENUM, "a filter")
_COUNTED = encode_header(Header("items"))
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def _name_of(batch: "Batch") -> str:
    """As what a batch is told of: it may read besides what it writes."""
    if not batch.puts:
        return "search_memory"
    return "upsert_memory" if any(batch.puts.values()) else "delete_memory"


def _count_of(results: Sequence[Any], batch: "Batch", *_: object) -> int:
    """How many items it writes or removes; where it does neither, how many it finds."""
    return len(batch.puts) or sum(map(found, results))


@dataclass
class Batch:
    """Operations, checked and encoded, on their way into a transaction."""

    index: Index | None
    equality: EqualityFields | None = None
    answers: list[Result] = field(default_factory=list)
    """What each operation returns where nothing is stored."""
    gets: list[tuple[int, GetOp, Address]] = field(default_factory=list)
    reads: list[tuple[int, Read]] = field(default_factory=list)
    is_one_query: bool = True
    """Whether each of these sees one state without a snapshot."""
    puts: dict[Address, NewItem | None] = field(default_factory=dict)
    """The last of each address, yet without vectors; ``None`` removes."""
    texts: dict[Address, list[str]] = field(default_factory=dict)
    """Of what is put and found by its meaning."""
    documents: dict[str, bytes] = field(default_factory=dict)
    queries: dict[str, bytes] = field(default_factory=dict)
    """Texts, with their vectors once they are embedded."""
    strangers: int = 0
    """Of how many items at least the vectors are of another model than a query's."""

    @classmethod
    def of(
        cls,
        ops: Iterable[Op],
        index: Index | None,
        limits: Limits,
        equality: EqualityFields | None = None,
    ) -> "Batch":
        """What ``ops`` ask for.

        Raises:
            InvalidNamespaceError: A namespace is malformed or, for a put, reserved.
            ValueNotStorable: A value has no exact stored form.
            LimitExceeded: A value, a query, a filter, or all together are beyond ``limits``.
        """
        batch = cls(index, equality)
        for number, op in enumerate(limits.checked_count("batch_items", [*ops])):
            batch.answers.append(None)
            if isinstance(op, PutOp):
                address = address_of(op.namespace, op.key)
                batch.puts[address] = _put(op, address, batch, limits)
            elif isinstance(op, GetOp):
                batch.gets.append((number, op, address_of(op.namespace, op.key)))
            elif isinstance(op, SearchOp):
                batch.answers[number] = []
                limits.check_query(op.query)
                limits.check_filter(op.filter)
                batch.reads.append((number, _search(op, batch)))
            elif isinstance(op, ListNamespacesOp):
                batch.answers[number] = []
                batch.reads.append((number, _listing(op)))
            else:
                raise TypeError(
                    f"Unknown operation {kind_of(op)}; a batch takes GetOp, PutOp, SearchOp and "
                    "ListNamespacesOp. Nothing was done."
                )
        limits.check_batch([item.body for item in batch.puts.values() if item])
        if index:
            texts = (batch.texts[address] for address, item in batch.puts.items() if item)
            batch.documents = dict.fromkeys(chain.from_iterable(texts), b"")
        return batch

    def new(self) -> list[NewItem]:
        """What is to be put."""
        items = [item for item in self.puts.values() if item is not None]
        if self.index is None:
            return items
        vectors = ([self.documents[text] for text in self.texts[item.address]] for item in items)
        return [item._replace(vectors=of) for item, of in zip(items, vectors, strict=True)]

    def embed(self, documents: Sequence[list[float]], queries: Sequence[list[float]]) -> None:
        """Take the embeddings of its texts, in their order."""
        assert self.index is not None
        made = self.index.vectors(self.documents, documents)
        self.documents = dict(zip(self.documents, made, strict=True))
        packed = map(self.index.space.pack, queries)
        self.queries = dict(zip(self.queries, packed, strict=True))

    @observed(_name_of, "item", _count_of, records=lambda _, records, **__: records)
    def perform(self, records: ScopedDatabase, *, is_counted: bool = False) -> list[Result]:
        """Run it in one transaction; the results in the order of the operations.

        Args:
            records: Whose.
            is_counted: Whether a row is to stand for the scope's items, if there is none yet.
        """
        now = clock.now()
        if not self.answers:
            return []
        if is_counted and any(self.puts.values()):
            records.write(counting.begin, _COUNTED, os.urandom(BIRTH_BYTES), now)
        if any(self.puts.values()):
            only_puts = not (self.gets or self.reads) and all(self.puts.values())
            is_once = only_puts and self.index is None and not is_counted
            if is_once and records.write_once(_put_at_once, False, self, now):
                return self.answers
            return records.write(_written, self, now, with_vectors=self.index is not None)
        if self.puts:
            return records.write_if_exists(_written, self.answers, self, now, with_vectors=False)
        is_single = self.is_one_query and len(self.gets) + len(self.reads) == 1
        door = records.read_lagging if is_single else records.snapshot_lagging
        answers, touched, unindexed = door(_read, (self.answers, [], []), self, now)
        if touched:
            records.write_if_exists(writing.refresh, None, touched, now)
        store_digests(records, writing.index, unindexed)
        return answers


def _put(op: PutOp, address: Address, batch: Batch, limits: Limits) -> NewItem | None:
    if op.value is None:
        return None
    if not op.namespace or op.namespace[0] == "langgraph":
        raise InvalidNamespaceError(
            "A namespace must have at least one label, and its first must not be 'langgraph', got "
            f'{len(op.namespace)} labels. Write one of your own, ("facts",). Nothing was written.'
        )
    if not isinstance(op.value, Mapping):
        raise TypeError(
            f'A value must be a mapping, got {kind_of(op.value)}. Write {{"text": …}}. Nothing was '
            "written."
        )
    value = dict(op.value)
    body = encode_value([value, op.key, *op.namespace], "an item of a store")
    limits.check("value_bytes", len(body))
    if batch.index:
        batch.texts[address] = [] if op.index is False else batch.index.texts(value, op.index)
    terms = _terms_of(batch.equality, body) if batch.equality else ()
    return NewItem(address, body, (), lifetime(op.ttl), terms)


def _terms_of(equality: EqualityFields, body: bytes) -> Sequence[Term]:
    # Of what a filter will see, which is not always the very value that was given.
    return equality.terms(decode_value(body)[0])


def _search(op: SearchOp, batch: Batch) -> Read:
    check_page(op.limit, op.offset)
    prefix, wanted = labels_of(op.namespace_prefix), _filter(op.filter, batch.equality)
    index, query = batch.index, op.query
    if index and query:
        batch.queries[query] = b""
        # Items that may pass come first, and then their vectors.
        batch.is_one_query &= not (wanted and wanted.terms)

    def run(transaction: Transaction, keys: ScopeKeys, now: int) -> Answer:
        lookup = Lookup(keys, wanted) if wanted else None
        what = transaction, keys, prefix, lookup, op.offset + op.limit, now
        found: list[tuple[rows.Item, float | None]]
        if index and query:
            found, strangers = reading.nearest(*what, index.meaning(batch.queries[query]))
            batch.strangers = max(batch.strangers, strangers)
        else:
            found = [(item, None) for item in reading.newest(*what)]
        page = found[op.offset :]
        touched = [item for item, _ in page if op.refresh_ttl]
        answer = [_search_item(item, score) for item, score in page]
        return Answer(answer, touched, lookup.unindexed if lookup else ())

    return run


def _read(
    transaction: Transaction, keys: ScopeKeys, batch: Batch, now: int
) -> tuple[list[Result], list[rows.Item], list[NewDigests]]:
    """What the reads return, the items that live anew by it, and digests of those without."""
    answers = [*batch.answers]
    touched: list[rows.Item] = []
    unindexed: list[NewDigests] = []
    if batch.gets:
        found = reading.get(transaction, keys, [address for _, _, address in batch.gets], now)
        for (number, op, _), item in zip(batch.gets, found, strict=True):
            if item is not None:
                created, updated = _times(item)
                answers[number] = Item(
                    value=decode_value(item.body)[0],
                    key=op.key,
                    namespace=op.namespace,
                    created_at=created,
                    updated_at=updated,
                )
                touched += [item] if op.refresh_ttl else []
    for number, read in batch.reads:
        answer = read(transaction, keys, now)
        answers[number] = answer.result
        touched += answer.touched
        unindexed += answer.unindexed
    return answers, [item for item in touched if item.lifetime is not None], unindexed


def _written(
    transaction: Transaction, keys: ScopeKeys, batch: Batch, now: int, *, with_vectors: bool
) -> list[Result]:
    answers, touched, _ = _read(transaction, keys, batch, now)
    gone = [address for address, put in batch.puts.items() if put is None]
    writing.change(transaction, keys, touched, gone, batch.new(), now, with_vectors=with_vectors)
    return answers


def _put_at_once(transaction: Transaction, keys: ScopeKeys, batch: Batch, now: int) -> bool:
    return writing.put_at_once(transaction, keys, batch.new(), now)


def _listing(op: ListNamespacesOp) -> Read:
    check_page(op.limit, op.offset, op.max_depth or 0)
    conditions = op.match_conditions or ()
    start: Names = ()
    for kind, path in conditions:
        if kind not in ("prefix", "suffix"):
            raise ValueError("A match type must be 'prefix' or 'suffix'.")
        labels = labels_of(path)
        if kind == "prefix":
            literal = labels[: path.index("*")] if "*" in path else labels
            start = max(start, literal, key=len)

    def run(transaction: Transaction, keys: ScopeKeys, now: int) -> Answer:
        found = reading.one_of_each_namespace(transaction, keys, start, now)
        listed = {
            namespace[: op.max_depth]
            for namespace in (tuple(decode_value(body)[2:]) for body in found)
            if all(_matches(namespace, condition) for condition in conditions)
        }
        return Answer(sorted(listed)[op.offset : op.offset + op.limit])

    return run


def _matches(namespace: Namespace, condition: MatchCondition) -> bool:
    kind, path = condition
    length = len(path)
    part = namespace[:length] if kind == "prefix" else namespace[len(namespace) - length :]
    return length <= len(namespace) and all(
        wanted in ("*", label) for wanted, label in zip(path, part, strict=True)
    )


def _filter(wanted: dict[str, Any] | None, equality: EqualityFields | None) -> Filter | None:
    if not wanted:
        return None
    mapping("filter", wanted, advice='Write filter={"level": {"$gte": 2}}. Nothing was read.')
    passes = store_filters.compiled(wanted)
    # A mapping that holds a text under a key holds both encoded, one behind the other; an enum's
    # member, which may equal the text, is held as an object. Odd keys stand in another form.
    texts = {k: part for k, part in wanted.items() if type(k) is type(part) is str and is_utf8(k)}
    signs = [(encode_value({key: t}, "a filter")[1:], _MEMBER) for key, t in texts.items()]
    by_value = Filter(signs, lambda body: passes(decode_value(body)[0]))
    if equality is None:
        return by_value
    conditions = equality.conditions(wanted)
    return by_value._replace(terms=conditions, terms_of=partial(_terms_of, equality))


def _search_item(item: rows.Item, score: float | None) -> SearchItem:
    value, key, *namespace = decode_value(item.body)
    created, updated = _times(item)
    return SearchItem(tuple(namespace), key, value, created, updated, score)


def _times(item: rows.Item) -> tuple[dt.datetime, dt.datetime]:
    updated = _EPOCH + dt.timedelta(0, 0, item.updated)
    if item.created == item.updated:
        return updated, updated
    return _EPOCH + dt.timedelta(0, 0, item.created), updated
