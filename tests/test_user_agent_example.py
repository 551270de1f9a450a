"""An application's own class over our memory: the same face, and each user's memory apart."""

import inspect
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.user_agent.agent_files import AgentFilesSource
from examples.user_agent.former import UserAgent as FormerUserAgent
from examples.user_agent.user_agent import MODULE, UserAgent
from langmem_isolated import IsolatedMemory, LocalRootKey
from langmem_isolated.errors import ScopeError, SourceRefused
from langmem_isolated.importers import Import, Mapping
from langmem_isolated.testing import assert_isolated, assert_nothing_readable
from tests.example_programs import run_example
from tests.processes import Child


@pytest.fixture
def memory(sqlite_url: str, root_key: LocalRootKey) -> Iterator[IsolatedMemory]:
    with IsolatedMemory(sqlite_url, root_key=root_key) as memory:
        yield memory


def moving(memory: IsolatedMemory, folder: Path) -> Import:
    source = AgentFilesSource(folder)
    return Import(memory, source, Mapping(), unmapped="report", backup=False, folder=folder.parent)


def test_the_program_moves_the_former_files_in_and_answers_each_user_alone(tmp_path: Path):
    read, moved, _, alice, bob, mallory = run_example("user_agent", folder=tmp_path).splitlines()

    assert (read, moved) == ("6 records of 2 files, 0 broken", "done {'copied': 4}")
    assert alice.startswith("alice: ['The PIN of my bank card is 1234.'")
    assert "Alice drinks tea." in alice
    assert "8080" in bob
    assert not any(word in bob for word in ("1234", "Alice"))
    assert mallory == "mallory: [] []"
    stored = [path for path in tmp_path.iterdir() if ".db" in path.name]
    assert_nothing_readable(*stored, canaries=["PIN of my bank card", "drinks tea", "I keep it"])


def test_the_public_face_is_that_of_the_former_class():
    def face(of: type) -> dict[str, str]:
        members = inspect.getmembers(of, lambda one: callable(one) or isinstance(one, property))
        public = [(name, one) for name, one in members if not name.startswith("_")]
        return {
            name: str(inspect.signature(one.fget if isinstance(one, property) else one))
            for name, one in public
        }

    assert {name: sign for name, sign in face(UserAgent).items() if name != "user_id"} == face(
        FormerUserAgent
    )


def test_what_callers_did_with_the_former_class_gives_the_same(memory, tmp_path):
    def used(agent: UserAgent | FormerUserAgent) -> list[object]:
        agent.add("user", "My train leaves at nine.")
        agent.add("assistant", "Noted: nine.")
        agent.learn("Takes trains.")
        agent.learn("Takes trains.")
        before = [agent.user_id, agent.messages, agent.facts, agent.recall("leaves train", 1)]
        agent.save()
        return [*before, agent.messages, agent.facts]

    assert used(UserAgent("alice", memory)) == used(FormerUserAgent("alice", tmp_path / "agents"))
    assert (
        UserAgent("alice", memory).messages
        == FormerUserAgent("alice", tmp_path / "agents").messages
    )


def test_an_id_that_led_to_anothers_file_leads_nowhere(memory, tmp_path):
    FormerUserAgent("alice", tmp_path).save()
    UserAgent("alice", memory).add("user", "unsaved")
    mine = UserAgent("alice", memory)
    mine.add("user", "My PIN is 1234.")
    mine.save()

    for id_ in ("../alice", "./alice", "x/../alice", "alice ", "ALICE", "%", "alic_", "alice.json"):
        other = UserAgent(id_, memory)
        assert (other.messages, other.facts, other.recall("PIN")) == ([], [], [])
    assert FormerUserAgent("x/../../" + tmp_path.name + "/alice", tmp_path).messages == []
    for missing in ("", None, 7, "a\x00"):
        with pytest.raises(ScopeError):
            UserAgent(missing, memory)


def test_agents_of_one_user_in_two_processes_keep_what_both_added(memory):
    def talk(who: str) -> None:
        agent = UserAgent("alice", memory)
        for number in range(5):
            agent.add("user", f"{who} {number}")
            agent.save()

    children = [Child(talk, who) for who in ("one", "two")]
    for child in children:
        child.result()

    texts = [text for _, text in UserAgent("alice", memory).messages]
    assert sorted(texts) == [f"{who} {number}" for who in ("one", "two") for number in range(5)]


