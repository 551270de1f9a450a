"""Checks: what a verification looks at, and which promises and rules each speaks to."""

from __future__ import annotations

from typing import NamedTuple

PROMISES = {
    0: "One rule finds whose memory a call means, and what disagrees raises.",
    1: "Users cannot see each other, nor modules of one user.",
    2: "No memory without a scope.",
    3: "Nothing is readable on disk.",
    4: "Records cannot be moved, replayed into another place, reordered or cut off.",
    5: "No message is lost.",
    6: "Synchronous and asynchronous calls agree.",
    7: "Erased is erased.",
    8: "Cost follows what is new.",
}
"""By their numbers, as docs/operations/verification.md explains them."""


class CheckKind(NamedTuple):
    """What is looked at, and what it speaks to."""

    name: str
    what: str
    promises: tuple[int, ...]
    owasp: tuple[str, ...]
    """Of the OWASP Top 10 for LLM Applications 2025."""
    gdpr: tuple[str, ...]
    """Articles of Regulation (EU) 2016/679."""


_LEAKS = ("LLM02:2025", "LLM08:2025")
_SECURITY = ("5(1)(f)", "32(1)(b)")
_CRYPTOGRAPHY = ("5(1)(f)", "32(1)(a)", "32(1)(b)")
_ERASURE = ("5(1)(e)", "17(1)")

CHECKS: tuple[CheckKind, ...] = (
    CheckKind("tables", "tables, columns and foreign keys are those that this version makes, and "
              "no trigger changes what is written", (4,), ("LLM08:2025",), _SECURITY),
    CheckKind("scopes", "the row of every scope is as it was stored, of the owner that it names, "
              "with the keys of that life", (1, 4), _LEAKS, _SECURITY),
    CheckKind("key sets", "the keys of every principal are the set that was stored, and the root "
              "key opens them", (3, 4), _LEAKS, _CRYPTOGRAPHY),
    CheckKind("erasures", "tombstones and receipts are as they were stored, and nobody of whom "
              "they speak is there again", (7,), ("LLM02:2025",), ("5(2)", "17(1)")),
    CheckKind("orphans", "no row belongs to a scope that is not there", (1, 7), _LEAKS, _ERASURE),
    CheckKind("records", "every record opens under its own scope, at its own address, with the "
              "columns of its kind", (1, 3, 4), _LEAKS, _CRYPTOGRAPHY),
    CheckKind("counts", "sessions, threads and collections have the records that they count: "
              "numbers and multiset hashes", (4, 5), ("LLM08:2025",), ("5(1)(d)", "5(1)(f)")),
    CheckKind("references", "checkpoints find their elements, and documents their embeddings",
              (5,), ("LLM08:2025",), ("5(1)(d)",)),
    CheckKind("cross-opening", "no record opens with another scope's keys, at another address, as "
              "another kind or in another life", (1, 4), _LEAKS, _CRYPTOGRAPHY),
    CheckKind("audit log", "every entry follows the one before it, from what is kept of the "
              "beginning to the end", (4,), (), ("5(2)", "24(1)", "32(1)(d)")),
    CheckKind("canaries", "what was written into scopes made for it is found there through every "
              "adapter, and nowhere else", (0, 1, 2, 7), _LEAKS, ("5(1)(f)", "25(2)", "32(1)(d)")),
    CheckKind("row-level security", "PostgreSQL refuses what forgets the scope", (1,), _LEAKS,
              ("25(1)", "32(1)(b)")),
    CheckKind("wrapped stores", "documents in third-party stores bear the mark of a scope that is "
              "there, and open under it alone", (1, 3, 7), _LEAKS, ("17(1)", "32(1)(b)")),
)  # fmt: skip
KIND_OF = {kind.name: kind for kind in CHECKS}
