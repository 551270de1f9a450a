"""Operations: what observers and the log are told of each call on memory; never its content."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import wraps
from operator import attrgetter
from typing import Any, Protocol, TypeVar, cast

_log = logging.getLogger("langmem_isolated.operations")

F = TypeVar("F", bound=Callable[..., Any])
Count = Callable[..., int | None]


class Operation:
    """One call on memory, as it is told of."""

    __slots__ = ("count", "kind", "name", "owner")

    def __init__(self, name: str, kind: str, owner: Any) -> None:
        self.name = name
        """As OpenTelemetry's conventions for generative AI call it, where they have a name."""
        self.kind = kind
        """What it is about: ``"message"``, ``"checkpoint"``, ``"document"``."""
        self.owner = owner
        """Whose memory; ``None`` for everybody's. Never told as it is: a digest stands for it."""
        self.count: int | None = None
        """How many records were given or found, as far as that is known when it ends."""


class Observer(Protocol):
    """Who is told of each operation."""

    def observe(self, operation: Operation) -> AbstractContextManager[None]:
        """A context that the operation runs in; what it raises passes through."""


class Operations:
    """The operations of one memory, and who observes them: nobody, if nobody asked to."""

    def __init__(self) -> None:
        self.observers: tuple[Observer, ...] = ()
        # Ids of projects of a verification's canaries: what is in them is nobody's memory.
        self.left_out: set[str] = set()

    @contextmanager
    def observing(self, name: str, kind: str, owner: Any) -> Iterator[Operation]:
        """A context for one operation: observers are in it, and the log is told of its end."""
        operation = Operation(name, kind, owner)
        if owner is not None and owner.project in self.left_out:
            yield operation
            return
        begun = time.perf_counter()
        told = "An operation failed."
        try:
            with ExitStack() as stack:
                for observer in self.observers:
                    stack.enter_context(observer.observe(operation))
                yield operation
            told = "An operation ended."
        finally:
            _tell(told, operation, begun)


def _tell(told: str, operation: Operation, begun: float) -> None:
    if _log.isEnabledFor(logging.DEBUG):
        milliseconds = round((time.perf_counter() - begun) * 1000, 3)
        _log.debug(
            told,
            extra={
                "operation": operation.name,
                "kind": operation.kind,
                "count": operation.count,
                "milliseconds": milliseconds,
            },
        )


def given(_: Any, *arguments: Any) -> int | None:
    """How many records a method was given: the length of its first argument, if it has one."""
    return len(arguments[1]) if len(arguments) > 1 and hasattr(arguments[1], "__len__") else None


def found(result: Any, *_: Any) -> int:
    """How many records a body returned: as many as are in it; of one alone 1, of ``None`` 0."""
    if result is None:
        return 0
    return len(result) if isinstance(result, list | dict) else 1


def counted(result: int, *_: Any) -> int:
    """How many records there were, where a body returns that."""
    return result


def one(*_: Any) -> int:
    """One record."""
    return 1


def observed(
    name: str | Callable[[Any], str],
    kind: str | Callable[[Any], str],
    count: Count | None = None,
    *,
    records: str | Callable[..., Any] = "_records",
) -> Callable[[F], F]:
    """A decorator: each call is an operation on the records of one owner.

    On the synchronous bodies that both doors share, so that the asynchronous one is observed too:
    in a worker thread, in the context of its caller.

    Args:
        name: What the operation is called, or what says so of the first argument.
        kind: What it is about, likewise.
        count: Counts records by what is returned and the arguments.
        records: Where the object has its records, or what finds them among all arguments.
    """
    find = attrgetter(records) if isinstance(records, str) else None

    def decorated(body: F) -> F:
        @wraps(body)
        def call(*args: Any, **kwargs: Any) -> Any:
            whose = find(args[0]) if find else cast("Callable[..., Any]", records)(*args)
            operations: Operations = whose.operations
            # Written out: as a property it would cost 50 ns more, at every operation of everybody.
            if not (operations.observers or _log.isEnabledFor(logging.DEBUG)):
                return body(*args, **kwargs)
            called = name if isinstance(name, str) else name(args[0])
            about = kind if isinstance(kind, str) else kind(args[0])
            with operations.observing(called, about, whose.owner) as operation:
                result = body(*args, **kwargs)
                if count is not None:
                    operation.count = count(result, *args)
                return result

        return cast("F", call)

    return decorated
