"""Operations: what observers and the log are told of each call on memory; never its content."""

import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sized
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import wraps
from operator import attrgetter
from typing import Any, Protocol, TypeVar, cast

_log = logging.getLogger("langmem_isolated.operations")
# Its own: records of operations have their four fields and nothing else.
_log_of_observers = logging.getLogger("langmem_isolated.observers")

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
        """A context that the operation runs in; what the operation raises passes through.

        What an observer raises of its own goes no further: an operation that was stored and yet
        raises is done again.
        """


class Operations:
    """The operations of one memory, and who observes them: nobody, if nobody asked to."""

    def __init__(self) -> None:
        self.observers: tuple[Observer, ...] = ()
        # Ids of projects of a verification's canaries: what is in them is nobody's memory.
        self.left_out: set[str] = set()
        self._failures: set[str] = set()

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
                    stack.enter_context(self._unharmed(observer, operation))
                yield operation
            told = "An operation ended."
        finally:
            _tell(told, operation, begun)

    @contextmanager
    def _unharmed(self, observer: Observer, operation: Operation) -> Iterator[None]:
        """An observer's context, whose own failures end with it."""
        try:
            context = observer.observe(operation)
            context.__enter__()
        except Exception as failure:  # noqa: BLE001 - processors and samplers raise anything
            self._failed(failure)
            yield
            return
        try:
            yield
        except BaseException as error:
            self._leave(context, error)
            raise
        self._leave(context, None)

    def _leave(self, context: AbstractContextManager[None], error: BaseException | None) -> None:
        raised = (None, None, None) if error is None else (type(error), error, error.__traceback__)
        try:
            context.__exit__(*raised)
        except Exception as failure:  # noqa: BLE001 - as above
            if failure is not error:
                self._failed(failure)

    def _failed(self, failure: Exception) -> None:
        """Say once of each type that an observer failed: it may at every operation."""
        name = error_name(failure)
        if name not in self._failures:
            self._failures.add(name)
            with suppress(Exception):
                _log_of_observers.error(
                    "An observer failed (%s) and was not told of an operation, which went on. "
                    "Further failures of this type are not reported.",
                    name,
                )


def error_name(error: BaseException) -> str:
    """The name of the first class of an error, from its own to its bases, that a module has.

    One made at run time may be named after a person, and there may be any number of them.
    """
    named = (one.__qualname__ for one in type(error).__mro__ if _is_in_its_module(one))
    return next(named, "BaseException")


def _is_in_its_module(kind: type) -> bool:
    # By dicts: a module's own __getattr__ may run anything.
    found: Any = sys.modules.get(str(kind.__module__))
    for part in kind.__qualname__.split("."):
        found = getattr(found, "__dict__", {}).get(part)
    return found is kind


def _tell(told: str, operation: Operation, begun: float) -> None:
    if _log.isEnabledFor(logging.DEBUG):
        fields = {
            "operation": operation.name,
            "kind": operation.kind,
            "count": operation.count,
            "milliseconds": round((time.perf_counter() - begun) * 1000, 3),
        }
        # A record factory that sets one of these fields, a filter or a handler may raise: what was
        # stored would be done again.
        with suppress(Exception):
            _log.debug(told, extra=fields)


def given(_: Any, *arguments: Any) -> int | None:
    """How many records a method was given, by position or name: as many as are in a collection."""
    collections = (one for one in arguments[1:] if isinstance(one, Sized))
    return next((len(one) for one in collections if not isinstance(one, str)), None)


def found(result: Any, *_: Any) -> int:
    """How many records a body returned: as many as are in it; of one alone 1, of ``None`` 0."""
    if result is None:
        return 0
    return len(result) if isinstance(result, list | dict) else 1


def present(result: Any, *_: Any) -> int:
    """How many of the places that were asked for have a record: it answers for each."""
    return sum(one is not None and one is not False for one in result)


def counted(result: int, *_: Any) -> int:
    """How many records there were, where a body returns that."""
    return result


def summed(result: Mapping[str, int], *_: Any) -> int:
    """How many records there were, where a body returns that of each kind."""
    return sum(result.values())


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
        count: Counts records by what is returned and the arguments; not known if it raises.
        records: Where the object has its records, or what finds them among all arguments.
    """
    # Of a name by the first argument alone.
    find: Any = attrgetter(records) if isinstance(records, str) else records
    most = 1 if isinstance(records, str) else None

    def decorated(body: F) -> F:
        @wraps(body)
        def call(*args: Any, **kwargs: Any) -> Any:
            whose = find(*args[:most])
            operations: Operations = whose.operations
            # Written out: as a property it would cost 50 ns more, at every operation of everybody.
            if not (operations.observers or _log.isEnabledFor(logging.DEBUG)):
                return body(*args, **kwargs)
            called = name if isinstance(name, str) else name(args[0])
            about = kind if isinstance(kind, str) else kind(args[0])
            with operations.observing(called, about, whose.owner) as operation:
                result = body(*args, **kwargs)
                if count is not None:
                    # A caller's own collection may refuse to be counted, after it was stored.
                    with suppress(Exception):
                        operation.count = count(result, *args, *kwargs.values())
                return result

        return cast("F", call)

    return decorated
