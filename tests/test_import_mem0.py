"""Memories of the real mem0, in Qdrant and in its history, become items and sessions."""

import contextlib
import hashlib
import json
import pickle
import sqlite3
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qdrant_client import QdrantClient
from qdrant_client.models import PointStruct

from langmem_isolated.errors import SourceRefused
from langmem_isolated.importers import ForeignItem, ForeignSession, Rejected
from langmem_isolated.importers.application.forms import Unreadable
from langmem_isolated.importers.application.mem0 import Mem0Source
from langmem_isolated.importers.application.pickles import data_of

MARKER = "ran"


class Crafted:
    """Runs a command where a pickle of it is loaded."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._path,)


@pytest.fixture(scope="module")
def mem0(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What mem0 leaves: three memories, one changed and one deleted, and last messages."""
    folder = tmp_path_factory.mktemp("mem0")
    patch = pytest.MonkeyPatch()
    for name, value in (
        ("MEM0_TELEMETRY", "False"),
        ("OPENAI_API_KEY", "none"),
        ("MEM0_DIR", str(folder)),
    ):
        patch.setenv(name, value)
    with patch.context() as patched:
        _fill(folder, patched)
    patch.undo()
    return folder


def _vector(text: str) -> list[float]:
    return [byte / 255 for byte in hashlib.sha256(text.encode()).digest()]


def _fill(folder: Path, patch: pytest.MonkeyPatch) -> None:
    from mem0 import Memory
    from mem0.embeddings.openai import OpenAIEmbedding

    patch.setattr(OpenAIEmbedding, "embed", lambda _, text, *__: _vector(text))
    patch.setattr(
        OpenAIEmbedding, "embed_batch", lambda _, texts, *__: [_vector(text) for text in texts]
    )
    qdrant = {"path": str(folder / "qdrant"), "embedding_model_dims": 32, "on_disk": True}
    memory = Memory.from_config(
        {
            "vector_store": {"provider": "qdrant", "config": qdrant},
            "history_db_path": str(folder / "history.db"),
        }
    )
    ann = {"user_id": "ann", "agent_id": "tutor", "run_id": "r=1"}
    memory.add("Likes chess", **ann, infer=False, metadata={"topic": "games"})
    memory.add("Moves soon", **ann, infer=False, expiration_date="2030-01-02")
    [bob] = memory.add("Plays Go", user_id="bob", infer=False)["results"]
    memory.update(bob["id"], "Plays Shogi")
    [gone] = memory.add("To be forgotten", user_id="bob", infer=False)["results"]
    memory.delete(gone["id"])
    said = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Hello, Ann"}]
    memory.db.save_messages(said, "agent_id=tutor&run_id=r%3D1&user_id=ann")
    client = memory.vector_store.client
    client.create_collection("mem0_entities", vectors_config={})
    client.upsert("mem0_entities", [PointStruct(id=1, vector={}, payload={"data": "chess"})])
    client.close()
    memory.db.connection.close()


def read(location: str, **options: Any) -> list[Any]:
    with Mem0Source(location, **options) as source:
        return list(source.units())


def items_of(found: list[Any], *namespace: str) -> list[ForeignItem]:
    return [u for u in found if isinstance(u, ForeignItem) and u.namespace == namespace]


def test_memories_come_with_user_agent_and_run_their_times_and_what_was_added(mem0):
    items = items_of(read(str(mem0 / "qdrant")), "memories")

    told = {one.value["data"]: one for one in items}
    chess, moves, shogi = (told[text] for text in ("Likes chess", "Moves soon", "Plays Shogi"))
    assert len(told) == 3
    assert chess.fields == {"user": "ann", "module": "tutor", "session": "r=1"}
    assert shogi.fields == {"user": "bob", "module": None, "session": None}
    assert chess.value.keys() >= {"data", "hash", "topic", "role"}
    assert not chess.value.keys() & {"user_id", "agent_id", "run_id", "text_lemmatized"}
    assert moves.expires_at == datetime(2030, 1, 3, tzinfo=UTC)
    assert shogi.created_at < shogi.updated_at


def test_history_belongs_to_the_owner_of_its_memory_and_that_of_deleted_ones_is_told(mem0):
    found = read(str(mem0 / "qdrant"), history=mem0 / "history.db")

    changes = items_of(found, "memories", "history")
    assert [(c.value["event"], c.fields["user"]) for c in changes] == [
        *(("ADD", "ann"), ("ADD", "ann"), ("ADD", "bob"), ("UPDATE", "bob")),
    ]
    assert (changes[3].value["old_memory"], changes[3].value["new_memory"]) == (
        *("Plays Go", "Plays Shogi"),
    )
    rejected = [unit for unit in found if isinstance(unit, Rejected)]
    assert [one.place for one in rejected] == [
        *("history, row 5", "history, row 6", "collection mem0_entities"),
    ]
    assert "1 entities are left out" in rejected[-1].reason
    assert "forgotten" not in repr(rejected)


def test_last_messages_become_the_session_of_their_run(mem0):
    with Mem0Source(str(mem0 / "qdrant"), history=mem0 / "history.db") as source:
        [(session, said)] = [
            (unit, [(m.message.content, m.message.response_metadata) for m in unit.messages])
            for unit in source.units()
            if isinstance(unit, ForeignSession)
        ]

    assert (session.id, session.fields) == (
        "r=1",
        {"user": "ann", "module": "tutor", "session": "r=1"},
    )
    assert said == [("hi", {}), ("Hello, Ann", {})]


