"""LLM cache of LangChain, isolated and encrypted."""

import hashlib
import uuid
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

from langchain_core.caches import RETURN_VAL_TYPE, BaseCache
from langchain_core.outputs import (
    ChatGeneration,
    ChatGenerationChunk,
    Generation,
    GenerationChunk,
)

from langmem_isolated._codecs.classes import tell_once, type_name
from langmem_isolated._codecs.values import decode_value, encode_value
from langmem_isolated._crypto.sealing import framed
from langmem_isolated._runtime.arguments import time_to_live
from langmem_isolated._runtime.calls import ONE_SCOPE, made_by
from langmem_isolated._runtime.clock import lifetime, now
from langmem_isolated._runtime.operations import counted, observed, one
from langmem_isolated._storage import entries
from langmem_isolated._storage.entries import Entry
from langmem_isolated._storage.scoped_database import ScopedDatabase
from langmem_isolated.errors import LimitExceeded, RecordError, ValueNotStorable

_ANSWERS = (b"llm cache",)
_ANSWER_V1 = b"\x01"
_GENERATIONS: dict[str, type[Generation]] = {
    known.__name__: known
    for known in (Generation, GenerationChunk, ChatGeneration, ChatGenerationChunk)
}
# How the id begins that LangChain gives a message whose model gave it none.
_ID_OF_A_RUN = "lc_run-"


@made_by(f"{ONE_SCOPE}.llm_cache()", "memory.llm_cache()", first=Callable)
class IsolatedLLMCache(BaseCache):
    """LangChain's cache for models, in which nobody is given the answer to somebody else.

    Made by ``memory.scope(…).llm_cache()``, or by ``memory.llm_cache()``, which takes the scope
    from the run that asks: LangChain has one cache for all, ``set_llm_cache``. One object serves
    any number of threads, tasks and event loops. Prompts are not kept, only digests of them.

    >>> from langchain_core.language_models import FakeListChatModel
    >>> model = FakeListChatModel(responses=["42", "43"], cache=scope.llm_cache())
    >>> model.invoke("What is 6 times 7?").text, model.invoke("What is 6 times 7?").text
    ('42', '42')

    Args:
        resolve: Whose records are meant; asked when an operation is called, in the caller's
            context.
        ttl: How long an answer is kept; for ever by default.

    Raises:
        TypeError: ``ttl`` is no `timedelta`.
        ValueError: It is shorter than a microsecond.
    """

    def __init__(
        self, resolve: Callable[[], ScopedDatabase], *, ttl: timedelta | None = None
    ) -> None:
        self._resolve = resolve
        self._lifetime = lifetime(time_to_live(ttl))

    def lookup(self, prompt: str, llm_string: str) -> RETURN_VAL_TYPE | None:
        """What was answered to ``prompt``, or ``None``.

        Raises:
            RecordDoesNotOpen: The answer was changed, moved or exchanged.
            RecordError: A later version of this package stored it.
            ScopeError: No scope is named where the scope comes from the run.
            DatabaseError: The database refused or failed.
        """
        return _looked_up(self._resolve(), _digest(prompt, llm_string))

    async def alookup(self, prompt: str, llm_string: str) -> RETURN_VAL_TYPE | None:
        """What was answered; see :meth:`lookup`."""
        records = self._resolve()
        return await records.arun(_looked_up, records, _digest(prompt, llm_string))

    def update(self, prompt: str, llm_string: str, return_val: RETURN_VAL_TYPE) -> None:
        """Keep the answer to ``prompt``, in place of an earlier one.

        One with a part that has no stored form is not kept, which the log says once for each type:
        the model was paid for it, and whoever asked gets it.

        Raises:
            ScopeError: No scope is named where the scope comes from the run.
            KeyDestroyed: The scope was erased.
            DatabaseError: The database refused or failed.
        """
        self._update(self._resolve(), prompt, llm_string, return_val)

    async def aupdate(self, prompt: str, llm_string: str, return_val: RETURN_VAL_TYPE) -> None:
        """Keep an answer; see :meth:`update`. If cancelled, it may have been stored."""
        records = self._resolve()
        await records.arun(self._update, records, prompt, llm_string, return_val)

    @observed("upsert_memory", "answer", one, records=lambda _, records, *__: records)
    def _update(
        self, records: ScopedDatabase, prompt: str, llm_string: str, answer: RETURN_VAL_TYPE
    ) -> None:
        try:
            entry = Entry(_digest(prompt, llm_string), _encoded(answer))
            records.limits.check("value_bytes", len(entry.value))
        except LimitExceeded:
            tell_once("cached", "answer beyond value_bytes", "An %s was not cached.")
            return
        except ValueNotStorable as refusal:
            tell_once("cached", refusal.type_name, "An answer with a %s was not cached.")
            return
        records.write(entries.put, _ANSWERS, [entry], now(), self._lifetime)

    def clear(self, **kwargs: Any) -> None:
        """Forget every answer of the scope, and of no other.

        Raises:
            TypeError: A keyword was given: there is none that would spare some answers.
        """
        _refuse(kwargs)
        _cleared(self._resolve())

    async def aclear(self, **kwargs: Any) -> None:
        """Forget every answer of the scope; see :meth:`clear`."""
        _refuse(kwargs)
        records = self._resolve()
        await records.arun(_cleared, records)

    def sweep(self) -> int:
        """Remove the scope's expired answers from the database; returns how many."""
        return _swept(self._resolve())

    async def asweep(self) -> int:
        """Remove expired answers; see :meth:`sweep`."""
        records = self._resolve()
        return await records.arun(_swept, records)


