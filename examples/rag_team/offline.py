"""Stand-ins that need no network: embeddings made of letters, and a model that quotes."""

import re
import zlib
from typing import Any

import numpy as np
from langchain_core.embeddings import Embeddings
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult

# A group of three letters of each text falls into one of so many buckets.
DIMENSIONS = 512
# Words that any sentence has, and that say nothing of what it is about.
_FUNCTION_WORDS = re.compile(
    r"a|an|and|are|do|does|for|how|i|in|is|it|my|of|on|that|the|this|to|we|what|when|which|who|with"
)


class LetterEmbeddings(Embeddings):
    """Counts groups of three letters: texts that share them are near, the same every time."""

    def embed_query(self, text: str) -> list[float]:
        """The vector of a text, of length 1."""
        padded = f"  {text.lower()} "
        vector = np.zeros(DIMENSIONS)
        for start in range(len(padded) - 2):
            vector[zlib.crc32(padded[start : start + 3].encode()) % DIMENSIONS] += 1
        unit: list[float] = (vector / np.linalg.norm(vector)).tolist()
        return unit

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """The vectors of texts."""
        return [self.embed_query(text) for text in texts]


class QuotingModel(BaseChatModel):
    """Answers with the passage of its prompt that shares most words with the question, cited."""

    @property
    def _llm_type(self) -> str:
        return "quoting-model"

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        asked = _words(messages[-1].text)
        passages = re.findall(r"^\[(\d+)\] (.+)$", messages[0].text, re.MULTILINE)
        shared = {number: len(asked & _words(text)) for number, text in passages}
        best = max(passages, key=lambda passage: shared[passage[0]], default=None)
        said = f"{best[1]} [{best[0]}]" if best and shared[best[0]] else "I do not know."
        return ChatResult(generations=[ChatGeneration(message=AIMessage(said))])


def _words(text: str) -> set[str]:
    said = re.findall(r"\w+", text.lower())
    return {word.rstrip("s") for word in said if not _FUNCTION_WORDS.fullmatch(word)}
