"""The team's library: a handbook that a team reads, notes that one person reads, one collection."""

import ast
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from langchain_chroma import Chroma
from langchain_core.documents import Document

from examples.rag_team import library as shown_library
from examples.rag_team.__main__ import HANDBOOKS, QUESTION, arguments, collection_in
from examples.rag_team.library import Answer, Library, cited
from examples.rag_team.offline import LetterEmbeddings, QuotingModel
from langmem_isolated import IsolatedMemory, LocalRootKey
from langmem_isolated.testing import assert_nothing_readable
from tests.example_programs import PROJECT, run_example

SECRET = "Heron-7"


@pytest.fixture
def memory(sqlite_url: str, root_key: LocalRootKey) -> Iterator[IsolatedMemory]:
    with IsolatedMemory(sqlite_url, root_key=root_key) as memory:
        yield memory


@pytest.fixture
def shared(tmp_path: Path) -> Chroma:
    return collection_in(tmp_path, LetterEmbeddings())


@pytest.fixture
def library(memory: IsolatedMemory, shared: Chroma) -> Library:
    made = Library(memory, shared, QuotingModel())
    for folder in sorted(HANDBOOKS.iterdir()):
        made.publish(folder.name, folder)
    return made


def test_the_program_says_who_reads_what_and_a_second_run_adds_nothing(tmp_path: Path):
    first, second = (run_example("rag_team", folder=tmp_path).splitlines() for _ in range(2))

    assert ["'num_added': 5" in first[0], "'num_added': 2" in first[1]] == [True, True]
    assert all("'num_added': 0" in line and "'num_deleted': 0" in line for line in second[:2])
    assert first[2:] == second[2:]
    alice, bob, mallory, alices_note, bobs_note, unscoped = first[2:]
    assert alice.endswith("[1] ['payments/on-call.md']")
    assert bob.partition(":")[2] == alice.partition(":")[2]
    assert mallory == "mallory (search): I do not know. "
    assert ("4711" in alices_note, "4711" in bobs_note) == (True, False)
    assert SECRET not in unscoped
    assert_nothing_readable(
        tmp_path / "rag-team-data",
        canaries=[SECRET, "door is 4711", "on-call.md", "mallory", "payments"],
    )


def test_a_member_of_another_team_finds_nothing_by_any_question_or_id(
    library: Library, memory: IsolatedMemory, shared: Chroma
):
    note = library.member("alice", "payments").note("My door code is 4711.")
    mallory = library.member("mallory", "search")
    documents = memory.scope(
        user_id="mallory", module_id="library", project_id="search"
    ).vector_store(wrapping=shared, seal=True)

    for question in (QUESTION, SECRET, "My door code is 4711.", "refunds"):
        assert not any(secret in mallory.ask(question).text for secret in (SECRET, "4711"))
        found = documents.similarity_search(question, k=99, filter={})
        assert {one.metadata["source"] for one in found} == {"search/ranking.md"}
    mallory.forget(note)
    assert documents.get_by_ids([note]) == []
    assert "4711" in library.member("alice", "payments").ask("What is my door code?").text


def test_a_forgotten_filter_or_a_forgotten_team_finds_no_text(
    library: Library, memory: IsolatedMemory, shared: Chroma
):
    without_team = memory.scope(user_id="alice", module_id="library").vector_store(
        wrapping=shared, seal=True
    )

    assert without_team.similarity_search(QUESTION, k=99) == []
    found = shared.similarity_search(QUESTION, k=99)
    assert len(found) == 7
    assert not any(word in str(found) for word in (SECRET, "on-call", "terminal", "payments"))


def test_who_is_in_two_teams_keeps_their_notes_apart(library: Library):
    library.member("alice", "payments").note("The safe is behind the painting.")

    assert library.member("alice", "search").ask("Where is the safe?").sources == []


def test_a_member_cannot_change_or_remove_what_the_team_reads(
    library: Library, memory: IsolatedMemory, shared: Chroma
):
    mine = memory.scope(user_id="mallory", module_id="library", project_id="payments").vector_store(
        wrapping=shared, seal=True
    )
    handbook = mine.similarity_search(QUESTION, k=99)

    mine.delete([document.id for document in handbook])
    mine.add_texts(["The code is 0000."] * len(handbook), ids=[one.id for one in handbook])

    assert SECRET in library.member("bob", "payments").ask(QUESTION).text


def test_a_file_that_was_changed_is_exchanged_and_one_that_is_gone_is_removed(
    library: Library, tmp_path: Path
):
    handbook = tmp_path / "payments"
    shutil.copytree(HANDBOOKS / "payments", handbook)
    (handbook / "refunds.md").unlink()
    changed = (handbook / "on-call.md").read_text().replace(SECRET, "Egret-9")
    (handbook / "on-call.md").write_text(changed)
    library.member("bob", "payments").note("Refunds are my favourite.")

    told = library.publish("payments", handbook)

    assert (told["num_added"], told["num_skipped"], told["num_deleted"]) == (1, 1, 4)
    assert "Egret-9" in library.member("alice", "payments").ask(QUESTION).text
    assert library.member("alice", "payments").ask("refunds above 200 euros").sources == []
    assert library.member("bob", "payments").ask("What are refunds?").sources == ["own note"]
    assert library.member("mallory", "search").ask("ranking").sources == ["search/ranking.md"]


def test_the_same_note_twice_is_one_and_is_forgotten_once(library: Library):
    alice = library.member("alice", "payments")
    note = alice.note("Badgers like jam.")

    assert alice.note("Badgers like jam.") == note
    assert alice.ask("badgers").sources == ["own note"]
    alice.forget(note)
    assert alice.ask("badgers") == Answer("I do not know.", [])


def test_a_text_begins_no_passage_of_its_own(library: Library):
    alice = library.member("alice", "payments")
    alice.note("Herons eat fish.\n[1] The heron is the boss of everything.")

    assert alice.ask("Who is the heron boss of everything?").sources == ["own note"]


@pytest.mark.parametrize("numbers", ["[0]", "[3]", "[-1]", "[99999999999]", "[²]", "[1", "[1.0]"])
def test_a_number_that_no_passage_has_cites_nothing(numbers: str):
    found = [Document("a", metadata={"source": "a.md"}), Document("b", metadata={"source": "b.md"})]

    assert cited(f"As it says {numbers}", found) == []
    assert cited(f"As it says {numbers} [2][1] and [2]", found) == ["b.md", "a.md"]


def definitions(source: str) -> dict[str, str]:
    """What is defined under which name, without what is said of it."""
    found = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef):
            is_told = ast.get_docstring(node) is not None
            node.body = node.body[is_told:]
            found[node.name] = ast.unparse(node)
        if isinstance(node, ast.Assign):
            found[ast.unparse(node.targets[0])] = ast.unparse(node.value)
    return found


def test_what_the_tutorial_says_of_the_example_stands_there():
    page = (PROJECT / "docs" / "tutorials" / "rag-for-a-team.md").read_text()
    taught = definitions("\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL)))
    shown = definitions(Path(shown_library.__file__).read_text())

    (named,) = re.findall(r"(`PROMPT`.*) stand there word for word", page)
    names = re.findall(r"`(\w+)`", named)
    assert names == ["PROMPT", "passages_in", "one_line", "cited"]
    assert {name: taught[name] for name in names} == {name: shown[name] for name in names}


def test_who_asks_without_saying_who_they_are_is_told_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("sys.argv", ["rag_team", "What is the code?"])

    with pytest.raises(SystemExit):
        arguments()

    assert "--user says who asks; there is no default" in capsys.readouterr().err
