"""Serves operators on the command line."""

import json
import os
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Annotated, Any, NamedTuple
from urllib.parse import unquote, urlsplit

import typer
from langchain_core.messages import BaseMessage
from rich.console import Console
from typer.core import TyperGroup

from langmem_isolated._database import schema
from langmem_isolated._database.database import Database
from langmem_isolated._terminal import cell, one_line, table
from langmem_isolated.errors import (
    DatabaseUnreachable,
    KeyringError,
    LangmemIsolatedError,
    SessionNotFound,
)
from langmem_isolated.memory import DATABASE_VARIABLE, KEY_STORE_VARIABLE, IsolatedMemory
from langmem_isolated.root_keys import ROOT_KEY_VARIABLE, LocalRootKey

DEFAULT_DATABASE = "sqlite:///langmem-isolated.db"


class _OneLineErrors(TyperGroup):
    """Shows an error of ours as one line and ends with status 1; a traceback could hold content."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except LangmemIsolatedError as error:
            typer.echo(f"langmem-isolated: {one_line(str(error))}", err=True)
            raise typer.Exit(1) from None


app = typer.Typer(
    cls=_OneLineErrors,
    help="Memory for LangChain and LangGraph that cannot leak between users.",
    no_args_is_help=True,
    add_completion=False,
    # Its tracebacks show local variables, and those hold messages and keys.
    pretty_exceptions_enable=False,
    pretty_exceptions_show_locals=False,
)
schema_commands = typer.Typer(help="The tables and their version.", no_args_is_help=True)
app.add_typer(schema_commands, name="schema")

DatabaseOption = Annotated[
    str,
    typer.Option(
        "--database",
        envvar=DATABASE_VARIABLE,
        help="URL of the database: sqlite:///file or postgresql://user@host/name.",
    ),
]
KeyStoreOption = Annotated[
    str | None,
    typer.Option(
        "--key-store",
        envvar=KEY_STORE_VARIABLE,
        help="URL of the database that holds the wrapped keys, if it is another one.",
    ),
]
UserOption = Annotated[str, typer.Option("--user", help="The user's id.")]
ModuleOption = Annotated[str, typer.Option("--module", help="The module's id.")]
ProjectOption = Annotated[str, typer.Option("--project", help="The project's id.")]


def main() -> None:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError):
            # A terminal that cannot show a character must not end the command.
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    app()


@app.command()
def keygen(
    file: Annotated[
        Path | None,
        typer.Option("--file", help="Write the key to this new file, for you alone (mode 600)."),
    ] = None,
) -> None:
    """Make a root key: print it, or write it to a file.

    Without --file the key alone is printed, so that
    export LANGMEM_ISOLATED_ROOT_KEY=$(langmem-isolated keygen) works. Keep a copy outside the
    database and its backups: without the root key nothing can be read.
    """
    key = LocalRootKey.generate_text()
    if file is None:
        typer.echo(key)
        return
    _write_new(file, key)
    typer.echo(f"The root key is in the file. Set {ROOT_KEY_VARIABLE}_FILE to its path, and keep a")
    typer.echo("copy apart from the database: without the root key nothing can be read.")


def _write_new(path: Path, key: str) -> None:
    try:
        # O_EXCL: never over a file that is there, and never through a link that waits.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise KeyringError(
            f"The key file cannot be made: {error.strerror}. Nothing was written; a file that "
            "exists is never overwritten."
        ) from None
    try:
        with os.fdopen(descriptor, "w") as stream:
            stream.write(f"{key}\n")
            stream.flush()
            os.fsync(descriptor)
    except OSError as error:
        path.unlink()
        raise KeyringError(
            f"The key file cannot be written: {error.strerror}. It was removed."
        ) from None


@app.command()
def demo(
    database: Annotated[
        str | None,
        typer.Option("--database", help="URL of a database to use; else a temporary SQLite file."),
    ] = None,
    conversations: Annotated[
        Path | None,
        typer.Option(
            "--conversations",
            help="JSON, a list of objects with messages of role and content; or JSON lines with "
            "user_id, module_id, session_id, role and content. Else conversations that come along.",
        ),
    ] = None,
) -> None:
    """Play conversations of several users into one database and show what each of them sees.

    Every claim is checked; the status is 1 if one does not hold.
    """
    from langmem_isolated.demo import run  # noqa: PLC0415 - no other command needs a chain

    if not run(Console(), database, conversations):
        raise typer.Exit(1)


@app.command()
def sessions(
    user: UserOption,
    module: ModuleOption,
    project: ProjectOption = "default",
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most this many.")] = 100,
    database: DatabaseOption = DEFAULT_DATABASE,
    key_store: KeyStoreOption = None,
) -> None:
    """List the chat sessions of one user in one module, newest first. Needs the root key."""
    with _memory(database, key_store) as memory:
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
    Console().print(shown)


@app.command()
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
    with _memory(database, key_store) as memory:
        scope = memory.scope(user_id=user, module_id=module, project_id=project)
        history = scope.chat_history(session)
        count = history.count()
        messages = history.messages if last is None else history.last(last)
        if not messages and session not in (listed.id for listed in scope.sessions(limit=_ALL)):
            raise SessionNotFound
    shown = table("no.", "role", "content")
    for number, message in enumerate(messages, count - len(messages) + 1):
        shown.add_row(str(number), cell(message.type), cell(_content(message)))
    Console().print(shown)


_ALL = 2**31 - 1


def _content(message: BaseMessage) -> str:
    """All that the message says: text as it is, parts and tool calls as JSON."""
    content = message.content
    calls = getattr(message, "tool_calls", None)
    parts = [content] if isinstance(content, str) else [_json(part) for part in content]
    return "\n".join([*filter(None, parts), *map(_json, calls or [])])


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _memory(url: str, key_store: str | None) -> IsolatedMemory:
    """A memory over databases that are there; asking must not make one."""
    for place in filter(None, (url, key_store)):
        _existing(place).close()
    return IsolatedMemory(url, key_store=key_store, auto_upgrade=False)


def _existing(url: str) -> Database:
    database = Database(url, auto_upgrade=False)
    name = database.url.database or ""
    path = unquote(urlsplit(name).path) if name.startswith("file:") else name
    if not database.is_postgres and not Path(path).is_file():
        raise DatabaseUnreachable(
            "There is no database file at the place given, and nothing was made there. "
            f"Give --database or {DATABASE_VARIABLE}."
        )
    return database


@schema_commands.command("upgrade")
def upgrade(database: DatabaseOption = DEFAULT_DATABASE, key_store: KeyStoreOption = None) -> None:
    """Make the tables, or bring them to the version of this package. Needs no root key."""
    for name, url in (("database", database), ("key store", key_store)):
        if url:
            with closing(Database(url)) as opened:
                before, after = opened.upgrade()
            done = f"upgraded from {before}" if before < after else "nothing to do"
            typer.echo(f"{name}: schema version {after}, {done}")


class Finding(NamedTuple):
    """What the doctor found: ``state`` is ``ok``, ``warn`` or ``fail``."""

    check: str
    state: str
    finding: str


@app.command()
def doctor(database: DatabaseOption = DEFAULT_DATABASE, key_store: KeyStoreOption = None) -> None:
    """Check root key, schema, settings and role; the status is 1 if something fails.

    Makes and upgrades nothing.
    """
    findings = list(_examine(database, key_store))
    shown = table("check", "state", "finding")
    for check, state, finding in findings:
        shown.add_row(check, cell(state, _STYLES[state]), cell(one_line(finding)))
    Console().print(shown)
    if any(state == "fail" for _, state, _ in findings):
        raise typer.Exit(1)


_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def _examine(url: str, key_store: str | None) -> Iterator[Finding]:
    findings = [_attempt("root key", _root_key)]
    for name, place in (("database", url), ("key store", key_store)):
        if place:
            findings += _examine_database(name, place)
    yield from findings
    if all(finding.state != "fail" for finding in findings):
        yield _attempt("root key fits", lambda: _fits(url, key_store))


def _attempt(check: str, work: Callable[[], tuple[str, str]]) -> Finding:
    try:
        return Finding(check, *work())
    except LangmemIsolatedError as error:
        return Finding(check, "fail", str(error))


def _root_key() -> tuple[str, str]:
    return "ok", LocalRootKey.from_environment().key_id


def _fits(url: str, key_store: str | None) -> tuple[str, str]:
    with IsolatedMemory(url, key_store=key_store, auto_upgrade=False) as memory:
        if memory._keyring.check():
            return "ok", "it opens the keys of this database"
    return "warn", "there are no keys yet: nothing was ever stored"


def _examine_database(name: str, url: str) -> Iterator[Finding]:
    try:
        database = _existing(url)
    except LangmemIsolatedError as error:
        yield Finding(name, "fail", str(error))
        return
    with closing(database):
        version = _attempt(f"{name}: schema", lambda: _version(database))
        yield version
        if version.state == "fail":
            return
        examine = _examine_role if database.is_postgres else _examine_settings
        for check, state, finding in database.inspect(lambda c: list(examine(c))):
            yield Finding(f"{name}: {check}", state, finding)


def _version(database: Database) -> tuple[str, str]:
    found = database.inspect(schema.version_of)
    schema.check_version(found)
    return "ok", f"version {found}"


# What every connection of ours sets, and what it costs where that has no effect.
_SQLITE_SETTINGS: dict[str, tuple[object, str, str]] = {
    "journal_mode": ("wal", "fail", "readers and writers wait for each other"),
    "synchronous": (2, "warn", "the last commits may go with the power"),
    "secure_delete": (1, "fail", "deleted records linger in the file"),
    "foreign_keys": (1, "fail", "records may outlive their scope"),
    "trusted_schema": (0, "warn", "a manipulated schema may run functions"),
}


def _examine_settings(connection: Any) -> Iterator[Finding]:
    yield Finding("SQLite", "ok", f"version {sqlite3.sqlite_version}")
    for name, (wanted, otherwise, cost) in _SQLITE_SETTINGS.items():
        found = connection.exec_driver_sql(f"PRAGMA {name}").scalar()
        if found == wanted:
            yield Finding(name, "ok", str(found))
        else:
            yield Finding(name, otherwise, f"{found}, expected {wanted}: {cost}")


_POSTGRES_ROLE = """
SELECT rolsuper, rolbypassrls,
    EXISTS (SELECT FROM pg_tables WHERE schemaname = '{schema}' AND tableowner = current_user),
    (SELECT string_agg(c.relname, ', ') FROM pg_class c WHERE c.relkind IN ('r', 'p')
        AND c.relnamespace = '{schema}'::regnamespace AND NOT (
            has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'INSERT')
            AND has_table_privilege(c.oid, 'UPDATE') AND has_table_privilege(c.oid, 'DELETE')))
