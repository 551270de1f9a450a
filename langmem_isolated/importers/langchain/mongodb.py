"""MongoDB: `MongoDBChatMessageHistory`, a document with a JSON text for each message."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from langmem_isolated.importers.langchain.stored_messages import StoredMessage, sessions_of
from langmem_isolated.importers.langchain.urls import not_installed, not_read, public
from langmem_isolated.importers.source import Source
from langmem_isolated.lifecycle import ForeignSession, Rejected

_SERVER = "Give mongodb://user:password@host:port of a server that is there."
# A message of 1 MB each would be 50 MB.
_MESSAGES_AT_ONCE = 50


class MongoDBSource(Source):
    """Sessions of one collection, in the order of their ids.

    A message's time is that of its ``_id``, in whole seconds.

    Args:
        location: ``mongodb://…`` or ``mongodb+srv://…``.
        source_database: As the histories were given, like what follows.
        collection: Where the messages are.
        session_key: The field with the session's id.
        history_key: The field with the message.
        columns: Further fields that say whose a session is: mapping rules read them, and a
            session's id stands for one session in each combination of their values.

    Raises:
        SourceRefused: The server cannot be reached, or pymongo is not installed.
    """

    kind = "mongodb"

    def __init__(
        self,
        location: str,
        *,
        source_database: str = "chat_history",
        collection: str = "message_store",
        session_key: str = "SessionId",
        history_key: str = "History",
        columns: Sequence[str] = (),
    ) -> None:
        self._client = _connected(location)
        self._collection = self._client[source_database][collection]
        self._session, self._history = session_key, history_key
        self._columns = tuple(columns)
        self._identity = f"{public(location)} {source_database}.{collection} {columns!r}"

    @property
    def identity(self) -> str:
        """The URL without user and password, and the collection."""
        return self._identity

    def total(self) -> int:
        """As the collection's own count has it."""
        return int(self._collection.estimated_document_count())

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def units(self) -> Iterator[ForeignSession | Rejected]:
        """The sessions, each with its messages in the order of ``_id``."""
        return sessions_of(self._messages(), self._columns)

    def _messages(self) -> Iterator[StoredMessage]:
        from pymongo.errors import PyMongoError

        try:
            yield from map(self._message, self._documents())
        except PyMongoError as error:
            raise not_read("The MongoDB server", error, _SERVER) from None

    def _documents(self) -> Any:
        names = (self._session, *self._columns)
        found = self._collection.find({}, [*names, self._history], batch_size=_MESSAGES_AT_ONCE)
        return found.sort([(name, 1) for name in (*names, "_id")]).allow_disk_use(True)

    def _message(self, document: Mapping[str, Any]) -> StoredMessage:
        id_, *owner = (document.get(name) for name in (self._session, *self._columns))
        stored, place = document.get(self._history), self._place(document)
        return StoredMessage(id_, place, stored, _time(document), tuple(owner))

    def _place(self, document: Mapping[str, Any]) -> str:
        number = document["_id"]
        is_number = type(number).__name__ == "ObjectId"
        return f"{self._collection.name}, _id {number if is_number else 'of another type'}"


def _time(document: Mapping[str, Any]) -> float | None:
    """Seconds since 1970 of an ``ObjectId``, which MongoDB's clients make as they write."""
    made_at = getattr(document["_id"], "generation_time", None)
    return made_at.timestamp() if made_at else None


def _connected(location: str) -> Any:
    try:
        from pymongo import MongoClient
        from pymongo.errors import PyMongoError
    except ImportError:
        raise not_installed("pymongo", "MongoDB", "pip install pymongo") from None
    try:
        client: Any = MongoClient(location, serverSelectionTimeoutMS=10_000)
        client.admin.command("ping")
    except PyMongoError as error:
        raise not_read("The MongoDB server", error, _SERVER) from None
    return client
