"""Finds whose memory a run means: by its config, or by the `using` around it."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from langmem_isolated.errors import IsolationViolation, ScopeError
from langmem_isolated.scope import Scope

SCOPE_KEYS = ("user_id", "module_id", "project_id")

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig

ResolveScope = Callable[["RunnableConfig"], Scope]

# The scopes of the blocks around, outermost first.
_around: ContextVar[tuple[Scope, ...]] = ContextVar("langmem_isolated_scopes", default=())


class Using:
    """Lets a scope stand for calls that carry none, within the block and what it starts.

    For ``with`` and ``async with``. One object serves any number of threads and tasks.
    """

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    def __enter__(self) -> Scope:
        _around.set((*_around.get(), self._scope))
        return self._scope

    def __exit__(self, *_: object) -> None:
        # No token is kept here: taking another thread's would leave this one its scope for ever.
        around = _around.get()
        if not around or around[-1] is not self._scope:
            raise RuntimeError("This block was entered in another context, or not left in order.")
        _around.set(around[:-1])

    async def __aenter__(self) -> Scope:
        return self.__enter__()

    async def __aexit__(self, *_: object) -> None:
        self.__exit__()


def resolve_scope(config: RunnableConfig | None, resolver: ResolveScope | None = None) -> Scope:
    """The scope of a call.

    With a ``resolver`` its answer counts, and scope keys in the config's ``configurable`` must
    agree with it: a client may have sent them. Without one the keys count, and without keys the
    surrounding :class:`Using`.

    Raises:
        ScopeError: No scope is named, or a part of it is missing or malformed.
        IsolationViolation: The config names another scope than the resolver.
    """
    named = _named(config)
    if resolver is not None and config is not None:
        scope = resolver(config)
        if type(scope) is not Scope:
            raise ScopeError(f"scope_resolver must return a Scope, got {type(scope).__name__}.")
        if any(getattr(scope, key) != value for key, value in named.items()):
            raise IsolationViolation(
                "The config names another scope than scope_resolver found. Nothing was read or "
                "written; do not let clients set user_id, module_id or project_id."
            )
        return scope
    if named:
        # A part that is missing is None here, and refused as such.
        parts: dict[str, Any] = {"user_id": None, "module_id": None, **named}
        return Scope(**parts)
    if around := _around.get():
        return around[-1]
    raise ScopeError(
        "This call names no scope. Put user_id and module_id into config['configurable'], or wrap "
        "it in `with memory.using(scope):`, or use the bound form, memory.scope(…).checkpointer() "
        "or memory.scope(…).store()."
    )


def _named(config: RunnableConfig | None) -> dict[str, str]:
    configurable = (config or {}).get("configurable", {})
    return {key: configurable[key] for key in SCOPE_KEYS if key in configurable}


def scope_keys(scope: Scope) -> dict[str, str]:
    """What a config must hold so that it names ``scope`` again."""
    keys = {"user_id": scope.user_id, "module_id": scope.module_id}
    return keys if scope.project_id == "default" else {**keys, "project_id": scope.project_id}


def conversation_of(config: RunnableConfig) -> set[str]:
    """The ids by which a run's own conversation is known: of its chat session and its thread."""
    configurable = config.get("configurable", {})
    named = (configurable.get(key) for key in ("session_id", "thread_id"))
    return {str(name) for name in named if name is not None}


def config_of_run() -> RunnableConfig | None:
    """The config of the run that calls; ``None`` outside a run."""
    # As `langgraph.config.get_config`, which takes half a second to import.
    from langchain_core.runnables.config import var_child_runnable_config

    return var_child_runnable_config.get()
