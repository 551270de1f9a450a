"""What stands for a message of a session: its place, tag, alias, and part of the sum of all."""

from collections.abc import Iterable

from langmem_isolated._codecs.messages import decode_partially
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database.transactions import Row
from langmem_isolated._storage.container_state import ContainerState, member_part
from langmem_isolated.errors import RecordDoesNotOpen


def channel_of(keys: ScopeKeys, channel: bytes) -> bytes:
    """What the tags of a channel's messages begin with."""
    return keys.pseudonym(Kind.MESSAGE, b"channel", channel)


def channel_tag(keys: ScopeKeys, channel: str | None, written: int | None) -> bytes | None:
    """The tag of a message written to a channel at a time; ``None`` without a channel."""
    if channel is None or written is None:
        return None
    return channel_of(keys, channel.encode()) + written.to_bytes(8)


def message_aad_prefix(keys: ScopeKeys, digest: bytes, state: ContainerState) -> bytes:
    """Where a session's messages stand; those of another life do not open there."""
    return keys.aad_prefix(Kind.MESSAGE, digest, state.birth)


def message_part(
    keys: ScopeKeys, digest: bytes, key: bytes, stored_at: object, plaintext: bytes
) -> int:
    """What a message adds to its session's ``members``."""
    return member_part(keys, Kind.MESSAGE, (digest, key), stored_at, plaintext)


def checked_parts(
    keys: ScopeKeys, digest: bytes, state: ContainerState, rows: Iterable[Row]
) -> list[int]:
    """What messages that are to drop out add to their session's ``members``.

    Args:
        rows: Each its key, sealed bytes, tag and ``updated_at``.

    Raises:
        RecordDoesNotOpen: One was changed or moved, or its row says another channel or time than
            is sealed in it: so that it drops out which would have stayed.
    """
    opener = keys.opener(message_aad_prefix(keys, digest, state), Kind.MESSAGE)
    parts = []
    for key, sealed, tag, stored_at in rows:
        plaintext = opener(key, sealed)
        said = decode_partially(plaintext)
        is_of_row = tag == channel_tag(keys, said.channel, said.written)
        if not is_of_row or said.written not in (None, stored_at):
            raise RecordDoesNotOpen(Kind.MESSAGE.label, "it was put into another channel or time")
        parts.append(message_part(keys, digest, key, stored_at, plaintext))
    return parts


def newest_of(keys: ScopeKeys, digest: bytes, key: bytes, plaintext: bytes) -> bytes:
    """What stands for a message, as its session's newest: 16 bytes."""
    return keys.row_mac(b"newest", digest, key, plaintext)


def alias_of(keys: ScopeKeys, digest: bytes, message_id: str) -> bytes:
    """What finds a message in its session by its id."""
    return keys.pseudonym(Kind.MESSAGE, digest, message_id.encode(errors="surrogatepass"))
