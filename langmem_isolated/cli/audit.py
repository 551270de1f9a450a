"""`audit` and `anchor`: who did and read what, and the proof that nobody changed it since."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from langmem_isolated.cli.examples import shown
from langmem_isolated.cli.options import (
    DEFAULT_DATABASE,
    DatabaseOption,
    JsonOption,
    KeyStoreOption,
    LimitOption,
    ProjectOption,
    UserOption,
)
from langmem_isolated.cli.terminal import (
    as_usage,
    cell,
    counting,
    print_json,
    print_table,
    second,
    table,
)

if TYPE_CHECKING:
    from langmem_isolated.lifecycle import AnchorsChecked, AuditEntry, TimeStamps

audit = typer.Typer(
    help="Who did and read what, and why.",
    no_args_is_help=True,
    epilog=shown("audit on", "audit entries --user ann"),
)
anchor = typer.Typer(
    help="Compare the audit log with anchors that are kept elsewhere.",
    no_args_is_help=True,
    epilog=shown("anchor check anchors.jsonl"),
)
_WHEN = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]
ReasonWhyOption = Annotated[str, typer.Option("--reason", help="Why; the user can see it.")]
AnchorsArgument = Annotated[Path, typer.Argument(help="A file of anchors, a line each.")]


@audit.command("status", epilog=shown("audit status --json"))
def status(
    *,
    as_json: JsonOption = False,
    database: DatabaseOption = DEFAULT_DATABASE,
    key_store: KeyStoreOption = None,
) -> None:
    """Say whether auditing is on, and how many entries there are. Needs the root key."""
    from langmem_isolated.cli.databases import existing_memory

    with existing_memory(database, key_store) as memory:
        found = memory.audit.status()
    if as_json:
        print_json(asdict(found))
        return
    kept = "for ever" if found.audit_days is None else f"{found.audit_days:,} days"
    typer.echo(
        f"Auditing is {'on' if found.is_on else 'off'}: {found.entries:,} entries, kept {kept}; "
        f"{found.removed:,} were removed when their time was over."
    )


@audit.command("on", epilog=shown("audit on", "audit on --days 400 --reads"))
def switch_on(
    *,
    recalls: Annotated[
        bool, typer.Option(help="Note what is recalled into prompts, within a second.")
    ] = True,
    reads: Annotated[
        bool, typer.Option(help="Note what applications read for users, within a second.")
    ] = False,
    days: Annotated[
        int | None, typer.Option("--days", min=1, help="How long entries stay; by default all do.")
    ] = None,
    database: DatabaseOption = DEFAULT_DATABASE,
    key_store: KeyStoreOption = None,
) -> None:
    """Switch auditing on for every process that opens the database. Needs the root key."""
    from langmem_isolated import AuditOptions
    from langmem_isolated.cli.databases import existing_memory

    with existing_memory(database, key_store) as memory:
        memory.audit.switch_on(AuditOptions(recalls=recalls, reads=reads, audit_days=days))
    typer.echo("Auditing is on. Other processes know it within a minute.")


@audit.command("off", epilog=shown('audit off --reason "Moved to another system"'))
def switch_off(
    *,
    reason: Annotated[str, typer.Option("--reason", help="Why; it stays in the log.")],
    database: DatabaseOption = DEFAULT_DATABASE,
    key_store: KeyStoreOption = None,
) -> None:
    """Switch auditing off; this is an entry, and what is there stays. Needs the root key."""
    from langmem_isolated.cli.databases import existing_memory

    with existing_memory(database, key_store) as memory, as_usage():
        memory.audit.switch_off(reason=reason)
    typer.echo("Auditing is off. What was noted is there yet.")


@audit.command(
    "entries", epilog=shown("audit entries --limit 20", "audit entries --user ann --json")
)
def entries(
    *,
    user: Annotated[str | None, typer.Option("--user", help="Only about this user.")] = None,
    project: ProjectOption = "default",
    limit: LimitOption = 100,
    before: Annotated[
        datetime | None, typer.Option("--before", formats=_WHEN, help="Only earlier ones, UTC.")
    ] = None,
    since: Annotated[
        datetime | None, typer.Option("--since", formats=_WHEN, help="Only later ones, UTC.")
    ] = None,
    as_json: JsonOption = False,
    database: DatabaseOption = DEFAULT_DATABASE,
    key_store: KeyStoreOption = None,
) -> None:
    """List what was done and read, the newest first. Needs the root key.

    Of who was erased there are times and digests, and nothing that was said of them.
    """
    from langmem_isolated.cli.databases import existing_memory

    with existing_memory(database, key_store) as memory:
        found = memory.audit.entries(
            user_id=user, project_id=project, limit=limit, before=_utc(before), since=_utc(since)
        )
    if as_json:
        print_json([asdict(entry) for entry in found])
    elif found:
        _print_entries(found)
    else:
        typer.echo("There are no such entries.")


def _utc(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.replace(tzinfo=UTC)


def _print_entries(found: list[AuditEntry]) -> None:
    rows = table("time, UTC", "operation", "outcome", "who", "module", "count", "reason", "subject")
    for entry in found:
        told = (entry.operation or "(erased)", entry.outcome, entry.actor, entry.module_id)
        count = "" if entry.count is None else f"{entry.count:,}"
        subject = (entry.subject or "")[:8]
        cells = (cell(text or "") for text in (*told, count, entry.reason, subject))
        rows.add_row(second(entry.time), *cells)
    print_table(rows)


@audit.command(
    "break-glass", epilog=shown('audit break-glass --user ann --reason "Ticket 12" --minutes 15')
)
def break_glass(
    *,
    user: UserOption,
    reason: ReasonWhyOption,
    minutes: Annotated[
        int, typer.Option("--minutes", min=1, max=24 * 60, help="For how long.")
    ] = 15,
    project: ProjectOption = "default",
    as_json: JsonOption = False,
    database: DatabaseOption = DEFAULT_DATABASE,
    key_store: KeyStoreOption = None,
) -> None:
    """Permit yourself to read what a user has, for a while; the user can see it.

    Then `show`, `sessions`, `threads`, `profile`, `export`, `merge` and `grants list` need no
    --reason for this user. Needs the root key.
    """
    from langmem_isolated.cli.databases import existing_memory

    with existing_memory(database, key_store) as memory, as_usage():
        found = memory.audit.break_glass(user, reason=reason, minutes=minutes, project_id=project)
    if as_json:
        print_json({"actor": found.actor, "reason": found.reason, "until": found.until})
    else:
        typer.echo(f"Permitted until {second(found.until)} UTC. It is an entry that the user sees.")


@audit.command("verify", epilog=shown("audit verify --json"))
def verify(
    *,
    as_json: JsonOption = False,
    database: DatabaseOption = DEFAULT_DATABASE,
    key_store: KeyStoreOption = None,
) -> None:
    """Verify that every entry follows the one before it. Needs the root key."""
    from langmem_isolated.cli.databases import existing_memory

    with existing_memory(database, key_store) as memory, counting("verified") as progress:
        found = memory.audit.verify(progress=progress)
    if as_json:
        print_json(asdict(found))
    else:
        typer.echo(
            f"{found.entries:,} entries follow one another. Whether the whole log was set back, "
            "anchors say: anchor check."
        )


@audit.command(
    "anchor",
    epilog=shown(
        "audit anchor anchors.jsonl",
        "audit anchor anchors.jsonl --time-stamp https://tsa.example/tsr",
    ),
)
def take_anchor(
    file: AnchorsArgument,
    *,
    time_stamp: Annotated[
        str | None,
        typer.Option("--time-stamp", help="Address of an authority of RFC 3161 that stamps it."),
    ] = None,
    as_json: JsonOption = False,
    database: DatabaseOption = DEFAULT_DATABASE,
    key_store: KeyStoreOption = None,
) -> None:
    """Append the ends of the audit log to a file that is kept elsewhere. Needs the root key."""
    from langmem_isolated.cli.databases import existing_memory
    from langmem_isolated.lifecycle import AnchorFile, TimeStamps

    keep = AnchorFile(file)
    with existing_memory(database, key_store) as memory, as_usage():
        taken = memory.audit.anchor(keep if time_stamp is None else TimeStamps(time_stamp, keep))
    if as_json:
        print_json({"entries": taken.entries, "time": taken.time})
    else:
        typer.echo(f"{taken.entries:,} entries are anchored.")


@anchor.command(
    "check",
    epilog=shown("anchor check anchors.jsonl", "anchor check anchors.jsonl --root tsa.pem --json"),
)
def check(
    file: AnchorsArgument,
    *,
    root: Annotated[
        list[Path] | None,
        typer.Option("--root", help="Certificates, PEM, under which every anchor is stamped."),
    ] = None,
    as_json: JsonOption = False,
    database: DatabaseOption = DEFAULT_DATABASE,
    key_store: KeyStoreOption = None,
) -> None:
    """Find out whether the audit log was cut, written anew or set back. Needs the root key.

    Verifies the whole log, and compares it with each anchor of the file.
    """
    from langmem_isolated.cli.databases import existing_memory
    from langmem_isolated.lifecycle import AnchorFile

    anchors = AnchorFile(file).read()
    if not anchors:
        raise typer.BadParameter("The file has no anchor, or is not there.")
    with existing_memory(database, key_store) as memory, counting("verified") as progress:
        found = memory.audit.check_anchors(anchors, stamps=_stamps(root))
        memory.audit.verify(progress=progress)
    if as_json:
        print_json(asdict(found))
    else:
        typer.echo(_told(found))


def _stamps(roots: list[Path] | None) -> TimeStamps | None:
    from langmem_isolated.lifecycle import TimeStamps

    if not roots:
        return None
    try:
        return TimeStamps(roots=[root.read_bytes() for root in roots])
    except OSError as error:
        raise typer.BadParameter(f"--root cannot be read: {error.strerror}.") from None


def _told(found: AnchorsChecked) -> str:
    told = f"The audit log is one with {found.anchors:,} anchors"
    if found.newest is not None:
        told += f", the newest of {second(found.newest)} UTC"
    if found.stamped:
        told += f"; {found.stamped:,} have a time stamp that fits"
    if found.over:
        told += f". Of {found.over:,} ends the entries were removed since"
    return f"{told}."
