"""Token use: what a message tells of the model that said it (``usage_metadata``)."""

from collections.abc import Callable

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

from langmem_isolated._storage.usage import SAID, Use

# What adds up for a year stays within eight bytes; a server that says more says nothing.
_MOST = 2**40


def use_of(
    message: BaseMessage, digest_of: Callable[[str], bytes], *, counts_people: bool
) -> Use | None:
    """What a message counts for; ``None`` for nothing.

    Args:
        message: Of an AI, with ``usage_metadata``: its tokens, by the model that
            ``response_metadata`` names.
        digest_of: Digests the model's name.
        counts_people: Whether what people say counts, too.
    """
    if isinstance(message, AIMessage):
        if not message.usage_metadata:
            return None
        given, name = message.usage_metadata, _model_of(message)
        tokens = (_number(given.get(f"{which}_tokens")) for which in ("input", "output"))
        return Use(digest_of(name), name, *tokens)
    return SAID if counts_people and isinstance(message, HumanMessage) else None


def _model_of(message: AIMessage) -> str:
    told = message.response_metadata
    names = (told.get(key) for key in ("model_name", "model", "model_id"))
    return next((name for name in names if name and isinstance(name, str)), "")


def _number(tokens: object) -> int:
    return tokens if type(tokens) is int and 0 <= tokens < _MOST else 0
