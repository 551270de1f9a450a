"""Every store that is known passes the suite for adapters, and LangChain's own."""

import pytest
from langchain_core.vectorstores import VectorStore
from langchain_tests.integration_tests import VectorStoreIntegrationTests

from langmem_isolated.wrapping import WrappedVectorStore
from langmem_isolated.wrapping.probe import ThrowawayOwner
from langmem_isolated.wrapping.testing import VectorStoreAdapterTests
from tests.embeddings import NGramEmbeddings
from tests.vector_stores import MakeStore, make_pgvector, make_store

__all__ = ["make_pgvector", "make_store"]


class TestAdapters(VectorStoreAdapterTests):
    @pytest.fixture
    def store(self, make_store: MakeStore) -> VectorStore:
        return make_store(NGramEmbeddings())


class TestStandardOfLangChain(VectorStoreIntegrationTests):
    @pytest.fixture(params=["clear", "sealed"])
    def vectorstore(self, request: pytest.FixtureRequest, make_store: MakeStore) -> VectorStore:
        return WrappedVectorStore(
            make_store(self.get_embeddings()),
            [ThrowawayOwner()],
            seal=request.param == "sealed",
        )
