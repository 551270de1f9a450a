"""Promise 4 for documents: no row of theirs can be moved, changed, removed or put back.

What can be done unnoticed by someone who may write to the database is held by tests at the end.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from langmem_isolated import IsolatedMemory, LocalRootKey
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated.errors import RecordDoesNotOpen, RecordError
from langmem_isolated.vector_store import IsolatedVectorStore
from tests.conftest import Attacker, Door
from tests.containers import CLEAR, ROW
from tests.embeddings import NGramEmbeddings

# So long that four make up a block: a to d in the first, e to h in the second.
EMBEDDINGS = NGramEmbeddings(2048)
IDS = "abcdefgh"
REFUSED = "refused"
DOCUMENT, BLOCK = Kind.DOCUMENT, Kind.EMBEDDING
Row = tuple[bytes, bytes, bytes]
FIRST, SECOND = (number.to_bytes(8) for number in range(2))


class Scene:
    """Alice's documents, others with the same ids and texts, and who moves their rows."""

    def __init__(self, memory: IsolatedMemory, attacker: Attacker) -> None:
        self.memory, self.attacker = memory, attacker
        self.store = self.store_of()
        self.fill(self.store)

    def fill(self, store: IsolatedVectorStore) -> None:
        store.add_texts([f"text {id_}" for id_ in IDS], ids=[*IDS])

    def store_of(
        self, user: str = "alice", module: str = "tutor", collection: str = "default"
    ) -> IsolatedVectorStore:
        scoped = self.memory.scope(user_id=user, module_id=module)
        return scoped.vector_store(EMBEDDINGS, collection=collection)

    def collection(self, *who: str) -> tuple[bytes, bytes]:
        store = self.store_of(*who)
        keys = store._own.keys()
        return keys.scope_id, keys.pseudonym(Kind.COLLECTION, store._collection)

    def document(self, id_: str, *who: str) -> Row:
        store = self.store_of(*who)
        scope_id, digest = self.collection(*who)
        return scope_id, digest, store._own.keys().pseudonym(DOCUMENT, digest, id_.encode())

    def block(self, number: bytes, *who: str) -> Row:
        return *self.collection(*who), number

    def sealed(self, kind: Kind, row: Row) -> bytes:
        ((sealed,),) = self.attacker(
            "SELECT sealed FROM records WHERE kind = ?"
            " AND scope_id = ? AND parent = ? AND key = ?", int(kind), *row,
        )  # fmt: skip
        return bytes(sealed)

    def set(self, kind: Kind, row: Row, what: str, *values: object) -> None:
        """Change a row: ``what`` is the SQL behind SET."""
        self.attacker(
            f"UPDATE records SET {what} WHERE kind = ?"
            " AND scope_id = ? AND parent = ? AND key = ?", *values, int(kind), *row,
        )  # fmt: skip

    def drop(self, kind: Kind, row: Row) -> None:
        self.attacker(
            "DELETE FROM records WHERE kind = ? AND scope_id = ? AND parent = ? AND key = ?",
            int(kind), *row,
        )  # fmt: skip

    def put(self, kind: Kind, row: Row, sealed: bytes) -> None:
        """Put a row there, whether one is there or not."""
        self.drop(kind, row)
        self.attacker(
            "INSERT INTO records (kind, scope_id, parent, key, sealed, size, created_at,"
            " updated_at) VALUES (?, ?, ?, ?, ?, 1, 1, 1)", int(kind), *row, sealed,
        )  # fmt: skip

    def flip(self, kind: Kind, row: Row, where: int) -> None:
        sealed = bytearray(self.sealed(kind, row))
        sealed[where] ^= 1
        self.set(kind, row, "sealed = ?", bytes(sealed))

    def set_collection(self, what: str, *values: object) -> None:
        self.attacker(
            f"UPDATE sessions SET {what} WHERE scope_id = ? AND digest = ?",
            *values, *self.collection(),
        )  # fmt: skip

    def everything(self) -> dict[str, list[tuple[Any, ...]]]:
        return {table: self.attacker(f"SELECT * FROM {table}") for table in ("records", "sessions")}

    def restore(self, tables: dict[str, list[tuple[Any, ...]]], *names: str) -> None:
        """Make tables what they were once."""
        for name in names:
            self.attacker(f"DELETE FROM {name}")
            for row in tables[name]:
                self.attacker(f"INSERT INTO {name} VALUES ({','.join('?' * len(row))})", *row)


