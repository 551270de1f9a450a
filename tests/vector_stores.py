"""Real third-party vector stores for tests, each fresh and empty."""

import asyncio
import itertools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
import pytest
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import InMemoryVectorStore, VectorStore

from tests.postgres import PostgresServer

NAMES = ("in_memory", "faiss", "chroma", "qdrant", "pgvector")

MakeStore = Callable[[Embeddings], VectorStore]
_numbers = itertools.count()


def in_memory(embeddings: Embeddings) -> VectorStore:
    return InMemoryVectorStore(embeddings)


def faiss(embeddings: Embeddings) -> VectorStore:
    with warnings.catch_warnings():
        # The package says that it is no longer maintained, SWIG that its types lack __module__;
        # people still use it, and it is wrapped all the same.
        warnings.simplefilter("ignore", DeprecationWarning)
        import faiss
        from langchain_community.docstore.in_memory import InMemoryDocstore
        from langchain_community.vectorstores import FAISS

    index = faiss.IndexFlatL2(_dimensions(embeddings))
    return FAISS(embeddings, index, InMemoryDocstore(), {})


def chroma(embeddings: Embeddings) -> VectorStore:
    import chromadb
    from langchain_chroma import Chroma

    settings = chromadb.Settings(anonymized_telemetry=False)
    client = chromadb.EphemeralClient(settings)
    return Chroma(f"test-{next(_numbers)}", embeddings, client=client)


def qdrant(embeddings: Embeddings) -> VectorStore:
    from langchain_qdrant import QdrantVectorStore
    from qdrant_client import QdrantClient, models

    client = QdrantClient(":memory:")
    size = _dimensions(embeddings)
    vectors = models.VectorParams(size=size, distance=models.Distance.COSINE)
    client.create_collection("test", vectors_config=vectors)
    return QdrantVectorStore(client, "test", embeddings)


@contextmanager
def pgvector(server: PostgresServer) -> Iterator[MakeStore]:
    """Makes stores in one database, which is dropped with its engine."""
    from langchain_postgres import PGEngine, PGVectorStore

    name = f"vectors_{next(_numbers)}"
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    url = server.url(name).replace("postgresql://", "postgresql+psycopg://")
    engine = PGEngine.from_connection_string(url)

    def make(embeddings: Embeddings) -> VectorStore:
        table = f"documents_{next(_numbers)}"
        engine.init_vectorstore_table(table, _dimensions(embeddings))
        return PGVectorStore.create_sync(engine, embeddings, table)

    yield make
    asyncio.run(engine.close())
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def _dimensions(embeddings: Embeddings) -> int:
    return len(embeddings.embed_query("how long"))


@pytest.fixture(scope="module")
def make_pgvector(request: pytest.FixtureRequest) -> Iterator[MakeStore]:
    with pgvector(request.getfixturevalue("postgres")) as make:
        yield make


@pytest.fixture(params=NAMES)
def make_store(request: pytest.FixtureRequest) -> MakeStore:
    """Makes a fresh, empty store: a test that asks for it runs on all five."""
    if request.param == "pgvector":
        make: MakeStore = request.getfixturevalue("make_pgvector")
        return make
    found: MakeStore = globals()[request.param]
    return found
