"""Chat histories that are objects: whatever implements langchain-core's contract for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from langchain_core.chat_history import BaseChatMessageHistory
from langchain_core.messages import BaseMessage

from langmem_isolated.errors import SourceRefused
from langmem_isolated.importers.source import Source
from langmem_isolated.lifecycle import ForeignMessage, ForeignSession, Rejected


class ChatHistorySource(Source):
    """Histories that are there already, by the ids of their sessions; for Python only.

    Their own ``messages`` is called, once for each time that the source is read.

    Args:
        histories: Any `BaseChatMessageHistory` by the id of its session.
        name: By which the source is known again when it is moved in a second time.

    Raises:
        SourceRefused: One of them is no chat history.
    """

    kind = "chat-histories"

    def __init__(
        self, histories: Mapping[str, BaseChatMessageHistory], *, name: str = "histories"
    ) -> None:
        for history in histories.values():
            if not isinstance(history, BaseChatMessageHistory):
                raise SourceRefused(
                    f"A {type(history).__name__} is no chat history",
                    "Give a dict of BaseChatMessageHistory by the ids of their sessions.",
                )
        self._histories, self._name = dict(histories), name

    @property
    def identity(self) -> str:
        """The name that it was given."""
        return self._name

    def units(self) -> Iterator[ForeignSession | Rejected]:
        """A session of each history, in the order of the dict."""
        for number, (id_, history) in enumerate(self._histories.items(), 1):
            place = f"history {number}"
            try:
                messages = history.messages
            except Exception as error:  # noqa: BLE001 - it raises what its store does
                yield Rejected(place, f"expected messages, its class raised {type(error).__name__}")
                continue
            found = (
                _message(message, f"{place}, message {count}")
                for count, message in enumerate(messages, 1)
            )
            yield ForeignSession(id_, place, found)


def _message(message: object, place: str) -> ForeignMessage | Rejected:
    if isinstance(message, BaseMessage):
        return ForeignMessage(message, place)
    return Rejected(place, f"expected a message of langchain-core, got {type(message).__name__}")
