"""Profile codec: facts, interests, attributes and a summary of a user, as versioned bytes."""

import unicodedata
from collections.abc import Mapping
from typing import Any

from langmem_isolated._codecs.values import decode_value, encode_value
from langmem_isolated._codecs.versions import later_form

PROFILE_V1 = b"\x01"


def encode_profile_entry(fields: Mapping[str, Any]) -> bytes:
    """One entry of a profile, a map of its fields, as versioned bytes.

    Raises:
        ValueNotStorable: A field has no stored form.
    """
    return PROFILE_V1 + encode_value(dict(fields), "a profile")


def decode_profile_entry(plaintext: bytes) -> dict[str, Any]:
    """What :func:`encode_profile_entry` was given.

    Raises:
        RecordError: A later version of this package wrote it in another form.
    """
    if plaintext[:1] != PROFILE_V1:
        raise later_form("profile's entry", plaintext[:1], PROFILE_V1)
    fields: dict[str, Any] = decode_value(plaintext[1:])
    return fields


def folded(text: str) -> str:
    """``text`` without what makes no other fact of it: case, form of characters, white space."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
