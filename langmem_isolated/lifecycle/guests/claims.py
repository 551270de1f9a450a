"""Claims: what was said anonymously becomes a user's, all of it at once, and the guest is gone."""

import os
from functools import partial

from langmem_isolated._adapters.context import MemoryContext
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.owners import Owner
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._runtime.arguments import kind_of
from langmem_isolated._runtime.clock import SECOND, now
from langmem_isolated._storage import confirmation, entries, guests, profiles, usage, wrapped_stores
from langmem_isolated._storage.copying.copy import Copy
from langmem_isolated._storage.copying.options import (
    Conflicts,
    Copied,
    Mark,
    Reader,
    checked_conflicts,
)
from langmem_isolated._storage.entries import Entry
from langmem_isolated._storage.guests import SPACE
from langmem_isolated._storage.items.statements import LOCK_SCOPE
from langmem_isolated._storage.profiles import ProfileEntries
from langmem_isolated._storage.scoped_database import ScopedDatabase
from langmem_isolated.errors import AnonymousNotFound, KeyDestroyed, ScopeError
from langmem_isolated.lifecycle.guests.anonymous import found, remove
from langmem_isolated.lifecycle.guests.transferred import Transferred
from langmem_isolated.scope import Scope

ORIGIN = "anonymous"
_RECEIPTS = (b"claimed",)
_CLAIM = b"claim"
_TOKEN_BYTES = 16
# For so long a claim that is told again, by a browser or a queue, answers as it did.
_RECEIPT_DAYS = 30


def claimed(
    context: MemoryContext,
    anonymous_id: object,
    scope: object,
    *,
    confirmed: object,
    conflicts: Conflicts,
) -> Transferred:
    """Make what was said anonymously a user's; see :meth:`AnonymousSessions.claim`."""
    target_scope = _checked(scope, confirmed, conflicts)
    target = context.private(target_scope)
    receipt = _Receipt(target, anonymous_id)
    try:
        owner = found(context, anonymous_id, target_scope.project_id)
    except AnonymousNotFound:
        return receipt.required()
    _check_module(owner, target_scope)
    if (done := receipt.read()) is None:
        done = _copied(context, owner, target, receipt, conflicts)
    remove(context, owner)
    return done


def claimant(scope: object) -> Owner | None:
    """Who claims; ``None`` for what is no user's scope, which a claim refuses."""
    scope = getattr(scope, "scope", scope)
    return Owner.private(scope) if type(scope) is Scope else None


def _checked(scope: object, confirmed: object, conflicts: object) -> Scope:
    scope = getattr(scope, "scope", scope)
    if type(scope) is not Scope:
        raise ScopeError(
            f"claim() takes the scope of a user, got {kind_of(scope)}. Write "
            "memory.claim(anonymous_id, memory.scope(user_id=…, module_id=…), confirmed=True). "
            "Nothing was claimed."
        )
    if confirmed is not True:
        got = "False" if confirmed is False else kind_of(confirmed)
        raise ValueError(
            f"confirmed must be True, got {got}. Ask the user first whether what was said before "
            "the login is theirs: a login link may have been planted. Nothing was claimed."
        )
    checked_conflicts(conflicts)
    return scope


def _check_module(owner: Owner, scope: Scope) -> None:
    if owner.module != scope.module_id:
        raise ScopeError(
            "claim() takes a scope in the module where the anonymous session took place, got that "
            "of another: modules are apart. Write guest.scope.module_id for module_id; "
            "memory.merge_modules(…) brings it to another afterwards. Nothing was claimed."
        )


class _Receipt:
    """What a user's scope knows of one claim that is done."""

    def __init__(self, target: ScopedDatabase, anonymous_id: object) -> None:
        self.target = target
        self._key = anonymous_id.encode(errors="replace") if type(anonymous_id) is str else b""

    def read(self) -> Transferred | None:
        nothing: list[bytes | None] = [None]
        get = partial(entries.get, kind=Kind.CLAIM)
        (stored,) = self.target.read(get, nothing, _RECEIPTS, [self._key], now())
        return None if stored is None else Transferred.unpacked(stored)

    def required(self) -> Transferred:
        """What was claimed before.

        Raises:
            AnonymousNotFound: Nothing was.
        """
        done = self.read()
        if done is None:
            raise AnonymousNotFound
        return done

    def put(
        self, transaction: Transaction, keys: ScopeKeys, done: Transferred, moment: int
    ) -> None:
        entry = Entry(self._key, done.packed())
        lifetime = _RECEIPT_DAYS * 86_400 * SECOND
        entries.put(transaction, keys, _RECEIPTS, [entry], moment, lifetime, kind=Kind.CLAIM)


def _copied(
    context: MemoryContext,
    owner: Owner,
    target: ScopedDatabase,
    receipt: _Receipt,
    conflicts: Conflicts,
) -> Transferred:
    source, mark = context.records(owner), Mark(ORIGIN, is_untrusted=True)
    try:
        # The claimant, as the guest's keys digest it: the id stands nowhere.
        token = source.write(_begin, target.owner.framed(), os.urandom(_TOKEN_BYTES), now())
        Copy(source, target, token, conflicts, mark, hold=_hold).run(
            at_once=True, finish=partial(_finish, receipt)
        )
    except (AnonymousNotFound, KeyDestroyed):
        # Another process may have finished the same claim.
        return receipt.required()
    return receipt.required()


def _begin(
    transaction: Transaction, keys: ScopeKeys, claimant: bytes, token: bytes, moment: int
) -> bytes:
    """The token of the claim; the first who comes makes it, and then it is that user's alone.

    Raises:
        AnonymousNotFound: The guest is gone, or another user has begun to claim it.
    """
    _hold(transaction, keys)
    (begun,) = entries.get(transaction, keys, SPACE, [_CLAIM], moment, kind=Kind.CLAIM)
    if begun is None:
        begun = token + claimant
        entries.put(transaction, keys, SPACE, [Entry(_CLAIM, begun)], moment, kind=Kind.CLAIM)
    if begun[_TOKEN_BYTES:] != claimant:
        raise AnonymousNotFound
    return begun[:_TOKEN_BYTES]


def _hold(transaction: Transaction, keys: ScopeKeys) -> None:
    """Have the guest to oneself until the transaction ends.

    Raises:
        AnonymousNotFound: It has expired, was claimed or removed.
    """
    row = transaction.row(LOCK_SCOPE, scope_id=keys.scope_id, scope_birth=keys.birth)
    if row is None or guests.read_life(transaction, keys, now()) is None:
        raise AnonymousNotFound


def _finish(
    receipt: _Receipt, transaction: Transaction, keys: ScopeKeys, source: Reader, copied: Copied
) -> None:
    """In the transaction that shows what was claimed: the guest is gone, and a receipt is there."""
    moment = now()
    receipt.put(transaction, keys, Transferred.of(copied), moment)
    reading, digest_of = source.within(transaction), receipt.target.model_digest
    usage.take_over(transaction, keys, reading, source.keys, digest_of)
    # What the guest has there stays, opened by nobody, until the user is erased.
    wrapped_stores.take_over(transaction, keys, reading, source.keys, moment)
    guests.end_life(transaction, source.keys, moment)


def confirm_all(records: ScopedDatabase) -> int:
    """Take the mark away from everything that was claimed; how many sessions and threads."""
    records.write_if_exists(profiles.edit, None, ProfileEntries.confirm, now())
    marked = records.snapshot(confirmation.unconfirmed, [], now())
    return sum(records.write_if_exists(confirmation.confirm, False, one, now()) for one in marked)
