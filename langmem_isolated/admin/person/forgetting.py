"""Forgetting: everything, or all of one module, once the sentence for it was typed."""

from __future__ import annotations

from starlette.responses import Response
from starlette.routing import Route

from langmem_isolated.admin.person.pages import Mine, Pages

EVERYTHING = "forget everything about me"
ONE_MODULE = "forget this module"


def routes(pages: Pages) -> list[Route]:
    """What would go, and its end."""
    return [
        pages.get("/forget", _explain, "forget"),
        pages.post("/forget", _forget, "forget_me"),
        pages.post("/m/{module}/forget", _forget_module, "forget_module"),
    ]


def is_meant(mine: Mine, sentence: str) -> bool:
    """Whether the sentence was typed; case and white space make no other of it."""
    typed = " ".join(mine.visit.form.get("sentence", "").split())
    return typed.casefold() == sentence


def _explain(mine: Mine) -> Response:
    return _asked(mine, None, 200)


def _asked(mine: Mine, alert: str | None, status: int) -> Response:
    return mine.page(
        "forget",
        "Forget me",
        status=status,
        current="forget",
        alert=alert,
        sentence=EVERYTHING,
    )


def _forget(mine: Mine) -> Response:
    if not is_meant(mine, EVERYTHING):
        return _asked(mine, "That was not the sentence. Nothing was removed.", 400)
    receipt = mine.memory.erase_user(**mine.who)
    title = "You are forgotten" if receipt.is_finished else "Not all is forgotten yet"
    return mine.page("receipt", title, receipt=receipt)


def _forget_module(mine: Mine) -> Response:
    module = mine.module()
    if not is_meant(mine, ONE_MODULE):
        return mine.page(
            "forget_module",
            f"Forget all of “{module.name}”",
            module=module,
            alert="That was not the sentence. Nothing was removed."
            if "sentence" in mine.visit.form
            else None,
            status=400 if "sentence" in mine.visit.form else 200,
            sentence=ONE_MODULE,
        )
    counts = module.scoped.clear()
    return mine.page("cleared", f"“{module.name}” is forgotten", counts=counts)
