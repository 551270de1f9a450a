"""Documents that a shared vector store had before it was wrapped get their owners, in place."""

import asyncio
import json
import signal
import stat
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore, VectorStore

from langmem_isolated import IsolatedMemory, LocalRootKey
from langmem_isolated.errors import (
    AdoptionNotVerified,
    JournalRefused,
    MappingRefused,
    RecordsUnmapped,
)
from langmem_isolated.importers import (
    Adoption,
    Field,
    ForeignDocument,
    Import,
    Mapping,
    VectorStoreSource,
    roll_back_adoption,
)
from langmem_isolated.importers.named_stores import named_store
from langmem_isolated.lifecycle import AdoptedDocuments, AdoptingStore
from langmem_isolated.wrapping import any_adapter
from tests.command_line import error_line, run
from tests.embeddings import NGramEmbeddings
from tests.vector_stores import MakeStore, make_pgvector, make_store

__all__ = ["make_pgvector", "make_store"]

MAPPING = Mapping(user=Field("owner"), module="tutor")
TEXTS = {
    "ann": ["Fractions are parts of a whole.", "Ratios compare.", "Ann's secret is a red kite."],
    "bob": ["Fractions are for Bob.", "Verbs are words of doing."],
}


class CountingEmbeddings(NGramEmbeddings):
    """Counts texts that were embedded, queries left out."""

    def __init__(self) -> None:
        super().__init__()
        self.embedded = 0

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        self.embedded += len(texts)
        return super().embed_documents(texts)


@pytest.fixture
def embeddings() -> CountingEmbeddings:
    return CountingEmbeddings()


@pytest.fixture
def memory(sqlite_url: str, root_key: LocalRootKey) -> Iterator[IsolatedMemory]:
    with IsolatedMemory(sqlite_url, root_key=root_key) as memory:
        yield memory


@pytest.fixture
def shared(make_store: MakeStore, embeddings: CountingEmbeddings) -> VectorStore:
    """A store of each kind, as an application without owners has filled it."""
    return filled(make_store(embeddings))


@pytest.fixture
def in_memory(embeddings: CountingEmbeddings) -> InMemoryVectorStore:
    store = InMemoryVectorStore(embeddings)
    filled(store)
    return store


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "adoption.jsonl"


def filled(store: VectorStore) -> VectorStore:
    for user, texts in TEXTS.items():
        metadatas = [{"owner": user, "page": page} for page in range(len(texts))]
        store.add_texts(texts, metadatas, ids=[ids_of(user, page) for page in range(len(texts))])
    return store


def ids_of(user: str, page: int) -> str:
    # What Qdrant and PostgreSQL take, too.
    return f"00000000-0000-4000-8000-{user.encode().hex()}{page:06}"


def scoped(memory: IsolatedMemory, store: VectorStore, user: str, **options: Any) -> Any:
    scope = memory.scope(user_id=user, module_id="tutor")
    return scope.vector_store(wrapping=store, probe=False, **options)


def found_by(store: Any) -> list[tuple[str | None, str, dict[str, Any], float]]:
    """What a search finds, with its scores, without what a store adds to metadata."""
    return [
        (
            one.id or one.metadata["_id"],
            one.page_content,
            {key: one.metadata[key] for key in ("owner", "page")},
            round(s, 4),
        )
        for one, s in store.similarity_search_with_score("fractions", k=10)
    ]


def contents(store: VectorStore) -> list[tuple[Any, ...]]:
    """All that bears no owner, with vectors."""
    adapter: Any = any_adapter(store)
    ids = adapter.unowned_ids()
    return sorted(
        (one.id, one.document.page_content, sorted(one.document.metadata.items()), rounded(one))
        for one in (adapter.stored(ids) if ids else ())
    )


def rounded(one: Any) -> list[float]:
    return [round(number, 4) for number in one.vector]


