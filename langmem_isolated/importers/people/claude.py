"""Claude: ``conversations.json`` of Anthropic's data export."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, ClassVar

from langchain_core.messages import BaseMessage

from langmem_isolated.importers.people.branched import BranchedExport
from langmem_isolated.importers.people.json_stream import Unreadable
from langmem_isolated.importers.people.replies import Called, reply, spoken_by
from langmem_isolated.importers.people.values import (
    an_object,
    expected,
    inside,
    instant,
    objects,
    scalars,
    text_of,
)
from langmem_isolated.lifecycle import ForeignMessage, ForeignSession, Rejected


class ClaudeExport(BranchedExport):
    """Conversations of Claude.

    Args:
        location: The file, or the folder or zip that has it.
        branches: ``"all"`` makes a session of every branch that was written anew, too, where the
            export says which message follows which.
    """

    kind = "claude"
    product = "Claude"
    patterns: ClassVar = (r"conversations(?:-\d+)?\.json",)

    def sessions(self, value: Any, where: str) -> Iterator[ForeignSession | Rejected]:
        """A conversation, and its other branches where they are wanted."""
        conversation = an_object(value, "a conversation as an object")
        own_id = text_of(conversation.get("uuid"))
        if own_id is None:
            raise expected("uuid to be text", conversation.get("uuid"))
        said = conversation.get("chat_messages")
        if not isinstance(said, list):
            raise expected("chat_messages to be a list", said)
        numbers, parents = _tree(said)
        leaf = text_of(conversation.get("current_leaf_message_uuid"))
        for way in self.branches_of(own_id, where, parents, leaf):
            path = [numbers[node] for node in way.nodes]
            yield ForeignSession(
                id=way.id,
                place=way.place,
                messages=[found for n in path for found in self._found(said[n], n, where)],
                fields=scalars(conversation),
                title=text_of(conversation.get("name")),
                created_at=instant(conversation.get("created_at")),
                updated_at=instant(conversation.get("updated_at")),
                is_pinned=conversation.get("is_starred") is True,
            )

    def _found(self, said: object, number: int, where: str) -> list[ForeignMessage | Rejected]:
        place = f"{where}, message {number + 1}"
        try:
            message = an_object(said, "a message as an object")
            time = instant(message.get("created_at"))
            return [ForeignMessage(one, place, time) for one in self._messages(message)]
        except Unreadable as unreadable:
            return [Rejected(place, unreadable.args[0])]

    def _messages(self, said: dict[str, Any]) -> list[BaseMessage]:
        sender, own_id = said.get("sender"), text_of(said.get("uuid"))
        if sender not in ("human", "assistant"):
            raise expected("sender to be human or assistant", sender)
        parts = [part for part in (*self._parts(said), *self._attached(said)) if part]
        if not parts:
            self.count("empty messages")
        if sender == "assistant":
            return reply(parts, own_id, {})
        text = "\n\n".join(part for part in parts if isinstance(part, str))
        spoken = spoken_by("human", text, own_id, {})
        return [spoken] if spoken and text else []

    def _parts(self, said: dict[str, Any]) -> list[str | Called]:
        blocks = list(objects(said.get("content")))
        results = {
            block.get("tool_use_id"): block
            for block in blocks
            if block.get("type") == "tool_result" and text_of(block.get("tool_use_id"))
        }
        parts = [part for block in blocks if (part := self._part(block, results)) is not None]
        return parts or [text_of(said.get("text")) or ""]

    def _part(self, block: dict[str, Any], results: dict[Any, dict[str, Any]]) -> Any:
        match block.get("type"):
            case "text":
                return text_of(block.get("text"))
            case "thinking" | "redacted_thinking":
                self.count("thoughts")
            case "tool_use":
                return self._called(block, results)
            case "tool_result" | "token_budget":
                # The first with the call; the second says nothing.
                return None
            case str() as other:
                return self.note("content of a kind that is not known", other)
            case _:
                return self.note("part that is not known")
        return None

    def _called(self, block: dict[str, Any], results: dict[Any, dict[str, Any]]) -> Called | None:
        own_id, arguments = text_of(block.get("id")), block.get("input")
        result = results.get(own_id) if own_id else None
        if result is None or own_id is None:
            self.count("calls of tools without a result")
            return None
        return Called(
            own_id,
            text_of(block.get("name")) or "tool",
            arguments if isinstance(arguments, dict) else {},
            self._result(result.get("content")),
        )

    def _result(self, content: object) -> str:
        if isinstance(content, str):
            return content
        pieces = [
            text_of(piece.get("text")) or self.note("part of a tool's result", piece.get("type"))
            for piece in objects(content)
        ]
        return "\n\n".join(pieces) or json.dumps(content, ensure_ascii=False)

    def _attached(self, said: dict[str, Any]) -> Iterator[str]:
        for attached in objects(said.get("attachments")):
            note = self.note("file", attached.get("file_name"))
            text = text_of(attached.get("extracted_content"))
            yield f"{note}\n{text}" if text else note
        for file in objects(said.get("files")):
            yield self.note("file", file.get("file_name"))


def _tree(said: list[Any]) -> tuple[dict[str, int], dict[str, str | None]]:
    """The number and the parent of each message; without parents one follows the other."""
    ids = [text_of(inside(one, "uuid")) for one in said]
    above = [text_of(inside(one, "parent_message_uuid")) for one in said]
    if None in ids or above.count(None) > 1 or len(set(ids)) < len(ids):
        ids = [str(number) for number in range(len(said))]
        above = [None, *ids[:-1]] if ids else []
    names = [str(own) for own in ids]
    return dict(zip(names, range(len(said)), strict=True)), dict(zip(names, above, strict=True))
