"""Remembers across threads: a LangGraph store, isolated and encrypted."""

import datetime as dt
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple, cast

from langchain_core.embeddings import Embeddings
from langgraph.store.base import (
    NOT_PROVIDED,
    BaseStore,
    GetOp,
    IndexConfig,
    InvalidNamespaceError,
    Item,
    ListNamespacesOp,
    MatchCondition,
    NamespacePath,
    NotProvided,
    Op,
    PutOp,
    Result,
    SearchItem,
    SearchOp,
    TTLConfig,
    ensure_embeddings,
    get_text_at_path,
    tokenize_path,
)

from langmem_isolated import _filters, _items
from langmem_isolated._database import Transaction
from langmem_isolated._encoding import decode_value, encode_value
from langmem_isolated._items import MAX_DEPTH, Address, Names, NewItem
from langmem_isolated._records import ScopedRecords
from langmem_isolated._scope_keys import ScopeKeys
from langmem_isolated._vectors import VectorSpace
from langmem_isolated.errors import ValueNotStorable

Namespace = tuple[str, ...]
Answer = tuple[Result, list[_items.Item]]
Read = Callable[[Transaction, ScopeKeys, int], Answer]

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECONDS_A_MINUTE = 60_000_000
# Longer does not fit into all columns and types of time; 1,000 years are for ever.
_MOST_MINUTES = 1000 * 366 * 24 * 60


class StoreIndexConfig(IndexConfig, total=False):
    """LangGraph's `IndexConfig`, and how vectors are compared."""

    distance_type: Literal["cosine", "l2", "inner_product"]
    """``"cosine"`` if not given. The score of ``"l2"`` is the negative distance."""


class _Index:
    """What finds the texts in a value, embeds them and ranks them."""

    def __init__(self, config: StoreIndexConfig) -> None:
        self.space = VectorSpace(config.get("dims", 0), config.get("distance_type", "cosine"))
        self.embeddings: Embeddings = ensure_embeddings(config.get("embed"))
        self._paths = [_tokens(path) for path in config.get("fields") or ["$"]]

    def texts(self, value: dict[str, Any], fields: list[str] | None) -> list[str]:
        paths = self._paths if fields is None else [_tokens(path) for path in fields]
        try:
            return [text for path in paths for text in get_text_at_path(value, path)]
        except TypeError:
            raise TypeError(
                "What is indexed must be JSON, and a field of this value is not. Nothing was "
                "written. Name other fields to index, or put it with index=False."
            ) from None


def _tokens(path: str) -> str | list[str]:
    return path if path == "$" else tokenize_path(path)


class _Put(NamedTuple):
    body: bytes
    texts: list[str]
    lifetime: int | None


@dataclass
class _Work:
    """A batch, checked and encoded, on its way into a transaction."""

    answers: list[Result] = field(default_factory=list)
    """What each operation returns where nothing is stored."""
    gets: list[tuple[int, GetOp, Address]] = field(default_factory=list)
    reads: list[tuple[int, Read]] = field(default_factory=list)
    puts: dict[Address, _Put | None] = field(default_factory=dict)
    """The last of each address; ``None`` removes."""
    documents: dict[str, bytes] = field(default_factory=dict)
    queries: dict[str, bytes] = field(default_factory=dict)
    """Texts, with their vectors once they are embedded."""

    def new(self) -> list[NewItem]:
        """What is to be put."""
        return [
            NewItem(address, put.body, [self.documents[text] for text in put.texts], put.lifetime)
            for address, put in self.puts.items()
            if put is not None
        ]


