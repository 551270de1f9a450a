"""Looks for secrets wherever a value shows itself."""

import base64
import pprint
import traceback
from collections.abc import Iterable, Iterator


def spellings(secret: bytes) -> list[str]:
    """The texts in which a secret could show: raw, escaped, hex and base64."""
    bare = base64.b64encode(secret).decode().rstrip("=")
    # The last character of base64 depends on what follows.
    return [
        secret.decode("latin-1"),
        repr(secret)[2:-1],
        secret.hex(),
        secret.hex().upper(),
        bare[:-1],
        bare[:-1].replace("+", "-").replace("/", "_"),
        repr(list(secret))[1:-1],
        str(int.from_bytes(secret)),
    ]


def shown(value: object) -> Iterator[str]:
    """All texts in which ``value`` shows itself, with its attributes and chained errors."""
    yield from (repr(value), str(value), f"{value}", pprint.pformat(value))
    if isinstance(value, BaseException):
        yield "".join(traceback.format_exception(value))
        yield repr(value.args)
        yield repr(getattr(value, "__notes__", ""))
        chained = value.__cause__ or (None if value.__suppress_context__ else value.__context__)
        if chained is not None:
            yield from shown(chained)
    if hasattr(value, "__dict__"):
        yield repr(vars(value))
        yield pprint.pformat(vars(value))


def assert_shows_none_of(value: object, secrets: Iterable[bytes]) -> None:
    wanted = [spelling for secret in secrets for spelling in spellings(secret)]
    for text in shown(value):
        assert not any(spelling in text for spelling in wanted), type(value).__name__
