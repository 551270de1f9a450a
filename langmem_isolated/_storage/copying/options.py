"""Options and results of a copy: what happens to a name that is taken, and what was copied."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, get_args

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._runtime.arguments import kind_of
from langmem_isolated.errors import AddressTaken

Conflicts = Literal["rename", "skip", "replace", "refuse"]
"""For a name that is taken in the target: ``"rename"`` gives what is copied the next free one
(``main-2``), ``"skip"`` leaves it out, ``"replace"`` puts it in place of the target's, ``"refuse"``
copies nothing at all."""

CONFLICTS: tuple[Conflicts, ...] = get_args(Conflicts)


def checked_conflicts(value: object) -> Conflicts:
    """``value``, if it is a policy for names that are taken.

    Raises:
        ValueError: It is none.
    """
    for known in CONFLICTS:
        if value == known:
            return known
    raise ValueError(
        f"conflicts must be one of {', '.join(CONFLICTS)}, got another {kind_of(value)}. Leave it "
        'out for "rename". Nothing was stored.'
    )


BATCH = 500
"""Rows that one transaction writes at most: 8 to 20 ms on SQLite, above 1,000 up to 276."""


class Mark(NamedTuple):
    """What the header of each copied session and thread says besides."""

    origin: str | None = None
    """Where it came from."""
    is_untrusted: bool = False
    """Whether it is not recalled into prompts until somebody confirms it."""


NO_MARK = Mark()


class Reader(NamedTuple):
    """The owner that is copied from, as the transaction sees it that writes."""

    keys: ScopeKeys
    transaction: Transaction | None = None
    """Of its own, where it is in another database."""

    def within(self, transaction: Transaction) -> Transaction:
        """What reads it within a transaction that writes."""
        return self.transaction or transaction


class Renamed(NamedTuple):
    """What stands under another name than it had."""

    kind: Kind
    old: str
    new: str


class Added(NamedTuple):
    """What a copy put in, by the names that find it, such as key and namespace."""

    kind: Kind
    names: tuple[bytes, ...]


@dataclass
class Copied:
    """What a copy did, by kinds: records, sessions and threads; messages count as such."""

    counts: Counter[Kind] = field(default_factory=Counter)
    skipped: Counter[Kind] = field(default_factory=Counter)
    """Left out, because the target has its name."""
    replaced: Counter[Kind] = field(default_factory=Counter)
    """Of the target's."""
    renamed: list[Renamed] = field(default_factory=list)
    added: list[Added] = field(default_factory=list)

    def update(self, more: "Copied") -> None:
        """Take in what another part of the same copy did."""
        self.counts.update(more.counts)
        self.skipped.update(more.skipped)
        self.replaced.update(more.replaced)
        self.renamed += more.renamed
        self.added += more.added

    def note_added(self, kind: Kind, *names: bytes) -> None:
        """Remember what was put in."""
        self.added.append(Added(kind, names))

    def resolve(self, conflicts: Conflicts, kind: Kind) -> Conflicts:
        """What happens to one name that is taken, counted.

        Raises:
            AddressTaken: It is refused.
        """
        if conflicts == "refuse":
            raise AddressTaken(kind.label)
        if conflicts == "skip":
            self.skipped[kind] += 1
        elif conflicts == "replace":
            self.replaced[kind] += 1
        return conflicts

    def note_name(self, kind: Kind, old: str, new: str) -> None:
        """Remember another name, if it is another."""
        if old != new:
            self.renamed.append(Renamed(kind, old, new))


# Of bytes: what is added must fit into an id as well.
_MOST_BYTES = 255


def names_for(name: str) -> Iterator[str]:
    """``name``, and those that are tried where one is taken: ``name-2``, ``name-3`` and so on."""
    yield name
    number = 2
    while True:
        ending = f"-{number}"
        start = name.encode()[: _MOST_BYTES - len(ending)].decode(errors="ignore")
        yield start + ending
        number += 1
