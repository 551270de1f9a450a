"""What PostgreSQL is asked often it plans once: planning takes longer than what is planned."""

from collections.abc import Callable

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from langmem_isolated import IsolatedMemory, LocalRootKey, Scope
from langmem_isolated.scoped_memory import ScopedMemory
from tests import served

Call = Callable[[ScopedMemory], object]

# More often than the server makes plans before it keeps one: five times.
TURNS = 20
TURN = [HumanMessage("q"), AIMessage("a")]
CALLS: dict[str, Call] = {
    "get": lambda scope: scope.store().get(("facts",), "one"),
    "put": lambda scope: scope.store().put(("facts",), "one", {"n": 1}),
    "append": lambda scope: scope.chat_history("monday").add_messages(TURN),
    "load": lambda scope: scope.chat_history("tuesday").messages,
}


def plans(memory: IsolatedMemory) -> tuple[int, int]:
    """How many plans were made for what is given, and how often one was used that was kept."""
    asked = "SELECT sum(custom_plans), sum(generic_plans) FROM pg_prepared_statements"
    (row,) = memory._database.inspect(lambda it: it.exec_driver_sql(asked).fetchall())
    return row[0] or 0, row[1] or 0


@pytest.mark.skipif(served.IS_POOLED, reason="behind a pooler nothing is prepared")
@pytest.mark.skipif(served.IS_DISTRIBUTED, reason="the coordinator plans for its workers")
@pytest.mark.parametrize("name", CALLS)
def test_what_is_asked_often_is_planned_once(name: str, postgres_url: str, root_key: LocalRootKey):
    with IsolatedMemory(postgres_url, root_key=root_key, pool_size=1) as memory:
        scope = memory.scope(Scope("alice", "tutor"))
        for call in CALLS.values():
            call(scope)
        call = CALLS[name]
        for _ in range(TURNS):
            call(scope)
        before = plans(memory)

        for _ in range(TURNS):
            call(scope)

        custom, generic = (now - then for now, then in zip(plans(memory), before, strict=True))
        assert custom == 0
        assert generic >= TURNS