@pytest.fixture
def scene(memory: IsolatedMemory, attacker: Attacker) -> Scene:
    return Scene(memory, attacker)


async def seen(store: IsolatedVectorStore, door: Door, name: str, *args: Any, **kw: Any) -> str:
    """The ids that come back, sorted; or that it is refused."""
    try:
        return "".join(sorted(document.id for document in await door(store, name, *args, **kw)))
    except RecordDoesNotOpen:
        return REFUSED


async def assert_seen(
    store: IsolatedVectorStore, door: Door, *, search: str, get: str, documents: str
) -> None:
    """What every way of reading gives."""
    for kwargs in ({"k": 9}, {"k": 8, "filter": {"missing": None}}):
        assert await seen(store, door, "similarity_search", "text", **kwargs) == search
    mmr = await seen(store, door, "max_marginal_relevance_search", "text", k=8)
    assert mmr == search
    assert await seen(store, door, "get_by_ids", [*IDS]) == get
    assert await seen(store, door, "documents") == documents


ORIGINS: dict[str, Sequence[str]] = {
    "another id": (),
    "another collection": ("alice", "tutor", "notes"),
    "another module": ("alice", "planner"),
    "another user": ("bob", "tutor"),
}


@pytest.mark.parametrize("origin", ORIGINS)
async def test_a_document_or_a_block_moved_into_anothers_row_does_not_open(
    scene: Scene, door: Door, origin: str
):
    who = ORIGINS[origin]
    if who:
        scene.fill(scene.store_of(*who))
    document = scene.sealed(DOCUMENT, scene.document("b" if not who else "a", *who))
    block = scene.sealed(BLOCK, scene.block(SECOND if not who else FIRST, *who))
    own = scene.sealed(DOCUMENT, scene.document("a"))

    scene.set(DOCUMENT, scene.document("a"), "sealed = ?", document)
    await assert_seen(scene.store, door, search=REFUSED, get=REFUSED, documents=REFUSED)

    scene.set(DOCUMENT, scene.document("a"), "sealed = ?", own)
    scene.set(BLOCK, scene.block(FIRST), "sealed = ?", block)
    await assert_seen(scene.store, door, search=REFUSED, get=IDS, documents=IDS)


async def test_blocks_that_change_places_do_not_open(scene: Scene, door: Door):
    for kind, one, other, get in (
        (BLOCK, scene.block(FIRST), scene.block(SECOND), IDS),
        (DOCUMENT, scene.document("a"), scene.document("e"), REFUSED),
    ):
        before = scene.everything()
        first, second = scene.sealed(kind, one), scene.sealed(kind, other)
        scene.set(kind, one, "sealed = ?", second)
        scene.set(kind, other, "sealed = ?", first)
        await assert_seen(scene.store, door, search=REFUSED, get=get, documents=get)
        scene.restore(before, "records")


@pytest.mark.parametrize("part", ["scope", "collection", "id"])
async def test_a_whole_row_moved_to_another_place_opens_nowhere(
    scene: Scene, door: Door, part: str
):
    """Its own place is empty then, and the other place has what is not its own."""
    who = {"scope": ("bob", "tutor"), "collection": ("alice", "tutor", "notes"), "id": ()}[part]
    store = scene.store_of(*who)
    if who:
        store.add_texts(["text x"], ids=["x"])
    to = scene.document("b", *who)
    if not who:
        scene.drop(DOCUMENT, to)

    scene.set(DOCUMENT, scene.document("a"), "scope_id = ?, parent = ?, key = ?", *to)

    assert await seen(store, door, "get_by_ids", ["b"]) == REFUSED
    assert await seen(store, door, "documents") == REFUSED
    await assert_seen(
        scene.store, door, search=REFUSED, get="bcdefgh" if who else REFUSED, documents=REFUSED
    )
    with pytest.raises(RecordDoesNotOpen):
        await door(store, "add_texts", ["text"], ids=["b"])


async def test_what_was_changed_in_any_part_does_not_open(scene: Scene, door: Door):
    before = scene.everything()
    for where in (0, 1, 17, 29, 30, -17, -16, -1):
        scene.flip(DOCUMENT, scene.document("a"), where)
        await assert_seen(scene.store, door, search=REFUSED, get=REFUSED, documents=REFUSED)
        scene.restore(before, "records")
        scene.flip(BLOCK, scene.block(SECOND), where)
        await assert_seen(scene.store, door, search=REFUSED, get=IDS, documents=IDS)
        scene.restore(before, "records")


