"""Isolation asserted: an application is driven as several users, and nobody sees another's text."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec

from langmem_isolated._runtime.arguments import callback, kind_of, seconds, whole_number
from langmem_isolated.testing.applications import (
    Application,
    ApplicationOfEach,
    CallableApplication,
    parameters_of,
)
from langmem_isolated.testing.asgi import AsgiApplication, Request
from langmem_isolated.testing.canaries import Canary
from langmem_isolated.testing.logs import watched_logs
from langmem_isolated.testing.runs import Runs, all_phases
from langmem_isolated.testing.sightings import LeakFound, NothingSeen, Watch

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig

P = ParamSpec("P")
_OF_ASGI = ["scope", "receive", "send"]
_NAMES = ("alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi")


@dataclass(frozen=True)
class IsolationReport:
    """What was tried, where nobody saw what is another's.

    Args:
        users: Who talked to the application.
        runs: How often it was called.
        succeeded: Runs without an error, by the way of calling.
        errors: Runs with one, by the type of the error; those that were provoked are among them.
        cancelled: Runs that were cut off; a run may have ended before.
        texts: How many texts were looked through.
        canaries: What was said, for :func:`assert_nothing_readable`.

    >>> def app(user, session, text):
    ...     return EchoChatModel().invoke(text).text
    >>> report = assert_isolated(app, users=2)
    >>> report.users, sorted(report.succeeded)
    (('alice', 'bob'), ['asyncio.to_thread', 'call'])
    """

    users: tuple[str, ...]
    runs: int
    succeeded: Mapping[str, int]
    errors: Mapping[str, int]
    cancelled: int
    texts: int
    canaries: tuple[Canary, ...]


async def aassert_isolated(
    app: Any,
    *,
    users: int | Sequence[str] = 5,
    sessions: Sequence[str] = ("1", "2", "3"),
    config: "Callable[[str, str], RunnableConfig] | None" = None,
    input: Callable[[str], Any] | None = None,  # noqa: A002 - as LangChain calls it
    options: Callable[[str, str], Mapping[str, Any]] | None = None,
    request: Callable[[str, str, str], Request | Sequence[Request]] | None = None,
    state: Callable[[str, str], Any] | None = None,
    echoes: bool = True,
    log_level: int | None = logging.INFO,
    rounds: int = 1,
    seconds_each: float = 30,
) -> IsolationReport:
    """Drive an application as several users at once, and raise if one sees what another said.

    :func:`assert_isolated` does the same outside of an event loop. Inside, take this one: what an
    application has of the running loop, such as connections, works there alone.

    All users send the same ids of sessions and threads, one after the other, at once in threads and
    in tasks, streamed, cancelled in the midst, made again, failed by the model, and sent twice.
    Everything that any of them says holds a canary, and each is looked for in all that the others
    see: replies, streamed chunks alone and joined, events, states, tool calls and results, texts of
    errors, headers and bodies of responses; and in log records and what is printed, where nobody's
    may be. Where 500 were seen, nothing more is begun.

    Args:
        app: A function ``(user, session, text)`` that gives a reply, an iterator of parts, or a
            coroutine or asynchronous iterator of these; a graph, an agent or another `Runnable`; an
            ASGI application, with ``request``; or a function ``(user)`` that gives each user one of
            the first two, such as
            ``lambda user: memory.scope(user_id=user, module_id="chat").bind(graph)``.
        users: How many, 2 to 8; or their names, where the application knows only some.
        sessions: Ids of sessions and threads that every user sends.
        config: ``(user, session)``: the config of a Runnable's call. By default ``configurable``
            holds ``thread_id`` and ``session_id``, and, for an application of all users,
            ``user_id`` and ``module_id``, which is ``"chat"``.
        input: ``(text)``: the input of a Runnable; by default a graph is given a human message in
            ``messages``, and any other the text.
        options: ``(user, session)``: further options of a Runnable's call, such as ``context``.
        request: ``(user, session, text)``: the :class:`Request` of an ASGI application, or several,
            where a login comes first. Each user has a browser of their own, which keeps cookies.
        state: ``(user, session)``: what a user sees of a session besides, for ASGI a
            :class:`Request`. A graph's state and its history are always looked at.
        echoes: Whether each user must see what they said at least once. ``False`` for applications
            that never say it again: leaks into prompts are not found there.
        log_level: Records of this level or above, and what is printed, may hold nobody's canary;
            ``None`` for not looking at them.
        rounds: How often everything is done.
        seconds_each: The longest that one run may take.

    Raises:
        LeakFound: Somebody saw what another said; it has every sighting.
        NothingSeen: A user never saw what they said themselves: nothing could have been found.
        TimeoutError: A run takes longer than ``seconds_each``.
        TypeError, ValueError: An argument is of another kind or out of range; nothing was run.

    >>> import asyncio
    >>> asyncio.run(aassert_isolated(EchoChatModel())).errors
    {'EchoFailed': 10}
    """
    names = _names_of(users)
    application = _application_of(
        app, names, request=request, state=state, config=config, input=input, options=options
    )
    whole_number("rounds", rounds, least=1)
    watch = Watch()
    runs = Runs(application, watch, names, _ids_of(sessions), seconds("seconds_each", seconds_each))
    if log_level is None:
        await _driven(runs, application, rounds)
    else:
        with watched_logs(watch, log_level):
            await _driven(runs, application, rounds)
    return _judged(runs, watch, names if echoes else ())


def _in_a_loop_of_its_own(
    called: Callable[P, Coroutine[Any, Any, IsolationReport]],
) -> Callable[P, IsolationReport]:
    """The same in a thread with a loop: a test that calls it may be in a running one."""

    @wraps(called)
    def blocking(*args: P.args, **kwargs: P.kwargs) -> IsolationReport:
        with ThreadPoolExecutor(1, "assert_isolated") as executor:
            return executor.submit(lambda: asyncio.run(called(*args, **kwargs))).result()

    blocking.__name__ = blocking.__qualname__ = "assert_isolated"
    blocking.__doc__ = _OF_THE_BLOCKING
    return blocking


_OF_THE_BLOCKING = """Drive an application as several users; raise if one sees what another said.

