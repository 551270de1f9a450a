"""`sessions`, `session` and `show`: list chat sessions, change one, print its messages."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from langmem_isolated.cli.containers import add_change, add_rename, marks
from langmem_isolated.cli.examples import shown
from langmem_isolated.cli.options import (
    DEFAULT_DATABASE,
    ArchivedOption,
    BeforeOption,
    DatabaseOption,
    JsonOption,
    KeyStoreOption,
    LimitOption,
    ModuleOption,
    ProjectOption,
    SearchOption,
    UserOption,
)
from langmem_isolated.cli.reasons import MinutesOption, ReasonOption, Why, permitted
from langmem_isolated.cli.terminal import (
    DAMAGED,
    cell,
    minute,
    print_json,
    print_table,
    second,
    table,
)
from langmem_isolated.errors import LangmemIsolatedError, SessionNotFound

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage

    from langmem_isolated import ScopedMemory
    from langmem_isolated._adapters.timed_messages import TimedMessage
    from langmem_isolated.sessions import Session

_FIELDS = (
    *("id", "title", "channel", "messages", "size", "created", "last_activity", "expires"),
    *("pinned", "archived", "closed", "damaged"),
)

commands = typer.Typer(
    help="Rename, close, archive, pin or delete a chat session.",
    no_args_is_help=True,
    epilog=shown("session rename monday Fractions --user ann --module tutor"),
)
add_rename(commands, "session", lambda scope, name, title: scope.sessions.rename(name, title))
for _verb, _done, _change in (
    ("close", "closed", lambda scope, name: scope.sessions.close(name)),
    ("reopen", "reopened", lambda scope, name: scope.sessions.reopen(name)),
    ("archive", "archived", lambda scope, name: scope.sessions.archive(name)),
    ("unarchive", "unarchived", lambda scope, name: scope.sessions.unarchive(name)),
    ("pin", "pinned", lambda scope, name: scope.sessions.pin(name)),
    ("unpin", "unpinned", lambda scope, name: scope.sessions.unpin(name)),
    ("delete", "deleted", lambda scope, name: scope.sessions.delete(name)),
):
    add_change(commands, "session", _verb, _done, _change)


class _NotShown(LangmemIsolatedError):
    """There is nothing that `show` could print."""

    def __init__(self, *, is_thread: bool) -> None:
        super().__init__(
            "This scope has no session of that id. Nothing was read. "
            + (
                "A LangGraph thread has it, and threads are not shown: `langmem-isolated threads` "
                "lists them, graph.get_state(config) reads one."
                if is_thread
                else "Expected one that `langmem-isolated sessions` lists."
            )
        )


def sessions(
    *,
    user: UserOption,
    module: ModuleOption,
    project: ProjectOption = "default",
    limit: LimitOption = 100,
    before: BeforeOption = None,
    search: SearchOption = None,
    archived: ArchivedOption = False,
    reason: ReasonOption = None,
    minutes: MinutesOption = None,
    as_json: JsonOption = False,
    database: DatabaseOption = DEFAULT_DATABASE,
    key_store: KeyStoreOption = None,
) -> None:
    """List the chat sessions of one user in one module, newest first. Needs the root key.

    Pinned ones come first.
    """
    from langmem_isolated.cli.databases import existing_memory

    why: Why = {"reason": reason, "minutes": minutes}
    with (
        existing_memory(database, key_store) as memory,
        permitted(memory, "sessions", user, project, module=module, **why),
    ):
        scope = memory.scope(user_id=user, module_id=module, project_id=project)
        last = None if before is None else scope.sessions.get(before)
        listed = scope.sessions(limit=limit, before=last, archived=archived, search=search)
    if as_json:
        print_json([{name: getattr(session, name) for name in _FIELDS} for session in listed])
    elif listed:
        _print_sessions(listed)
    elif before or search or archived:
        typer.echo("This scope has no such sessions.")
    else:
        typer.echo(
            "This scope has no sessions. LangGraph's threads: langmem-isolated threads; the user's "
            "modules: langmem-isolated modules."
        )


def _print_sessions(listed: "list[Session]") -> None:
    headings = ("session", "title", "channel", "messages", "bytes", "created", "last, UTC")
    is_marked = any(map(marks, listed))
    rows = table(*headings, *(["is"] * is_marked))
    for session in listed:
        name = DAMAGED if session.damaged else session.id
        names = (cell(text or "") for text in (name, session.title, session.channel))
        numbers = (f"{number:,}" for number in (session.messages, session.size))
        moments = map(minute, (session.created, session.last_activity))
        rows.add_row(*names, *numbers, *moments, *([marks(session)] * is_marked))
    print_table(rows)


def show(
    session: Annotated[
        str, typer.Argument(help="The session's id. Write -- before one that begins with a dash.")
    ],
    *,
    user: UserOption,
    module: ModuleOption,
    project: ProjectOption = "default",
    last: Annotated[
        int | None, typer.Option("--last", min=1, help="Only the newest messages, this many.")
    ] = None,
    reason: ReasonOption = None,
    minutes: MinutesOption = None,
    as_json: JsonOption = False,
    database: DatabaseOption = DEFAULT_DATABASE,
    key_store: KeyStoreOption = None,
) -> None:
    """Print the messages of one session of one user in one module. Needs the root key."""
    from langmem_isolated.cli.databases import existing_memory

    why: Why = {"reason": reason, "minutes": minutes}
    with (
        existing_memory(database, key_store) as memory,
        permitted(memory, "show", user, project, module=module, **why),
    ):
        scope = memory.scope(user_id=user, module_id=module, project_id=project)
        said = scope.chat_history(session).timed(last)
        if not said:
            _expect(scope, session)
    if as_json:
        print_json([_as_fields(line) for line in said])
    else:
        _print_messages(said)


def _expect(scope: "ScopedMemory", session: str) -> None:
    """Refuse the id of a session that is not there, and say where a thread of this id is shown."""
    try:
        scope.sessions.get(session)
    except SessionNotFound:
        threads = scope.checkpointer().threads(archived=None)
        raise _NotShown(is_thread=session in (thread.id for thread in threads)) from None


def _print_messages(said: "list[TimedMessage]") -> None:
    rows = table("no.", "time, UTC", "role", "content")
    for number, message, moment, _ in said:
        rows.add_row(str(number), second(moment), cell(message.type), cell(_content(message)))
    print_table(rows)


def _as_fields(line: "TimedMessage") -> dict[str, object]:
    message = line.message
    return {
        "number": line.number,
        "time": line.said_at,
        "channel": line.channel,
        "role": message.type,
        "id": message.id,
        "content": message.content,
        "tool_calls": getattr(message, "tool_calls", []),
    }


def _content(message: "BaseMessage") -> str:
    """All that the message says: text as it is, parts and tool calls as JSON."""
    content = message.content
    calls = getattr(message, "tool_calls", None)
    parts = [content] if isinstance(content, str) else [_json(part) for part in content]
    return "\n".join([*filter(None, parts), *map(_json, calls or [])])


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
