"""Stock serializer: strict decoder of what LangGraph's ``JsonPlusSerializer`` wrote.

That serializer imports and calls whatever a stored row names: who can write a row of a checkpointer
runs commands where it is read. Here bytes never lead to an import or to a call of what they name.
What they may hold is in `stock_types`, besides classes that the caller allowed by name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, Literal

import ormsgpack

from langmem_isolated._codecs import stock_types
from langmem_isolated._codecs.compat import DeltaSnapshot
from langmem_isolated._codecs.refusals import shown_class
from langmem_isolated._search import arrays

Unknown = Literal["reject", "data"]

# The codes of LangGraph's serializer.
_SINGLE, _POSITIONAL, _KEYWORDS, _METHOD, _MODEL_V1, _MODEL, _ARRAY, _SNAPSHOT = range(8)
_CONSTRUCTORS = (_SINGLE, _POSITIONAL, _KEYWORDS, _METHOD, _MODEL_V1, _MODEL)
_TABLES = {
    _SINGLE: stock_types.SINGLE,
    _POSITIONAL: stock_types.POSITIONAL,
    _KEYWORDS: stock_types.KEYWORDS,
    _MODEL_V1: stock_types.FIELDS_V1,
    _MODEL: stock_types.FIELDS,
}
# Each level costs frames of Python's stack.
_DEEPEST = 200
# A thread's messages stand in each of its checkpoints again.
_MOST_REMEMBERED = 32_000_000
_MARKED = ("constructor", "secret", "not_implemented")


class Undecodable(ValueError):
    """Stored bytes are damaged, or hold what is not allowed; the message says which, no content."""


class StockSerializer:
    """Reads what LangGraph's serializer stored, and runs nothing that it names.

    The same bytes of a message give the same object until :meth:`forget`: messages of a thread
    stand in all of its checkpoints, and are decoded once. Not for several threads at once.

    Args:
        allow: Models, dataclasses, enums and named tuples that may be rebuilt besides LangGraph's
            and LangChain's own: classes, or ``"package.module.Class"``.
        unknown: What becomes of objects of other classes: ``"reject"`` refuses what holds one,
            ``"data"`` keeps their plain fields.
        decrypt: Opens what ``EncryptedSerializer`` sealed; raises ``ValueError`` if it cannot.

    Raises:
        SourceRefused: A class that is allowed is not found, or of another kind.
    """

    def __init__(
        self,
        allow: Iterable[str | type] = (),
        *,
        unknown: Unknown = "reject",
        decrypt: Callable[[bytes], bytes] | None = None,
    ) -> None:
        self._allowed = stock_types.allowed_classes(allow)
        self._unknown: Unknown = unknown
        self._decrypt = decrypt
        self._depth = 0
        self._reason: str | None = None
        self._messages: dict[bytes, Any] = {}
        self._remembered = 0

    def needs_key(self, kind: object) -> bool:
        """Whether rows of a type are encrypted, and no key was given."""
        return type(kind) is str and "+" in kind and self._decrypt is None

    def forget(self) -> None:
        """Let go of the messages that were decoded."""
        self._messages.clear()
        self._remembered = 0

    def loads(self, kind: object, stored: object) -> Any:
        """The value of which ``dumps_typed`` made ``kind`` and ``stored``.

        Raises:
            Undecodable: It is damaged, encrypted with another key, of a type that is not allowed,
                or was written by pickle or an application's own serializer.
        """
        if type(kind) is not str:
            raise Undecodable("it has no serializer's type")
        if kind == "null":
            return None
        if not isinstance(stored, bytes | bytearray):
            raise Undecodable(f"it has {type(stored).__name__} in place of bytes")
        plain_kind, plus, cipher = kind.partition("+")
        if plus:
            stored = self._opened(cipher, bytes(stored))
        try:
            return self._of_plain(plain_kind, bytes(stored))
        except RecursionError:
            raise Undecodable("it is nested too deeply") from None

    def _opened(self, cipher: str, sealed: bytes) -> bytes:
        if cipher != "aes":
            raise Undecodable("it is encrypted by another cipher than EncryptedSerializer's aes")
        if self._decrypt is None:
            raise Undecodable("it is encrypted, and no key was given: key_env or key_file")
        try:
            return self._decrypt(sealed)
        except ValueError:
            raise Undecodable("it does not open with the key that was given") from None

    def _of_plain(self, kind: str, stored: bytes) -> Any:
        if kind == "null":
            return None
        if kind == "bytes":
            return stored
        if kind == "bytearray":
            return bytearray(stored)
        if kind == "msgpack":
            return self._of_msgpack(stored)
        if kind == "json":
            return self._of_json(stored)
        if kind == "pickle":
            raise Undecodable("it was written by pickle, which runs what it reads")
        raise Undecodable("it was written by a serializer that is not LangGraph's")

    # --- msgpack ----------------------------------------------------------------------------------

    def _of_msgpack(self, packed: bytes) -> Any:
        self._depth, self._reason = 0, None
        try:
            return self._unpacked(packed)
        except ValueError:
            # The unpacker says nothing of what the hook raised.
            raise Undecodable(self._reason or "it is no whole msgpack") from None

    def _unpacked(self, packed: bytes) -> Any:
        return ormsgpack.unpackb(packed, ext_hook=self._hook, option=ormsgpack.OPT_NON_STR_KEYS)

    def _hook(self, code: int, packed: bytes) -> Any:
        if code == _MODEL and packed in self._messages:
            return self._messages[packed]
        try:
            return self._of_ext(code, packed)
        except Undecodable as refusal:
            self._reason = self._reason or str(refusal)
            raise

    def _of_ext(self, code: int, packed: bytes) -> Any:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise Undecodable("it is nested too deeply")
        parts = self._unpacked(packed)
        self._depth -= 1
        if code == _SNAPSHOT:
            return DeltaSnapshot(parts)
        if code == _ARRAY:
            return _array(parts)
        if code not in _CONSTRUCTORS:
            raise Undecodable("it has a msgpack extension that LangGraph's serializer has not")
        made = self._of_constructor(code, parts)
        if code == _MODEL and (parts[0], parts[1]) in stock_types.MESSAGES:
            self._remember(packed, made)
        return made

    def _remember(self, packed: bytes, message: Any) -> None:
        if self._remembered + len(packed) > _MOST_REMEMBERED:
            self.forget()
        self._messages[packed] = message
        self._remembered += len(packed)

    def _of_constructor(self, code: int, parts: Any) -> Any:
        if type(parts) is not list or not all(type(name) is str for name in parts[:2]):
            raise Undecodable("an object in it has no class")
        module, name, payload, *method = [*parts, None, None][: max(len(parts), 3)]
        if code == _METHOD:
            make = stock_types.METHODS.get((module, name, _name(method)))
        else:
            make = _TABLES[code].get((module, name))
        if make is None:
            return self._of_allowed(module, name, payload, is_single=code == _SINGLE)
        if code in (_SINGLE, _METHOD):
            return _built(make, module, name, [payload], {})
        if code == _POSITIONAL:
            return _built(make, module, name, payload, {})
        return _built(make, module, name, [], payload)

    def _of_allowed(self, module: str, name: str, payload: Any, *, is_single: bool) -> Any:
        allowed = self._allowed.get((module, name))
        if allowed is not None and allowed.is_enum == is_single:
            # Validators of an application raise what they like.
            try:
                return allowed.of_fields(payload)
            except Exception:  # noqa: BLE001 - as above
                what = f"{shown_class(module, name)} does not take its fields any more"
        else:
            what = f"{shown_class(module, name)} is not among those that allow= names"
        if self._unknown == "reject":
            raise Undecodable(what)
        return payload

    # --- JSON -------------------------------------------------------------------------------------

    def _of_json(self, text: bytes) -> Any:
        try:
            return json.loads(text, object_hook=self._of_object)
        except Undecodable:
            raise
        except ValueError:
            raise Undecodable("it is no whole JSON") from None

    def _of_object(self, found: dict[str, Any]) -> Any:
        if found.get("lc") not in (1, 2) or found.get("type") not in _MARKED or "id" not in found:
            return found
        if found["type"] != "constructor":
            raise Undecodable("it has a secret or an object of LangChain without a stored form")
        names = found["id"]
        if type(names) is not list or len(names) < 2 or not all(type(n) is str for n in names):  # noqa: PLR2004 - a module and a class
            raise Undecodable("an object in it has no class")
        return self._of_langchain(names, found) if found["lc"] == 1 else self._of_call(names, found)

    def _of_langchain(self, names: list[str], found: Mapping[str, Any]) -> Any:
        module, name, fields = ".".join(names[:-1]), names[-1], found.get("kwargs", {})
        make = stock_types.LANGCHAIN.get(tuple(names))
        if make is None:
            return self._of_allowed(module, name, fields, is_single=False)
        return _built(make, module, name, [], fields)

    def _of_call(self, names: list[str], found: Mapping[str, Any]) -> Any:
        module, name = ".".join(names[:-1]), names[-1]
        args, fields, method = (found.get(part) for part in ("args", "kwargs", "method"))
        # Models were written with two methods, of which the first stands for the class itself.
        if type(method) is str:
            make = stock_types.JSON_METHODS.get((module, name, method))
        else:
            make = stock_types.JSON.get((module, name))
        if make is not None:
            return _built(make, module, name, args or [], fields or {})
        payload = args[0] if type(args) is list and len(args) == 1 else args or fields
        return self._of_allowed(module, name, payload, is_single=bool(args))


def _name(method: list[Any]) -> str:
    return method[0] if method and type(method[0]) is str else ""


def _built(make: stock_types.Builder, module: str, name: str, args: Any, fields: Any) -> Any:
    if type(args) is list and type(fields) is dict:
        # Constructors raise what they like of what they find.
        with suppress(Exception):
            return make(*args, **fields)
    raise Undecodable(f"{shown_class(module, name)} does not take what is stored")


def _array(parts: Any) -> Any:
    try:
        described, shape, order, raw = parts
        array = arrays.from_plain([arrays.ARRAY, described, shape, order, raw])
    except ImportError:
        raise Undecodable("it has an array of NumPy, which is not installed") from None
    except Exception:  # noqa: BLE001 - NumPy raises what it likes of what it finds
        array = None
    if array is None or type(described) is not str or array.nbytes != len(raw):
        raise Undecodable("an array in it is not as NumPy's are stored")
    return array
