"""Points of Qdrant: payloads of a local folder, or of a server, page by page."""

from __future__ import annotations

import base64
import itertools
import os
import pickle
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from langmem_isolated.errors import SourceRefused
from langmem_isolated.importers.application.forms import Unreadable, id_of
from langmem_isolated.importers.application.pickles import PickledObject, data_of
from langmem_isolated.importers.application.queries import ForeignDatabase
from langmem_isolated.lifecycle import Rejected

Point = tuple[str, Mapping[str, Any]]
_AT_ONCE = 200
# The client pins it, so that keys stay the same.
_KEY_PROTOCOL = 4


class Points(ABC):
    """Collections of points."""

    @property
    @abstractmethod
    def identity(self) -> str:
        """The folder, or the URL without a key."""

    @abstractmethod
    def all(self, collection: str) -> Iterator[tuple[str, Point | Rejected]]:
        """Each point's place, its id and its payload.

        Raises:
            SourceRefused: There is no such collection.
        """

    @abstractmethod
    def payload(self, collection: str, id_: str) -> Mapping[str, Any] | None:
        """The payload of one point, if there is such a one."""

    @abstractmethod
    def count(self, collection: str) -> int:
        """How many points there are; 0 where there is no such collection."""

    def files(self, collection: str) -> Sequence[Path]:  # noqa: ARG002 - a server has none
        """The files that must stay as they are."""
        return ()

    @abstractmethod
    def close(self) -> None:
        """End the connections."""


class LocalPoints(Points):
    """A folder of ``QdrantClient(path=…)``: SQLite with a pickle for each point.

    Qdrant's client would run what the pickles say, and takes the folder for itself.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: dict[str, ForeignDatabase] = {}

    @property
    def identity(self) -> str:
        """The absolute path."""
        return str(self._folder.resolve())

    def all(self, collection: str) -> Iterator[tuple[str, Point | Rejected]]:
        """Points, what was written last first: of copies of one, older clients left some.

        Ids are kept to know such a copy by, some 100 bytes each.
        """
        database = self._database(collection)
        if database is None:
            raise SourceRefused(
                "The folder has no such collection of a local Qdrant",
                f"Give the folder that has collection/NAME/{_FILE}, and the collection's name.",
            )
        seen: set[str] = set()
        query = "SELECT rowid AS number, point FROM points ORDER BY rowid DESC"
        for row in database.rows(query):
            place = f"{collection}, row {row['number']}"
            try:
                id_, payload = _point_of(row["point"])
            except Unreadable as error:
                yield place, Rejected(place, str(error))
                continue
            if id_ not in seen:
                yield place, (id_, payload)
            seen.add(id_)

    def payload(self, collection: str, id_: str) -> Mapping[str, Any] | None:
        """The payload of one point, by the key under which the client keeps it."""
        database = self._database(collection)
        if database is None:
            return None
        key = base64.b64encode(pickle.dumps(id_, protocol=_KEY_PROTOCOL)).decode()
        row = next(database.rows("SELECT point FROM points WHERE id = ?", key), None)
        try:
            return None if row is None else _point_of(row["point"])[1]
        except Unreadable:
            return None

    def count(self, collection: str) -> int:
        """How many rows there are."""
        database = self._database(collection)
        if database is None:
            return 0
        return int(next(database.rows("SELECT count(*) AS n FROM points"))["n"])

    def files(self, collection: str) -> Sequence[Path]:
        """SQLite's file and its log."""
        database = self._database(collection)
        return () if database is None else database.files()

    def close(self) -> None:
        """End the connections."""
        while self._open:
            self._open.popitem()[1].close()

    def _database(self, collection: str) -> ForeignDatabase | None:
        path = self._folder / "collection" / collection / _FILE
        if not path.is_file():
            return None
        return self._open.setdefault(collection, ForeignDatabase(str(path)))


_FILE = "storage.sqlite"


def _point_of(pickled: object) -> Point:
    """Id and payload of a pickled ``PointStruct``."""
    if not isinstance(pickled, bytes):
        raise Unreadable("a point that is no pickle")
    point = data_of(pickled)
    state = point.state if isinstance(point, PickledObject) else None
    fields = state.get("__dict__") if isinstance(state, dict) else None
    if not isinstance(fields, dict) or "id" not in fields:
        raise Unreadable("a pickle that is no point of Qdrant's")
    return _checked(fields["id"], fields.get("payload"))


def _checked(id_: object, payload: object) -> Point:
    payload = {} if payload is None else payload
    told = id_of(id_)
    if told is None or not isinstance(payload, dict):
        raise Unreadable("a point without an id, or with a payload that is no object")
    return told, payload


class ServedPoints(Points):
    """A server of Qdrant's, asked by its own client."""

    def __init__(self, url: str, api_key_env: str | None) -> None:
        self._url = url
        self._client = _client_of(url, os.environ.get(api_key_env) if api_key_env else None)

    @property
    def identity(self) -> str:
        """Its address."""
        parts = urlsplit(self._url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    def all(self, collection: str) -> Iterator[tuple[str, Point | Rejected]]:
        """Points in the order of their ids, as the server scrolls."""
        numbers, page = itertools.count(1), None
        while True:
            points, page = self._asked(
                "scroll", collection, limit=_AT_ONCE, offset=page, with_payload=True,
                with_vectors=False,
            )  # fmt: skip
            for point in points:
                yield f"{collection}, point {next(numbers)} by id", (str(point.id), point.payload)
            if page is None:
                return

    def payload(self, collection: str, id_: str) -> Mapping[str, Any] | None:
        """The payload of one point, if the server has it."""
        found = self._asked("retrieve", collection, [id_], with_vectors=False)
        return found[0].payload if found else None

    def count(self, collection: str) -> int:
        """How many points the server has."""
        if not self._asked("collection_exists", collection):
            return 0
        return int(self._asked("count", collection).count)

    def close(self) -> None:
        """End the connection."""
        self._client.close()

    def _asked(self, method: str, *given: Any, **named: Any) -> Any:
        try:
            return getattr(self._client, method)(*given, **named)
        except (_api_error(), ValueError) as error:
            raise SourceRefused(
                f"The server of Qdrant's does not answer as expected ({type(error).__name__})",
                "Give its URL, the collection's name, and the variable that has its key.",
            ) from None


def _api_error() -> type[Exception]:
    from qdrant_client.http.exceptions import ApiException

    return ApiException


def _client_of(url: str, api_key: str | None) -> Any:
    try:
        from qdrant_client import QdrantClient
    except ImportError:
        raise SourceRefused(
            "The memories are in a server of Qdrant's, whose client is not installed",
            "pip install qdrant-client installs it.",
        ) from None
    return QdrantClient(url=url, api_key=api_key, check_compatibility=False)
