"""Dual write of chat messages: two histories of one session as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from langchain_core.messages import BaseMessage

from langmem_isolated import IsolatedChatMessageHistory
from langmem_isolated.importers.dual_writing.calls import Body, Call, arun, run
from langmem_isolated.importers.dual_writing.comparing import (
    COPIED,
    messages_difference,
    same_message,
)
from langmem_isolated.importers.dual_writing.state import DualWrite, State
from langmem_isolated.scope import Scope

if TYPE_CHECKING:
    from langchain_core.chat_history import BaseChatMessageHistory
else:
    try:
        from langchain_core.chat_history import BaseChatMessageHistory
    except ImportError:  # deprecated since langchain-core 1.6.4, to be removed in 2.0
        BaseChatMessageHistory = object

_UNIT = "session"


class DualChatMessageHistory(DualWrite, BaseChatMessageHistory):
    """Two histories of one session as one, as :func:`dual_write` makes it.

    Args:
        theirs: Any history.
        ours: That of the scope whose session it is.
        state: What is counted, and which side is read.
    """

    def __init__(
        self, theirs: BaseChatMessageHistory, ours: IsolatedChatMessageHistory, state: State
    ) -> None:
        self.theirs, self.ours, self._state = theirs, ours, state

    @property
    def messages(self) -> list[BaseMessage]:  # type: ignore[override]
        """Every message, of who answers."""
        return run(self._read())

    async def aget_messages(self) -> list[BaseMessage]:
        """Every message, of who answers."""
        return await arun(self._read())

    def _read(self) -> Body[list[BaseMessage]]:
        yield from self._backfilled(_UNIT, self._copied)
        read = Call(None, "messages")
        answer: list[BaseMessage] = yield from self._answered(
            self.ours, _UNIT, read, messages_difference
        )
        return answer

    def add_messages(self, messages: Sequence[BaseMessage]) -> None:
        """Add messages to both; as for all writes, see :func:`dual_write`."""
        run(self._added(messages))

    async def aadd_messages(self, messages: Sequence[BaseMessage]) -> None:
        """Add messages to both."""
        await arun(self._added(messages))

    def _added(self, messages: Sequence[BaseMessage]) -> Body[None]:
        listed = [*messages]
        yield from self._backfilled(_UNIT, self._copied)
        yield from self._written(self.ours, _UNIT, "add_messages", listed)

    def clear(self) -> None:
        """Remove every message from both."""
        run(self._removed(self.ours, _UNIT, "clear"))

    async def aclear(self) -> None:
        """Remove every message from both."""
        await arun(self._removed(self.ours, _UNIT, "clear"))

    def _copied(self) -> Body[None]:
        here = yield Call(self.ours, "messages")
        if here and self._state.read_from == "ours":
            return
        there = yield Call(self.theirs, "messages")
        # Only what theirs goes on with: two courses of one session are not made one.
        if len(here) < len(there) and all(map(same_message, there[: len(here)], here)):
            self._state.permit(self._scope, "", self.ours._records)  # noqa: SLF001 - its own
            yield Call(self._copy, "add_messages", (_named(there)[len(here) :],))
            self._state.count("copied")

    @property
    def _copy(self) -> IsolatedChatMessageHistory:
        """The session, where a message that has its id there already is left out."""
        ours: Any = self.ours
        return IsolatedChatMessageHistory(
            *(ours._records, ours._session_id),  # noqa: SLF001 - its own
            channel=ours._channel,  # noqa: SLF001 - its own
            idempotent=True,
        )

    @property
    def _scope(self) -> Scope:
        return scope_of(self.ours._records)  # noqa: SLF001 - its own


def _named(messages: Sequence[BaseMessage]) -> list[BaseMessage]:
    """Messages each with an id of its own: two processes that copy at once put each once.

    A history may have one id twice, and what it has twice is not left out.
    """
    ids, named = set[str](), []
    for at, one in enumerate(messages):
        is_own = one.id and one.id not in ids
        named.append(one if is_own else one.model_copy(update={"id": f"{COPIED}{at}"}))
        ids.add(str(named[-1].id))
    return named


def scope_of(records: Any) -> Scope:
    """The scope that records are of."""
    owner = records.owner
    return Scope(owner.user, owner.module, project_id=owner.project)
