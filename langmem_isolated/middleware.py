"""Agent middleware: records every run, recalls and summarizes for the model.

The middleware keeps nothing of a run in itself: what was recorded already, the database knows.
"""

import copy
import functools
import inspect
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, NamedTuple

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AnyMessage, BaseMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langgraph.types import Command

from langmem_isolated._adapters.message_ids import named
from langmem_isolated._adapters.profile_prompt import checked_profile, with_profile
from langmem_isolated._adapters.quota import check_quotas
from langmem_isolated._adapters.recall_prompt import last_human, with_recalled
from langmem_isolated._adapters.recorder import (
    ENDINGS,
    FindRecords,
    Recorder,
    events_of,
    is_event,
    session_of,
    until,
)
from langmem_isolated._adapters.run_scope import config_of_run, conversation_of
from langmem_isolated._adapters.summaries import (
    SUMMARIZING,
    check_options,
    seal_summary,
    summary_message,
    summary_prompt,
    unsummarized,
)
from langmem_isolated._codecs.headers import Header, decode_header
from langmem_isolated._runtime.calls import ONE_SCOPE, made_by
from langmem_isolated._runtime.clock import now
from langmem_isolated._runtime.operations import observed
from langmem_isolated._runtime.plaintext_cache import PlaintextCache
from langmem_isolated._storage.container_state import ContainerState
from langmem_isolated._storage.sessions.listing import LISTING
from langmem_isolated.errors import SessionNotFound
from langmem_isolated.lifecycle import Profile
from langmem_isolated.recall import Recall
from langmem_isolated.scope import checked_id

try:
    from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse
    from langchain.agents.middleware.types import ToolCallRequest
except ImportError:
    raise ImportError(
        "The middleware is for LangChain's agents. Install them: "
        "pip install 'langmem-isolated[agents]'"
    ) from None

_ToolResult = ToolMessage | Command[Any]

# At most so many times `summarize_after` messages are summed up at once.
_PARTS = 4
_HOOKS = (
    *("before_agent", "before_model", "after_model", "after_agent"),
    *("abefore_agent", "abefore_model", "aafter_model", "aafter_agent"),
)


class _Options(NamedTuple):
    """What a middleware was made with."""

    channel: str
    recall: int | None
    profile: bool
    plaintext_cache: PlaintextCache | None
    summarize_with: BaseChatModel | None
    summarize_after: int


