"""A chat model for the examples that needs no network and no key: a few rules, streamed by words.

It answers from its prompt alone, as any model does, so what it knows shows what it was given: the
thread, what was recalled from others, and the user's profile. With MODEL in the environment, as in
``MODEL=anthropic:claude-sonnet-4-5``, the examples take LangChain's `init_chat_model` instead.
"""

import json
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from langchain.chat_models import init_chat_model
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ToolCallChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool

_TOLD = re.compile(r"\b[Mm]y (?P<what>[\w' -]{1,60}?) (?:is|are) (?P<value>[^.!?\n]{1,200})")
_ASKED = re.compile(r"\b[Ww](?:hat|ho|hen|here)(?:'s| is| are) my (?P<what>[\w' -]{1,60})\?")


def model_of_environment() -> BaseChatModel:
    """The model that MODEL names, or the rules of this file."""
    name = os.environ.get("MODEL")
    return init_chat_model(name) if name else OfflineModel()


class OfflineModel(BaseChatModel):
    """Notes what it is told ("My cat is Mia."), and answers "What is my cat?".

    Given a profile tool, it keeps what it is told as a fact.

    Args:
        pause: Seconds before each word, so that a stream can be watched.
    """

    pause: float = 0.02

    @property
    def _llm_type(self) -> str:
        return "offline-rules"

    def bind_tools(
        self, tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool], **kwargs: Any
    ) -> Runnable[Any, AIMessage]:
        """The model with the names of its tools."""
        names = [tool.name for tool in tools if isinstance(tool, BaseTool)]
        return self.bind(tool_names=names, **kwargs)

    def _generate(self, messages: list[BaseMessage], *_: Any, **options: Any) -> ChatResult:
        answer = _answer(messages, options.get("tool_names", ()))
        return ChatResult(generations=[ChatGeneration(message=answer)])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,  # noqa: ARG002 - it says all
        run_manager: Any = None,
        **options: Any,
    ) -> Iterator[ChatGenerationChunk]:
        answer = _answer(messages, options.get("tool_names", ()))
        calls = [
            ToolCallChunk(name=call["name"], args=json.dumps(call["args"]), id=call["id"], index=0)
            for call in answer.tool_calls
        ]
        parts = [AIMessageChunk(content=word) for word in re.findall(r"\s*\S+", answer.text)]
        parts.append(AIMessageChunk(content="", tool_call_chunks=calls, chunk_position="last"))
        for part in parts:
            time.sleep(self.pause)
            chunk = ChatGenerationChunk(message=part)
            if run_manager:
                run_manager.on_llm_new_token(part.text, chunk=chunk)
            yield chunk


def _answer(messages: Sequence[BaseMessage], tools: Sequence[str]) -> AIMessage:
    last = messages[-1]
    if last.type == "tool":
        return AIMessage("I will remember that.")
    if asked := _ASKED.search(last.text):
        return AIMessage(_found(asked["what"], messages[:-1]))
    if not (told := _TOLD.search(last.text)):
        return AIMessage(f"You said: {last.text}")
    if "profile" not in tools:
        return AIMessage(f"Noted: your {told['what']} is {told['value']}.")
    fact = {"action": "add", "text": f"My {told['what']} is {told['value']}."}
    call = {"name": "profile", "args": fact, "id": f"after-{last.id}", "type": "tool_call"}
    return AIMessage("", tool_calls=[call])


def _found(what: str, messages: Sequence[BaseMessage]) -> str:
    """What was said of it last, in the thread or in what is quoted."""
    # What bears a name was said by somebody else in the room.
    own = [message for message in messages if message.type == "human" and not message.name]
    texts = [text for message in own for text in _texts(message)]
    said = [
        told["value"] for text in texts for told in _TOLD.finditer(text) if told["what"] == what
    ]
    return f"Your {what} is {said[-1]}." if said else f"You have not told me your {what}."


def _texts(message: BaseMessage) -> list[str]:
    """The message's text, or those that are quoted in it as JSON, one a line."""
    quoted = [line for line in message.text.splitlines() if line.startswith('{"')]
    return [str(json.loads(line).get("text", "")) for line in quoted] or [message.text]
