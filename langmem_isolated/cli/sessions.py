"""`sessions` and `show`: list chat sessions, print the messages of one."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from langmem_isolated.cli.options import (
    DEFAULT_DATABASE,
    DatabaseOption,
    KeyStoreOption,
    ModuleOption,
    ProjectOption,
    UserOption,
)
from langmem_isolated.cli.terminal import cell, print_table, table
from langmem_isolated.errors import SessionNotFound

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage


def sessions(
    user: UserOption,
    module: ModuleOption,
    project: ProjectOption = "default",
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most this many.")] = 100,
    database: DatabaseOption = DEFAULT_DATABASE,
    key_store: KeyStoreOption = None,
) -> None:
    """List the chat sessions of one user in one module, newest first. Needs the root key."""
    from langmem_isolated.cli.databases import existing_memory

    with existing_memory(database, key_store) as memory:
        scope = memory.scope(user_id=user, module_id=module, project_id=project)
        listed = scope.sessions(limit=limit)
    if not listed:
        typer.echo("This scope has no sessions.")
        return
    shown = table("session", "title", "channel", "messages", "bytes", "created", "last, UTC")
    for session in listed:
        name = "(damaged: it does not open)" if session.damaged else session.id
        names = (cell(text or "") for text in (name, session.title, session.channel))
        numbers = (f"{number:,}" for number in (session.messages, session.size))
        moments = (f"{when:%Y-%m-%d %H:%M}" for when in (session.created, session.last_activity))
        shown.add_row(*names, *numbers, *moments)
    print_table(shown)


def show(
    session: Annotated[
        str, typer.Argument(help="The session's id. Write -- before one that begins with a dash.")
    ],
    user: UserOption,
    module: ModuleOption,
    project: ProjectOption = "default",
    last: Annotated[
        int | None, typer.Option("--last", min=1, help="Only the newest messages, this many.")
    ] = None,
    database: DatabaseOption = DEFAULT_DATABASE,
    key_store: KeyStoreOption = None,
) -> None:
    """Print the messages of one session of one user in one module. Needs the root key."""
    from langmem_isolated._database.statements import NO_LIMIT
    from langmem_isolated.cli.databases import existing_memory

    with existing_memory(database, key_store) as memory:
        scope = memory.scope(user_id=user, module_id=module, project_id=project)
        history = scope.chat_history(session)
        count = history.count()
        messages = history.messages if last is None else history.last(last)
        if not messages and session not in (listed.id for listed in scope.sessions(limit=NO_LIMIT)):
            raise SessionNotFound
    shown = table("no.", "role", "content")
    for number, message in enumerate(messages, count - len(messages) + 1):
        shown.add_row(str(number), cell(message.type), cell(_content(message)))
    print_table(shown)


def _content(message: "BaseMessage") -> str:
    """All that the message says: text as it is, parts and tool calls as JSON."""
    content = message.content
    calls = getattr(message, "tool_calls", None)
    parts = [content] if isinstance(content, str) else [_json(part) for part in content]
    return "\n".join([*filter(None, parts), *map(_json, calls or [])])


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