Arguments, result and errors are those of :func:`aassert_isolated`, which says what is done.

>>> from langgraph.checkpoint.memory import InMemorySaver
>>> assert_isolated(builder.compile(checkpointer=InMemorySaver()), users=2)
Traceback (most recent call last):
langmem_isolated.testing.sightings.LeakFound: Users are not isolated: ...
>>> model = EchoChatModel()
>>> graph = StateGraph(MessagesState).add_node(
...     "answer", lambda state: {"messages": [model.invoke(state["messages"])]}
... ).add_edge(START, "answer").compile(checkpointer=memory.checkpointer())
>>> assert_isolated(graph, users=2).users
('alice', 'bob')
"""

assert_isolated = _in_a_loop_of_its_own(aassert_isolated)


async def _driven(runs: Runs, application: Application, rounds: int) -> None:
    async with runs.begun():
        await all_phases(runs, application.ways, rounds)


def _judged(runs: Runs, watch: Watch, must_see: Sequence[str]) -> IsolationReport:
    if watch.sightings:
        raise LeakFound(watch.sightings)
    tally = runs.tally
    if blind := [user for user in must_see if not watch.own[user]]:
        raise NothingSeen(blind, tally.errors) from tally.first_error
    return IsolationReport(
        users=tuple(runs.users),
        runs=tally.runs,
        succeeded=dict(tally.succeeded),
        errors=dict(tally.errors),
        cancelled=tally.cancelled,
        texts=watch.looked_at,
        canaries=watch.canaries,
    )


def _names_of(users: int | Sequence[str]) -> tuple[str, ...]:
    if isinstance(users, int) and not isinstance(users, bool):
        if not 1 < users <= len(_NAMES):
            raise ValueError(
                f"users must be 2 to {len(_NAMES)}, or their names, got {users}. One user alone "
                "sees nobody else's. Nothing was run."
            )
        return _NAMES[:users]
    names = _ids_of(users, "users", 'users=("alice", "bob")')
    if len({*names}) != len(names) or len(names) < 2:  # noqa: PLR2004 - who sees, and who is seen
        raise ValueError(
            f"users must be two or more different names, got {len(names)}. Nothing was run."
        )
    return names


def _ids_of(
    given: object, name: str = "sessions", example: str = 'sessions=("1", "2", "3")'
) -> tuple[str, ...]:
    ids = tuple(given) if isinstance(given, Sequence) and not isinstance(given, str) else ()
    if not ids or not all(isinstance(one, str) for one in ids):
        raise TypeError(
            f"{name} must be one or more texts, got {kind_of(given)}. Write {example}. Nothing was "
            "run."
        )
    return ids


def _application_of(
    app: Any, users: Sequence[str], *, is_of_one: bool = False, **options: Any
) -> Application:
    for name, given in options.items():
        if given is not None:
            callback(name, given, example=f"{name}=lambda …: …")
    for_runnables = [name for name in ("config", "input", "options") if options[name] is not None]
    if options["request"] is not None:
        _refuse(for_runnables, "an ASGI application")
        return AsgiApplication(app, request=options["request"], state=options["state"])
    if _is_runnable(app):
        del options["request"]
        return _runnable(app, is_of_one=is_of_one, **options)
    parameters = parameters_of(app)
    if len(parameters) == 1 and not is_of_one:
        return ApplicationOfEach(
            {user: _application_of(app(user), users, is_of_one=True, **options) for user in users}
        )
    if parameters == _OF_ASGI:
        raise TypeError(
            "This is an ASGI application. Give request=, such as lambda user, session, text: "
            'Request("POST", "/chat", json={"text": text}, headers=…). Nothing was run.'
        )
    _refuse(for_runnables, "a function")
    return CallableApplication(app, options["state"])


def _runnable(app: Any, *, is_of_one: bool, **options: Any) -> Application:
    from langmem_isolated.testing.graphs import (
        RunnableApplication,
        config_of_session,
        config_of_user,
    )

    # What is a user's own needs no user's name in its config, and may be of another module.
    named = config_of_session if is_of_one else config_of_user
    options["config"] = options["config"] or named
    return RunnableApplication(app, **options)


def _is_runnable(app: object) -> bool:
    return all(hasattr(app, name) for name in ("invoke", "ainvoke", "astream", "astream_events"))


def _refuse(names: list[str], kind: str) -> None:
    if names:
        raise TypeError(
            f"{' and '.join(names)} belong to graphs and other Runnables, got beside {kind}. Leave "
            "them out. Nothing was run."
        )
