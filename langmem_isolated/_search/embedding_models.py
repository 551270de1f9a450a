"""Names of embedding models: whose vectors may be compared."""

import hashlib
from collections.abc import Iterator

from langchain_core.embeddings import Embeddings

MODEL_BYTES = 16
# As LangChain's classes call what makes vectors differ; few have all, LangChain itself has none.
_FACTS = ("model", "model_name", "model_id", "repo_id", "deployment", "dimensions")
# A wrapper around a wrapper around…: nobody has so many.
_DEEPEST = 16


def embedding_model_name(embeddings: object, given: str | None = None) -> str:
    """What a model is called: ``given``, or the class and settings of what wrappers wrap.

    A cache or a router in front of a model makes the vectors of that model.

    Raises:
        TypeError: ``given`` is no text.
        ValueError: ``given`` is empty.
    """
    if given is not None:
        if not isinstance(given, str):
            raise TypeError(f"embedding_name must be a str, got {type(given).__name__}.")
        if not given:
            raise ValueError("embedding_name must not be empty. Leave it out, or name the model.")
        return given
    *_, innermost = _unwrapped(embeddings)
    kind = type(innermost)
    made_by = getattr(innermost, "func", None) or getattr(innermost, "afunc", None) or kind
    facts = {name: getattr(innermost, name, None) for name in _FACTS}
    plain = [f"{name}={fact}" for name, fact in facts.items() if isinstance(fact, str | int)]
    return " ".join([f"{_module(made_by, kind)}", *plain])


def _module(made_by: object, kind: type) -> str:
    name = getattr(made_by, "__qualname__", kind.__qualname__)
    return f"{getattr(made_by, '__module__', kind.__module__)}.{name}"


def _unwrapped(embeddings: object) -> Iterator[object]:
    """An object, and down to the innermost each object that it wraps, if it wraps a single one."""
    yield embeddings
    for _ in range(_DEEPEST):
        inner = {
            id(value): value
            for value in getattr(embeddings, "__dict__", {}).values()
            if isinstance(value, Embeddings)
        }
        if len(inner) != 1:
            return
        (embeddings,) = inner.values()
        yield embeddings


def model_digest(name: str) -> bytes:
    """16 bytes that stand for a model's name."""
    return hashlib.blake2b(name.encode(), digest_size=MODEL_BYTES).digest()
