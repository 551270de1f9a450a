"""Quotas: how much each user may ask of models in a day or month, checked before one is asked.

Those of everyone are kept with the project, those of one user with that user: they are sealed with
the keys of whom they name, and go with them. One of a user takes the place of everyone's that has
the same measure, period and module.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from operator import add
from typing import Literal, NamedTuple
from weakref import WeakKeyDictionary

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.owners import Level, Owner
from langmem_isolated._database.database import Database
from langmem_isolated._runtime.clock import EPOCH, now
from langmem_isolated._runtime.lru import LRUCache
from langmem_isolated._runtime.operations import found, observed
from langmem_isolated._storage import entries, usage
from langmem_isolated._storage.entries import Entry
from langmem_isolated._storage.scoped_database import ScopedDatabase
from langmem_isolated._storage.usage import Spent
from langmem_isolated.errors import QuotaExceeded

Measure = Literal["tokens", "messages"]
Period = Literal["day", "month"]

SPACE = (b"quotas",)
"""Where quotas stand among the policies of a project or a user."""
# What another process sets is noticed after so many seconds at the latest: who has no quotas pays
# one query for that in this time, and not one at each call of a model.
_SECONDS = 10.0
_OWNERS = 4096


@dataclass(frozen=True, slots=True)
class Quota:
    """How much each of its users may ask of models."""

    measure: Measure
    limit: int
    per: Period
    project_id: str
    module_id: str | None = None
    """Counted in this module alone; in all of the user's together for ``None``."""
    user_id: str | None = None
    """For this user; for each user for ``None``."""

    @property
    def kept_by(self) -> Owner:
        """Whose policy it is."""
        level = Level.PROJECT if self.user_id is None else Level.USER
        return Owner(level, self.project_id, self.user_id)

    def entry(self) -> Entry:
        """As it is kept."""
        address = [self.measure, self.per, self.module_id]
        return Entry(json.dumps(address).encode(), json.dumps(self.limit).encode())

    def check(self, records: ScopedDatabase) -> None:
        """Refuse who has used it up.

        Raises:
            QuotaExceeded: So it is.
        """
        begun, ends = _span(self.per, now())
        spent = self._spent(records, begun)
        if records.lasting is not None:
            spent = Spent(*map(add, spent, self._spent(records.lasting, begun)))
        # The question that asks is among the messages already; what it will cost is not known.
        is_over = (
            spent.tokens >= self.limit if self.measure == "tokens" else spent.messages > self.limit
        )
        if is_over:
            raise QuotaExceeded(self.measure, self.limit, self.per, ends)

    @observed("search_memory", "usage", records=lambda _, records, *__: records)
    def _spent(self, records: ScopedDatabase, begun: int) -> Spent:
        in_all = self.module_id is None
        return records.read(usage.spent, Spent(0, 0), begun, in_all_modules=in_all)


class _Address(NamedTuple):
    """What a user's quota takes the place of."""

    measure: Measure
    per: Period
    module_id: str | None


def _span(per: Period, moment: int) -> tuple[int, datetime]:
    """The first day of the period that goes on, counted from 1970, and when the next begins."""
    today = datetime.fromtimestamp(moment // 1_000_000, UTC).replace(
        hour=0, minute=0, second=0, microsecond=0
    )
    if per == "day":
        return moment // usage.DAY, today + timedelta(days=1)
    first = today.replace(day=1)
    return (first - EPOCH).days, (first + timedelta(days=31)).replace(day=1)


@observed("search_memory", "policy", found, records=lambda records: records)
def quotas_of(records: ScopedDatabase) -> list[Quota]:
    """Those that are kept with a project or a user."""
    owner = records.owner
    found = records.read(entries.all_of, [], SPACE, now(), kind=Kind.POLICY)
    return [
        Quota(measure, json.loads(entry.value), per, owner.project, module, owner.user)
        for entry in found
        for measure, per, module in [json.loads(entry.key)]
    ]


_known: WeakKeyDictionary[Database, LRUCache[Owner, tuple[Quota, ...]]] = WeakKeyDictionary()


def _cache_of(database: Database) -> LRUCache[Owner, tuple[Quota, ...]]:
    found = _known.get(database)
    if found is None:
        made = LRUCache[Owner, tuple[Quota, ...]](entries=_OWNERS, seconds=_SECONDS)
        found = _known.setdefault(database, made)
    return found


def forget(database: Database) -> None:
    """Read quotas anew: one was set or removed here."""
    _cache_of(database).clear()


def applying(records: ScopedDatabase) -> tuple[Quota, ...]:
    """The quotas that hold for a scope, as they were within the last ten seconds."""
    records = records.lasting or records
    cache, owner = _cache_of(records.database), records.owner
    found = cache.get(owner)
    if found is None:
        found = _read(records)
        cache.put(owner, found)
    return found


def _read(records: ScopedDatabase) -> tuple[Quota, ...]:
    owner = records.owner
    keepers = [Owner(Level.PROJECT, owner.project)]
    if owner.user is not None:
        keepers.append(Owner(Level.USER, owner.project, owner.user))
    # The user's last: they take the place of everyone's.
    there = records.having_records([records.of(keeper) for keeper in keepers])
    return _merged(quota for kept in there for quota in quotas_of(kept))


def _merged(quotas: Iterable[Quota]) -> tuple[Quota, ...]:
    by = {_Address(quota.measure, quota.per, quota.module_id): quota for quota in quotas}
    return tuple(by.values())


def _for(records: ScopedDatabase) -> list[Quota]:
    module = records.owner.module
    return [quota for quota in applying(records) if quota.module_id in (None, module)]


def counts_messages(records: ScopedDatabase) -> bool:
    """Whether what people say in a scope is to be counted."""
    return any(quota.measure == "messages" for quota in _for(records))


def check_quotas(records: ScopedDatabase) -> None:
    """Refuse to ask a model for who has used up a quota; a query for each, and none without any.

    Raises:
        QuotaExceeded: Nothing is to be asked before the next day or month.
    """
    for quota in _for(records):
        quota.check(records)
