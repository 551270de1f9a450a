"""Comparison: what two or more modules know of one user, side by side."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from langmem_isolated._adapters.context import MemoryContext
from langmem_isolated._codecs.profiles import folded
from langmem_isolated._crypto.owners import Level, Owner
from langmem_isolated._runtime.arguments import refuse_single
from langmem_isolated._runtime.calls import made_by
from langmem_isolated._storage.scoped_database import ScopedDatabase
from langmem_isolated.lifecycle.profiles.overview import Overview, overview_of
from langmem_isolated.lifecycle.profiles.reader import ProfileReader
from langmem_isolated.lifecycle.profiles.values import ProfileContents
from langmem_isolated.scope import Scope, checked_id
from langmem_isolated.sessions import Sessions

_COUNTED = ("conversations", "messages", "threads", "documents", "last_activity")
_EXAMPLE = 'modules=["tutor", "planner"]'


class SessionSummary(NamedTuple):
    """What a module made of one chat session."""

    session_id: str
    title: str | None
    summary: str

    def __repr__(self) -> str:
        return "SessionSummary(…)"


@dataclass(frozen=True, slots=True)
class ModuleKnowledge:
    """What one module has of a user; the ``repr`` has numbers alone."""

    module_id: str = field(repr=False)
    overview: Overview
    profile: ProfileContents
    session_summaries: tuple[SessionSummary, ...] = field(repr=False)
    """Of the newest 100 sessions, newest first."""


class ComparedRow(NamedTuple):
    """One thing that a module may know, and what each of the modules has of it."""

    aspect: str
    """``"fact"``, ``"interest"``, ``"attribute"``, ``"summary"``, or the name of a count."""
    name: str
    """Of the attribute; otherwise empty."""
    values: tuple[Any, ...]
    """One for each module, in the order of ``modules``; ``None`` where it has none."""

    def __repr__(self) -> str:
        return f"ComparedRow(aspect={self.aspect!r})"


@made_by("memory.compare_modules(user_id=…)", first=tuple)
@dataclass(frozen=True, slots=True)
class ModuleComparison:
    """What a user's modules know, side by side.

    >>> scope.profile().add_facts(["Likes chess.", "Has a test."])
    [Fact(...), Fact(...)]
    >>> _ = scope.module("planner").profile().add_fact("likes chess.")
    >>> found = memory.compare_modules(user_id="alice")
    >>> found.module_ids
    ('planner', 'tutor')
    >>> [row.values for row in found.rows() if row.aspect == "fact"]
    [('likes chess.', 'Likes chess.'), (None, 'Has a test.')]
    """

    modules: tuple[ModuleKnowledge, ...]
    """By id, or in the order that was asked for."""
    notebook: ProfileContents
    """What all modules share; see :meth:`ScopedMemory.cross_module`."""

    @property
    def module_ids(self) -> tuple[str, ...]:
        """The ids of the modules."""
        return tuple(one.module_id for one in self.modules)

    def rows(self) -> list[ComparedRow]:
        """Counts, summaries, attributes, interests and facts; the same thing stands in one row."""
        profiles = [one.profile for one in self.modules]
        counted = (
            ComparedRow(name, "", tuple(getattr(one.overview, name) for one in self.modules))
            for name in _COUNTED
        )
        summaries = tuple(profile.summary for profile in profiles)
        return [
            *counted,
            *([ComparedRow("summary", "", summaries)] if any(summaries) else []),
            *_attributes(profiles),
            *_alike("interest", [[one.name for one in known.interests] for known in profiles]),
            *_alike("fact", [[one.text for one in known.facts] for known in profiles]),
        ]


def _attributes(profiles: Sequence[ProfileContents]) -> Iterator[ComparedRow]:
    for name in sorted({name for profile in profiles for name in profile.attributes}):
        yield ComparedRow("attribute", name, tuple(p.attributes.get(name) for p in profiles))


def _alike(aspect: str, texts: Sequence[Sequence[str]]) -> Iterator[ComparedRow]:
    """A row for each text that some module has; case and white space make no other."""
    by_module = [{folded(text): text for text in of_module} for of_module in texts]
    for told in dict.fromkeys(told for of_module in by_module for told in of_module):
        yield ComparedRow(aspect, "", tuple(of_module.get(told) for of_module in by_module))


def compared(
    context: MemoryContext, user_id: str, project_id: str, modules: Iterable[str] | None
) -> ModuleComparison:
    """What a user's modules know; see :meth:`MemoryLifecycle.compare_modules`."""
    user = Owner(Level.USER, checked_id("project_id", project_id), checked_id("user_id", user_id))
    if modules is None:
        owners = context.keyring.owners(user)
        modules = sorted(o.module for o in owners if o.level is Level.PRIVATE and o.module)
    refuse_single("modules", modules, (), example=_EXAMPLE)
    scopes = [Scope(user_id, module, project_id=project_id) for module in dict.fromkeys(modules)]
    known = tuple(_known(scope, context.private(scope)) for scope in scopes)
    return ModuleComparison(known, ProfileReader(context.records(user)).contents())


def _known(scope: Scope, records: ScopedDatabase) -> ModuleKnowledge:
    return ModuleKnowledge(
        scope.module_id,
        overview_of(records),
        ProfileReader(records).contents(),
        tuple(_session_summaries(records)),
    )


def _session_summaries(records: ScopedDatabase) -> Iterator[SessionSummary]:
    for session in Sessions(records)():
        if session.summary is not None and session.id is not None:
            yield SessionSummary(session.id, session.title, session.summary)
