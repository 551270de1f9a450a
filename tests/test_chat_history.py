from langchain_core.messages import AIMessage, HumanMessage

from langmem_isolated import IsolatedMemory
from tests.conftest import Door


async def test_what_is_added_is_read_back_in_order(memory: IsolatedMemory, door: Door):
    history = memory.scope(user_id="alice", module_id="tutor").chat_history("monday")
    said = [HumanMessage("What is 7 times 6?"), AIMessage("42", id="run-1")]

    await door(history, "add_messages", said)

    assert await door(history, "messages") == said
