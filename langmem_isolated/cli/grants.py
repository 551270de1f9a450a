"""`grants`: what modules of one user let each other read."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

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
from langmem_isolated.cli.reasons import MinutesOption, ReasonOption, Why, permitted
from langmem_isolated.cli.terminal import cell, minute, print_json, print_table, table
from langmem_isolated.errors import ScopeError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from langmem_isolated.lifecycle import Grant

commands = typer.Typer(
    help="What modules of one user let each other read.",
    no_args_is_help=True,
    epilog=shown("grants list --user ann"),
)

FromOption = Annotated[str, typer.Option("--from", help="The module whose memory is read.")]
ToOption = Annotated[str, typer.Option("--to", help="The module that reads it.")]
_UNTIL = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]


def _narrowed(name: str, what: str) -> Any:
    return typer.Option(name, help=f"Only {what}. May be given several times.")


@commands.command("list", epilog=shown("grants list --user ann", "grants list --user ann --json"))
def list_grants(
    *,
    user: UserOption,
    project: ProjectOption = "default",
    reason: ReasonOption = None,
    minutes: MinutesOption = None,
    as_json: JsonOption = False,
    database: DatabaseOption = DEFAULT_DATABASE,
    key_store: KeyStoreOption = None,
) -> None:
    """List the grants of one user that are in force. Needs the root key."""
    from langmem_isolated.cli.databases import existing_memory

    why: Why = {"reason": reason, "minutes": minutes}
    with (
        existing_memory(database, key_store) as memory,
        permitted(memory, "grants_list", user, project, **why),
    ):
        found = memory.grants.list(user_id=user, project_id=project)
    if as_json:
        print_json([_as_fields(grant) for grant in found])
    elif found:
        _print_grants(found)
    else:
        typer.echo("This user has no grants in force in this project: no module reads another's.")


@commands.command(
    "allow",
    epilog=shown(
        "grants allow --user ann --from tutor --to planner --kind message --until 2027-01-31",
        "grants allow --user ann --from tutor --to planner --kind item --namespace facts.school",
    ),
)
def allow(
    *,
    user: UserOption,
    from_module: FromOption,
    to_module: ToOption,
    kind: Annotated[
        list[str],
        typer.Option("--kind", help="message, item, document or profile; may be given repeatedly."),
    ],
    until: Annotated[
        datetime | None,
        typer.Option("--until", formats=_UNTIL, help="When it ends, UTC; by default never."),
    ] = None,
    session: Annotated[list[str] | None, _narrowed("--session", "this session")] = None,
    channel: Annotated[list[str] | None, _narrowed("--channel", "this channel")] = None,
    namespace: Annotated[
        list[str] | None, _narrowed("--namespace", "items below this, labels.with.periods")
    ] = None,
    collection: Annotated[list[str] | None, _narrowed("--collection", "this collection")] = None,
    part: Annotated[
        list[str] | None,
        _narrowed("--part", "facts, interests, attributes or summary of the profile"),
    ] = None,
    attribute: Annotated[list[str] | None, _narrowed("--attribute", "this attribute")] = None,
    project: ProjectOption = "default",
    as_json: JsonOption = False,
    database: DatabaseOption = DEFAULT_DATABASE,
    key_store: KeyStoreOption = None,
) -> None:
    """Let one module of a user read what another has, in place of what was granted before.

    Needs the root key.
    """
    from langmem_isolated.cli.databases import existing_memory

    given: dict[str, Any] = {
        "sessions": session,
        "channels": channel,
        "namespaces": namespace and [tuple(name.split(".")) for name in namespace],
        "collections": collection,
        "parts": part,
        "attributes": attribute,
    }
    grant: dict[str, Any] = {
        "from_module": from_module,
        "to_module": to_module,
        "kinds": kind,
        "fields": {name: found for name, found in given.items() if found},
        "until": until and until.replace(tzinfo=UTC),
    }
    with existing_memory(database, key_store) as memory:
        try:
            granted = memory.grants.allow(user_id=user, project_id=project, **grant)
        except ScopeError:
            raise
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None
    if as_json:
        print_json(_as_fields(granted))
    else:
        _print_grants([granted])


@commands.command("revoke", epilog=shown("grants revoke --user ann --from tutor --to planner"))
def revoke(
    *,
    user: UserOption,
    from_module: FromOption,
    to_module: ToOption,
    project: ProjectOption = "default",
    as_json: JsonOption = False,
    database: DatabaseOption = DEFAULT_DATABASE,
    key_store: KeyStoreOption = None,
) -> None:
    """End a grant; from then on no process reads by it. Needs the root key."""
    from langmem_isolated.cli.databases import existing_memory

    with existing_memory(database, key_store) as memory:
        memory.grants.revoke(
            user_id=user, from_module=from_module, to_module=to_module, project_id=project
        )
    if as_json:
        print_json({"from_module": from_module, "to_module": to_module, "revoked": True})
    else:
        typer.echo("Revoked. No process reads by this grant any more.")


def _as_fields(grant: Grant) -> dict[str, object]:
    return {
        "from_module": grant.from_module,
        "to_module": grant.to_module,
        "kinds": [*grant.kinds],
        "fields": {**grant.fields},
        "since": grant.since,
        "until": grant.until,
    }


def _print_grants(grants: Iterable[Grant]) -> None:
    rows = table("from", "to", "kinds", "only", "since", "until, UTC")
    for grant in grants:
        only = "; ".join(f"{name} {_listed(found)}" for name, found in _fields(grant))
        until = "it is revoked" if grant.until is None else minute(grant.until)
        names = (grant.from_module, grant.to_module, ", ".join(grant.kinds), only)
        rows.add_row(*map(cell, names), minute(grant.since), until)
    print_table(rows)


def _fields(grant: Grant) -> Iterable[tuple[str, Any]]:
    named: dict[str, Any] = {**grant.fields}
    return named.items()


def _listed(names: Iterable[str | tuple[str, ...]]) -> str:
    return ", ".join(name if isinstance(name, str) else ".".join(name) for name in names)
