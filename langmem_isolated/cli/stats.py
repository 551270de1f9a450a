"""`stats` and `digest`: how much there is, and by which digest tables and logs know a scope."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Annotated

import typer

from langmem_isolated.cli.options import (
    DEFAULT_DATABASE,
    DatabaseOption,
    JsonOption,
    KeyStoreOption,
    ModuleOption,
    ProjectOption,
    UserOption,
)
from langmem_isolated.cli.terminal import cell, minute, print_json, print_table, table
from langmem_isolated.errors import LangmemIsolatedError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.text import Text

    from langmem_isolated.lifecycle import Day, ModuleStats, Stats, Tokens, Totals
    from langmem_isolated.memory import IsolatedMemory

_COLUMNS = ("sessions", "messages", "threads", "checkpoints", "documents", "items")


class _NotCounted(LangmemIsolatedError):
    """A user's memory is asked for, and not in which module."""

    def __init__(self) -> None:
        super().__init__(
            "--user was given without --module. Nothing was counted. Give both; "
            "`langmem-isolated modules` lists a user's modules."
        )


def stats(
    *,
    user: Annotated[str | None, typer.Option("--user", help="The user's id.")] = None,
    module: Annotated[str | None, typer.Option("--module", help="The module's id.")] = None,
    project: Annotated[str | None, typer.Option("--project", help="The project's id.")] = None,
    days: Annotated[int, typer.Option("--days", min=1, help="Of how many days.")] = 30,
    largest: Annotated[
        int, typer.Option("--largest", min=0, help="So many of the largest scopes.")
    ] = 0,
    as_json: JsonOption = False,
    database: DatabaseOption = DEFAULT_DATABASE,
    key_store: KeyStoreOption = None,
) -> None:
    """Tell how much there is, by module and day: of all, or of one. Needs the root key.

    Users are counted and never named. Nothing is opened but the names of projects, modules and
    models.
    """
    from langmem_isolated.cli.databases import existing_memory

    if user is not None and module is None:
        raise _NotCounted
    with existing_memory(database, key_store) as memory:
        found = _found(memory, user, module, project, days, largest)
    if as_json:
        print_json(found.as_dict())
        return
    _print_totals(found)
    _print_largest(found)
    _print_days(found.days)
    _print_tokens(found.tokens)


def _found(
    memory: IsolatedMemory,
    user: str | None,
    module: str | None,
    project: str | None,
    days: int,
    largest: int,
) -> Stats:
    if user is None or module is None:
        return memory.stats(project_id=project, module_id=module, days=days, largest=largest)
    scope = memory.scope(user_id=user, module_id=module, project_id=project or "default")
    return scope.stats(days=days)


def _print_totals(found: Stats) -> None:
    names = _counted(found)
    shown = table("project", "module", *names, "bytes", "last, UTC")
    for one in found.modules:
        shown.add_row(*_module(one), *_numbers(one.totals, names))
    shown.add_row(cell("all"), cell(""), *_numbers(found.total, names))
    print_table(shown)


def _counted(found: Stats) -> list[str]:
    """The columns with something in them: all of them are wider than a terminal of 80."""
    return ["users", *(name for name in _COLUMNS if getattr(found.total, name))]


def _module(one: ModuleStats | Tokens) -> tuple[Text, Text]:
    return cell(one.project), cell(one.module or "")


def _numbers(totals: Totals, names: Iterable[str]) -> Iterable[str]:
    for name in (*names, "bytes"):
        yield f"{getattr(totals, name):,}"
    yield minute(totals.last_activity) if totals.last_activity else ""


def _print_largest(found: Stats) -> None:
    if found.largest:
        names = _counted(found)[1:]
        shown = table("scope", *names, "bytes", "last, UTC")
        for one in found.largest:
            shown.add_row(cell(one.digest), *_numbers(one.totals, names))
        print_table(shown)


def _print_days(days: Iterable[Day]) -> None:
    names = ("active_users", "sessions", "threads", "messages", "bytes")
    rows = {day.day: [getattr(day, name) for name in names] for day in days}
    if any(map(any, rows.values())):
        shown = table("day, UTC", "active users", *names[1:])
        for day, numbers in rows.items():
            if any(numbers):
                shown.add_row(str(day), *(f"{number:,}" for number in numbers))
        print_table(shown)


def _print_tokens(tokens: Iterable[Tokens]) -> None:
    if tokens:
        shown = table("day, UTC", "project", "module", "model", "answers", "input", "output")
        for one in tokens:
            numbers = (one.answers, one.input_tokens, one.output_tokens)
            named = (*_module(one), cell(one.model))
            shown.add_row(str(one.day), *named, *(f"{number:,}" for number in numbers))
        print_table(shown)


class _NoDigest(LangmemIsolatedError):
    """Nothing was ever stored, so there is no key that digests could be made with."""

    def __init__(self) -> None:
        super().__init__(
            "Nothing was ever stored in this database: no scope has a digest yet. Give the URL of "
            "the application's: --database."
        )


def digest(
    *,
    user: UserOption,
    module: ModuleOption,
    project: ProjectOption = "default",
    as_json: JsonOption = False,
    database: DatabaseOption = DEFAULT_DATABASE,
    key_store: KeyStoreOption = None,
) -> None:
    """Print by which digest tables and logs know a user's module. Needs the root key.

    As hexadecimal digits, which logs and hex() in SQLite show, and as base64.
    """
    from langmem_isolated.cli.databases import existing_memory

    with existing_memory(database, key_store) as memory:
        found = memory.scope(user_id=user, module_id=module, project_id=project).digest()
    if found is None:
        raise _NoDigest
    forms = {"hex": found, "base64": base64.b64encode(bytes.fromhex(found)).decode()}
    if as_json:
        print_json(forms)
        return
    for name, text in forms.items():
        typer.echo(f"{name:7}{text}")
