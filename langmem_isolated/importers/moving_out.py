"""Moving out: what a scope has, in a saver, store or history of LangGraph's and LangChain's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from langchain_core.messages import BaseMessage
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.store.base import BaseStore, Item

from langmem_isolated._runtime.arguments import kind_of
from langmem_isolated.errors import AddressTaken, MoveNotVerified
from langmem_isolated.importers.dual_writing.calls import Body, Call, Walk, arun, run
from langmem_isolated.importers.dual_writing.comparing import (
    messages_difference,
    same,
    same_message,
    tuple_difference,
)
from langmem_isolated.importers.dual_writing.copying import (
    Place,
    config_at,
    copied_thread,
    place_of,
)

if TYPE_CHECKING:
    from langchain_core.chat_history import BaseChatMessageHistory

    from langmem_isolated.scoped_memory import ScopedMemory

_ALL = 2**31 - 1


@dataclass(frozen=True, slots=True)
class MovedOut:
    """What was moved out; numbers alone."""

    threads: int = 0
    checkpoints: int = 0
    items: int = 0
    messages: int = 0
    refused: tuple[str, ...] = ()
    """Why of each item that the target does not hold as it is: the type of its error, or ``"other
    value"`` where it makes a list of a tuple; those are not there."""


def move_out(
    scope: ScopedMemory,
    to: BaseCheckpointSaver[Any] | BaseStore | BaseChatMessageHistory,
    *,
    session: str | None = None,
    threads: Sequence[str] | None = None,
    name: Callable[[Any], Any] = lambda found: found,
) -> MovedOut:
    """Copy what a scope has into a saver, store or history of another kind, where it goes on.

    Threads go with all checkpoints, namespaces, writes and interrupts, so a graph resumes there;
    items with namespace, key and value; messages of one session in their order. Each is read back
    and compared. Ours stays as it is; a second call finds what is there and puts the rest.

    **There it is in plaintext, and of nobody**: stock stores know no scopes, so ``name`` should put
    the user into ids. What they have no place for stays behind: titles, pins, times of messages and
    items, channels, lifetimes. With ``read_replica=`` what other processes wrote in the last
    ``read_replica_lag`` seconds may stay behind, too: give a scope of a memory without it.

    >>> from langgraph.checkpoint.memory import InMemorySaver
    >>> from langmem_isolated.importers import move_out
    >>> config = {"configurable": {"thread_id": "chat-1"}}
    >>> state = scope.bind(builder.compile()).invoke({"messages": [("human", "Hi")]}, config)
    >>> stock = InMemorySaver()
    >>> move_out(scope, stock, name=lambda thread_id: f"alice-{thread_id}").threads
    1

    Args:
        scope: Whose memory.
        to: Any saver, store or history; an asynchronous one is given to :func:`amove_out`.
        session: Of a history, which session it is.
        threads: Of a saver, which threads; by default all, archived ones, too.
        name: Makes the id of a thread, or the namespace of an item, there of that here.

    Raises:
        AddressTaken: Under a name there is something else. What was put before stays.
        MoveNotVerified: A thread or session that was read back is not what was put.
        TypeError: ``to`` is none of these, or a saver that could not go on with a thread, or
            ``session`` is missing or of no use.
    """
    return run(_moved(scope, to, session, threads, name))


async def amove_out(
    scope: ScopedMemory,
    to: BaseCheckpointSaver[Any] | BaseStore | BaseChatMessageHistory,
    *,
    session: str | None = None,
    threads: Sequence[str] | None = None,
    name: Callable[[Any], Any] = lambda found: found,
) -> MovedOut:
    """Copy what a scope has into an asynchronous saver, store or history; see :func:`move_out`."""
    return await arun(_moved(scope, to, session, threads, name))


def _moved(
    scope: ScopedMemory,
    to: Any,
    session: str | None,
    threads: Sequence[str] | None,
    name: Callable[[Any], Any],
) -> Body[MovedOut]:
    is_history = hasattr(to, "add_messages")
    if is_history is not (session is not None) or isinstance(threads, str):
        raise TypeError(
            "session= names the session of a history, and is of no use to others; threads= is a "
            "list. Nothing was moved."
        )
    if isinstance(to, BaseCheckpointSaver):
        return (yield from _threads(scope, to, threads, name))
    if isinstance(to, BaseStore):
        return (yield from _items(scope, to, name))
    if not is_history:
        raise TypeError(f"move_out() takes a saver, store or history, got {kind_of(to)}.")
    return (yield from _messages(scope.chat_history(session or ""), to))


