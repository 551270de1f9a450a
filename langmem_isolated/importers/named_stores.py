"""Named vector stores: opens a third-party store that is there, without the code that made it.

Nothing is made that is not there, and nothing is embedded: a store that would need it is refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from langchain_core.embeddings import Embeddings

from langmem_isolated.errors import SourceRefused
from langmem_isolated.wrapping import any_adapter

if TYPE_CHECKING:
    from langchain_core.vectorstores import VectorStore


class NoEmbeddings(Embeddings):
    """Stands where a store wants embeddings, and refuses to embed."""

    def embed_documents(self, texts: list[str]) -> NoReturn:
        """Refused."""
        raise SourceRefused(
            f"The store gives no vectors of {len(texts)} texts, which would have to be embedded",
            "Use Adoption(memory, store, …) with the application's store and embeddings.",
        )

    def embed_query(self, text: str) -> NoReturn:
        """Refused."""
        self.embed_documents([text])


def _chroma(location: str, collection: str) -> VectorStore:
    import chromadb
    from chromadb.config import Settings
    from langchain_chroma import Chroma

    settings = Settings(anonymized_telemetry=False)
    if location.startswith(("http://", "https://")):
        scheme, _, rest = location.partition("://")
        host, _, port = rest.rstrip("/").partition(":")
        is_safe = scheme == "https"
        client = chromadb.HttpClient(host, int(port or 8000), ssl=is_safe, settings=settings)
    else:
        _expect(Path(location) / "chroma.sqlite3", "Chroma")
        client = chromadb.PersistentClient(location, settings=settings)
    if collection not in {one.name for one in client.list_collections()}:
        raise _no_collection()
    return Chroma(collection, NoEmbeddings(), client=client, create_collection_if_not_exists=False)


def _qdrant(location: str, collection: str) -> VectorStore:
    from langchain_qdrant import QdrantVectorStore
    from qdrant_client import QdrantClient

    if location.startswith(("http://", "https://")):
        client = QdrantClient(url=location)
    else:
        _expect(Path(location) / "meta.json", "Qdrant")
        client = QdrantClient(path=location)
    if not client.collection_exists(collection):
        raise _no_collection()
    vectors = client.get_collection(collection).config.params.vectors
    names = [*vectors] if isinstance(vectors, dict) else [""]
    if len(names) != 1:
        raise SourceRefused(
            f"The collection has {len(names)} vectors for each point, expected one",
            "Use Adoption(memory, store, …) with the application's store.",
        )
    return QdrantVectorStore(
        client,
        collection,
        NoEmbeddings(),
        vector_name=names[0],
        validate_collection_config=False,
    )


def _pgvector(location: str, collection: str) -> VectorStore:
    from langchain_postgres import PGEngine

    scheme, separator, rest = location.partition("://")
    if scheme.partition("+")[0] not in ("postgres", "postgresql"):
        raise SourceRefused(
            "The location is no URL of PostgreSQL", "Give postgresql://user@host/name."
        )
    engine = PGEngine.from_connection_string(f"postgresql+psycopg{separator}{rest}")
    schema, _, table = collection.rpartition(".")
    try:
        return _read_whole(engine, table, schema or "public")
    except BaseException:
        asyncio.run(engine.close())
        raise


def _read_whole(engine: Any, table: str, schema: str) -> VectorStore:
    """A store that reads every column: what it does not read would not be written again."""
    from langchain_postgres import PGVectorStore

    options: dict[str, Any] = {"schema_name": schema}
    try:
        store = PGVectorStore.create_sync(engine, NoEmbeddings(), table, **options)
    except ValueError:
        raise _no_collection() from None
    adapter: Any = any_adapter(store)
    options["metadata_columns"] = adapter.other_columns()
    return PGVectorStore.create_sync(engine, NoEmbeddings(), table, **options)


_OPENED: dict[str, tuple[Callable[[str, str], Any], str]] = {
    "chroma": (_chroma, "langchain-chroma"),
    "qdrant": (_qdrant, "langchain-qdrant"),
    "pgvector": (_pgvector, "langchain-postgres"),
}
STORE_KINDS = tuple(_OPENED)
"""What can be named."""


def named_store(kind: str, location: str, collection: str) -> VectorStore:
    """Open a vector store that is there.

    Args:
        kind: ``"chroma"``, ``"qdrant"`` or ``"pgvector"``.
        location: A folder or ``http://`` URL of Chroma or Qdrant, a URL of PostgreSQL.
        collection: Of it; on PostgreSQL a table, with its schema unless that is the public one.

    Raises:
        SourceRefused: It is not there, cannot be opened, or its package is not installed.
    """
    if kind not in _OPENED:
        raise SourceRefused(
            "No store of this kind can be named", f"Expected one of {', '.join(STORE_KINDS)}."
        )
    opened, package = _OPENED[kind]
    try:
        return opened(location, collection)  # type: ignore[no-any-return]
    except SourceRefused:
        raise
    except ImportError:
        raise SourceRefused(
            f"Stores of this kind need a package that is not installed, {package}",
            f"pip install {package} installs it.",
        ) from None
    except Exception as error:  # noqa: BLE001 - of any of three clients, whose messages quote URLs
        raise SourceRefused(
            f"The store cannot be opened ({type(error).__name__})",
            "Does it run, may this user open it, and does nobody else have its folder open?",
        ) from None


def _expect(file: Path, what: str) -> None:
    if not file.is_file():
        raise SourceRefused(
            f"The folder holds no database of {what}", "Give the folder that the application gives."
        )


def _no_collection() -> SourceRefused:
    return SourceRefused(
        "The store has no such collection", "Give --collection as the application does."
    )
