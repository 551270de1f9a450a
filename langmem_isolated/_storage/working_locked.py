"""Which operations work for a locked user: those that read no content."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from langmem_isolated.errors import MemoryLocked

F = TypeVar("F", bound=Callable[..., Any])


def works_locked(operation: F) -> F:
    """Mark an operation that opens nothing of what the user alone has the keys of.

    A read without the mark is refused for a locked user, also where there is nothing to open: an
    empty answer would look like an empty memory.
    """
    operation.works_locked = True  # type: ignore[attr-defined]
    return operation


def refuse_if_it_reads(operation: Callable[..., Any], named: Mapping[str, Any]) -> None:
    """Refuse an operation without the mark, unless the kind it is given is one the server holds.

    Args:
        operation: What is about to be run, or a `partial` of it.
        named: Its arguments by name.

    Raises:
        MemoryLocked: It reads content.
    """
    kind = {**getattr(operation, "keywords", {}), **named}.get("kind")
    body = getattr(operation, "func", operation)
    if not getattr(body, "works_locked", False) and not getattr(kind, "is_server_held", False):
        raise MemoryLocked
