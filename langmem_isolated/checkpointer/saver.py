"""Checkpoint saver: a LangGraph `BaseCheckpointSaver`, isolated and encrypted."""

from collections.abc import (
    AsyncIterator,
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from datetime import timedelta
from typing import Any, Self

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
    get_checkpoint_metadata,
)

from langmem_isolated._adapters.allowed_types import allowed_names
from langmem_isolated._adapters.config_keys import ConfigKeys
from langmem_isolated._adapters.drop_in import DropIn, Ready
from langmem_isolated._codecs.checkpoints.channel_versions import next_version
from langmem_isolated._codecs.checkpoints.element_cache import ElementCaches
from langmem_isolated._codecs.checkpoints.serializer import Serde
from langmem_isolated._codecs.compat import STRICT_MSGPACK_ENABLED
from langmem_isolated.checkpointer.addresses import Address, refuse_text
from langmem_isolated.checkpointer.arguments import Lifetimes, check_pruning
from langmem_isolated.checkpointer.listing import ListCursor
from langmem_isolated.checkpointer.refusals import Refusals
from langmem_isolated.checkpointer.repository import ThreadRepository
from langmem_isolated.checkpointer.thread_methods import Resolve, ThreadMethods
from langmem_isolated.checkpointer.tuples import Tuples
from langmem_isolated.errors import LimitExceeded, ScopeError, ValueNotStorable
from langmem_isolated.scope import Scope, checked_thread_id