class IsolatedStore(BaseStore):
    """LangGraph's long-term memory: a drop-in `BaseStore` in which each scope sees its own items.

    Made by ``memory.scope(…).store()``, or by ``memory.store()``, which takes the scope from the
    run that calls. Namespaces, keys, values and vectors are sealed. One object serves any number of
    threads, tasks and event loops.

    - Values are mappings of JSON values, and whatever else has an exact stored form: bytes, tuples,
      sets, times, UUIDs, Decimals, messages and documents come back as they were.
    - ``search`` returns the items put last first; with a query and an ``index`` the nearest first,
      ranked exactly, and behind them items without vectors.
    - Filters follow `InMemoryStore`, on the opened values: a missing key is ``None``; ``$gt`` and
      its like compare numbers with numbers and texts with texts, and nothing else passes.
    - A batch reads, then writes, in one transaction: reads see what was there before it, and of
      several puts at one address the last counts.
    - An item whose time to live is over is absent at once, swept or not.

    Args:
        resolve: Whose records are meant; asked when an operation is called, in the caller's
            context.
        index: ``dims``, ``embed``, ``fields`` as in LangGraph's `IndexConfig`, and
            ``distance_type``. Without it queries and ``index=`` have no effect.
        ttl: ``default_ttl`` (minutes) and ``refresh_on_read`` as in LangGraph's `TTLConfig`.
            Nothing sweeps by itself: :meth:`sweep` only frees space.

    Raises:
        ValueError: ``index`` or ``ttl`` holds a value that has no meaning here.
        ImportError: ``index`` was given and NumPy is not installed.
    """

    supports_ttl = True

    def __init__(
        self,
        resolve: Callable[[], ScopedRecords],
        *,
        index: StoreIndexConfig | IndexConfig | None = None,
        ttl: TTLConfig | None = None,
    ) -> None:
        if ttl and ttl.get("omit_expired") is False:
            raise ValueError("omit_expired cannot be False: expired items are absent here.")
        self._resolve = resolve
        self._index = _Index(cast(StoreIndexConfig, index)) if index else None
        self.index_config = index
        self.ttl_config = ttl

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """Run operations in one transaction; the results are in their order.

        Raises:
            InvalidNamespaceError: A namespace is malformed or, for a put, reserved.
            ValueNotStorable: A value has no exact stored form; nothing was written.
            RecordDoesNotOpen: An item was changed, moved or exchanged.
            ScopeError: No scope is named where the scope comes from the run.
            KeyDestroyed: The scope was erased.
            DatabaseError: The database refused or failed.
        """
        records, work = self._resolve(), self._prepared(ops)
        if self._index:
            model = self._index.embeddings
            self._embedded(
                work,
                model.embed_documents([*work.documents]) if work.documents else [],
                [model.embed_query(text) for text in work.queries],
            )
        return self._performed(records, work)

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """Run operations; see :meth:`batch`. If cancelled, writes may have been stored."""
        records, work = self._resolve(), self._prepared(ops)
        if self._index:
            model = self._index.embeddings
            self._embedded(
                work,
                await model.aembed_documents([*work.documents]) if work.documents else [],
                [await model.aembed_query(text) for text in work.queries],
            )
        return await records.arun(self._performed, records, work)

    def sweep(self) -> int:
        """Remove the scope's expired items from the database; returns how many."""
        return self._resolve().change(_items.sweep, 0, _now())

    async def asweep(self) -> int:
        """Remove expired items; see :meth:`sweep`."""
        records = self._resolve()
        return await records.arun(records.change, _items.sweep, 0, _now())

    def _prepared(self, ops: Iterable[Op]) -> _Work:
        work = _Work()
        for number, op in enumerate(ops):
            work.answers.append([] if isinstance(op, SearchOp | ListNamespacesOp) else None)
            if isinstance(op, GetOp):
                work.gets.append((number, op, _address(op.namespace, op.key)))
            elif isinstance(op, SearchOp):
                work.reads.append((number, self._search(op, work)))
            elif isinstance(op, ListNamespacesOp):
                work.reads.append((number, _listing(op)))
            elif isinstance(op, PutOp):
                address = _address(op.namespace, op.key)
                work.puts[address] = self._put(op)
            else:
                raise TypeError(f"Unknown operation {type(op).__name__}.")
        texts = (text for put in work.puts.values() if put for text in put.texts)
        work.documents = dict.fromkeys(texts, b"")
        return work

    def _put(self, op: PutOp) -> _Put | None:
        if op.value is None:
            return None
        if not op.namespace or op.namespace[0] == "langgraph":
            raise InvalidNamespaceError(
                "A namespace must have at least one label, and its first must not be 'langgraph'."
            )
        if not isinstance(op.value, Mapping):
            raise TypeError(f"A value must be a mapping, got {type(op.value).__name__}.")
        value = dict(op.value)
        body = encode_value([value, op.key, *op.namespace], "an item of a store")
        texts: list[str] = []
        if self._index and op.index is not False:
            texts = self._index.texts(value, op.index)
        return _Put(body, texts, _lifetime(op.ttl))

    def _search(self, op: SearchOp, work: _Work) -> Read:
        _check_page(op.limit, op.offset)
        prefix, wanted = _labels(op.namespace_prefix), _filter(op.filter)
        index, query = self._index, op.query
        if index and query:
            work.queries[query] = b""

        def run(transaction: Transaction, keys: ScopeKeys, now: int) -> Answer:
            what = transaction, keys, prefix, wanted, op.offset + op.limit, now
            found: list[tuple[_items.Item, float | None]]
            if index and query:
                found = _items.nearest(*what, partial(index.space.scores, work.queries[query]))
            else:
                found = [(item, None) for item in _items.newest(*what)]
            page = found[op.offset :]
            touched = [item for item, _ in page if op.refresh_ttl]
            return [_search_item(item, score) for item, score in page], touched

        return run

    def _embedded(
        self, work: _Work, documents: Sequence[list[float]], queries: Sequence[list[float]]
    ) -> None:
        assert self._index is not None
        pack = self._index.space.pack
        work.documents = dict(zip(work.documents, map(pack, documents), strict=True))
        work.queries = dict(zip(work.queries, map(pack, queries), strict=True))

    def _performed(self, records: ScopedRecords, work: _Work) -> list[Result]:
        now = _now()
        if not work.answers:
            return []
        if any(work.puts.values()):
            is_alone = len(work.answers) == 1 and self._index is None
            if is_alone and records.write_once(_put_alone, False, work, now):
                return work.answers
            return records.write(_written, work, now, with_vectors=self._index is not None)
        if work.puts:
            return records.change(_written, work.answers, work, now, with_vectors=False)
        door = records.read if len(work.gets) + len(work.reads) == 1 else records.snapshot
        answers, touched = door(_read, (work.answers, []), work, now)
        if touched:
            records.change(_items.refresh, None, touched, now)
        return answers

    def get(
        self, namespace: Namespace, key: str, *, refresh_ttl: bool | None = None
    ) -> Item | None:
        """The item at ``key``, or ``None``; see `BaseStore.get`."""
        op = GetOp(namespace, str(key), self._refreshes(refresh_ttl))
        return cast(Item | None, self.batch([op])[0])

    async def aget(
        self, namespace: Namespace, key: str, *, refresh_ttl: bool | None = None
    ) -> Item | None:
        """The item at ``key``; see :meth:`get`."""
        op = GetOp(namespace, str(key), self._refreshes(refresh_ttl))
        return cast(Item | None, (await self.abatch([op]))[0])

    def search(
        self,
        namespace_prefix: Namespace,
        /,
        *,
        query: str | None = None,
        filter: dict[str, Any] | None = None,  # noqa: A002
        limit: int = 10,
        offset: int = 0,
        refresh_ttl: bool | None = None,
    ) -> list[SearchItem]:
        """Items below a prefix; see the class, and `BaseStore.search`."""
        refreshes = self._refreshes(refresh_ttl)
        op = SearchOp(namespace_prefix, filter, limit, offset, query, refreshes)
        return cast(list[SearchItem], self.batch([op])[0])

    async def asearch(
        self,
        namespace_prefix: Namespace,
        /,
        *,
        query: str | None = None,
        filter: dict[str, Any] | None = None,  # noqa: A002
        limit: int = 10,
        offset: int = 0,
        refresh_ttl: bool | None = None,
    ) -> list[SearchItem]:
        """Items below a prefix; see :meth:`search`."""
        refreshes = self._refreshes(refresh_ttl)
        op = SearchOp(namespace_prefix, filter, limit, offset, query, refreshes)
        return cast(list[SearchItem], (await self.abatch([op]))[0])

    def put(
        self,
        namespace: Namespace,
        key: str,
        value: Mapping[str, Any],
        index: Literal[False] | list[str] | None = None,
        *,
        ttl: float | NotProvided | None = NOT_PROVIDED,
    ) -> None:
        """Store an item, or replace what it holds; see `BaseStore.put`."""
        self.batch([PutOp(namespace, str(key), value, index, self._minutes(ttl))])

    async def aput(
        self,
        namespace: Namespace,
        key: str,
        value: Mapping[str, Any],
        index: Literal[False] | list[str] | None = None,
        *,
        ttl: float | NotProvided | None = NOT_PROVIDED,
    ) -> None:
        """Store an item; see :meth:`put`. If cancelled, it may have been stored."""
        await self.abatch([PutOp(namespace, str(key), value, index, self._minutes(ttl))])

    def delete(self, namespace: Namespace, key: str) -> None:
        """Remove an item, if there is one."""
        self.batch([PutOp(namespace, str(key), None)])

    async def adelete(self, namespace: Namespace, key: str) -> None:
        """Remove an item, if there is one."""
        await self.abatch([PutOp(namespace, str(key), None)])

    def list_namespaces(
        self,
        *,
        prefix: NamespacePath | None = None,
        suffix: NamespacePath | None = None,
        max_depth: int | None = None,
        limit: int = 100,
        offset: int = 0,
    ) -> list[Namespace]:
        """The namespaces that have items, sorted; see `BaseStore.list_namespaces`."""
        op = ListNamespacesOp(_conditions(prefix, suffix), max_depth, limit, offset)
        return cast(list[Namespace], self.batch([op])[0])

    async def alist_namespaces(
        self,
        *,
        prefix: NamespacePath | None = None,
        suffix: NamespacePath | None = None,
        max_depth: int | None = None,
        limit: int = 100,
        offset: int = 0,
    ) -> list[Namespace]:
        """The namespaces that have items; see :meth:`list_namespaces`."""
        op = ListNamespacesOp(_conditions(prefix, suffix), max_depth, limit, offset)
        return cast(list[Namespace], (await self.abatch([op]))[0])

    def _refreshes(self, given: bool | None) -> bool:
        return (self.ttl_config or {}).get("refresh_on_read", True) if given is None else given

    def _minutes(self, given: float | NotProvided | None) -> float | None:
        if isinstance(given, NotProvided):
            return (self.ttl_config or {}).get("default_ttl")
        return given


