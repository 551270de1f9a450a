"""`schema status`, `schema upgrade`: which version the tables have, and the way to the newest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from langmem_isolated.cli.options import (
    DEFAULT_DATABASE,
    DatabaseOption,
    JsonOption,
    KeyStoreOption,
)
from langmem_isolated.cli.terminal import cell, counting, print_json, print_table, pulse, table
from langmem_isolated.errors import BackupElsewhere, LangmemIsolatedError, SchemaTooNew

if TYPE_CHECKING:
    from langmem_isolated._database.database import Database
    from langmem_isolated._database.upgrades.state import SchemaState
    from langmem_isolated._database.upgrades.step import Step

_HAS_MORE = 3
_DATABASE, _KEY_STORE = "database", "key store"


class BackupWanted(LangmemIsolatedError):
    """An upgrade on PostgreSQL, of which nobody said that there is a backup."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{BackupElsewhere(what)} Then run the upgrade again with --backed-up, or without a "
            "backup with --no-backup."
        )


@dataclass(frozen=True, slots=True)
class _Place:
    """One of the two databases, and how its tables stand."""

    name: str
    database: Database
    state: SchemaState

    @property
    def is_new(self) -> bool:
        """Whether there is nothing yet that could be lost."""
        return self.state.version == 0 and not self.state.others

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        state = self.state
        return {
            "name": self.name,
            "backend": state.backend,
            "version": state.version,
            "newest": state.newest,
            "pending": [_step(one, state.backend) for one in state.pending],
            "size": state.size,
            "tables": [
                {"table": one.name, "rows": one.rows, "size": one.size} for one in state.tables
            ],
            "jobs": state.jobs,
        }


def status(
    *,
    as_json: JsonOption = False,
    database: DatabaseOption = DEFAULT_DATABASE,
    key_store: KeyStoreOption = None,
) -> None:
    """Show the version of the tables, what is pending, and sizes. Needs no root key.

    The status is 0 for the newest version, 3 where an upgrade is pending, and 1 for a database of a
    later version of this package.
    """
    from langmem_isolated.cli.databases import KEY_STORE, existing_database

    existing_database(database).close()
    if key_store:
        existing_database(key_store, given_as=KEY_STORE).close()
    with _places(database, key_store) as places:
        if as_json:
            print_json([one.as_dict() for one in places])
        else:
            for one in places:
                _show_state(one)
    if any(one.state.is_too_new for one in places):
        raise typer.Exit(1)
    if any(one.state.pending for one in places):
        raise typer.Exit(_HAS_MORE)


