"""Hands out one scope's memory: what is made from it reads and writes that scope alone."""

from collections.abc import Iterable
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

from langgraph.pregel import Pregel
from langgraph.store.base import IndexConfig, TTLConfig

from langmem_isolated._database import Database
from langmem_isolated._records import ScopedRecords
from langmem_isolated._sealing import Owner
from langmem_isolated._values import KnownThreads
from langmem_isolated.chat_history import IsolatedChatMessageHistory
from langmem_isolated.checkpointer import IsolatedCheckpointSaver
from langmem_isolated.keyring import Keyring
from langmem_isolated.scope import Scope
from langmem_isolated.sessions import Sessions
from langmem_isolated.store import IsolatedStore, StoreIndexConfig

Graph = TypeVar("Graph", bound=Pregel[Any, Any, Any, Any])


class Ground(NamedTuple):
    """What every scope of a memory stands on."""

    database: Database
    keyring: Keyring
    known_threads: KnownThreads

    def records(self, owner: Owner) -> ScopedRecords:
        """One owner's records."""
        return ScopedRecords(self.database, self.keyring, owner)


class ScopedMemory:
    """One scope's memory: everything made from it reads and writes that scope and no other."""

    def __init__(self, ground: Ground, scope: Scope) -> None:
        self._ground = ground
        self._scope = scope
        self._records = ground.records(Owner.private(scope))
        self.sessions = Sessions(self._records)

    def __repr__(self) -> str:
        return f"ScopedMemory({self._scope!r})"

    @property
    def scope(self) -> Scope:
        """Whose memory this is."""
        return self._scope

    def chat_history(
        self, session_id: str, *, idempotent: bool = False
    ) -> IsolatedChatMessageHistory:
        """The history of one chat session; see :class:`IsolatedChatMessageHistory`."""
        return IsolatedChatMessageHistory(self._records, session_id, idempotent=idempotent)

    def checkpointer(
        self,
        *,
        allow: Iterable[type | tuple[str, ...]] = (),
        ttl: timedelta | None = None,
    ) -> IsolatedCheckpointSaver:
        """A LangGraph checkpointer bound to this scope.

        Args:
            allow: Types that graphs may store besides LangGraph's safe ones.
            ttl: How long a thread is kept after it was last written; for ever by default.
        """
        found = self._scope, self._records
        return IsolatedCheckpointSaver(
            lambda _: found, self._ground.known_threads, allow=allow, ttl=ttl
        )

    def bind(
        self,
        graph: Graph,
        *,
        checkpointer: IsolatedCheckpointSaver | None = None,
        store: IsolatedStore | None = None,
    ) -> Graph:
        """The compiled graph, copied with this scope's checkpointer and store.

        The original is left alone. A copy takes about 0.02 ms, so binding for every request is
        fine.

        Args:
            graph: Any compiled graph; what it had as checkpointer and store counts no more.
            checkpointer: One of this scope's made with options; by default one without.
            store: The same for the store.
        """
        bound = graph.copy(
            {"checkpointer": checkpointer or self.checkpointer(), "store": store or self.store()}
        )
        # What its strict mode allows, the types of the graph's state: LangGraph's copy forgets it.
        bound._serde_allowlist = graph._serde_allowlist
        return bound

    def store(
        self,
        *,
        index: StoreIndexConfig | IndexConfig | None = None,
        ttl: TTLConfig | None = None,
    ) -> IsolatedStore:
        """LangGraph's long-term memory, bound to this scope; see :class:`IsolatedStore`."""
        return IsolatedStore(lambda: self._records, index=index, ttl=ttl)

    def module(self, module_id: str) -> "ScopedMemory":
        """The same user's memory in another module.

        Raises:
            ScopeError: ``module_id`` is missing or malformed.
        """
        scope = Scope(self._scope.user_id, module_id, project_id=self._scope.project_id)
        return ScopedMemory(self._ground, scope)