@pytest.mark.parametrize("seal", [False, True], ids=["clear", "sealed"])
def test_the_owner_finds_the_same_with_the_same_scores_and_others_nothing(
    memory: IsolatedMemory,
    shared: VectorStore,
    embeddings: CountingEmbeddings,
    journal: Path,
    seal: bool,
):
    """Nothing is embedded for it; rolled back, the store has what it had, and no scope finds it."""
    before, raw, embedded = contents(shared), found_by(shared), embeddings.embedded

    done = Adoption(memory, shared, MAPPING, journal=journal, seal=seal).run()

    assert (done.documents, done.scopes, done.left) == (5, 2, {})
    assert embeddings.embedded == embedded
    assert contents(shared) == []
    for user in ("ann", "bob"):
        own = scoped(memory, shared, user, seal=seal)
        assert found_by(own) == [one for one in raw if one[2]["owner"] == user]
        assert own.get_by_ids([ids_of(user, 0)])[0].page_content == TEXTS[user][0]
    assert scoped(memory, shared, "eve", seal=seal).similarity_search("fractions") == []
    assert scoped(memory, shared, "bob", seal=seal).get_by_ids([ids_of("ann", 0)]) == []
    if seal:
        assert "kite" not in str([one.page_content for one in everything(shared)])
    assert Adoption(memory, shared, MAPPING, journal=journal, seal=seal).run().documents == 0

    undone = roll_back_adoption(memory, shared, journal)

    assert (undone.documents, undone.left) == (5, {})
    assert contents(shared) == before
    assert found_by(shared) == raw
    assert scoped(memory, shared, "ann", seal=seal).similarity_search("fractions") == []
    assert embeddings.embedded == embedded
    assert roll_back_adoption(memory, shared, journal).documents == 0


def everything(store: VectorStore) -> list[Document]:
    return store.similarity_search("fractions", k=50)


def test_a_plan_counts_and_changes_nothing(
    memory: IsolatedMemory, shared: VectorStore, journal: Path
):
    before = contents(shared)
    shared.add_texts(["nobody's"], [{"page": 9}], ids=[ids_of("zoe", 0)])

    plan = Adoption(memory, shared, MAPPING, journal=journal).plan(by_scope=True)

    assert (plan.records, plan.unmapped) == (5, 1)
    assert sorted((scope.user_id, count) for scope, count in plan.by_scope.items()) == [
        ("ann", 3),
        ("bob", 2),
    ]
    with pytest.raises(RecordsUnmapped) as refused:
        Adoption(memory, shared, MAPPING, journal=journal).run()
    assert "nobody" not in str(refused.value)
    assert len(contents(shared)) == len(before) + 1
    assert not journal.exists()
    assert memory.modules("ann") == []
    done = Adoption(memory, shared, MAPPING, journal=journal, unmapped="skip").run()
    assert (done.documents, done.left) == (5, {"unmapped": 1})


def test_nobody_s_documents_are_no_default_user_s(memory: IsolatedMemory, in_memory: VectorStore):
    with pytest.raises(MappingRefused, match="user"):
        Adoption(memory, in_memory, Mapping(module="tutor"))


@pytest.mark.parametrize("method", ["put", "difference", "remove"])
@pytest.mark.parametrize("after", [0, 1])
def test_broken_off_anywhere_it_goes_on_and_can_be_rolled_back(
    memory: IsolatedMemory,
    in_memory: InMemoryVectorStore,
    journal: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    after: int,
):
    """A power cut before a part is written, read back, or removed as it was before."""
    before = contents(in_memory)
    adoption = Adoption(memory, in_memory, MAPPING, journal=journal)
    with monkeypatch.context() as patched, suppress(SystemError):
        break_off(patched, method, after)
        adoption.run()
    with journal.open("a") as file:
        file.write('{"id": "half a l')

    there = [one for user in ("ann", "bob") for one in found_by(scoped(memory, in_memory, user))]
    bare = [one[0] for one in contents(in_memory)]
    assert {one[0] for one in there} | {*bare} == {one[0] for one in before}
    assert roll_back_adoption(memory, in_memory, journal).left.get("changed") is None
    assert contents(in_memory) == before
    assert Adoption(memory, in_memory, MAPPING, journal=journal).run().documents == 5
    assert contents(in_memory) == []