async def test_what_was_cut_off_or_is_in_plaintext_does_not_open(scene: Scene, door: Door):
    before = scene.everything()
    for kind, row, get in (
        (DOCUMENT, scene.document("a"), REFUSED),
        (BLOCK, scene.block(FIRST), IDS),
    ):
        sealed = scene.sealed(kind, row)
        for other in (b"", sealed[:16], sealed[:45], sealed[:-1], sealed + b"\x00", b"text a"):
            scene.set(kind, row, "sealed = ?", other)
            await assert_seen(scene.store, door, search=REFUSED, get=get, documents=get)
        scene.restore(before, "records")


async def test_a_record_of_another_kind_is_no_document_and_no_block(scene: Scene, door: Door):
    document, block = scene.document("a"), scene.block(FIRST)
    sealed = {DOCUMENT: scene.sealed(DOCUMENT, document), BLOCK: scene.sealed(BLOCK, block)}

    scene.set(DOCUMENT, document, "sealed = ?", sealed[BLOCK])
    await assert_seen(scene.store, door, search=REFUSED, get=REFUSED, documents=REFUSED)
    scene.set(DOCUMENT, document, "sealed = ?", sealed[DOCUMENT])
    scene.set(BLOCK, block, "sealed = ?", sealed[DOCUMENT])
    await assert_seen(scene.store, door, search=REFUSED, get=IDS, documents=IDS)


async def test_what_was_removed_is_missed(scene: Scene, door: Door):
    before = scene.everything()
    for dropped, get, documents in (
        ([(DOCUMENT, scene.document("a"))], "bcdefgh", REFUSED),
        ([(BLOCK, scene.block(FIRST))], IDS, IDS),
        ([(BLOCK, scene.block(SECOND))], IDS, IDS),
        ([(DOCUMENT, scene.document(id_)) for id_ in IDS], "", REFUSED),
        ([(BLOCK, scene.block(FIRST)), (BLOCK, scene.block(SECOND))], IDS, IDS),
        (
            [(BLOCK, scene.block(SECOND)), *((DOCUMENT, scene.document(id_)) for id_ in "efgh")],
            "abcd",
            REFUSED,
        ),
    ):
        for kind, row in dropped:
            scene.drop(kind, row)
        await assert_seen(scene.store, door, search=REFUSED, get=get, documents=documents)
        scene.restore(before, "records")
    await assert_seen(scene.store, door, search=IDS, get=IDS, documents=IDS)


async def test_an_earlier_block_put_back_is_noticed_when_it_had_other_documents(
    scene: Scene, door: Door
):
    earlier = [scene.sealed(BLOCK, scene.block(number)) for number in (FIRST, SECOND)]

    # A document that was added again is in the newest block, and was taken out of its own.
    scene.store.add_texts(["text a"], ids=["a"])
    scene.put(BLOCK, scene.block(FIRST), earlier[0])
    await assert_seen(scene.store, door, search=REFUSED, get=IDS, documents=IDS)
    scene.store.clear()
    scene.fill(scene.store)
    scene.store.delete(["h"])
    earlier[1] = scene.sealed(BLOCK, scene.block(SECOND))
    scene.store.add_texts(["text h"], ids=["h"])
    scene.put(BLOCK, scene.block(SECOND), earlier[1])
    await assert_seen(scene.store, door, search=REFUSED, get=IDS, documents=IDS)


async def test_an_earlier_document_put_back_is_refused_when_its_embedding_has_moved(
    scene: Scene, door: Door
):
    earlier = scene.sealed(DOCUMENT, scene.document("a"))
    scene.store.add_texts(["text a, changed"], ids=["a"])

    scene.set(DOCUMENT, scene.document("a"), "sealed = ?", earlier)

    assert await seen(scene.store, door, "similarity_search", "text a", k=9) == REFUSED
    with pytest.raises(RecordDoesNotOpen):
        await door(scene.store, "add_texts", ["new"], ids=["a"])
    with pytest.raises(RecordDoesNotOpen):
        await door(scene.store, "delete", ["a"])


