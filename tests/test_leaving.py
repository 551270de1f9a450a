"""Leaving by the command line: what an operator reads who answers a request with it."""

import json
from pathlib import Path

import pytest

from langmem_isolated import IsolatedMemory, LocalRootKey
from langmem_isolated.errors import ImportRefused, ScopeError
from tests.command_line import OTHER_KEY, error_line, run, words
from tests.conftest import Door
from tests.embeddings import NGramEmbeddings
from tests.test_cli import url_of
from tests.test_erasure_of_wrapped_stores import wrapped
from tests.test_tombstones import say
from tests.vector_stores import in_memory


def test_what_is_refused_names_the_option_that_goes_on(memory: IsolatedMemory, tmp_path: Path):
    url = ("--database", url_of(memory))
    wrapped(memory, in_memory(NGramEmbeddings()), name="notes").add_texts(["a note"])
    say(memory, "bob")
    memory.export_user("bob", tmp_path / "bob")
    memory.retention.hold("bob", reason="case 7", by="counsel")

    taken = error_line(run("import", tmp_path / "bob", *url))
    held = error_line(run("erase", "--user", "bob", "--yes", *url))
    memory.retention.release("bob")
    memory.erase_user("bob")
    erased = error_line(run("import", tmp_path / "bob", *url))
    stored = error_line(run("erase", "--user", "alice", "--yes", *url))

    assert "imported before" in taken
    assert "--user" in taken
    assert "hold release" in held
    assert "--readmit" in erased
    assert "--without-store" in stored
    assert "name=…" in stored


def test_an_export_names_the_stores_that_hold_more_of_the_user(
    memory: IsolatedMemory, tmp_path: Path
):
    for user, name in (("alice", "notes"), ("bob", "drafts")):
        documents = wrapped(memory, in_memory(NGramEmbeddings()), user, name=name)
        documents.add_texts(["a note"])
    url = ("--database", url_of(memory))

    exported = memory.export_user("alice", tmp_path / "a")
    memory.export_user("alice", tmp_path / "a.mem")
    shown = run("export", "--user", "alice", "--output", tmp_path / "b", *url)

    assert exported.stores == ("notes",)
    assert json.loads((tmp_path / "a" / "data" / "about.json").read_text())["stores"] == ["notes"]
    told = json.loads((tmp_path / "a.mem" / "manifest.json").read_text())["langmemIsolated"]
    assert told["stores"] == ["notes"]
    assert "Not in it is what third-party vector stores hold of the user: notes." in shown.stdout


def test_the_receipt_of_an_id_under_which_there_was_nothing_says_so(memory: IsolatedMemory):
    say(memory, "bob")
    url = ("--database", url_of(memory))

    mistyped = run("erase", "--user", "bbo", "--yes", *url)
    bob = run("erase", "--user", "bob", "--yes", *url)

    assert "There was nothing under this id" in mistyped.stdout
    assert "There was nothing" not in bob.stdout


@pytest.mark.parametrize("name", ["a.mem", "a.mem.zip"])
def test_a_name_asks_for_the_portable_format_which_is_moved_in_and_not_put_back(
    memory: IsolatedMemory, tmp_path: Path, name: str
):
    say(memory, "bob")
    url = ("--database", url_of(memory))

    exported = memory.export_user("bob", tmp_path / name)
    asked = error_line(run("import", tmp_path / name, "--user", "ann", *url))

    assert exported.counts["episode"] == 1
    assert "No rule tells the module" in asked
    with pytest.raises(ImportRefused, match=r"portable \.mem format, which the source mem"):
        memory.import_user(tmp_path / name, user_id="ann")


async def test_the_receipts_of_one_user_are_found_by_who_knows_the_id(
    memory: IsolatedMemory, door: Door
):
    url = ("--database", url_of(memory))
    assert "There are none in this database" in run("erase", "--receipts", *url).stdout
    for user in ("ann", "bob", "ann"):
        say(memory, user)
        memory.erase_user(user)
    say(memory, "ann")

    of_bob = await door(memory.erasure, "receipts", user_id="bob")
    of_ann = run("erase", "--receipts", "--user", "ann", "--json", *url)

    assert of_bob == [memory.erasure.receipts()[1]]
    assert await door(memory.erasure, "receipts", user_id="bob", project_id="shop") == []
    told = json.loads(of_ann.stdout)
    assert [one["principal"] == of_bob[0].principal for one in told] == [False, False]
    assert memory.modules("ann") == ["tutor"]
    with pytest.raises(ScopeError):
        memory.erasure.receipts(user_id="")


def test_a_store_that_was_cleared_and_then_left_alone_is_told_as_both(memory: IsolatedMemory):
    store = in_memory(NGramEmbeddings())
    wrapped(memory, store, name="notes").add_texts(["a note"])
    is_up: list[bool] = []
    memory.erasure.register("crm", lambda _: None, lambda _: bool(is_up))
    assert not memory.erase_user("alice").is_finished
    is_up.append(True)

    (receipt,) = memory.erasure.resume(without_stores=["notes"])

    assert receipt.stores == {"notes": 1}
    told = [sentence for sentence in receipt.does_not_prove if "notes" in sentence]
    assert len(told) == 1
    assert "were cleared, and left alone when the erasure went on" in told[0]


def test_a_command_that_finds_no_database_says_how_one_is_made(tmp_path: Path):
    url = f"sqlite:///{tmp_path}/new.db"

    refused = error_line(run("import", tmp_path, "--database", url))

    assert "langmem-isolated schema upgrade" in refused
    assert run("schema", "upgrade", "--database", url).exit_code == 0


def test_the_help_says_who_is_not_asked_and_what_is_not_in_it():
    assert "this asks none of them" in words(run("erase", "--help").stdout)
    assert "third-party vector stores hold is not in it" in words(run("export", "--help").stdout)


def test_a_root_key_from_before_a_rotation_is_told_of_the_last_one(memory: IsolatedMemory):
    say(memory, "bob")
    memory.rotate_root_key(LocalRootKey.from_text(OTHER_KEY))

    refused = error_line(run("modules", "--user", "bob", "--database", url_of(memory)))

    assert "that of its last rotation" in refused