def _read(
    transaction: Transaction, keys: ScopeKeys, work: _Work, now: int
) -> tuple[list[Result], list[_items.Item]]:
    """What the batch's reads return, and the items that live anew because they were read."""
    answers = [*work.answers]
    touched: list[_items.Item] = []
    if work.gets:
        found = _items.get(transaction, keys, [address for _, _, address in work.gets], now)
        for (number, op, _), item in zip(work.gets, found, strict=True):
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
    for number, read in work.reads:
        answers[number], items = read(transaction, keys, now)
        touched += items
    return answers, [item for item in touched if item.lifetime is not None]


def _written(
    transaction: Transaction, keys: ScopeKeys, work: _Work, now: int, *, with_vectors: bool
) -> list[Result]:
    answers, touched = _read(transaction, keys, work, now)
    if touched:
        _items.refresh(transaction, keys, touched, now)
    if gone := [address for address, put in work.puts.items() if put is None]:
        _items.remove(transaction, keys, gone)
    if new := work.new():
        _items.put(transaction, keys, new, now, with_vectors=with_vectors)
    return answers


def _put_alone(transaction: Transaction, keys: ScopeKeys, work: _Work, now: int) -> bool:
    (item,) = work.new()
    _items.put_alone(transaction, keys, item, now)
    return True


