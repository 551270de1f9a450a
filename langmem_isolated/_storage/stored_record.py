"""A row of the table of records, with every column, as a verification goes through them."""

from typing import NamedTuple

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._storage import entries

# A row counts them; they have one time, at which they were stored.
_COUNTED = {
    *(Kind.MESSAGE, Kind.CHECKPOINT, Kind.WRITE, Kind.ELEMENT, Kind.DOCUMENT, Kind.INBOX),
}


class StoredRecord(NamedTuple):
    """A row of the table of records."""

    kind: int
    parent: bytes
    key: bytes
    sealed: bytes
    alias: bytes | None
    tag: bytes | None
    size: int
    created_at: int
    updated_at: int
    expires_at: int | None
    expiry_mac: bytes | None
    equalities: bytes | None

    def has_only_its_columns(self) -> bool:
        """Whether the columns that its kind does not use say nothing."""
        is_immutable, is_entry = self.kind in _COUNTED, self.kind in entries.ENTRY_KINDS
        return (
            (self.alias is None or self.kind in (Kind.MESSAGE, Kind.ELEMENT))
            and (
                self.tag is None
                or self.kind in (Kind.MESSAGE, Kind.CHECKPOINT, *entries.ENTRY_KINDS)
            )
            and (self.expires_at is None or is_entry or self.kind == Kind.ITEM)
            and (self.expiry_mac is None or self.expires_at is not None)
            and (self.created_at == self.updated_at or not is_immutable)
            and (self.equalities is None or self.kind in (Kind.ITEM, Kind.DOCUMENT))
        )


BEFORE_ALL = StoredRecord(0, b"", b"", b"", None, None, 0, 0, 0, None, None, None)
