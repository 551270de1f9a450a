"""Scope: the user and module whose memory is meant, validated once."""

import unicodedata
from dataclasses import dataclass, field
from typing import Self, TypeVar
from uuid import UUID

from langmem_isolated._runtime.arguments import kind_of
from langmem_isolated._runtime.calls import explains_calls
from langmem_isolated.errors import ScopeError

MAX_ID_BYTES = 255
# More digits would make no id, and Python takes quadratic time to write them.
_TOO_LONG = 10**MAX_ID_BYTES

T = TypeVar("T")


def checked_id(name: str, value: object) -> str:
    """Return ``value`` if it can serve as an id.

    An id is a ``str`` of 1 to 255 bytes of UTF-8, in Unicode normalization form C (UAX #15),
    without control characters or lone surrogates. Nothing is normalised: two ids that only look
    alike must not silently become one.

    Args:
        name: What the id is called, for the message.
        value: The candidate. Subclasses of ``str`` are refused: they may redefine ``==``; one of
            ours, :class:`ScopedThreadId`, counts as the plain id.

    Raises:
        ScopeError: The value is anything else. The message tells type or length, never the value.
    """
    if type(value) is ScopedThreadId:
        value = str(value)
    if type(value) is not str:
        raise ScopeError(_expected(name, f"got {kind_of(value)}{_as_text(name, value)}"))
    if not value:
        raise ScopeError(_expected(name, "got an empty string"))
    if len(value) > MAX_ID_BYTES:
        raise ScopeError(_expected(name, f"got {len(value)} characters"))
    if value.isascii() and value.isprintable():
        return value
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in value):
        raise ScopeError(_expected(name, "got control characters or lone surrogates"))
    if not unicodedata.is_normalized("NFC", value):
        raise ScopeError(_expected(name, "got text that is not NFC; normalise it where it enters"))
    if len(value.encode()) > MAX_ID_BYTES:
        raise ScopeError(_expected(name, f"got {len(value.encode())} bytes"))
    return value


def as_thread_id(value: object) -> object:
    """What a thread's or session's id in a config counts as.

    A UUID, and an integer of up to 255 digits, as its text, as LangGraph takes them; an id that our
    saver handed out as the plain one; anything else as it is.
    """
    is_int = isinstance(value, int) and type(value) is int and abs(value) < _TOO_LONG
    if is_int or type(value) is UUID:
        return str(value)
    return plain_id(value)


def checked_thread_id(name: str, value: object) -> str:
    """The id of a thread as `checked_id` takes it, or a UUID or integer, as its text.

    Raises:
        ScopeError: The value is neither.
    """
    return checked_id(name, as_thread_id(value))


def _as_text(name: str, value: object) -> str:
    """How ids that applications have in other forms are written."""
    if not isinstance(value, int | UUID) or isinstance(value, bool):
        return ""
    return "; write str(user.id)" if name == "user_id" else "; write its text, str(…)"


def _expected(name: str, received: str) -> str:
    return (
        f"{name} must be a non-empty str of at most {MAX_ID_BYTES} bytes of UTF-8 in NFC without "
        f"control characters, {received}. There is no default."
    )


@explains_calls
@dataclass(frozen=True, slots=True, repr=False)
class Scope:
    """Whose memory: one user in one module, in one project.

    >>> tutor = memory.scope(Scope("alice", "tutor"))
    >>> tutor.scope == Scope(user_id="alice", module_id="tutor", project_id="default")
    True
    >>> Scope("alice", "tutor")  # ids are personal data: no log is to show them
    Scope(user_id=…, module_id=…, project_id=…)

    Args:
        user_id: The person. Take it from your authentication, not from the client's request.
        module_id: The part of the application, for example ``"tutor"``; its memory is apart from
            that of the user's other modules.
        project_id: Separates applications or tenants that share a database: the same ``user_id`` in
            two projects is two users.

    Raises:
        ScopeError: A value is not a ``str`` of 1 to 255 bytes as `checked_id` says.
    """

    user_id: str
    module_id: str
    project_id: str = field(default="default", kw_only=True)

    def __post_init__(self) -> None:
        checked_id("user_id", self.user_id)
        checked_id("module_id", self.module_id)
        checked_id("project_id", self.project_id)

    def __repr__(self) -> str:
        # Ids are personal data: they must not reach logs through a repr.
        return "Scope(user_id=…, module_id=…, project_id=…)"


class _Nobody(str):
    """In place of a user's id, where there is no user: no id equals it."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return self is other

    def __ne__(self, other: object) -> bool:
        return self is not other

    __hash__ = str.__hash__


_NOBODY = _Nobody()


@dataclass(frozen=True, slots=True, repr=False)
class AnonymousScope(Scope):
    """Whose memory: somebody's who has not said who it is, in one module of one project.

    No config that names a user names it: ``user_id`` equals no id.
    """

    guest: str = field(kw_only=True)
    """The random id, possession of which is the only access: as secret as a password."""

    @classmethod
    def of(cls, guest: str, module_id: str, project_id: str) -> Self:
        """The scope of a guest."""
        return cls(_NOBODY, module_id, project_id=project_id, guest=guest)

    def __post_init__(self) -> None:
        checked_id("module_id", self.module_id)
        checked_id("project_id", self.project_id)
        checked_id("guest", self.guest)

    def __repr__(self) -> str:
        return "AnonymousScope(module_id=…, project_id=…)"


class ScopedThreadId(str):
    """A thread's id that our saver handed out: the plain id, which also knows whose it is.

    LangGraph rebuilds the configs of subgraphs from a thread's id and a namespace alone, and passes
    this object through. Copies keep it; what leaves the process, pickled or as text, is plain.
    """

    __slots__ = ("scope",)

    scope: Scope

    def __new__(cls, thread_id: str, scope: Scope) -> Self:  # noqa: D102
        made = super().__new__(cls, thread_id)
        made.scope = scope
        return made

    def __copy__(self) -> "ScopedThreadId":
        return self

    def __deepcopy__(self, _: object) -> "ScopedThreadId":
        return self

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        # Whoever unpickles must say again whose thread it is.
        return str, (str(self),)

    def __reduce_ex__(self, _: object) -> tuple[type[str], tuple[str]]:
        return self.__reduce__()


def plain_id(value: T) -> T:
    """``value``, without its scope if it is a thread's id that our saver handed out."""
    return str(value) if type(value) is ScopedThreadId else value  # type: ignore[return-value]
