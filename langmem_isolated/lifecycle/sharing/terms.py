"""Terms of a grant: which kinds of memory are shared, and which part of each."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Literal, NamedTuple, TypedDict, get_args

from langmem_isolated._codecs.values import decode_value, encode_value
from langmem_isolated._runtime.arguments import kind_of, mapping, refuse_single
from langmem_isolated.errors import NotShared
from langmem_isolated.scope import checked_id

SharedKind = Literal["message", "item", "document", "profile"]
"""What can be shared: what was said, the store's items, documents, what is known of the user."""

KINDS: tuple[SharedKind, ...] = get_args(SharedKind)
PARTS = ("facts", "interests", "attributes", "summary")
"""Of a profile."""
_VERSION = 1


class SharedFields(TypedDict, total=False):
    """What narrows a grant; each belongs to one kind, and leaves the others as they are."""

    sessions: Collection[str]
    """Of messages: ids of chat sessions and threads."""
    channels: Collection[str]
    """Of messages: where they were said. One without a channel was said in that of its session."""
    namespaces: Collection[tuple[str, ...] | str]
    """Of items: namespaces, with all that is below them. A text is one of a single label."""
    collections: Collection[str]
    """Of documents: names of collections."""
    parts: Collection[str]
    """Of the profile: some of ``"facts"``, ``"interests"``, ``"attributes"``, ``"summary"``."""
    attributes: Collection[str]
    """Of the profile's attributes: names. They leave its other parts as they are."""


class Terms(NamedTuple):
    """What is shared; ``None`` where a kind is not narrowed."""

    kinds: frozenset[str]
    sessions: frozenset[str] | None = None
    channels: frozenset[str] | None = None
    namespaces: frozenset[tuple[str, ...]] | None = None
    collections: frozenset[str] | None = None
    parts: frozenset[str] | None = None
    attributes: frozenset[str] | None = None

    @classmethod
    def checked(cls, kinds: Collection[SharedKind], fields: SharedFields | None) -> Terms:
        """The terms that an application names.

        Raises:
            TypeError: ``kinds`` is no list, ``fields`` no dict, or one of them holds no texts.
            ValueError: A kind or a field is not known, none is given, or a field's kind is not.
            ScopeError: An id or a name is malformed.
        """
        shared = _kinds(kinds)
        return cls(shared, **_narrowed(shared, fields or {}))

    @property
    def fields(self) -> SharedFields:
        """What narrows them, sorted."""
        given = self._asdict().items()
        return {  # type: ignore[return-value]
            name: sorted(found) for name, found in given if name != "kinds" and found is not None
        }

    def encoded(self) -> bytes:
        """Their stored form."""
        return encode_value([_VERSION, sorted(self.kinds), self.fields], "a grant")

    @classmethod
    def decoded(cls, plaintext: bytes) -> Terms:
        """What :meth:`encoded` gave."""
        _, kinds, fields = decode_value(plaintext)
        narrowed = {name: frozenset(found) for name, found in fields.items()}
        return cls(frozenset(kinds), **narrowed)

    def check_kind(self, kind: SharedKind) -> None:
        """Refuse what is of another kind.

        Raises:
            NotShared: It is.
        """
        if kind not in self.kinds:
            raise NotShared(f"a {kind}")

    def check_session(self, session_id: str) -> None:
        """Refuse a session that is not among those shared.

        Raises:
            NotShared: It is none of them, or no messages are shared.
        """
        self.check_kind("message")
        _check(self.sessions, session_id, "this session")

    def check_collection(self, collection: str) -> None:
        """Refuse a collection that is not among those shared.

        Raises:
            NotShared: It is none of them, or no documents are shared.
        """
        self.check_kind("document")
        _check(self.collections, collection, "this collection")

    def check_namespace(self, namespace: tuple[str, ...]) -> None:
        """Refuse a namespace that does not stand in one of those shared.

        Raises:
            NotShared: It does not, or no items are shared.
        """
        self.check_kind("item")
        if not self.has_namespace(namespace):
            raise NotShared("these items")

    def check_part(self, part: str) -> None:
        """Refuse a part of the profile that is not among those shared.

        Raises:
            NotShared: It is none of them, or the profile is not shared.
        """
        self.check_kind("profile")
        _check(self.parts, part, "this part of the profile")

    def check_whole_profile(self) -> None:
        """Refuse where the profile is not shared with all its parts.

        Raises:
            NotShared: It is not.
        """
        self.check_kind("profile")
        if self.parts is not None or self.attributes is not None:
            raise NotShared("the whole profile")

    def has_part(self, part: str) -> bool:
        """Whether a part of the profile is shared."""
        return self.parts is None or part in self.parts

    def has_attribute(self, name: str) -> bool:
        """Whether an attribute of the profile is shared, if its attributes are."""
        return self.attributes is None or name in self.attributes

    def has_namespace(self, namespace: tuple[str, ...]) -> bool:
        """Whether a namespace stands in one of those shared."""
        return self.namespaces is None or any(
            namespace[: len(shared)] == shared for shared in self.namespaces
        )

    def has_session(self, session_id: str | None, channel: str | None) -> bool:
        """Whether a session may be listed: it, and the channel that is its own."""
        return (self.sessions is None or session_id in self.sessions) and self.has_channel(channel)

    def has_channel(self, channel: str | None) -> bool:
        """Whether what was said in a channel is shared."""
        return self.channels is None or channel in self.channels


