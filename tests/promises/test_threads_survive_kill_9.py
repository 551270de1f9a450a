"""Promise 5 for LangGraph threads: a turn that was answered is there, whatever is killed then."""

import random
import time

import pytest
from langchain_core.messages import HumanMessage

from langmem_isolated import IsolatedMemory, LocalRootKey
from tests.promises.turns import CONFIG, take_turns, the_graph, the_saver, turns_in
from tests.promises.writers import Writer

# Rounds of each setting: 50 together.
SETTINGS = {"FULL": 15, "NORMAL": 15, "postgres": 20}


@pytest.mark.parametrize("setting", SETTINGS)
def test_every_answered_turn_survives_kill_9_of_the_process_and_its_thread_goes_on(
    request: pytest.FixtureRequest, root_key: LocalRootKey, setting: str
):
    """At random points of turns with a subgraph, and of prunes between them."""
    is_postgres = setting == "postgres"
    url = request.getfixturevalue("postgres_url" if is_postgres else "sqlite_url")
    options = {} if is_postgres else {"synchronous": setting}
    chance = random.Random(9)
    answered, midway = [], 0
    for number in range(SETTINGS[setting]):
        writer = Writer(url, str(number), work=take_turns, **options)
        if number:  # the first is killed while it makes keys, scope and thread
            writer.wait_for_first()
        time.sleep(chance.uniform(0, 0.06))
        writer.kill()

        with IsolatedMemory(url, root_key=root_key, **options) as memory:
            the_saver(memory).verify_thread("shared")
            graph = the_graph(memory)
            told = [*answered, *(f"{number} {turn}" for turn in writer.acknowledged)]
            # At most one more than was answered: the turn that was under way.
            under_way = [*told, f"{number} {len(writer.acknowledged)}"]
            state = graph.get_state(CONFIG)
            assert turns_in(state.values) in (told, under_way)
            midway += bool(state.next) or turns_in(state.values) == under_way
            if state.created_at is not None:
                # LangGraph forgets what was under way when the next question comes before.
                graph.invoke(None, CONFIG)
            stored = turns_in(graph.get_state(CONFIG).values)
            assert stored == under_way if state.next else stored in (told, under_way)
            graph.invoke({"messages": [HumanMessage(f"after {number}")]}, CONFIG)
            answered = turns_in(graph.get_state(CONFIG).values)
            assert answered == [*stored, f"after {number}"]
            assert the_saver(memory).verify_thread("shared") > 0

    assert len(answered) > 2 * SETTINGS[setting]
    assert midway
