"""LibreChat: a conversation that it exported as JSON, and ``mongoexport`` of its messages."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

from langchain_core.messages import BaseMessage

from langmem_isolated.importers.people.branched import BranchedExport
from langmem_isolated.importers.people.export import parsed_or_reason, value_or_reason
from langmem_isolated.importers.people.json_stream import (
    MOST_BYTES,
    JsonStream,
    Unreadable,
    parsed,
)
from langmem_isolated.importers.people.replies import Called, model_of, reply, spoken_by
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

# Python goes some 900 calls deep, and one message takes two.
_MOST_LEVELS = 300
# What is read at once of one that is looked up again: most have less.
_MESSAGE_BYTES = 2**12


class LibreChatExport(BranchedExport):
    """Conversations of LibreChat.

    Args:
        location: The JSON that it exports of a conversation, in either of its layouts, a folder of
            them, or a list or lines of messages as ``mongoexport`` writes them of the collection
            ``messages``: their numbers and places are in memory, some 100 bytes for each.
        branches: ``"all"`` makes a session of every other branch, too.
    """

    kind = "librechat"
    product = "LibreChat"
    patterns: ClassVar = (r".*\.jsonl?",)

    def read(self, name: str, place: str) -> Iterator[ForeignSession | Rejected]:
        """The conversation of a file, or those that its messages are of."""
        with self.document(name) as stream:
            if stream.peek() == "{" and (found := self._exported(stream, place)):
                yield from found
                return
        yield from self._of_messages(name, place)

    def _exported(self, stream: JsonStream, place: str) -> list[ForeignSession | Rejected] | None:
        """The conversation of an export; ``None`` if it is a message of ``mongoexport``."""
        head: dict[str, Any] = {}
        said: list[dict[str, Any]] | None = None
        where = f"{place}conversation 1"
        for key in stream.members():
            if key in ("messages", "messagesTree") and stream.peek() == "[":
                said = []
                _flatten(stream, said, None, 1)
            elif key == "messageId":
                return None
            else:
                head[key] = stream.value()
        if said is None:
            return None
        return list(self._conversation(head, said, where))

    def _conversation(
        self, head: dict[str, Any], said: list[dict[str, Any]], where: str
    ) -> Iterator[ForeignSession | Rejected]:
        own_id = text_of(head.get("conversationId"))
        if own_id is None:
            reason = expected("conversationId to be text", head.get("conversationId"))
            yield Rejected(where, reason.args[0])
            return
        by_id = {text_of(one.get("messageId")) or f"message {n}": one for n, one in enumerate(said)}
        parents = {node: text_of(one.get("parentMessageId")) for node, one in by_id.items()}
        for way in self.branches_of(own_id, where, parents, None):
            yield ForeignSession(
                id=way.id,
                place=way.place,
                messages=[
                    found
                    for position, node in enumerate(way.nodes, 1)
                    for found in self._found(by_id[node], f"{where}, message {position}")
                ],
                fields={**scalars(head), **_owner(said)},
                title=text_of(head.get("title")),
                created_at=instant(head.get("createdAt")),
                updated_at=instant(head.get("updatedAt")),
                is_archived=head.get("isArchived") is True,
            )

    def _found(self, said: dict[str, Any], place: str) -> list[ForeignMessage | Rejected]:
        try:
            messages = self._messages(said)
        except Unreadable as unreadable:
            return [Rejected(place, unreadable.args[0])]
        time = instant(said.get("createdAt"))
        return [ForeignMessage(message, place, time) for message in messages]

    def _messages(self, said: dict[str, Any]) -> list[BaseMessage]:
        own_id = text_of(said.get("messageId"))
        parts = [part for part in self._parts(said) if part]
        parts += [self.note("file", file.get("filename")) for file in objects(said.get("files"))]
        if said.get("error") is True:
            self.count("messages that tell of an error")
            return []
        if not parts:
            self.count("empty messages")
        if said.get("isCreatedByUser") is True:
            text = "\n\n".join(part for part in parts if isinstance(part, str))
            spoken = spoken_by("user", text, own_id, {})
            return [spoken] if spoken and text else []
        if said.get("isCreatedByUser") is not False:
            raise expected("isCreatedByUser to be a truth value", said.get("isCreatedByUser"))
        return reply(parts, own_id, model_of(said.get("model")))

    def _parts(self, said: dict[str, Any]) -> list[str | Called]:
        parts: list[str | Called] = []
        for block in objects(said.get("content")):
            part = self._part(block)
            parts += [] if part is None else [part]
        return parts or [text_of(said.get("text")) or ""]

    def _part(self, block: dict[str, Any]) -> str | Called | None:
        match block.get("type"):
            case "text" | "error" as kind:
                text = block.get("text", block.get(kind))
                return text_of(inside(text, "value")) if isinstance(text, dict) else text_of(text)
            case "think":
                self.count("thoughts")
                return None
            case "tool_call":
                return self._called(block)
            case other:
                return self.note("content of a kind that is not known", other)

    def _called(self, block: dict[str, Any]) -> Called | None:
        call = block.get("tool_call")
        own_id, result = text_of(inside(call, "id")), text_of(inside(call, "output"))
        if own_id is None or result is None:
            self.count("calls of tools without a result")
            return None
        arguments = inside(call, "args")
        if isinstance(arguments, str):
            try:
                arguments = parsed(arguments.encode("utf-8", "surrogatepass"))
            except Unreadable:
                arguments = {"input": arguments}
        arguments = arguments if isinstance(arguments, dict) else {"input": json.dumps(arguments)}
        return Called(own_id, text_of(inside(call, "name")) or "tool", arguments, result)

    def _of_messages(self, name: str, place: str) -> Iterator[ForeignSession | Rejected]:
        """The conversations of messages, which may come in any order, or of exports one by one."""
        positions: dict[str, array[int]] = {}
        for where, position, value in self._values_at(name, place):
            try:
                entry = an_object(_raised(value), "a message as an object")
                if isinstance(entry.get("messages"), list):
                    yield from self._conversation(entry, list(objects(entry["messages"])), where)
                    continue
                own_id = text_of(entry.get("conversationId"))
                if own_id is None:
                    raise expected("conversationId to be text", entry.get("conversationId"))
            except Unreadable as unreadable:
                yield Rejected(where, unreadable.args[0])
                continue
            positions.setdefault(own_id, array("Q")).append(position)
        for number, (own_id, own) in enumerate(positions.items(), 1):
            said = list(self._at(name, own))
            yield from self._sorted(own_id, said, f"{place}conversation {number}")

    def _values_at(self, name: str, place: str) -> Iterator[tuple[str, int, Any]]:
        """Place, position and value of each element of a list, or of each line."""
        with self.document(name) as stream:
            if stream.peek() == "[":
                for number in stream.elements():
                    stream.peek()
                    yield f"{place}message {number}", stream.position, value_or_reason(stream)
                return
        with self.exported.open(name) as reading:
            for number, position, line in reading.lines(MOST_BYTES):
                if line is None or line.strip():
                    yield f"{place}line {number}", position, parsed_or_reason(line)

    def _at(self, name: str, positions: Iterable[int]) -> Iterator[dict[str, Any]]:
        with self.exported.open(name) as reading:
            for position in positions:
                reading.seek(position)
                yield JsonStream(reading, chunk=_MESSAGE_BYTES).value()

    def _sorted(
        self, own_id: str | None, said: list[dict[str, Any]], where: str
    ) -> Iterator[ForeignSession | Rejected]:
        kept = [one for one in said if not (one.get("isTemporary") is True or one.get("expiredAt"))]
        for _ in range(len(said) - len(kept)):
            self.count("messages of temporary conversations")
        # Equal times keep their order.
        kept.sort(key=lambda one: str(instant(one.get("createdAt")) or ""))
        if kept:
            yield from self._conversation({"conversationId": own_id}, kept, where)


def _owner(said: list[dict[str, Any]]) -> dict[str, Any]:
    """Whose the messages are, where ``mongoexport`` has it of each and it is one."""
    users = {text_of(one.get("user")) for one in said}
    return {"user": next(iter(users))} if len(users) == 1 and None not in users else {}


def _raised(value: object) -> object:
    if isinstance(value, Unreadable):
        raise value
    return value


def _flatten(
    stream: JsonStream, said: list[dict[str, Any]], parent: str | None, level: int
) -> None:
    """The messages of a list, those below each of them behind it."""
    if level > _MOST_LEVELS:
        raise Unreadable(
            f"it is nested in more than {_MOST_LEVELS} levels; export it without 'recursive'"
        )
    for _ in stream.elements():
        if stream.peek() != "{":
            said.append({"isCreatedByUser": None})
            continue
        message: dict[str, Any] = {} if parent is None else {"parentMessageId": parent}
        said.append(message)
        for key in stream.members():
            if key == "children" and stream.peek() == "[":
                _flatten(stream, said, text_of(message.get("messageId")), level + 1)
            else:
                message[key] = stream.value()
