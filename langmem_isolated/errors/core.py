"""Errors about scopes, keys and records."""

from collections.abc import Sequence


class LangmemIsolatedError(Exception):
    """The root of what this package raises about memory, keys, records and databases.

    An argument of the wrong type is a `TypeError`, and one out of range a `ValueError`, as in
    Python itself.

    >>> try:
    ...     memory.scope(user_id="", module_id="tutor")
    ... except LangmemIsolatedError as error:
    ...     print(type(error).__name__)
    ScopeError
    """


class ScopeError(LangmemIsolatedError, ValueError):
    """A scope or a name in it is missing or malformed; raised before any I/O.

    >>> memory.scope(user_id=7, module_id="tutor")
    Traceback (most recent call last):
    langmem_isolated.errors.ScopeError: user_id must be a non-empty str of ..., got int; ...
    """


class IsolationViolation(LangmemIsolatedError):
    """Something that belongs to another scope was about to be handed out; it was not.

    >>> config = {"thread_id": "1", "user_id": "bob", "module_id": "tutor"}
    >>> scope.bind(builder.compile()).invoke({"messages": []}, {"configurable": config})
    Traceback (most recent call last):
    langmem_isolated.errors.IsolationViolation: This call's config and the scope ...
    """


class KeyringError(LangmemIsolatedError):
    """A key cannot be had."""


class RootKeyMissing(KeyringError):
    """No root key was given and none was found in the environment."""

    def __init__(self, variable: str, reason: str = "No root key") -> None:
        super().__init__(
            f"{reason}: pass root_key=…, or set {variable} (or {variable}_FILE, a path). "
            "`langmem-isolated keygen` makes one."
        )
        self.variable = variable


class RootKeyInvalid(KeyringError):
    """What was given as root key is not one, or others can read it.

    >>> LocalRootKey(b"too short")
    Traceback (most recent call last):
    langmem_isolated.errors.RootKeyInvalid: A root key must be 32 bytes, got 9. ...
    """


class RootKeyMismatch(KeyringError):
    """The keys in this database were wrapped by another root key.

    Args:
        expected: The name of the one that wrapped them.
        received: The name of the one that was given.
        accepted: The names of those that were accepted besides.
    """

    def __init__(self, expected: str, received: str, accepted: Sequence[str] = ()) -> None:
        besides = f", and accepted besides: {', '.join(accepted)}" if accepted else ""
        super().__init__(
            f"The keys in this database were wrapped by root key {expected}, the one given is "
            f"{received}{besides}. Nothing was opened or written; give the key this database began "
            "with, or that of its last rotation: each `langmem-isolated keygen` makes another."
        )
        self.expected = expected
        self.received = received
        self.accepted = tuple(accepted)


class KeyServiceUnavailable(KeyringError):
    """The service or module that holds the root key does not answer; ask again.

    Args:
        service: Which kind of service.
        cause: What happened, by its name.
    """

    def __init__(self, service: str, cause: str) -> None:
        super().__init__(
            f"{service} does not answer ({cause}). Nothing was written. What this process has "
            "unwrapped goes on until key_cache_seconds are over; it asks again at the next use "
            "behind that: try again."
        )
        self.service = service
        self.cause = cause

    def again(self) -> "KeyServiceUnavailable":
        """The same without a traceback."""
        return KeyServiceUnavailable(self.service, self.cause)


class RootKeyUnavailable(KeyringError):
    """The root key cannot be used: it is disabled or destroyed, or this process may not.

    To try again helps only when somebody has changed that.

    Args:
        service: Which kind of service holds it.
        cause: What the service said, by its name.
        advice: What may be done.
    """

    def __init__(self, service: str, cause: str, advice: str) -> None:
        super().__init__(
            f"{service} does not let the root key be used ({cause}). Nothing was opened or "
            f"written. {advice}"
        )
        self.service = service
        self.cause = cause


class KeyNotFound(KeyringError):
    """A key that stored data needs is not in the key store."""


class KeyDestroyed(KeyringError):
    """The owner's key was destroyed by an erasure; absence is success here."""

    def __init__(self) -> None:
        super().__init__(
            "This scope was erased and its key destroyed. Nothing was written. "
            "If the user has come back, ask for the scope again: it starts anew with new keys."
        )


class KeyExhausted(KeyringError):
    """A sealing key has sealed as many records as one key may."""

    def __init__(self, seals: int) -> None:
        super().__init__(
            f"This scope's sealing key has sealed {seals} records; one key may seal less than 2^32 "
            "with random nonces (NIST SP 800-38D, 8.3). Nothing was written, and what is stored "
            "can be read; rotate this user's keys."
        )
        self.seals = seals


class RecordError(LangmemIsolatedError):
    """A stored record, or a value on its way to become one, is refused."""


class RecordDoesNotOpen(RecordError):
    """The sealed bytes are not what was sealed at this place with this key."""

    def __init__(self, kind: str, reason: str, *, key_id: bytes | None = None) -> None:
        super().__init__(
            f"A {kind} record does not open: {reason}. It was changed, cut off, or moved from "
            "another place or user. Nothing of it was used."
        )
        self.kind = kind
        self.reason = reason
        self.key_id = key_id


