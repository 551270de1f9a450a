"""What stands for Discord: messages from a terminal or a file, answers that are printed."""

import json
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Self


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