def _listing(op: ListNamespacesOp) -> Read:
    _check_page(op.limit, op.offset, op.max_depth or 0)
    conditions = op.match_conditions or ()
    start: Names = ()
    for kind, path in conditions:
        if kind not in ("prefix", "suffix"):
            raise ValueError("A match type must be 'prefix' or 'suffix'.")
        labels = _labels(path)
        if kind == "prefix":
            literal = labels[: path.index("*")] if "*" in path else labels
            start = max(start, literal, key=len)

    def run(transaction: Transaction, keys: ScopeKeys, now: int) -> Answer:
        found = _items.one_of_each_namespace(transaction, keys, start, now)
        listed = {
            namespace[: op.max_depth]
            for namespace in (tuple(decode_value(body)[2:]) for body in found)
            if all(_matches(namespace, condition) for condition in conditions)
        }
        return sorted(listed)[op.offset : op.offset + op.limit], []

    return run


def _matches(namespace: Namespace, condition: MatchCondition) -> bool:
    kind, path = condition
    length = len(path)
    part = namespace[:length] if kind == "prefix" else namespace[len(namespace) - length :]
    return length <= len(namespace) and all(
        wanted in ("*", label) for wanted, label in zip(path, part, strict=True)
    )


def _conditions(
    prefix: NamespacePath | None, suffix: NamespacePath | None
) -> tuple[MatchCondition, ...]:
    given: tuple[tuple[Literal["prefix", "suffix"], NamespacePath | None], ...] = (
        ("prefix", prefix),
        ("suffix", suffix),
    )
    return tuple(MatchCondition(kind, path) for kind, path in given if path)


