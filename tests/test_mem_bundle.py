"""Mem bundle: the export in the portable `.mem` format, read by the reader of who defined it."""

import json
import tracemalloc
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, HumanMessage
from portable_memory.importer import BundleImporter
from portable_memory.inmemory import InMemoryStore
from portable_memory.records import MemImportReport
from portable_memory.validator import BundleValidator

from langmem_isolated import IsolatedMemory
from langmem_isolated.errors import ExportExists
from tests.command_line import run
from tests.conftest import Attacker, Door
from tests.embeddings import NGramEmbeddings
from tests.test_cli import url_of
from tests.test_export import chat, filled, left_in
from tests.test_inventory import kinds_in, operate


def records(bundle: Path, kind: str) -> list[dict[str, Any]]:
    path = bundle / "items" / f"{kind}.jsonl"
    return [json.loads(line) for line in path.read_text().split("\n") if line]


def manifest(bundle: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((bundle / "manifest.json").read_bytes())
    return found


def imported(bundle: Path) -> tuple[InMemoryStore, MemImportReport]:
    """What the reader of the format makes of a bundle that it finds valid."""
    assert BundleValidator().validate(bundle).issues == []
    store = InMemoryStore()
    return store, BundleImporter().import_bundle(store, bundle)


async def test_the_formats_own_reader_takes_all_of_it(
    memory: IsolatedMemory, attacker: Attacker, tmp_path: Path, door: Door
):
    filled(memory)
    operate(memory, None)
    profile = memory.scope(user_id="alice", module_id="tutor").profile()
    profile.set_attribute("tone", {"short": True})
    profile.add_interest("cats")
    profile.set_summary("Likes cats.")

    exported = await door(memory, "export_user", "alice", tmp_path / "a.mem")

    _, report = imported(tmp_path / "a.mem")
    written = {kind: count for kind, count in exported.counts.items() if count}
    assert report.applied == written == manifest(tmp_path / "a.mem")["counts"]
    assert report.warnings == []
    assert written.keys() == {
        *("context", "preference", "core", "episode", "resource", "chunk", "fact"),
    }
    assert sum(kinds_in(attacker).values()) > sum(written.values())


def test_what_the_format_has_no_place_for_is_counted(memory: IsolatedMemory, tmp_path: Path):
    filled(memory)
    operate(memory, None)

    exported = memory.export_user("alice", tmp_path / "a.mem")
    full = memory.export_user("alice", tmp_path / "full").counts

    told = manifest(tmp_path / "a.mem")["langmemIsolated"]
    without = ("checkpoints", "collections", "entries", "grants", "policies", "receipts")
    assert told["leftOut"] == exported.left_out == {name: full[name] for name in without}
    assert told["modules"] == ["planner", "tutor"]


def test_what_was_said_is_an_episode_with_its_speaker_and_time(
    memory: IsolatedMemory, tmp_path: Path
):
    before = datetime.now(UTC).replace(microsecond=0)
    history = memory.scope(user_id="alice", module_id="tutor").chat_history("s", channel="phone")
    calls = [{"name": "add", "args": {"n": 1}, "id": "c"}]
    history.add_messages(
        [
            HumanMessage("One\ntwo \ud800 ünï", id="first"),
            AIMessage([{"type": "text", "text": "Three"}, "four"], tool_calls=calls),
        ]
    )
    memory.scope(user_id="alice", module_id="tutor").sessions.rename("s", "Counting")

    memory.export_user("alice", tmp_path / "a.mem")

    store, _ = imported(tmp_path / "a.mem")
    asked, said = sorted(store.episodes.values(), key=lambda one: one.metadata["sequence"])
    assert (asked.details, asked.summary, asked.speaker) == ("One\ntwo ? ünï", "One", "user")
    assert (said.details, said.actors) == ("Three\nfour", ["assistant"])
    assert before <= asked.event_time <= datetime.now(UTC)
    assert asked.metadata == {
        "module": "tutor", "session": "s", "sequence": "0", "channel": "phone",
        "messageID": "first",
    }  # fmt: skip
    assert list(store.episode_ext) == [said.id]
    kept = json.loads(store.episode_ext[said.id])["langchainMessage"]
    assert kept["data"]["tool_calls"][0]["args"] == {"n": 1}
    (context,) = records(tmp_path / "a.mem", "context")
    assert (context["id"], context["label"]) == (asked.context_id, "Counting")


def test_summaries_threads_documents_and_items_have_the_place_that_fits_best(
    memory: IsolatedMemory, tmp_path: Path
):
    filled(memory)
    scope = memory.scope(user_id="alice", module_id="tutor")
    scope.sessions.set_summary("s", "They spoke of a secret.")
    about = {"source": "https://example.org/a page", "n": 1}
    scope.vector_store(NGramEmbeddings()).add_documents([Document("A page", metadata=about)])

    memory.export_user("alice", tmp_path / "a.mem")

    episodes = records(tmp_path / "a.mem", "episode")
    assert [one["details"] for one in episodes if one["sourceType"] == "summary"] == [
        "They spoke of a secret."
    ]
    assert "long " * 400 in [one["details"] for one in episodes if "thread" in one["metadata"]]
    pages = [one for one in records(tmp_path / "a.mem", "resource") if "example" in one["title"]]
    chunks = records(tmp_path / "a.mem", "chunk")
    (chunk,) = [one for one in chunks if one["resourceID"] == pages[0]["id"]]
    assert (chunk["text"], json.loads(chunk["contextPrefix"])) == ("A page", about)
    (item,) = [one for one in records(tmp_path / "a.mem", "fact") if one["subject"] == "facts"]
    assert (item["predicate"], item["text"]) == ("one", "a secret")
    assert json.loads(item["object"]) == {"text": "a secret"}


def test_a_fact_leads_to_the_message_that_it_came_from(memory: IsolatedMemory, tmp_path: Path):
    scope = memory.scope(user_id="alice", module_id="tutor")
    scope.chat_history("s").add_messages([HumanMessage("I like cats", id="m")])
    scope.profile().add_fact("Likes cats", source="model", session_id="s", message_id="m")

    memory.export_user("alice", tmp_path / "a.mem")

    (fact,) = records(tmp_path / "a.mem", "fact")
    (episode,) = records(tmp_path / "a.mem", "episode")
    assert fact["episodeID"] == episode["id"]
    assert (fact["subject"], fact["predicate"], fact["object"]) == ("user", "model", "Likes cats")


def test_what_was_claimed_and_not_confirmed_is_told_with_less_confidence(
    memory: IsolatedMemory, tmp_path: Path
):
    guest = memory.anonymous(module_id="tutor")
    guest.chat_history("of the guest").add_messages([HumanMessage("I am a guest")])
    guest.profile().add_fact("Is a guest")
    memory.claim(guest.id, memory.scope(user_id="alice", module_id="tutor"), confirmed=True)
    chat(memory, "alice", "I am Alice")

    memory.export_user("alice", tmp_path / "a.mem")

    trust = {one["details"]: one["confidence"] for one in records(tmp_path / "a.mem", "episode")}
    (fact,) = records(tmp_path / "a.mem", "fact")
    assert trust["I am a guest"] == fact["confidence"] < trust["I am Alice"]


def test_the_next_export_has_the_same_ids_and_another_users_has_others(
    memory: IsolatedMemory, tmp_path: Path
):
    for user in ("alice", "robert"):
        chat(memory, user, "the same words")
    for name, user in (("one", "alice"), ("two", "alice"), ("other", "robert")):
        memory.export_user(user, tmp_path / f"{name}.mem")

    one, two, other = (
        {record["id"] for record in records(tmp_path / f"{name}.mem", "episode")}
        for name in ("one", "two", "other")
    )
    assert one == two
    assert not one & other


def test_the_name_chooses_the_format_unless_it_is_given(memory: IsolatedMemory, tmp_path: Path):
    chat(memory, "alice", "hello")

    memory.export_user("alice", tmp_path / "a.mem", profile="full")
    memory.export_user("alice", tmp_path / "b", profile="mem")
    memory.export_user("alice", tmp_path / "c.zip", profile="mem")

    assert (tmp_path / "a.mem" / "bagit.txt").is_file()
    imported(tmp_path / "b")
    with zipfile.ZipFile(tmp_path / "c.zip") as archive:
        archive.extractall(tmp_path / "unzipped")
    imported(tmp_path / "unzipped" / "c")
    with pytest.raises(ExportExists):
        memory.export_user("alice", tmp_path / "b", profile="mem")


@pytest.mark.parametrize("profile", ["MEM", "", 3, ["mem"]])
def test_a_profile_that_is_none_is_refused(memory: IsolatedMemory, tmp_path: Path, profile: Any):
    with pytest.raises(ValueError, match="profile must be"):
        memory.export_user("alice", tmp_path / "a.mem", profile=profile)

    assert left_in(tmp_path) == []


def test_who_has_nothing_gets_a_bundle_that_is_valid(memory: IsolatedMemory, tmp_path: Path):
    memory.export_user("nobody", tmp_path / "a.mem")

    assert imported(tmp_path / "a.mem")[1].applied == {}
    assert "coverage" not in manifest(tmp_path / "a.mem")


def test_10_000_messages_are_written_in_bounded_memory(memory: IsolatedMemory, tmp_path: Path):
    for start in range(0, 10_000, 2000):
        chat(memory, "alice", *(f"{start + n} {'x' * 200}" for n in range(2000)))
    memory.export_user("nobody", tmp_path / "first.mem")
    tracemalloc.start()
    try:
        memory.export_user("alice", tmp_path / "a.mem")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    # The bundle has 8 MB.
    assert peak < 4_000_000
    assert len(imported(tmp_path / "a.mem")[0].episodes) == 10_000


def test_the_command_writes_it(memory: IsolatedMemory, tmp_path: Path):
    filled(memory)
    url = ("--database", url_of(memory))

    done = run(
        "export", "--user", "alice", "--output", tmp_path / "a", "--profile", "mem", "--json", *url
    )

    assert json.loads(done.stdout)["counts"]["episode"] == 3
    imported(tmp_path / "a")
    shown = run("export", "--user", "alice", "--output", tmp_path / "b.mem", *url)
    assert "The format has no place for" in shown.stdout
    assert "checkpoints" in shown.stdout
