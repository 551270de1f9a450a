"""Context manager `using`: a scope for calls that carry none, in a block and never beyond it."""

import inspect
import sys
from contextvars import ContextVar, Token
from types import FrameType

from langmem_isolated.errors import IsolationViolation
from langmem_isolated.scope import Scope

_IN_A_GENERATOR = (
    "A generator must not enter `using`: suspended, it would lend its scope to whoever resumes it. "
    "Use the bound form, memory.scope(…).bind(graph), or wrap the generator with contextlib's "
    "contextmanager or asynccontextmanager. Nothing was entered."
)
_ANOTHER_INSIDE = (
    "`using` was entered inside `using` of another scope. Nothing was entered; leave the outer "
    "block first, or use the bound form for one of the two."
)
_LEFT_ELSEWHERE = (
    "`using` was left in another context than it was entered in, or not in order. It ended "
    "everywhere: what it stood for has no scope any more. Enter and leave it in one task or "
    "thread, by `with`."
)


class _Entry:
    """One time that a block was entered."""

    __slots__ = ("is_void", "outer", "scope", "token", "using")

    def __init__(self, using: "Using", scope: Scope, outer: "_Entry | None") -> None:
        self.using = using
        self.scope = scope
        self.outer = outer
        self.is_void = False
        self.token: Token[_Entry | None]


_around: ContextVar[_Entry | None] = ContextVar("langmem_isolated_using", default=None)


def surrounding_scope() -> Scope | None:
    """The scope of the block around, if there is one that was not ended elsewhere."""
    entry = _around.get()
    return None if entry is None or entry.is_void else entry.scope


class Using:
    """Lets a scope stand for calls that carry none, within the block and what it starts.

    For ``with`` and ``async with``. One object serves any number of threads and tasks: each entry
    is one of its own, and ends in the context that it began in.

    Raises:
        IsolationViolation: On entering: a block of another scope is around, or a generator enters.
            On leaving: it was entered in another context, or not left in order; then it is void
            everywhere. An error on its way out of the block is not replaced.
    """

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._entries: set[_Entry] = set()

    def __enter__(self) -> Scope:
        _refuse_generators(sys._getframe(1))  # noqa: SLF001 - CPython has it for this
        outer = _around.get()
        if outer is not None and not outer.is_void and outer.scope != self._scope:
            raise IsolationViolation(_ANOTHER_INSIDE)
        entry = _Entry(self, self._scope, outer)
        self._entries.add(entry)
        entry.token = _around.set(entry)
        return self._scope

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        entry = _around.get()
        if entry is not None and entry.using is self and _left(entry):
            self._entries.discard(entry)
            return
        self._end_everywhere(entry)
        if error is None:
            raise IsolationViolation(_LEFT_ELSEWHERE)
        # Who ended the block must learn of that first.
        error.add_note(_LEFT_ELSEWHERE)

    async def __aenter__(self) -> Scope:
        return self.__enter__()

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self.__exit__(kind, error, traceback)

    def _end_everywhere(self, entry: _Entry | None) -> None:
        """Void every entry of this object, in whichever context, and those inside of them."""
        around = []
        while entry is not None:
            around.append(entry)
            entry = entry.outer
        # A context that knows nothing of this object is another's: a collected generator may end
        # here by chance.
        if any(one.using is self for one in around):
            _around.set(None)
            self._entries.update(around)
        for one in self._entries:
            one.is_void = True
        self._entries.clear()


def _left(entry: _Entry) -> bool:
    try:
        _around.reset(entry.token)
    except (ValueError, RuntimeError):
        # Entered in another context, of which this one is a copy; or left already.
        return False
    return True


def _refuse_generators(frame: FrameType | None) -> None:
    """Refuse if a generator enters, by itself or through a context manager's own ``__enter__``."""
    while frame is not None:
        if _is_generator(frame):
            if frame.f_back is None or not _is_entering_contextlib(frame.f_back):
                raise IsolationViolation(_IN_A_GENERATOR)
        elif not _enters_for_another(frame):
            return
        frame = frame.f_back


def _is_generator(frame: FrameType) -> bool:
    flags = frame.f_code.co_flags
    is_any = flags & (inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR)
    # What `types.coroutine` marks is awaited, not resumed by whoever likes.
    return bool(is_any) and not flags & inspect.CO_ITERABLE_COROUTINE


def _is_entering_contextlib(frame: FrameType) -> bool:
    return frame.f_globals.get("__name__") == "contextlib" and _is_entering(frame)


def _is_entering(frame: FrameType) -> bool:
    return frame.f_code.co_name in ("__enter__", "__aenter__")


def _enters_for_another(frame: FrameType) -> bool:
    return frame.f_globals.get("__name__") in ("contextlib", __name__) or _is_entering(frame)
