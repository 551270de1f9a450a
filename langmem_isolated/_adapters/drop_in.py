"""Drop-in calls: what applications written for LangGraph's own savers and stores call besides."""

import asyncio
from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import Any, ClassVar, NoReturn, Self

from langmem_isolated._runtime.calls import ONE_SCOPE, made_by
from langmem_isolated.errors import ScopeError


def is_in_event_loop() -> bool:
    """Whether an event loop runs in this thread, which what takes long would block."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class Ready:
    """That the tables are there: what :meth:`DropIn.setup` returns, to be awaited or not.

    Args:
        opening: Where a worker thread makes or checks them; ``None`` once that is done.
    """

    def __init__(self, opening: Future[None] | None = None) -> None:
        self._opening = opening

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def __await__(self) -> Generator[Any, None, None]:
        if self._opening is not None:
            yield from asyncio.wrap_future(self._opening).__await__()


class DropIn:
    """What a saver or store of ours answers where LangGraph's own are set up, opened and copied."""

    _made_by: ClassVar[str]
    _set_up: Callable[[], Ready]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__init__" in vars(cls):
            call = f"{cls._made_by}()"
            made_by(f"{ONE_SCOPE}.{call}", f"memory.{call}", first=Callable)(cls)

    def setup(self) -> Ready:
        """Make or check the tables, and prove that the root key fits; also done at first use.

        For ``store.setup()`` as for ``await store.setup()``. Inside an event loop a worker thread
        does it, so as not to block the loop: there ``await`` it to have it done and to meet its
        errors, which otherwise come with the first use.

        Raises:
            RootKeyMismatch: The database was begun with another root key.
            DatabaseError: The database cannot be opened, or has another schema.
        """
        return self._set_up()

    async def asetup(self) -> None:
        """Make or check the tables; see :meth:`setup`."""
        await self._set_up()

    @classmethod
    def from_conn_string(cls, *_: object, **__: object) -> NoReturn:
        """Refuse: the URL of a database does not say whose memory is meant.

        Raises:
            ScopeError: Always; the message has the line to write instead.
        """
        raise ScopeError(
            "from_conn_string() names no scope, and there is no default. Make one memory for the "
            "application, memory = IsolatedMemory(url), and from it "
            f"memory.scope(user_id=…, module_id=…).{cls._made_by}() for one user, or "
            f"memory.{cls._made_by}(), which finds the scope of each call."
        )

    def __copy__(self) -> Self:
        copied = object.__new__(type(self))
        vars(copied).update(vars(self))
        return copied

    def __deepcopy__(self, _: object) -> Self:
        # As those of LangGraph hold one connection, copies share one database: ours has threads
        # and locks, of which there are no copies.
        return self.__copy__()

    def __reduce_ex__(self, _: object) -> NoReturn:
        raise TypeError(
            f"{type(self).__name__} cannot be pickled: it stands on open connections and on keys. "
            "Make one from an IsolatedMemory in each process."
        )
