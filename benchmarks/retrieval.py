"""Retrieval: 10,000 documents of 100 users, 10,000 of one, and 10,000 messages; 384 dimensions.

    python -m benchmarks.retrieval --json retrieval.json

The built-in store is held against promised times, with opened vectors kept and without. A wrapped
store is held against the same store by itself, filtered by its owner as its documentation says;
both hold the same documents. Embeddings cost next to nothing here, and the same for all.
"""

import argparse
import tempfile
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any
from uuid import UUID

import numpy as np
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.vectorstores import VectorStore
from qdrant_client import models

from benchmarks.harness import Report, Seconds, Target, in_turn, machine, microseconds, ratio
from langmem_isolated import IsolatedMemory, LocalRootKey
from tests import vector_stores
from tests.postgres import PostgresServer

ROOT_KEY = LocalRootKey(bytes(32))
DIMENSIONS = 384
K = 4
SHELVES = 20
SECONDS = 3_600.0
# Milliseconds of a search, by documents of a user, without and with opened vectors kept.
SEARCH_LIMITS = {100: (3.0, 3.0), 10_000: (60.0, 8.0)}
RECALL_LIMITS = (300.0, 30.0)
WRAPPED_LIMIT = 1.3

Search = Callable[[int], Sequence[Document]]


class Pointing(Embeddings):
    """Points somewhere for every text, always in the same way."""

    def embed_query(self, text: str) -> list[float]:
        return vector_of(text)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [vector_of(text) for text in texts]


@cache
def vector_of(text: str) -> list[float]:
    chance = np.random.default_rng(zlib.crc32(text.encode()))
    vector: list[float] = chance.standard_normal(DIMENSIONS, dtype=np.float32).tolist()
    return vector


@cache
def prose() -> str:
    """Python's own, which has the words of prose."""
    return " ".join(" ".join(topics.values()).split())


def text_of(number: int, characters: int = 250) -> str:
    start = number * 97 % (len(prose()) - characters)
    return f"{number:06} {prose()[start : start + characters]}"[:characters]


def id_of(number: int) -> str:
    """Qdrant takes nothing but UUIDs."""
    return str(UUID(int=number))


def documents(first: int, number: int, **metadata: str) -> list[Document]:
    numbers = range(first, first + number)
    return [
        Document(text_of(n), id=id_of(n), metadata={"shelf": n % SHELVES, "page": n, **metadata})
        for n in numbers
    ]


def query(number: int) -> str:
    return f"a question {number}"


def nearest(found: Sequence[Document], asked: str) -> list[str]:
    """What NumPy finds among these in double precision, nearest first."""
    vectors = np.array([vector_of(document.page_content) for document in found], dtype=np.float64)
    scores = vectors @ np.array(vector_of(asked)) / np.linalg.norm(vectors, axis=1)
    return [str(found[place].id) for place in np.argsort(-scores, kind="stable")[:K]]