@made_by(f"{ONE_SCOPE}.middleware()", "memory.middleware()", first=Callable)
class IsolatedMemoryMiddleware(AgentMiddleware[Any, Any, Any]):
    """Records every message of every run of an agent into a chat session of the run's scope.

    Made by ``memory.middleware()`` or ``memory.scope(…).middleware()``. Put it first::

        create_agent(model, tools, middleware=[memory.middleware(), …])

    The session is ``session_id`` in the run's ``configurable``, or else ``thread_id``. Human, AI
    and tool messages are recorded as they come about, before the agent goes on, each once by its
    id: also when the run then fails, is cancelled, streamed or resumed. An answer whose id the
    session has already, as from a server that repeats its ids, is recorded under an id of its own,
    and so is a question that a run begins with and that says something else. A message stays as it
    was first recorded, before other middleware edits it; one that is passed in without id is a new
    one in every run. What other middleware inserts is recorded where the run is then, summaries in
    place of what was recorded aside. Failures and cancellations of the model and of
    tools, and interrupts in tools, are recorded as `ChatMessage` with role ``"error"`` or
    ``"interrupt"`` in the channel ``"events"``; those of other middleware need :meth:`around`.
    What cannot be stored exactly is recorded as far as it can be: its ``response_metadata`` has the
    types that are missing under ``"langmem_isolated_not_stored"``, and the log names them. When
    recording fails otherwise, the run fails; a failure or interrupt of its own is never replaced.
    Who has used up a quota is refused with `QuotaExceeded` before a model is asked.

    One object serves any number of runs at once and keeps nothing of them.

    Args:
        find: Finds the records of a run's scope from its config.
        channel: Of the messages recorded.
        recall: How many messages of the scope's other sessions and threads that fit the newest
            question are quoted before it, in the request to the model only; none by default. What
            tools answered is not among them: it may come from anywhere.
        profile: Whether what the module knows of the user is quoted before the messages, in the
            request to the model only; see :class:`Profile`. The newest facts, in 4,000 characters.
        plaintext_cache: For recall, see :class:`Recall`.
        summarize_with: A model that sums up the older part of the session; its summary is sealed
            beside the session, and stands before the newer part in requests.
        summarize_after: How many messages without summary are let pass before the next.

    Raises:
        ScopeError: ``channel`` is malformed.
        TypeError: ``profile`` is no ``bool``.
        ValueError: ``recall`` or ``summarize_after`` is less than 1.
    """

    def __init__(
        self,
        find: FindRecords,
        *,
        channel: str = "ai",
        recall: int | None = None,
        profile: bool = False,
        plaintext_cache: PlaintextCache | None = None,
        summarize_with: BaseChatModel | None = None,
        summarize_after: int = 50,
    ) -> None:
        super().__init__()
        check_options(recall, summarize_with, summarize_after)
        self.tools = []
        self._find = find
        self._options = _Options(
            checked_id("channel", channel),
            recall,
            checked_profile(profile),
            plaintext_cache,
            summarize_with,
            summarize_after,
        )

    def around(
        self, *others: AgentMiddleware[Any, Any, Any]
    ) -> list[AgentMiddleware[Any, Any, Any]]:
        """This middleware and copies of ``others`` whose failures and interrupts it records, too.

        For example what `HumanInTheLoopMiddleware` asks:
        ``create_agent(model, tools, middleware=memory.middleware().around(…))``.
        """
        return [self, *map(self._watched, others)]

    def _watched(self, other: AgentMiddleware[Any, Any, Any]) -> AgentMiddleware[Any, Any, Any]:
        kind = type(other)
        hooks = {
            name: self._watching(getattr(kind, name))
            for name in _HOOKS
            if getattr(kind, name) is not getattr(AgentMiddleware, name)
        }
        watched = copy.copy(other)
        watched.__class__ = type(kind.__name__, (kind,), hooks)
        return watched

    def _watching(self, hook: Callable[..., Any]) -> Callable[..., Any]:
        """``hook`` with its exceptions recorded."""

        @functools.wraps(hook)
        def watching(*args: Any, **kwargs: Any) -> Any:
            step = self._step()
            try:
                return hook(*args, **kwargs)
            except ENDINGS as error:
                step.note(error)
                raise

        @functools.wraps(hook)
        async def awatching(*args: Any, **kwargs: Any) -> Any:
            step = self._step()
            try:
                return await hook(*args, **kwargs)
            except ENDINGS as error:
                await step.arun(step.note, error)
                raise

        return awatching if inspect.iscoroutinefunction(hook) else watching

    def _step(self) -> "_Step":
        return _Step(self._find, config_of_run(), self._options)

    def before_agent(self, state: Any, runtime: Any) -> None:  # noqa: ARG002
        """Record what the run begins with; sum up what is old, if it is time."""
        step = self._step()
        step.begin(state)
        if (due := step.due()) and (model := self._options.summarize_with):
            step.summarize(due, model.invoke(due.prompt, SUMMARIZING))

    async def abefore_agent(self, state: Any, runtime: Any) -> None:  # noqa: ARG002
        """Record what the run begins with; see :meth:`before_agent`."""
        step = self._step()
        await step.arun(step.begin, state)
        if (due := await step.arun(step.due)) and (model := self._options.summarize_with):
            summary = await model.ainvoke(due.prompt, SUMMARIZING)
            await step.arun(step.summarize, due, summary)

    def wrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], ModelResponse[Any]],
    ) -> ModelResponse[Any]:
        """Record what is new in the state, and then what the model answers, or how it fails."""
        step = self._step()
        request = step.prepared(request)
        try:
            response = handler(request)
        except ENDINGS as error:
            step.note(error)
            raise
        return step.answered(response)

    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any]:
        """Record what the model answers; see :meth:`wrap_model_call`."""
        step = self._step()
        request = await step.arun(step.prepared, request)
        try:
            response = await handler(request)
        except ENDINGS as error:
            await step.arun(step.note, error)
            raise
        return await step.arun(step.answered, response)

    def wrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], _ToolResult]
    ) -> _ToolResult:
        """Record what a tool answers, or how it fails, or what it asks."""
        step = self._step()
        step.catch_up(request.state)
        try:
            result = handler(request)
        except ENDINGS as error:
            step.note(error, request.tool_call["id"])
            raise
        return step.done(result, request.state)

    async def awrap_tool_call(
        self,
        request: ToolCallRequest,
        handler: Callable[[ToolCallRequest], Awaitable[_ToolResult]],
    ) -> _ToolResult:
        """Record what a tool answers; see :meth:`wrap_tool_call`."""
        step = self._step()
        await step.arun(step.catch_up, request.state)
        try:
            result = await handler(request)
        except ENDINGS as error:
            await step.arun(step.note, error, request.tool_call["id"])
            raise
        return await step.arun(step.done, result, request.state)

    def after_agent(self, state: Any, runtime: Any) -> None:  # noqa: ARG002
        """Record what other middleware added last."""
        self._step().catch_up(state)

    async def aafter_agent(self, state: Any, runtime: Any) -> None:  # noqa: ARG002
        """Record what other middleware added last."""
        step = self._step()
        await step.arun(step.catch_up, state)


class _Due(NamedTuple):
    """Messages to be summed up, of the life of a session that has this birth."""

    prompt: list[BaseMessage]
    until: int
    """The sequence number of the first that is not among them."""
    birth: bytes


