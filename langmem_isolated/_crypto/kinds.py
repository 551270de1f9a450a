"""Record kinds: numbers that are stored, and bound to each record as associated data."""

from enum import IntEnum

_SERVER_HELD = (
    1,  # SCOPE: owners by name, for whoever walks them: sweeps, statistics, erasures of a module.
    14,  # GRANT: what is shared ends, and is revoked, whether or not the user is there.
    16,  # INBOX: how much waits there; what waits is sealed to the user's own key besides.
    19,  # POLICY: retention, holds and quotas bind the server.
    20,  # CLAIM: until when a guest is there, and how far a claim or an import has come.
    23,  # USAGE: which language model counts, and bills, are of.
    24,  # STORE_NOTE: in which third-party stores an erasure must look.
)


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
    # Reserved, with the addresses that docs/explanation/formats.md gives them.
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
        self.is_server_held = number in _SERVER_HELD
        """Whether a key seals it that stays with the server: see ``SERVER_HELD``."""


SERVER_HELD = frozenset(kind for kind in Kind if kind.is_server_held)
"""What the server reads for its own duties, while the user alone may hold the keys of the content.

A subkey of the naming key seals these, which never rotates; the sealing keys, which do, and which a
user can hold, seal every other kind.
"""
