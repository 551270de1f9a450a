"""Redis: lists and documents of two classes called `RedisChatMessageHistory`.

Those of langchain-community make a list of each session, those of langchain-redis a JSON document
of each message.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeVar

from langmem_isolated.errors import SourceRefused
from langmem_isolated.importers.langchain.messages import MessageRefused, from_json, read_message
from langmem_isolated.importers.langchain.stored_messages import StoredMessage
from langmem_isolated.importers.langchain.urls import not_installed, not_read, public
from langmem_isolated.importers.source import Source
from langmem_isolated.lifecycle import ForeignMessage, ForeignSession, Rejected

if TYPE_CHECKING:
    from redis import Redis

_SERVER = "Give redis://user:password@host:port/number of a server that is there."
_LAYOUTS = {"lists": (b"list", b"message_store:"), "documents": (b"ReJSON-RL", b"chat:")}
_ULID = re.compile(rb"[0-9A-HJKMNP-TV-Z]{26}")
_KEYS_AT_ONCE = 1_000
# A message of 1 MB each would be 50 MB.
_MESSAGES_AT_ONCE = 50
T = TypeVar("T")


class RedisSource(Source):
    """Sessions of one Redis database, in the order of their keys.

    It is gone through with SCAN. Its keys are in memory: about 100 bytes for a session of
    langchain-community, and for every message of langchain-redis.

    Args:
        location: ``redis://…``, ``rediss://…`` or ``unix://…``.
        layout: ``"lists"`` of langchain-community, or ``"documents"`` of langchain-redis; both by
            default.
        key_prefix: As the histories were given; by default ``"message_store:"`` for lists and
            ``"chat:"`` for documents.

    Raises:
        SourceRefused: The server cannot be reached, or redis is not installed.
    """

    kind = "redis"

    def __init__(
        self, location: str, *, layout: str | None = None, key_prefix: str | None = None
    ) -> None:
        if layout not in (None, *_LAYOUTS):
            raise SourceRefused(
                f"There is no layout of {len(str(layout))} characters", "Give lists or documents."
            )
        self._client = _connected(location)
        self._layouts = [layout] if layout else list(_LAYOUTS)
        self._prefix = None if key_prefix is None else key_prefix.encode()
        self._identity = f"{public(location)} {key_prefix!r}"

    @property
    def identity(self) -> str:
        """The URL without user and password, and the prefix."""
        return self._identity

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def units(self) -> Iterator[ForeignSession | Rejected]:
        """The sessions of lists, then those of documents."""
        return _told(self._units())

    def _units(self) -> Iterator[ForeignSession | Rejected]:
        for layout in self._layouts:
            type_, prefix = _LAYOUTS[layout]
            prefix = prefix if self._prefix is None else self._prefix
            read = _lists if layout == "lists" else _documents
            yield from read(self._client, self._keys(prefix, type_), len(prefix))

    def _keys(self, prefix: bytes, type_: bytes) -> list[bytes]:
        """All keys of the type with the prefix, each once, which SCAN does not promise."""
        from redis.exceptions import ResponseError

        escaped = re.sub(rb"([*?\[\]\\])", rb"\\\1", prefix)
        found = self._client.scan_iter(escaped + b"*", _KEYS_AT_ONCE, type_.decode())
        try:
            return sorted(set(found))
        except ResponseError as error:
            # Servers without JSON do not know the type, and have none; Valkey says so.
            if len(self._layouts) == 1 or "unknown type" not in str(error):
                raise
            return []


def _connected(location: str) -> Redis:
    try:
        from redis import Redis
        from redis.exceptions import RedisError
    except ImportError:
        install = 'pip install "langmem-isolated[import]"'
        raise not_installed("redis", "Redis", install) from None
    try:
        client: Redis = Redis.from_url(location, socket_connect_timeout=10)
        client.ping()
    except (RedisError, ValueError) as error:
        raise not_read("The Redis server", error, _SERVER) from None
    return client


def _told(found: Iterator[T]) -> Iterator[T]:
    """What is found, until the server fails: sessions are read when their messages are asked for.

    Raises:
        SourceRefused: It fails.
    """
    from redis.exceptions import RedisError

    try:
        yield from found
    except RedisError as error:
        raise not_read("The Redis server", error, _SERVER) from None


def _lists(client: Redis, keys: list[bytes], skip: int) -> Iterator[ForeignSession | Rejected]:
    for number, key in enumerate(keys, 1):
        place = f"list {number} in the order of keys"
        yield _session(key[skip:], place, _list_messages(client, key, place))


def _session(
    id_: bytes, place: str, messages: Iterator[ForeignMessage | Rejected]
) -> ForeignSession | Rejected:
    try:
        return ForeignSession(id_.decode(), place, _told(messages))
    except UnicodeDecodeError:
        return Rejected(place, f"expected an id in UTF-8, got {len(id_)} other bytes")


def _list_messages(client: Redis, key: bytes, place: str) -> Iterator[ForeignMessage | Rejected]:
    """From the right, where the oldest is: what comes meanwhile comes at the left."""
    length = client.llen(key)
    for start in range(0, length, _MESSAGES_AT_ONCE):
        chunk = client.lrange(key, -min(start + _MESSAGES_AT_ONCE, length), -start - 1)
        for number, stored in enumerate(reversed(chunk), start + 1):
            yield read_message(stored, f"{place}, message {number} from the oldest")


def _documents(client: Redis, keys: list[bytes], skip: int) -> Iterator[ForeignSession | Rejected]:
    """Keys are ``chat:<session>:<ULID>``, and a session's id may have colons itself."""

    def session_of(key: bytes) -> bytes:
        return key[skip:].rpartition(b":")[0]

    keys.sort(key=lambda key: (session_of(key), key))
    for number, (id_, group) in enumerate(groupby(keys, session_of), 1):
        place = f"session {number} in the order of keys"
        yield _session(id_, place, _document_messages(client, list(group), id_))