class AddressTaken(RecordError):
    """A record already stands at this address, and inserting never overwrites."""

    def __init__(self, kind: str) -> None:
        super().__init__(f"A {kind} record already stands at this address. Nothing was written.")
        self.kind = kind


_STORABLE = (
    "Store JSON values, bytes, tuples, sets, dates, UUIDs, Decimals, models, dataclasses, enums, "
    "named tuples, or langchain-core messages and documents; or convert it first."
)


class ValueNotStorable(RecordError, TypeError):
    """A value has no stored form, or its type is not allowed; nothing of the call was written.

    Args:
        type_name: Module and name of its type.
        where: What it was part of.
        cause: Why it is refused.
        outermost: Module and name of the outermost class around it; empty if it is in none.
        path: Where it stands inside of that: names of fields, and ``[…]`` for the keys of dicts.
        advice: What to store instead.
    """

    def __init__(
        self,
        type_name: str,
        where: str = "a record",
        *,
        cause: str = "",
        outermost: str = "",
        path: str = "",
        advice: str = _STORABLE,
    ) -> None:
        place = f" It stands at {path} of a {outermost}." if outermost and path else ""
        super().__init__(
            f"A value of type {type_name} in {where} cannot be stored and read back"
            f"{': ' + cause if cause else ' exactly'}.{place} Nothing was written. {advice}"
        )
        self.type_name = type_name
        self.where = where
        self.cause = cause
        self.outermost = outermost
        self.path = path
        self.advice = advice

    def again(self) -> "ValueNotStorable":
        """The same without a traceback, whose frames would keep the value."""
        return ValueNotStorable(
            self.type_name,
            self.where,
            cause=self.cause,
            outermost=self.outermost,
            path=self.path,
            advice=self.advice,
        )


class LimitExceeded(LangmemIsolatedError, ValueError):
    """A call brought more than one call may; nothing of it was written, or read.

    Args:
        limit: The field of :class:`~langmem_isolated.Limits`.
        allowed: Its value.
        received: How much there was; of a nested filter at least so much.
    """

    def __init__(self, limit: str, allowed: int, received: int) -> None:
        super().__init__(
            f"The limit {limit} is {allowed:,}, and this call has {received:,}. Nothing of it was "
            "written or read. Divide it, or allow more: "
            f"IsolatedMemory(…, limits=Limits({limit}=…))."
        )
        self.limit = limit
        self.allowed = allowed
        self.received = received

    def again(self) -> "LimitExceeded":
        """The same without a traceback, whose frames would keep the value."""
        return LimitExceeded(self.limit, self.allowed, self.received)


class EmbeddingModelChanged(LangmemIsolatedError, ValueError):
    """A collection was embedded by another model; nothing was written or found.

    Vectors of two models cannot be compared: what is near to what would be chance.

    Args:
        what: Which collection has what, and what was given: names of models, or lengths.
        stored: The name of the model that the collection is embedded by, if it is known.
        given: The name of the one that was given, if it is known.
    """

    def __init__(self, what: str, stored: str | None = None, given: str | None = None) -> None:
        super().__init__(
            f"{what} Nothing was written or found. If it is the same model, in another class or "
            "behind another provider, give the stored name: vector_store(…, embedding_name=…). If "
            "it is another, take another collection=…, or embed this one anew: reembed()."
        )
        self.stored = stored
        self.given = given


class EmbeddingRefused(LangmemIsolatedError, ValueError):
    """Embeddings fail for one text, and not for others of the same call; nothing was written.

    Args:
        position: Which document's text, from 0.
        count: How many documents the call has.
        cause: Module and name of the provider's error, whose message may quote the text.
    """

    def __init__(self, position: int, count: int, cause: str) -> None:
        super().__init__(
            f"The embeddings fail for the document at position {position} of {count}, counted from "
            f"0, and not for others: {cause}. Nothing was written. Leave it out or shorten it; to "
            "see what the provider says, embed its text alone."
        )
        self.position = position
        self.count = count
        self.cause = cause


class EmbeddingModelWarning(UserWarning):
    """Some items of a store have vectors of another model: a search by meaning ranks them last.

    Args:
        count: How many items that a search looked at.
    """

    def __init__(self, count: int) -> None:
        super().__init__(
            f"{count} items below this namespace have vectors of another embedding model, or of "
            "another length: a search ranks them behind all others. Put them again to embed them "
            "anew; or, if it is the same model in another class, give index= the name that they "
            'were put with: "embedding_name".'
        )
        self.count = count


class SessionNotFound(LangmemIsolatedError, KeyError):
    """This scope has no session of that id.

    >>> scope.sessions.rename("nowhere", "Fractions")
    Traceback (most recent call last):
    langmem_isolated.errors.SessionNotFound: This scope has no session of that id. ...
    """

    def __init__(self) -> None:
        super().__init__(
            "This scope has no session of that id. Nothing was changed. Expected one that "
            "scope.sessions() lists; scope.sessions.create() and the first message make one."
        )

    __str__ = Exception.__str__
