"""Profile pages: facts with their sources, interests, attributes; corrected and forgotten."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import NamedTuple

from starlette.responses import Response
from starlette.routing import Route

from langmem_isolated.admin.person.pages import Handler, Mine, Module, Pages
from langmem_isolated.admin.person.readable import as_text
from langmem_isolated.lifecycle import Fact, Interest, Profile

# What all modules share stands beside the modules, under what no reference is.
SHARED = "shared"
_MOST_DIGITS = 18


def routes(pages: Pages) -> list[Route]:
    """What is known, as sentences and values, and what is done with each of them."""
    below = "/m/{module}/profile"
    return [
        pages.get(below, _profile, "profile"),
        pages.post(f"{below}/facts/{{fact}}", _correct, "correct_fact"),
        pages.post(f"{below}/facts/{{fact}}/forget", _forgetting(_fact), "forget_fact"),
        pages.post(f"{below}/interests/{{interest}}", _forgetting(_interest), "forget_interest"),
        pages.post(
            f"{below}/attributes/{{attribute}}", _forgetting(_attribute), "forget_attribute"
        ),
        pages.post(f"{below}/summary", _forgetting(_summary), "forget_summary"),
    ]


class _Known(NamedTuple):
    """What one module knows, or all of them share."""

    reference: str
    module: Module | None
    profile: Profile

    def names(self, kind: str, name: str) -> tuple[str, ...]:
        """What a reference to a part of it stands for."""
        return kind, self.reference, name


def _known(mine: Mine) -> _Known:
    if mine.visit.request.path_params["module"] == SHARED:
        return _Known(SHARED, None, mine.memory.scope(mine.visit.who).cross_module())
    module = mine.module()
    return _Known(module.reference, module, module.scoped.profile())


def _profile(mine: Mine) -> Response:
    known = _known(mine)
    found = known.profile.contents()

    def reference(kind: str, name: str) -> str:
        return mine.reference(*known.names(kind, name))

    return mine.page(
        "profile",
        "What is known about you" if known.module else "What all modules know",
        current="profile" if known.module else None,
        module=known.module,
        of=known.reference,
        summary=found.summary,
        facts=[(fact, reference("fact", fact.id)) for fact in found.facts],
        interests=[(one, reference("interest", one.name)) for one in found.interests],
        attributes=[
            (name, as_text(value), reference("attribute", name))
            for name, value in found.attributes.items()
        ],
    )


def _meant_fact(mine: Mine, known: _Known) -> Fact:
    facts = known.profile.facts()
    return mine.meant("fact", facts, lambda fact: known.names("fact", fact.id))


def _correct(mine: Mine) -> Response:
    known = _known(mine)
    fact, text = _meant_fact(mine, known), mine.sent("text")
    # As it was when the form was made: what came in between is not written over unseen.
    seen = mine.visit.form.get("revision", "")
    if seen.isascii() and seen.isdigit() and len(seen) <= _MOST_DIGITS:
        fact = replace(fact, revision=int(seen))
    known.profile.correct(fact, text)
    return mine.visit.back("profile", module=known.reference)


Forget = Callable[[Mine, _Known], tuple[str, Callable[[], object]]]
"""What is shown of a part of a profile, and what removes it."""


def _forgetting(part: Forget) -> Handler:
    def forget(mine: Mine) -> Response:
        known = _known(mine)
        shown, remove = part(mine, known)
        if not mine.visit.is_confirmed:
            said = [f"“{shown}”", "It is removed for good."]
            return mine.ask("Forget this?", said, "Forget it", "profile", module=known.reference)
        remove()
        return mine.visit.back("profile", module=known.reference)

    return forget


def _fact(mine: Mine, known: _Known) -> tuple[str, Callable[[], object]]:
    fact = _meant_fact(mine, known)
    return fact.text, lambda: known.profile.remove(fact)


def _interest(mine: Mine, known: _Known) -> tuple[str, Callable[[], object]]:
    found: Iterable[Interest] = known.profile.interests()
    one = mine.meant("interest", found, lambda one: known.names("interest", one.name))
    return one.name, lambda: known.profile.remove_interest(one.name)


def _attribute(mine: Mine, known: _Known) -> tuple[str, Callable[[], object]]:
    found = known.profile.attributes()
    name = mine.meant("attribute", found, lambda name: known.names("attribute", name))
    shown = f"{name}: {as_text(found[name])}"
    return shown, lambda: known.profile.remove_attribute(name)


def _summary(_: Mine, known: _Known) -> tuple[str, Callable[[], object]]:
    return known.profile.summary() or "", lambda: known.profile.set_summary(None)
