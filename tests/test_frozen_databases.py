"""A database that a release wrote opens for ever, and has all that was put into it."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from langchain_core.messages import AIMessage, HumanMessage

from langmem_isolated import IsolatedMemory, LocalRootKey, ScopedMemory
from langmem_isolated._database.upgrades import versions
from tests import frozen_databases
from tests.conftest import Attacker
from tests.embeddings import NGramEmbeddings
from tests.frozen_databases import ROOT_KEY, THREAD
from tests.postgres import PostgresServer

VERSIONS = range(1, versions.newest() + 1)


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> int:
    number: int = request.param
    return number


@pytest.fixture(params=["sqlite", "postgres"])
def frozen_url(request: pytest.FixtureRequest, version: int, tmp_path: Path) -> Iterator[str]:
    """A copy of the database that the release of a version wrote."""
    if request.param == "sqlite":
        yield frozen_databases.restore_sqlite(version, tmp_path / "memory.db")
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    name = f"frozen_{version}"
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    yield frozen_databases.restore_postgres(version, server.url(name))
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def frozen(frozen_url: str) -> Iterator[IsolatedMemory]:
    """Opened with the code of today, which upgrades it."""
    with IsolatedMemory(frozen_url, root_key=LocalRootKey(ROOT_KEY)) as memory:
        yield memory


def tutor_of(memory: IsolatedMemory) -> ScopedMemory:
    return memory.scope(user_id="alice", module_id="tutor")


def test_all_that_was_put_in_is_read(frozen: IsolatedMemory):
    tutor = tutor_of(frozen)

    assert [(s.id, s.title, s.channel, s.messages) for s in tutor.sessions()] == [
        ("monday", "Tables", "general", 2)
    ]
    assert tutor.chat_history("monday").messages == [
        HumanMessage("What is 7 times 6?", id="q-1"),
        AIMessage("42", id="a-1"),
    ]
    found = tutor.checkpointer().get_tuple(THREAD)
    assert found is not None
    assert found.checkpoint["channel_values"]["messages"][0].content == "Write an essay. " * 40
    assert found.pending_writes == [("task-1", "messages", "a draft")]
    store = tutor.store(index={"embed": NGramEmbeddings(), "dims": 64})
    assert store.search(("facts",), query="cat")[0].value == {"text": "Alice has a cat."}
    (document,) = tutor.vector_store(NGramEmbeddings()).similarity_search("fractions", k=1)
    assert (document.id, document.metadata) == ("d-1", {"year": 2026})
    profile = tutor.profile()
    assert [fact.text for fact in profile.facts()] == ["Learns at night."]
    assert [interest.name for interest in profile.interests()] == ["algebra"]
    assert profile.attributes() == {"grade": 7}
    zoe = frozen.scope(user_id="Zoë", module_id="tutor", project_id="école")
    assert [session.id for session in zoe.sessions()] == ["leer"]


def test_what_operators_said_stands(frozen: IsolatedMemory):
    planner = frozen.scope(user_id="alice", module_id="planner")

    assert [said.text for said in planner.shared_from("tutor").messages("monday")] == [
        "What is 7 times 6?",
        "42",
    ]
    assert [(policy.kind, policy.module_id) for policy in frozen.retention.list()] == [
        ("message", "tutor")
    ]
    assert {"grant", "policy"} <= {entry.operation for entry in frozen.audit.entries()}
    assert frozen.audit.verify().entries >= 2


def test_it_verifies_and_goes_on(frozen: IsolatedMemory):
    history = tutor_of(frozen).chat_history("monday", idempotent=True)

    history.add_messages([HumanMessage("What is 7 times 6?", id="q-1"), AIMessage("Because.")])

    assert [message.content for message in history.messages][2:] == ["Because."]
    assert frozen.verify().is_clean


def test_a_row_of_it_that_is_moved_is_refused(frozen_url: str):
    """Age is no excuse: what a release wrote is as bound to its place as what is written today."""
    attacker = Attacker(frozen_url)
    attacker("UPDATE scopes SET mac = ?", bytes(32))
    attacker.close()

    with IsolatedMemory(frozen_url, root_key=LocalRootKey(ROOT_KEY)) as memory:
        assert not memory.verify(read_only=True).is_clean
