"""Addresses of checkpoints: ids as the tables know them, as bytes and keyed digests."""

from typing import NamedTuple

from langchain_core.runnables import RunnableConfig

from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._storage.threads.addresses import namespace_parent, thread_digest
from langmem_isolated.errors import ScopeError
from langmem_isolated.scope import checked_thread_id

ID_BYTES = 16
_IN_CONFIG = "thread_id in config['configurable']"


class Address(NamedTuple):
    """A checkpoint's place; without ``checkpoint_id`` the latest of its namespace."""

    thread_id: str
    namespace: str
    checkpoint_id: str | None

    @classmethod
    def of(cls, config: RunnableConfig) -> "Address":
        """The place that a run's config names.

        Raises:
            ScopeError: The thread's id is missing, or one is malformed.
        """
        configurable = config.get("configurable", {})
        return cls(
            checked_thread_id(_IN_CONFIG, configurable.get("thread_id")),
            checked_namespace(configurable.get("checkpoint_ns")) or "",
            configurable.get("checkpoint_id") or None,
        )


def refuse_text(name: str, ids: object) -> None:
    """Refuse a text where ids are listed: each of its letters would count as one.

    Raises:
        TypeError: It is one.
    """
    if isinstance(ids, str):
        raise TypeError(
            f"{name} must be a list of ids, got a str. Write [thread_id]. Nothing was changed."
        )


def checked_namespace(value: object) -> str | None:
    """A ``checkpoint_ns`` as a config has it, which need not have one."""
    if value is not None and type(value) is not str:
        raise ScopeError(f"checkpoint_ns must be a str, got {type(value).__name__}.")
    try:
        (value or "").encode()
    except UnicodeEncodeError:
        raise ScopeError("checkpoint_ns must be text that UTF-8 has a form for.") from None
    return value


def id_bytes(checkpoint_id: str) -> bytes:
    """A checkpoint id as 16 bytes, which sort as its text does.

    Raises:
        ScopeError: It is not a UUID in its canonical form: ids are visible in the database, so they
            must not carry anything else.
    """
    # Through `uuid.UUID` it takes five times as long, and a put does it twice.
    try:
        found = bytes.fromhex(checkpoint_id.replace("-", ""))
    except (ValueError, AttributeError, TypeError):
        found = b""
    if len(found) != ID_BYTES or id_text(found) != checkpoint_id:
        raise ScopeError(
            "checkpoint_id must be a UUID as text in its canonical form, got "
            f"{type(checkpoint_id).__name__}. LangGraph makes such ids."
        )
    return found


def id_text(found: bytes) -> str:
    """The checkpoint id that :func:`id_bytes` was given."""
    digits = found.hex()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def parent_of(keys: ScopeKeys, address: Address) -> bytes:
    """Under what the checkpoints of a namespace stand."""
    return namespace_parent(keys, thread_digest(keys, address.thread_id), address.namespace)