class IsolatedCheckpointSaver(ThreadMethods, DropIn, BaseCheckpointSaver[Any]):
    """A LangGraph checkpointer that reads and writes the threads of one scope, sealed.

    Made by ``memory.scope(…).checkpointer()``, bound to that scope, or by
    ``memory.checkpointer()``, which finds the scope of each call in its config. Serves threads,
    tasks and event loops at once. Messages and the larger parts of values are stored once in a
    thread, so a turn costs what is new in it.

    >>> graph = builder.compile(checkpointer=scope.checkpointer())
    >>> config = {"configurable": {"thread_id": "chat-1"}}
    >>> graph.invoke({"messages": [("human", "Hi")]}, config)["messages"][-1].text
    'I have heard 1.'

    Args:
        resolve: Leads a call's config to its scope and that scope's records.
        known: What this process knows of threads' elements, shared between savers.
        allow: Types, or ``(module, name)``, that may be stored besides LangGraph's safe ones.
        strict: Refuse others, and what would come back as something else; so does ``allow``, and
            ``LANGGRAPH_STRICT_MSGPACK``. Otherwise what LangGraph's savers store is stored.
        ttl: How long a thread is kept after it was last written; for ever by default.
        absolute: How long a thread that is begun here is kept after that, whatever is written.
        bound_to: The scope that every call means; ``None`` where each call is led to its own.
        config_keys: Under which names the configs handed out then name their scope.
        set_up: Makes or checks the tables, for :meth:`setup`.
    """

    _made_by = "checkpointer"

    def __init__(
        self,
        resolve: Resolve,
        known: ElementCaches,
        *,
        allow: Iterable[type | tuple[str, ...]] = (),
        strict: bool = False,
        ttl: timedelta | None = None,
        absolute: timedelta | None = None,
        bound_to: Scope | None = None,
        config_keys: ConfigKeys = ConfigKeys(),  # noqa: B008 - an immutable tuple
        set_up: Callable[[], Ready],
    ) -> None:
        names = allowed_names(allow)
        self._serde = Serde(names, is_strict=strict or bool(names) or STRICT_MSGPACK_ENABLED)
        self._refusals = Refusals()
        super().__init__(serde=self._serde.plus)
        self._resolve = resolve
        self._known = known
        self._lifetimes = Lifetimes.of(ttl, absolute)
        self._set_up = set_up
        self.bound_to = bound_to
        self._tuples = Tuples(None if bound_to else config_keys)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({'bound' if self.bound_to else 'by config'})"

    def with_allowlist(self, extra_allowlist: Collection[tuple[str, ...]]) -> Self:
        """A strict copy that may store further types; LangGraph's strict mode names its graph's."""
        serde = Serde(self._serde.allowed | {tuple(name) for name in extra_allowlist})
        return self._copied(_serde=serde, serde=serde.plus)

    def get_next_version(self, current: int | str | None, channel: None) -> int | str:
        """The next version of a channel, one that LangGraph's own savers can go on with."""
        return next_version(current)

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """The checkpoint that ``config`` names, or the latest of its thread and namespace.

        Raises:
            ScopeError: The call names no scope, or an id is malformed.
            RecordDoesNotOpen: What is stored was changed, moved or removed.
            ValueNotStorable: A subgraph could not store a value, and LangGraph may not have told.
        """
        (scope, threads), address = self._threads(config), Address.of(config)
        self._refusals.raise_untold(scope, address)
        snapshot = threads.get(address)
        return None if snapshot is None else self._tuples.tuple(scope, snapshot)

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """A checkpoint; see :meth:`get_tuple`."""
        return await self._arun(config, lambda saver: saver.get_tuple(config))

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        """The checkpoints of a thread, or of all the scope's threads, newest first.

        Reads page by page and holds nothing open in between. Tuples of a page share the message
        objects that they have in common.

        Args:
            config: A thread; without ``checkpoint_ns`` in all its namespaces. ``None`` for all
                threads of the scope.
            filter: Only checkpoints whose metadata has these values.
            before: Only checkpoints with a smaller id than this one's.
            limit: At most this many.

        Raises:
            ScopeError: The call names no scope, or an id is malformed.
            ValueError: ``limit`` is negative, or ``filter`` too deep.
            RecordDoesNotOpen: What is stored was changed, moved or removed.
        """
        # Not a generator itself: the scope is that of the call, not of where it is consumed.
        scope, threads = self._threads(config)
        return self._listed(scope, threads, ListCursor.of(config, filter, before, limit))

    def _listed(
        self, scope: Scope, threads: ThreadRepository, listing: ListCursor
    ) -> Iterator[CheckpointTuple]:
        while not listing.is_done:
            page, listing = threads.page(listing)
            for snapshot in page:
                yield self._tuples.tuple(scope, snapshot)

    def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """The checkpoints, newest first; see :meth:`list`."""
        scope, threads = self._threads(config)
        return self._alisted(scope, threads, ListCursor.of(config, filter, before, limit))

    async def _alisted(
        self, scope: Scope, threads: ThreadRepository, listing: ListCursor
    ) -> AsyncIterator[CheckpointTuple]:
        while not listing.is_done:
            page, listing = await threads.records.arun(threads.page, listing)
            for snapshot in page:
                yield self._tuples.tuple(scope, snapshot)

    def get_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """What the ancestors of a checkpoint contributed to channels, oldest first.

        Walks the parent pointers over pages of checkpoints, not one query for each ancestor.
        """
        _, threads = self._threads(config)
        return threads.history(Address.of(config), channels)

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """What the ancestors contributed; see :meth:`get_delta_channel_history`."""
        return await self._arun(
            config, lambda saver: saver.get_delta_channel_history(config=config, channels=channels)
        )

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Store a checkpoint behind the one that ``config`` names; once this returns it is stored.

        Args:
            config: The thread, and as ``checkpoint_id`` the parent.
            checkpoint: With all its channel values.
            metadata: Sealed with it, and with the scalars of the config as LangGraph adds them.
            new_versions: Not needed: what has not changed is recognised.

        Raises:
            ScopeError: The call names no scope, or an id is malformed.
            ValueNotStorable: A value, here or before in a subgraph, is of a type that is refused.
            LimitExceeded: More is new than ``value_bytes`` allow, here or before in a subgraph.
            KeyDestroyed: The scope was erased.
        """
        (scope, threads), address = self._threads(config), Address.of(config)
        plain: Any = checkpoint
        facts: Any = get_checkpoint_metadata(config, metadata)
        try:
            threads.put(address, plain, facts)
        except (ValueNotStorable, LimitExceeded) as refusal:
            raise self._refusals.told(refusal, scope, config, [checkpoint, facts]) from None
        self._refusals.raise_untold(scope, address)
        stored = Address(address.thread_id, address.namespace, checkpoint["id"])
        return self._tuples.config(scope, stored)

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Store a checkpoint; see :meth:`put`."""
        return await self._arun(
            config, lambda saver: saver.put(config, checkpoint, metadata, new_versions)
        )

    def put_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """Store what a task wrote behind a checkpoint, which may itself come later.

        What the task has stored at an index stays; only what it wrote to special channels (errors,
        interrupts, resumes) gives way to what comes later.

        Raises:
            ScopeError: The call names no scope or no checkpoint, or an id is malformed.
            ValueNotStorable: A value, here or before in a subgraph, is of a type that is refused.
            KeyDestroyed: The scope was erased.
        """
        scope, threads = self._threads(config)
        address = Address.of(config)
        if address.checkpoint_id is None:
            raise ScopeError("put_writes needs a checkpoint_id in config['configurable'].")
        if not writes:
            return
        indexed = {WRITES_IDX_MAP.get(write[0], at): write for at, write in enumerate(writes)}
        try:
            threads.put_writes(address, indexed, (task_id, task_path))
        except (ValueNotStorable, LimitExceeded) as refusal:
            raise self._refusals.told(refusal, scope, config, list(writes)) from None
        self._refusals.raise_untold(scope, address)

    async def aput_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """Store what a task wrote; see :meth:`put_writes`."""
        await self._arun(config, lambda saver: saver.put_writes(config, writes, task_id, task_path))

    def delete_thread(self, thread_id: str) -> None:
        """Remove a thread with all it has; an unknown one is no error."""
        self._threads(None)[1].delete(checked_thread_id("thread_id", thread_id))

    async def adelete_thread(self, thread_id: str) -> None:
        """Remove a thread; see :meth:`delete_thread`."""
        await self._arun(None, lambda saver: saver.delete_thread(thread_id))

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy a thread, whole, to a new id in the same scope; an unknown one is no error.

        Raises:
            AddressTaken: The target has checkpoints already; nothing was written.
        """
        source = checked_thread_id("source_thread_id", source_thread_id)
        self._threads(None)[1].copy(source, checked_thread_id("target_thread_id", target_thread_id))

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy a thread; see :meth:`copy_thread`."""
        await self._arun(None, lambda saver: saver.copy_thread(source_thread_id, target_thread_id))

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Remove what runs stored, in every thread of the scope.

        A run is known by ``run_id`` in the checkpoints' metadata. Checkpoints of later runs stay;
        a delta channel of theirs that stood on the removed writes loses what these held.

        Raises:
            TypeError: ``run_ids`` is a text.
        """
        refuse_text("run_ids", run_ids)
        self._threads(None)[1].delete_for_runs(run_ids)

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Remove what runs stored; see :meth:`delete_for_runs`."""
        await self._arun(None, lambda saver: saver.delete_for_runs(run_ids))

    def prune(
        self, thread_ids: Sequence[str], *, strategy: str = "keep_latest", keep_last: int = 1
    ) -> None:
        """Remove older checkpoints, their writes, and the elements nothing refers to any more.

        Args:
            thread_ids: Which threads.
            strategy: ``"keep_latest"``, or ``"delete"`` for the whole thread.
            keep_last: With ``"keep_latest"``: how many to keep of each namespace. The ancestors
                that a delta channel of theirs is rebuilt from stay as well.

        Raises:
            ValueError: ``strategy`` is another, or ``keep_last`` is below 1.
            TypeError: ``thread_ids`` is a text.
        """
        check_pruning(strategy, keep_last)
        refuse_text("thread_ids", thread_ids)
        _, threads = self._threads(None)
        for thread_id in threads.checked_ids(thread_ids):
            if strategy == "delete":
                threads.delete(thread_id)
            else:
                threads.prune(thread_id, keep_last)

    async def aprune(
        self, thread_ids: Sequence[str], *, strategy: str = "keep_latest", keep_last: int = 1
    ) -> None:
        """Remove older checkpoints; see :meth:`prune`."""
        await self._arun(
            None, lambda saver: saver.prune(thread_ids, strategy=strategy, keep_last=keep_last)
        )

    def verify_thread(self, thread_id: str) -> int:
        """Open everything of a thread and resolve every reference to an element.

        Returns:
            How many checkpoints and writes were opened.

        Raises:
            RecordDoesNotOpen: Something was changed or moved, or an element is missing.
        """
        return self._threads(None)[1].verify(checked_thread_id("thread_id", thread_id))

    async def averify_thread(self, thread_id: str) -> int:
        """Open everything of a thread; see :meth:`verify_thread`."""
        return await self._arun(None, lambda saver: saver.verify_thread(thread_id))

    def config_of(self, scope: Scope, config: RunnableConfig) -> RunnableConfig:
        """A checkpoint's config, of any saver, with what leads later calls back to its scope."""
        return self._tuples.config(scope, Address.of(config))

    def is_of(self, scope: Scope, config: RunnableConfig) -> bool:
        """Whether a call with ``config`` would mean ``scope``.

        Raises:
            ScopeError: The call names no scope.
            IsolationViolation: What names one disagrees.
        """
        return self._resolve(config)[0] == scope

    def _threads(self, config: RunnableConfig | None) -> tuple[Scope, ThreadRepository]:
        scope, records = self._resolve(config)
        return scope, ThreadRepository(records, self._known, self._serde, self._lifetimes)
