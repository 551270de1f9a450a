"""Reasons: who runs a command, why, and how long what a user has may be read."""

from __future__ import annotations

import getpass
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, TypedDict

import typer

from langmem_isolated._adapters.audit_actor import acting_as, current_actor
from langmem_isolated.cli.terminal import as_usage

if TYPE_CHECKING:
    from langmem_isolated.memory import IsolatedMemory

ReasonOption = Annotated[
    str | None,
    typer.Option("--reason", help="Why; needed while auditing is on, and the user can see it."),
]
MinutesOption = Annotated[
    int | None,
    typer.Option(
        "--minutes",
        min=1,
        max=24 * 60,
        help="For how long that permits to read, with --reason; by default 15.",
    ),
]


def user_of_system() -> str:
    """Under which name the system knows who runs the command."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # A container's user may have a number alone.
        return f"uid {os.getuid()}" if hasattr(os, "getuid") else "unknown"


def act_as(context: typer.Context, actor: str | None, reason: str | None) -> None:
    """Have somebody act until the command ends."""
    with as_usage():
        context.with_resource(acting_as(actor or user_of_system(), reason))


class Why(TypedDict):
    """What permits to read, and for how long."""

    reason: str | None
    minutes: int | None


@contextmanager
def permitted(
    memory: IsolatedMemory,
    operation: str | None,
    user: str,
    project: str,
    *,
    module: str | None = None,
    reason: str | None = None,
    minutes: int | None = None,
) -> Iterator[None]:
    """Let the command read what a user has, where auditing is off or a reason is given.

    Args:
        memory: Whose memory is read.
        operation: What the entries call it; ``None`` where what is called has some of its own.
        user: Of which user.
        project: In which project.
        module: In which module; by default in all.
        reason: Permits it from now on; by default what was permitted before does.
        minutes: For how long.

    Raises:
        ReasonRequired: Auditing is on, and neither is there.
    """
    told = reason or current_actor().reason
    if told is not None and memory.audit.status().is_on:
        with as_usage():
            memory.audit.break_glass(user, reason=told, minutes=minutes or 15, project_id=project)
    with memory.audit.reading(user, operation, module_id=module, project_id=project):
        yield
