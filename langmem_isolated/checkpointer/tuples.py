"""Checkpoint tuples as LangGraph takes them, with configs that lead back to their scope."""

from typing import Any, NamedTuple

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import CheckpointTuple

from langmem_isolated._adapters.config_keys import ConfigKeys
from langmem_isolated.checkpointer.addresses import Address
from langmem_isolated.checkpointer.bodies import Snapshot
from langmem_isolated.scope import Scope, ScopedThreadId


class Tuples(NamedTuple):
    """Makes configs and tuples for a saver.

    Args:
        config_keys: Under which names configs name their scope; ``None`` for a bound saver, whose
            configs need not.
    """

    config_keys: ConfigKeys | None

    def config(self, scope: Scope, address: Address) -> RunnableConfig:
        """The config of a checkpoint.

        LangGraph hands it to users, who hand it back, and rebuilds those of subgraphs from the
        thread's id alone: the scope survives both.
        """
        thread_id, named = address.thread_id, {}
        if self.config_keys is not None:
            thread_id = ScopedThreadId(thread_id, scope)
            named = self.config_keys.naming(scope)
        configurable: dict[str, Any] = {**named, "thread_id": thread_id}
        configurable["checkpoint_ns"] = address.namespace
        configurable["checkpoint_id"] = address.checkpoint_id
        return {"configurable": configurable}

    def tuple(self, scope: Scope, snapshot: Snapshot) -> CheckpointTuple:
        """A checkpoint as LangGraph takes it."""
        address, parent = snapshot.address, snapshot.parent_id
        thread_id, namespace, _ = address
        before = self.config(scope, Address(thread_id, namespace, parent)) if parent else None
        checkpoint: Any = snapshot.checkpoint
        metadata: Any = snapshot.metadata
        return CheckpointTuple(
            self.config(scope, address), checkpoint, metadata, before, snapshot.writes
        )
