"""2^20 attacks on sealed records: changed, cut, spliced or opened elsewhere, none opens."""

import random
from collections.abc import Callable
from typing import NamedTuple

import pytest

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.owners import Level, Owner
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._crypto.secret_bytes import SecretBytes
from langmem_isolated.errors import RecordDoesNotOpen

ATTACKS, SEEDS = 2**17, range(8)
KINDS = [Kind.MESSAGE, Kind.CHECKPOINT, Kind.ELEMENT, Kind.ITEM, Kind.DOCUMENT, Kind.PROFILE]


class Record(NamedTuple):
    """A sealed record, and where it belongs."""

    keys: ScopeKeys
    kind: Kind
    parent: bytes
    birth: bytes
    key: bytes
    sealed: bytes

    def opened(self) -> bytes:
        prefix = self.keys.aad_prefix(self.kind, self.parent, self.birth)
        return self.keys.open(prefix, self.key, self.sealed, self.kind)


def keys_of(user: str, module: str, versions: int, rng: random.Random) -> ScopeKeys:
    """Keys of a scope whose sealing key was rotated so often, less one."""
    naming, *sealing = (SecretBytes(rng.randbytes(32)) for _ in range(versions + 1))
    owner = Owner(Level.PRIVATE, "default", user, module)
    return ScopeKeys(owner, rng.randbytes(16), 1, rng.randbytes(16), naming, sealing)


def sealed_records(rng: random.Random) -> list[Record]:
    """Records of every kind, of scopes whose keys were rotated up to twice."""
    found = []
    for user, module, versions in (("a", "b", 1), ("a", "c", 2), ("ab", "c", 3)):
        keys = keys_of(user, module, versions, rng)
        for kind in KINDS:
            for _ in range(4):
                parent, birth, key = (rng.randbytes(16) for _ in range(3))
                prefix = keys.aad_prefix(kind, parent, birth)
                plaintext = rng.randbytes(rng.randrange(80)) + bytes(rng.randrange(200))
                found.append(
                    Record(keys, kind, parent, birth, key, keys.seal(prefix, key, plaintext))
                )
    return found


def flipped(one: Record, _: Record, rng: random.Random) -> Record:
    changed = bytearray(one.sealed)
    changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return one._replace(sealed=bytes(changed))


def cut(one: Record, _: Record, rng: random.Random) -> Record:
    return one._replace(sealed=one.sealed[: rng.randrange(len(one.sealed))])


def extended(one: Record, _: Record, rng: random.Random) -> Record:
    return one._replace(sealed=one.sealed + rng.randbytes(rng.randrange(1, 20)))


def spliced(one: Record, other: Record, rng: random.Random) -> Record:
    at = rng.randrange(1, min(len(one.sealed), len(other.sealed)))
    return one._replace(sealed=one.sealed[:at] + other.sealed[at:])


def exchanged(one: Record, other: Record, _: random.Random) -> Record:
    return one._replace(sealed=other.sealed)


def elsewhere(one: Record, other: Record, rng: random.Random) -> Record:
    name = rng.choice(["keys", "kind", "parent", "birth", "key"])
    return one._replace(**{name: getattr(other, name)})


def made_up(one: Record, _: Record, rng: random.Random) -> Record:
    return one._replace(sealed=one.sealed[:17] + rng.randbytes(len(one.sealed) - 17))


HOW: list[Callable[[Record, Record, random.Random], Record]] = [
    *(flipped, cut, extended, spliced, exchanged, elsewhere, made_up)
]


@pytest.mark.parametrize("seed", SEEDS)
def test_no_record_opens_that_is_not_as_it_was_sealed_where_it_was_sealed(seed: int):
    rng = random.Random(seed)
    records = sealed_records(rng)
    for record in records:
        record.opened()
    known = set(records)
    opened = 0
    for _ in range(ATTACKS):
        attacked = rng.choice(HOW)(rng.choice(records), rng.choice(records), rng)
        if attacked in known:
            continue
        try:
            attacked.opened()
        except RecordDoesNotOpen:
            continue
        opened += 1

    assert opened == 0
