"""OpenAI's messages: objects with ``role`` and ``content``, as LangChain's messages."""

from __future__ import annotations

from typing import Any

from langchain_core.messages import BaseMessage, ChatMessage, convert_to_messages

from langmem_isolated.importers.people.json_stream import Unreadable
from langmem_isolated.importers.people.values import an_object

# langchain-core's names of roles; any other becomes a `ChatMessage`, which keeps the role as it is.
_ROLES = {"user", "human", "assistant", "ai", "system", "developer", "tool", "function"}
# Without these langchain-core cannot make the message; conversations often come without them.
_REQUIRED = {"tool": {"tool_call_id": ""}, "function": {"name": ""}}


def openai_message(entry: object) -> BaseMessage:
    """A message with a role and content; further fields are kept as langchain-core keeps them.

    Args:
        entry: Its content may be text, a list of parts, or null, which is empty text.

    Raises:
        Unreadable: It is no such message.
    """
    fields = dict(an_object(entry))
    role, is_missing = fields.get("role"), "content" not in fields and not fields.get("tool_calls")
    if not isinstance(role, str) or not role:
        raise Unreadable(wanted("role to be text", role))
    content = fields["content"] = "" if fields.get("content") is None else fields["content"]
    if is_missing or not isinstance(content, str | list):
        got = None if is_missing else content
        raise Unreadable(wanted("content to be text, a list or null", got))
    try:
        return _as_langchain(role, fields)
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        # Those errors may quote the content.
        raise Unreadable(cannot_hold(error)) from None


def cannot_hold(error: Exception) -> str:
    """What is said of a message that LangChain's classes cannot hold."""
    return f"LangChain's message of role and content cannot hold it ({type(error).__name__})"


def wanted(what: str, received: object) -> str:
    """What was expected, and of which type what came is."""
    return f"expected {what}, got {'nothing' if received is None else type(received).__name__}"


def _as_langchain(role: str, fields: dict[str, Any]) -> BaseMessage:
    known = role.lower()
    if known in _ROLES:
        return convert_to_messages([{**_REQUIRED.get(known, {}), **fields, "role": known}])[0]
    own = {name: fields.pop(name, None) for name in ("role", "content", "id")}
    return ChatMessage(**own, additional_kwargs=fields)
