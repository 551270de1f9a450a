"""Checking of evidence packs, by those who have neither the database nor a key of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from langmem_isolated._runtime.arguments import kind_of, refuse_single
from langmem_isolated.errors import EvidenceRefused
from langmem_isolated.lifecycle.evidence.pack import Evidence, checked


def check_evidence(
    content: bytes, key: str, *, stamp: bytes | None = None, roots: Sequence[bytes] = ()
) -> Evidence:
    """Verify an evidence pack: signed with ``key``, and changed in no byte. Without a database.

    Signed by the party that was checked, it proves that they said so, and with a time stamp when at
    the latest. Whether it is so, only who verifies the database itself can tell.

    Args:
        content: The file, as ``evidence_pack`` and ``verify --evidence`` made it.
        key: The public key, as ``evidence keygen`` printed it. Have it from before, by another way
            than the pack: one that comes along proves nothing.
        stamp: A time stamp over ``content``, a response of RFC 3161 in DER.
        roots: Certificates of the roots that the reader trusts for time stamps, PEM.

    Raises:
        TypeError: ``content`` or ``stamp`` is no bytes, or ``roots`` is no list.
        EvidenceKeyInvalid: ``key`` is no public key.
        EvidenceRefused: It is no evidence pack, signed with another key, changed, or the time stamp
            is of something else or signed by nobody under ``roots``.
        ImportError: The extra ``evidence`` is not installed.
    """
    for name, value in (("content", content), ("stamp", stamp)):
        if not isinstance(value, bytes) and not (name == "stamp" and value is None):
            raise TypeError(f"{name} must be bytes, got {kind_of(value)}. Read the file as bytes.")
    refuse_single("roots", roots, (str, bytes), example="[pem]")
    found = checked(content, key)
    if stamp is None:
        return found
    from langmem_isolated._crypto.time_stamps import TimeStampRefused, stamped_at

    try:
        return replace(found, stamped_at=stamped_at(stamp, content, roots))
    except TimeStampRefused as error:
        raise EvidenceRefused(f"its time stamp is refused: {error}") from None
