"""Callback handler that records what chat models and tools say in chains."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    BaseMessageChunk,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    message_chunk_to_message,
)
from langchain_core.outputs import ChatGeneration, Generation, LLMResult
from langchain_core.runnables import RunnableConfig
from langgraph.errors import GraphInterrupt
from langgraph.types import Command

from langmem_isolated._adapters.message_ids import derived_id, named
from langmem_isolated._adapters.quota import check_quotas
from langmem_isolated._adapters.recorder import (
    FindRecords,
    Recorder,
    as_text,
    events_of,
    interrupted,
    session_of,
)
from langmem_isolated._adapters.run_scope import (
    config_of_run,
    in_context,
    is_told_in_context,
    is_told_otherwise,
    refuse_untold,
    run_of,
)
from langmem_isolated._runtime.calls import ONE_SCOPE, made_by
from langmem_isolated.errors import IsolationViolation, ScopeError
from langmem_isolated.scope import checked_id

if TYPE_CHECKING:
    from langgraph.callbacks import GraphCallbackHandler, GraphInterruptEvent
else:
    try:
        from langgraph.callbacks import GraphCallbackHandler
    except ImportError:  # LangGraph told handlers nothing of interrupts before
        GraphCallbackHandler = BaseCallbackHandler


_NO_CHAIN = (
    "A model or tool was invoked by itself, so no chat session is known: LangChain tells a handler "
    "nothing of its config. Nothing was recorded. Invoke a chain that holds it, such as "
    "prompt | model, or use the bound form, memory.scope(…).callback_handler(session_id)."
)


class _Tree:
    """One run of the application, with all that runs below it."""

    def __init__(self, root: UUID) -> None:
        self.root = root
        self.recorder: Recorder | None = None
        self.config: RunnableConfig | None = None
        """By which the recorder was found."""
        self.error: BaseException | None = None
        """The newest that was recorded."""
        self.behind = -1
        """The sequence number of the newest message when a model was asked last."""


class _Run(NamedTuple):
    """A run that has not ended."""

    tree: _Tree
    parent: UUID | None
    tags: Sequence[str]
    tool: str = ""
    inputs: object = None


@made_by(f"{ONE_SCOPE}.callback_handler(session_id)", "memory.callback_handler()", first=Callable)
class IsolatedCallbackHandler(GraphCallbackHandler):
    """Records a chain's questions, answers, tool calls and failures into a chat session.

    Made by ``memory.callback_handler()`` or ``memory.scope(…).callback_handler(session_id)``, and
    given as ``config={"callbacks": […]}``. Of a prompt, the messages behind the newest AI message
    are recorded, system messages aside: what comes before was said earlier, or is an example. Each
    message is recorded once by its id; one without id once in a run of the chain, so that a model
    tried again, or another in its place, does not repeat the question. Failures and interrupts are
    `ChatMessage` of role ``"error"`` or ``"interrupt"`` in the channel ``"events"``. When recording
    fails, the run fails. In a ``batch`` inside of a run LangChain does not tell whose a part is:
    what runs there is refused, or recorded by a handler that is bound. Who has used up a quota is
    refused with `QuotaExceeded` before a model is asked.

    Agents are recorded by ``memory.middleware()``: use one of both. One object serves any number of
    runs at once.

    >>> from langchain_core.language_models import FakeListChatModel
    >>> from langchain_core.runnables import RunnableLambda
    >>> chain = RunnableLambda(lambda text: text) | FakeListChatModel(responses=["42"])
    >>> handler = scope.callback_handler("monday")
    >>> chain.invoke("What is 6 times 7?", {"callbacks": [handler]}).text
    '42'
    >>> [message.text for message in scope.chat_history("monday").messages]
    ['What is 6 times 7?', '42']

    Args:
        find: Finds the records of the scope from the config of what runs.
        session_id: The session; by default ``session_id`` or ``thread_id`` of the ``configurable``
            of the chain around the model. A model that is invoked by itself has none, and LangChain
            does not tell its config: then the call fails with a `ScopeError` that says so, and only
            the bound form records.
        channel: Of the messages recorded.

    Raises:
        ScopeError: ``session_id`` or ``channel`` is malformed.
    """

    raise_error = True

    def __init__(
        self, find: FindRecords, session_id: str | None = None, *, channel: str = "ai"
    ) -> None:
        super().__init__()
        self._find = find
        self._session_id = None if session_id is None else checked_id("session_id", session_id)
        self._channel = checked_id("channel", channel)
        self._runs: dict[UUID, _Run] = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    @property
    def run_inline(self) -> bool:  # type: ignore[override]
        """Whether an asynchronous run waits here: LangChain asks before it leaves the caller.

        In another thread nothing tells that a model was told another config than its context has.
        """
        return is_told_otherwise()

    def _begun(
        self,
        run_id: UUID,
        parent_run_id: UUID | None,
        tags: Sequence[str] | None,
        tool: str = "",
        inputs: object = None,
    ) -> _Run:
        parent = None if parent_run_id is None else self._runs.get(parent_run_id)
        tree = parent.tree if parent else _Tree(run_id)
        self._runs[run_id] = run = _Run(tree, parent_run_id, tags or (), tool, inputs)
        return run

    @contextmanager
    def _forgotten_if_refused(self, run_id: UUID) -> Iterator[None]:
        """A run that is refused does not begin, and LangChain never says that it ends."""
        try:
            yield
        except BaseException:
            del self._runs[run_id]
            raise

    def _recorder(self, run: _Run) -> Recorder:
        """Where what runs now is recorded; what is outside of any run, where the last was."""
        tree, config = run.tree, config_of_run()
        # One given by itself inside of another's run: its steps alone see its config.
        is_root = config is None or run.parent is None
        if is_root and tree.recorder is not None:
            if config is None and tree.config is not None:
                # What a thread that knows of no run was told may be another user's.
                in_context(tree.config).run(self._find, None)
            return tree.recorder
        if config is not None and not self._is_told(config, run, run.tags):
            if self._session_id is None:
                refuse_untold()
            config = None
        recorder = self._recorder_by(config)
        # The first stays: the whole's failures are not for whom something in it has called last.
        if tree.recorder is None:
            tree.recorder, tree.config = recorder, config
        return recorder

    def _is_told(
        self, config: RunnableConfig | None, run: _Run, tags: Sequence[str] | None
    ) -> bool:
        """Whether what runs sees in its context what it was told.

        Fallbacks are told what the run of all of them was told, and see what that tells its steps.
        """
        if is_told_in_context(config, run.parent, tags):
            return True
        seen = run_of(config)
        around = None if seen is None else self._runs.get(seen)
        return around is not None and around.parent == run.parent

    def _recorder_by(self, config: RunnableConfig | None) -> Recorder:
        if config is None and self._session_id is None:
            raise ScopeError(_NO_CHAIN)
        session_id = session_of(config) if self._session_id is None else self._session_id
        return Recorder(self._find(config), session_id, self._channel)

    def _find_place_of_whole(self, run: _Run) -> None:
        """Find where failures of the whole are recorded: for whom the first in it was begun."""
        tree, config = run.tree, config_of_run()
        if tree.recorder is not None or (run.parent is None and config is not None):
            return
        with suppress(ScopeError):
            if config is None:
                tree.recorder = self._recorder_by(None)
            elif self._is_told(config, run, None):
                # A copy: what begins may be told another's config, and only its caller is meant.
                tree.recorder = self._recorder_by({**config})
                tree.config = config

    def _add(self, run: _Run, messages: Iterable[BaseMessage]) -> None:
        """Record what a model is asked."""
        place, recorder = str(run.tree.root), self._recorder(run)
        recorder.add([named(message, place) for message in messages])
        check_quotas(recorder.records)
        run.tree.behind = max(run.tree.behind, recorder.behind)

    def _add_said(self, run: _Run, run_id: UUID, messages: Iterable[BaseMessage]) -> None:
        """Record what a model or tool answers."""
        place, recorder = str(run.tree.root), self._recorder(run)
        recorder.behind = run.tree.behind
        recorder.add_said([named(message, place) for message in messages], str(run_id))

    def _note(self, run: _Run, run_id: UUID, error: BaseException) -> None:
        tree = run.tree
        if isinstance(error, GeneratorExit) and isinstance(tree.error, GeneratorExit):
            # Who stops reading ends every generator on the way, each by another of these.
            return
        tree.error = error
        if events := events_of(error, str(run_id)):
            self._recorder(run).add_events(events)

    def on_chain_start(
        self,
        serialized: dict[str, Any],  # noqa: ARG002
        inputs: dict[str, Any],  # noqa: ARG002
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: Sequence[str] | None = None,
        **_: Any,
    ) -> None:
        """Remember what runs below what, and where it is recorded if it should fail."""
        with self._forgotten_if_refused(run_id):
            run = self._begun(run_id, parent_run_id, tags)
            config = config_of_run()
            is_asked = config and run.tree.recorder is None and self._session_id is None
            if is_asked and not self._is_told(config, run, run.tags):
                refuse_untold()
            self._find_place_of_whole(run)

    def on_chain_end(self, outputs: dict[str, Any], *, run_id: UUID, **_: Any) -> None:  # noqa: ARG002
        """Forget the run."""
        self._runs.pop(run_id, None)

    def on_chain_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        """Record why the whole failed, unless that was recorded where it came about."""
        run = self._runs.pop(run_id, None)
        # A run that was refused is of another user, or of none.
        is_refusal = isinstance(error, (IsolationViolation, ScopeError))
        if run is None or run.tree.error is error or is_refusal:
            return
        is_whole = run.tree.root == run_id and (run.tree.recorder or self._session_id)
        if is_whole or isinstance(error, GraphInterrupt):
            self._note(run, run_id, error)

    def on_chat_model_start(
        self,
        serialized: dict[str, Any],  # noqa: ARG002
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        metadata: dict[str, Any] | None = None,
        tags: Sequence[str] | None = None,
        **_: Any,
    ) -> None:
        """Record what is new in the prompt."""
        if (metadata or {}).get("lc_source") == "summarization":
            return
        with self._forgotten_if_refused(run_id):
            run = self._begun(run_id, parent_run_id, tags)
            self._add(run, (new for prompt in messages for new in _newest(prompt)))

    def on_llm_start(
        self,
        serialized: dict[str, Any],
        prompts: list[str],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: Sequence[str] | None = None,
        **_: Any,
    ) -> None:
        """Record the prompt of a model that takes text."""
        asked: list[list[BaseMessage]] = [[HumanMessage(prompt)] for prompt in prompts]
        self.on_chat_model_start(
            serialized, asked, run_id=run_id, parent_run_id=parent_run_id, tags=tags
        )

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **_: Any) -> None:
        """Record the answer to each prompt."""
        if run := self._runs.pop(run_id, None):
            answers = (_answer(candidates[0]) for candidates in response.generations if candidates)
            self._add_said(run, run_id, answers)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        """Record why a model did not answer."""
        if run := self._runs.pop(run_id, None):
            self._note(run, run_id, error)

    def on_tool_start(
        self,
        serialized: dict[str, Any],
        input_str: str,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        inputs: dict[str, Any] | None = None,
        tags: Sequence[str] | None = None,
        **_: Any,
    ) -> None:
        """Remember what the tool was called with; refuse it where its answer would be refused."""
        name = (serialized or {}).get("name", "")
        given = {"input": input_str} if inputs is None else inputs
        with self._forgotten_if_refused(run_id):
            run = self._begun(run_id, parent_run_id, tags, name, given)
            # What could not be recorded must not be done.
            with suppress(ScopeError):
                self._recorder(run)

    def on_tool_end(self, output: Any, *, run_id: UUID, **_: Any) -> None:
        """Record a tool's answer, and the call if no model made it."""
        if run := self._runs.pop(run_id, None):
            self._add_said(run, run_id, _done(output, run, run_id))

    def on_tool_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        """Record why a tool gave no answer."""
        if run := self._runs.pop(run_id, None):
            self._note(run, run_id, error)

    def on_interrupt(self, event: "GraphInterruptEvent") -> None:
        """Record what a graph asks."""
        run = None if event.run_id is None else self._runs.get(event.run_id)
        if run is not None:
            events = [interrupted(one) for one in event.interrupts]
            self._recorder(run).add_events(events)


