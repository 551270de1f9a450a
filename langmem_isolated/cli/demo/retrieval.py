"""Lets users who share a vector store, and a memory, look for what was said."""

import math
import zlib
from typing import NamedTuple

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.messages import HumanMessage
from langchain_core.vectorstores import InMemoryVectorStore, VectorStore
from rich.table import Table

from langmem_isolated._search import vectors
from langmem_isolated.cli.demo.sections import Run, Section
from langmem_isolated.cli.terminal import cell, table
from langmem_isolated.scope import Scope

_DIMENSIONS = 256
_COLLECTION = "langmem-isolated demo"
_WAYS = (
    "recall, by words",
    "a bare vector store, its filter forgotten",
    "the same store, wrapped",
    "this package's vector store",
)


class LetterGroups(Embeddings):
    """Offline embeddings: counts groups of three letters in 256 buckets."""

    def embed_query(self, text: str) -> list[float]:
        """A unit vector; texts that share letters are near."""
        vector = [0.0] * _DIMENSIONS
        padded = f"  {text.lower()} "
        for start in range(len(padded) - 2):
            vector[zlib.crc32(padded[start : start + 3].encode()) % _DIMENSIONS] += 1
        length = math.hypot(*vector)
        return [number / length for number in vector]

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """A unit vector for each text."""
        return [self.embed_query(text) for text in texts]


class Asked(NamedTuple):
    """How many documents came back to a user, and how many of them were another's."""

    found: int
    foreign: int


def looking_for_what_was_said(run: Run) -> Section:
    """The same questions to a bare vector store without its filter, and to ours."""
    said = _said(run)
    if not said:
        return Section("Users who look for what was said", [_nothing_said()], {})
    recalled = _recalled(run, said)
    stores = _by_meaning(run, said) if vectors.is_available() else ()
    shown = table("asked of", "users", "found", "of them another's")
    for name, asked in zip(_WAYS, [recalled, *stores], strict=False):
        shown.add_row(name, *map(str, (len(asked), _found(asked), _foreign(asked))))
    if not stores:
        shown.caption = cell("Vector stores need NumPy: pip install 'langmem-isolated[vector]'.")
        shown.caption_justify = "left"
    return Section("Users who look for what was said", [shown], _claims(said, recalled, *stores))


def _nothing_said() -> Table:
    shown = table("asked of", "users", "found")
    shown.caption = cell("No user said anything in words, so there is nothing to look for.")
    shown.caption_justify = "left"
    return shown


def _claims(
    said: dict[Scope, list[str]], recalled: list[Asked], *stores: list[Asked]
) -> dict[str, bool]:
    claims = {
        f"recall answers {len(said)} users with {_foreign(recalled)} messages of others": (
            _foreign(recalled) == 0
        )
    }
    if stores:
        bare, *isolated = stores
        whole = [Asked(len(texts), 0) for texts in said.values()]
        if len(said) > 1:
            # A store in which one user alone has anything has nothing to give away.
            claims[
                f"a bare store hands out {_foreign(bare)} of {_found(bare)} documents to the wrong "
                "user"
            ] = _foreign(bare) > 0
        claims |= {
            f"wrapped, and in this package's own, {sum(map(_foreign, isolated))}, and every user "
            "gets all of their own": all(asked == whole for asked in isolated),
        }
    return claims


def _found(asked: list[Asked]) -> int:
    return sum(one.found for one in asked)


def _foreign(asked: list[Asked]) -> int:
    return sum(one.foreign for one in asked)


def _said(run: Run) -> dict[Scope, list[str]]:
    """What each scope's user said."""
    said: dict[Scope, list[str]] = {}
    for conversation in run.conversations:
        texts = [str(m.text) for m in conversation.messages if isinstance(m, HumanMessage)]
        said.setdefault(conversation.place.scope, []).extend(filter(None, texts))
    return {scope: texts for scope, texts in said.items() if texts}


def _recalled(run: Run, said: dict[Scope, list[str]]) -> list[Asked]:
    """What recall finds for each, beginning with a question that this user asked."""
    earlier = {
        place.scope: {str(message.text) for message in messages}
        for place, messages in run.before.messages.items()
    }
    asked = []
    for scope, texts in said.items():
        found = run.memory.scope(scope).recall(texts[0], roles=["human"])
        own = {*texts, *earlier.get(scope, ())}
        asked.append(Asked(len(found), sum(one.text not in own for one in found)))
    return asked


def _by_meaning(run: Run, said: dict[Scope, list[str]]) -> tuple[list[Asked], ...]:
    """What a bare store finds for each, the same one wrapped, and our own."""
    embeddings = LetterGroups()
    bare, shared = InMemoryVectorStore(embeddings), InMemoryVectorStore(embeddings)
    scoped = {scope: run.memory.scope(scope) for scope in said}
    own = {s: m.vector_store(embeddings, collection=_COLLECTION) for s, m in scoped.items()}
    wrapped = {scope: memory.vector_store(wrapping=shared) for scope, memory in scoped.items()}
    for number, (scope, texts) in enumerate(said.items()):
        documents = [Document(text, metadata={"whose": number}) for text in texts]
        for store in (bare, wrapped[scope], own[scope]):
            store.add_documents(documents)
    # One more than anyone has: whoever gets as many gets somebody else's.
    k = 1 + max(map(len, said.values()))
    kinds: tuple[dict[Scope, VectorStore], ...] = (dict.fromkeys(said, bare), {**wrapped}, {**own})
    asked = tuple(
        [_asked(stores[scope], texts[0], k, n) for n, (scope, texts) in enumerate(said.items())]
        for stores in kinds
    )
    for store in own.values():
        store.clear()
    return asked


def _asked(store: VectorStore, question: str, k: int, number: int) -> Asked:
    found = store.similarity_search(question, k)
    return Asked(len(found), sum(document.metadata["whose"] != number for document in found))
