"""Arguments of a store: options, and the pages and times of its operations."""

from langgraph.store.base import InvalidNamespaceError, NamespacePath

from langmem_isolated._runtime.arguments import kind_of, mapping, whole_number
from langmem_isolated._storage.items.addresses import MAX_DEPTH, Address, Names
from langmem_isolated.errors import ValueNotStorable

_INDEX = 'Write index={"dims": 1536, "embed": embeddings}.'
_TTL = 'Write ttl={"default_ttl": 60}, in minutes.'
# Longer does not fit into all columns and types of time; 1,000 years are for ever.
_MOST_MINUTES = 1000 * 366 * 24 * 60
_MICROSECONDS_A_MINUTE = 60_000_000


def check_options(index: object, ttl: object, integrity: object) -> None:
    """Refuse options that have no meaning here.

    Raises:
        TypeError: ``index`` or ``ttl`` is no mapping.
        ValueError: One holds a value that has no meaning.
    """
    if index is not None:
        told = mapping("index", index, advice=_INDEX)
        if not told.get("embed"):
            raise ValueError(
                f"index must name what embeds texts (embed must be provided), got a dict without "
                f"embed. {_INDEX}"
            )
        dims = told.get("dims")
        if type(dims) is not int or dims < 1:
            raise ValueError(
                "index: dims must be a whole number above 0, got "
                f"{dims if type(dims) is int else kind_of(dims)}. {_INDEX}"
            )
    if ttl is not None:
        told = mapping("ttl", ttl, advice=_TTL)
        if told.get("omit_expired") is False:
            raise ValueError(
                "omit_expired cannot be False: expired items are absent here. Leave it out."
            )
        lifetime(told.get("default_ttl"))
    if integrity not in (None, "counted"):
        raise ValueError(
            f"integrity must be 'counted' or None, got another {kind_of(integrity)}. Leave it out "
            "unless verify() is to miss removed items."
        )


def check_page(limit: object, offset: object, max_depth: object = 0) -> None:
    """Refuse a page that is none.

    Raises:
        TypeError: One is no whole number.
        ValueError: One is below 0.
    """
    whole_number("limit", limit)
    whole_number("offset", offset)
    whole_number("max_depth", max_depth)


def lifetime(minutes: object) -> int | None:
    """A time to live in microseconds.

    Raises:
        TypeError: It is no number of minutes.
        ValueError: It is below 0, or more than 1,000 years.
    """
    if minutes is None:
        return None
    if isinstance(minutes, bool) or not isinstance(minutes, int | float):
        raise TypeError(
            f"A time to live must be minutes as an int or float, got {kind_of(minutes)}. "
            "Write ttl=60 for an hour. Nothing was written."
        )
    if not 0 <= minutes <= _MOST_MINUTES:
        raise ValueError(
            f"A time to live must be 0 to {_MOST_MINUTES} minutes, got {minutes}. "
            "Leave it out for ever. Nothing was written."
        )
    return round(minutes * _MICROSECONDS_A_MINUTE)


def address_of(namespace: tuple[str, ...], key: object) -> Address:
    """Where an item stands.

    Raises:
        InvalidNamespaceError: The namespace is malformed.
        TypeError: The key is no text.
        ValueNotStorable: The key holds lone surrogates.
    """
    if not isinstance(key, str):
        raise TypeError(f"A key must be a str, got {kind_of(key)}. Write its text, str(…).")
    try:
        return Address(labels_of(namespace), key.encode())
    except UnicodeEncodeError:
        raise ValueNotStorable("str with lone surrogates", "a store key") from None


def labels_of(path: NamespacePath) -> Names:
    """The labels of a namespace.

    Raises:
        InvalidNamespaceError: It is malformed.
    """
    # LangGraph's own checks quote the namespace, which may hold an address or a name.
    if not isinstance(path, tuple | list) or len(path) > MAX_DEPTH:
        # LangGraph's own stores take a text for the tuple of its letters.
        got = type(path).__name__ if not isinstance(path, tuple | list) else f"{len(path)} labels"
        raise InvalidNamespaceError(
            f"A namespace must be a tuple of at most {MAX_DEPTH} labels, got {got}. One of a "
            'single label is written ("label",), with its comma.'
        )
    labels = []
    for label in path:
        if not isinstance(label, str):
            raise InvalidNamespaceError(
                f"A namespace label must be a str, got {kind_of(label)}. Write its text, str(…)."
            )
        if not label or "." in label or "\x00" in label:
            raise InvalidNamespaceError(
                "A namespace label must not be empty nor hold a period or NUL, got one of "
                f"{len(label)} characters. Replace them where the label is made."
            )
        try:
            labels.append(label.encode())
        except UnicodeEncodeError:
            raise InvalidNamespaceError(
                "A namespace label must not hold lone surrogates."
            ) from None
    return tuple(labels)