def break_off(patched: pytest.MonkeyPatch, method: str, after: int) -> None:
    kind: Any = AdoptingStore if method == "remove" else AdoptedDocuments
    real: Callable[..., Any] = getattr(kind, method)
    calls = 0

    def broken(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > after:
            raise SystemError
        return real(*args)

    patched.setattr(kind, method, broken)


def test_what_an_owner_changed_since_stays_the_owner_s(
    memory: IsolatedMemory, in_memory: InMemoryVectorStore, journal: Path
):
    Adoption(memory, in_memory, MAPPING, journal=journal).run()
    own = scoped(memory, in_memory, "ann")
    own.add_texts(["rewritten"], [{"owner": "ann", "page": 0}], ids=[ids_of("ann", 0)])
    own.delete([ids_of("ann", 1)])

    undone = roll_back_adoption(memory, in_memory, journal)

    assert (undone.documents, undone.left["changed"]) == (3, 1)
    assert [one.page_content for one in own.similarity_search("x")] == ["rewritten"]
    assert ids_of("ann", 1) not in str(contents(in_memory))


def test_an_owner_s_other_document_of_the_same_id_is_not_replaced(
    memory: IsolatedMemory, in_memory: InMemoryVectorStore, journal: Path
):
    own = scoped(memory, in_memory, "ann")
    own.add_texts(["Ann's new text"], ids=[ids_of("ann", 0)])

    done = Adoption(memory, in_memory, MAPPING, journal=journal).run()

    assert (done.documents, done.left) == (4, {"taken": 1})
    assert own.get_by_ids([ids_of("ann", 0)])[0].page_content == "Ann's new text"
    assert [one[0] for one in contents(in_memory)] == [ids_of("ann", 0)]


def test_what_cannot_be_a_scope_s_document_stays_and_is_told(
    memory: IsolatedMemory, in_memory: InMemoryVectorStore, journal: Path
):
    in_memory.add_texts(["forged"], [{"owner": "ann", "langmem_stamp": "0"}], ids=["f"])
    in_memory.add_texts(["long id"], [{"owner": "ann"}], ids=["x" * 2_000])
    told: list[Any] = []

    done = Adoption(memory, in_memory, MAPPING, journal=journal, on_reject=told.append).run()

    assert (done.documents, done.left) == (5, {"rejected": 2})
    assert all("forged" not in str(one) and "xxx" not in str(one) for one in told)


def test_an_erased_user_gets_nothing_unless_readmitted(
    memory: IsolatedMemory, in_memory: InMemoryVectorStore, journal: Path
):
    memory.scope(user_id="bob", module_id="tutor").chat_history("m").add_user_message("hello")
    memory.erase_user("bob")

    done = Adoption(memory, in_memory, MAPPING, journal=journal).run()

    assert (done.documents, done.left) == (3, {"erased": 2})
    again = Adoption(memory, in_memory, MAPPING, journal=journal, readmit=["bob"]).run()
    assert again.documents == 2


def test_who_is_erased_meanwhile_gets_nothing_and_others_their_own(
    memory: IsolatedMemory,
    in_memory: InMemoryVectorStore,
    journal: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    real: Callable[..., Any] = AdoptedDocuments.put

    def erased_first(own: Any, found: Any) -> None:
        if found[0].document.metadata["owner"] == "ann":
            memory.erase_user("ann")
        real(own, found)

    monkeypatch.setattr(AdoptedDocuments, "put", erased_first)
    done = Adoption(memory, in_memory, MAPPING, journal=journal).run()

    assert (done.documents, done.left) == (2, {"erased": 3})
    assert len(contents(in_memory)) == 3


def test_an_erasure_finds_what_was_adopted(
    memory: IsolatedMemory, in_memory: InMemoryVectorStore, journal: Path
):
    Adoption(memory, in_memory, MAPPING, journal=journal).run()

    memory.erase_user("ann")

    assert len(in_memory.store) == 2
    assert "kite" not in str(in_memory.store)


def test_a_store_that_loses_vectors_is_noticed_before_anything_is_removed(
    memory: IsolatedMemory,
    in_memory: InMemoryVectorStore,
    journal: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    from langmem_isolated.wrapping.in_memory import InMemoryAdapter

    real = InMemoryAdapter.put_vectors
    monkeypatch.setattr(
        InMemoryAdapter,
        "put_vectors",
        lambda self, rows: real(self, rows._replace(vectors=[[0.0] * 64] * len(rows.ids))),
    )
    before = contents(in_memory)

    with pytest.raises(AdoptionNotVerified, match="its vector"):
        Adoption(memory, in_memory, MAPPING, journal=journal).run()

    assert contents(in_memory) == before


def test_the_journal_is_the_operator_s_alone_and_has_no_content(
    memory: IsolatedMemory, in_memory: InMemoryVectorStore, journal: Path
):
    Adoption(memory, in_memory, MAPPING, journal=journal).run()

    assert stat.S_IMODE(journal.stat().st_mode) == 0o600
    text = journal.read_text()
    assert not any(words in text for texts in TEXTS.values() for words in texts)
    assert "page" not in text
    for other in ("{}", "no journal", '{"format": 2, "store": "x", "sealed": false}\n', ""):
        journal.write_text(other)
        with pytest.raises(JournalRefused):
            roll_back_adoption(memory, in_memory, journal)


def test_who_was_killed_before_the_journal_had_a_line_goes_on(
    memory: IsolatedMemory, in_memory: InMemoryVectorStore, journal: Path
):
    for rest in ("", '{"format": 1, "store": "InM'):
        journal.write_text(rest)
        assert Adoption(memory, in_memory, MAPPING, journal=journal).run().documents == 5
        assert roll_back_adoption(memory, in_memory, journal).documents == 5


@pytest.mark.parametrize("seal", [False, True])
def test_one_document_with_no_number_in_it_stops_nobody_s_adoption(
    memory: IsolatedMemory, in_memory: InMemoryVectorStore, journal: Path, seal: bool
):
    """A person may upload a file from which a value or a vector comes out that equals nothing."""
    in_memory.add_texts(["x", "y"], [{"owner": "ann", "n": [float("nan")]}] * 2, ids=["x", "y"])
    row = in_memory.store["x"]
    row["vector"] = [float("nan"), *row["vector"][1:]]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # LangChain's, of such a vector
        done = Adoption(memory, in_memory, MAPPING, journal=journal, seal=seal).run()
        back = roll_back_adoption(memory, in_memory, journal)

    assert (done.documents, done.left, back.documents, back.left) == (7, {}, 7, {})


def test_points_of_qdrant_with_numbers_for_ids_or_more_than_a_document_are_met(
    memory: IsolatedMemory, embeddings: CountingEmbeddings, journal: Path
):
    """What LangChain would read less of than is there is left as it is, and told."""
    from qdrant_client import models

    from tests.vector_stores import qdrant

    store: Any = qdrant(embeddings)
    vector = embeddings.embed_query("fractions")
    payloads = [
        {"page_content": "numbered", "metadata": {"owner": "ann"}},
        {"page_content": "with more", "metadata": {"owner": "ann"}, "score": 1},
        {"data": "not LangChain's"},
    ]
    points = [
        models.PointStruct(id=n, vector=vector, payload=payload)
        for n, payload in enumerate(payloads, 17)
    ]
    store.client.upsert("test", points)

    done = Adoption(memory, store, MAPPING, journal=journal).run()

    assert (done.documents, done.left) == (1, {"rejected": 2})
    assert [one.id for one in scoped(memory, store, "ann").similarity_search("x")] == ["17"]
    assert roll_back_adoption(memory, store, journal).documents == 1
    assert [point.id for point in store.client.retrieve("test", [17, 18, 19])] == [17, 18, 19]


def test_a_folder_of_qdrant_with_vectors_of_any_length_is_adopted_and_rolled_back(
    memory: IsolatedMemory, tmp_path: Path
):
    """Opened anew, it gives vectors as they were put; once put again, at length 1."""
    from qdrant_client import QdrantClient, models

    folder = str(tmp_path / "qdrant")
    sizes = models.VectorParams(size=3, distance=models.Distance.COSINE)
    client = QdrantClient(path=folder)
    client.create_collection("notes", vectors_config=sizes)
    points = [
        models.PointStruct(
            id=n,
            vector=[3.0, 4.0, float(n)],
            payload={"page_content": f"text {n}", "metadata": {"owner": "ann"}},
        )
        for n in (1, 2)
    ]
    client.upsert("notes", points)
    client.close()

    store: Any = named_store("qdrant", folder, "notes")
    adopted = Adoption(memory, store, MAPPING, journal=tmp_path / "adoption.jsonl").run()
    store.client.close()
    store = named_store("qdrant", folder, "notes")
    undone = roll_back_adoption(memory, store, tmp_path / "adoption.jsonl")
    there, _ = store.client.scroll("notes", with_vectors=True)
    store.client.close()

    assert (adopted.documents, undone.documents) == (2, 2)
    assert {one.id for one in there} == {1, 2}


def test_a_collection_is_read_for_an_import_with_its_vectors(
    shared: VectorStore, embeddings: CountingEmbeddings
):
    embedded, before = embeddings.embedded, contents(shared)

    source = VectorStoreSource(shared, collection="notes")
    units = [unit for unit in source.units() if isinstance(unit, ForeignDocument)]

    assert source.total() == 5
    assert [unit.id for unit in units] == sorted(unit.id for unit in units)
    assert {(unit.collection, unit.fields["owner"]) for unit in units} == {
        ("notes", "ann"),
        ("notes", "bob"),
    }
    assert all(unit.embedding and len(unit.embedding) == 64 for unit in units)
    assert embeddings.embedded == embedded
    assert contents(shared) == before


def test_an_import_takes_a_collection_over_as_it_was_embedded(
    memory: IsolatedMemory,
    in_memory: InMemoryVectorStore,
    embeddings: CountingEmbeddings,
    tmp_path: Path,
):
    before, embedded = contents(in_memory), embeddings.embedded
    source = VectorStoreSource(in_memory, collection="notes")

    Import(memory, source, MAPPING, receipt=tmp_path / "receipt.json", backup=False).run()

    own = memory.scope(user_id="ann", module_id="tutor").vector_store(
        embeddings, collection="notes"
    )
    assert found_by(own) == [one for one in found_by(in_memory) if one[2]["owner"] == "ann"]
    assert embeddings.embedded == embedded
    assert contents(in_memory) == before


# The command, and a process that is killed


def chroma_at(folder: Path) -> Any:
    import chromadb
    from chromadb.config import Settings
    from langchain_chroma import Chroma

    client = chromadb.PersistentClient(str(folder), Settings(anonymized_telemetry=False))
    return Chroma("notes", NGramEmbeddings(), client=client)


def test_a_roll_back_takes_nothing_from_a_user_on_hold_until_that_ends(
    memory: IsolatedMemory, in_memory: InMemoryVectorStore, journal: Path
):
    before = contents(in_memory)
    Adoption(memory, in_memory, MAPPING, journal=journal).run()
    memory.retention.hold("ann", reason="case 7", by="counsel")
    anns = found_by(scoped(memory, in_memory, "ann"))

    undone = roll_back_adoption(memory, in_memory, journal)
    assert undone.left == {"held": len(anns)}
    assert found_by(scoped(memory, in_memory, "ann")) == anns

    memory.retention.release("ann")
    assert roll_back_adoption(memory, in_memory, journal).documents == len(anns)
    assert contents(in_memory) == before


def test_a_store_that_can_be_named_is_adopted_and_rolled_back_by_a_command(
    memory: IsolatedMemory, tmp_path: Path
):
    store = filled(chroma_at(tmp_path / "chroma"))
    before = contents(store)
    memory.open()
    named = ("adopt", "chroma", tmp_path / "chroma", "--collection", "notes")
    where = ("--database", memory._database.url.render_as_string(), "--journal", tmp_path / "j")
    whose = ("--user-column", "owner", "--module", "tutor")

    planned = run(*named, *whose, *where, "--dry-run", "--json")
    assert json.loads(planned.stdout)["modules"][0]["records"] == 5
    assert contents(store) == before
    assert run(*named, *whose, *where, stdin="n\n").exit_code == 1
    done = run(*named, *whose, *where, "--yes")
    assert done.exit_code == 0, done.output
    assert "5 documents adopted" in done.stdout
    assert found_by(scoped(memory, store, "ann"))[0][1] == TEXTS["ann"][0]
    undone = run(*named, *where, "--roll-back", "--yes", "--json")
    assert json.loads(undone.stdout) == {"documents": 5, "left": {}}
    assert contents(store) == before


@pytest.mark.parametrize(
    ("kind", "location", "told"),
    [
        ("chroma", "nowhere", "no database of Chroma"),
        ("qdrant", "nowhere", "no database of Qdrant"),
        ("pgvector", "sqlite:///x", "no URL of PostgreSQL"),
        ("pgvector", "postgresql://nobody:hidden@127.0.0.1:1/none", "cannot be opened"),
    ],
)
def test_a_store_that_is_not_there_is_refused_and_not_made(
    memory: IsolatedMemory, tmp_path: Path, kind: str, location: str, told: str
):
    memory.open()
    place = tmp_path / location if location == "nowhere" else location
    url = memory._database.url.render_as_string()

    line = error_line(
        run("adopt", kind, place, "--collection", "notes", "--user", "ann", "--module", "tutor",
            "--dry-run", "--database", url)
    )  # fmt: skip

    assert told in line
    assert "hidden" not in line
    assert not (tmp_path / "nowhere").exists()


def test_columns_that_a_table_has_besides_are_kept_or_it_is_refused(
    memory: IsolatedMemory, make_pgvector: MakeStore, journal: Path
):
    store: Any = make_pgvector(NGramEmbeddings())
    table = store._PGVectorStore__vs.table_name
    url = store._engine._pool.url.render_as_string(hide_password=False)
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(f"ALTER TABLE {table} ADD COLUMN rating INTEGER DEFAULT 7")
    filled(store)

    with pytest.raises(TypeError, match="1 columns that this PGVectorStore does not read"):
        Adoption(memory, store, MAPPING, journal=journal).run()
    named: Any = named_store("pgvector", url, table)
    assert Adoption(memory, named, MAPPING, journal=journal).run().documents == 5
    asyncio.run(named._engine.close())

    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        rows = connection.execute(f"SELECT rating FROM {table}").fetchall()
    assert rows == [(7,)] * 5


# One document after the other, killed before a call of this number.
KILLED = """
import os, signal, sys
from langmem_isolated import IsolatedMemory, LocalRootKey
from langmem_isolated.importers import Adoption, Field, Mapping, adoption
from langmem_isolated.importers.named_stores import named_store
from langmem_isolated.lifecycle import AdoptedDocuments, AdoptingStore

folder, after = sys.argv[1], int(sys.argv[2])
calls = 0

def counted(real):
    def call(*args):
        global calls
        calls += 1
        if calls > after:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args)
    return call

adoption.AT_ONCE = 1
for kind, name in (
    (AdoptedDocuments, "put"), (AdoptedDocuments, "difference"), (AdoptingStore, "remove")
):
    setattr(kind, name, counted(getattr(kind, name)))
key = LocalRootKey(bytes(range(32)))
with IsolatedMemory(f"sqlite:///{folder}/memory.db", root_key=key) as memory:
    store = named_store("chroma", f"{folder}/chroma", "notes")
    mapping = Mapping(user=Field("owner"), module="tutor")
    Adoption(memory, store, mapping, journal=f"{folder}/j").run()
"""


@pytest.mark.slow
def test_killed_in_its_midst_it_ends_like_one_clean_run(memory: IsolatedMemory, tmp_path: Path):
    """`kill -9` of a process before it reads back, and one before it removes another document."""
    store = filled(chroma_at(tmp_path / "chroma"))
    raw = found_by(store)
    for after in (4, 5):
        command = [sys.executable, "-c", KILLED, str(tmp_path), str(after)]
        killed = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert killed.returncode == -signal.SIGKILL, killed.stderr

    Adoption(memory, store, MAPPING, journal=tmp_path / "j").run()

    assert contents(store) == []
    for user in ("ann", "bob"):
        mine = [one for one in raw if one[2]["owner"] == user]
        assert found_by(scoped(memory, store, user)) == mine
    assert roll_back_adoption(memory, store, tmp_path / "j").documents == 5
    assert found_by(store) == raw