def _check(shared: frozenset[str] | None, name: str, what: str) -> None:
    if shared is not None and name not in shared:
        raise NotShared(what)


def _kinds(kinds: Collection[SharedKind]) -> frozenset[str]:
    refuse_single("kinds", kinds, (), example='kinds=["message"]')
    named = [*kinds]
    if not named or any(kind not in KINDS for kind in named):
        got = "another in it" if named else "none"
        raise ValueError(
            f"kinds must be some of {', '.join(KINDS)}, got {got}. Name what is shared, as in "
            'kinds=["message"]: there is no default. Nothing was granted.'
        )
    return frozenset(named)


def _narrowed(kinds: frozenset[str], fields: SharedFields) -> dict[str, frozenset[Any]]:
    mapping("fields", fields, advice='Write fields={"sessions": ["monday"]}.')
    for name in fields:
        if name not in _FIELDS or _FIELDS[name][0] not in kinds:
            raise ValueError(_misplaced(name))
    return {name: _each(name, given) for name, given in _items(fields)}


def _misplaced(name: object) -> str:
    known = ", ".join(f"{field} (of {kind})" for field, (kind, _) in _FIELDS.items())
    what = f"{name} without its kind" if name in _FIELDS else f"another, {kind_of(name)}"
    return f"fields may have {known}, got {what}. Nothing was granted."


def _each(name: str, given: Iterable[object]) -> frozenset[Any]:
    refuse_single(name, given, (), example=f'fields={{"{name}": […]}}')
    found = frozenset(map(_FIELDS[name][1], given))
    if not found:
        raise ValueError(
            f"{name} must hold one or more, got none. Leave out the kind to share nothing of it. "
            "Nothing was granted."
        )
    return found


def _items(fields: SharedFields) -> Iterable[tuple[str, Any]]:
    named: Mapping[str, Any] = {**fields}
    return named.items()


def _named(name: str) -> Callable[[object], str]:
    return lambda value: checked_id(name, value)


def _namespace(value: object) -> tuple[str, ...]:
    labels = (value,) if isinstance(value, str) else value
    if not isinstance(labels, tuple) or not labels:
        raise TypeError(
            f"A namespace must be a tuple of labels or a str, got {kind_of(value)}. Write "
            '("facts", "school"). Nothing was granted.'
        )
    return tuple(checked_id("namespace", label) for label in labels)


def _part(value: object) -> str:
    if value not in PARTS:
        raise ValueError(
            f"parts may have {', '.join(PARTS)}, got another {kind_of(value)}. Nothing was granted."
        )
    return str(value)


_FIELDS: dict[str, tuple[SharedKind, Callable[[object], Any]]] = {
    "sessions": ("message", _named("session_id")),
    "channels": ("message", _named("channel")),
    "namespaces": ("item", _namespace),
    "collections": ("document", _named("collection")),
    "parts": ("profile", _part),
    "attributes": ("profile", _named("name")),
}
