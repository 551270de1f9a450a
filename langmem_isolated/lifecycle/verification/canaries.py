"""Canaries: written through every adapter into scopes made for it, and looked for in all."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import Any

from langchain_core.vectorstores import InMemoryVectorStore

from langmem_isolated._adapters.context import MemoryContext
from langmem_isolated._adapters.run_scope import trial_of_refusals
from langmem_isolated.errors import DatabaseError, LangmemIsolatedError, NotShared
from langmem_isolated.lifecycle.verification import canary_places
from langmem_isolated.lifecycle.verification.canary_adapters import (
    ADAPTERS,
    CanaryAdapter,
    Everywhere,
    Place,
    refusals,
)
from langmem_isolated.lifecycle.verification.report import Tally

_USERS, _MODULES = ("canary-1", "canary-2"), ("canary-a", "canary-b")


class Canaries:
    """Two users with two modules each, of a project that is there for as long as the run.

    Args:
        memory: The application's: its own adapters are tried, as it has set them up.
        context: What it stands on.
        tally: Told of canaries that are seen where they are not to be, or not where they were put.
    """

    def __init__(self, memory: Any, context: MemoryContext, tally: Tally) -> None:
        self._memory, self._context, self._tally = memory, context, tally

    def fly(self) -> None:
        """Write them, look for them, remove them, and see that nothing is left."""
        directory = self._context.keyring.directory(create=True)
        assert directory is not None
        project = canary_places.new_project(directory)
        self._context.audit.left_out.add(project)
        try:
            places = [*self._places(project)]
            for adapter in ADAPTERS:
                self._try(adapter, places)
            self._try_sharing(places, project)
            self._expect_refusals(places)
        finally:
            rows = canary_places.rows_of(self._context, project)
            canary_places.remove(self._context, rows)
        if canary_places.rows_of(self._context, project):
            self._tally.add("a canary scope is there after its removal")

    def _places(self, project: str) -> Iterable[Place]:
        shared = InMemoryVectorStore(Everywhere())
        for user in _USERS:
            for module in _MODULES:
                scoped = self._memory.scope(user_id=user, module_id=module, project_id=project)
                yield Place(self._memory, scoped, user, module, shared)

    def _try(self, adapter: CanaryAdapter, places: list[Place]) -> None:
        canaries = [f"canary {secrets.token_hex(16)}" for _ in places]
        try:
            for place, canary in zip(places, canaries, strict=True):
                adapter.write(place, canary)
            for reader in places:
                self._tally.examined += 1
                self._compare(adapter, reader, dict(zip(canaries, places, strict=True)))
        except DatabaseError:
            raise
        except LangmemIsolatedError as error:
            self._tally.add(f"it raised {type(error).__name__}", place=adapter.name)

    def _compare(self, adapter: CanaryAdapter, reader: Place, written: dict[str, Place]) -> None:
        seen = str(adapter.look(reader))
        for canary, writer in written.items():
            is_seen, is_readable = canary in seen, adapter.is_readable(writer, reader)
            if is_seen and not is_readable:
                problem = "what one scope wrote was seen in another"
                self._tally.add(problem, reader.scoped.digest() or "", adapter.name)
            elif is_readable and not is_seen:
                problem = "what a scope wrote was not found there"
                self._tally.add(problem, reader.scoped.digest() or "", adapter.name)

    def _try_sharing(self, places: list[Place], project: str) -> None:
        """A grant lets one module read what another has said, no other user, and ends."""
        source, reader = places[0], places[1]
        canary = f"canary {secrets.token_hex(16)}"
        source.scoped.chat_history("granted").add_user_message(canary)
        modules = {"from_module": source.module, "to_module": reader.module}
        whose = {"user_id": source.user, "project_id": project}
        self._memory.grants.allow(**whose, **modules, kinds=["message"])
        self._expect("sharing", canary in self._shared(reader, source))
        strangers = [place for place in places if place.user != source.user]
        for place in strangers:
            other = next(one.module for one in strangers if one.module != place.module)
            self._expect("sharing", canary not in self._shared(place, place._replace(module=other)))
        self._memory.grants.revoke(**whose, **modules)
        self._expect("sharing", canary not in self._shared(reader, source))

    def _shared(self, reader: Place, source: Place) -> str:
        try:
            return str(reader.scoped.shared_from(source.module).messages("granted"))
        except NotShared:
            return ""

    def _expect(self, adapter: str, is_so: bool) -> None:
        self._tally.examined += 1
        if not is_so:
            self._tally.add("a grant was wider or narrower than it says", place=adapter)

    def _expect_refusals(self, places: list[Place]) -> None:
        for what, error, call in refusals(places):
            self._tally.examined += 1
            try:
                with trial_of_refusals():
                    call()
            except error:
                continue
            self._tally.add(f"{what} was not refused", place="refusals")


def remove_abandoned(context: MemoryContext, rows: Iterable[Any]) -> None:
    """Remove the canaries of runs that were killed, an hour ago or more."""
    canary_places.remove(context, filter(canary_places.is_abandoned, rows))
