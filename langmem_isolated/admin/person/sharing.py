"""Sharing: which module reads what of which other, until when; and how that is ended."""

from __future__ import annotations

from starlette.responses import Response
from starlette.routing import Route

from langmem_isolated.admin.person.pages import Mine, Pages
from langmem_isolated.lifecycle import Grant

_WHAT = {
    "message": "conversations",
    "item": "what agents noted",
    "document": "documents",
    "profile": "what is known about you",
}

_NARROWED = {"namespaces": "notes under"}


def routes(pages: Pages) -> list[Route]:
    """What is shared between the user's own modules, and the end of it."""
    return [
        pages.get("/sharing", _list, "sharing"),
        pages.post("/sharing/{grant}", _revoke, "revoke"),
    ]


def _names(grant: Grant) -> tuple[str, ...]:
    return "grant", grant.from_module, grant.to_module


def _list(mine: Mine) -> Response:
    found = [
        (grant, what(grant), narrowed(grant), mine.reference(*_names(grant)))
        for grant in mine.memory.grants.list(**mine.who)
    ]
    return mine.page("sharing", "Who shares with whom", current="sharing", found=found)


def what(grant: Grant) -> str:
    """What is shared, in words."""
    return ", ".join(_WHAT.get(kind, kind) for kind in grant.kinds)


def narrowed(grant: Grant) -> list[str]:
    """What narrows it: which chats, channels and so on alone."""
    return [
        f"{_NARROWED.get(name, name)}: {', '.join(map(_named, values))}"
        for name, values in grant.fields.items()
        if isinstance(values, list)
    ]


def _named(value: object) -> str:
    return " / ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def _revoke(mine: Mine) -> Response:
    grant = mine.meant("grant", mine.memory.grants.list(**mine.who), _names)
    if not mine.visit.is_confirmed:
        said = [
            f"“{grant.to_module}” reads no longer what “{grant.from_module}” has.",
            "What it has read already is not called back.",
        ]
        return mine.ask("End this sharing?", said, "End it", "sharing")
    mine.memory.grants.revoke(from_module=grant.from_module, to_module=grant.to_module, **mine.who)
    return mine.visit.back("sharing")