@observed("delete_memory", "answer", records=lambda records: records)
def _cleared(records: ScopedDatabase) -> None:
    records.write_if_exists(entries.clear, None, _ANSWERS)


@observed("sweep", "answer", counted, records=lambda records: records)
def _swept(records: ScopedDatabase) -> int:
    return records.write_if_exists(entries.sweep, 0, now())


def _refuse(keywords: dict[str, Any]) -> None:
    if keywords:
        raise TypeError("clear() takes no keywords: it forgets all. Nothing was removed.")


def _digest(prompt: str, llm_string: str) -> bytes:
    # The record's own digest is keyed; this one spares to store the prompt again.
    parts = (part.encode(errors="surrogatepass") for part in (prompt, llm_string))
    return hashlib.sha256(framed(*parts)).digest()


def _is_found(answer: list[Generation] | None, *_: object) -> int:
    return answer is not None


@observed("search_memory", "answer", _is_found, records=lambda records, *_: records)
def _looked_up(records: ScopedDatabase, digest: bytes) -> list[Generation] | None:
    nothing: list[bytes | None] = [None]
    (found,) = records.read(entries.get, nothing, _ANSWERS, [digest], now())
    return None if found is None else _decoded(found)


def _encoded(answer: Sequence[Generation]) -> bytes:
    plain = []
    for generation in answer:
        name = type(generation).__name__
        if _GENERATIONS.get(name) is not type(generation):
            raise ValueNotStorable(type_name(generation), "an answer")
        plain.append([name, generation.__dict__])
    return _ANSWER_V1 + encode_value(plain, "an answer")


def _decoded(value: bytes) -> list[Generation]:
    plain = decode_value(value[1:]) if value[:1] == _ANSWER_V1 else [("", {})]
    if any(name not in _GENERATIONS for name, _ in plain):
        raise RecordError(
            "An answer in the cache has a form that this version does not know. Nothing was "
            "changed; install a later langmem-isolated, or clear the cache."
        )
    return [
        _GENERATIONS[name].model_construct(**_with_fresh_message_id(fields))
        for name, fields in plain
    ]


def _with_fresh_message_id(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of an answer whose message is another than when the model gave it.

    Under the id of the run that asked first, LangGraph would put it in that one's place.
    """
    message = fields.get("message")
    if message is not None and (message.id or "").startswith(_ID_OF_A_RUN):
        message.id = f"{_ID_OF_A_RUN}-{uuid.uuid4()}"
    return fields