async def test_a_deleted_document_put_back_is_found_by_no_search(scene: Scene, door: Door):
    earlier = scene.sealed(DOCUMENT, scene.document("a"))
    scene.store.delete(["a"])

    scene.put(DOCUMENT, scene.document("a"), earlier)

    await assert_seen(scene.store, door, search="bcdefgh", get=IDS, documents=REFUSED)
    with pytest.raises(RecordDoesNotOpen):
        await door(scene.store, "add_texts", ["new"], ids=["a"])


# --- the collection's own row ---------------------------------------------------------------------

CHANGES: dict[str, Callable[[Scene], object]] = {
    "count": lambda scene: scene.set_collection("count = count - 1"),
    "no count": lambda scene: scene.set_collection("count = 0"),
    "next_sequence": lambda scene: scene.set_collection("next_sequence = next_sequence + 1"),
    "generation": lambda scene: scene.set_collection("generation = ?", bytes(8)),
    "birth": lambda scene: scene.set_collection("birth = ?", bytes(16)),
    "multiset hash": lambda scene: scene.set_collection("members = ?", bytes(48)),
    "newest": lambda scene: scene.set_collection("newest = ?", bytes(16)),
    "size": lambda scene: scene.set_collection("size = size + 1"),
    "times": lambda scene: scene.set_collection("created_at = 7, updated_at = 7"),
    "state": lambda scene: scene.set_collection("state = 2"),
    "pinned": lambda scene: scene.set_collection("is_pinned = 1"),
    "lifetime": lambda scene: scene.set_collection("absolute_lifetime = 1"),
    "row MAC": lambda scene: scene.set_collection("row_mac = ?", bytes(16)),
    "no row MAC": lambda scene: scene.set_collection("row_mac = ?", b""),
    "expires_at": lambda scene: scene.set_collection("expires_at = 1"),
    "later expires_at": lambda scene: scene.set_collection("expires_at = ?", 2**62),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_a_collection_whose_row_was_changed_is_refused_until_it_is_cleared(
    scene: Scene, door: Door, change: str
):
    CHANGES[change](scene)

    await assert_seen(scene.store, door, search=REFUSED, get=REFUSED, documents=REFUSED)
    for name, *args in (("add_texts", ["text"]), ("delete", ["a"])):
        with pytest.raises(RecordDoesNotOpen):
            await door(scene.store, name, *args)
    await door(scene.store, "clear")
    await assert_seen(scene.store, door, search="", get="", documents="")
    scene.fill(scene.store)
    await assert_seen(scene.store, door, search=IDS, get=IDS, documents=IDS)


async def test_a_collection_without_its_row_is_refused_until_it_is_cleared(
    scene: Scene, door: Door, attacker: Attacker
):
    attacker("DELETE FROM sessions")

    await assert_seen(scene.store, door, search=REFUSED, get=REFUSED, documents=REFUSED)
    for ids in (["a"], ["new"]):
        with pytest.raises(RecordDoesNotOpen):
            await door(scene.store, "add_texts", ["text"], ids=ids)
    assert attacker("SELECT COUNT(*) FROM records") == [(10,)]
    await door(scene.store, "clear")
    assert attacker("SELECT COUNT(*) FROM records") == [(0,)]
    scene.fill(scene.store)
    await assert_seen(scene.store, door, search=IDS, get=IDS, documents=IDS)


@pytest.mark.parametrize("who", [("bob", "tutor"), ("alice", "planner"), ("alice", "tutor", "n")])
async def test_a_row_of_another_collection_does_not_fit(
    scene: Scene, door: Door, attacker: Attacker, who: tuple[str, ...]
):
    scene.fill(scene.store_of(*who))
    columns = ", ".join(ROW)
    (other,) = attacker(
        f"SELECT {columns} FROM sessions WHERE scope_id = ? AND digest = ?",
        *scene.collection(*who),
    )

    scene.set_collection(", ".join(f"{name} = ?" for name in columns.split(", ")), *other)

    await assert_seen(scene.store, door, search=REFUSED, get=REFUSED, documents=REFUSED)


async def test_documents_of_before_clear_do_not_open_after_it(scene: Scene, door: Door):
    before = scene.everything()
    scene.store.clear()

    scene.restore(before, "records")
    await assert_seen(scene.store, door, search=REFUSED, get=REFUSED, documents=REFUSED)
    with pytest.raises(RecordDoesNotOpen):
        await door(scene.store, "add_texts", ["text x"], ids=["x"])
    scene.store.clear()
    scene.fill(scene.store)
    for kind, row, get in (
        (DOCUMENT, scene.document("a"), REFUSED),
        (BLOCK, scene.block(FIRST), IDS),
    ):
        now = scene.everything()
        scene.restore(before, "records")
        earlier = scene.sealed(kind, row)
        scene.restore(now, "records")
        scene.set(kind, row, "sealed = ?", earlier)
        await assert_seen(scene.store, door, search=REFUSED, get=get, documents=get)
        scene.restore(now, "records")


@pytest.mark.parametrize("column", ["sealed", "key"])
@pytest.mark.parametrize("odd", ["text", 7, 7.5, -(2**63), b"", b"\xff" * 9])
async def test_odd_types_in_a_sqlite_column_are_refused_as_tampering(
    sqlite_url: str, root_key: LocalRootKey, door: Door, column: str, odd: Any
):
    with IsolatedMemory(sqlite_url, root_key=root_key) as memory:
        attacker = Attacker(sqlite_url)
        for kind in (DOCUMENT, BLOCK):
            scene = Scene(memory, attacker)
            row = scene.document("a") if kind is DOCUMENT else scene.block(FIRST)
            scene.set(kind, row, f"{column} = ?", odd)
            assert await seen(scene.store, door, "similarity_search", "t", k=9) == REFUSED
            if kind is DOCUMENT:
                assert await seen(scene.store, door, "documents") == REFUSED
            scene.store.clear()
            await assert_seen(scene.store, door, search="", get="", documents="")
        for name in CLEAR:
            scene.fill(scene.store)
            if not (name == "expires_at" and odd == b""):
                scene.set_collection(f"{name} = ?", odd)
                await assert_seen(scene.store, door, search=REFUSED, get=REFUSED, documents=REFUSED)
            scene.store.clear()
        attacker.close()


# --- with opened vectors kept ---------------------------------------------------------------------


async def test_what_is_kept_opened_stays_right_whatever_becomes_of_the_rows(
    database_url: str, root_key: LocalRootKey, door: Door
):
    """Vectors that are kept are those that the row was checked with; documents are opened."""
    with IsolatedMemory(
        database_url, root_key=root_key, plaintext_cache_seconds=60, plaintext_cache_bytes=2**20
    ) as memory:
        attacker = Attacker(database_url)
        scene = Scene(memory, attacker)
        await assert_seen(scene.store, door, search=IDS, get=IDS, documents=IDS)
        before = scene.everything()

        scene.flip(BLOCK, scene.block(FIRST), -1)
        await assert_seen(scene.store, door, search=IDS, get=IDS, documents=IDS)
        scene.drop(BLOCK, scene.block(SECOND))
        await assert_seen(scene.store, door, search=IDS, get=IDS, documents=IDS)
        scene.restore(before, "records")
        scene.flip(DOCUMENT, scene.document("a"), -1)
        await assert_seen(scene.store, door, search=REFUSED, get=REFUSED, documents=REFUSED)
        scene.drop(DOCUMENT, scene.document("a"))
        await assert_seen(scene.store, door, search=REFUSED, get="bcdefgh", documents=REFUSED)
        scene.restore(before, "records")
        scene.set_collection("count = 7")
        await assert_seen(scene.store, door, search=REFUSED, get=REFUSED, documents=REFUSED)
        attacker.close()


# --- what is not noticed --------------------------------------------------------------------------


async def test_what_is_not_looked_at_is_not_checked(scene: Scene, door: Door):
    """A search opens every vector, and those documents that it returns or filters."""
    scene.flip(DOCUMENT, scene.document("h"), -1)

    assert await seen(scene.store, door, "similarity_search", "text a", k=1) == "a"
    assert await seen(scene.store, door, "get_by_ids", ["a", "b"]) == "ab"
    assert await seen(scene.store, door, "similarity_search", "text h", k=1) == REFUSED


async def test_what_can_be_done_unnoticed_is_to_turn_back_time(scene: Scene, door: Door):
    """Without an anchor outside the database: said in the documentation, and no more than this."""
    # A document or block as it stood earlier, where the same documents were in the block.
    document, block = scene.document("h"), scene.block(SECOND)
    earlier = scene.sealed(DOCUMENT, document), scene.sealed(BLOCK, block)
    scene.store.add_texts(["words of another kind"], ids=["h"])
    assert await seen(scene.store, door, "similarity_search", "another kind", k=1) == "h"
    scene.set(DOCUMENT, document, "sealed = ?", earlier[0])
    (found,) = await door(scene.store, "get_by_ids", ["h"])
    assert found.page_content == "text h"
    scene.set(BLOCK, block, "sealed = ?", earlier[1])
    assert await seen(scene.store, door, "similarity_search", "text h", k=1) == "h"

    # One that is gone, for those who ask for it by its id.
    scene.drop(DOCUMENT, document)
    assert await door(scene.store, "get_by_ids", ["h"]) == []
    scene.put(DOCUMENT, document, earlier[0])

    # All of it as it once was, or nothing at all.
    before = scene.everything()
    scene.store.add_texts(["text i"], ids=["i"])
    scene.store.delete(["a"])
    scene.restore(before, "records", "sessions")
    await assert_seen(scene.store, door, search=IDS, get=IDS, documents=IDS)
    scene.attacker("DELETE FROM records")
    scene.attacker("DELETE FROM sessions")
    await assert_seen(scene.store, door, search="", get="", documents="")


async def test_clear_columns_that_nobody_reads_may_say_anything(scene: Scene, door: Door):
    scene.attacker("UPDATE records SET created_at = 7, updated_at = 7, size = 7")

    await assert_seen(scene.store, door, search=IDS, get=IDS, documents=IDS)


@pytest.mark.parametrize("others", [None, ("bob",), ("alice", "planner")])
async def test_a_changed_or_exchanged_header_is_refused_by_who_needs_the_name_of_the_model(
    scene: Scene, door: Door, others: Sequence[str] | None
):
    sealed = b"changed"
    if others is not None:
        scene.fill(scene.store_of(*others))
        ((sealed,),) = scene.attacker(
            "SELECT sealed FROM sessions WHERE scope_id = ? AND digest = ?",
            *scene.collection(*others),
        )
    scene.set_collection("sealed = ?", sealed)

    await assert_seen(scene.store, door, search=REFUSED, get=IDS, documents=IDS)
    vector = EMBEDDINGS.embed_query("text")
    assert await seen(scene.store, door, "similarity_search_by_vector", vector, k=9) == IDS
    with pytest.raises(RecordDoesNotOpen):
        await door(scene.store, "add_texts", ["new"])
    await assert_seen(scene.store, door, search=REFUSED, get=IDS, documents=IDS)


def test_a_document_of_a_later_form_says_so(scene: Scene):
    """What a later version of this package may have written, sealed as it should be."""
    keys, (_, digest, key) = scene.store._own.keys(), scene.document("a")
    ((birth,),) = scene.attacker("SELECT birth FROM sessions")
    place = keys.aad_prefix(DOCUMENT, digest, bytes(birth))
    plaintext = keys.open(place, key, scene.sealed(DOCUMENT, scene.document("a")), DOCUMENT)

    later = plaintext[:8] + b"\x02" + plaintext[9:]
    scene.set(DOCUMENT, scene.document("a"), "sealed = ?", keys.seal(place, key, later))

    for read in (scene.store.documents, lambda: scene.store.get_by_ids(["a"])):
        with pytest.raises(RecordError, match="in form 02, this version knows 01") as refusal:
            read()
        assert b"text".hex() not in str(refusal.value)


def test_the_form_of_documents_and_blocks_is_frozen(scene: Scene, attacker: Attacker):
    """What this version stores must open for ever: this layout never changes."""
    store = scene.store_of("bob")
    store.add_texts(["one", "two"], ids=["1", "2"])
    keys, (scope_id, digest) = store._own.keys(), scene.collection("bob")
    ((birth,),) = attacker(
        "SELECT birth FROM sessions WHERE scope_id = ? AND digest = ?", scope_id, digest
    )
    names = [keys.pseudonym(DOCUMENT, digest, name) for name in (b"1", b"2")]

    def opened(kind: Kind, key: bytes) -> bytes:
        place = keys.aad_prefix(kind, digest, bytes(birth))
        return keys.open(place, key, scene.sealed(kind, (scope_id, digest, key)), kind)

    assert digest == keys.pseudonym(Kind.COLLECTION, b"default")
    assert [opened(DOCUMENT, name)[:9] for name in names] == [FIRST + b"\x01"] * 2
    block = opened(BLOCK, FIRST)
    vectors = [np.array(EMBEDDINGS.embed_query(text), dtype="<f4") for text in ("one", "two")]
    assert block[16:] == b"".join(
        [(2).to_bytes(4), *names, *(vector.tobytes() for vector in vectors)]
    )