def _newest(prompt: Sequence[BaseMessage]) -> list[BaseMessage]:
    """What stands behind the newest AI message, system messages aside."""
    numbers = range(len(prompt) - 1, -1, -1)
    last = next((n for n in numbers if isinstance(prompt[n], AIMessage)), -1)
    new = [m for m in prompt[last + 1 :] if not isinstance(m, SystemMessage)]
    return [_by_call(m) if isinstance(m, ToolMessage) else m for m in new]


def _answer(generation: Generation) -> BaseMessage:
    if not isinstance(generation, ChatGeneration):
        return AIMessage(generation.text)
    message = generation.message
    return message_chunk_to_message(message) if isinstance(message, BaseMessageChunk) else message


def _done(output: Any, run: _Run, run_id: UUID) -> list[BaseMessage]:
    """A tool's answer as messages."""
    if isinstance(output, ToolMessage):
        return [_by_call(output)]
    if isinstance(output, Command):
        update = output.update if isinstance(output.update, dict) else {}
        messages = [m for m in update.get("messages", []) if isinstance(m, BaseMessage)]
        return [_by_call(m) if isinstance(m, ToolMessage) else m for m in messages]
    call = {"name": run.tool, "args": run.inputs, "id": str(run_id), "type": "tool_call"}
    text = output if isinstance(output, str) else as_text(output)
    # Unlike `AIMessage(…)`, it takes arguments as they are: a tool may be called with any.
    made = AIMessage("", id=derived_id(str(run_id), "call"))
    made.tool_calls = [call]  # type: ignore[list-item]
    answer = ToolMessage(text, tool_call_id=str(run_id), name=run.tool, id=derived_id(str(run_id)))
    return [made, answer]


def _by_call(message: ToolMessage) -> ToolMessage:
    """The message with an id: the tool that answers and the prompt that quotes it are one."""
    if message.id:
        return message
    id_ = derived_id("answer", message.tool_call_id, str(message.content))
    return message.model_copy(update={"id": id_})
