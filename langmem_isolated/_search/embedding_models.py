"""Names of embedding models: whose vectors may be compared."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import Any

from langchain_core.embeddings import Embeddings

MODEL_BYTES = 16
# As LangChain's classes call what makes vectors differ; few have all, LangChain itself has none.
# Classes of applications often keep them behind an underscore.
_FACTS = (
    *("model", "model_name", "model_id", "repo_id", "deployment"),
    *("model_path", "model_name_or_path", "model_uid", "model_url", "model_uri"),
    *("model_version", "model_version_id", "model_revision", "endpoint", "endpoint_name"),
    *("dimensions", "output_dimensionality", "size", "compress_to_size"),
)
# A longer list or dict is one of texts or vectors; nobody routes to so many models.
_MOST_MODELS = 100


def embedding_model_name(embeddings: object, given: str | None = None) -> str:
    """What a model is called: ``given``, or the class and settings of what wrappers wrap.

    A cache or a router in front of a model makes the vectors of that model. Of a function, as
    LangGraph's stores take it, module and name count, and the settings of the object that it is a
    method of. What wraps several models is called after all of them.

    Raises:
        TypeError: ``given`` is no text.
        ValueError: ``given`` is empty.
    """
    if given is None:
        return _name(embeddings, frozenset())
    if not isinstance(given, str):
        raise TypeError(f"embedding_name must be a str, got {type(given).__name__}.")
    if not given:
        raise ValueError("embedding_name must not be empty. Leave it out, or name the model.")
    return given


def _name(model: object, above: frozenset[int]) -> str:
    """``above`` are the wrappers on the way: one may know who wraps it."""
    above |= {id(model)}
    inner = {id(one): one for one in _wrapped(model) if id(one) not in above}
    names = dict.fromkeys(_name(one, above) for one in inner.values())
    if len(names) == 1:
        return next(iter(names))
    return f"{_own_name(model)} ({', '.join(names)})" if names else _own_name(model)


def _own_name(model: object) -> str:
    made_by, settings = _function(model)
    if made_by is None:
        made_by = model
    kind = made_by if hasattr(made_by, "__qualname__") else type(made_by)
    owner = getattr(made_by, "__self__", made_by)
    facts = {name: settings.get(name, _setting(owner, name)) for name in _FACTS}
    plain = [f"{name}={fact}" for name, fact in facts.items() if _is_plain(name, fact)]
    return " ".join([f"{kind.__module__}.{kind.__qualname__}", *plain])


def _function(model: object) -> tuple[Any, Mapping[str, Any]]:
    """The function that LangGraph made embeddings of, and what it was called with beforehand."""
    function = getattr(model, "func", None) or getattr(model, "afunc", None)
    settings: dict[str, Any] = {}
    while isinstance(function, partial):
        settings = {**function.keywords, **settings}
        function = function.func
    return function, settings


def _setting(owner: object, name: str) -> object:
    for spelt in (name, f"_{name}"):
        # A property may raise anything.
        with suppress(Exception):
            if isinstance(found := getattr(owner, spelt), str | int):
                return found
    return None


def _is_plain(name: str, fact: object) -> bool:
    # An endpoint is a name for some, for others an address, at which the same model may move.
    is_address = name == "endpoint" and isinstance(fact, str) and "://" in fact
    return isinstance(fact, str | int) and not is_address


def _wrapped(model: object) -> Iterator[object]:
    """The models in an object's attributes, and in lists and dicts there."""
    for value in _attributes(model):
        parts: Iterable[object] = (value,)
        if isinstance(value, dict):
            parts = value.values()
        elif isinstance(value, list | tuple):
            parts = value
        # All at once: other threads may add to them.
        yield from [part for part in islice(parts, _MOST_MODELS) if isinstance(part, Embeddings)]


def _attributes(model: object) -> Iterator[object]:
    function, _ = _function(model)
    yield getattr(function, "__self__", None)
    # Models of pydantic keep private attributes apart.
    for place in ("__dict__", "__pydantic_private__"):
        yield from [*(getattr(model, place, None) or {}).values()]
    for kind in type(model).__mro__:
        slots = vars(kind).get("__slots__", ())
        for slot in (slots,) if isinstance(slots, str) else slots:
            yield getattr(model, slot, None)


def model_digest(name: str) -> bytes:
    """16 bytes that stand for a model's name."""
    return hashlib.blake2b(name.encode(), digest_size=MODEL_BYTES).digest()
