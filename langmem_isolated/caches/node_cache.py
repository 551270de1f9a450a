"""Node cache of LangGraph, isolated and encrypted."""

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.cache.base import BaseCache, FullKey, Namespace
from langgraph.checkpoint.serde.base import SerializerProtocol

from langmem_isolated._adapters.compat import WRITES_NAMESPACE, config_of_calling_loop
from langmem_isolated._codecs.classes import tell_once
from langmem_isolated._codecs.values import decode_value, encode_value
from langmem_isolated._crypto.sealing import framed
from langmem_isolated._database.statements import NO_LIMIT
from langmem_isolated._runtime.calls import ONE_SCOPE, made_by
from langmem_isolated._runtime.clock import SECOND, now
from langmem_isolated._runtime.forking import renew_in_children
from langmem_isolated._runtime.limits import Limits
from langmem_isolated._runtime.operations import found, observed
from langmem_isolated._storage import entries
from langmem_isolated._storage.entries import Entry
from langmem_isolated._storage.scoped_database import ScopedDatabase
from langmem_isolated.errors import ScopeError
from langmem_isolated.scope import Scope

_log = logging.getLogger("langmem_isolated")

FindRecords = Callable[[RunnableConfig | None], ScopedDatabase]
Pairs = Mapping[FullKey, tuple[Any, int | None]]

_SPACE = (b"node cache",)
_VALUE_V1 = b"\x01"
_KIND = "value"
_END_OF_TIME = 2**53
# Tasks that were looked up, not found, and have not ended.
_MOST_TASKS = 16_384


def _second(_: object, records: ScopedDatabase, *__: object) -> ScopedDatabase:
    return records


@made_by(f"{ONE_SCOPE}.node_cache()", "memory.node_cache()", first=Callable)
class IsolatedNodeCache(BaseCache[Any]):
    """What nodes with a `CachePolicy` and tasks have written, sealed, for the same scope alone.

    Made by ``memory.scope(…).node_cache()``, or by ``memory.node_cache()``, which takes the scope
    from the run that asks; given as ``cache=`` where a graph is compiled, or to ``@entrypoint``.
    One object serves any number of threads, tasks and event loops. A value that has no stored form
    is not kept, and the run goes on.

    Args:
        find: Leads the config of a run, or none, to the records of its scope; asked in the caller's
            context.
        bound_to: The scope that every call means; ``None`` where each call is led to its own.
        serde: A serializer of LangGraph for values. By default they are stored as in all other
            records: what LangGraph's own serializer stores, and rebuilt without calling any
            function by its stored name.
    """

    def __init__(
        self,
        find: FindRecords,
        *,
        bound_to: Scope | None = None,
        serde: SerializerProtocol | None = None,
    ) -> None:
        super().__init__(serde=serde or _Values())
        self.bound_to = bound_to
        self._find = find
        self._tasks = _Tasks()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({'bound' if self.bound_to else 'by run'})"

    def get(self, keys: Sequence[FullKey]) -> dict[FullKey, Any]:
        """What was written under each of ``keys``, where there is anything.

        Raises:
            RecordDoesNotOpen: A value was changed, moved or exchanged.
            ScopeError: No scope is named where the scope comes from the run.
            IsolationViolation: What names one disagrees.
            DatabaseError: The database refused or failed.
        """
        loop = config_of_calling_loop()
        records = self._find(loop)
        return self._got(records, keys, is_run=loop is not None)

    async def aget(self, keys: Sequence[FullKey]) -> dict[FullKey, Any]:
        """What was written under each of ``keys``; see :meth:`get`."""
        loop = config_of_calling_loop()
        records = self._find(loop)
        return await records.arun(self._got, records, keys, is_run=loop is not None)

    @observed("search_memory", "node_cache", found, records=_second)
    def _got(
        self, records: ScopedDatabase, keys: Sequence[FullKey], *, is_run: bool
    ) -> dict[FullKey, Any]:
        found = {key: self._decoded(value) for key, value in _stored(records, keys)}
        found = {key: value for key, value in found.items() if value is not None}
        if is_run and self.bound_to is None:
            self._tasks.begin((key for key in keys if key not in found), records)
        return found

    def set(self, pairs: Pairs) -> None:
        """Keep what was written, each for its number of seconds, or for ever.

        LangGraph stores what parallel nodes wrote from threads that know of no run: there the scope
        is the one for which the same task was looked up before. Where that is not known, nothing is
        kept.

        Raises:
            IsolationViolation: What names a scope disagrees.
            KeyDestroyed: The scope was erased.
            DatabaseError: The database refused or failed.
        """
        for records, some in self._by_scope(pairs):
            self._set(records, some)

    async def aset(self, pairs: Pairs) -> None:
        """Keep what was written; see :meth:`set`. If cancelled, it may have been stored."""
        for records, some in self._by_scope(pairs):
            await records.arun(self._set, records, some)

    def _by_scope(self, pairs: Pairs) -> list[tuple[ScopedDatabase, Pairs]]:
        begun = {key: self._tasks.end(key) for key in pairs}
        found = [(records, {key: pairs[key]}) for key, records in begun.items() if records]
        left = {
            key: pairs[key]
            for key, records in begun.items()
            if not records and not self._is_of_unknown_run(key)
        }
        with suppress(ScopeError):
            return [*found, (self._find(None), left)] if left else list(found)
        return list(found)

    def _is_of_unknown_run(self, key: FullKey) -> bool:
        """Whether LangGraph stores a task's writes: what is around then may be another's run."""
        return self.bound_to is None and key[0][:1] == (WRITES_NAMESPACE,)

    @observed(
        "upsert_memory",
        "node_cache",
        lambda *given: len(given[-1]),
        records=_second,
    )
    def _set(self, records: ScopedDatabase, pairs: Pairs) -> None:
        for key, (value, seconds) in pairs.items():
            encoded = self._encoded(value)
            if encoded is not None and _fits(encoded, records.limits):
                new = Entry(_name(key), encoded, _tag(key[0]))
                lifetime = None if seconds is None else SECOND * seconds
                records.write(entries.put, _SPACE, [new], now(), lifetime)

    def clear(self, namespaces: Sequence[Namespace] | None = None) -> None:
        """Forget what the scope has under ``namespaces``, or all of it, and nothing of others.

        Raises:
            ScopeError: No scope is named where the scope comes from the run.
        """
        _clear(self._find(None), namespaces)

    async def aclear(self, namespaces: Sequence[Namespace] | None = None) -> None:
        """Forget what was written; see :meth:`clear`."""
        records = self._find(None)
        await records.arun(_clear, records, namespaces)

    def _encoded(self, value: Any) -> bytes | None:
        try:
            kind, packed = self.serde.dumps_typed(value)
        except Exception as refusal:  # noqa: BLE001 - serializers raise what they like
            kind = getattr(refusal, "type_name", type(refusal).__name__)
            tell_once("cached", kind, "What a node wrote was not cached: %s.")
            return None
        name = kind.encode()
        return b"".join((_VALUE_V1, bytes([len(name)]), name, packed))

    def _decoded(self, value: bytes) -> Any:
        kind, packed = _parts(value)
        try:
            return self.serde.loads_typed((kind, packed)) if kind else None
        except Exception:  # noqa: BLE001 - a class that has gone, for example: the node runs again
            _log.debug("A cached value cannot be rebuilt: its node runs again.")
            return None


