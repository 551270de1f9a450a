"""Locks: a passphrase without which nobody reads one's memory, and what is done with it."""

from __future__ import annotations

import threading
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route

from langmem_isolated.admin.person.pages import MINUTES, Handler, Mine, Pages, a_place_in

# Argon2id takes 64 MiB for each passphrase: so many are stretched at once in this process. What
# seals all anew takes longer, and keeps nobody from opening a lock.
_AT_ONCE = 4
_opening, _sealing = (threading.BoundedSemaphore(_AT_ONCE) for _ in range(2))


def routes(pages: Pages) -> list[Route]:
    """Whether there is a lock, and what makes, opens, closes, changes and removes it."""
    return [
        pages.get("/lock", _show, "lock"),
        pages.post("/lock", _with_secret(_lock, _sealing), "make_lock"),
        pages.post("/lock/open", _with_secret(_unlock, _opening), "unlock"),
        pages.post("/lock/close", _close, "close_lock"),
        pages.post("/lock/change", _with_secret(_change, _opening), "change_lock"),
        pages.post("/lock/remove", _with_secret(_remove, _sealing), "remove_lock"),
    ]


def _show(mine: Mine, alert: str | None = None, status: int = 200) -> Response:
    return mine.page(
        "lock",
        "Lock with a passphrase",
        status=status,
        current="lock",
        alert=alert,
        lock=mine.memory.lock_state(**mine.who),
        minutes=MINUTES,
    )


def _with_secret(handler: Handler, room: threading.BoundedSemaphore) -> Handler:
    """A handler that is given a secret: one that does not fit is told on the page."""

    def answer(mine: Mine) -> Response:
        with a_place_in(room):
            try:
                return handler(mine)
            except ValueError as error:
                # What the library says of secrets has none of it.
                return _show(mine, str(error), 409)

    return answer


def _secret(mine: Mine) -> dict[str, Any]:
    """What opens the lock: the passphrase, or the recovery code where one was written."""
    passphrase, recovery = (mine.form.get(name, "") for name in ("passphrase", "recovery"))
    if recovery.strip():
        return {"recovery": recovery.strip()}
    if not passphrase:
        raise HTTPException(400, "Write your passphrase, or your recovery code.")
    return {"passphrase": passphrase}


def _new_passphrase(mine: Mine) -> str:
    new, again = (mine.form.get(name, "") for name in ("new", "again"))
    if not new or new != again:
        raise ValueError("The two passphrases are not the same, or empty. Nothing was changed.")
    return new


def _lock(mine: Mine) -> Response:
    made = mine.memory.lock_with(passphrase=_new_passphrase(mine), **mine.who)
    return mine.page("recovery_code", "Write this down", code=made.recovery_code)


def _unlock(mine: Mine) -> Response:
    given = mine.form.get("minutes", "")
    minutes = next((number for number in MINUTES if str(number) == given), MINUTES[0])
    mine.memory.unlock(seconds=minutes * 60, **_secret(mine), **mine.who)
    return mine.visit.back("overview")


def _close(mine: Mine) -> Response:
    mine.memory.lock(**mine.who)
    return mine.visit.back("overview")


def _change(mine: Mine) -> Response:
    code = mine.memory.change_secret(
        new_passphrase=_new_passphrase(mine), new_recovery=True, **_secret(mine), **mine.who
    )
    return mine.page("recovery_code", "Write this down", code=code)


def _remove(mine: Mine) -> Response:
    mine.memory.remove_lock(**_secret(mine), **mine.who)
    return mine.visit.back("lock")
