"""Value codec: free values as msgpack, lossless, or refused by type.

Msgpack, with codes of our own for what it lacks.
"""

from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from functools import partial
from typing import Any

import ormsgpack

from langmem_isolated._codecs.classes import ANY_TYPE, AllowedTypes, Parts, dumped, rebuild
from langmem_isolated._codecs.forms import BY_CODE, OBJECT, PAIRS, TEXT, Pairs, form_of
from langmem_isolated._codecs.refusals import located
from langmem_isolated.errors import RecordError, ValueNotStorable

_PACK = (
    ormsgpack.OPT_PASSTHROUGH_BIG_INT
    | ormsgpack.OPT_PASSTHROUGH_DATACLASS
    | ormsgpack.OPT_PASSTHROUGH_DATETIME
    | ormsgpack.OPT_PASSTHROUGH_ENUM
    | ormsgpack.OPT_PASSTHROUGH_TUPLE
    | ormsgpack.OPT_PASSTHROUGH_UUID
)
# Each level of a type that msgpack has not costs two frames of Python's stack when it is written,
# and one when it is read.
_DEEPEST = 200


def encode_value(value: object, where: str, types: AllowedTypes = ANY_TYPE) -> bytes:
    """``value`` as msgpack from which :func:`decode_value` makes an equal one.

    Args:
        value: JSON values, bytes, tuples, sets, deques, dates and times, UUIDs, Decimals, paths, IP
            addresses, zones, patterns, arrays and numbers of NumPy, langchain-core documents and
            messages, models of pydantic, dataclasses, enums and named tuples, at any depth; keys of
            dicts may be any of them. Subclasses of ``str``, ``int``, ``list`` and ``dict``, and
            enums that are ``str`` or ``int`` in keys, come back as those, ``bytearray`` and
            ``memoryview`` as ``bytes``. Exceptions and subclasses of other types come back as text
            or as the type they derive from, which is told once in the log.
        where: What the value is part of, for the error.
        types: The classes that are allowed, by default all.

    Raises:
        ValueNotStorable: A part has another type, or one that is not allowed, or is nested deeper
            than 200 levels (lists and dicts alone too). The error names the type, and the path to
            it inside of the outermost class.
    """
    packer = _Packer(types)
    try:
        try:
            return packer.pack(value)
        except ormsgpack.MsgpackEncodeError:
            if packer.refusal is not None:
                raise
            # Text or keys that msgpack lacks: rare enough to look for only now.
            packer.is_careful, packer.depth = True, 0
            return packer.pack(value)
    except (ormsgpack.MsgpackEncodeError, RecursionError):
        # The packer's own message may quote the value.
        refusal = packer.refusal or ValueNotStorable(_TOO_DEEP)
        raise located(refusal, value, where) from None


_TOO_DEEP = "a structure nested too deeply"


class _Packer:
    """Packs one value; ``refusal`` says afterwards what could not be."""

    __slots__ = ("depth", "is_careful", "refusal", "types")

    def __init__(self, types: AllowedTypes) -> None:
        self.types = types
        self.is_careful = False
        self.depth = 0
        self.refusal: ValueNotStorable | None = None

    def pack(self, plain: Any) -> bytes:
        return ormsgpack.packb(careful(plain) if self.is_careful else plain, self._ext, _PACK)

    def _ext(self, part: Any) -> Any:
        self.depth += 1
        if self.depth > _DEEPEST:
            raise RecursionError
        try:
            code, plain = form_of(part, self.types)
        except ValueNotStorable as refusal:
            self.refusal = refusal
            raise
        packed = careful(plain) if code is None else ormsgpack.Ext(code, self._packed(part, plain))
        self.depth -= 1
        return packed

    def _packed(self, part: Any, plain: Any) -> bytes:
        depth = self.depth
        try:
            return self.pack(plain.stored(plain.fields) if isinstance(plain, Parts) else plain)
        except ormsgpack.MsgpackEncodeError:
            if not isinstance(plain, Parts) or not (self.refusal or self.is_careful):
                raise
            refusal = self.refusal
        for fallback in dumped(part, plain):
            self.depth, self.refusal = depth, None
            with suppress(ormsgpack.MsgpackEncodeError):
                return self.pack(fallback.stored(fallback.fields))
        self.refusal = refusal
        raise TypeError


def is_utf8(text: str) -> bool:
    """Whether UTF-8 has a form for it: it has no lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def text_ext(text: str) -> ormsgpack.Ext:
    """Text with lone surrogates, packed."""
    return ormsgpack.Ext(TEXT, ormsgpack.packb(text.encode(errors="surrogatepass")))


def careful(plain: Any) -> Any:
    """``plain`` with what msgpack lacks replaced: keys that are no text, lone surrogates."""
    if isinstance(plain, str) and not isinstance(plain, Enum):
        return plain if is_utf8(plain) else text_ext(plain)
    if isinstance(plain, list):
        return [careful(part) for part in plain]
    if not isinstance(plain, dict):
        return plain
    if all(isinstance(key, str) and is_utf8(key) for key in plain):
        return {str.__str__(key): careful(value) for key, value in plain.items()}
    return Pairs(part for pair in plain.items() for part in pair)


def decode_value(plaintext: bytes, types: AllowedTypes = ANY_TYPE) -> Any:
    """What :func:`encode_value` was given; the bytes must have been authenticated.

    Args:
        plaintext: As it was made there.
        types: The classes that are allowed; of others come plain fields.

    Raises:
        RecordError: The bytes hold a type that a later version introduced.
    """
    try:
        return ormsgpack.unpackb(plaintext, ext_hook=hook_for(types))
    except ValueError:
        # The unpacker says no more than that a type of ours could not be rebuilt.
        raise RecordError(
            "A stored value has a type that this version does not know, or that cannot be rebuilt "
            "here (a time zone without its data). Nothing was changed; install a later "
            "langmem-isolated."
        ) from None


def hook_for(types: AllowedTypes) -> Callable[[int, bytes], Any]:
    """Msgpack's ``ext_hook``, which rebuilds values of types that msgpack lacks."""
    # Not a closure, which would refer to itself: one for the garbage collector at every call.
    return from_ext if types is ANY_TYPE else partial(_rebuilt, types)


def _rebuilt(types: AllowedTypes, code: int, packed: bytes) -> Any:
    plain = ormsgpack.unpackb(packed, ext_hook=hook_for(types))
    return rebuild(plain, types) if code == OBJECT else BY_CODE[code](plain)


from_ext = partial(_rebuilt, ANY_TYPE)


def text_from_ext(code: int, packed: bytes) -> Any:
    """Msgpack's ``ext_hook`` for who looks at text alone; ``None`` stands for all else."""
    if code not in (TEXT, PAIRS):
        return None
    return BY_CODE[code](ormsgpack.unpackb(packed, ext_hook=text_from_ext))
