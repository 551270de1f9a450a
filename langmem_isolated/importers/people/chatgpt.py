"""ChatGPT: ``conversations.json`` of OpenAI's data export, whole, in shards, or the zip with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage

from langmem_isolated.importers.people.branched import BranchedExport
from langmem_isolated.importers.people.json_stream import Unreadable
from langmem_isolated.importers.people.replies import model_of, spoken_by
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

# What is counted has names of ours: those of an export may say anything.
_MEDIA = {
    "image_asset_pointer": "image",
    "audio_asset_pointer": "audio",
    "video_container_asset_pointer": "video",
    "real_time_user_audio_video_asset_pointer": "voice and video",
}
_LEFT_OUT = {
    "thoughts": "thoughts",
    "reasoning_recap": "thoughts",
    "user_editable_context": "instructions and memories that were given along",
    "model_editable_context": "instructions and memories that were given along",
}


class ChatGptExport(BranchedExport):
    """Conversations of ChatGPT.

    What people see is read: the branch to ``current_node``, without hidden messages. A tool's
    results follow the message that called it.

    Args:
        location: The file, a shard, or the folder or zip that has them.
        branches: ``"all"`` makes a session of every other branch, too.
    """

    kind = "chatgpt"
    product = "ChatGPT"
    patterns: ClassVar = (r"conversations\.json", r"conversations-\d+\.json")

    def sessions(self, value: Any, where: str) -> Iterator[ForeignSession | Rejected]:
        """A conversation, and its other branches where they are wanted."""
        conversation = an_object(value, "a conversation as an object")
        nodes = an_object(conversation.get("mapping"), "mapping to be an object")
        own_id = text_of(conversation.get("conversation_id")) or text_of(conversation.get("id"))
        if own_id is None:
            raise expected("id to be text", conversation.get("id"))
        parents = {node: text_of(inside(one, "parent")) for node, one in nodes.items()}
        leaf = text_of(conversation.get("current_node"))
        for way in self.branches_of(own_id, where, parents, leaf):
            yield ForeignSession(
                id=way.id,
                place=way.place,
                messages=self._messages(nodes, way.nodes, where),
                fields=scalars(conversation),
                title=text_of(conversation.get("title")),
                created_at=instant(conversation.get("create_time")),
                updated_at=instant(conversation.get("update_time")),
                is_archived=conversation.get("is_archived") is True,
                is_pinned=conversation.get("is_starred") is True,
            )

    def _messages(
        self, nodes: Mapping[str, Any], path: list[str], where: str
    ) -> list[ForeignMessage | Rejected]:
        turns = _Turns(self)
        for number, node in enumerate(path, 1):
            place = f"{where}, message {number} of its branch"
            said = inside(nodes[node], "message")
            if said is None:
                continue
            try:
                turns.add(an_object(said, "a message as an object"), node, place)
            except Unreadable as unreadable:
                turns.found.append(Rejected(place, unreadable.args[0]))
        return turns.found


class _Turns:
    """The messages of a branch, as far as they are seen."""

    def __init__(self, export: ChatGptExport) -> None:
        self._export = export
        self.found: list[ForeignMessage | Rejected] = []
        # Whom a tool's result answers, and what it was called with.
        self._caller: AIMessage | None = None
        self._input: str | None = None

    def add(self, said: dict[str, Any], node: str, place: str) -> None:
        role = text_of(inside(said, "author", "role"))
        if role is None:
            raise expected("author.role to be text", inside(said, "author", "role"))
        if inside(said, "metadata", "is_visually_hidden_from_conversation") is True:
            self._export.count("hidden messages")
            return
        left_out = _LEFT_OUT.get(str(inside(said, "content", "content_type")))
        if left_out is not None:
            self._export.count(left_out)
            return
        text, own_id = self._text(said), text_of(said.get("id")) or node
        if not text:
            self._export.count("empty messages")
            return
        message = (
            self._result(said, text, own_id)
            if role == "tool"
            else self._spoken(said, role, text, own_id)
        )
        if message is not None:
            time = instant(said.get("create_time"))
            self.found.append(ForeignMessage(message, place, time))

    def _spoken(
        self, said: dict[str, Any], role: str, text: str, own_id: str
    ) -> BaseMessage | None:
        metadata = model_of(inside(said, "metadata", "model_slug"))
        message = spoken_by(role, text, own_id, metadata)
        self._caller = message if isinstance(message, AIMessage) else None
        is_call = self._caller is not None and said.get("recipient") not in (None, "all")
        self._input = text if is_call else None
        if message is None:
            self._export.count("messages of another role than user, assistant, system or tool")
        return message

    def _result(self, said: dict[str, Any], text: str, own_id: str) -> BaseMessage | None:
        if self._caller is None:
            self._export.count("results of tools that nobody called")
            return None
        name = text_of(inside(said, "author", "name")) or "tool"
        arguments = {} if self._input is None else {"input": self._input}
        if self._input is not None:
            self._caller.content, self._input = "", None
        self._caller.tool_calls.append(
            {"name": name, "args": arguments, "id": own_id, "type": "tool_call"}
        )
        return ToolMessage(text, tool_call_id=own_id, id=own_id, name=name)

    def _text(self, said: dict[str, Any]) -> str:
        content = an_object(said.get("content"), "content to be an object")
        pieces = [*self._pieces(content), *self._attached(said)]
        return "\n\n".join(piece for piece in pieces if piece)

    def _attached(self, said: dict[str, Any]) -> Iterator[str]:
        for attached in objects(inside(said, "metadata", "attachments")):
            yield self._export.note("file", attached.get("name"))

    def _pieces(self, content: dict[str, Any]) -> Iterator[str]:
        match content.get("content_type"):
            case "text" | "multimodal_text":
                parts = content.get("parts")
                if not isinstance(parts, list):
                    raise expected("parts to be a list", parts)
                yield from map(self._part, parts)
            case "code" | "execution_output" | "tether_quote" | "system_error":
                yield text_of(content.get("text")) or ""
            case "tether_browsing_display":
                yield text_of(content.get("result")) or text_of(content.get("summary")) or ""
            case str() as other:
                yield self._export.note("content of a kind that is not known", other)
            case other:
                raise expected("content_type to be text", other)

    def _part(self, part: object) -> str:
        if isinstance(part, str):
            return part
        kind = inside(part, "content_type")
        if kind == "audio_transcription":
            return text_of(inside(part, "text")) or ""
        known = _MEDIA.get(kind) if isinstance(kind, str) else None
        return self._export.note(known or "part that is not known")
