"""User-held keys: key sets whose sealing keys a lock wraps, which secrets of the user open.

The lock's key is random. It wraps each sealing key below the server's own wrap, and the private
key of the inbox. Each secret wraps the lock's key, in a row of the purpose *lock*, with what it
takes to stretch the secret. So a secret is changed without a record being sealed again, and whoever
has the database and the server's keys, but none of the secrets, opens no sealing key.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from langmem_isolated._crypto.hpke import KeyPair
from langmem_isolated._crypto.lock_secrets import (
    RECOMMENDED,
    LockSecret,
    PassphraseCost,
    SecretKind,
    kind_of,
    new_parameters,
)
from langmem_isolated._crypto.sealing import framed
from langmem_isolated._crypto.secret_bytes import SecretBytes
from langmem_isolated._runtime.clock import now
from langmem_isolated._storage.key_sets import KeySet, Purpose, State, StoredKey
from langmem_isolated._storage.lent_locks import LockKey
from langmem_isolated._storage.wrapped_keys import INBOX_FORM, WrappedKeys, public_key_of
from langmem_isolated.errors import LockRefused, RecordDoesNotOpen, WrongSecret

_CALLED = {
    SecretKind.PASSPHRASE: "passphrase",
    SecretKind.SECRET: "secret",
    SecretKind.RECOVERY: "recovery code",
}


class StretchedSecret(NamedTuple):
    """A secret made ready to wrap a lock's key: it is stretched once, outside of transactions."""

    parameters: bytes
    key: LockKey

    @classmethod
    def new(cls, secret: LockSecret, cost: PassphraseCost = RECOMMENDED) -> "StretchedSecret":
        """Of a secret, with a salt of its own."""
        parameters = new_parameters(secret.kind, cost)
        return cls(parameters, LockKey(secret.stretched(parameters)))


def locked(
    keys: WrappedKeys, found: KeySet, lock: LockKey, secrets: Sequence[StretchedSecret]
) -> KeySet:
    """``found`` with its sealing keys and one new one wrapped by a lock; nothing is stored.

    Raises:
        LockRefused: It has a lock.
    """
    if found.living(Purpose.LOCK):
        raise LockRefused(
            "This user has a lock. memory.change_secret(…) changes its secret, on the command line "
            "`langmem-isolated lock change`."
        )
    version = found.next_version(Purpose.SEALING)
    fresh = keys.wrap(SecretBytes.random(), found.principal, Purpose.SEALING, version, lock)
    held = _rewrapped(keys, found, lock).with_primary(fresh)
    return _with_secrets(keys, _with_inbox(keys, held, lock), lock, secrets)


def unlocked(keys: WrappedKeys, found: KeySet) -> KeySet:
    """``found`` with its sealing keys wrapped by the server alone; nothing is stored.

    Its inbox stays: another process may put into it until it learns of this.

    Raises:
        LockRefused: It has no lock.
        MemoryLocked: The lock is not lent to this process.
    """
    _locks(found)
    held = _rewrapped(keys, found, None)
    return replace(held, keys=tuple(_without(held, frozenset(SecretKind))))


def with_other_secrets(
    keys: WrappedKeys,
    found: KeySet,
    lock: LockKey,
    secrets: Sequence[StretchedSecret],
    *,
    in_place_of: frozenset[SecretKind],
) -> KeySet:
    """``found`` with ``secrets`` in place of those of some kinds; nothing is stored.

    Raises:
        LockRefused: It has no lock.
    """
    _locks(found)
    left = replace(found, keys=tuple(_without(found, in_place_of)))
    return _with_secrets(keys, left, lock, secrets)


def opened_lock(keys: WrappedKeys, found: KeySet, secret: LockSecret) -> LockKey:
    """The lock of a set, opened by a secret: it is stretched here, 0.2 s for a passphrase.

    Raises:
        LockRefused: It has no lock, or none that this kind of secret opens.
        WrongSecret: It is another's.
        RecordDoesNotOpen: A lock's row has another form.
    """
    called = _CALLED[secret.kind]
    rows = [row for row in _locks(found) if kind_of(row.second_parameters) is secret.kind]
    if not rows:
        raise LockRefused(f"No {called} opens this user's lock: it is opened by something else.")
    for row in rows:
        if (lock := _opened(keys, found, row, secret)) is not None:
            return lock
    raise WrongSecret(called)


