"""Scope resolution: finds whose memory a call means, by one rule that only ever narrows.

What speaks for a call must name one scope: the keys of its own ``configurable``, a resolver, the
thread's id that our saver handed out for a subgraph, and what was found before for the same run.
Where nothing speaks, the config of the surrounding run fills the gap, then `using`. A surrounding
`using` that names another scope than these is refused.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import Context, ContextVar, copy_context
from typing import TYPE_CHECKING, Any, NoReturn
from uuid import UUID

from langmem_isolated._adapters.compat import (
    config_variable,
    configurables_of_callers,
    runtime_of,
    writer_of,
)
from langmem_isolated._adapters.config_keys import ConfigKeys, Configurable
from langmem_isolated._adapters.using import surrounding_scope
from langmem_isolated._runtime.lru import LRUCache
from langmem_isolated.errors import IsolationViolation, ScopeError
from langmem_isolated.scope import Scope, ScopedThreadId, as_thread_id

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig


_log = logging.getLogger("langmem_isolated.isolation")

ResolveScope = Callable[["RunnableConfig"], Scope | None]
DigestOf = Callable[[Scope], str | None]
Denied = Callable[[Exception, Iterable[Scope]], None]

# Two for each of the runs that may go on at once; of one that is forgotten, parallel nodes cannot
# store.
_MOST_SIGNS = 8192
_NOTHING: Configurable = {}
_NO_SCOPE = (
    "This call names no scope. Put {user_id} and {module_id} into config['configurable'], or wrap "
    "it in `with memory.using(scope):`, or use the bound form, memory.scope(…).bind(graph), "
    "memory.scope(…).checkpointer() or memory.scope(…).store(); for a child graph inside a run, "
    "memory.of_run().bind(child)."
)
_DISAGREE = (
    "{first} and {second} name different scopes. Nothing was read or written. Do not let clients "
    "set the keys of a scope; inside another user's run or `using`, use the bound form, "
    "memory.scope(…).bind(graph)."
)
_CONFIG, _RESOLVER = "This call's config", "scope_resolver"
_RUN, _THREAD, _AROUND = "the run so far", "the thread's id handed out", "the surrounding `using`"
_BOUND, _OUTER = "the scope this was made for", "the surrounding run's config"
_CALLER = "the config of a model, retriever or branch that calls"
_TAG_OF_BRANCH = re.compile(r"condition:\d+|branch:(\d+|default)")


class RunScopes:
    """The scopes found for the runs that go on, by the identity of their runtime objects."""

    def __init__(self, most: int = _MOST_SIGNS) -> None:
        # The object is kept as well: another must not come to have its identity.
        self._found = LRUCache[int, tuple[object, Scope | None]](entries=most)

    def get(self, sign: object | None) -> Scope | None:
        """The scope found for a run, used now.

        Args:
            sign: Its runtime, or another object that is its own; ``None`` for none.
        """
        found = None if sign is None else self._found.get(id(sign))
        return found and found[1]

    def put(self, sign: object | None, scope: Scope) -> None:
        """Remember the scope of a run; a sign that has come to stand for two stands for none."""

        def found(known: tuple[object, Scope | None] | None) -> tuple[object, Scope | None]:
            return sign, scope if known is None or known[1] == scope else None

        if sign is not None:
            self._found.update(id(sign), found)


class ScopeFinder:
    """Finds the scope of each call, for an adapter that serves everybody.

    Args:
        keys: Under which names configs hold a scope.
        runs: What was found for runs, shared by the adapters of one memory.
        resolver: Names the scope from the config, or has no opinion (``None``).
        digest_of: By which digest the log names a scope; ``None`` where that is not known.
        denied: Told of every call that was refused, with the scopes that it named.

    Raises:
        TypeError: ``resolver`` cannot be called.
    """

    def __init__(
        self,
        keys: ConfigKeys,
        runs: RunScopes,
        resolver: ResolveScope | None = None,
        digest_of: DigestOf = lambda _: None,
        denied: Denied = lambda *_: None,
    ) -> None:
        if resolver is not None and not callable(resolver):
            raise TypeError(
                "scope_resolver must be a function of a config that returns a Scope or None, got "
                f"{type(resolver).__name__}. Write "
                "scope_resolver=lambda config: Scope(user, module)."
            )
        self.keys = keys
        self._runs = runs
        self._resolver = resolver
        self._digest_of, self._denied = digest_of, denied
        # In a run's tasks: others who have no resolver must not depend on whether it was asked.
        self._answers = RunScopes()

    def of_run(self) -> Scope:
        """The scope of a call that brings no config of its own; see :meth:`of_call`."""
        return self.of_call(config_of_run())

    def of_call(self, config: RunnableConfig | None, *, of_loop: bool = False) -> Scope:
        """The scope of a call that brings ``config``.

        Args:
            config: The call's own.
            of_loop: Whether the call is one of the loop of a run, whose later calls may come from
                threads that know nothing: then the run is remembered.

        Raises:
            ScopeError: No scope is named, or a part of it is missing or malformed.
            IsolationViolation: What speaks for the call disagrees, or `using` with it.
        """
        try:
            return self._found(config, of_loop=of_loop)
        except (IsolationViolation, ScopeError) as refusal:
            named = self._named(config)
            tell_refusal(refusal, named, self._digest_of)
            self._denied(refusal, dict.fromkeys(named))
            raise

    def _named(self, config: RunnableConfig | None) -> list[Scope]:
        """The scopes that are named around a call that was refused."""
        own, around = _named_in(config), surrounding_scope()
        named = [scope for scope in (_handed_out(own), around) if scope]
        for parts in map(self.keys.parts, (own, _configurable_of_run())):
            with suppress(ScopeError):
                named += [self.keys.scope(parts)] if parts else []
        return named

    def _found(self, config: RunnableConfig | None, *, of_loop: bool) -> Scope:
        own = _named_in(config)
        runtime = runtime_of(own)
        known = self._runs.get(runtime) or (self._resolver and self._answers.get(runtime))
        scope = self._spoken(own, known, config) or self._filled(of_loop=of_loop)
        self._check_surroundings(scope)
        if not self.keys.parts(own) or config is config_of_run():
            self._check_callers(scope)
        if runtime is not None and known is None:
            self._remember(own, scope, of_loop=of_loop)
        return scope

    def _remember(self, own: Configurable, scope: Scope, *, of_loop: bool) -> None:
        if of_loop:
            self._runs.put(runtime_of(own), scope)
            self._runs.put(writer_of(own), scope)
        elif self._resolver is not None:
            self._answers.put(runtime_of(own), scope)

    def _spoken(
        self, own: Configurable, known: Scope | None, config: RunnableConfig | None
    ) -> Scope | None:
        """What speaks for a call, if anything does, and all of it agrees."""
        scope, by = known, _RUN
        if self._resolver is not None and known is None:
            scope, by = self._resolved(config), _RESOLVER
        handed_out = _handed_out(own)
        if handed_out is not None:
            _check(scope, by, handed_out, _THREAD)
            scope, by = handed_out, _THREAD
        if parts := self.keys.parts(own):
            if scope is None:
                return self.keys.scope(parts)
            _check_parts(parts, scope, by)
        return scope

    def _resolved(self, config: RunnableConfig | None) -> Scope | None:
        assert self._resolver is not None
        scope = self._resolver(_with_surroundings(config))
        if scope is not None and type(scope) is not Scope:
            raise ScopeError(
                f"scope_resolver must return a Scope or None, got {type(scope).__name__}. Write "
                "return Scope(user, module)."
            )
        return scope

    def _filled(self, *, of_loop: bool) -> Scope:
        """What fills the gap where nothing speaks."""
        run = _configurable_of_run()
        if parts := self.keys.parts(run):
            return self.keys.scope(parts)
        # A subgraph begins in a task of its parent, whose config may name nobody.
        known = self._runs.get(writer_of(run)) if of_loop else None
        scope = known or surrounding_scope()
        if scope is None:
            raise ScopeError(_NO_SCOPE.format(**self.keys._asdict()))
        return scope

    def _check_surroundings(self, scope: Scope) -> None:
        around = surrounding_scope()
        if around is not None:
            _check(scope, _CONFIG, around, _AROUND)
            _check_parts(self.keys.parts(_configurable_of_run()), around, _AROUND, whose=_OUTER)

    def _check_callers(self, scope: Scope) -> None:
        """Refuse what was found in the context, where LangChain was told another's config.

        Whose graph was asked for its state, by a config that names the scope, is asked for those of
        its subgraphs by configs that name nobody: then the run around may be another's.
        """
        for told in configurables_of_callers():
            named = [*map(self.keys.parts, told)]
            for parts in named:
                _check_parts(parts, scope, _CALLER)
            if any(parts.keys() >= {"user_id", "module_id"} for parts in named):
                return


_is_a_trial: ContextVar[bool] = ContextVar("_is_a_trial", default=False)


@contextmanager
def trial_of_refusals() -> Iterator[None]:
    """Calls in it are made to be refused: a refusal is what should be, and warns nobody."""
    token = _is_a_trial.set(True)
    try:
        yield
    finally:
        _is_a_trial.reset(token)


def tell_refusal(refusal: Exception, named: Iterable[Scope], digest_of: DigestOf) -> None:
    """Log that a call was refused, and which scopes were named, by their digests."""
    if _is_a_trial.get():
        return
    known = {digest for digest in map(digest_of, named) if digest}
    scopes = ", ".join(sorted(known)) or "of no known digest"
    _log.warning("A call was refused (%s); scopes named: %s.", type(refusal).__name__, scopes)


def refuse_another(scope: Scope, keys: ConfigKeys, config: RunnableConfig | None) -> None:
    """Refuse a config that names another scope than the one an object is bound to.

    Raises:
        IsolationViolation: It does.
    """
    own = _named_in(config)
    if parts := keys.parts(own):
        _check_parts(parts, scope, _BOUND)
    handed_out = _handed_out(own)
    if handed_out is not None:
        _check(scope, _BOUND, handed_out, _THREAD)


def _named_in(config: RunnableConfig | None) -> Configurable:
    try:
        return (config or {}).get("configurable") or _NOTHING
    except AttributeError:
        kind = type(config).__name__
    raise TypeError(
        f"A config must be a dict, got {kind}. Write "
        '{"configurable": {"thread_id": …}}. Nothing was read or written.'
    )


def _check(one: Scope | None, by: str, other: Scope, other_by: str) -> None:
    if one is not None and one != other:
        raise IsolationViolation(_DISAGREE.format(first=by, second=other_by))


def _check_parts(parts: dict[str, Any], scope: Scope, by: str, whose: str = _CONFIG) -> None:
    for part, value in parts.items():
        if getattr(scope, part) != value:
            raise IsolationViolation(_DISAGREE.format(first=whose, second=by))


def _handed_out(own: Configurable) -> Scope | None:
    """The scope of a thread's id that our saver handed out, where LangGraph built the config.

    That has a namespace, and belongs to no run: an application's own table of threads may hold the
    id of one user for all that have the same.
    """
    thread_id = own.get("thread_id")
    if type(thread_id) is not ScopedThreadId or not own.get("checkpoint_ns"):
        return None
    return thread_id.scope if runtime_of(own) is None else None


def _configurable_of_run() -> Configurable:
    run = config_of_run()
    return _NOTHING if run is None else run.get("configurable") or _NOTHING


def _with_surroundings(config: RunnableConfig | None) -> RunnableConfig:
    """What a resolver is asked with: the run's config, and over it the call's own."""
    run, own = config_of_run() or {}, config or {}
    configurable = {**run.get("configurable", {}), **own.get("configurable", {})}
    return {**run, **own, "configurable": configurable}


def is_told_in_context(
    config: RunnableConfig | None, parent: object, tags: Iterable[str] | None
) -> bool:
    """Whether what runs below ``parent`` sees that run's config in its context.

    `Runnable.batch` starts its parts in the context of who calls it: there the config of another
    run is seen, perhaps another user's, and never the part's own.

    Args:
        config: What the context has.
        parent: The id of the run above; ``None`` for a call that hangs below no run.
        tags: Of what runs. Those of `RunnableBranch` are told by its caller's config, their own.
    """
    is_branch = any(_TAG_OF_BRANCH.fullmatch(str(tag)) for tag in tags or ())
    return parent is None or parent == run_of(config) or is_branch


def run_of(config: RunnableConfig | None) -> UUID | None:
    """The id of the run whose steps a config is for, if it is for any."""
    return None if config is None else getattr(config.get("callbacks"), "parent_run_id", None)


def is_told_otherwise() -> bool:
    """Whether what calls us was told another config than the context has."""
    run = _configurable_of_run()
    return any(
        run.get(name) != value
        for told in configurables_of_callers()
        for own in told
        for name, value in own.items()
        if isinstance(value, str)
    )


def refuse_untold() -> NoReturn:
    """Refuse what runs in a batch, of which LangChain does not tell the config.

    Raises:
        IsolationViolation: Always.
    """
    raise IsolationViolation(
        "This is part of a batch, and LangChain does not tell whose: the config of another run is "
        "around it. Nothing was read or written. Call invoke() for each part, or use the bound "
        "form, memory.scope(…).llm_cache() or memory.scope(…).callback_handler(session_id)."
    )


def conversation_of(config: RunnableConfig) -> set[str]:
    """The ids by which a run's own conversation is known: of its chat session and its thread."""
    configurable = config.get("configurable", {})
    named = (configurable.get(key) for key in ("session_id", "thread_id"))
    return {str(name) for name in named if name is not None}


def session_named_in(config: RunnableConfig | None) -> Any:
    """The chat session that a config names: ``session_id``, or else ``thread_id``."""
    configurable = (config or {}).get("configurable", {})
    return as_thread_id(configurable.get("session_id", configurable.get("thread_id")))


def config_of_run() -> RunnableConfig | None:
    """The config of the run that calls; ``None`` outside a run."""
    return config_variable().get() or None


def in_context(config: RunnableConfig) -> Context:
    """A copy of this context, in which ``config`` is that of the run that calls."""
    context = copy_context()
    context.run(config_variable().set, config)
    return context