def test_two_agents_of_one_user_overwrite_nothing_where_the_former_class_did(memory, tmp_path):
    kept = []
    for make in (lambda: UserAgent("alice", memory), lambda: FormerUserAgent("alice", tmp_path)):
        one, other = make(), make()
        one.add("user", "Said to one.")
        other.add("user", "Said to the other.")
        one.save()
        other.save()
        kept.append([text for _, text in make().messages])

    assert kept == [["Said to one.", "Said to the other."], ["Said to the other."]]


def test_a_save_that_is_tried_again_stores_nothing_twice(memory):
    agent = UserAgent("alice", memory)
    agent.add("user", "Once.")
    added = list(agent._added)
    agent.save()

    agent._added = added  # as after an answer that was lost on its way
    agent.save()
    agent.save()

    assert agent.messages == [("user", "Once.")]


def test_another_role_is_refused_and_nothing_is_added(memory):
    agent = UserAgent("alice", memory)

    with pytest.raises(ValueError, match="role must be one of user, assistant, system"):
        agent.add("root", "Obey.")

    assert agent.messages == []


def test_no_user_of_the_class_meets_another(memory):
    def talk(user: str, session: str, text: str) -> list[str]:
        agent = UserAgent(user, memory)
        agent.add("user", text)
        agent.learn(text)
        return [*agent.recall(text), *agent.facts, *(said for _, said in agent.messages)]

    report = assert_isolated(talk, users=3)

    assert report.succeeded["call"] > 10


def test_files_move_in_with_roles_times_and_facts_and_back_out(memory, tmp_path):
    former = FormerUserAgent("alice", tmp_path / "agents")
    former.add("system", "Be kind.")
    former.add("user", "My PIN is 1234.")
    former.learn("Drinks tea.")
    former.save()
    before = (tmp_path / "agents" / "alice.json").read_bytes()

    receipt = moving(memory, tmp_path / "agents").run()

    agent = UserAgent("alice", memory)
    assert (agent.messages, agent.facts) == (former.messages, former.facts)
    (session,) = memory.scope(user_id="alice", module_id=MODULE).sessions()
    assert session.last_activity.isoformat() == json.loads(before)["messages"][1]["time"]
    assert memory.modules(user_id="bob") == []
    assert moving(memory, tmp_path / "agents").run().units == {"present": 2}
    memory.roll_back(bytes.fromhex(receipt.token))
    assert (agent.messages, agent.facts) == ([], [])
    assert (tmp_path / "agents" / "alice.json").read_bytes() == before


def of_one(**message: object) -> str:
    return json.dumps({"facts": [], "messages": [message]})


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[1]",
        "[" * 100_000,
        '{"messages": [], "facts": [7]}',
        '{"messages": {}, "facts": []}',
        '{"messages": ["My PIN is 1234."], "facts": []}',
        of_one(role="root", content="PIN", time="2026-01-01T10:00:00Z"),
        of_one(role="user", content=["PIN"], time="2026-01-01T10:00:00Z"),
        of_one(role="user", content="PIN", time="soon"),
        of_one(role="user", content="PIN", time="2026-01-01T10:00:00"),
        of_one(role="user", content="PIN"),
    ],
)
def test_a_broken_file_is_told_by_its_place_and_stops_no_other(memory, tmp_path, content):
    folder = tmp_path / "agents"
    carol = FormerUserAgent("carol", folder)
    carol.learn("Drinks tea.")
    carol.save()
    (folder / "bob.json").write_text(content)

    plan = moving(memory, folder).plan()

    assert (plan.rejected, plan.records) == (1, 1)
    assert plan.rejected_first[0].place.startswith("file 1 by name")
    assert not any(word in repr(plan) for word in ("bob", "PIN", "1234"))


def test_a_link_and_a_folder_that_is_not_there_are_refused(memory, tmp_path):
    (tmp_path / "elsewhere").write_text('{"messages": [], "facts": ["A secret."]}')
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "eve.json").symlink_to(tmp_path / "elsewhere")

    assert moving(memory, tmp_path / "agents").plan().rejected == 1
    with pytest.raises(SourceRefused, match="There is no such folder"):
        AgentFilesSource(tmp_path / "nowhere")
