"""Recall prompt: what was said before, quoted before the newest question to a model."""

from collections.abc import Collection, Sequence

from langchain_core.messages import AnyMessage, BaseMessage, HumanMessage

from langmem_isolated._adapters.recall_tool_defaults import SAID_IN_PERSON
from langmem_isolated.recall import Recall
from langmem_isolated.recall.tool import quoted

_RECALLED_CHARACTERS = 4_000


def with_recalled(
    messages: list[AnyMessage], recall: Recall, limit: int, outside: Collection[str]
) -> list[AnyMessage]:
    """Messages with up to ``limit`` that fit the newest question, quoted before it."""
    asked = last_human(messages)
    if asked is None:
        return messages
    query = recall.cut(messages[asked].text)
    found = recall(query, limit=limit, roles=SAID_IN_PERSON, outside=outside)
    if not found:
        return messages
    context = HumanMessage(quoted(recall.into_prompt(found), _RECALLED_CHARACTERS))
    return [*messages[:asked], context, *messages[asked:]]


def last_human(messages: Sequence[BaseMessage]) -> int | None:
    """Where the newest question stands; ``None`` if there is none."""
    numbers = range(len(messages) - 1, -1, -1)
    return next((n for n in numbers if isinstance(messages[n], HumanMessage)), None)
