"""Anonymous sessions: begun with a random id, got into again by it, expired and removed."""

import secrets
from collections import Counter
from datetime import timedelta

from langmem_isolated._adapters.context import MemoryContext
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.owners import Level, Owner
from langmem_isolated._runtime.arguments import kind_of
from langmem_isolated._runtime.clock import lifetime, now
from langmem_isolated._storage import guests
from langmem_isolated._storage.guests import Life
from langmem_isolated._storage.removal import remove_rows
from langmem_isolated.errors import AnonymousNotFound, KeyDestroyed
from langmem_isolated.scope import AnonymousScope, checked_id

# 128 bits, 22 characters of base64url: as many as a UUID has, and none of them a version.
_ID_BYTES, _ID_CHARACTERS = 16, 22


def begun(
    context: MemoryContext,
    module_id: str,
    project_id: str,
    idle: timedelta | None,
    absolute: timedelta | None,
) -> AnonymousScope:
    """Begin an anonymous session: its keys and how long it lives are stored.

    Raises:
        ScopeError: An id is malformed.
        TypeError: A limit is no `timedelta`.
        ValueError: A limit is shorter than a microsecond.
    """
    scope = AnonymousScope.of(secrets.token_urlsafe(_ID_BYTES), module_id, project_id)
    moment = now()
    end = _span("absolute", absolute)
    life = Life(_span("idle", idle), moment, moment + end if end else 0)
    context.records(Owner.private(scope)).write(guests.put_life, life, moment)
    return scope


def _span(name: str, value: timedelta | None) -> int:
    """A limit in microseconds; 0 for none."""
    if value is not None and not isinstance(value, timedelta):
        raise TypeError(
            f"{name} must be a timedelta or None (no limit), got {kind_of(value)}. Write "
            f"{name}=timedelta(days=30). Nothing was written."
        )
    span = lifetime(value) or 0
    if value is not None and span <= 0:
        raise ValueError(
            f"{name} must be a microsecond or more, got a timedelta of 0 or below. Leave it out, "
            "or write None for no limit. Nothing was written."
        )
    return span


def recovered(context: MemoryContext, anonymous_id: object, project_id: str) -> AnonymousScope:
    """Get into an anonymous session again, which begins its idle time anew.

    Raises:
        AnonymousNotFound: It has expired, was claimed, or never was; or this is no id.
        ScopeError: ``project_id`` is malformed.
    """
    owner = found(context, anonymous_id, project_id)
    try:
        life = context.records(owner).write(guests.refresh, now())
    except KeyDestroyed:
        life = None
    if life is None or owner.module is None or owner.guest is None:
        raise AnonymousNotFound
    return AnonymousScope.of(owner.guest, owner.module, owner.project)


def found(context: MemoryContext, anonymous_id: object, project_id: str) -> Owner:
    """The owner that whoever has the id is, expired or not.

    Raises:
        AnonymousNotFound: There is none, or this is no id.
        ScopeError: ``project_id`` is malformed.
    """
    checked_id("project_id", project_id)
    if type(anonymous_id) is not str or len(anonymous_id) != _ID_CHARACTERS:
        raise AnonymousNotFound
    if not anonymous_id.isascii() or not anonymous_id.isprintable():
        raise AnonymousNotFound
    guest = Owner.anonymous(anonymous_id, project=project_id)
    owners = context.keyring.owners(guest)
    if not owners:
        raise AnonymousNotFound
    return owners[0]


def remove(context: MemoryContext, owner: Owner) -> Counter[Kind]:
    """Destroy the keys of an anonymous owner, and remove all its rows; at most 500 a transaction.

    For sweeps: an expired record of kind *claim* in a scope of level anonymous says that its owner
    is to be removed. Killed at any point, it goes on when it is called again.

    Args:
        context: Of the memory.
        owner: As `Keyring.walk` and `Keyring.owner_of` give it, or with the guest's id alone.

    Returns:
        How many records, sessions and threads there were, by kind; nothing where nothing was left.

    Raises:
        ValueError: The owner is not anonymous; nothing was removed.
    """
    if owner.level is not Level.ANONYMOUS:
        raise ValueError("Only an anonymous owner is removed here; a user is erased.")
    counts: Counter[Kind] = Counter()
    context.keyring.destroy(owner)
    for row in context.keyring.scopes_of(owner):
        counts += remove_rows(context.database, row)
    context.keyring.remove_destroyed(owner)
    return counts
