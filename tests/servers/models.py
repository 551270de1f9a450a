"""A model for tests of servers: says word by word what it was last told, with pauses between."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult


class Echo(GenericFakeChatModel):
    """Answers from its prompt alone, so that an answer shows whose thread it was made from."""

    messages: Any = ()

    def _answer(self, messages: list[BaseMessage]) -> str:
        return "You said: " + ", ".join(m.text for m in messages if m.type == "human")

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        answer = AIMessage(self._answer(messages))
        return ChatResult(generations=[ChatGeneration(message=answer)])

    async def _astream(
        self, messages: list[BaseMessage], *_: Any, **__: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        for word in self._answer(messages).split(" "):
            await asyncio.sleep(0.01)
            yield ChatGenerationChunk(message=AIMessageChunk(f"{word} "))