def _document_messages(
    client: Redis, keys: list[bytes], id_: bytes
) -> Iterator[ForeignMessage | Rejected]:
    """In the order of `RedisChatMessageHistory`; its ULIDs tell apart what has one time."""
    times = dict(zip(keys, _stored(client, keys, "$.timestamp"), strict=True))
    keys.sort(key=lambda key: (_seconds(times[key]), key))
    for key, document in zip(keys, _stored(client, keys, "$"), strict=True):
        # It may have expired meanwhile.
        if document is not None:
            place = _document_place(key)
            yield _document_message(document, place, id_.decode())


def _document_place(key: bytes) -> str:
    """By its ULID; what another stands for, such as a user, is not told."""
    name = key.rpartition(b":")[2]
    return f"document {name.decode()}" if _ULID.fullmatch(name) else "a document without a ULID"


def _stored(client: Redis, keys: list[bytes], path: str) -> Iterator[Any]:
    """What stands at the path of each document, ``None`` where there is nothing."""
    for start in range(0, len(keys), _MESSAGES_AT_ONCE):
        pipeline: Any = client.pipeline(transaction=False)
        for key in keys[start : start + _MESSAGES_AT_ONCE]:
            pipeline.execute_command("JSON.GET", key, path)
        for found in pipeline.execute():
            yield _first(found)


def _first(found: bytes | None) -> Any:
    """What a path found; a document that is not read here is refused where it is made a message."""
    try:
        return next(iter(from_json(found)), None) if found else None
    except MessageRefused:
        return ()


def _seconds(stored: object) -> float:
    return stored if isinstance(stored, int | float) else 0.0


def _document_message(document: Any, place: str, id_: str) -> ForeignMessage | Rejected:
    if not isinstance(document, dict) or document.get("session_id") != id_:
        return Rejected(place, "expected a document of the session in its key, got another")
    return StoredMessage(id_, place, document, document.get("timestamp")).read()
