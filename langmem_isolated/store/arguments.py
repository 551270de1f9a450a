"""Arguments of a store: options, and the pages and times of its operations."""

from langmem_isolated._runtime.arguments import kind_of, mapping, whole_number

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
