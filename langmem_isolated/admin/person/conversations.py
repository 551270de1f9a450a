"""Conversations: chats and threads of agents, found, read, renamed, removed, taken along."""

from __future__ import annotations

import heapq
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Literal

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route

from langmem_isolated.admin.person import said
from langmem_isolated.admin.person.pages import Mine, Module, Pages, a_place_in, page_of
from langmem_isolated.admin.person.readable import as_text
from langmem_isolated.admin.person.said import Said
from langmem_isolated.admin.person.transcripts import line_of, told_in_json, told_in_markdown
from langmem_isolated.scoped_memory import ScopedMemory

_PAGE = 50
_READ = 500
_FOUND = 20
_LONGEST_TITLE = 500
# No conversation has so many messages.
_LAST = 10**15
# All of a conversation is held while it is written down: so many at once in this process.
_exporting = threading.BoundedSemaphore(4)


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
    recalled = module.scoped.recall(query, limit=_FOUND)
    return mine.page(
        "found",
        "What was found",
        module=module,
        query=query,
        titled=[(one, _reference(mine, module, one.kind, one.id)) for one in titled],
        said=[(one, _reference(mine, module, one.source, one.source_id)) for one in recalled],
    )


def _confirm(mine: Mine) -> Response:
    module = mine.module()
    if not mine.visit.is_confirmed:
        consequences = [
            "What was said before you logged in counts as yours: assistants are told of it.",
            "If it was somebody else, delete those conversations instead.",
        ]
        return mine.ask(
            "Was this you?", consequences, "It was me", "module", module=module.reference
        )
    module.scoped.confirm_claimed()
    return mine.visit.back("module", module=module.reference)


def _page_of(scoped: ScopedMemory, one: Conversation, before: int | None) -> Said:
    read = said.in_session if one.kind == "session" else said.in_thread
    return read(scoped, one.id or "", before)


def _all_of(scoped: ScopedMemory, one: Conversation) -> Said:
    read = said.all_in_session if one.kind == "session" else said.all_in_thread
    return read(scoped, one.id or "")


def _read(mine: Mine) -> Response:
    module = mine.module()
    one = _meant(mine, module)
    # Below 1 nothing is older.
    before = mine.number("before", default=0, most=_LAST) or None
    found = _page_of(module.scoped, one, before)
    return mine.page(
        "conversation",
        one.shown,
        module=module,
        one=one,
        reference=mine.reference(one.kind, module.name, one.id or ""),
        lines=[line_of(*message) for message in found.messages],
        others=[(name, as_text(value)) for name, value in found.others.items()],
        is_newest=before is None,
        before=found.before,
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
        consequences = [f"“{one.shown}” is removed for good, with all that was said in it."]
        return mine.ask(
            "Delete this conversation?",
            consequences,
            "Delete it",
            "conversations",
            module=module.reference,
        )
    if one.kind == "session":
        module.scoped.sessions.delete(one.id or "")
    else:
        module.scoped.checkpointer().delete_thread(one.id or "")
    return mine.visit.back("conversations", module=module.reference)


def _export(mine: Mine) -> Response:
    module = mine.module()
    one = _meant(mine, module)
    with a_place_in(_exporting):
        found = _all_of(module.scoped, one)
        if mine.visit.form.get("form") == "markdown":
            lines = (line_of(*message) for message in found.messages)
            text = told_in_markdown(one.title, lines).encode(errors="replace")
            return _file(text, "text/markdown", "conversation.md")
        told = told_in_json(one.title, found.messages, found.others)
        # Half characters as JSON escapes them.
        text = told.encode(errors="backslashreplace")
        return _file(text, "application/json", "conversation.json")


def _file(text: bytes, media_type: str, name: str) -> Response:
    disposition = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(text, media_type=media_type, headers=disposition)
