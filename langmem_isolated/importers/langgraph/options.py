"""Options of the sources of LangGraph: which history, which classes, and the key of the rows."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import get_args

from langmem_isolated._codecs.stock_serializer import StockSerializer, Unknown
from langmem_isolated._crypto.foreign_aes import KEY_BYTES, ForeignAes
from langmem_isolated.errors import SourceRefused

HISTORIES = ("full", "latest")


def checked_history(history: str) -> str:
    """Refuse what is neither ``"full"`` nor ``"latest"``.

    Raises:
        SourceRefused: It is another.
    """
    if history not in HISTORIES:
        raise SourceRefused("history= is neither full nor latest", "Give one of the two.")
    return history


def class_name(allowed: str | type) -> str:
    """What a class that is allowed is called: its module and qualified name."""
    if isinstance(allowed, str):
        return allowed
    return f"{allowed.__module__}.{allowed.__qualname__}"


def stock_serializer(
    allow: Iterable[str | type], unknown: Unknown, key_env: str | None, key_file: Path | str | None
) -> StockSerializer:
    """A reader of rows with these options; see `StockSerializer`.

    Args:
        allow: Classes of the application that may be rebuilt.
        unknown: What becomes of others.
        key_env: Name of the variable that has the key, as ``LANGGRAPH_AES_KEY`` has it.
        key_file: File that has the key's bytes.

    Raises:
        SourceRefused: An option is malformed, or there is no key where it should be.
    """
    if unknown not in get_args(Unknown):
        raise SourceRefused("unknown= is neither reject nor data", "Give one of the two.")
    key = _key(key_env, key_file)
    decrypt = None if key is None else key.open
    return StockSerializer(allow, unknown=unknown, decrypt=decrypt)


def refuse_without_key(serializer: StockSerializer, rows: Iterable[tuple[object]]) -> None:
    """Refuse a source whose first row is encrypted, where no key was given.

    Raises:
        SourceRefused: It is that: each of its rows would be a reject.
    """
    if any(serializer.needs_key(kind) for (kind,) in rows):
        raise SourceRefused(
            "The rows are encrypted by EncryptedSerializer, and no key is given",
            "Give it by key_env= or key_file=, on the command line --key-env or --key-file.",
        )


def _key(key_env: str | None, key_file: Path | str | None) -> ForeignAes | None:
    if key_env is None and key_file is None:
        return None
    if key_env is not None and key_file is not None:
        raise SourceRefused("key_env= and key_file= are given", "Give one of the two.")
    key = _of_file(Path(key_file)) if key_file is not None else _of_environment(str(key_env))
    try:
        return ForeignAes(key)
    except ValueError as error:
        raise SourceRefused(
            f"{error}"[:1].upper() + f"{error}"[1:], "Give the one that EncryptedSerializer had."
        ) from None


def _of_environment(name: str) -> bytes:
    key = os.environ.get(name)
    if key is None:
        raise SourceRefused("The variable that key_env= names is not set", "Set it to the key.")
    return key.encode()


def _of_file(path: Path) -> bytes:
    try:
        key = path.read_bytes()
    except OSError as error:
        raise SourceRefused(
            f"The file of key_file= cannot be read: {error.strerror}", "Give one with the key."
        ) from None
    # An editor ends a file with a line break.
    return key if len(key) in KEY_BYTES else key.rstrip(b"\r\n")
