"""Export: all that a user has is in it, exact, and nothing of anybody else."""

import asyncio
import base64
import contextlib
import hashlib
import json
import math
import os
import random
import re
import signal
import stat
import subprocess
import sys
import tracemalloc
import zipfile
import zlib
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import pytest
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage
from langgraph.channels.delta import DeltaChannel
from langgraph.graph import START, StateGraph
from typing_extensions import TypedDict

from langmem_isolated import IsolatedMemory, LocalRootKey
from langmem_isolated._codecs.messages import MessageMetadata
from langmem_isolated._codecs.values import encode_value
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.owners import Level, Owner
from langmem_isolated._runtime.clock import now
from langmem_isolated._storage.copying import streaming
from langmem_isolated.errors import ExportExists, RecordDoesNotOpen, ScopeError
from langmem_isolated.lifecycle.export.export import FILES, NOT_EXPORTED
from tests.command_line import error_line, run
from tests.conftest import ROOT_KEY, Attacker, Door
from tests.langgraph_threads import joined
from tests.test_cli import url_of
from tests.test_drafts import without_links
from tests.test_inventory import (
    OF_LOCKED_USERS,
    RESERVED,
    ROWS,
    embeddings,
    fill,
    kinds_in,
    operate,
)
from tests.threads import at, put

# By the file, the kinds of which it has a line each.
LINES = {
    "messages": [Kind.MESSAGE],
    "sessions": [Kind.SESSION],
    "threads": [Kind.THREAD],
    "checkpoints": [Kind.CHECKPOINT, Kind.WRITE, Kind.ELEMENT],
    "items": [Kind.ITEM],
    "documents": [Kind.DOCUMENT],
    "collections": [Kind.COLLECTION],
    "profiles": [Kind.PROFILE],
    "entries": [Kind.ENTRY],
    "grants": [Kind.GRANT],
    "policies": [Kind.POLICY],
    "receipts": [Kind.RECEIPT],
    # Of a table of its own, while auditing is on.
    "audit": [],
}
# What stands on the line of another.
WITHIN = {Kind.VECTOR: "items", Kind.EMBEDDING: "documents"}


