"""Names of people, chats and files, as ids and in front of what was said."""

from __future__ import annotations

import unicodedata

_MOST_ID = 200


def one_line(text: str) -> str:
    """A name without line breaks, control characters and marks of direction, in NFC."""
    plain = "".join(
        " " if unicodedata.category(one) in ("Cc", "Zl", "Zp") else one
        for one in unicodedata.normalize("NFC", text)
        if unicodedata.category(one) not in ("Cf", "Cs")
    )
    return " ".join(plain.split())


def id_of(name: str) -> str:
    """A name as the id of a session, for an export that has no ids."""
    return one_line(name).encode()[:_MOST_ID].decode(errors="ignore") or "chat"
