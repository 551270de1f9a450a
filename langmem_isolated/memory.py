"""Entry point: one memory for the application, a handle for each scope."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Literal, NoReturn, Self, overload

from langmem_isolated._adapters.auditing import Audit
from langmem_isolated._adapters.config_keys import ConfigKeys
from langmem_isolated._adapters.context import MemoryContext
from langmem_isolated._adapters.known_stores import KnownStores
from langmem_isolated._adapters.run_scope import RunScopes
from langmem_isolated._codecs.checkpoints.element_cache import ElementCaches
from langmem_isolated._crypto.owners import Level, Owner
from langmem_isolated._database.databases import Databases
from langmem_isolated._database.dialects import Synchronous
from langmem_isolated._database.urls import checked_url
from langmem_isolated._runtime.arguments import kind_of, seconds, whole_number
from langmem_isolated._runtime.audit_options import AuditOptions
from langmem_isolated._runtime.calls import explains_calls
from langmem_isolated._runtime.environment import (
    DATABASE_VARIABLE,
    ERASURE_LOG_VARIABLE,
    JOBS_VARIABLE,
    KEY_STORE_VARIABLE,
    REPLICA_VARIABLE,
)
from langmem_isolated._runtime.limits import DEFAULT_LIMITS, Limits
from langmem_isolated._runtime.operations import found, observed
from langmem_isolated._runtime.plaintext_cache import PlaintextCache
from langmem_isolated._runtime.session_rules import NO_RULES, SessionRules
from langmem_isolated._storage.keyring import Keyring
from langmem_isolated._storage.tombstones import tombstone_rules
from langmem_isolated.errors import ScopeError
from langmem_isolated.lifecycle import AnonymousSessions, MemoryLifecycle
from langmem_isolated.root_keys import (
    RootKey,
    checked_provider,
    checked_providers,
    root_key_from_environment,
)
from langmem_isolated.scope import AnonymousScope, Scope, checked_id
from langmem_isolated.scoped_memory import AnonymousMemory, MemoryOfRun, ScopedMemory

if TYPE_CHECKING:
    from langchain_core.runnables import ConfigurableFieldSpec

    from langmem_isolated.publisher import Publisher

_NO_NAMES = (None, None, "default")
_OWNERS = "It is how many owners' keys are kept, 1,024 if you leave it out."


@explains_calls
class IsolatedMemory(MemoryOfRun, MemoryLifecycle, AnonymousSessions[AnonymousMemory]):
    """The memory of an application: one database, one root key, any number of users.

    Constructing it opens nothing but the root key. The tables are made, or checked, at first use or
    on entering the context, whichever comes first. It serves threads, tasks and event loops at
    once, and goes on working in a forked child.

    >>> with IsolatedMemory("sqlite://", root_key=root_key) as memory:
    ...     history = memory.scope(user_id="alice", module_id="tutor").chat_history("monday")
    ...     history.add_user_message("Hi")
    ...     history.count()
    1

    Args:
        url: An SQLAlchemy URL: ``sqlite:///memory.db`` or ``postgresql://…`` (extra ``postgres``).
        root_key: Any object with ``wrap``, ``unwrap`` and ``key_id``. By default what
            ``LANGMEM_ISOLATED_ROOT_KEY`` is or names, or the file of ``…_FILE`` holds: a
            :class:`LocalRootKey`, or a key in AWS KMS or in a token of PKCS#11.
        accepted_root_keys: Further root keys: each opens what it wrapped, and begins no
            installation. For the time of a rotation; see :meth:`rotate_root_key`.
        key_store: The URL of a second database for the wrapped keys, so that backups of the data
            do not carry them.
        synchronous: SQLite only. ``"FULL"``: what was acknowledged survives loss of power;
            ``"NORMAL"``: it survives ``kill -9``, the last commits may go with the power.
        pool_size: Connections to the database, and threads for async callers.
        timeout: Seconds to wait for a lock, a connection or the server.
        key_cache_size: Owners whose unwrapped keys are kept in memory.
        key_cache_seconds: How long they are kept.
        plaintext_cache_seconds: How long opened vectors, messages and parts of threads may be kept
            in memory, so that the next search or turn need not open them again; 0, the default,
            keeps none. A change or an erasure is seen at once.
        plaintext_cache_bytes: How many bytes of them in all.
        config_keys: Under which names a config's ``configurable`` holds a scope, where they are not
            ``user_id``, ``module_id`` and ``project_id``: ``{"user_id": "memory_user"}`` where
            ``user_id`` is the application's own or the server's.
        limits: How much one call may bring; see :class:`Limits`.
        session_rules: How long chat sessions live, and how many messages and sessions are kept; see
            :class:`SessionRules`. By default all are, for ever.
        compress: Whether what is long is deflated before it is sealed. ``False`` where somebody may
            see sizes in the database and also choose part of a text: see the threat model. What was
            stored before opens in either case.
        erasure_log: A file outside the database that keeps who was erased, as keyed digests, so
            that a backup which is put back can forget them again; see :meth:`reapply_erasures`. It
            is made with the first erasure, in a folder that is there.
        tombstone_days: How long that is kept, there and in the key store, from an erasure on: as
            long as the oldest copy may live. By default for ever.
        audit: Switches the audit log on, or to these options; see :attr:`audit`. By default it is
            as the database says, off in a new one: to leave the argument out switches nothing off.
        auto_upgrade: Whether to make or upgrade the tables where needed; a role without that right
            wants ``False`` and ``langmem-isolated schema upgrade`` run by another.
        row_level_security: PostgreSQL only. ``"required"`` serves no database where row-level
            security is not in force for the role of ``url``. ``"detect"`` serves those without,
            too, and refuses one where it is enabled and without effect, as for a superuser.
        jobs_url: The same database under a role that sees everybody's rows, where row-level
            security binds the role of ``url``: sweeps, statistics and other jobs of operators run
            under it, and nothing that serves one user does.
        read_replica: PostgreSQL only. The URL of a server that follows the one of ``url``: reads
            that may lag go there, never those of what this process wrote for the same user since.
        read_replica_lag: How many seconds old what is read there may be at most; a replica that is
            further behind is not read.

    Raises:
        RootKeyMissing: No root key was given and none is in the environment.
        RootKeyInvalid: What was found is not a root key.
        TypeError: An argument has another type; ``config_keys`` is no dict of a scope's parts, or
            ``limits`` are no `Limits`, ``session_rules`` no `SessionRules`, ``audit`` no
            `AuditOptions`.
        ValueError: A number is out of its range.
        ScopeError: A name in ``config_keys`` is malformed, or stands for two parts.
        DatabaseError: A URL is not one of SQLite or PostgreSQL, or ``url`` and ``key_store`` are
            one, ``jobs_url`` is of another database, or ``read_replica`` follows no other server.
    """

    def __init__(
        self,
        url: str,
        *,
        root_key: RootKey | None = None,
        accepted_root_keys: Sequence[RootKey] = (),
        key_store: str | None = None,
        synchronous: Synchronous = "FULL",
        pool_size: int = 8,
        timeout: float = 30.0,
        key_cache_size: int = 1024,
        key_cache_seconds: float = 300.0,
        plaintext_cache_seconds: float = 0.0,
        plaintext_cache_bytes: int = 256 * 2**20,
        config_keys: Mapping[str, str] | None = None,
        limits: Limits = DEFAULT_LIMITS,
        session_rules: SessionRules = NO_RULES,
        compress: bool = True,
        erasure_log: str | os.PathLike[str] | None = None,
        tombstone_days: int | None = None,
        audit: AuditOptions | None = None,
        auto_upgrade: bool = True,
        row_level_security: Literal["detect", "required"] = "detect",
        jobs_url: str | None = None,
        read_replica: str | None = None,
        read_replica_lag: float = 5.0,
    ) -> None:
        checked_url(url)
        keys = ConfigKeys.of(config_keys)
        _expect_instance("limits", limits, Limits, "Limits()")
        _expect_instance("session_rules", session_rules, SessionRules, "SessionRules(idle=…)")
        if audit is not None:
            _expect_instance("audit", audit, AuditOptions, "AuditOptions()")
        try:
            key = root_key_from_environment() if root_key is None else checked_provider(root_key)
            accepted = checked_providers(accepted_root_keys)
        finally:
            # Error reporters print the variables of every frame: it may be the text of a key.
            del root_key, accepted_root_keys
        rules = tombstone_rules(erasure_log, tombstone_days)
        whole_number("key_cache_size", key_cache_size, advice=_OWNERS)
        seconds("key_cache_seconds", key_cache_seconds, or_none=True)
        self._database, self._key_store = Databases.of(
            url,
            key_store=key_store,
            jobs_url=jobs_url,
            read_replica=read_replica,
            read_replica_lag=read_replica_lag,
            synchronous=synchronous,
            pool_size=pool_size,
            timeout=timeout,
            auto_upgrade=auto_upgrade,
            row_level_security=row_level_security,
        )
        self._keyring = Keyring(
            self._database,
            key,
            accepted_root_keys=accepted,
            key_store=self._key_store,
            cache_size=key_cache_size,
            cache_seconds=key_cache_seconds,
            compress=compress,
            tombstones=rules,
        )
        opened_parts = _plaintext_cache(plaintext_cache_seconds, plaintext_cache_bytes)
        self._context = MemoryContext(
            self._database,
            self._keyring,
            ElementCaches(opened=opened_parts),
            opened_parts,
            KnownStores(),
            keys,
            RunScopes(),
            limits,
            session_rules,
            Audit(self._database, self._keyring, audit),
        )
        if self._context.plaintext_cache:
            self._keyring.when_locked = self._context.plaintext_cache.forget
        if keys != ConfigKeys():
            self.session_history = self._renamed_session_history()  # type: ignore[method-assign]

    @cached_property
    def history_config(self) -> list[ConfigurableFieldSpec]:
        """What `RunnableWithMessageHistory` takes beside :meth:`session_history`."""
        from langchain_core.runnables import ConfigurableFieldSpec

        keys = self._context.config_keys
        return [
            ConfigurableFieldSpec(id=name, annotation=str, name=title, description=description)
            for name, title, description in (
                (keys.user_id, "User", "Whose memory; take it from your authentication."),
                (keys.module_id, "Module", "Which part of the application."),
                ("session_id", "Session", "Which conversation."),
            )
        ]

    @classmethod
    def from_environment(cls) -> IsolatedMemory:
        """The memory that ``LANGMEM_ISOLATED_DATABASE`` and its siblings describe."""
        return cls(
            os.environ.get(DATABASE_VARIABLE, "sqlite:///langmem-isolated.db"),
            key_store=os.environ.get(KEY_STORE_VARIABLE) or None,
            erasure_log=os.environ.get(ERASURE_LOG_VARIABLE) or None,
            jobs_url=os.environ.get(JOBS_VARIABLE) or None,
            read_replica=os.environ.get(REPLICA_VARIABLE) or None,
        )

    @overload
    def scope(self, scope: Scope, /) -> ScopedMemory: ...
    @overload
    def scope(
        self, /, *, user_id: str, module_id: str, project_id: str = "default"
    ) -> ScopedMemory: ...
    def scope(
        self,
        scope: Scope | None = None,
        /,
        *more: object,
        user_id: str | None = None,
        module_id: str | None = None,
        project_id: str = "default",
    ) -> ScopedMemory:
        """The memory of one user in one module; no I/O.

        Raises:
            ScopeError: ``user_id`` or ``module_id`` is missing, empty or malformed.
        """
        if scope is None and not more:
            # The checks in Scope refuse None, too.
            scope = Scope(user_id, module_id, project_id=project_id)  # type: ignore[arg-type]
        elif type(scope) is not Scope or more or (user_id, module_id, project_id) != _NO_NAMES:
            given = ", ".join(kind_of(one) for one in (scope, *more))
            raise ScopeError(
                f"scope() takes a Scope alone, or user_id= and module_id=, got {given}. Write "
                "memory.scope(user_id=…, module_id=…): by position the two could be exchanged. "
                "There is no default."
            )
        return ScopedMemory(self._context, scope)

    def _of_guest(self, scope: AnonymousScope) -> AnonymousMemory:
        return AnonymousMemory(self._context, scope)

    def publisher(
        self,
        *,
        user_id: str | None = None,
        module_id: str | None = None,
        project_id: str | None = None,
    ) -> Publisher:
        """The right to write documents that others read; for operators.

        With ``module_id`` all users of the module read them (a knowledge base), with ``user_id``
        all modules of the user, with ``project_id`` alone everyone in the project.

        Raises:
            ScopeError: No id is given, or both a user's and a module's, or one is malformed.
        """
        from langmem_isolated.publisher import Publisher, published_owner

        return Publisher(self._context, published_owner(user_id, module_id, project_id))

    @observed("search_memory", "module", found, records="_context")
    def modules(self, user_id: str, *, project_id: str = "default") -> list[str]:
        """The modules in which a user has memory, sorted; for operators.

        Raises:
            ScopeError: ``user_id`` is missing or malformed.
        """
        user = Owner(
            Level.USER, checked_id("project_id", project_id), checked_id("user_id", user_id)
        )
        return sorted(
            owner.module
            for owner in self._keyring.owners(user)
            if owner.level is Level.PRIVATE and owner.module is not None
        )

    async def amodules(self, user_id: str, *, project_id: str = "default") -> list[str]:
        """The modules in which a user has memory; see :meth:`modules`."""
        return await self._database.arun(self.modules, user_id=user_id, project_id=project_id)

    def open(self) -> Self:
        """Make or check the tables and prove that the root key fits; also done at first use.

        Raises:
            RootKeyMismatch: The database was begun with another root key.
            KeyNotFound: The key store is not the one the database was begun with.
            DatabaseError: The database cannot be opened, or has another schema.
        """
        self._context.open()
        return self

    async def aopen(self) -> Self:
        """Make or check the tables; see :meth:`open`."""
        return await self._database.arun(self.open)

    if not TYPE_CHECKING:  # where a checker saw it, it would take any name for one that is there

        def __getattr__(self, name: str) -> NoReturn:
            text = f"{type(self).__name__} has no attribute {name!r}."
            if not name.startswith("_") and hasattr(ScopedMemory, name):
                text += f" It is one user's: memory.scope(user_id=…, module_id=…).{name}"
            raise AttributeError(text, name=name, obj=self)

    def close(self) -> None:
        """Finish what runs, let go of all keys, close every connection. Closing twice is fine."""
        self._end_lifecycle()
        self._context.audit.close()
        if self._context.plaintext_cache:
            self._context.plaintext_cache.clear()
        self._keyring.close()
        self._database.close()
        if self._key_store:
            self._key_store.close()

    async def aclose(self) -> None:
        """Close; see :meth:`close`."""
        # Not on our own workers: closing waits for them.
        await asyncio.to_thread(self.close)

    def __enter__(self) -> Self:
        try:
            return self.open()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        try:
            return await self.aopen()
        except BaseException:
            await self.aclose()
            raise

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()


def _plaintext_cache(span: float, size: int) -> PlaintextCache | None:
    """A cache of ``size`` bytes that keeps for ``span`` seconds; none for 0."""
    seconds("plaintext_cache_seconds", span, or_none=True)
    whole_number("plaintext_cache_bytes", size, least=1)
    return PlaintextCache(seconds=span, size=size) if span else None


def _expect_instance(name: str, value: object, kind: type, example: str) -> None:
    if not isinstance(value, kind):
        raise TypeError(
            f"{name} must be {kind.__name__}(…), got {kind_of(value)}. Write {name}={example}."
        )
