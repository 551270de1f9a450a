"""Portable records: what the `.mem` format (1.1) calls what the lines of an export tell.

Ids are digests of whose and of what a record is, so that the same record has the same id in the
next export, and is merged by whoever imports both.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from urllib.parse import quote

from langmem_isolated.lifecycle.export.lines import Line, time_of

Told = Iterator[tuple[str, Line]]

KINDS = ("context", "preference", "core", "episode", "resource", "chunk", "fact")
_ID_BYTES = 16
_SUMMARY_CHARACTERS = 120
# As the format's own adapters have it; less where nobody has confirmed it.
_IMPORTANCE = 0.5
_TRUSTED, _UNTRUSTED = 0.7, 0.3
# What a message says in content and id alone is told by an episode.
_TOLD = {"content", "id"}
_SPEAKERS = {"human": "user", "ai": "assistant"}


class Portable(NamedTuple):
    """Whose records."""

    project: str
    user: str

    def of(self, kind: str, line: Line) -> Told | None:
        """The records, each behind its kind, that a line is; ``None`` where there are none."""
        tellers: dict[str, Callable[[Line], Told]] = {
            "messages": self.message,
            "sessions": self.session,
            "threads": self.thread,
            "items": self.item,
            "documents": self.document,
            "profiles": self.profile,
        }
        return tellers[kind](line) if kind in tellers else None

    def id(self, *parts: object) -> str:
        """The id of what ``parts`` name."""
        framed = json.dumps([self.project, self.user, *parts]).encode()
        return hashlib.blake2b(framed, digest_size=_ID_BYTES).hexdigest()

    def message(self, line: Line) -> Told:
        """A message of a session: an episode."""
        session, message = line["session"], line["message"]
        stored = second(line["stored_at"])
        written = second(line["written_at"]) or stored
        beside = {
            "module": line["module"],
            "session": session,
            "sequence": str(line["sequence"]),
            "channel": line["channel"],
        }
        id_ = message["data"].get("id") if line["found_by_id"] else None
        yield self._episode(
            self.id("message", line["module"], session, id_ or line["sequence"]), message,
            context=self.id("session", line["module"], session),
            times=(written, stored), beside=beside, is_untrusted=line["untrusted"],
        )  # fmt: skip

    def _episode(
        self,
        id_: str,
        message: Line,
        *,
        context: str,
        times: tuple[str | None, str | None],
        beside: dict[str, str | None],
        is_untrusted: bool,
    ) -> tuple[str, Line]:
        data, text = message["data"], text_of(message["data"].get("content"))
        speaker = _SPEAKERS.get(message["type"], message["type"])
        if id_given := data.get("id"):
            beside["messageID"] = id_given
        if is_untrusted:
            beside["untrusted"] = "true"
        episode = {
            **_plain_episode(id_, text, times, context, beside),
            "sourceType": "chat",
            "actors": [speaker],
            "speaker": speaker,
            "confidence": _UNTRUSTED if is_untrusted else _TRUSTED,
        }
        if not isinstance(data.get("content"), str) or data.keys() - _TOLD:
            # A field that the format does not know; who imports it keeps it as it is.
            episode["langchainMessage"] = message
        return "episode", episode

    def session(self, line: Line) -> Told:
        """A session: a context, and its summary as an episode."""
        yield from self._context("session", line)
        if line["summary"]:
            moment = second(line["updated_at"])
            beside = {"module": line["module"], "session": line["id"]}
            context = self.id("session", line["module"], line["id"])
            id_ = self.id("summary", line["module"], line["id"])
            episode = _plain_episode(id_, line["summary"], (moment, moment), context, beside)
            yield "episode", {**episode, "sourceType": "summary", "categories": ["summary"]}

    def _context(self, kind: str, line: Line) -> Told:
        yield (
            "context",
            {
                "id": self.id(kind, line["module"], line["id"]),
                "label": line["title"] or line["id"],
                "archived": line["archived"],
                "createdAt": second(line["created_at"]),
            },
        )

    def thread(self, line: Line) -> Told:
        """A thread, and the messages of its latest state, whose own times are not known."""
        yield from self._context("thread", line)
        moment = second(line["updated_at"])
        for channel, messages in (line["state"] or {}).items():
            for number, message in enumerate(messages if isinstance(messages, list) else []):
                if _is_message(message):
                    parts = line["module"], line["id"], channel
                    yield self._episode(
                        self.id("state", *parts, message["data"].get("id") or number), message,
                        context=self.id("thread", *parts[:2]), times=(moment, moment),
                        beside={"module": parts[0], "thread": parts[1], "sequence": str(number)},
                        is_untrusted=line["untrusted"],
                    )  # fmt: skip

    def item(self, line: Line) -> Told:
        """An item of a store: a fact."""
        yield (
            "fact",
            {
                **self._fact_by(line, "item", line["namespace"], line["key"]),
                "subject": "/".join(line["namespace"]),
                "predicate": line["key"],
                "object": _json(line["value"]),
                "text": _text_of_value(line["value"]),
                "tValidFrom": second(line["updated_at"]),
                "createdAt": second(line["created_at"]),
                "tValidTo": second(line["expires_at"]),
            },
        )

    def _fact_by(self, line: Line, *parts: object) -> Line:
        return {
            "id": self.id(*parts, line["module"]),
            "episodeID": "",
            "confidence": _TRUSTED,
            "importance": _IMPORTANCE,
        }

    def document(self, line: Line) -> Told:
        """A document: a resource with one chunk."""
        metadata, parts = line["metadata"], (line["module"], line["collection"], line["id"])
        id_, moment = self.id("document", *parts), second(line["stored_at"])
        named = metadata.get("title") or metadata.get("source")
        yield (
            "resource",
            {
                "id": id_,
                "uri": "langmem-isolated:" + "/".join(_quoted(part) for part in parts),
                "mimeType": "text/plain",
                "contentHash": hashlib.sha256(_bytes(line["text"])).hexdigest(),
                "title": named if isinstance(named, str) else line["id"],
                "summary": "",
                "created": moment,
                "modified": moment,
            },
        )
        yield (
            "chunk",
            {
                "id": self.id("chunk", *parts),
                "resourceID": id_,
                "position": 0,
                "text": line["text"],
                "sensitivity": "low",
                "contextPrefix": _json(metadata) if metadata else None,
            },
        )

    def profile(self, line: Line) -> Told:
        """An entry of a profile: a fact, a preference, or the core block that a summary is."""
        *above, part = line["space"]
        value, confidence = line["value"], _UNTRUSTED if above else _TRUSTED
        if part == "facts":
            yield "fact", {**self._told_fact(line), "confidence": confidence}
        elif part == "summary":
            yield (
                "core",
                {
                    "id": self.id("profile", line["module"], *line["space"]),
                    "content": value["value"],
                    "charBudget": len(value["value"]),
                    "version": 1,
                },
            )
        else:
            told = value["value"] if part == "attributes" else value["mentions"]
            name = line["key"] if part == "attributes" else value["name"]
            yield (
                "preference",
                {
                    "key": "/".join([line["module"] or "", *line["space"], name]),
                    "value": told if isinstance(told, str) else _json(told),
                },
            )

    def _told_fact(self, line: Line) -> Line:
        value, (kind, _, module, session, message) = line["value"], line["value"]["sources"][0]
        is_said = session is not None and message is not None
        return {
            **self._fact_by(line, "profile", line["space"], line["stored"]["key"]),
            "episodeID": self.id("message", module, session, message) if is_said else "",
            "subject": "user",
            "predicate": kind,
            "object": value["text"],
            "text": value["text"],
            "tValidFrom": second(time_of(value["time"])),
            "createdAt": second(time_of(value["time"])),
            "lastReinforcedAt": second(time_of(value["updated"])),
        }


def canonical(record: Line) -> bytes:
    """A record as the format has it: sorted keys, no white space, UTF-8, nothing that is ``None``.

    A lone surrogate, which UTF-8 has not, becomes a question mark.
    """
    given = {name: value for name, value in record.items() if value is not None}
    text = json.dumps(
        given, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False
    )
    return _bytes(text)


def second(moment: str | None) -> str | None:
    """A moment of a line, in UTC, as the format has it: whole seconds."""
    return None if moment is None else f"{moment[:19]}Z"


def text_of(content: Any) -> str:
    """The text of a message's content."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = (part.get("text") if isinstance(part, dict) else part for part in parts)
    return "\n".join(text for text in texts if isinstance(text, str))


def _plain_episode(
    id_: str,
    text: str,
    times: tuple[str | None, str | None],
    context: str,
    beside: dict[str, str | None],
) -> Line:
    happened, stored = times
    return {
        "id": id_,
        "eventTime": happened,
        "mentionTime": happened,
        "ingestionTime": stored,
        "actors": [],
        "summary": text.strip().partition("\n")[0][:_SUMMARY_CHARACTERS],
        "details": text,
        "sensitivity": "low",
        "metadata": {name: value for name, value in beside.items() if value is not None},
        "categories": [],
        "importance": _IMPORTANCE,
        "confidence": _TRUSTED,
        "lifecycleState": "HOT",
        "extractionState": "done",
        "accessCount": 0,
        "pinned": False,
        "vaultRefs": [],
        "contextID": context,
    }


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("data"), dict) and "type" in value


def _text_of_value(value: Any) -> str:
    """An item's value as text: that under a name that agents give it, or all of it."""
    for name in ("text", "content"):
        if isinstance(value, dict) and isinstance(value.get(name), str):
            return str(value[name])
    return _json(value)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def _quoted(part: str | None) -> str:
    return quote(_bytes(part or ""), safe="")


def _bytes(text: str) -> bytes:
    return text.encode(errors="replace")
