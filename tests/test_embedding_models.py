"""What embedding models are called: whose vectors may be compared."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from langchain_classic.embeddings import CacheBackedEmbeddings
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings
from langchain_core.stores import InMemoryByteStore
from langchain_openai import AzureOpenAIEmbeddings, OpenAIEmbeddings
from langgraph.store.base import ensure_embeddings
from pydantic import BaseModel, PrivateAttr, SecretStr

from langmem_isolated._search.embedding_models import embedding_model_name, model_digest
from tests.embeddings import NGramEmbeddings

SMALL = OpenAIEmbeddings(model="text-embedding-3-small", api_key=SecretStr("sk-secret"))
LARGE = OpenAIEmbeddings(model="text-embedding-3-large", api_key=SecretStr("sk-secret"))
SHORT = OpenAIEmbeddings(
    model="text-embedding-3-small", api_key=SecretStr("sk-secret"), dimensions=256
)


def azure(deployment: str) -> AzureOpenAIEmbeddings:
    return AzureOpenAIEmbeddings(
        azure_deployment=deployment,
        azure_endpoint="https://somebody.openai.azure.com",
        api_key=SecretStr("sk-secret"),
        api_version="2024-02-01",
    )


class Passing(Embeddings):
    """Hands on what it is asked."""

    def embed_query(self, text: str) -> list[float]:
        raise NotImplementedError

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        raise NotImplementedError


class Wrapper(Passing):
    def __init__(self, inner: object) -> None:
        self.inner = inner


class Slotted(Passing):
    __slots__ = ("inner",)

    def __init__(self, inner: object) -> None:
        self.inner = inner


class Private(BaseModel, Passing):
    _inner: Any = PrivateAttr()

    def __init__(self, inner: object) -> None:
        super().__init__()
        self._inner = inner


class Endpoint(Passing):
    def __init__(self, endpoint: str, model: str = "e5") -> None:
        self.endpoint = endpoint
        self._model = model

    @property
    def model_name(self) -> str:
        raise ConnectionError("asks the server")

    def embed(self, texts: list[str]) -> list[list[float]]:
        raise NotImplementedError

    def __call__(self, texts: list[str]) -> list[list[float]]:
        raise NotImplementedError


def embed(texts: list[str], model: str = "e5") -> list[list[float]]:
    raise NotImplementedError


async def aembed(texts: list[str]) -> list[list[float]]:
    raise NotImplementedError


def cached(model: Embeddings) -> Embeddings:
    return CacheBackedEmbeddings.from_bytes_store(
        model,
        InMemoryByteStore(),
        namespace="any",
        key_encoder="sha256",
        query_embedding_cache=True,
    )


def test_another_model_is_called_otherwise():
    models = [SMALL, LARGE, SHORT, azure("one"), azure("two"), NGramEmbeddings(), Endpoint("a")]
    models += [Endpoint("b"), Endpoint("a", "e6"), DeterministicFakeEmbedding(size=8)]
    models += [DeterministicFakeEmbedding(size=9)]

    assert len({model_digest(embedding_model_name(model)) for model in models}) == len(models)


def test_no_key_and_no_address_is_in_a_name():
    for name in map(embedding_model_name, (SMALL, azure("one"), Endpoint("https://a.example"))):
        assert "secret" not in name
        assert "://" not in name
    one, other = Endpoint("https://a.example"), Endpoint("https://b.example")
    assert embedding_model_name(one) == embedding_model_name(other)


@pytest.mark.parametrize("wrap", [Wrapper, Slotted, Private, cached])
def test_what_wraps_a_model_is_called_as_the_model(wrap: Callable[[Any], Embeddings]):
    assert embedding_model_name(wrap(SMALL)) == embedding_model_name(SMALL)
    assert embedding_model_name(wrap(Wrapper(LARGE))) == embedding_model_name(LARGE)


@pytest.mark.parametrize("wrap", [Wrapper, Slotted, Private])
@pytest.mark.parametrize("together", [list, tuple, lambda two: dict(enumerate(two))])
def test_what_wraps_several_models_is_called_after_all(
    wrap: Callable[[Any], Embeddings], together: Callable[[Any], object]
):
    def name(*models: Embeddings) -> str:
        return embedding_model_name(wrap(together(models)))

    twin = OpenAIEmbeddings(model="text-embedding-3-small", api_key=SecretStr("sk-another"))
    assert name(SMALL, twin) == name(SMALL) == embedding_model_name(SMALL)
    assert len({name(SMALL, LARGE), name(SMALL, SHORT), name(SMALL), name(LARGE, SMALL)}) == 4


def test_models_that_know_each_other_have_names():
    one = Wrapper(None)
    other = Wrapper([one, SMALL])
    one.inner = other

    assert embedding_model_name(one) == embedding_model_name(SMALL)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (embed, f"{__name__}.embed"),
        (aembed, f"{__name__}.aembed"),
        (partial(embed, model="e6"), f"{__name__}.embed model=e6"),
        (partial(partial(embed, model="e6"), model="e7"), f"{__name__}.embed model=e7"),
        (Endpoint("a"), f"{__name__}.Endpoint model=e5 endpoint=a"),
        (SMALL.embed_documents, embedding_model_name(SMALL)),
        (cached(SMALL).aembed_documents, embedding_model_name(SMALL)),
    ],
)
def test_functions_of_a_store_are_called_after_themselves_and_what_they_belong_to(
    function: Any, name: str
):
    assert embedding_model_name(ensure_embeddings(function)) == name


def test_a_name_that_is_given_counts():
    assert embedding_model_name(SMALL, "mine") == "mine"
    with pytest.raises(TypeError, match="must be a str, got int"):
        embedding_model_name(SMALL, 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must not be empty"):
        embedding_model_name(SMALL, "")


def test_a_long_cache_in_a_wrapper_is_not_gone_through():
    class Cached(Wrapper):
        def __init__(self) -> None:
            super().__init__(SMALL)
            self.cache = {key: [0.0] for key in range(1000)} | {1000: LARGE}

    assert embedding_model_name(Cached()) == embedding_model_name(SMALL)
