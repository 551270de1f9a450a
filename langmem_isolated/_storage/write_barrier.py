"""Write barrier: which version of a sealing key may still seal in a scope.

Whoever has keys in memory does not hear of a rotation in another process. So every statement that
puts an item or an entry, or makes a row above others, proves of the scope's row not only that it
is there but that ``oldest_key`` is not above the version that it seals with.
"""

from sqlalchemy import Integer, LargeBinary, bindparam, select, update

from langmem_isolated._crypto.directory import DirectoryKey
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database import schema
from langmem_isolated._database.admission import Admission
from langmem_isolated._database.database import Database
from langmem_isolated._database.statements import NO_LIMIT
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._storage.key_uses import note_in_use
from langmem_isolated._storage.scope_rows import ScopeRow

_scopes = schema.scopes.c
_SCOPE_ID = bindparam("scope_id", type_=LargeBinary)
# Who finds it untrue reads the keys anew. On PostgreSQL whoever
# asks this locks the row for key share, so that a raised barrier waits for them or they for it.
MAY_SEAL = _scopes.oldest_key <= bindparam("sealing_version", type_=Integer)


def proof_of(keys: ScopeKeys, kind: Kind = Kind.ITEM) -> dict[str, object]:
    """What statements ask by that write nothing where the scope is gone, or a later key seals.

    A kind that the server holds the key of is behind no barrier: that key never rotates.
    """
    version = NO_LIMIT if kind.is_server_held else keys.sealing_version
    return {"scope_id": keys.scope_id, "scope_birth": keys.birth, "sealing_version": version}


_WHOLE = select(_scopes.scope_id).where(_scopes.scope_id == _SCOPE_ID).with_for_update()
_RAISE = (
    update(schema.scopes)
    .where(
        _scopes.scope_id == _SCOPE_ID,
        _scopes.birth == bindparam("birth_now", type_=LargeBinary),
        _scopes.mac == bindparam("mac_now", type_=LargeBinary),
    )
    .values(oldest_key=bindparam("new_oldest_key"), mac=bindparam("new_mac"))
)


def raise_barrier(
    database: Database, directory: DirectoryKey, row: ScopeRow, version: int
) -> ScopeRow | None:
    """Have no older key than ``version`` seal in a scope; ``None`` if its row is another.

    Whoever is writing is waited for, and whoever comes later is refused: when this returns, no
    record that an older key seals comes into being outside of a session, thread or collection.
    What older keys have sealed is noted as in use.
    """
    new = row._replace(oldest_key=version)
    new = new._replace(mac=directory.scope_mac(*new[: row._fields.index("mac")]))
    with Admission(row.scope_id, row.principal):
        return new if database.write(_raised, row, new) else None


def _raised(transaction: Transaction, row: ScopeRow, new: ScopeRow) -> bool:
    # In full: foreign keys and proofs of life lock the row for key share.
    transaction.row(_WHOLE, scope_id=row.scope_id)
    now_there = {"scope_id": row.scope_id, "birth_now": row.birth, "mac_now": row.mac}
    is_raised = transaction.changes(
        _RAISE, **now_there, new_oldest_key=new.oldest_key, new_mac=new.mac
    )
    if is_raised:
        note_in_use(transaction, row.scope_id, range(row.oldest_key, new.oldest_key))
    return is_raised
