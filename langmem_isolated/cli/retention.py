"""`retention` and `hold`: how long memory is kept, for operators."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from langmem_isolated.cli.examples import shown
from langmem_isolated.cli.options import (
    DEFAULT_DATABASE,
    DatabaseOption,
    JsonOption,
    KeyStoreOption,
    ProjectOption,
    UserOption,
)
from langmem_isolated.cli.terminal import (
    as_usage,
    cell,
    minute,
    print_json,
    print_table,
    table,
)

if TYPE_CHECKING:
    from langmem_isolated.lifecycle import Hold, Policy

KindArgument = Annotated[
    str,
    typer.Argument(help="message, session, thread, checkpoint, item, document, entry or receipt."),
]
InModule = Annotated[str | None, typer.Option("--module", help="Only in this module.")]
InChannel = Annotated[str | None, typer.Option("--channel", help="Only messages of this channel.")]
OfUser = Annotated[str | None, typer.Option("--user", help="Only of this user.")]
AgeOption = Annotated[
    int | None, typer.Option("--days", min=1, help="What is so many days old goes.")
]
IdleOption = Annotated[
    int | None,
    typer.Option("--idle-days", min=1, help="What nothing was done to for so many days goes."),
]
LatestOption = Annotated[
    int | None, typer.Option("--keep-latest", min=1, help="So many of the newest stay.")
]

retention = typer.Typer(
    help="How long memory is kept: list, keep and remove policies.",
    no_args_is_help=True,
    epilog=shown("retention list", "retention keep message --module tutor --days 90"),
)
hold = typer.Typer(
    help="Legal hold: nothing of a user's memory is swept, cleared or erased.",
    no_args_is_help=True,
    epilog=shown("hold list", "hold release --user ann"),
)


@retention.command("list", epilog=shown("retention list", "retention list --json"))
def list_policies(
    *,
    as_json: JsonOption = False,
    database: DatabaseOption = DEFAULT_DATABASE,
    key_store: KeyStoreOption = None,
) -> None:
    """List the policies of all projects and users. Needs the root key."""
    from langmem_isolated.cli.databases import existing_memory

    with existing_memory(database, key_store) as memory:
        found = memory.retention.list()
    if as_json:
        print_json([_as_fields(policy) for policy in found])
    elif found:
        headings = "kind", "project", "user", "module", "channel", "age", "idle", "keep latest"
        listed = table(*headings)
        for policy in found:
            listed.add_row(*(cell("" if value is None else value) for value in _row(policy)))
        print_table(listed)
    else:
        typer.echo("There are no policies: what has no expiry of its own is kept for ever.")


def _row(policy: "Policy") -> tuple[object, ...]:
    where = policy.project_id, policy.user_id, policy.module_id, policy.channel
    return policy.kind, *where, policy.age, policy.idle, policy.keep_latest


def _as_fields(policy: "Policy") -> dict[str, object]:
    spans = {"age": policy.age, "idle": policy.idle}
    return {
        **{
            n: getattr(policy, n) for n in ("kind", "project_id", "user_id", "module_id", "channel")
        },
        **{f"{name}_seconds": span and span.total_seconds() for name, span in spans.items()},
        "keep_latest": policy.keep_latest,
    }


@retention.command(
    "keep",
    epilog=shown(
        "retention keep message --module tutor --days 90",
        "retention keep checkpoint --keep-latest 5",
    ),
)
def keep(
    kind: KindArgument,
    *,
    days: AgeOption = None,
    idle_days: IdleOption = None,
    keep_latest: LatestOption = None,
    module: InModule = None,
    channel: InChannel = None,
    user: OfUser = None,
    project: ProjectOption = "default",
    database: DatabaseOption = DEFAULT_DATABASE,
    key_store: KeyStoreOption = None,
) -> None:
    """Keep memory of a kind for so long; the next sweep removes the rest. Needs the root key."""
    from datetime import timedelta

    from langmem_isolated.cli.databases import existing_memory

    idle = None if idle_days is None else timedelta(days=idle_days)
    with existing_memory(database, key_store) as memory, as_usage():
        memory.retention.keep(
            kind, module_id=module, channel=channel, user_id=user, project_id=project,
            days=days, idle=idle, keep_latest=keep_latest,
        )  # fmt: skip
    typer.echo("Kept. `langmem-isolated sweep --dry-run` says what it is about.")


@retention.command("remove", epilog=shown("retention remove message --module tutor"))
def remove(
    kind: KindArgument,
    *,
    module: InModule = None,
    channel: InChannel = None,
    user: OfUser = None,
    project: ProjectOption = "default",
    database: DatabaseOption = DEFAULT_DATABASE,
    key_store: KeyStoreOption = None,
) -> None:
    """End the policy of this very place. Needs the root key."""
    from langmem_isolated.cli.databases import existing_memory

    with existing_memory(database, key_store) as memory, as_usage():
        memory.retention.remove(
            kind, module_id=module, channel=channel, user_id=user, project_id=project
        )
    typer.echo("Removed.")


@hold.command(
    "add", epilog=shown('hold add --user ann --reason "case 7" --by counsel --until 2030-01-01')
)
def add(
    *,
    user: UserOption,
    reason: Annotated[str, typer.Option("--reason", help="Why.")],
    by: Annotated[str, typer.Option("--by", help="Who ordered it.")],
    until: Annotated[
        datetime | None, typer.Option("--until", help="When it ends by itself, in UTC.")
    ] = None,
    project: ProjectOption = "default",
    database: DatabaseOption = DEFAULT_DATABASE,
    key_store: KeyStoreOption = None,
) -> None:
    """Put a user's memory on legal hold. Needs the root key."""
    from langmem_isolated.cli.databases import existing_memory

    ends = None if until is None else until.replace(tzinfo=UTC)
    with existing_memory(database, key_store) as memory, as_usage():
        memory.retention.hold(user, reason=reason, by=by, until=ends, project_id=project)
    typer.echo("On hold: nothing of this user is swept, cleared or erased.")


@hold.command("release", epilog=shown("hold release --user ann"))
def release(
    *,
    user: UserOption,
    project: ProjectOption = "default",
    database: DatabaseOption = DEFAULT_DATABASE,
    key_store: KeyStoreOption = None,
) -> None:
    """End a user's legal hold. Needs the root key."""
    from langmem_isolated.cli.databases import existing_memory

    with existing_memory(database, key_store) as memory:
        memory.retention.release(user, project_id=project)
    typer.echo("Released.")


@hold.command("list", epilog=shown("hold list", "hold list --json"))
def list_holds(
    *,
    as_json: JsonOption = False,
    database: DatabaseOption = DEFAULT_DATABASE,
    key_store: KeyStoreOption = None,
) -> None:
    """List the legal holds of all projects. Needs the root key."""
    from langmem_isolated.cli.databases import existing_memory

    with existing_memory(database, key_store) as memory:
        found = memory.retention.holds()
    if as_json:
        names = ("user_id", "project_id", "reason", "by", "since", "until")
        print_json([{name: getattr(one, name) for name in names} for one in found])
    elif found:
        _print_holds(found)
    else:
        typer.echo("Nobody is on legal hold.")


def _print_holds(found: "list[Hold]") -> None:
    listed = table("user", "project", "reason", "by", "since, UTC", "until, UTC")
    for one in found:
        names = (cell(text) for text in (one.user_id, one.project_id, one.reason, one.by))
        listed.add_row(*names, minute(one.since), minute(one.until) if one.until else "")
    print_table(listed)
