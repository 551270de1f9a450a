"""Admission: which scopes' and principals' rows a thread's transactions may meet.

PostgreSQL's row-level security compares every row with what the transaction was admitted to. Who
finds a scope's keys says here whose they are; what a statement asks for is no part of it.
"""

import threading
from functools import lru_cache

# By which PostgreSQL's policies know of it.
SETTING = "langmem_isolated.scopes"


class _Thread(threading.local):
    """What this thread's transactions are admitted to; ``None`` for everybody's rows."""

    ids: frozenset[bytes] | None = frozenset()


_thread = _Thread()


def admitted() -> frozenset[bytes] | None:
    """The ids to which this thread is admitted, ``None`` for all there are."""
    return _thread.ids


class Admission:
    """A context in which this thread's transactions may meet the rows of ``ids``, too.

    Args:
        ids: Of scopes and of principals, as the tables know them.
    """

    __slots__ = ("_before", "_ids")

    def __init__(self, *ids: bytes) -> None:
        self._ids: frozenset[bytes] | None = frozenset(ids)

    def __enter__(self) -> None:
        before = self._before = _thread.ids
        _thread.ids = None if before is None or self._ids is None else before | self._ids

    def __exit__(self, *_: object) -> None:
        _thread.ids = self._before


class AdmissionToAll(Admission):
    """A context in which this thread's transactions may meet everybody's rows: an operator's job.

    With row-level security it is for a role of its own; see `Database`.
    """

    __slots__ = ()

    def __init__(self) -> None:
        self._ids = None


@lru_cache(maxsize=1024)
def array_literal(ids: frozenset[bytes]) -> str:
    """The ids as text that PostgreSQL reads as ``bytea[]``, each in its hex format."""
    return "{" + ",".join(f"\\\\x{one.hex()}" for one in sorted(ids)) + "}"
