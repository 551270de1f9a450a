"""Calls of embeddings: what providers return, checked, and which text they refuse, found out."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from langchain_core.embeddings import Embeddings

from langmem_isolated._search.vectors import VectorSpace
from langmem_isolated.errors import EmbeddingRefused

Vectors = list[list[float]]

# Of HTTP: malformed, too long, of no known form. Others are of accounts, rates and outages.
_TEXT_IS_AT_FAULT = {400, 413, 422}


def embedded(model: Embeddings, texts: list[str]) -> Vectors:
    """What the model makes of ``texts``, one or more.

    Raises:
        EmbeddingRefused: It fails for one text and not for others. Any other error is the
            provider's own.
    """
    try:
        return model.embed_documents(texts)
    except Exception as error:
        explain(error, model, texts)
        raise


async def aembedded(
    model: Embeddings, texts: list[str], arun: Callable[..., Awaitable[Any]]
) -> Vectors:
    """What the model makes of ``texts``; see :func:`embedded`."""
    try:
        return await model.aembed_documents(texts)
    except Exception as error:
        await arun(explain, error, model, texts)
        raise


def explain(error: Exception, model: Embeddings, texts: list[str]) -> None:
    """Find the one text that a provider refuses, in as many calls as there are halvings, and one.

    Raises:
        EmbeddingRefused: It is found.
    """
    if len(texts) > 1 and _may_be_about_a_text(error):
        position = _refused(model, texts)
        if position is not None:
            cause = f"{type(error).__module__}.{type(error).__qualname__}"
            raise EmbeddingRefused(position, len(texts), cause) from None


def _may_be_about_a_text(error: Exception) -> bool:
    """Not where a provider is away, or wants to be left alone: that would be asked for long."""
    status = getattr(error, "status_code", None)
    if status is None:
        status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(status, int):
        return status in _TEXT_IS_AT_FAULT
    name = type(error).__name__
    is_away = isinstance(error, OSError | NotImplementedError)
    return not is_away and not any(sign in name for sign in ("Timeout", "Connect", "RateLimit"))


def _refused(model: Embeddings, texts: list[str]) -> int | None:
    """Where the first refused text stands; ``None`` if each passes alone, or none does."""
    low, high = 0, len(texts)
    while high - low > 1:
        middle = (low + high) // 2
        if _passes(model, texts[low:middle]):
            low = middle
        else:
            high = middle
    others = texts[:low] or texts[1:2]
    # Each half may have passed because it was shorter, or all fail for a reason of their own.
    return low if not _passes(model, texts[low:high]) and _passes(model, others[-1:]) else None


def _passes(model: Embeddings, texts: list[str]) -> bool:
    try:
        model.embed_documents(texts)
    except Exception:  # noqa: BLE001 - providers raise anything
        return False
    return True


def packed(vectors: Sequence[Sequence[float]], count: int) -> list[bytes]:
    """Vectors of ``count`` documents as bytes; see :meth:`VectorSpace.pack`.

    Raises:
        ValueError: There are more or fewer, one is no vector of finite numbers, or they have
            different lengths.
    """
    found = [_packed(vector, place, count) for place, vector in enumerate(counted(vectors, count))]
    if len({*map(len, found)}) > 1:
        raise ValueError("The embeddings of these documents have different lengths.")
    return found


def counted(vectors: Sequence[Sequence[float]], count: int) -> list[Sequence[float]]:
    """The vectors of ``count`` texts.

    Raises:
        ValueError: There are more or fewer.
    """
    listed = [*vectors]
    if len(listed) != count:
        raise ValueError(
            f"The embeddings made {len(listed)} vectors of {count} texts. Nothing was written. "
            "embed_documents() must return one for each text, in their order."
        )
    return listed


def _packed(vector: Sequence[float], place: int, count: int) -> bytes:
    where = f"It is that of the document at position {place} of {count}, counted from 0."
    try:
        length = len(vector)
    except TypeError:
        got = type(vector).__name__
        raise ValueError(f"An embedding must be a list of numbers, got {got}. {where}") from None
    if not length:
        raise ValueError(f"An embedding must have numbers, got none. {where}")
    try:
        return VectorSpace(length).pack(vector)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{error} {where}") from None