def kinds_of_secrets(found: KeySet) -> frozenset[SecretKind]:
    """What opens the lock of a set; empty where it has none."""
    return frozenset(kind_of(row.second_parameters) for row in found.living(Purpose.LOCK))


def inbox_keys(keys: WrappedKeys, found: KeySet) -> list[SecretBytes]:
    """The private keys of a set's inbox, that to which is sealed now first.

    Raises:
        MemoryLocked: The lock is not lent to this process.
        RecordDoesNotOpen: One is not the one that was stored.
    """
    return [_private_key(keys, found, row) for row in reversed(found.living(Purpose.INBOX))]


def _private_key(keys: WrappedKeys, found: KeySet, row: StoredKey) -> SecretBytes:
    pair = KeyPair.of(keys.unwrap(found.principal, row))
    if pair.public != public_key_of(row):
        raise RecordDoesNotOpen("key", "the two keys of the inbox are not a pair")
    return pair.private


def _locks(found: KeySet) -> list[StoredKey]:
    rows = found.living(Purpose.LOCK)
    if not rows:
        raise LockRefused("This user has no lock. memory.lock_with(…) makes one.")
    return rows


def _opened(keys: WrappedKeys, found: KeySet, row: StoredKey, secret: LockSecret) -> LockKey | None:
    parameters = row.second_parameters or b""
    stretched = LockKey(secret.stretched(parameters))
    wrapped = keys.unwrap(found.principal, row)
    try:
        return LockKey(stretched.unwrap(wrapped, _place(keys, found, row.version, parameters)))
    except RecordDoesNotOpen:
        return None


def _place(keys: WrappedKeys, found: KeySet, version: int, parameters: bytes) -> bytes:
    return keys.context(found.principal, Purpose.LOCK, version) + framed(parameters)


def _with_secrets(
    keys: WrappedKeys, found: KeySet, lock: LockKey, secrets: Sequence[StretchedSecret]
) -> KeySet:
    added, version = [], found.next_version(Purpose.LOCK)
    for number, (parameters, stretched) in enumerate(secrets, start=version):
        wrapped = stretched.wrap(lock.secret, _place(keys, found, number, parameters))
        row = keys.wrap(wrapped, found.principal, Purpose.LOCK, number)
        # No secret is the first among them.
        added.append(row._replace(is_primary=0, second_parameters=parameters))
    return replace(found, keys=tuple(sorted((*found.keys, *added))))


def _without(found: KeySet, kinds: frozenset[SecretKind]) -> list[StoredKey]:
    """The keys of a set, of which the secrets of some kinds are destroyed."""
    at = now()
    return [
        key.destroyed(at)
        if key.purpose == Purpose.LOCK
        and key.state != State.DESTROYED
        and kind_of(key.second_parameters) in kinds
        else key
        for key in found.keys
    ]


def _with_inbox(keys: WrappedKeys, found: KeySet, lock: LockKey) -> KeySet:
    # Another one for each lock: without a lock the server, and its copies, have the former one.
    pair, version = KeyPair.random(), found.next_version(Purpose.INBOX)
    row = keys.wrap(pair.private, found.principal, Purpose.INBOX, version, lock)
    return found.with_primary(row._replace(second_parameters=INBOX_FORM + pair.public))


def _rewrapped(keys: WrappedKeys, found: KeySet, lock: LockKey | None) -> KeySet:
    """Every sealing key, and that of the inbox, wrapped by a lock, or by the server alone."""
    changed = (
        keys.wrapped_again(found.principal, key, lock)
        if key.purpose in (Purpose.SEALING, Purpose.INBOX) and key.state != State.DESTROYED
        else key
        for key in found.keys
    )
    return replace(found, keys=tuple(changed))
