"""Erased: what an erasure has done so far, as its job has it sealed.

In plaintext it is `0x01` and an object of JSON.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.owners import Level, Owner
from langmem_isolated.errors import RecordDoesNotOpen

What = Literal["user", "guest", "module", "project"]
"""What is erased; of a module everybody's memory in it, of a project everybody's."""
ERASURE = "erasure"
"""What its record is called in errors."""
_FORM = b"\x01"


class Asked(NamedTuple):
    """How far a participant is; times in µs since 1970, UTC."""

    requested_at: int
    confirmed_at: int | None = None
    error: str | None = None
    """The class of what it raised last."""


class DestroyedKeys(NamedTuple):
    """How many keys of a principal were destroyed, and what had wrapped them."""

    number: int = 0
    root_key_ids: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, repr=False)
class Erased:
    """What a job has sealed: whose it is while it goes on, and what was done."""

    what: What
    until: int
    """Of a module or project: scopes that were made later stay, in µs."""
    hash_before: str
    owner: Owner | None = None
    """Whose it is; ``None`` once it is finished."""
    keys: int = 0
    """How many were destroyed of the principal itself."""
    others_keys: int = 0
    """How many of others, whose last scope was removed."""
    root_key_ids: frozenset[str] = frozenset()
    scopes: int = 0
    counts: Mapping[Kind, int] = field(default_factory=dict)
    participants: Mapping[str, Asked] = field(default_factory=dict)
    stores: Mapping[str, int] = field(default_factory=dict)
    """How many documents were removed from third-party vector stores, by the stores' names."""
    tags: Mapping[str, list[str]] = field(default_factory=dict)
    """By which these stores know the owners, for when the keys are destroyed that made them."""
    without: tuple[str, ...] = ()
    """Names of stores that were left alone."""
    hash_after: str | None = None
    heap: str | None = None

    def plus(self, counts: Counter[Kind]) -> Erased:
        """With what was removed besides."""
        records = counts - Counter({Kind.SCOPE: counts[Kind.SCOPE]})
        return replace(
            self,
            scopes=self.scopes + counts[Kind.SCOPE],
            counts=dict(Counter(self.counts) + records),
        )

    def with_own(self, keys: DestroyedKeys) -> Erased:
        """With keys of the principal itself; whoever says so twice changes nothing."""
        root_keys = self.root_key_ids | keys.root_key_ids
        return replace(self, keys=max(self.keys, keys.number), root_key_ids=root_keys)

    def with_others(self, keys: DestroyedKeys) -> Erased:
        """With keys of another principal, which is said once."""
        root_keys = self.root_key_ids | keys.root_key_ids
        return replace(self, others_keys=self.others_keys + keys.number, root_key_ids=root_keys)

    def with_tags(self, tags: Mapping[str, Iterable[str]], without: Iterable[str]) -> Erased:
        """With third-party stores that have something of the owners, and those left alone."""
        names = self.tags.keys() | tags.keys()
        both = {name: sorted({*self.tags.get(name, ()), *tags.get(name, ())}) for name in names}
        return replace(self, tags=both, without=tuple(sorted({*self.without, *without})))

    def with_stores(self, counts: Mapping[str, int]) -> Erased:
        """With documents that were removed from these stores besides."""
        stores = {name: self.stores.get(name, 0) + count for name, count in counts.items()}
        return replace(self, stores={**self.stores, **stores})

    @property
    def has_destroyed(self) -> bool:
        """Whether anything of it cannot be brought back."""
        return bool(self.keys or self.others_keys or self.scopes or self.counts)

    def with_asked(self, name: str, asked: Asked) -> Erased:
        """With how far a participant is."""
        return replace(self, participants={**self.participants, name: asked})

    def reaching(self, until: int) -> Erased:
        """With scopes that were made until then, at the least."""
        return replace(self, until=max(self.until, until))

    def encoded(self) -> bytes:
        """What is sealed of it."""
        owner = self.owner
        told = {
            "what": self.what,
            "until": self.until,
            "owner": owner and [owner.level, owner.project, owner.user, owner.module, owner.guest],
            "keys": self.keys,
            "others_keys": self.others_keys,
            "root_key_ids": sorted(self.root_key_ids),
            "scopes": self.scopes,
            "counts": {str(int(kind)): count for kind, count in sorted(self.counts.items())},
            "participants": {name: [*asked] for name, asked in sorted(self.participants.items())},
            "stores": dict(sorted(self.stores.items())),
            "tags": dict(sorted(self.tags.items())),
            "without": self.without,
            "hash_before": self.hash_before,
            "hash_after": self.hash_after,
            "heap": self.heap,
        }
        return _FORM + json.dumps(told, separators=(",", ":")).encode()

    @classmethod
    def decoded(cls, plaintext: bytes) -> Erased:
        """What :meth:`encoded` was given.

        Raises:
            RecordDoesNotOpen: A version of this package wrote it that this one does not know.
        """
        if plaintext[:1] != _FORM:
            raise RecordDoesNotOpen(ERASURE, "its form is unknown")
        told: dict[str, Any] = json.loads(plaintext[1:])
        if told.keys() != cls.__dataclass_fields__.keys():
            raise RecordDoesNotOpen(ERASURE, "its form is unknown")
        owner = told["owner"]
        return cls(
            **told
            | {
                "owner": owner and Owner(Level(owner[0]), *owner[1:]),
                "root_key_ids": frozenset(told["root_key_ids"]),
                "counts": {Kind(int(kind)): count for kind, count in told["counts"].items()},
                "participants": {n: Asked(*asked) for n, asked in told["participants"].items()},
                "without": tuple(told["without"]),
            }
        )
