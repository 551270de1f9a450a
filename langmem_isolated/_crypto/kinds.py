"""Record kinds: numbers that are stored, and bound to each record as associated data."""

from enum import IntEnum


class Kind(IntEnum):
    """What a record is; numbers are stored and authenticated, and never change."""

    SCOPE = 1
    SESSION = 2
    MESSAGE = 3
    THREAD = 4
    CHECKPOINT = 5
    WRITE = 6
    ELEMENT = 7
    ITEM = 8
    DOCUMENT = 9
    VECTOR = 10
    COLLECTION = 11
    EMBEDDING = 12
    ENTRY = 13
    # Reserved, with the addresses that docs/formats.md gives them.
    GRANT = 14
    PROFILE = 15
    INBOX = 16
    BLIND_INDEX = 17
    AUDIT = 18
    POLICY = 19
    CLAIM = 20
    RECEIPT = 21
    NODE_CACHE = 22
    # No record: what a row of the table of usage has sealed.
    USAGE = 23
    # Which third-party store has documents of the scope, by which owner tag.
    STORE_NOTE = 24

    def __init__(self, number: int) -> None:
        # Attributes, not properties: every record opened asks for them.
        self.label = self.name.lower()
        self.framed_bytes = number.to_bytes(2)