# --- the built-in store ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Library:
    """The built-in store in one database, with so many documents of each user."""

    label: str
    memory: IsolatedMemory
    users: int
    each: int

    def store(self, number: int) -> VectorStore:
        user = f"user{number % self.users} of {self.each}"
        return self.memory.scope(user_id=user, module_id="tutor").vector_store(Pointing())

    def fill(self) -> None:
        for user in range(self.users):
            self.store(user).add_documents(documents(user * self.each, self.each))

    def search(self, number: int, **options: Any) -> Sequence[Document]:
        # The same user a few times: what is kept opened is met again.
        return self.store(number // 4).similarity_search(query(number), k=K, **options)

    def recall(self, queries: int) -> float:
        """The part of the nearest that is found, of what NumPy finds."""
        hits = 0
        for number in range(queries):
            user = number // 4 % self.users
            expected = nearest(documents(user * self.each, self.each), query(number))
            hits += len({*expected} & {document.id for document in self.search(number)})
        return hits / (queries * K)

    def add(self, number: int) -> None:
        self.store(number).add_documents([Document(text_of(number), id=f"new {number}")])
        self.store(number).delete([f"new {number}"])

    def get(self, number: int) -> None:
        id_ = id_of(number % self.users * self.each)
        assert len(self.store(number).get_by_ids([id_])) == 1

    def search_in_vain(self, number: int) -> None:
        assert not self.search(number, filter={"shelf": "none"})


Step = Callable[[Library], Callable[[int], object]]
READS: Mapping[str, Step] = {
    "search": lambda library: library.search,
    "search, a shelf": lambda library: partial(library.search, filter={"shelf": 7}),
    "search, no match": lambda library: library.search_in_vain,
    "get_by_ids": lambda library: library.get,
}
# By themselves: after a change, what was kept opened is opened again.
WRITES: Mapping[str, Step] = {"add and delete": lambda library: library.add}


@contextmanager
def memories(folder: Path, server: PostgresServer | None) -> Iterator[dict[str, IsolatedMemory]]:
    """Each database opened twice: the second keeps what it opened."""
    urls = {"SQLite": f"sqlite:///{folder}/ours.db"}
    if server:
        urls["PostgreSQL"] = server.url()
    with ExitStack() as stack:
        yield {
            f"{label}{', kept' if seconds else ''}": stack.enter_context(
                IsolatedMemory(url, root_key=ROOT_KEY, plaintext_cache_seconds=seconds)
            )
            for label, url in urls.items()
            for seconds in (0.0, SECONDS)
        }


def measure_built_in(
    report: Report, opened: Mapping[str, IsolatedMemory], users: int, each: int, rounds: int
) -> None:
    libraries = [Library(label, memory, users, each) for label, memory in opened.items()]
    # Two memories share a database.
    filled = in_turn({one.label: [lambda _, one=one: one.fill()] for one in libraries[::2]}, 1,
                     warm_up=0)  # fmt: skip
    taken: dict[str, list[Seconds]] = {one.label: [] for one in libraries}
    for steps in (READS, WRITES):
        actions = {one.label: [step(one) for step in steps.values()] for one in libraries}
        for label, seconds in in_turn(actions, rounds, warm_up=4).items():
            taken[label] += seconds
    names = [*READS, *WRITES]
    title = f"{each:,} documents a user, {users} users, ms"
    rows = [[one.label, *(microseconds(s) / 1e3 for s in taken[one.label])] for one in libraries]
    report.table(title, ["", *names], rows)
    for label, (all_seconds,) in filled.items():
        per_document = microseconds(all_seconds) / users / each
        report.measured("add in bulk, per document", label, each=each, median_us=per_document)
    for one in libraries:
        for name, one_steps in zip(names, taken[one.label], strict=True):
            report.measured(name, one.label, each=each, median_us=microseconds(one_steps))
        what = f"of {each:,} documents, {one.label}"
        if limits := SEARCH_LIMITS.get(each):
            search = microseconds(taken[one.label][0]) / 1e3
            limit = limits["kept" in one.label]
            report.targets.append(Target(f"search {what}", search, limit, unit="ms"))
        found = one.recall(min(rounds, 20))
        report.targets.append(Target(f"recall {what}", found, 1.0, at_least=True, unit=""))


# --- wrapped stores -------------------------------------------------------------------------------


def alone_in_memory(store: Any, user: str) -> Search:
    def passes(document: Document) -> bool:
        return bool(document.metadata["user"] == user)

    return lambda n: store.similarity_search(query(n), k=K, filter=passes)


def alone_in_faiss(store: Any, user: str) -> Search:
    # It filters what it has found: without fetching all it starves.
    every = store.index.ntotal
    return lambda n: store.similarity_search(query(n), k=K, filter={"user": user}, fetch_k=every)


def alone_by_mapping(store: Any, user: str) -> Search:
    return lambda n: store.similarity_search(query(n), k=K, filter={"user": user})


def alone_in_qdrant(store: Any, user: str) -> Search:
    match = models.FieldCondition(key="metadata.user", match=models.MatchValue(value=user))
    wanted = models.Filter(must=[match])
    return lambda n: store.similarity_search(query(n), k=K, filter=wanted)


ALONE: Mapping[str, Callable[[Any, str], Search]] = {
    "in_memory": alone_in_memory,
    "faiss": alone_in_faiss,
    "chroma": alone_by_mapping,
    "qdrant": alone_in_qdrant,
    "pgvector": alone_by_mapping,
}


def measure_wrapped(
    report: Report,
    memory: IsolatedMemory,
    makers: Mapping[str, vector_stores.MakeStore],
    users: int,
    each: int,
    rounds: int,
) -> None:
    rows = []
    for name, make in makers.items():
        alone, shared = make(Pointing()), make(Pointing())
        for user in range(users):
            wrapped(memory, shared, user).add_documents(documents(user * each, each))
            alone.add_documents(documents(user * each, each, user=f"user{user}"))
        actions, full = _compared(memory, name, alone, shared, users)
        taken = in_turn({label: [step] for label, step in actions.items()}, rounds, warm_up=4)
        times = {label: seconds for label, (seconds,) in taken.items()}
        value = ratio(times["wrapped"], times["alone"])
        rows.append([name, *(microseconds(times[one]) / 1e3 for one in times), value])
        for label, seconds in times.items():
            report.measured(f"search, {label}", name, median_us=microseconds(seconds))
        report.targets.append(Target(f"wrapped {name}", value, WRAPPED_LIMIT))
        share = sum(full) / len(full) / K
        report.targets.append(
            Target(f"results of {K}, wrapped {name}", share, 1.0, at_least=True, unit="")
        )
    report.table(
        f"wrapped, {users * each:,} documents of {users} users, ms",
        ["", "alone, filtered", "wrapped", "times"],
        rows,
    )


def wrapped(memory: IsolatedMemory, store: VectorStore, user: int) -> VectorStore:
    scoped = memory.scope(user_id=f"user{user}", module_id="tutor")
    return scoped.vector_store(wrapping=store, probe=False)


def _compared(
    memory: IsolatedMemory, name: str, alone: VectorStore, shared: VectorStore, users: int
) -> tuple[dict[str, Callable[[int], object]], list[int]]:
    """Both searches by the number of the round, and how many each of ours has found."""
    found: list[int] = []
    searches = [ALONE[name](alone, f"user{user}") for user in range(users)]
    ours = [wrapped(memory, shared, user) for user in range(users)]

    def by_itself(number: int) -> None:
        assert len(searches[number % users](number)) == K

    def by_us(number: int) -> None:
        found.append(len(ours[number % users].similarity_search(query(number), k=K)))

    return {"alone": by_itself, "wrapped": by_us}, found


# --- recall ---------------------------------------------------------------------------------------


def said(session: int, number: int) -> list[BaseMessage]:
    kinds = (HumanMessage, AIMessage)
    return [kinds[n % 2](text_of(session * number + n)) for n in range(number)]


def measure_recall(
    report: Report, opened: Mapping[str, IsolatedMemory], messages: int, rounds: int
) -> None:
    each = 100
    scopes = {
        label: memory.scope(user_id="alice", module_id="tutor") for label, memory in opened.items()
    }
    for label, scoped in scopes.items():
        for session in range(0 if "kept" in label else messages // each):
            scoped.chat_history(f"session {session}").add_messages(said(session, each))

    def ask(label: str, number: int) -> None:
        words = " ".join(text_of(number * 31).split()[2:5])
        assert len(scopes[label].recall(words)) == 10

    taken = in_turn({label: [partial(ask, label)] for label in scopes}, rounds)
    times = {label: microseconds(seconds) / 1e3 for label, (seconds,) in taken.items()}
    report.table(f"recall over {messages:,} messages, ms", ["", "by words"], [*times.items()])
    for label, milliseconds in times.items():
        report.measured("recall", label, messages=messages, median_us=milliseconds * 1e3)
        if messages == 10_000:
            limit = RECALL_LIMITS["kept" in label]
            report.targets.append(Target(f"recall, {label}", milliseconds, limit, unit="ms"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=100)
    parser.add_argument("--each", type=int, default=100, help="documents of each user")
    parser.add_argument("--of-one", type=int, default=10_000, help="documents of one user")
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--stores", nargs="*", default=list(vector_stores.NAMES))
    parser.add_argument("--sqlite-only", action="store_true", help="no PostgreSQL, no pgvector")
    parser.add_argument("--folder", type=Path, help="where databases are made; a new one if absent")
    parser.add_argument("--json", type=Path, help="write what was measured to this file")
    options = parser.parse_args()
    packages = ("langchain-core", "numpy", "cryptography", "SQLAlchemy", "faiss-cpu",
                "langchain-chroma", "langchain-qdrant", "langchain-postgres")  # fmt: skip
    report = Report("Retrieval", machine(*packages))
    report.settings["levels"] = "all four are read, as by default"
    report.settings["qdrant"] = "its local mode, in memory"
    with ExitStack() as stack:
        server = None if options.sqlite_only else stack.enter_context(PostgresServer(fsync=True))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=options.folder)))
        opened = stack.enter_context(memories(folder, server))
        measure_built_in(report, opened, options.users, options.each, options.rounds)
        measure_built_in(report, opened, 1, options.of_one, options.rounds)
        measure_recall(report, opened, options.messages, options.rounds // 2)
        makers = {
            name: getattr(vector_stores, name) for name in options.stores if name != "pgvector"
        }
        if server and "pgvector" in options.stores:
            makers["pgvector"] = stack.enter_context(vector_stores.pgvector(server))
        with warnings.catch_warnings():
            # Packages that are wrapped here are deprecated in part, and said to be so.
            warnings.simplefilter("ignore", DeprecationWarning)
            measure_wrapped(
                report, opened["SQLite"], makers, options.users, options.each, options.rounds
            )
    report.finish(options.json)


if __name__ == "__main__":
    main()
