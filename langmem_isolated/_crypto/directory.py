"""Directory key: the keyed digests by which tables know owners, and MACs of what lists them."""

from langmem_isolated._crypto.columns import is_authentic, row_mac
from langmem_isolated._crypto.owners import Level, Owner
from langmem_isolated._crypto.sealing import (
    DIGEST_BYTES,
    DigestKey,
    SealingKey,
    derive,
    open_sealed,
    seal,
)
from langmem_isolated._crypto.secret_bytes import SecretBytes


class DirectoryKey:
    """An installation's directory key: random, never changed, wrapped by the root key.

    So whoever has the root key can find an owner in the tables, and what was made without it is
    refused, with no further question to a key service.

    Args:
        key: 32 bytes.
        installation_id: Whose it is: under this principal its own key set stands.
    """

    __slots__ = (
        *("_audit_rows", "_digests", "_erasures", "_key_sets", "_scopes", "_tombstones"),
        *("audit", "id", "installation_id"),
    )

    def __init__(self, key: SecretBytes, installation_id: bytes = b"") -> None:
        self.installation_id = installation_id
        self.id = derive(key, b"directory id").reveal()[:DIGEST_BYTES]
        self._digests = DigestKey(key)
        self._key_sets = DigestKey(derive(key, b"key sets"))
        self._scopes = DigestKey(derive(key, b"scope rows"))
        # Uncounted: it seals once for each 500 rows that are erased, and may for 2^32 of these.
        self._erasures = SealingKey(derive(key, b"erasures"))
        self._tombstones = DigestKey(derive(key, b"tombstones"))
        self.audit = SealingKey(derive(key, b"audit"))
        """Seals entries of the audit log that are about nobody; one a second for 136 years."""
        self._audit_rows = DigestKey(derive(key, b"audit rows"))

    def principal_of(self, owner: Owner) -> bytes:
        """By which the tables know whose keys seal the owner's records."""
        return self._digests.digest(b"principal", owner.principal())

    def scope_id_of(self, owner: Owner) -> bytes:
        """By which the tables know the owner."""
        return self._digests.digest(b"scope", owner.framed())

    def project_of(self, owner: Owner) -> bytes:
        """By which the tables know the owner's project."""
        return self._digests.digest(b"project", owner.project.encode())

    def module_of(self, owner: Owner) -> bytes | None:
        """By which the tables know the owner's module in its project; ``None`` if it has none."""
        if owner.module is None:
            return None
        return self._digests.digest(b"module", owner.project.encode(), owner.module.encode())

    def digests_of(self, project: str | None, module: str | None) -> dict[str, bytes]:
        """Those of a project and of its module, as far as they are given, by their columns."""
        digests: dict[str, bytes | None] = {}
        if project is not None:
            digests["project"] = self.project_of(Owner(Level.PROJECT, project))
            if module is not None:
                digests["module"] = self.module_of(Owner(Level.MODULE, project, module=module))
        return {name: digest for name, digest in digests.items() if digest is not None}

    def model_of(self, name: str) -> bytes:
        """By which the tables know a language model, the same for every owner that uses it."""
        return self._digests.digest(b"model", name.encode(errors="backslashreplace"))

    def key_set_mac(self, *columns: object) -> bytes:
        """16 bytes that authenticate a principal's key set."""
        return row_mac(self._key_sets, *columns)

    def has_key_set(self, mac: object, *columns: object) -> bool:
        """Whether ``mac`` is that of a key set of these columns."""
        return is_authentic(self._key_sets, mac, *columns)

    def scope_mac(self, *columns: object) -> bytes:
        """16 bytes that authenticate a row of the table of scopes."""
        return row_mac(self._scopes, *columns)

    def has_scope(self, mac: object, *columns: object) -> bool:
        """Whether ``mac`` is that of a scope's row of these columns."""
        return is_authentic(self._scopes, mac, *columns)

    def seal_erasure(self, place: bytes, plaintext: bytes, *, nonce: bytes | None = None) -> bytes:
        """Seal what is noted of an erasure, as a record is sealed; it opens at ``place`` alone."""
        return seal(self._erasures, place, plaintext, compress=False, nonce=nonce)

    def open_erasure(self, place: bytes, sealed: bytes) -> bytes:
        """What :meth:`seal_erasure` was given.

        Raises:
            RecordDoesNotOpen: It was changed, or stands at another place.
        """
        keys = {self._erasures.id: self._erasures}
        return open_sealed(keys, place, sealed, kind="erasure")

    def tombstone_mac(self, *columns: object) -> bytes:
        """16 bytes that authenticate a tombstone, in its table and in an erasure log."""
        return row_mac(self._tombstones, *columns)

    def has_tombstone(self, mac: object, *columns: object) -> bool:
        """Whether ``mac`` is that of a tombstone of these columns."""
        return is_authentic(self._tombstones, mac, *columns)

    def audit_mac(self, *columns: object) -> bytes:
        """16 bytes that authenticate the ends of an audit chain, or an anchor of all of them."""
        return row_mac(self._audit_rows, *columns)

    def has_audit(self, mac: object, *columns: object) -> bool:
        """Whether ``mac`` is that of a chain's ends or an anchor of these columns."""
        return is_authentic(self._audit_rows, mac, *columns)

    def actor_of(self, name: str) -> bytes:
        """By which log records know who acted, without naming them."""
        return self._digests.digest(b"actor", name.encode(errors="backslashreplace"))

    def __reduce__(self) -> str:
        raise TypeError("keys are not pickled")
