"""Long conversations with questions about them, and all-MiniLM's embeddings of both.

Written for this project. Two people talk, or a person and an assistant, in twenty sessions over ten
months; each question names the turns that answer it. The embeddings are those of
sentence-transformers/all-MiniLM-L6-v2, of ``"speaker: text"`` and of the question, in 8 bits.
"""

import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from langchain_core.embeddings import Embeddings
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

from langmem_isolated import ScopedMemory

_HERE = Path(__file__).parent
NAMES = ("assistant", "friends1", "friends2", "friends3")


@dataclass(frozen=True)
class Question:
    text: str
    answers: frozenset[str]
    """Ids of the turns that answer it."""


@dataclass(frozen=True)
class Conversation:
    name: str
    sessions: list[dict[str, Any]] = field(repr=False)
    questions: list[Question] = field(repr=False)

    @classmethod
    @cache
    def load(cls, name: str) -> "Conversation":
        """A conversation by its name."""
        read = json.loads((_HERE / f"{name}.json").read_text("utf-8"))
        questions = [
            Question(one["question"], frozenset(one["answers"])) for one in read["questions"]
        ]
        return cls(name, read["sessions"], questions)

    @property
    def turns(self) -> list[dict[str, str]]:
        return [turn for session in self.sessions for turn in session["turns"]]

    def put_into(self, scope: ScopedMemory) -> None:
        """Store every session, as an application does that knows who speaks."""
        for number, session in enumerate(self.sessions, start=1):
            messages = [self.message(turn) for turn in session["turns"]]
            scope.sessions.create(str(number), title=session["title"])
            scope.chat_history(str(number)).add_messages(messages)

    @staticmethod
    def message(turn: dict[str, str]) -> BaseMessage:
        """A turn as a message; of two people, who is an assistant makes no difference."""
        message_class = AIMessage if turn["speaker"] == "assistant" else HumanMessage
        return message_class(turn["text"], id=turn["id"], name=turn["speaker"])

    def found(self, scope: ScopedMemory, *limits: int, **options: Any) -> list[float]:
        """The shares of answering turns among the first so many, as means over all questions."""
        shares: list[list[float]] = [[] for _ in limits]
        for question in self.questions:
            recalled = scope.recall(question.text, limit=max(limits), **options)
            ids = [one.message_id for one in recalled]
            for limit, share in zip(limits, shares, strict=True):
                share.append(
                    len(question.answers.intersection(ids[:limit])) / len(question.answers)
                )
        return [sum(share) / len(share) for share in shares]


class MiniLM(Embeddings):
    """all-MiniLM-L6-v2, for the turns and questions of one conversation."""

    model_name = "all-MiniLM-L6-v2"

    def __init__(self, conversation: Conversation) -> None:
        vectors = np.load(_HERE / "all_minilm_l6_v2.npz")
        turns = [f"{turn['speaker']}: {turn['text']}" for turn in conversation.turns]
        questions = [one.text for one in conversation.questions]
        self._vectors = {
            **dict(zip(turns, vectors[f"{conversation.name}_turns"].tolist(), strict=True)),
            **dict(zip(questions, vectors[f"{conversation.name}_questions"].tolist(), strict=True)),
        }

    def embed_query(self, text: str) -> list[float]:
        vector: list[float] = self._vectors[text]
        return vector

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self.embed_query(text) for text in texts]
