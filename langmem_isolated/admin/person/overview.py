"""Overview: how much each module remembers, since when, and for how long."""

from __future__ import annotations

from starlette.responses import Response
from starlette.routing import Route

from langmem_isolated._runtime.session_rules import SessionRules
from langmem_isolated.admin.person.pages import MINUTES, Mine, Pages
from langmem_isolated.admin.web.templates import span
from langmem_isolated.lifecycle import Policy, RetentionApplied

_NAMES = {
    "message": "Messages",
    "session": "Chats",
    "thread": "Agent conversations",
    "checkpoint": "Earlier states of agent conversations",
    "item": "Notes of agents",
    "document": "Documents",
    "entry": "Cached answers",
    "receipt": "Receipts of merges",
}


def routes(pages: Pages) -> list[Route]:
    """The first page, and one for each module."""
    return [
        pages.get("/", _overview, "overview"),
        pages.get("/m/{module}", _module, "module"),
        pages.get("/kept", _retention, "retention"),
    ]


def _overview(mine: Mine) -> Response:
    counted = [(one, one.scoped.stats(days=1).total) for one in mine.modules()]
    lock = mine.memory.lock_state(**mine.who)
    return mine.page(
        "overview",
        "What is remembered about you",
        current="overview",
        counted=counted,
        lock=lock,
        minutes=MINUTES,
    )


def _module(mine: Mine) -> Response:
    module = mine.module()
    total = module.scoped.stats(days=1).total
    kept = in_words(module.scoped.retention())
    return mine.page("module", module.name, current="module", module=module, total=total, kept=kept)


def _retention(mine: Mine) -> Response:
    found = [(one, one.scoped.retention()) for one in mine.modules()]
    return mine.page(
        "retention",
        "How long it is kept",
        current="retention",
        kept=[(one, in_words(applied)) for one, applied in found],
        is_held=any(applied.has_legal_hold for _, applied in found),
    )


def in_words(applied: RetentionApplied) -> list[str]:
    """What applies in one module, a sentence each."""
    return [*map(_policy, applied.policies), *_rules(applied.session_rules)]


def _policy(policy: Policy) -> str:
    name = _NAMES.get(policy.kind, policy.kind)
    where = f"{name} of the channel “{policy.channel}”" if policy.channel else name
    told = []
    if policy.age is not None:
        told.append(f"are removed after {span(policy.age)}")
    if policy.idle is not None:
        told.append(f"are removed when nothing was done in them for {span(policy.idle)}")
    if policy.keep_latest is not None:
        told.append(f"are kept up to the newest {policy.keep_latest:,}")
    return f"{where} {', and '.join(told)}."


def _rules(rules: SessionRules) -> list[str]:
    told = []
    if rules.idle is not None:
        told.append(f"Chats are removed when nothing is said in them for {span(rules.idle)}.")
    if rules.absolute is not None:
        told.append(f"Chats are removed {span(rules.absolute)} after they began.")
    if rules.max_sessions is not None:
        told.append(f"The newest {rules.max_sessions:,} chats are kept, and those that are pinned.")
    told += [
        f"Of the channel “{channel}” the newest {limit:,} messages of a chat are kept."
        for channel, limit in rules.channel_limits.items()
    ]
    return told
