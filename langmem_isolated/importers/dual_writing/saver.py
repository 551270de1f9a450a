"""Dual write of checkpoints: two LangGraph savers as one."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Self

from langchain_core.messages import BaseMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
)

from langmem_isolated import IsolatedCheckpointSaver, Scope
from langmem_isolated.importers.dual_writing.calls import Body, Call, Walk, arun, run
from langmem_isolated.importers.dual_writing.comparing import same, tuple_difference
from langmem_isolated.importers.dual_writing.copying import config_at, copied_thread, place_of
from langmem_isolated.importers.dual_writing.listing import Differing, DualListing
from langmem_isolated.importers.dual_writing.state import State


class _Found(NamedTuple):
    """Whose a call is, and ours for that scope alone."""

    scope: Scope
    records: Any
    ours: Any


class DualCheckpointSaver(DualListing, BaseCheckpointSaver[Any]):
    """Two checkpointers as one, as :func:`dual_write` makes it.

    Args:
        theirs: Any saver.
        ours: Of a scope, or one that finds the scope of each call.
        state: What copies share.
    """

    theirs: BaseCheckpointSaver[Any]
    ours: IsolatedCheckpointSaver

    def __init__(
        self, theirs: BaseCheckpointSaver[Any], ours: IsolatedCheckpointSaver, state: State
    ) -> None:
        super().__init__(serde=theirs.serde)
        self.theirs, self.ours, self._state = theirs, ours, state

    @property
    def bound_to(self) -> Scope | None:
        """The scope that every call means, if there is one."""
        return self.ours.bound_to

    @property
    def config_specs(self) -> list[Any]:
        """What theirs asks of a config."""
        return self.theirs.config_specs

    def with_allowlist(self, extra_allowlist: Collection[tuple[str, ...]]) -> Self:
        """A copy whose sides may store further types; it shares the report and the side read."""
        clone = copy.copy(self)
        clone.theirs = self.theirs.with_allowlist(extra_allowlist)
        clone.ours = self.ours.with_allowlist(extra_allowlist)
        clone.serde = clone.theirs.serde
        return clone

    def get_next_version(self, current: Any, channel: None) -> Any:
        """The next version of a channel, of theirs as long as it is written.

        Ours goes on with versions of any kind, some savers with numbers alone: behind others there
        would be no way back.
        """
        side = self.theirs if self._state.writes_theirs else self.ours
        return side.get_next_version(current, channel)

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """A checkpoint, of who answers.

        Raises:
            ScopeError: The call names no scope; nothing was asked of either side.
            IsolationViolation: The thread belongs to another scope, by what ``backfill`` says.
            UserWasErased: The user was erased here, and theirs has the thread yet.
        """
        return run(self._tuple(config))

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """A checkpoint; see :meth:`get_tuple`."""
        return await arun(self._tuple(config))

    def _tuple(self, config: RunnableConfig) -> Body[CheckpointTuple | None]:
        found, unit = yield from self._ready(config)
        read = Call(None, "get_tuple", (config,))
        answer: CheckpointTuple | None
        answer = yield from self._answered(found.ours, unit, read, tuple_difference)
        return None if answer is None else self._led_back(found, answer)

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 - as LangGraph calls it
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        """Checkpoints of who answers, newest first; each is looked up at the other side, too.

        Without a config those of all threads: of theirs, whoever's they are, as long as it answers.
        """
        found, unit = run(self._ready(config))
        first, second = self._sides(found.ours)
        return self._listed(
            found, unit, second, first.list(config, filter=filter, before=before, limit=limit)
        )

    def _listed(
        self, found: _Found, unit: Any, second: Any, listed: Iterator[CheckpointTuple]
    ) -> Iterator[CheckpointTuple]:
        differing: Differing = []
        try:
            for one in listed:
                if unit is not None:
                    run(self._look(unit, second, one, differing))
                yield self._led_back(found, one)
            run(self._look_again(found.ours, unit, differing))
        finally:
            self._count_all(unit, differing)

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 - as LangGraph calls it
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """Checkpoints, newest first; see :meth:`list`."""
        found, unit = await arun(self._ready(config))
        first, second = self._sides(found.ours)
        listed = first.alist(config, filter=filter, before=before, limit=limit)
        differing: Differing = []
        try:
            async for one in listed:
                if unit is not None:
                    await arun(self._look(unit, second, one, differing))
                yield self._led_back(found, one)
            await arun(self._look_again(found.ours, unit, differing))
        finally:
            self._count_all(unit, differing)

    def get_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """What ancestors contributed to channels, of who answers."""
        return run(self._history(config, channels))

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """What ancestors contributed; see :meth:`get_delta_channel_history`."""
        return await arun(self._history(config, channels))

    def _history(
        self, config: RunnableConfig, channels: Sequence[str]
    ) -> Body[Mapping[str, DeltaChannelHistory]]:
        found, unit = yield from self._ready(config)
        asked = {"config": config, "channels": channels}
        read = Call(None, "get_delta_channel_history", (), asked)
        answer: Mapping[str, DeltaChannelHistory] = yield from self._answered(
            found.ours, unit, read, lambda one, other: None if same(one, other) else "writes"
        )
        return answer

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Store a checkpoint in both; as for all writes, see :func:`dual_write`."""
        return run(self._put(config, checkpoint, metadata, new_versions))

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Store a checkpoint in both; see :meth:`put`."""
        return await arun(self._put(config, checkpoint, metadata, new_versions))

    def _put(self, config: RunnableConfig, *what: Any) -> Body[RunnableConfig]:
        found, unit = yield from self._ready(config, begins=True)
        stored = yield from self._written(found.ours, unit, "put", config, *what)
        return self._config_back(found, stored)

    def put_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """Store in both what a task wrote."""
        run(self._put_writes(config, writes, task_id, task_path))

    async def aput_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """Store in both what a task wrote."""
        await arun(self._put_writes(config, writes, task_id, task_path))

    def _put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], *task: str
    ) -> Body[None]:
        # LangGraph gives messages their ids while savers store them: both sides are to see the same
        # message, the one before or the one behind that.
        written = [(channel, _at_this_moment(value)) for channel, value in writes]
        found, unit = yield from self._ready(config, begins=True)
        yield from self._written(found.ours, unit, "put_writes", config, written, *task)

    def delete_thread(self, thread_id: str) -> None:
        """Remove a thread from both."""
        run(self._deleted(thread_id))

    async def adelete_thread(self, thread_id: str) -> None:
        """Remove a thread from both."""
        await arun(self._deleted(thread_id))

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy a thread in both."""
        both = source_thread_id, target_thread_id
        run(self._whole("copy_thread", both, *both))

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy a thread in both."""
        both = source_thread_id, target_thread_id
        await arun(self._whole("copy_thread", both, *both))

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Remove from both what runs stored."""
        run(self._whole("delete_for_runs", (), run_ids))

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Remove from both what runs stored."""
        await arun(self._whole("delete_for_runs", (), run_ids))

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Remove older checkpoints from both."""
        run(self._whole("prune", thread_ids, thread_ids, strategy=strategy))

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Remove older checkpoints from both."""
        await arun(self._whole("prune", thread_ids, thread_ids, strategy=strategy))

    def _deleted(self, thread_id: str) -> Body[None]:
        found = self._found(None)
        unit = found.scope, str(thread_id)
        # Looked at anew: nothing is copied, but whose it is.
        self._state.doubt(unit)
        yield from self._backfilled(unit, lambda: self._copied(found, thread_id, only_looked=True))
        yield from self._removed(found.ours, unit, "delete_thread", thread_id)

    def _whole(self, name: str, threads: Sequence[str], *args: Any, **kwargs: Any) -> Body[None]:
        """A write that brings no config; ``threads`` must be there for it."""
        found = self._found(None)
        for thread_id in threads:
            yield from self._thread_ready(found, thread_id)
        yield from self._written(found.ours, None, name, *args, **kwargs)

    def _found(self, config: RunnableConfig | None) -> _Found:
        # Asked once: theirs, which knows no scopes, must not be asked before.
        found = self.ours._resolve(config)  # noqa: SLF001 - leads to the scope of a call
        ours = self.ours._copied(_resolve=lambda _: found)  # noqa: SLF001 - for this call
        return _Found(found[0], found[1], ours)

    def _ready(
        self, config: RunnableConfig | None, *, begins: bool = False
    ) -> Body[tuple[_Found, Any]]:
        found = self._found(config)
        thread_id = (config or {}).get("configurable", {}).get("thread_id")
        if thread_id is None:
            return found, None
        return found, (yield from self._thread_ready(found, thread_id, begins=begins))

    def _thread_ready(self, found: _Found, thread_id: Any, **how: bool) -> Body[Any]:
        unit = found.scope, str(thread_id)
        yield from self._backfilled(unit, lambda: self._copied(found, thread_id, **how))
        return unit

    def _copied(
        self, found: _Found, thread_id: Any, *, begins: bool = False, only_looked: bool = False
    ) -> Body[None]:
        """Copy a thread, if it is the scope's.

        Args:
            found: Whose the call is.
            thread_id: Of the thread.
            begins: Whether the call makes it the scope's where nobody has it.
            only_looked: Whether it is only looked whose it is.
        """
        latest = config_at(thread_id)
        here = yield from self._here(found, latest)
        if here is not None and self._state.read_from == "ours":
            return
        there = yield Call(self.theirs, "get_tuple", (latest,))
        unit = found.scope, str(thread_id)
        is_missed = self._state.has_missed(unit)
        # Once more where another process wrote meanwhile: what a task resumes with is replaced.
        for _ in range(3):
            if there is None and not (yield from self._has_subgraphs(thread_id)):
                if not begins:
                    # Whoever begins it may be somebody else.
                    self._state.doubt(unit)
                return
            # What ours missed may stand below it: in a subgraph, or behind an older checkpoint.
            if not is_missed and there is not None and tuple_difference(there, here) is None:
                return
            self._state.permit(found.scope, str(thread_id), found.records)
            if only_looked:
                return
            yield from copied_thread(self.theirs, found.ours, thread_id, thread_id)
            self._state.count("copied")
            self._state.made_good(unit)
            is_missed = False
            if there is None:
                return
            here = yield Call(found.ours, "get_tuple", (latest,))
            there = yield Call(self.theirs, "get_tuple", (latest,))

    def _here(self, found: _Found, latest: RunnableConfig) -> Body[CheckpointTuple | None]:
        """The latest checkpoint of ours; where that fails, theirs is asked whose its own is."""
        try:
            here: CheckpointTuple | None = yield Call(found.ours, "get_tuple", (latest,))
        except Exception:
            if (yield Call(self.theirs, "get_tuple", (latest,))) is not None:
                thread_id = latest["configurable"]["thread_id"]
                self._state.expect_owner(found.scope, str(thread_id))
            raise
        return here

    def _has_subgraphs(self, thread_id: Any) -> Body[bool]:
        """Whether theirs has checkpoints of a thread without one of the graph itself."""
        every = {"configurable": {"thread_id": thread_id}}
        return bool((yield Walk(self.theirs, "list", (every,), {"limit": 1}, place_of)))

    def _config_back(self, found: _Found, config: RunnableConfig) -> RunnableConfig:
        """A config of theirs with what leads a later call back to its scope."""
        if self.bound_to is not None:
            return config
        return self.ours.config_of(found.scope, config)

    def _led_back(self, found: _Found, answer: CheckpointTuple) -> CheckpointTuple:
        if self.bound_to is not None:
            return answer
        parent = answer.parent_config
        return answer._replace(
            config=self._config_back(found, answer.config),
            parent_config=parent and self._config_back(found, parent),
        )


def _at_this_moment(value: Any) -> Any:
    """A value with copies of the messages in it, as they are now."""
    if isinstance(value, BaseMessage):
        return value.model_copy()
    if type(value) is list:
        return [_at_this_moment(one) for one in value]
    if type(value) is dict:
        return {name: _at_this_moment(one) for name, one in value.items()}
    return value
