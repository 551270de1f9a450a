"""Twenty users in three modules do anything in any order, and a dictionary says what they find."""

import functools
import itertools
from collections import defaultdict
from typing import Any, ClassVar, NamedTuple

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from langchain_core.documents import Document

from langmem_isolated import IsolatedMemory, LocalRootKey
from langmem_isolated.vector_store import IsolatedVectorStore
from tests.embeddings import NGramEmbeddings

# So long that 16 make up a block.
EMBEDDINGS = NGramEmbeddings(512)
USERS = [f"user{number}" for number in range(20)]
MODULES = ["tutor", "planner", "coach"]
# All of them use the same ids, and speak of the same things.
IDS = [f"doc{number}" for number in range(24)]
WORDS = ["cello lessons", "violin practice", "harbour at low tide", "tax receipts", "a lighthouse"]

_projects = itertools.count()


class Place(NamedTuple):
    user: str
    module: str


@functools.cache
def vector_of(text: str) -> list[float]:
    return EMBEDDINGS.embed_query(text)


class Remembering(NGramEmbeddings):
    def embed_query(self, text: str) -> list[float]:
        return vector_of(text)


@functools.cache
def cosine(one: str, other: str) -> float:
    return sum(a * b for a, b in zip(vector_of(one), vector_of(other), strict=True))


users = st.lists(st.sampled_from(USERS), min_size=4, max_size=20, unique=True)
modules = st.sampled_from(MODULES)
names = st.lists(st.sampled_from(IDS), min_size=1, max_size=8)
words = st.sampled_from(WORDS)
filters = st.one_of(
    st.none(),
    st.builds(lambda word: {"word": word}, words),
    st.builds(lambda limit: {"n": {"$gte": limit}}, st.integers(0, 9)),
    st.builds(lambda limit, word: {"$or": [{"n": {"$lt": limit}}, {"word": {"$ne": word}}]},
              st.integers(0, 9), words),
)  # fmt: skip


def passes(wanted: Any, metadata: dict[str, Any]) -> bool:
    """What the filters above mean, said once more."""
    match wanted:
        case None:
            return True
        case {"word": str(word)}:
            return bool(metadata["word"] == word)
        case {"n": {"$gte": limit}}:
            return bool(metadata["n"] >= limit)
        case {"$or": [{"n": {"$lt": limit}}, {"word": {"$ne": word}}]}:
            return bool(metadata["n"] < limit or metadata["word"] != word)
    raise AssertionError(wanted)


class Crowd(RuleBasedStateMachine):
    """Each step is one operation of several users, in a project of its own."""

    writer: ClassVar[IsolatedMemory]
    reader: ClassVar[IsolatedMemory]
    """Another memory on the same database, which keeps opened vectors."""
    operations: ClassVar[int]

    def __init__(self) -> None:
        super().__init__()
        self.project = f"p{next(_projects)}"
        self.stored: dict[Place, dict[str, Document]] = defaultdict(dict)
        self.numbers = itertools.count()

    def store(self, memory: IsolatedMemory, place: Place) -> IsolatedVectorStore:
        scoped = memory.scope(user_id=place.user, module_id=place.module, project_id=self.project)
        return scoped.vector_store(Remembering())

    def places(self, users: list[str], module: str) -> list[Place]:
        type(self).operations += len(users)
        return [Place(user, module) for user in users]

    @rule(users=users, module=modules, ids=names, word=words)
    def add(self, users: list[str], module: str, ids: list[str], word: str) -> None:
        for place in self.places(users, module):
            documents = []
            for id_ in ids:
                number = next(self.numbers) % 10
                text = f"{word} of {place.user} in {module}, {number}"
                metadata = {"of": [*place], "word": word, "n": number}
                documents.append(Document(text, id=id_, metadata=metadata))
            assert self.store(self.writer, place).add_documents(documents) == ids
            self.stored[place] |= dict(zip(ids, documents, strict=True))

    @rule(users=users, module=modules, ids=names)
    def delete(self, users: list[str], module: str, ids: list[str]) -> None:
        for place in self.places(users, module):
            self.store(self.writer, place).delete(ids)
            for id_ in ids:
                self.stored[place].pop(id_, None)

    @rule(user=st.sampled_from(USERS), module=modules)
    def clear(self, user: str, module: str) -> None:
        for place in self.places([user], module):
            self.store(self.writer, place).clear()
            self.stored[place].clear()

    @rule(users=users, module=modules, query=words, k=st.integers(1, 30), wanted=filters)
    def search(self, users: list[str], module: str, query: str, k: int, wanted: Any) -> None:
        for place in self.places(users, module):
            store = self.store(self.reader, place)
            found = store.similarity_search_with_score(query, k=k, filter=wanted)
            expected = [d for d in self.stored[place].values() if passes(wanted, d.metadata)]
            scores = sorted((cosine(query, d.page_content) for d in expected), reverse=True)
            assert [score for _, score in found] == pytest.approx(scores[:k], abs=1e-5)
            assert len({document.id for document, _ in found}) == len(found)
            for document, score in found:
                assert document in expected
                assert score == pytest.approx(cosine(query, document.page_content), abs=1e-5)

    @rule(users=users, module=modules, ids=names)
    def get(self, users: list[str], module: str, ids: list[str]) -> None:
        for place in self.places(users, module):
            there = self.stored[place]
            found = self.store(self.reader, place).get_by_ids(ids)
            assert found == [there[id_] for id_ in ids if id_ in there]

    def teardown(self) -> None:
        for place in itertools.starmap(Place, itertools.product(USERS, MODULES)):
            found = self.store(self.reader, place).documents()
            assert {document.id: document for document in found} == self.stored[place]
            assert len(found) == len(self.stored[place])


@pytest.mark.parametrize(("kind", "examples", "steps"), [("sqlite", 50, 45), ("postgres", 3, 20)])
def test_10_000_operations_find_what_a_dictionary_says(
    request: pytest.FixtureRequest, root_key: LocalRootKey, kind: str, examples: int, steps: int
):
    url = request.getfixturevalue(f"{kind}_url")
    with (
        IsolatedMemory(url, root_key=root_key, synchronous="NORMAL") as Crowd.writer,
        IsolatedMemory(url, root_key=root_key, plaintext_cache_seconds=60) as Crowd.reader,
    ):
        Crowd.operations = 0
        run_state_machine_as_test(  # type: ignore[no-untyped-call]
            Crowd,
            settings=settings(
                max_examples=examples,
                stateful_step_count=steps,
                deadline=None,
                derandomize=True,
                suppress_health_check=[*HealthCheck],
            ),
        )

    if kind == "sqlite":
        assert Crowd.operations > 10_000
