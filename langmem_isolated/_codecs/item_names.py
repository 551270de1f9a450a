"""Names in the body of a store's item: its key and namespace, read and replaced."""

from typing import NamedTuple

import ormsgpack

from langmem_isolated._codecs.values import decode_value, encode_value, text_from_ext

_WHERE = "an item of a store"


class ItemNames(NamedTuple):
    """Where an item stands, by the names that the caller gave."""

    key: str
    namespace: tuple[str, ...]


def item_names(body: bytes) -> ItemNames:
    """The names in a body; its value is not rebuilt."""
    _, key, *namespace = ormsgpack.unpackb(
        body, ext_hook=text_from_ext, option=ormsgpack.OPT_NON_STR_KEYS
    )
    return ItemNames(key, tuple(namespace))


def with_key(body: bytes, key: str) -> bytes:
    """The body under another key, its value byte for byte as it was wherever that can be."""
    names = item_names(body)
    end = _packed(names.key, *names.namespace)
    if body.endswith(end):
        return body[: -len(end)] + _packed(key, *names.namespace)
    value, _, *namespace = decode_value(body)
    return encode_value([value, key, *namespace], _WHERE)


def _packed(*texts: str) -> bytes:
    return b"".join(encode_value(text, _WHERE) for text in texts)
