"""Promises 1 and 3, for recall: nobody finds what another said, and nothing of it is readable."""

import asyncio
import random
import traceback
from pathlib import Path

import pytest
from langchain_core.messages import HumanMessage

from langmem_isolated import IsolatedMemory, LocalRootKey, ScopedMemory
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated.errors import RecordDoesNotOpen
from tests.conftest import Attacker
from tests.embeddings import NGramEmbeddings
from tests.threads import at, put

MARK = "Quokka7Zephyr"


def say(scoped: ScopedMemory, session_id: str, *said: str) -> None:
    scoped.chat_history(session_id).add_messages([HumanMessage(text) for text in said])


@pytest.mark.parametrize("seconds", [0, 300])
async def test_ten_users_who_talk_search_and_give_up_at_once_find_their_own_words_alone(
    database_url: str, root_key: LocalRootKey, seconds: int
):
    """All say the same words in sessions and threads of the same names, and end with their own."""
    chosen = random.Random(7)
    model = NGramEmbeddings()

    async def live(scoped: ScopedMemory, name: str) -> int:
        found = 0
        for turn in range(8):
            history = scoped.chat_history("monday")
            await history.aadd_messages([HumanMessage(f"the zebra of {name}")])
            new = HumanMessage(f"my zebra, says {name}", id=str(turn))
            put(scoped.checkpointer(), at("thread"), {"messages": [new]})
            given_up = asyncio.create_task(scoped.arecall("zebra"))
            await asyncio.sleep(chosen.random() / 200)
            given_up.cancel()
            embeddings = chosen.choice([None, model])
            heard = await scoped.arecall("the zebra of all", limit=99, embeddings=embeddings)
            assert heard
            assert all(one.text.endswith(name) for one in heard)
            answer = await scoped.recall_tool().ainvoke({"query": "zebra"})
            assert answer.count(name) == answer.count("zebra") > 0
            found += len(heard)
        return found

    with IsolatedMemory(database_url, root_key=root_key, plaintext_cache_seconds=seconds) as memory:
        users = {f"user-{number}": f"User{number}X" for number in range(10)}
        lives = [
            live(memory.scope(user_id=user, module_id="tutor"), name)
            for user, name in users.items()
        ]
        assert min(await asyncio.gather(*lives)) >= 8


def test_a_whole_scope_put_under_another_users_id_is_not_found(
    memory: IsolatedMemory, attacker: Attacker
):
    alice, bob = (memory.scope(user_id=user, module_id="tutor") for user in ("alice", "bob"))
    say(alice, "monday", f"a zebra, {MARK}")
    put(alice.checkpointer(), at("thread"), {"messages": [HumanMessage(f"a zebra, {MARK}")]})
    alice.recall("zebra", embeddings=NGramEmbeddings())
    say(bob, "tuesday", "a zebra")
    for table in ("sessions", "records"):
        attacker(
            f"UPDATE {table} SET scope_id = ? WHERE scope_id = ?",
            bob._records.keys().scope_id,
            alice._records.keys().scope_id,
        )

    for search in (bob.recall, lambda query: bob.recall_tool().invoke({"query": query})):
        with pytest.raises(RecordDoesNotOpen) as caught:
            search("zebra")
        assert MARK not in "".join(traceback.format_exception(caught.value))
    assert alice.recall("zebra") == []


def test_neither_what_is_asked_nor_what_is_found_nor_what_it_means_is_readable_on_disk(
    tmp_path: Path, root_key: LocalRootKey
):
    model = NGramEmbeddings()
    url = f"sqlite:///{tmp_path}/memory.db"
    with IsolatedMemory(url, root_key=root_key, plaintext_cache_seconds=300) as memory:
        tutor = memory.scope(user_id="alice", module_id="tutor")
        say(tutor, "monday", f"a zebra {MARK}")
        assert tutor.recall(f"zebra {MARK}", embeddings=model)
        assert tutor.recall_tool(embeddings=model).invoke({"query": MARK}) != "Nothing was found."

    on_disk = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    attacker = Attacker(url)
    [(kept,)] = attacker("SELECT size FROM records WHERE kind = ?", int(Kind.EMBEDDING))
    attacker.close()
    assert kept > 4 * model.dimensions
    assert MARK.encode() not in on_disk
    assert MARK.lower().encode() not in on_disk
    assert packed(model, f"a zebra {MARK}") not in on_disk


def packed(model: NGramEmbeddings, text: str) -> bytes:
    """Eight numbers of an embedding that are not zero, as they would stand in the file."""
    import numpy as np

    vector = np.asarray(model.embed_query(text), dtype="<f4")
    start = next(n for n in range(len(vector) - 8) if np.count_nonzero(vector[n : n + 8]) > 2)
    return vector[start : start + 8].tobytes()
