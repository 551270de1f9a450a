"""Locking: what makes, opens, changes and removes a user's lock, and empties the inbox."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain

from langmem_isolated._adapters.context import MemoryContext
from langmem_isolated._adapters.inbox_messages import collect
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.lock_secrets import LockSecret, PassphraseCost, SecretKind
from langmem_isolated._crypto.owners import Owner
from langmem_isolated._runtime.clock import EPOCH, as_moment, now
from langmem_isolated._storage import inbox, overview
from langmem_isolated._storage.container_state import ContainerState
from langmem_isolated._storage.overview import Totals
from langmem_isolated._storage.sessions import unopened
from langmem_isolated._storage.user_held_keys import StretchedSecret
from langmem_isolated.errors import MemoryLocked
from langmem_isolated.lifecycle.erasure.run import scrubbed
from langmem_isolated.lifecycle.locking.values import (
    Collected,
    LockedModule,
    LockedSession,
    LockState,
    SecretName,
)
from langmem_isolated.lifecycle.rotation.run import RotationRun

Told = Callable[[int], object]
_NAMES: dict[SecretKind, SecretName] = {
    SecretKind.PASSPHRASE: "passphrase",
    SecretKind.SECRET: "secret",
    SecretKind.RECOVERY: "recovery",
}
_OWN = frozenset({SecretKind.PASSPHRASE, SecretKind.SECRET})
# How long a lock may be lent to a job that seals all anew, or empties the inbox: it gives it back.
_JOB_SECONDS = 86_400.0


def given_secret(**given: object) -> LockSecret:
    """The one secret of a call, by the name of its argument.

    Raises:
        TypeError: None is given, or more than one, or one is of another type.
        ValueError: It is too short, or was mistyped.
    """
    makers: dict[str, Callable[..., LockSecret]] = {
        "passphrase": LockSecret.of_passphrase,
        "secret": LockSecret.of_secret,
        "recovery": LockSecret.of_recovery,
    }
    names = [name for name, value in given.items() if value is not None]
    if len(names) != 1:
        raise TypeError(
            f"exactly one of {', '.join(given)} must be given, got {', '.join(names) or 'none'}"
        )
    (name,) = names
    return makers[name.removeprefix("new_")](given[name])


def lock(
    context: MemoryContext, user: Owner, secret: LockSecret, cost: PassphraseCost, told: Told
) -> tuple[str, int]:
    """Lock a user's memory, and seal it anew; the recovery code, and how many records it was."""
    # Who has no keys yet gets them: what is said to such a user has an inbox then.
    context.keyring.obtain(user)
    recovery, code = LockSecret.new_recovery()
    secrets = [StretchedSecret.new(secret, cost), StretchedSecret.new(recovery)]
    locks = context.keyring.locks()
    locks.make(user, secrets, _JOB_SECONDS)
    try:
        # The rotation finds a newer key, and makes none.
        rotated = RotationRun(context, None, told, lambda: False).run(user)
        # A copy of the files has their logs, too, and in them the keys from before.
        scrubbed(context)
        return code, rotated.records
    finally:
        locks.forget(user)


def open_lock(
    context: MemoryContext, user: Owner, secret: LockSecret, seconds: float, told: Told
) -> Collected:
    """Have a user's lock lent to this process, and bring what has waited into its sessions."""
    locks = context.keyring.locks()
    locks.open(user, secret, seconds)
    try:
        return collect_all(context, user, told)
    except BaseException:
        # The caller gets no handle by which to lock it again.
        locks.forget(user)
        raise


def collect_all(context: MemoryContext, user: Owner, told: Told = lambda _: None) -> Collected:
    """Empty the inboxes of all scopes of a user whose memory is open in this process."""
    private, done, damaged = context.keyring.locks().inbox_keys(user), 0, 0
    if not private:
        return Collected(0, 0)
    for owner in context.keyring.owners(user):
        # As the owner, under the rules of sessions that hold for what the owner says.
        brought, refused = collect(context.records(owner), private, told)
        done, damaged = done + brought, damaged + refused
    return Collected(done, damaged)