class _Step:
    """What a middleware does at one step of one run."""

    def __init__(self, find: FindRecords, config: RunnableConfig | None, options: _Options) -> None:
        self._options = options
        self._recorder = Recorder(find(config), session_of(config), options.channel)
        # The task's own, the same when a run is taken up again.
        self._place: str = (config or {}).get("configurable", {}).get("checkpoint_ns", "")
        self._current = conversation_of(config or {})
        self.arun = self._recorder.arun

    def begin(self, state: Any) -> None:
        """Record what the run begins with."""
        self._recorder.catch_up(_messages_of(state), is_start=True)
        check_quotas(self._recorder.records)

    def catch_up(self, state: Any) -> None:
        """Record the messages of the state that are new."""
        self._recorder.catch_up(_messages_of(state))

    def note(self, error: BaseException, tool_call_id: str | None = None) -> None:
        """Record how something ended."""
        self._recorder.add_events(events_of(error, self._place, tool_call_id))

    def answered(self, response: ModelResponse[Any]) -> ModelResponse[Any]:
        """The model's response, recorded."""
        return replace(response, result=self._kept(response.result))

    def done(self, result: _ToolResult, state: Any) -> _ToolResult:
        """A tool's result, recorded; what it changes in the state otherwise is left alone."""
        if isinstance(result, list):
            return [self.done(one, state) for one in result]  # type: ignore[return-value]
        if isinstance(result, ToolMessage):
            kept: ToolMessage = self._kept([result])[0]
            return kept
        update = result.update
        if isinstance(update, dict) and isinstance(update.get("messages"), list):
            kept_all = self._kept(update["messages"], _messages_of(state))
            return replace(result, update={**update, "messages": kept_all})
        return result

    def _kept(self, messages: Sequence[Any], old: Sequence[BaseMessage] = ()) -> list[Any]:
        """The messages with ids, recorded as said just now, but for those that were there."""
        kept = [named(m, self._place) if isinstance(m, BaseMessage) else m for m in messages]
        # What is written as a pair or dict becomes a message in the state, and is seen there.
        self._recorder.add_said(
            [m for m in kept if isinstance(m, BaseMessage) and m.type != "remove" and m not in old],
            self._place,
        )
        return kept

    def prepared(self, request: ModelRequest[Any]) -> ModelRequest[Any]:
        """The request with what was said before, the state's messages recorded."""
        self.catch_up(request.state)
        check_quotas(self._recorder.records)
        messages = request.messages
        if self._options.summarize_with is not None:
            messages = self._summarized(messages)
        if self._options.recall is not None:
            recall = Recall(self._recorder.records, self._options.plaintext_cache)
            messages = with_recalled(messages, recall, self._options.recall, self._current)
        if self._options.profile:
            contents = Profile(self._recorder.records).contents()
            self._recorder.records.told_recall(1 if contents else 0)
            messages = with_profile(messages, contents)
        return request if messages is request.messages else request.override(messages=messages)

    def _summarized(self, messages: list[AnyMessage]) -> list[AnyMessage]:
        """The summary in place of the messages for which it stands."""
        _, header = self._session() or (None, None)
        if header is None or header.summary is None:
            return messages
        start = header.summarized or 0
        newer = self._recorder.trace(messages[::-1], until(start))
        return [summary_message(header.summary), *messages[-len(newer) :]]

    def due(self) -> _Due | None:
        """The messages to be summed up now: those before the newest question, if there are many."""
        found = None if self._options.summarize_with is None else self._session()
        if found is None:
            return None
        state, header = found
        start = max(header.summarized or 0, state.next_sequence - state.count)
        after = self._options.summarize_after
        if state.next_sequence - start <= after:
            return None
        # A session that was long before is summed up a part at a time: a prompt has its bounds.
        end = min(state.next_sequence, start + _PARTS * after)
        numbers, tail = unsummarized(self._recorder.records, self._recorder.session_id, start, end)
        asked = last_human(tail) if end == state.next_sequence else len(tail)
        if not asked:
            return None
        said = [message for message in tail[:asked] if not is_event(message)]
        return _Due(summary_prompt(header.summary, said), numbers[asked - 1] + 1, state.birth)

    def summarize(self, due: _Due, summary: BaseMessage) -> None:
        """Seal the summary beside the session; it is of no use if the messages went meanwhile."""
        with suppress(SessionNotFound, ValueError):
            records, session_id = self._recorder.records, self._recorder.session_id
            seal_summary(records, session_id, str(summary.text), due.until, due.birth)

    @observed("search_memory", "session", records="_recorder.records")
    def _session(self) -> tuple[ContainerState, Header] | None:
        session_id = self._recorder.session_id
        found = self._recorder.records.read(LISTING.header, None, session_id, now())
        return found and (found[0], decode_header(found[1]))


def _messages_of(state: Any) -> list[BaseMessage]:
    messages: list[BaseMessage] = state["messages"]
    return messages
