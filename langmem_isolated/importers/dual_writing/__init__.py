"""Dual write: an application goes over to ours without a stop."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, overload

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.store.base import BaseStore

from langmem_isolated import IsolatedChatMessageHistory, IsolatedCheckpointSaver, IsolatedStore
from langmem_isolated._runtime.arguments import callback, kind_of, true_or_false
from langmem_isolated.importers.dual_writing.history import DualChatMessageHistory
from langmem_isolated.importers.dual_writing.saver import DualCheckpointSaver
from langmem_isolated.importers.dual_writing.state import (
    Difference,
    DualWrite,
    DualWriteReport,
    Owns,
    State,
)
from langmem_isolated.importers.dual_writing.store import DualStore

__all__ = [
    "Difference",
    "DualChatMessageHistory",
    "DualCheckpointSaver",
    "DualStore",
    "DualWrite",
    "DualWriteReport",
    "dual_write",
]

if TYPE_CHECKING:
    from langchain_core.chat_history import BaseChatMessageHistory
else:
    try:
        from langchain_core.chat_history import BaseChatMessageHistory
    except ImportError:  # deprecated since langchain-core 1.6.4, to be removed in 2.0
        BaseChatMessageHistory = object

OnDifference = Callable[[Difference], object]
_PAIRS: tuple[tuple[type, type, type], ...] = (
    (BaseChatMessageHistory, IsolatedChatMessageHistory, DualChatMessageHistory),
    (BaseCheckpointSaver, IsolatedCheckpointSaver, DualCheckpointSaver),
    (BaseStore, IsolatedStore, DualStore),
)


@overload
def dual_write(
    theirs: BaseChatMessageHistory,
    ours: IsolatedChatMessageHistory,
    *,
    backfill: Literal[True] | None = None,
    compare: bool = True,
    on_difference: OnDifference | None = None,
) -> DualChatMessageHistory: ...
@overload
def dual_write(
    theirs: BaseCheckpointSaver[Any],
    ours: IsolatedCheckpointSaver,
    *,
    backfill: Owns | None = None,
    compare: bool = True,
    on_difference: OnDifference | None = None,
) -> DualCheckpointSaver: ...
@overload
def dual_write(
    theirs: BaseStore,
    ours: IsolatedStore,
    *,
    backfill: Owns | None = None,
    compare: bool = True,
    on_difference: OnDifference | None = None,
) -> DualStore: ...
def dual_write(
    theirs: Any,
    ours: Any,
    *,
    backfill: Owns | Literal[True] | None = None,
    compare: bool = True,
    on_difference: OnDifference | None = None,
) -> DualWrite:
    """One object for two: it writes to both, answers from theirs, and tells what ours would say.

    It has the interface of the two, sync and async, and serves as they do. Set its ``read_from`` to
    ``"ours"`` to switch, call ``stop_writing_theirs()`` when nobody needs the way back, and use
    ours alone in the end.

    - **Who answers is the truth.** It is written first, and its errors are the caller's: where it
      fails, the other side is not written. A failure of the other side is counted in ``report`` and
      logged by its type, and the call succeeds. What ours missed it is given by ``backfill`` at the
      next use, or by an import.
    - **Refusals are raised**, never counted: a call that names no scope or two (`ScopeError`,
      `IsolationViolation`) before either side is asked.
    - **Who was erased stays erased.** What theirs has yet of a user who was erased here is not
      copied (`UserWasErased`): delete it there. Who comes back in person is new, as always, and
      what they begin is written to both.

    >>> from langgraph.checkpoint.memory import InMemorySaver
    >>> from langmem_isolated.importers import dual_write
    >>> saver = dual_write(InMemorySaver(), scope.checkpointer())
    >>> graph = builder.compile(checkpointer=saver)
    >>> config = {"configurable": {"thread_id": "chat-1"}}
    >>> state = graph.invoke({"messages": [("human", "Hi")]}, config)
    >>> saver.report.is_clean
    True
    >>> saver.read_from = "ours"
    >>> graph.invoke({"messages": [("human", "Again")]}, config)["messages"][-1].text
    'I have heard 3.'

    Args:
        theirs: What the application has.
        ours: The same kind of object, made by a scope, or by ``memory.checkpointer()`` and
            ``memory.store()``, which find the scope of each call. A history is of one session.
        backfill: Copy what theirs has of a thread, session or item at its first use in a process,
            if ours lacks it. For a history ``True``: the two were paired by hand. Otherwise a
            function of the scope and the id of a thread, or a namespace joined by ``.``, that tells
            whether what theirs has there belongs to the scope: a stock saver gives any thread to
            whoever names it, and a copy would stay. Where it does not return ``True``, nothing is
            handed out (`IsolationViolation`). Of a store only what is got by its key is copied. By
            default old ones are left to an import.
        compare: Whether each read is asked of the other side, too.
        on_difference: Told of each difference; what it raises is logged.

    Raises:
        TypeError: The two are not of one kind, ``ours`` is not ours, or an option has another type.
    """
    for base, isolated, pair in _PAIRS:
        if isinstance(theirs, base) and isinstance(ours, isolated):
            state = State(_owner(pair, backfill), true_or_false("compare", compare), on_difference)
            if on_difference is not None:
                callback("on_difference", on_difference, example="on_difference=print")
            made: DualWrite = pair(theirs, ours, state)
            return made
    raise TypeError(
        f"dual_write() takes two histories, checkpointers or stores, theirs first, got "
        f"{kind_of(theirs)} and {kind_of(ours)}. Write dual_write(SqliteSaver(…), "
        "scope.checkpointer())."
    )


def _owner(pair: type, backfill: object) -> Owns | None:
    if pair is DualChatMessageHistory and backfill in (True, False, None):
        return (lambda *_: True) if backfill else None
    if backfill is None or (callable(backfill) and pair is not DualChatMessageHistory):
        return backfill
    raise TypeError(
        f"backfill got {kind_of(backfill)}. For a history it is True; for a checkpointer or store "
        "a function that tells whose an id is: backfill=lambda scope, id: owner_of(id) == "
        "scope.user_id."
    )