def _address(namespace: Namespace, key: object) -> Address:
    if not isinstance(key, str):
        raise TypeError(f"A key must be a str, got {type(key).__name__}.")
    try:
        return Address(_labels(namespace), key.encode())
    except UnicodeEncodeError:
        raise ValueNotStorable("str with lone surrogates", "a store key") from None


def _labels(path: NamespacePath) -> Names:
    # LangGraph's own checks quote the namespace, which may hold an address or a name.
    if not isinstance(path, tuple | list) or len(path) > MAX_DEPTH:
        raise InvalidNamespaceError(f"A namespace must be a tuple of at most {MAX_DEPTH} labels.")
    labels = []
    for label in path:
        if not isinstance(label, str):
            raise InvalidNamespaceError(
                f"A namespace label must be a str, got {type(label).__name__}."
            )
        if not label or "." in label or "\x00" in label:
            raise InvalidNamespaceError(
                "A namespace label must not be empty nor hold a period or NUL, got one of "
                f"{len(label)} characters."
            )
        try:
            labels.append(label.encode())
        except UnicodeEncodeError:
            raise InvalidNamespaceError(
                "A namespace label must not hold lone surrogates."
            ) from None
    return tuple(labels)


def _check_page(*numbers: int) -> None:
    if min(numbers) < 0:
        raise ValueError("limit, offset and max_depth must be 0 or more.")


def _lifetime(minutes: float | None) -> int | None:
    if minutes is None:
        return None
    if not 0 <= minutes <= _MOST_MINUTES:
        raise ValueError(f"A time to live must be 0 to {_MOST_MINUTES} minutes.")
    return round(minutes * _MICROSECONDS_A_MINUTE)


def _filter(wanted: dict[str, Any] | None) -> _items.Filter | None:
    if not wanted:
        return None
    passes = _filters.compiled(wanted)
    # A mapping that holds a text under a key holds both encoded, one behind the other.
    texts = {key: part for key, part in wanted.items() if type(key) is type(part) is str}
    signs = [encode_value({key: text}, "a filter")[1:] for key, text in texts.items()]
    return _items.Filter(signs, lambda body: passes(decode_value(body)[0]))


def _search_item(item: _items.Item, score: float | None) -> SearchItem:
    value, key, *namespace = decode_value(item.body)
    created, updated = _times(item)
    return SearchItem(tuple(namespace), key, value, created, updated, score)


def _times(item: _items.Item) -> tuple[dt.datetime, dt.datetime]:
    return (
        _EPOCH + dt.timedelta(microseconds=item.created),
        _EPOCH + dt.timedelta(microseconds=item.updated),
    )


def _now() -> int:
    """µs since 1970, UTC."""
    return time.time_ns() // 1000
