"""`restore`: puts a backup in the place of a database, and forgets again who was erased since."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated.cli.options import (
    DEFAULT_DATABASE,
    DatabaseOption,
    ErasureLogOption,
    JsonOption,
    KeyStoreOption,
)
from langmem_isolated.cli.terminal import counting, print_counts, print_json
from langmem_isolated.errors import ErasureLogRefused, RestoreRefused

if TYPE_CHECKING:
    from langmem_isolated.lifecycle import Restored
    from langmem_isolated.root_keys import RootKey


_FORMER_KEY = (
    "What a former root key wrapped needs it yet. Wrap it anew before the application starts: with "
    "the former key in the environment, langmem-isolated rotate-root-key --new-key-file FILE (or "
    "--new-root-key NAME)."
)
_STORES = (
    "They had written to third-party vector stores, which were not asked. Where such a store was "
    "put back from a copy, too: copy the backup to its place by hand instead, make the store known "
    "by memory.erasure.include(store), and call memory.reapply_erasures()."
)


def restore(
    file: Annotated[
        Path | None,
        typer.Argument(help="The backup. Leave it out where the database was put back already."),
    ] = None,
    *,
    key_store_backup: Annotated[
        Path | None,
        typer.Option("--key-store-backup", help="A backup of the key store, to be put back too."),
    ] = None,
    accept_key_file: Annotated[
        list[Path] | None,
        typer.Option(
            "--accept-key-file", help="A former root key, for an older backup; rotate it again."
        ),
    ] = None,
    accept_root_key: Annotated[
        list[str] | None,
        typer.Option("--accept-root-key", help="The same by its name in a key service or token."),
    ] = None,
    without_erasure_log: Annotated[
        bool,
        typer.Option(
            "--without-erasure-log", help="Go on where nothing tells who was erased since."
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Replace a database without asking.")] = False,
    as_json: JsonOption = False,
    database: DatabaseOption = DEFAULT_DATABASE,
    key_store: KeyStoreOption = None,
    erasure_log: ErasureLogOption = None,
) -> None:
    """Put a backup in the place of a SQLite database, without who was erased since.

    Stop every process that uses it first. What is replaced is kept beside it. On PostgreSQL run
    pg_restore, and then this without FILE. Needs the root key.
    """
    from langmem_isolated.lifecycle import restore_backup, would_replace
    from langmem_isolated.root_keys import LocalRootKey, named_root_key

    accepted: list[RootKey] = [LocalRootKey.from_file(path) for path in accept_key_file or ()]
    accepted += [named_root_key(name) for name in accept_root_key or ()]
    if file is None:
        if key_store_backup is not None:
            raise typer.BadParameter("--key-store-backup is for a restore of FILE.")
        is_told = key_store is not None or erasure_log is not None or without_erasure_log
        _reapply(database, key_store, erasure_log, accepted, is_told=is_told, as_json=as_json)
        return
    if not yes and would_replace(file, database, key_store, key_store_backup):
        typer.confirm(
            "A database that is there is replaced, and kept. Go on?", abort=True, err=True
        )
    with counting("removed") as progress:
        done = restore_backup(
            file,
            database,
            accepted_root_keys=accepted,
            key_store=key_store,
            key_store_backup=key_store_backup,
            erasure_log=erasure_log,
            replace=True,
            without_tombstones=without_erasure_log,
            progress=progress,
        )
    _print(done, as_json=as_json, has_accepted=bool(accepted))


def _reapply(
    database: str,
    key_store: str | None,
    erasure_log: Path | None,
    accepted: "list[RootKey]",
    *,
    is_told: bool,
    as_json: bool,
) -> None:
    """Erase again in a database that stands in its place already."""
    from langmem_isolated.cli.databases import existing_memory

    if not is_told:
        raise RestoreRefused(
            "Nothing tells who was erased since that backup was made, and they would stay. Give "
            "--erasure-log or --key-store, or say that it is meant: --without-erasure-log."
        )
    if erasure_log is not None and not erasure_log.is_file():
        raise ErasureLogRefused("There is none at the place given.")
    with (
        existing_memory(database, key_store, *accepted, erasure_log=erasure_log) as memory,
        counting("removed") as progress,
    ):
        done = memory.reapply_erasures(progress=progress)
    if as_json:
        print_json(asdict(done))
        return
    typer.echo(f"{done.principals:,} who were erased since the backup were erased again.")
    print_counts(done.counts, nothing="Nothing was left of them.")


def _print(done: "Restored", *, as_json: bool, has_accepted: bool) -> None:
    if as_json:
        print_json(asdict(done))
        return
    typer.echo(f"{done.size:,} bytes are in their place. The root key opens them.")
    if has_accepted:
        typer.echo(_FORMER_KEY)
    if done.had_tombstones_from:
        known = ", ".join(done.had_tombstones_from)
        typer.echo(f"{done.principals_erased:,} who were erased since are forgotten ({known}).")
    else:
        typer.echo("Nobody was forgotten: nothing tells who was erased since the backup was made.")
    print_counts(done.counts, nothing="Nothing of them was in it.")
    if Kind.STORE_NOTE.label in done.counts:
        typer.echo(_STORES)
    for path in done.kept:
        typer.echo(f"{path} is what stood there. Remove it when all is well: it forgets nobody.")
