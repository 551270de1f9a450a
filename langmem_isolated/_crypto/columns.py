"""Columns: the values of a row, framed with their types, for the MAC over it."""

from langmem_isolated._crypto.sealing import DigestKey, equal


def framed_column(value: object) -> bytes | None:
    """One value as it goes into a row's MAC: its type, then the value; ``None`` for NULL.

    The type is told, because SQLite keeps what an attacker puts into any column: the bytes of a
    number must not pass for the number.

    Raises:
        TypeError: It is of a type that none of our columns has.
        OverflowError: It is a number of more than 64 bits.
    """
    if value is None:
        return None
    if type(value) is bytes:
        return b"b" + value
    if type(value) is int:
        return b"i" + value.to_bytes(8, signed=True)
    if type(value) is str:
        return b"s" + value.encode()
    raise TypeError(f"a column must hold bytes, an integer or text, got {type(value).__name__}")


def row_mac(key: DigestKey, *columns: object) -> bytes:
    """16 bytes that authenticate ``columns``, their types and their order."""
    return key.digest(*map(framed_column, columns))


def is_authentic(key: DigestKey, mac: object, *columns: object) -> bool:
    """Whether ``mac`` is the :func:`row_mac` of ``columns``, whatever they hold."""
    try:
        return type(mac) is bytes and equal(mac, row_mac(key, *columns))
    except (TypeError, ValueError, OverflowError):
        return False
