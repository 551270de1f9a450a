"""Receipt of an erasure: what was done, and what that does not prove."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Literal

from langmem_isolated._runtime.clock import EPOCH, as_moment, now
from langmem_isolated.lifecycle.erasure.participants import errors, states

if TYPE_CHECKING:
    from langmem_isolated._storage.erased import What
    from langmem_isolated._storage.erasure_jobs import ErasureJob
    from langmem_isolated._storage.lives import Lives

Heap = Literal["scrubbed", "pending"]
"""Whether bytes of what was removed may be left in the database's own files."""
Horizon = Literal["open", "passed"]
"""Whether a key of today needs a root key that opens older copies of what was removed."""

_NOTHING = (
    "There was nothing under this id: whoever is meant was erased before, never had memory here, "
    "or has another id or project."
)
_SQLITE_PENDING = (
    "The database's files may still hold bytes of it, sealed with keys that are destroyed: "
    "somebody was reading or writing, or a file is larger than the 64 MiB that an erasure writes "
    "anew by itself. To complete it: memory.finish_erasure()."
)
_POSTGRES_PENDING = (
    "PostgreSQL keeps removed rows and wrapped keys in dead tuples, its log and its replicas until "
    "it writes over them."
)
_OPEN = (
    "Backups, replicas and snapshots made before hold the wrapped keys, and these root keys open "
    "them: {}. memory.rotate_root_key(…) ends that, once the former root key is destroyed."
)
_PASSED = (
    "Backups, replicas and snapshots made before open with root keys that nothing needs any more: "
    "{}. They open no longer when those are destroyed, which is not known here."
)
_OF_MODULE = (
    "Keys of users live on for their other modules: with these, older copies of what was removed "
    "from this one open."
)
_UNCONFIRMED = (
    "These participants were asked and have not confirmed that nothing is left: {}. "
    "memory.erasure.resume() asks them again."
)
_NOT_ASKED = "These third-party vector stores were left alone, as without_stores named them: {}."
_NOT_ASKED_AGAIN = (
    "These third-party vector stores were cleared, and left alone when the erasure went on, as "
    "without_stores named them: {}. What was being written meanwhile may be in them."
)
_NOT_PROVED = (
    "What a third-party store, its log or its backups keep of removed documents is not known here.",
    "What the application, its logs or a model's provider kept is not known here.",
    "The hashes tell two states of the tables of scopes and keys, not what was removed between.",
)