def test_a_crafted_point_runs_nothing_and_is_told_with_its_place(mem0, tmp_path):
    marker = tmp_path / MARKER
    pickled = pickle.dumps({"state": Crafted(marker)})
    pickle.loads(pickled)
    assert marker.exists()
    marker.unlink()
    path = copied(mem0, tmp_path) / "collection" / "mem0" / "storage.sqlite"
    with sqlite3.connect(path) as connection:
        point = PointStruct(id="x", vector=[], payload={"data": "fine", "user_id": "ann"})
        point.payload["more"] = Crafted(marker)
        rows = [pickled, pickle.dumps(Crafted(marker)), pickle.dumps(point), b"\x80\x04c", "text"]
        connection.executemany(
            "INSERT INTO points VALUES (?, ?)", [(str(n), row) for n, row in enumerate(rows)]
        )
    connection.close()

    found = read(str(tmp_path / "qdrant"))

    assert not marker.exists()
    assert len(items_of(found, "memories")) == 3
    assert [(one.place, one.reason) for one in found if isinstance(one, Rejected)][:5] == [
        ("mem0, row 9", "a point that is no pickle"),
        ("mem0, row 8", "no whole pickle (ValueError)"),
        ("mem0, row 7", "a memory whose payload is no JSON"),
        ("mem0, row 6", "a pickle that is no point of Qdrant's"),
        ("mem0, row 5", "a pickle that is no point of Qdrant's"),
    ]


def copied(mem0: Path, folder: Path) -> Path:
    for path in (mem0 / "qdrant").rglob("*"):
        if path.is_file():
            target = folder / "qdrant" / path.relative_to(mem0 / "qdrant")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return folder / "qdrant"


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_points_of_every_protocol_are_read(protocol):
    payload = {"a": [1, -1, 2**70, 1.5, None, True, "ü"], "n": {"t": (1, 2, 3, 4)}, "e": []}
    point = PointStruct(id=7, vector={"": [0.5] * 2000}, payload=payload)

    read_back = data_of(pickle.dumps(point, protocol=protocol))

    assert read_back.state["__dict__"]["payload"] == payload


@given(st.binary(max_size=80), st.integers(0, 80))
def test_any_bytes_are_data_or_refused(noise, cut):
    whole = pickle.dumps({"a": [1, {"b": "c"}], "d": (1.5, None)})
    for pickled in (noise, whole[:cut], whole[:cut] + noise):
        with contextlib.suppress(Unreadable):
            data_of(pickled)


def test_a_pickle_that_would_grow_without_end_is_refused():
    inner: list[Any] = []
    for _ in range(40):
        inner = [inner, inner]

    with pytest.raises(Unreadable, match="in two places"):
        data_of(pickle.dumps(inner))
    with pytest.raises(Unreadable, match="opcodes"):
        data_of(pickle.dumps([1.5] * 200_000))


class _Served(BaseHTTPRequestHandler):
    """The four calls of Qdrant's REST interface that are made, answered by its local mode."""

    local: QdrantClient

    def do_GET(self) -> None:
        exists = self.local.collection_exists(self.path.split("/")[2])
        self._answer({"exists": exists})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        _, _, name, *rest = self.path.split("?")[0].split("/")
        if rest[-1] == "count":
            self._answer({"count": self.local.count(name).count})
        elif rest[-1] == "scroll":
            points, page = self.local.scroll(
                name, limit=2, offset=asked.get("offset"), with_payload=True
            )
            self._answer({"points": [p.model_dump() for p in points], "next_page_offset": page})
        else:
            self._answer([p.model_dump() for p in self.local.retrieve(name, asked["ids"])])

    def _answer(self, result: Any) -> None:
        body = json.dumps({"time": 0, "status": "ok", "result": result}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(mem0: Path, tmp_path: Path) -> Iterator[str]:
    local = QdrantClient(path=str(copied(mem0, tmp_path)), force_disable_check_same_thread=True)
    handler = type("Handler", (_Served,), {"local": local})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()
    local.close()


def test_a_server_is_scrolled_to_its_end_and_gives_the_same_as_a_folder(server, mem0):
    options = {"history": mem0 / "history.db"}

    served, local = (read(place, **options) for place in (server, str(mem0 / "qdrant")))

    def told(found: list[Any]) -> list[Any]:
        return sorted((u.key, u.value, u.fields) for u in found if isinstance(u, ForeignItem))

    assert len(served) == len(local)
    assert told(served) == told(local)


def test_a_server_or_collection_that_is_not_there_is_refused(mem0):
    with pytest.raises(SourceRefused, match="does not answer"):
        read("http://127.0.0.1:9")
    with pytest.raises(SourceRefused, match="no such collection"):
        read(str(mem0 / "qdrant"), collection="other")


def test_reading_changes_no_file_and_takes_no_lock(mem0):
    def state() -> list[tuple[str, bytes]]:
        return [(str(p), p.read_bytes()) for p in sorted(mem0.rglob("*")) if p.is_file()]

    before = state()
    client = QdrantClient(path=str(mem0 / "qdrant"))
    read(str(mem0 / "qdrant"), history=mem0 / "history.db")
    client.close()

    assert state() == before
