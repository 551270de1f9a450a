"""Pages of one's own memory: who visits, which modules there are, what references stand for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypedDict, TypeVar

from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from langmem_isolated.admin.web.endpoints import Endpoints, Visit
from langmem_isolated.errors import (
    LegalHold,
    MemoryLocked,
    NotShared,
    ProfileEntryChanged,
    ProfileEntryNotFound,
    SessionNotFound,
    ThreadNotFound,
)
from langmem_isolated.memory import IsolatedMemory
from langmem_isolated.scope import Scope
from langmem_isolated.scoped_memory import ScopedMemory

Named = TypeVar("Named")

MINUTES = (5, 15, 60)
"""For how long a locked memory may be opened."""
SECONDS = 2.0
"""For how long it is waited for a place: who waits keeps a thread that others need."""
THE_USER = "the user"
"""Who acts here, for the audit log; whose memory it is, the entry says by its scope."""
# Of what there never was and of what is another's the same is said.
NOT_HERE = "There is no such page, or not any more."
_CHANGED = "This was changed meanwhile. Nothing was done; load the page anew."
_HELD = (
    "Your memory is on legal hold: it may not be removed now. Nothing was removed. Whoever runs "
    "this application can tell you more."
)
_ABSENT = (NotShared, ProfileEntryNotFound, SessionNotFound, ThreadNotFound)


class Who(TypedDict):
    """User and project, as calls for operators take them."""

    user_id: str
    project_id: str


class Module(NamedTuple):
    """One of the modules that remember something."""

    name: str
    reference: str
    scoped: ScopedMemory


@dataclass(frozen=True, slots=True)
class Mine:
    """A visit of somebody to their own memory; whose it is, authentication alone has said."""

    memory: IsolatedMemory = field(repr=False)
    visit: Visit[Scope] = field(repr=False)

    @property
    def who(self) -> Who:
        """Whose memory it is."""
        return Who(user_id=self.visit.who.user_id, project_id=self.visit.who.project_id)

    @property
    def form(self) -> dict[str, str]:
        """What was sent."""
        return {**self.visit.form}

    def sent(self, name: str) -> str:
        """A field that was sent, without white space around it.

        Raises:
            HTTPException: 400, it is empty or missing.
        """
        value = self.visit.form.get(name, "").strip()
        if not value:
            raise HTTPException(400, f"Nothing was written into “{name}”. Nothing was done.")
        return value

    def modules(self) -> list[Module]:
        """The modules that remember something, that of the request's scope first."""
        names = self.memory.modules(**self.who)
        return [self._named(name) for name in sorted(names, key=self._is_another)]

    def _is_another(self, name: str) -> bool:
        return name != self.visit.who.module_id

    def _named(self, name: str) -> Module:
        reference = self.reference("module", name)
        return Module(name, reference, self.memory.scope(module_id=name, **self.who))

    def module(self) -> Module:
        """The module that the path names.

        Raises:
            HTTPException: 404, this user has none of that reference.
        """
        return self.meant("module", self.modules(), lambda one: ("module", one.name))

    def reference(self, *names: str) -> str:
        """What stands for something of this user's in paths; another user's is another."""
        who = self.visit.who
        return self.visit.signer.reference(who.project_id, who.user_id, *names)

    def meant(
        self, part: str, found: Iterable[Named], names: Callable[[Named], tuple[str, ...]]
    ) -> Named:
        """That one of ``found`` which a part of the path stands for.

        Raises:
            HTTPException: 404, there is none.
        """
        who = self.visit.who
        given = str(self.visit.request.path_params[part])
        one = self.visit.signer.named_by(
            given, found, lambda one: (who.project_id, who.user_id, *names(one))
        )
        if one is None:
            raise HTTPException(404, NOT_HERE)
        return one

    def number(self, name: str, default: int = 1, most: int = 100_000) -> int:
        """A whole number of the address, 1 or more; ``default`` where there is none."""
        given = self.visit.request.query_params.get(name, "")
        is_number = given.isascii() and given.isdigit() and len(given) <= len(str(most))
        return min(max(int(given), 1), most) if is_number else default

    def ask(self, title: str, said: list[str], button: str, back: str, **parts: str) -> Response:
        """Ask whether what was sent is meant; who does not mean it goes back to a page."""
        cancel = self.visit.path(back, **parts)
        return self.visit.ask(title, consequences=said, button=button, cancel=cancel)

    def page(self, template: str, title: str, **values: Any) -> HTMLResponse:
        """A page with the navigation of all."""
        shown = {"module": None, "current": None, "alert": None, **values}
        return self.visit.page(f"person/{template}.html", title=title, **shown)


Handler = Callable[[Mine], Response]


@dataclass(frozen=True, slots=True)
class Pages:
    """What turns handlers of one's own memory into routes: who acts, locks, what is told."""

    memory: IsolatedMemory
    endpoints: Endpoints[Scope]

    def get(self, path: str, handler: Handler, name: str) -> Route:
        """A page; asking for it changes nothing."""
        return self.endpoints.get(path, self._own(handler), name)

    def post(self, path: str, handler: Handler, name: str) -> Route:
        """An action."""
        return self.endpoints.post(path, self._own(handler), name)

    def _own(self, handler: Handler) -> Callable[[Visit[Scope]], Response]:
        def answer(visit: Visit[Scope]) -> Response:
            mine = Mine(self.memory, visit)
            with self.memory.audit.acting_as(THE_USER):
                try:
                    return handler(mine)
                except MemoryLocked:
                    return mine.page("locked", "Locked", status=423, minutes=MINUTES)
                except LegalHold:
                    raise HTTPException(409, _HELD) from None
                except ProfileEntryChanged:
                    raise HTTPException(409, _CHANGED) from None
                except _ABSENT:
                    raise HTTPException(404, NOT_HERE) from None

        return answer


@contextmanager
def a_place_in(room: threading.BoundedSemaphore) -> Iterator[None]:
    """Take one of the places that there are for what needs much memory, or long.

    Raises:
        HTTPException: 503, none became free in time.
    """
    if not room.acquire(timeout=SECONDS):
        raise HTTPException(503, "Too many do this just now. Nothing was done; try it again.")
    try:
        yield
    finally:
        room.release()


def page_of(found: Sequence[Named], number: int, size: int) -> tuple[Sequence[Named], int | None]:
    """The page of that number, from 1 on, and the number of the next one, if there is one."""
    end = number * size
    return found[end - size : end], number + 1 if len(found) > end else None
