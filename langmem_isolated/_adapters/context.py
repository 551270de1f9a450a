"""Dependency container: what every scope of one memory shares."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from langmem_isolated._adapters.auditing import Audit
from langmem_isolated._adapters.config_keys import ConfigKeys
from langmem_isolated._adapters.drop_in import Ready, is_in_event_loop
from langmem_isolated._adapters.known_stores import KnownStores
from langmem_isolated._adapters.run_scope import (
    ResolveScope,
    RunScopes,
    ScopeFinder,
    refuse_another,
    tell_refusal,
)
from langmem_isolated._codecs.checkpoints.element_cache import ElementCaches
from langmem_isolated._crypto.owners import Level, Owner
from langmem_isolated._database.database import Database
from langmem_isolated._runtime.arguments import kind_of
from langmem_isolated._runtime.limits import Limits
from langmem_isolated._runtime.operations import Operations
from langmem_isolated._runtime.plaintext_cache import PlaintextCache
from langmem_isolated._runtime.session_rules import NO_RULES, SessionRules
from langmem_isolated._storage.keyring import Keyring
from langmem_isolated._storage.scoped_database import ScopedDatabase
from langmem_isolated.errors import IsolationViolation, ScopeError
from langmem_isolated.scope import Scope

if TYPE_CHECKING:
    from langchain_core.embeddings import Embeddings
    from langchain_core.runnables import RunnableConfig
    from langchain_core.vectorstores import VectorStore

    from langmem_isolated.vector_store import IsolatedVectorStore
    from langmem_isolated.wrapping import WrappedVectorStore

SharingLevel = Literal["private", "user", "module", "project"]
"""Who reads a document: this user in this module, in all modules; all users of the module, all."""

SHARING_LEVELS: tuple[SharingLevel, ...] = ("private", "user", "module", "project")


class MemoryContext(NamedTuple):
    """What every scope of a memory stands on."""

    database: Database
    keyring: Keyring
    element_caches: ElementCaches
    plaintext_cache: PlaintextCache | None
    known_stores: KnownStores
    """Third-party stores that were found to keep owners apart, for erasures to clear."""
    config_keys: ConfigKeys
    run_scopes: RunScopes
    limits: Limits
    session_rules: SessionRules = NO_RULES
    audited: Audit | None = None

    @property
    def audit(self) -> Audit:
        """What notes in the audit log what is done."""
        return self.audited or Audit(self.database, self.keyring)

    @property
    def operations(self) -> Operations:
        """Who is told of what is done."""
        return self.database.operations

    @property
    def owner(self) -> None:
        """Whose memory an operation on the whole is about: everybody's."""

    def open(self) -> None:
        """Make or check the tables, and prove that the root key fits."""
        self.database.open()
        self.keyring.check()
        if self.audited is not None:
            self.audited.look()

    def set_up(self) -> Ready:
        """Make or check the tables; inside an event loop in a worker thread."""
        if is_in_event_loop():
            return Ready(self.database.submit(self.open))
        self.open()
        return Ready()

    def finder(self, resolver: ResolveScope | None) -> ScopeFinder:
        """What finds the scope of each call.

        Raises:
            TypeError: ``resolver`` cannot be called.
        """
        return ScopeFinder(
            self.config_keys, self.run_scopes, resolver, self.known_digest, self.denied
        )

    def denied(self, refusal: Exception, scopes: Iterable[Scope]) -> None:
        """Note in the audit log that a call was refused which named these scopes."""
        if self.audited is not None:
            self.audited.denied(type(refusal).__name__, map(Owner.private, scopes))

    def known_digest(self, scope: Scope) -> str | None:
        """By which tables and logs know a scope, if that takes no I/O to say."""
        directory = self.keyring.directory_at_hand
        return None if directory is None else directory.scope_id_of(Owner.private(scope)).hex()

    def refuse_another(self, scope: Scope, config: RunnableConfig | None) -> None:
        """Refuse a config that names another scope than ``scope``."""
        try:
            refuse_another(scope, self.config_keys, config)
        except IsolationViolation as refusal:
            tell_refusal(refusal, [scope], self.known_digest)
            self.denied(refusal, [scope])
            raise

    def is_tombstoned(self, owner: Owner) -> bool:
        """Whether an owner was erased, whoever has come back since: imports refuse such.

        Raises:
            ErasureLogRefused: The erasure log cannot be read, or was tampered with.
            RecordDoesNotOpen: The tombstone was tampered with.
        """
        return self.keyring.tombstones.has(owner)

    def private(self, scope: Scope) -> ScopedDatabase:
        """A scope's own records."""
        owner = Owner.private(scope)
        if owner.level is Level.ANONYMOUS:
            from langmem_isolated._storage.guests import GuestDatabase

            return self._watched(
                GuestDatabase(self.database, self.keyring, owner, self.limits, self.session_rules)
            )
        return self.records(owner)

    def records(self, owner: Owner) -> ScopedDatabase:
        """One owner's records."""
        return self._watched(
            ScopedDatabase(self.database, self.keyring, owner, self.limits, self.session_rules)
        )

    def _watched(self, records: ScopedDatabase) -> ScopedDatabase:
        if self.audited is not None and self.audited.watches:
            records.watcher = self.audited
        return records

    def operators(self, owner: Owner) -> ScopedDatabase:
        """One owner's records, for a job that does not count as the owner's own doing."""
        return ScopedDatabase(self.database, self.keyring, owner, self.limits, is_owners=False)

    def walk(
        self, *, project: str | None = None, module: str | None = None
    ) -> Iterator[ScopedDatabase]:
        """The records of every owner that has any, of all projects or one, or of its module."""
        for _, owner in self.keyring.walk(project=project, module=module):
            yield self.operators(owner)

    def readable(self, scope: Scope, levels: Sequence[SharingLevel]) -> list[ScopedDatabase]:
        """The records that a scope reads at each of ``levels``.

        Raises:
            ScopeError: A level has another name, or there is none.
        """
        known = isinstance(levels, list | tuple) and all(
            level in SHARING_LEVELS for level in levels
        )
        if not known or not levels:
            got = "another in it" if isinstance(levels, list | tuple) else kind_of(levels)
            raise ScopeError(
                f"levels must be a list of some of {', '.join(SHARING_LEVELS)}, got {got}. "
                "Leave it out for all of them. There is no other sharing."
            )
        once = dict.fromkeys(levels)
        return [
            self.private(scope)
            if level == "private"
            else self.records(Owner.at(Level[level.upper()], scope))
            for level in once
        ]

    def vector_store(
        self,
        sources: Sequence[ScopedDatabase],
        embeddings: Embeddings | None,
        wrapping: VectorStore | None,
        /,
        **options: Any,
    ) -> IsolatedVectorStore | WrappedVectorStore:
        """A vector store over ``sources``: our own, or one around another.

        Raises:
            TypeError: Embeddings and a store are given, or neither; or an option is not known.
        """
        from langmem_isolated._adapters.vector_store_arguments import check_options, check_source
        from langmem_isolated.vector_store import IsolatedVectorStore
        from langmem_isolated.wrapping import WrappedVectorStore

        # First: embeddings under another name are an option that is not known.
        check_options(options, of=IsolatedVectorStore if wrapping is None else WrappedVectorStore)
        check_source(embeddings, wrapping)
        if embeddings is not None:
            return IsolatedVectorStore(
                sources, embeddings, plaintext_cache=self.plaintext_cache, **options
            )
        assert wrapping is not None
        # Once is enough: to probe writes and removes documents.
        how = type(options.get("adapter")), options.get("seal"), options.get("post_filter")
        probe = options.pop("probe", True) and not self.known_stores.is_tried(wrapping, how)
        store = WrappedVectorStore(wrapping, sources, probe=probe, **options)
        self.known_stores.add(wrapping, store.store_name, options.get("adapter"))
        if probe:
            self.known_stores.note_tried(wrapping, how)
        return store
