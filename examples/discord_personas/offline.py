"""Stand-ins for Discord and for a model: messages from a terminal, answers by a rule."""

import json
import re
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self
from uuid import uuid4

from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable

REMEMBER = re.compile(r"remember(?: that)? (?P<fact>.+)", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class Person:
    """An author."""

    id: int


@dataclass(frozen=True)
class TerminalChannel:
    """A channel whose answers are printed, one JSON object a line."""

    id: int
    reader: int

    async def send(self, content: str) -> None:
        """Print an answer."""
        told = {"to": self.reader, "channel": self.id, "content": content}
        sys.stdout.write(json.dumps(told, ensure_ascii=False) + "\n")


@dataclass(frozen=True)
class TerminalMessage:
    """What stands for a `discord.Message`."""

    content: str
    author: Person
    channel: TerminalChannel
    guild: int | None

    @classmethod
    def of(cls, line: str, user: int) -> Self:
        """A line of JSON, or what ``user`` says.

        Raises:
            ValueError: It begins with a brace, and is no object with an author and a content.
        """
        try:
            told = json.loads(line) if line.startswith("{") else {"content": line}
        except ValueError:
            told = {}
        author = told.get("author", user)
        if not isinstance(told.get("content"), str) or type(author) is not int:
            raise ValueError(
                'A line must be text, or JSON as {"author": 1001, "content": "Hi"}, got '
                f"{len(line)} characters that are neither. Nothing was answered."
            )
        channel = TerminalChannel(told.get("channel", author), author)
        return cls(told["content"], Person(author), channel, told.get("guild"))


async def messages_from(lines: AsyncIterator[str], user: int) -> AsyncIterator[TerminalMessage]:
    """The messages of a terminal, or of a file."""
    async for line in lines:
        if line.strip():
            yield TerminalMessage.of(line.strip(), user)


class RuleModel(BaseChatModel):
    """Keeps what follows "remember" with its tool, and otherwise says what its prompt knows."""

    @property
    def _llm_type(self) -> str:
        return "rule-model"

    def bind_tools(
        self, tools: Sequence[dict[str, Any] | type | Callable[..., Any] | Any], **options: Any
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """The same model: it knows one tool, by its name."""
        return self.bind(tools=[tool.name for tool in tools], **options)

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=_answer(messages))])


def _answer(messages: list[BaseMessage]) -> AIMessage:
    if messages[-1].type == "tool":
        return AIMessage("I keep that in mind.")
    if wanted := REMEMBER.match(messages[-1].text):
        told = {"action": "add", "text": wanted["fact"].strip()}
        return AIMessage("", tool_calls=[{"name": "profile", "args": told, "id": str(uuid4())}])
    persona = re.search(r"You are the (\w+)", messages[0].text)
    known = [fact for message in messages[1:-1] for fact in _quoted(message)]
    said = " ".join(known) or "nothing yet."
    return AIMessage(f"{persona[1] if persona else 'I'}: of you I know {said}")


def _quoted(message: BaseMessage) -> list[str]:
    """Facts of a quotation: a profile has one a line, what others share is one object."""
    lines = [json.loads(line) for line in message.text.splitlines() if line.startswith("{")]
    facts = [
        line["text"] for line in lines if line.get("kind", "fact") == "fact" and "text" in line
    ]
    shared = [
        fact for line in lines for part in line.values() if isinstance(part, list) for fact in part
    ]
    return [*facts, *shared]