@dataclass(frozen=True, slots=True)
class ErasureReceipt:
    """What an erasure did, and what that does not prove; it names nobody."""

    principal: str
    """By which the tables knew the user, guest, module or project: a keyed digest, in hex."""
    erased_at: datetime
    keys_destroyed: int
    """By this erasure; 0 where another one did it, or there were none."""
    root_key_ids: tuple[str, ...]
    """Of what had wrapped them: copies made since each did open with it."""
    scopes: int
    """How many modules and shared spaces were removed."""
    counts: dict[str, int]
    """How many records, sessions, threads and collections were removed, by kind: from the first
    call to the last one, where it was begun again."""
    heap: Heap
    is_postgres: bool
    what: What = "user"
    is_finished: bool = True
    """Whether nothing is left to be done; else ``memory.erasure.resume()`` goes on."""
    participants: dict[str, str] = field(default_factory=dict)
    """``"confirmed"`` or ``"requested"``, by their names."""
    participant_errors: dict[str, str] = field(default_factory=dict)
    """The class of what those raised that did not confirm, by their names."""
    stores: dict[str, int] = field(default_factory=dict)
    """How many documents were removed from third-party vector stores, by their names."""
    without_stores: tuple[str, ...] = ()
    """Names of third-party stores that were left alone."""
    horizon: Horizon = "open"
    """``"passed"`` once no key of today is wrapped by a root key that opens older copies."""
    store_hash_before: str = ""
    """SHA-256 over what lists everybody's scopes and keys, before anything was destroyed.

    It is over two digests of SHA-256: over ``scope_id``, ``birth`` and ``mac`` of every row of the
    table of scopes, in the order of their ids, and over ``principal``, ``revision`` (8 bytes,
    big-endian) and ``mac`` of every one of the table of key sets. Whoever has the tables, or a copy
    of that moment, makes it again. It proves which state an erasure began from and which it left
    behind, others' changes in between among them, and not what it removed."""
    store_hash_after: str = ""
    """The same when it was done."""

    @classmethod
    def of(cls, job: ErasureJob, lives: Lives, *, is_postgres: bool) -> ErasureReceipt:
        """That of a job, as it is now."""
        erased = job.erased
        return cls(
            principal=job.principal.hex(),
            erased_at=as_moment(job.finished_at or now()) or EPOCH,
            keys_destroyed=erased.keys + erased.others_keys,
            root_key_ids=tuple(sorted(erased.root_key_ids)),
            scopes=erased.scopes,
            counts={kind.label: count for kind, count in sorted(erased.counts.items())},
            heap="scrubbed" if erased.heap == "scrubbed" else "pending",
            is_postgres=is_postgres,
            what=erased.what,
            is_finished=job.finished_at is not None,
            participants=states(erased.participants),
            participant_errors=errors(erased.participants),
            stores=dict(erased.stores),
            without_stores=erased.without,
            horizon=_horizon(erased.what, erased.root_key_ids, lives),
            store_hash_before=erased.hash_before,
            store_hash_after=erased.hash_after or "",
        )

    @property
    def does_not_prove(self) -> tuple[str, ...]:
        """What it does not prove, in sentences."""
        of_it = (*self._of_what_was_found(), *self._of_the_files(), *self._of_copies())
        return (*of_it, *self._of_others(), *_NOT_PROVED)

    def _of_what_was_found(self) -> Iterator[str]:
        if not (self.keys_destroyed or self.scopes or self.counts or self.stores):
            yield _NOTHING

    def _of_the_files(self) -> Iterator[str]:
        if self.heap == "pending":
            yield _POSTGRES_PENDING if self.is_postgres else _SQLITE_PENDING

    def _of_copies(self) -> Iterator[str]:
        if self.what == "module":
            yield _OF_MODULE
        if self.root_key_ids:
            sentence = _PASSED if self.horizon == "passed" else _OPEN
            yield sentence.format(", ".join(self.root_key_ids))

    def _of_others(self) -> Iterator[str]:
        if names := [name for name, state in self.participants.items() if state != "confirmed"]:
            yield _UNCONFIRMED.format(", ".join(names))
        for sentence, names in (
            (_NOT_ASKED, [one for one in self.without_stores if one not in self.stores]),
            (_NOT_ASKED_AGAIN, [one for one in self.without_stores if one in self.stores]),
        ):
            if names:
                yield sentence.format(", ".join(names))

    def to_dict(self) -> dict[str, object]:
        """All of it, with what it does not prove."""
        return asdict(self) | {"does_not_prove": self.does_not_prove}

    def to_json(self) -> str:
        """All of it, as a JSON object on one line."""
        return json.dumps(self.to_dict(), default=datetime.isoformat)

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        begin = "Erased" if self.is_finished else "Not finished"
        yield f"{begin} at {self.erased_at:%Y-%m-%d %H:%M:%S} UTC: principal {self.principal}"
        yield f"What: {self.what}"
        yield f"Keys destroyed: {self.keys_destroyed}"
        yield f"Scopes removed: {self.scopes}"
        yield from (f"  {kind}: {count}" for kind, count in sorted(self.counts.items()))
        yield from _listed("Participants", self.participants)
        yield from _listed("Documents in third-party stores", self.stores)
        yield f"Bytes in the database's files: {self.heap}"
        yield f"Horizon of older copies: {self.horizon}"
        yield f"Store before: {self.store_hash_before}"
        yield f"Store after:  {self.store_hash_after}"
        yield "It does not prove:"
        yield from (f"- {sentence}" for sentence in self.does_not_prove)


def _listed(heading: str, told: Mapping[str, object]) -> Iterator[str]:
    if told:
        yield f"{heading}:"
        yield from (f"  {name}: {value}" for name, value in told.items())


def _horizon(what: str, root_key_ids: frozenset[str], lives: Lives) -> Horizon:
    is_open = what == "module" or any(map(lives.is_needed, root_key_ids))
    return "open" if is_open else "passed"
