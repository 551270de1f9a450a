"""A chat model for tests that says all that it was given, so that a leak into a prompt is seen."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

from langchain_core.language_models import LanguageModelInput, ParrotFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ToolCall
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool

from langmem_isolated._runtime.arguments import seconds

FAILURE = "PleaseFailNow"
"""The word at which an `EchoChatModel` raises instead of an answer."""
_NUMBERS = {"integer": 1, "number": 1.0, "boolean": True, "array": [], "object": {}}


class EchoFailed(RuntimeError):
    """An `EchoChatModel` was told to fail, as models do; nothing of its prompt is quoted.

    >>> with pytest.raises(EchoFailed):
    ...     EchoChatModel().invoke(FAILURE)
    """

    def __init__(self) -> None:
        super().__init__(f"The last message holds {FAILURE}, so this model fails.")


class EchoChatModel(ParrotFakeChatModel):
    """A chat model that answers with every word of its prompt, once each, in their order.

    System prompts, histories, quoted documents and results of tools are said, too: what reached
    the prompt of a user reaches the answer. It streams word by word, and pauses in between, so that
    other users' runs come between. Where tools are bound it calls each of them once after a
    question, with the question for every text that the tool takes, and answers when their results
    are there. A last message that holds :data:`FAILURE` makes it raise `EchoFailed`.

    Args:
        pause: Seconds before the answer, and once in the midst of it; above 0 for races to show.

    >>> model = EchoChatModel()
    >>> model.invoke([("system", "You are kind."), ("human", "Are you?")]).text
    'You are kind. Are you?'
    >>> [chunk.text for chunk in model.stream("My PIN")]
    ['My', ' PIN']
    """

    pause: float = 0.001

    def model_post_init(self, context: Any, /) -> None:
        """Check the pause.

        Raises:
            ValueError: It is below 0.
            TypeError: It is no number.
        """
        super().model_post_init(context)
        seconds("pause", self.pause, or_none=True)

    @property
    def _llm_type(self) -> str:
        return "echo-chat-model"

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | None = None,  # noqa: ARG002 - it calls all of them
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """The model with tools that it calls; see the class."""
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools], **kwargs)

    def _generate(self, messages: list[BaseMessage], *_: Any, **kwargs: Any) -> ChatResult:
        time.sleep(self.pause)
        return _result(messages, kwargs)

    async def _agenerate(self, messages: list[BaseMessage], *_: Any, **kwargs: Any) -> ChatResult:
        await asyncio.sleep(self.pause)
        return _result(messages, kwargs)

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: Any = None,  # noqa: ARG002 - it says all
        run_manager: Any = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        for chunk, pauses in self._chunks(messages, kwargs):
            time.sleep(pauses)
            if run_manager:
                run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: Any = None,  # noqa: ARG002 - it says all
        run_manager: Any = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        for chunk, pauses in self._chunks(messages, kwargs):
            await asyncio.sleep(pauses)
            if run_manager:
                await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk

    def _chunks(
        self, messages: list[BaseMessage], options: dict[str, Any]
    ) -> Iterator[tuple[ChatGenerationChunk, float]]:
        """The parts of the answer, with seconds of pause before each."""
        message = _result(messages, options).generations[0].message
        parts: list[AIMessageChunk]
        if isinstance(message, AIMessage) and message.tool_calls:
            parts = [_chunk_of_calls(message.tool_calls)]
        else:
            words = message.text.split(" ")
            parts = [AIMessageChunk(content=" " * (n > 0) + word) for n, word in enumerate(words)]
        parts[-1].chunk_position = "last"
        for number, part in enumerate(parts):
            pauses = self.pause if number in (0, len(parts) // 2) else 0
            yield ChatGenerationChunk(message=part), pauses


def _result(messages: Sequence[BaseMessage], options: dict[str, Any]) -> ChatResult:
    return ChatResult(generations=[ChatGeneration(message=_answer(messages, options))])


def _answer(messages: Sequence[BaseMessage], options: dict[str, Any]) -> AIMessage:
    last = messages[-1] if messages else None
    if last is not None and FAILURE in last.text:
        raise EchoFailed
    if last is not None and last.type == "human" and options.get("tools"):
        return AIMessage(content="", tool_calls=_calls(options["tools"], last))
    return AIMessage(content=" ".join(_words(messages)))


def _words(messages: Sequence[BaseMessage]) -> list[str]:
    """Each word once: what it said before is in its prompt, and would double with every turn."""
    texts = []
    for message in messages:
        called = getattr(message, "tool_calls", None)
        texts += [message.text, *([json.dumps([one["args"] for one in called])] if called else [])]
    return list(dict.fromkeys(" ".join(texts).split()))


def _calls(tools: Sequence[dict[str, Any]], last: BaseMessage) -> list[ToolCall]:
    return [
        ToolCall(
            name=tool["function"]["name"],
            args=_arguments(tool["function"].get("parameters", {}), last.text),
            id=f"call {number} after {last.id or 'a question'}",
            type="tool_call",
        )
        for number, tool in enumerate(tools)
    ]


def _arguments(schema: dict[str, Any], text: str) -> dict[str, Any]:
    """An argument of its type for each that must be given."""
    properties = schema.get("properties", {})
    return {name: _argument(properties.get(name, {}), text) for name in schema.get("required", [])}


def _argument(schema: dict[str, Any], text: str) -> Any:
    if schema.get("enum"):
        return schema["enum"][0]
    return _NUMBERS.get(schema.get("type", "string"), text)


def _chunk_of_calls(calls: list[ToolCall]) -> AIMessageChunk:
    return AIMessageChunk(
        content="",
        tool_call_chunks=[
            {
                "name": call["name"],
                "args": json.dumps(call["args"]),
                "id": call["id"],
                "index": number,
                "type": "tool_call_chunk",
            }
            for number, call in enumerate(calls)
        ],
    )
