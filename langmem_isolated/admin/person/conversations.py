"""Conversations: chats and threads of agents, found, read, renamed, removed, taken along."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any, Literal

from langchain_core.messages import BaseMessage
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route

from langmem_isolated.admin.person.pages import Mine, Module, Pages, as_text, page_of
from langmem_isolated.admin.person.thread_states import MESSAGES, messages_in, state_of
from langmem_isolated.admin.person.transcripts import Line, as_json, as_markdown, line_of
from langmem_isolated.scoped_memory import ScopedMemory

_PAGE = 50
_READ = 500
_FOUND = 20
_LONGEST_TITLE = 500


def routes(pages: Pages) -> list[Route]:
    """All conversations of a module, one of them, and what is done with it."""
    below = "/m/{module}/conversations"
    one = f"{below}/{{conversation}}"
    return [
        pages.get(below, _list, "conversations"),
        pages.post(f"{below}/search", _search, "search"),
        pages.post(f"{below}/confirm", _confirm, "confirm_claimed"),
        pages.get(one, _read, "conversation"),
        pages.post(f"{one}/rename", _rename, "rename"),
        pages.post(f"{one}/delete", _delete, "delete"),
        pages.post(f"{one}/export", _export, "export"),
    ]


Kind = Literal["session", "thread"]


@dataclass(frozen=True, slots=True)
class Conversation:
    """A chat session or a thread of an agent, as a list shows it."""

    kind: Kind
    id: str | None
    title: str | None
    count: int
    created: datetime
    last_activity: datetime
    expires: datetime | None
    pinned: bool
    is_untrusted: bool

    @property
    def names(self) -> tuple[str, str]:
        """What a reference stands for, beside the module."""
        return self.kind, self.id or ""

    @property
    def shown(self) -> str:
        """Its title, or what stands for it where nobody gave one."""
        return self.title or f"Conversation of {self.created:%Y-%m-%d %H:%M}"


def _all(scoped: ScopedMemory, search: str | None = None) -> Iterator[Conversation]:
    """Pinned ones first, then by last activity, newest first; read as they are asked for."""
    both = _sessions(scoped, search), _threads(scoped, search)
    return heapq.merge(*both, key=lambda one: (one.pinned, one.last_activity), reverse=True)


def _sessions(scoped: ScopedMemory, search: str | None) -> Iterator[Conversation]:
    last = None
    while found := scoped.sessions(limit=_READ, before=last, archived=None, search=search):
        for one in found:
            yield Conversation(
                "session", one.id, one.title, one.messages, one.created, one.last_activity,
                one.expires, one.pinned, one.is_untrusted,
            )  # fmt: skip
        last = found[-1]


def _threads(scoped: ScopedMemory, search: str | None) -> Iterator[Conversation]:
    saver, last = scoped.checkpointer(), None
    while found := saver.threads(limit=_READ, before=last, archived=None, search=search):
        for one in found:
            yield Conversation(
                "thread", one.id, one.title, one.checkpoints, one.created, one.last_activity,
                one.expires, one.pinned, is_untrusted=False,
            )  # fmt: skip
        last = found[-1]


def _reference(mine: Mine, module: Module, kind: str, name: str | None) -> str | None:
    return None if name is None else mine.reference(kind, module.name, name)


def _meant(mine: Mine, module: Module) -> Conversation:
    found = (one for one in _all(module.scoped) if one.id is not None)
    return mine.meant("conversation", found, lambda one: (one.kind, module.name, one.id or ""))


def _list(mine: Mine) -> Response:
    module, number = mine.module(), mine.number("page")
    wanted = [*islice(_all(module.scoped), number * _PAGE + 1)]
    shown, more = page_of(wanted, number, _PAGE)
    return mine.page(
        "conversations",
        "Conversations",
        current="conversations",
        module=module,
        found=[(one, _reference(mine, module, one.kind, one.id)) for one in shown],
        has_claimed=any(one.is_untrusted for one in wanted),
        number=number,
        more=more,
    )


def _search(mine: Mine) -> Response:
    module, query = mine.module(), mine.sent("query")
    titled = [*islice(_all(module.scoped, query), _FOUND)]
    said = module.scoped.recall(query, limit=_FOUND)
    return mine.page(
        "found",
        "What was found",
        module=module,
        query=query,
        titled=[(one, _reference(mine, module, one.kind, one.id)) for one in titled],
        said=[(one, _reference(mine, module, one.source, one.source_id)) for one in said],
    )


def _confirm(mine: Mine) -> Response:
    module = mine.module()
    if not mine.visit.is_confirmed:
        said = [
            "What was said before you logged in counts as yours: assistants are told of it.",
            "If it was somebody else, delete those conversations instead.",
        ]
        return mine.ask("Was this you?", said, "It was me", "module", module=module.reference)
    module.scoped.confirm_claimed()
    return mine.visit.back("module", module=module.reference)


def _messages(
    scoped: ScopedMemory, one: Conversation
) -> list[tuple[BaseMessage, datetime | None, str | None]]:
    if one.kind == "session":
        timed = scoped.chat_history(one.id or "").timed()
        return [(said.message, said.said_at, said.channel) for said in timed]
    return [(said, None, None) for said in messages_in(_state(scoped, one))]


def _state(scoped: ScopedMemory, one: Conversation) -> dict[str, Any]:
    return {} if one.kind == "session" else state_of(scoped.checkpointer(), one.id or "")


def _others(scoped: ScopedMemory, one: Conversation) -> dict[str, Any]:
    """What a thread keeps beside messages."""
    state = _state(scoped, one)
    return {name: value for name, value in state.items() if name != MESSAGES}


def _lines(scoped: ScopedMemory, one: Conversation) -> list[Line]:
    return [line_of(*said) for said in _messages(scoped, one)]


def _read(mine: Mine) -> Response:
    module = mine.module()
    one, number = _meant(mine, module), mine.number("page")
    lines = _lines(module.scoped, one)
    # Pages go back from the newest.
    newest, more = page_of(lines[::-1], number, _PAGE)
    return mine.page(
        "conversation",
        one.shown,
        module=module,
        one=one,
        reference=mine.reference(one.kind, module.name, one.id or ""),
        lines=newest[::-1],
        others=[(n, as_text(v)) for n, v in _others(module.scoped, one).items()],
        number=number,
        more=more,
    )


def _rename(mine: Mine) -> Response:
    module = mine.module()
    one, title = _meant(mine, module), mine.sent("title")
    if len(title) > _LONGEST_TITLE:
        raise HTTPException(400, f"A title may have {_LONGEST_TITLE} characters.")
    if one.kind == "session":
        module.scoped.sessions.rename(one.id or "", title)
    else:
        module.scoped.checkpointer().rename_thread(one.id or "", title)
    return _back_to(mine, module, one)


def _back_to(mine: Mine, module: Module, one: Conversation) -> Response:
    reference = mine.reference(one.kind, module.name, one.id or "")
    return mine.visit.back("conversation", module=module.reference, conversation=reference)


def _delete(mine: Mine) -> Response:
    module = mine.module()
    one = _meant(mine, module)
    if not mine.visit.is_confirmed:
        said = [f"“{one.shown}” is removed for good, with all that was said in it."]
        return mine.ask(
            "Delete this conversation?", said, "Delete it", "conversations", module=module.reference
        )
    if one.kind == "session":
        module.scoped.sessions.delete(one.id or "")
    else:
        module.scoped.checkpointer().delete_thread(one.id or "")
    return mine.visit.back("conversations", module=module.reference)


def _export(mine: Mine) -> Response:
    module = mine.module()
    one = _meant(mine, module)
    if mine.visit.form.get("form") == "markdown":
        text, kind, name = as_markdown(one.title, _lines(module.scoped, one)), "markdown", "md"
        return _file(text, f"text/{kind}", f"conversation.{name}")
    said = ((message, time) for message, time, _ in _messages(module.scoped, one))
    text = as_json(one.title, said, _others(module.scoped, one))
    return _file(text, "application/json", "conversation.json")


def _file(text: str, media_type: str, name: str) -> Response:
    disposition = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(text.encode(errors="replace"), media_type=media_type, headers=disposition)