def upgrade(
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the steps, with --json their SQL; run none.")
    ] = False,
    backup: Annotated[
        Path | None,
        typer.Option("--backup", help="A new file for the copy; otherwise beside the database."),
    ] = None,
    no_backup: Annotated[bool, typer.Option("--no-backup", help="Make no copy first.")] = False,
    backed_up: Annotated[
        bool, typer.Option("--backed-up", help="There is a backup already, made by pg_dump.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: JsonOption = False,
    database: DatabaseOption = DEFAULT_DATABASE,
    key_store: KeyStoreOption = None,
) -> None:
    """Make the tables, or bring them to the version of this package. Needs no root key.

    Stop the application first. A copy is made before (SQLite), then each step is one transaction:
    interrupted, run it again.
    """
    if backup and (no_backup or backed_up):
        raise typer.BadParameter("--backup makes one: leave out --no-backup and --backed-up.")
    with _places(database, key_store) as places:
        for one in places:
            if one.state.is_too_new:
                raise SchemaTooNew(one.state.version, one.state.newest)
        old = [one for one in places if one.state.pending and not one.is_new]
        if dry_run or old:
            _show_plan(places, as_json=as_json and dry_run, is_quiet=as_json)
        if dry_run:
            return
        if old:
            _back_up(old, backup, is_waived=no_backup or backed_up, is_agreed=yes)
        done = [_upgraded(one) for one in places]
    if as_json:
        print_json(done)
        return
    for found in done:
        is_new = found["before"] != found["version"]
        told = f"upgraded from {found['before']}" if is_new else "nothing to do"
        typer.echo(f"{found['name']}: schema version {found['version']}, {told}")


@contextmanager
def _places(url: str, key_store: str | None) -> Iterator[list[_Place]]:
    from langmem_isolated._database.database import Database
    from langmem_isolated._database.upgrades.state import state_of

    opened = [(_DATABASE, Database(url, auto_upgrade=False))]
    if key_store:
        opened.append((_KEY_STORE, Database(key_store, auto_upgrade=False)))
    try:
        yield [_Place(name, one, state_of(one)) for name, one in opened]
    finally:
        for _, one in opened:
            one.close()


def _back_up(
    places: Sequence[_Place], file: Path | None, *, is_waived: bool, is_agreed: bool
) -> None:
    from langmem_isolated._database.upgrades.backup import back_up, default_backup

    for one in places:
        if one.database.is_postgres and not is_waived:
            raise BackupWanted(one.name)
    if not is_agreed:
        _agree(places)
    for one in places if not is_waived else ():
        is_named = file is not None and one.name == _DATABASE
        target = file if is_named else default_backup(one.database, one.state.version)
        assert target is not None
        with pulse("Copying"):
            size = back_up(one.database, target)
        typer.echo(f"{one.name}: {size:,} bytes copied to {target.name}", err=True)


def _agree(places: Sequence[_Place]) -> None:
    if others := sum(one.state.others for one in places if not one.state.version):
        typer.echo(
            f"The file has {others:,} tables of other software. Is it what an import is to read? "
            "Ours had better stand in a new file.",
            err=True,
        )
    typer.confirm("Upgrade? Is the application stopped?", abort=True, err=True)


def _upgraded(place: _Place) -> dict[str, Any]:
    with counting("steps") as progress:
        taken: list[Step] = []

        def told(step: Step) -> None:
            taken.append(step)
            progress(len(taken))

        before, after = place.database.upgrade(told)
    return {"name": place.name, "before": before, "version": after}


def _step(step: Step, backend: str) -> dict[str, Any]:
    return {
        "version": step.version,
        "what": step.what,
        "rewrites_rows": step.rewrites_rows,
        "sql": step.statements(backend),
    }


def _show_plan(places: Sequence[_Place], *, as_json: bool, is_quiet: bool) -> None:
    if as_json:
        print_json([one.as_dict() for one in places])
    if is_quiet:
        return
    for one in places:
        _show_version(one)
        if one.state.pending:
            _show_steps(one)


def _show_state(place: _Place) -> None:
    _show_version(place)
    if place.state.pending:
        _show_steps(place)
    shown = table("table", "rows", "bytes")
    for one in place.state.tables:
        shown.add_row(cell(one.name), _number(one.rows), _number(one.size))
    if place.state.tables:
        print_table(shown)
    for what, count in place.state.jobs.items():
        if count != 0:
            typer.echo(f"{what}: {_number(count)}")


def _show_version(place: _Place) -> None:
    state = place.state
    told = "nothing to do" if not state.pending else f"{len(state.pending)} steps to {state.newest}"
    if state.is_too_new:
        told = f"later than this package, which knows up to {state.newest}"
    typer.echo(
        f"{place.name}: {state.backend}, schema version {state.version}, {told}, "
        f"{state.size:,} bytes"
    )


def _show_steps(place: _Place) -> None:
    shown = table("to", "what it does", "statements", "rewrites rows")
    for one in place.state.pending:
        count = len(one.statements(place.state.backend))
        rewrites = "yes" if one.rewrites_rows else "no"
        shown.add_row(str(one.version), cell(one.what), str(count), rewrites)
    print_table(shown)


def _number(count: int | None) -> str:
    return "" if count is None else f"{count:,}"