FROM pg_roles WHERE rolname = current_user
"""
_POSTGRES_SETTINGS = {
    "fsync": "what was acknowledged is lost when the machine stops",
    "synchronous_commit": "the last commits are lost when the server stops",
    "full_page_writes": "pages are damaged when the machine stops",
}


def _examine_role(connection: Any) -> Iterator[Finding]:
    query = _POSTGRES_ROLE.format(schema=schema.POSTGRES_SCHEMA)
    superuser, bypasses, owns, lacks = connection.exec_driver_sql(query).one()
    limits = "row-level security does not bind it"
    yield _role("superuser", superuser, f"{limits}; serve with a role of its own")
    yield _role("bypassrls", bypasses, limits)
    yield _role("owner", owns, "it may change and drop the tables; another may own them")
    state = "fail" if lacks else "ok"
    yield Finding(
        "privileges", state, f"lacks some on {lacks}" if lacks else "reads and writes all"
    )
    for name, cost in _POSTGRES_SETTINGS.items():
        value = connection.exec_driver_sql(f"SHOW {name}").scalar()
        yield Finding(name, *(("warn", f"off: {cost}") if value == "off" else ("ok", value)))


def _role(attribute: str, has: bool, cost: str) -> Finding:
    return Finding(f"role is {attribute}", *(("warn", f"yes: {cost}") if has else ("ok", "no")))