def lines(folder: Path, kind: str) -> list[dict[str, Any]]:
    text = (folder / "data" / f"{kind}.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def left_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if not path.name.startswith("memory.db")]


def filled(memory: IsolatedMemory) -> None:
    fill(memory, memory.scope(user_id="alice", module_id="tutor"), None)


def chat(memory: IsolatedMemory, user: str = "alice", *texts: str) -> None:
    history = memory.scope(user_id=user, module_id="tutor").chat_history("s")
    history.add_messages([HumanMessage(text) for text in texts])


def test_every_kind_is_exported_or_is_not_for_a_reason(
    memory: IsolatedMemory, attacker: Attacker, tmp_path: Path
):
    filled(memory)
    operate(memory, None)

    counts = memory.export_user("alice", tmp_path / "alice").counts

    stored = kinds_in(attacker)
    # What waits for a user's key is brought in before she exports.
    absent = RESERVED | OF_LOCKED_USERS
    assert {*stored, *ROWS} | absent == {*Kind}
    exported = {kind for kinds in LINES.values() for kind in kinds}
    assert exported | WITHIN.keys() | NOT_EXPORTED.keys() | ROWS.keys() | absent == {*Kind}
    assert {*LINES} == {*FILES}
    assert counts == {name: sum(stored[kind] for kind in kinds) for name, kinds in LINES.items()}
    for name in LINES:
        assert len(lines(tmp_path / "alice", name)) == counts[name]
    assert all(one["vectors"] for one in lines(tmp_path / "alice", "items"))
    assert all(one["embedding"] for one in lines(tmp_path / "alice", "documents"))


def test_what_the_user_said_is_read_as_plain_json(memory: IsolatedMemory, tmp_path: Path):
    filled(memory)

    memory.export_user("alice", tmp_path / "a")

    texts = [one["message"]["data"]["content"] for one in lines(tmp_path / "a", "messages")]
    assert texts == ["a secret", "kept"]
    (thread,) = lines(tmp_path / "a", "threads")
    assert thread["state"]["messages"][0]["data"]["content"] == "long " * 400
    (item,) = lines(tmp_path / "a", "items")
    assert (item["namespace"], item["key"], item["value"]) == (
        ["facts"], "one", {"text": "a secret"},
    )  # fmt: skip
    (document,) = lines(tmp_path / "a", "documents")
    assert document["text"] == "a secret"
    (fact,) = lines(tmp_path / "a", "profiles")
    assert fact["value"]["text"] == "a secret"
    about = json.loads((tmp_path / "a" / "data" / "about.json").read_text())
    assert (about["user"], about["modules"], about["format"]) == ("alice", ["tutor"], 1)
    assert about["statistics"][0]["total"]["messages"] == 2


def test_a_grant_is_read_with_its_times_and_terms(memory: IsolatedMemory, tmp_path: Path):
    filled(memory)
    operate(memory, None)

    memory.export_user("alice", tmp_path / "a")

    granted = [g for g in lines(tmp_path / "a", "grants") if g["space"] == ["granted"] and g["key"]]
    assert [(one["module"], one["key"]) for one in granted] == [("tutor", "planner")]
    assert granted[0]["value"]["granted_at"].endswith("+00:00")
    assert "message" in json.dumps(granted[0]["value"]["terms"])


def others(memory: IsolatedMemory, attacker: Attacker) -> set[bytes]:
    """What others have beside all that Alice has, and the ids and digests by which they go."""
    known = {scope_id for (scope_id,) in attacker("SELECT scope_id FROM scopes")}
    guest = memory.anonymous(module_id="tutor")
    claimed = memory.anonymous(module_id="tutor")
    for scope in (guest, claimed, memory.scope(user_id="robert", module_id="tutor")):
        scope.chat_history("s").add_messages([HumanMessage("what the other said")])
        scope.profile().add_fact("what is known of the other")
        scope.store().put(("facts",), "other", {"text": "of the other"})
        scope.vector_store(embeddings()).add_texts(["of the other"])
    memory.claim(claimed.id, memory.scope(user_id="robert", module_id="tutor"), confirmed=True)
    robert = {"user_id": "robert"}
    memory.grants.allow(**robert, from_module="tutor", to_module="planner", kinds=["message"])
    memory.merge_modules(**robert, from_module="tutor", into_module="planner", dry_run=False)
    memory.retention.keep("message", **robert, days=3)
    memory.retention.keep("message", module_id="tutor", days=30)
    memory.publisher(module_id="tutor").vector_store(embeddings()).add_texts(["of the module"])
    memory.publisher(project_id="default").vector_store(embeddings()).add_texts(["of all"])
    # Alice reads what is shared, and keeps an answer made of it in her own cache.
    found = memory.scope(user_id="alice", module_id="tutor").vector_store(embeddings())
    assert found.similarity_search("of the module", k=4)
    scopes = {scope_id for (scope_id,) in attacker("SELECT scope_id FROM scopes")}
    principals = {one for (one,) in attacker("SELECT principal FROM scopes")}
    mine = {
        one
        for scope_id in known
        for (one,) in attacker("SELECT principal FROM scopes WHERE scope_id = ?", scope_id)
    }
    ids = {b"robert", guest.id.encode(), claimed.id.encode(), b"of the other", b"of the module"}
    return ids | {bytes(one) for one in (scopes - known) | (principals - mine)}


@pytest.mark.parametrize("name", ["alice", "alice.zip", "alice.mem"])
def test_nothing_of_another_user_is_in_it(
    memory: IsolatedMemory, attacker: Attacker, tmp_path: Path, name: str
):
    filled(memory)
    operate(memory, None)
    guest = memory.anonymous(module_id="tutor")
    guest.chat_history("of the guest").add_messages([HumanMessage("said before the login")])
    guests = attacker(f"SELECT scope_id FROM scopes WHERE level = {int(Level.ANONYMOUS)}")
    memory.claim(guest.id, memory.scope(user_id="alice", module_id="tutor"), confirmed=True)
    foreign = others(memory, attacker) | {guest.id.encode()} | {bytes(one) for (one,) in guests}

    memory.export_user("alice", tmp_path / name)

    written = [everything(tmp_path / name), *decoded(tmp_path / name)]
    assert any(b"a secret" in one for one in written)
    assert [one for one in foreign if any(one in text for text in written)] == []


def decoded(output: Path) -> list[bytes]:
    """Every text in an export that is base64 or hexadecimal, decoded and inflated, to any depth."""
    found = []
    rest = [*texts_in(output)]
    while rest:
        text = rest.pop()
        for plain in (from_base64(text), from_hexadecimal(text)):
            if plain is not None:
                found += [plain, *inflated(plain)]
                rest += [word.decode() for word in re.findall(rb"[\w+/=-]{16,}", plain, re.ASCII)]
    return found


def texts_in(output: Path) -> list[str]:
    """Every text that stands in a line of JSON, with the words that names are made of."""
    text = everything(output).decode()
    return [*set(re.findall(r"[\w+/=-]{16,}", text, re.ASCII))]


def from_base64(text: str) -> bytes | None:
    try:
        return base64.b64decode(text.replace("-", "+").replace("_", "/"), validate=True)
    except ValueError:
        return None


def from_hexadecimal(text: str) -> bytes | None:
    try:
        return bytes.fromhex(text)
    except ValueError:
        return None


def inflated(plain: bytes) -> list[bytes]:
    """What is compressed in ``plain``, wherever it begins."""
    found = []
    for head in re.finditer(rb"\x78[\x01\x5e\x9c\xda]", plain):
        with contextlib.suppress(zlib.error):
            found.append(zlib.decompressobj().decompress(plain[head.start() :]))
    return found


def test_the_search_for_ids_finds_what_is_encoded_and_compressed(tmp_path: Path):
    deep = base64.b64encode(b"\x01..." + zlib.compress(b"the id of robert"))
    within = base64.b64encode(b"\x93 " + deep + b" ").decode()
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_text(json.dumps({"stored": within}))

    assert any(b"robert" in one for one in decoded(tmp_path / "a"))
    assert b"robert" not in everything(tmp_path / "a")


def everything(output: Path) -> bytes:
    if output.is_dir():
        return b"".join(path.read_bytes() for path in output.rglob("*") if path.is_file())
    with zipfile.ZipFile(output) as archive:
        return b"".join(archive.read(name) for name in archive.namelist())


def test_every_sha256_and_the_oxum_are_those_of_the_files(memory: IsolatedMemory, tmp_path: Path):
    filled(memory)
    folder = tmp_path / "a"

    memory.export_user("alice", folder)

    named = {}
    for manifest in ("manifest-sha256.txt", "tagmanifest-sha256.txt"):
        for line in (folder / manifest).read_text().splitlines():
            digest, _, name = line.partition("  ")
            named[name] = digest
            assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    there = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert there == {*named, "tagmanifest-sha256.txt"}
    payload = [*(folder / "data").iterdir()]
    size = sum(path.stat().st_size for path in payload)
    assert f"Payload-Oxum: {size}.{len(payload)}\n" in (folder / "bag-info.txt").read_text()


def test_a_collection_that_is_empty_is_exported_with_its_model(
    memory: IsolatedMemory, tmp_path: Path
):
    store = memory.scope(user_id="alice", module_id="tutor").vector_store(embeddings())
    store.delete(store.add_texts(["gone"]))

    counts = memory.export_user("alice", tmp_path / "a").counts

    assert (counts["documents"], counts["collections"]) == (0, 1)
    (line,) = lines(tmp_path / "a", "collections")
    assert (line["count"], line["module"]) == (0, "tutor")
    assert line["embedded_by"]


def test_one_module_is_exported_without_the_others_and_what_all_share(
    memory: IsolatedMemory, tmp_path: Path
):
    filled(memory)
    operate(memory, None)

    memory.export_user("alice", tmp_path / "a", module_id="planner")

    modules = {one["module"] for name in LINES for one in lines(tmp_path / "a", name)}
    assert modules == {"planner"}


async def test_it_is_the_same_from_a_coroutine(memory: IsolatedMemory, door: Door, tmp_path: Path):
    filled(memory)

    exported = await door(memory, "export_user", "alice", tmp_path / "a.zip")

    assert exported.counts["messages"] == 2
    assert zipfile.is_zipfile(tmp_path / "a.zip")


def test_who_has_nothing_gets_an_archive_that_says_so(memory: IsolatedMemory, tmp_path: Path):
    assert not any(memory.export_user("nobody", tmp_path / "a").counts.values())


UNUSUAL = [
    HumanMessage("plain", id="1"),
    AIMessage("tools", tool_calls=[{"name": "t", "args": {"n": 1.5}, "id": "c"}], id="2"),
    ToolMessage("bytes", artifact={"raw": b"\x00\xff", 3: (1, 2)}, tool_call_id="c"),
    HumanMessage("a lone surrogate \ud800"),
    HumanMessage("no number", additional_kwargs={"n": math.nan, "big": 2**70}),
    HumanMessage("looks like ours", additional_kwargs={"v": {"type": "bytes", "value": "AA=="}}),
]


def rebuilt(line: dict[str, Any]) -> bytes:
    """A message's stored plaintext, made from its line alone."""
    if "stored" in line:
        return base64.b64decode(line["stored"])
    written = datetime.fromisoformat(line["written_at"])
    microseconds = int(written.timestamp()) * 10**6 + written.microsecond
    tokens = line["tokens"] and tuple(line["tokens"])
    metadata = MessageMetadata(microseconds, line["channel"], line["untrusted"], tokens)
    parts = [*metadata.packed(), line["message"]["type"], line["message"]["data"]]
    return bytes([line["form"]]) + encode_value(parts, "a message")


def plaintexts(memory: IsolatedMemory) -> list[bytes]:
    records = memory._context.records(Owner(Level.PRIVATE, "default", "alice", "tutor"))

    def read(transaction: Any, keys: Any) -> list[bytes]:
        (digest,) = streaming.digests(transaction, keys, Kind.SESSION)
        found = streaming.container(transaction, keys, Kind.SESSION, digest, now())
        assert found
        pages = streaming.messages(transaction, keys, found)
        return [one.plaintext for page in pages for one in page]

    return records.snapshot(read, [])


def test_every_message_is_rebuilt_from_its_line_byte_for_byte(
    memory: IsolatedMemory, tmp_path: Path
):
    history = memory.scope(user_id="alice", module_id="tutor").chat_history("s", channel="ai")
    history.add_messages(UNUSUAL)

    memory.export_user("alice", tmp_path / "a")

    written = lines(tmp_path / "a", "messages")
    assert [rebuilt(line) for line in written] == plaintexts(memory)
    assert ["stored" in line for line in written] == [False, False, True, True, True, False]
    assert [one["sequence"] for one in written] == [*range(len(UNUSUAL))]


def damaged(attacker: Attacker, kind: Kind) -> None:
    """Change the last byte of one record."""
    (sealed,) = attacker(
        f"SELECT sealed FROM records WHERE kind = {int(kind)} ORDER BY key DESC LIMIT 1"
    )[0]
    changed = bytes(sealed)[:-1] + bytes([sealed[-1] ^ 1])
    attacker("UPDATE records SET sealed = ? WHERE sealed = ?", changed, bytes(sealed))


@pytest.mark.parametrize("kind", [kind for kinds in LINES.values() for kind in kinds] + [*WITHIN])
def test_a_record_that_was_changed_is_refused_and_nothing_stays(
    memory: IsolatedMemory, attacker: Attacker, tmp_path: Path, kind: Kind
):
    filled(memory)
    operate(memory, None)
    if kind in (Kind.SESSION, Kind.THREAD, Kind.COLLECTION):
        attacker(f"UPDATE sessions SET updated_at = updated_at + 1 WHERE kind = {int(kind)}")
    elif kind is Kind.EMBEDDING:
        attacker(
            "UPDATE records SET updated_at = updated_at + 1 WHERE kind = ? AND parent IN "
            "(SELECT digest FROM sessions WHERE kind = ?)", int(kind), int(Kind.COLLECTION),
        )  # fmt: skip
    else:
        damaged(attacker, kind)

    with pytest.raises(RecordDoesNotOpen):
        memory.export_user("alice", tmp_path / "a.zip")

    assert left_in(tmp_path) == []


@pytest.mark.parametrize("kind", [Kind.MESSAGE, Kind.WRITE, Kind.ELEMENT, Kind.DOCUMENT])
def test_a_record_that_was_removed_is_missed(
    memory: IsolatedMemory, attacker: Attacker, tmp_path: Path, kind: Kind
):
    filled(memory)
    attacker("DELETE FROM records WHERE kind = ?", int(kind))

    with pytest.raises(RecordDoesNotOpen):
        memory.export_user("alice", tmp_path / "a")

    assert left_in(tmp_path) == []


def test_a_session_is_not_hidden_by_an_expiry_that_nobody_gave_it(
    memory: IsolatedMemory, attacker: Attacker, tmp_path: Path
):
    chat(memory, "alice", "kept")
    attacker("UPDATE sessions SET expires_at = 5")

    with pytest.raises(RecordDoesNotOpen):
        memory.export_user("alice", tmp_path / "a")


@pytest.mark.parametrize("name", ["a", "a.zip"])
def test_only_its_owner_may_read_it_and_no_other_file_stays(
    memory: IsolatedMemory, tmp_path: Path, name: str
):
    filled(memory)

    memory.export_user("alice", tmp_path / name)

    assert left_in(tmp_path) == [name]
    paths = [tmp_path / name, *(tmp_path / name).rglob("*")]
    assert {stat.S_IMODE(path.stat().st_mode) for path in paths if path.is_file()} == {0o600}
    assert {stat.S_IMODE(path.stat().st_mode) for path in paths if path.is_dir()} <= {0o700}


@pytest.mark.parametrize("name", ["a", "a.zip"])
def test_what_is_there_is_never_written_over(memory: IsolatedMemory, tmp_path: Path, name: str):
    chat(memory, "alice", "kept")
    output = tmp_path / name
    output.write_text("mine")

    with pytest.raises(ExportExists) as refused:
        memory.export_user("alice", output)
    assert isinstance(refused.value, FileExistsError)
    assert output.read_text() == "mine"

    output.unlink()

    def come_between(written: int) -> None:
        output.write_text("theirs")

    with pytest.raises(ExportExists):
        memory.export_user("alice", output, progress=come_between)
    assert output.read_text() == "theirs"
    assert left_in(tmp_path) == [name]


@pytest.mark.parametrize("name", ["a", "a.zip"])
def test_a_file_system_without_hard_links_has_exports_too(
    memory: IsolatedMemory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    monkeypatch.setattr(os, "link", without_links)
    chat(memory, "alice", "kept")

    memory.export_user("alice", tmp_path / name)

    assert left_in(tmp_path) == [name]
    with pytest.raises(ExportExists):
        memory.export_user("alice", tmp_path / name)


KILLED = """
import os, signal, sys
from langmem_isolated import IsolatedMemory, LocalRootKey
memory = IsolatedMemory(sys.argv[1], root_key=LocalRootKey(bytes(range(32))))
memory.export_user("alice", sys.argv[2], progress=lambda n: os.kill(os.getpid(), signal.SIGKILL))
"""


@pytest.mark.parametrize("name", ["a", "a.zip"])
def test_a_killed_export_leaves_nothing_under_its_name(
    memory: IsolatedMemory, database_url: str, tmp_path: Path, name: str
):
    chat(memory, "alice", "kept")

    command = [sys.executable, "-c", KILLED, database_url, str(tmp_path / name)]
    killed = subprocess.run(command, check=False, capture_output=True)

    assert killed.returncode == -signal.SIGKILL
    (left,) = left_in(tmp_path)
    assert re.fullmatch(rf"\.{re.escape(name)}\.[0-9a-f]{{8}}\.partial", left)
    assert memory.export_user("alice", tmp_path / name).counts["messages"] == 1
    assert left_in(tmp_path) == [name]


async def test_a_cancelled_export_ends_and_leaves_nothing(memory: IsolatedMemory, tmp_path: Path):
    chat(memory, "alice", *map(str, range(3000)))
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()

    def tell(written: int) -> None:
        loop.call_soon_threadsafe(begun.set)

    task = asyncio.create_task(memory.aexport_user("alice", tmp_path / "a.zip", progress=tell))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    for _ in range(500):
        if not left_in(tmp_path):
            break
        await asyncio.sleep(0.02)
    assert left_in(tmp_path) == []


def test_keys_that_another_process_rotated_meanwhile_write_no_line_twice(
    memory: IsolatedMemory, database_url: str, tmp_path: Path
):
    chat(memory, "alice", *map(str, range(700)))
    with IsolatedMemory(database_url, root_key=LocalRootKey(ROOT_KEY)) as other:
        other._context.keyring.rotate(Owner(Level.PRIVATE, "default", "alice", "tutor"))
        chat(other, "alice", "the last")

    memory.export_user("alice", tmp_path / "a")

    sequences = Counter(one["sequence"] for one in lines(tmp_path / "a", "messages"))
    assert sequences == Counter(range(701))


def test_20_000_messages_of_one_session_are_exported_in_bounded_memory(
    memory: IsolatedMemory, tmp_path: Path
):
    for start in range(0, 20_000, 2000):
        chat(memory, "alice", *(f"{start + n} {'x' * 200}" for n in range(2000)))
    told: list[int] = []
    memory.export_user("nobody", tmp_path / "first")
    tracemalloc.start()
    try:
        exported = memory.export_user("alice", tmp_path / "a.zip", progress=told.append)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert exported.counts["messages"] == 20_000
    assert told == sorted(told)
    assert len(told) >= 40
    # The messages alone are 4 MB of text, and 20 times as much as objects.
    assert peak < 4_000_000


def test_the_state_of_a_long_thread_is_held_once(memory: IsolatedMemory, tmp_path: Path):
    texts = [f"{number} {'x' * 200}" for number in range(5000)]
    saver = memory.scope(user_id="alice", module_id="tutor").checkpointer()
    put(saver, at("t"), {"messages": [HumanMessage(text) for text in texts], "n": [1, [b"x"]]})
    memory.export_user("nobody", tmp_path / "first")
    tracemalloc.start()
    try:
        memory.export_user("alice", tmp_path / "a")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    (thread,) = lines(tmp_path / "a", "threads")
    assert [one["data"]["content"] for one in thread["state"]["messages"]] == texts
    assert thread["state"]["n"] == [1, [{"type": "bytes", "value": "eA=="}]]
    # 13.5 MB where it is held as objects and as JSON.
    assert peak < 10_000_000


class Deltas(TypedDict, total=False):
    messages: Annotated[list[AnyMessage], DeltaChannel(joined)]
    log: Annotated[list[str], DeltaChannel(joined, snapshot_frequency=2)]
    plain: str


@pytest.mark.parametrize("turns", [1, 2, 3])
@pytest.mark.parametrize("profile", ["full", "mem"])
def test_what_a_thread_keeps_as_deltas_is_in_the_export(
    memory: IsolatedMemory, tmp_path: Path, turns: int, profile: Any
):
    """Whether the latest checkpoint has all of it, a part, or nothing."""

    def answer(state: Deltas) -> Any:
        return {"messages": [AIMessage("heard")], "log": [f"n{len(state['messages'])}"]}

    graph = StateGraph(Deltas).add_node("answer", answer).add_edge(START, "answer").compile()
    bound = memory.scope(user_id="alice", module_id="tutor").bind(graph)
    for turn in range(turns):
        bound.invoke({"messages": [HumanMessage(f"said {turn}")], "plain": "p"}, at("t"))

    memory.export_user("alice", tmp_path / "a", profile=profile)

    texts = [text for turn in range(turns) for text in (f"said {turn}", "heard")]
    if profile == "mem":
        told = "".join(path.read_text() for path in (tmp_path / "a").rglob("*.jsonl"))
        assert all(told.count(f'"{text}"') for text in texts)
        return
    (thread,) = lines(tmp_path / "a", "threads")
    state = thread["state"]
    assert [one["data"]["content"] for one in state["messages"]] == texts
    assert state["log"] == [f"n{2 * turn + 1}" for turn in range(turns)]
    assert state["plain"] == "p"


def large(number: int, *, compresses: bool) -> str:
    """Text of 900 kB."""
    if compresses:
        return f"{number} {'x' * 900_000}"
    return base64.b64encode(random.Random(number).randbytes(675_000)).decode()


@pytest.mark.parametrize(
    ("kind", "compresses"),
    [("messages", True), ("messages", False), ("items", True), ("documents", False)],
)
def test_large_records_are_exported_a_few_at_a_time(
    memory: IsolatedMemory, tmp_path: Path, kind: str, compresses: bool
):
    scope = memory.scope(user_id="alice", module_id="tutor")
    texts = [large(number, compresses=compresses) for number in range(30)]
    if kind == "messages":
        for start in range(0, 30, 10):
            chat(memory, "alice", *texts[start : start + 10])
    elif kind == "items":
        for number, text in enumerate(texts):
            scope.store().put(("facts",), str(number), {"text": text})
    else:
        scope.vector_store(embeddings()).add_texts([text[:200_000] for text in texts])
    del texts
    memory.export_user("nobody", tmp_path / "first")
    tracemalloc.start()
    try:
        exported = memory.export_user("alice", tmp_path / "a")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert exported.counts[kind] == 30
    # Of 27 MB; of documents, which are of 200 kB, 6.
    assert peak < (5_200_000 if kind == "documents" else 12_000_000)


def test_a_zip_file_may_have_a_name_that_is_no_utf8(memory: IsolatedMemory, tmp_path: Path):
    memory.scope(user_id="alice", module_id="tutor").chat_history("a").add_user_message("Hi")
    output = tmp_path / "\udcff.zip"

    memory.export_user("alice", output)

    assert memory.import_user(output, user_id="again").counts["messages"] == 1


@pytest.mark.parametrize("output", [None, 3, b"a.zip"])
def test_an_output_that_is_no_path_is_refused(memory: IsolatedMemory, output: Any):
    with pytest.raises(TypeError, match="output must be the path"):
        memory.export_user("alice", output)


def test_ids_that_are_none_are_refused_before_anything_is_written(
    memory: IsolatedMemory, tmp_path: Path
):
    with pytest.raises(ScopeError):
        memory.export_user("", tmp_path / "a")
    with pytest.raises(ScopeError):
        memory.export_user("alice", tmp_path / "a", module_id="")
    with pytest.raises(FileNotFoundError):
        memory.export_user("alice", tmp_path / "nowhere" / "a")

    assert left_in(tmp_path) == []


def test_the_command_exports_and_tells_how_much(memory: IsolatedMemory, tmp_path: Path):
    filled(memory)
    url = ("--database", url_of(memory))

    done = run("export", "--user", "alice", "--output", tmp_path / "a.zip", "--json", *url)
    again = run("export", "--user", "alice", "--output", tmp_path / "a.zip", *url)
    lost = run("export", "--user", "alice", "--output", tmp_path / "nowhere" / "a", *url)
    module = ("--module", "tutor", "--output", tmp_path / "tutor")
    shown = run("export", "--user", "alice", *module, *url)

    assert json.loads(done.stdout)["counts"]["messages"] == 2
    assert "was left alone" in error_line(again)
    assert "could not be written" in error_line(lost)
    assert shown.exit_code == 0
    assert "messages" in shown.stdout
    assert (tmp_path / "tutor").is_dir()