def _threads(
    scope: ScopedMemory, to: Any, threads: Sequence[str] | None, name: Callable[[str], str]
) -> Body[MovedOut]:
    ours, checkpoints = scope.checkpointer(), 0
    if threads is None:
        threads = [one.id for one in (yield Call(ours, "threads", (), {"archived": None}))]
    for number, thread_id in enumerate(threads, 1):
        places = yield Walk(ours, "list", (_every(thread_id),), {}, place_of)
        target_id = name(thread_id)
        there = yield Walk(to, "list", (_every(target_id),), {}, place_of)
        if not set(there) <= set(places):
            raise AddressTaken("thread")
        if not (yield from _goes_on(ours, to, thread_id)):
            raise TypeError(
                f"{type(to).__name__} makes no version behind those that thread {number} has: its "
                "graph could not go on there. Nothing of the thread was put. Give a saver whose "
                "get_next_version takes text, as those for SQLite and PostgreSQL do."
            )
        checkpoints += yield from copied_thread(ours, to, thread_id, target_id)
        yield from _verified(ours, to, thread_id, target_id, places, number)
    return MovedOut(threads=len(threads), checkpoints=checkpoints)


def _every(thread_id: str) -> Any:
    return {"configurable": {"thread_id": thread_id}}


def _goes_on(ours: Any, to: Any, thread_id: str) -> Body[bool]:
    """Whether the target makes versions behind those of a thread: some savers count in numbers."""
    latest = yield Call(ours, "get_tuple", (config_at(thread_id),))
    versions = {} if latest is None else latest.checkpoint["channel_versions"]
    try:
        for version in versions.values():
            to.get_next_version(version, None)
    except Exception:  # noqa: BLE001 - another one's saver may raise anything
        return False
    return True


def _verified(
    ours: Any, to: Any, thread_id: str, target_id: str, places: Sequence[Place], number: int
) -> Body[None]:
    for place in places:
        here = yield Call(ours, "get_tuple", (config_at(thread_id, place.namespace, place.id),))
        there = yield Call(to, "get_tuple", (config_at(target_id, place.namespace, place.id),))
        if kind := tuple_difference(here, there) or _lacks_values(here, there):
            raise MoveNotVerified(f"thread {number}", kind)


def _lacks_values(here: Any, there: Any) -> str | None:
    # A snapshot may be with more checkpoints there, never with fewer.
    values = [found.checkpoint["channel_values"].keys() for found in (here, there)]
    return "values" if values[0] - values[1] else None


def _items(scope: ScopedMemory, to: Any, name: Callable[[Any], Any]) -> Body[MovedOut]:
    # Whoever looks at all of them uses none of them.
    asked = {"limit": _ALL, "refresh_ttl": False}
    found: list[Item] = yield Call(scope.store(), "search", ((),), asked)
    refused: list[str] = []
    for item in found:
        at = (tuple(name(item.namespace)), item.key)
        there = yield Call(to, "get", at)
        if there is not None and _differ(item, there):
            raise AddressTaken("item")
        if there is None and (why := (yield from _refusal(to, at, item))):
            refused.append(why)
    return MovedOut(items=len(found) - len(refused), refused=tuple(refused))


def _refusal(to: Any, at: tuple[Any, ...], item: Item) -> Body[str | None]:
    """Put an item; why it is not there, if it is not there as it is here."""
    try:
        yield Call(to, "put", (*at, dict(item.value)))
    except Exception as error:  # noqa: BLE001 - a store takes what its format has a form for
        return type(error).__name__
    if _differ(item, (yield Call(to, "get", at))):
        yield Call(to, "delete", at)
        return "other value"
    return None


def _differ(item: Item, there: Item | None) -> bool:
    return there is None or not same(dict(item.value), dict(there.value))


def _messages(ours: Any, to: Any) -> Body[MovedOut]:
    here: list[BaseMessage] = yield Call(ours, "messages")
    there: list[BaseMessage] = yield Call(to, "messages")
    if len(there) > len(here) or not all(map(same_message, here[: len(there)], there)):
        raise AddressTaken("message")
    if missing := here[len(there) :]:
        yield Call(to, "add_messages", (missing,))
    if kind := messages_difference(here, (yield Call(to, "messages"))):
        raise MoveNotVerified("a session", kind)
    return MovedOut(messages=len(here))