class _Values(SerializerProtocol):
    """The stored form of values, as LangGraph's caches take it."""

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        return _KIND, encode_value(obj, "a node cache")

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        kind, packed = data
        if kind != _KIND:
            raise ValueError("stored by another serializer")
        return decode_value(packed)


class _Tasks:
    """The scopes for which tasks were looked up, by the identity of their keys.

    LangGraph makes a key for each task of each run, and gives the same object when it has ended.
    """

    def __init__(self) -> None:
        self.renew_after_fork()
        renew_in_children(self)

    def renew_after_fork(self) -> None:
        """Give a forked child a lock that no thread of its parent holds."""
        self._lock = threading.Lock()
        # The keys are kept as well: another must not come to have their identity.
        self._begun: OrderedDict[int, tuple[str, ScopedDatabase]] = OrderedDict()

    def begin(self, keys: Iterable[FullKey], records: ScopedDatabase) -> None:
        with self._lock:
            for _, key in keys:
                self._begun[id(key)] = key, records
            while len(self._begun) > _MOST_TASKS:
                self._begun.popitem(last=False)

    def end(self, key: FullKey) -> ScopedDatabase | None:
        with self._lock:
            begun = self._begun.pop(id(key[1]), None)
        return begun and begun[1]


def _fits(encoded: bytes, limits: Limits) -> bool:
    if len(encoded) <= limits.value_bytes:
        return True
    tell_once("cached", "value beyond value_bytes", "What a node wrote was not cached: %s.")
    return False


def _stored(records: ScopedDatabase, keys: Sequence[FullKey]) -> Iterable[tuple[FullKey, bytes]]:
    names = [_name(key) for key in keys]
    nothing: list[bytes | None] = [None] * len(names)
    door = records.read if len(names) == 1 else records.snapshot
    found = door(entries.get, nothing, _SPACE, names, now()) if names else nothing
    return [(key, value) for key, value in zip(keys, found, strict=True) if value is not None]


@observed("delete_memory", "node_cache", records=lambda records, *_: records)
def _clear(records: ScopedDatabase, namespaces: Sequence[Namespace] | None) -> None:
    if namespaces is None:
        records.write_if_exists(entries.clear, None, _SPACE)
        return
    names = records.snapshot(
        entries.updated_between,
        [],
        _SPACE,
        after=-1,
        before=_END_OF_TIME,
        tags=[_tag(namespace) for namespace in namespaces],
        limit=NO_LIMIT,
        now=now(),
    )
    records.write_if_exists(entries.remove, None, _SPACE, names)


def _tag(namespace: Iterable[str]) -> bytes:
    # Never empty, which would be no tag.
    return framed(b"namespace", *(part.encode(errors="surrogatepass") for part in namespace))


def _name(key: FullKey) -> bytes:
    namespace, name = key
    return framed(_tag(namespace), name.encode(errors="surrogatepass"))


def _parts(value: bytes) -> tuple[str, bytes]:
    """The kind and the bytes of a stored value; no kind where a later version stored it."""
    if value[:1] != _VALUE_V1:
        return "", b""
    length = value[1]
    return value[2 : 2 + length].decode(), value[2 + length :]
