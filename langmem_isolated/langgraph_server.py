"""Resolver of scopes for a LangGraph server: the scope of the user whom it authenticated."""

import sys
from collections.abc import Callable, Mapping
from functools import partial
from types import FrameType
from typing import Any

from langchain_core.runnables import RunnableConfig

from langmem_isolated.errors import IsolationViolation, ScopeError
from langmem_isolated.scope import Scope

_USER_KEY = "langgraph_auth_user"
_CONTEXTS_MODULE, _CONTEXT_GETTER = "langgraph_api.utils", "get_auth_ctx"
_WORKER_MODULE, _WORKER = "langgraph_api.worker", "worker"

_NOBODY = (
    "The LangGraph server has authenticated nobody for this call, so it has no scope. Nothing was "
    'read or written. Name your authentication in langgraph.json ("auth": {"path": …}); outside '
    "of the server's requests and runs use the bound form, memory.scope(…).checkpointer() or "
    "memory.scope(…).store()."
)
_ANOTHER = (
    "The config names another user than the one whom the LangGraph server authenticated for this "
    "call. Nothing was read or written."
)
_CHANGED = (
    f"This release of langgraph-api has no {_CONTEXTS_MODULE}.{_CONTEXT_GETTER}(), so who is "
    "authenticated is not known. Nothing was read or written. Install a release that "
    "langmem_isolated was tested with."
)


def scope_of_user(
    module_id: str, *, project_id: str = "default"
) -> Callable[[RunnableConfig], Scope]:
    """Resolver of scopes for a LangGraph server: each call means its authenticated user.

    For ``scope_resolver=`` of ``memory.checkpointer()``, ``memory.store()``, the middleware, the
    caches and the others that serve everybody. The user is that of the server's request or run,
    known by the ``identity`` that your authentication returned; at the end of a run, where the
    server's worker removes what was rolled back or temporary, that of this run. Nothing that a
    client sends names a user.

    Args:
        module_id: The module of every scope.
        project_id: The project of every scope.

    Returns:
        A function of a config. It raises `ScopeError` where nobody is authenticated or the identity
        cannot be a user's id, and `IsolationViolation` where the config names another user.

    Raises:
        ScopeError: ``module_id`` or ``project_id`` is not a well-formed id.
    """
    # A malformed id is refused where it is written, not when the first user comes.
    Scope("user", module_id, project_id=project_id)

    def scope_of(config: RunnableConfig) -> Scope:
        return Scope(_identity(_user(config)), module_id, project_id=project_id)

    return scope_of


def _user(config: RunnableConfig) -> Any:
    """The user that the server authenticated for what calls; ``None`` if there is none."""
    named = config.get("configurable", {}).get(_USER_KEY)
    context = _auth_context()
    if context is not None:
        if named is not None and _identity(named) != _identity(context.user):
            raise IsolationViolation(_ANOTHER)
        return context.user
    # The server's own is an object; a mapping or a text may be what a client sent as JSON, for
    # example in an update's `checkpoint`, which the server merges in as it is.
    if named is not None and not isinstance(named, Mapping | str):
        return named
    return _user_of_worker()


def _identity(user: Any) -> Any:
    """What an authenticated user is known by; whether it can be an id is for `Scope` to say."""
    part: Callable[[str, Any], Any]
    part = user.get if isinstance(user, Mapping) else partial(getattr, user)
    if not part("is_authenticated", True) or not part("identity", None):
        raise ScopeError(_NOBODY)
    return part("identity", None)


def _auth_context() -> Any:
    """The server's own note of who is authenticated: set in requests and runs, else ``None``.

    Private to langgraph-api. Where the module is not loaded, no server is.
    """
    module = sys.modules.get(_CONTEXTS_MODULE)
    if module is None:
        return None
    get = getattr(module, _CONTEXT_GETTER, None)
    if get is None:
        raise ScopeError(_CHANGED)
    return get()


def _user_of_worker() -> Any:
    """The user of the run that the server's worker ends, if it is the worker that calls.

    It removes what was rolled back, and temporary threads, after the run's authentication is over.
    Private to langgraph-api; where its names have changed, there is none.
    """
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - CPython has it for this
    while frame is not None:
        if frame.f_code.co_name == _WORKER and frame.f_globals.get("__name__") == _WORKER_MODULE:
            run: Any = frame.f_locals.get("run")
            return run["kwargs"]["config"]["configurable"].get(_USER_KEY)
        frame = frame.f_back
    return None