def collect_before_leaving(context: MemoryContext, user: Owner) -> None:
    """Empty the inboxes of a user, if there is one, so that what leaves is all there is.

    Raises:
        MemoryLocked: The user's memory is locked in this process.
    """
    if context.keyring.directory() is not None:
        collect_all(context, user)


def close_lock(context: MemoryContext, user: Owner) -> None:
    """Forget a user's lock in this process, and all that it opened."""
    context.keyring.locks().forget(user)


def change_secret(
    context: MemoryContext,
    user: Owner,
    secret: LockSecret,
    new: LockSecret | None,
    cost: PassphraseCost,
    *,
    new_recovery: bool,
) -> str | None:
    """Exchange what opens a user's lock; the new recovery code, if one is asked for."""
    secrets, kinds, code = [], frozenset[SecretKind](), None
    if new is not None:
        secrets.append(StretchedSecret.new(new, cost))
        kinds |= _OWN
    if new_recovery:
        recovery, code = LockSecret.new_recovery()
        secrets.append(StretchedSecret.new(recovery))
        kinds |= {SecretKind.RECOVERY}
    context.keyring.locks().change(user, secret, secrets, kinds)
    return code


def remove_lock(context: MemoryContext, user: Owner, secret: LockSecret, told: Told) -> Collected:
    """Give a user's keys back to the server for good."""
    collected = open_lock(context, user, secret, _JOB_SECONDS, told)
    locks = context.keyring.locks()
    try:
        locks.remove(user)
    finally:
        locks.forget(user)
    # What others have put there until they learned of it.
    with suppress(MemoryLocked):
        late = collect_all(context, user)
        return Collected(collected.messages + late.messages, late.damaged)
    return collected


def state_of(context: MemoryContext, user: Owner) -> LockState:
    """Whether a user's memory is locked, and what is there, counted and not opened."""
    found = context.keyring.locks().find(user)
    names = tuple(_NAMES[kind] for kind in sorted(found.secrets))
    modules = tuple(_module(context, owner) for owner in context.keyring.owners(user))
    return LockState(bool(names), found.seconds_left, names, modules)


def _module(context: MemoryContext, owner: Owner) -> LockedModule:
    records = context.operators(owner)
    nothing: tuple[dict[Kind, Totals], int] = ({}, 0)
    by_kind, _ = records.read(overview.totals, nothing, now())
    waiting = records.read(inbox.waiting, [])
    sessions, threads = (by_kind.get(kind, Totals()) for kind in (Kind.SESSION, Kind.THREAD))
    return LockedModule(
        module_id=owner.module,
        sessions=sessions.rows,
        messages=sessions.below,
        threads=threads.rows,
        waiting=sum(count for _, count in waiting),
    )


def sessions_of(context: MemoryContext, owner: Owner) -> list[LockedSession]:
    """The sessions of one module, counted and not opened."""
    return [*chain.from_iterable(_pages(context, owner))]


def _pages(context: MemoryContext, owner: Owner) -> Iterator[list[LockedSession]]:
    records, behind, is_done = context.operators(owner), b"", False
    nothing: tuple[list[tuple[bytes, ContainerState, int]], bytes] = ([], b"")
    while not is_done:
        found, behind = records.snapshot(unopened.page, nothing, behind, now())
        yield [_session(*one) for one in found]
        is_done = not behind


def _session(digest: bytes, state: ContainerState, waiting: int) -> LockedSession:
    return LockedSession(
        digest=digest.hex(),
        messages=state.count,
        size=state.size,
        waiting=waiting,
        created=as_moment(state.created_at) or EPOCH,
        last_activity=as_moment(state.updated_at) or EPOCH,
        expires=None if state.expires_at is None else as_moment(state.expires_at),
    )
