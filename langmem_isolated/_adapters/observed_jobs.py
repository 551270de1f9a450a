"""Observed jobs: what the audit log notes, told to observers as operations, too."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import wraps
from typing import Any, TypeVar, cast

from langmem_isolated._crypto.owners import Level, Owner

_CALL_BYTES = 8
_OWN_NAMES = (
    *("backup", "change_secret", "claim", "compare_modules", "copy_facts", "export", "import"),
    *("lock_with", "merge", "remove_lock", "roll_back", "rotate_keys", "undo", "unlock"),
    *("verify", "verify_module_isolation"),
)
NAMES = {
    **{name: name for name in _OWN_NAMES},
    "clear": "delete_memory",
    "erase_user": "delete_memory_store",
    "erase_guest": "delete_memory_store",
    "erase_module": "delete_memory_store",
    "erase_project": "delete_memory_store",
}
"""What observers are told of each job: its own name where OpenTelemetry's conventions have none."""
# What an operator reads, an application may call anything: a person's name, too.
_OTHER = "read"
_GRANTS = {"grant", "revoke"}
_ABOUT = {
    Level.PRIVATE: "scope",
    Level.USER: "user",
    Level.MODULE: "module",
    Level.PROJECT: "project",
    Level.ANONYMOUS: "guest",
}

F = TypeVar("F", bound=Callable[..., Any])


class Job:
    """An operation of several transactions, as the audit log tells of it."""

    def __init__(self) -> None:
        self.call = os.urandom(_CALL_BYTES).hex()
        self.count: int | None = None
        """How many records it was about, as far as that is known when it ends."""


def kind_about(owner: Owner | None) -> str:
    """What a job over an owner's memory is about; ``"installation"`` where it is everybody's."""
    return "installation" if owner is None else _ABOUT[owner.level]


def observed_write(write: F) -> F:
    """A decorator for `Audit.write`: observers are told of the operation by its name."""

    @wraps(write)
    def call(audit: Any, operation: str, owner: Owner, *args: Any, **named: Any) -> Any:
        kind = "grant" if operation in _GRANTS else "policy"
        with audit.operations.observing(operation, kind, owner):
            return write(audit, operation, owner, *args, **named)

    return cast("F", call)


def observed_job(
    job: Callable[..., AbstractContextManager[Job]],
) -> Callable[..., AbstractContextManager[Job]]:
    """A decorator for `Audit.job`: observers are told of the operation, and of its count."""

    @wraps(job)
    @contextmanager
    def observing(
        audit: Any, operation: str, owner: Owner | None = None, **named: Any
    ) -> Iterator[Job]:
        operations = audit.operations
        name = NAMES.get(operation, _OTHER)
        with (
            operations.observing(name, kind_about(owner), owner) as told,
            job(audit, operation, owner, **named) as noted,
        ):
            try:
                yield noted
            finally:
                told.count = noted.count

    return observing
