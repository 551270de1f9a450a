"""Run of a verification: walks scopes one after another, and collects what is not right.

Of each scope one state of the database is read. Scopes that come behind the walk are not met, those
that are erased meanwhile are told as ended. What looks wrong is looked at again with keys and row
read anew, before it is told: a rotation or an erasure that came between is no finding.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from langmem_isolated._adapters.context import MemoryContext
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.owners import Owner
from langmem_isolated._crypto.sealing import DIGEST_BYTES
from langmem_isolated._database import row_level_security
from langmem_isolated._database.admission import AdmissionToAll
from langmem_isolated._storage import cross_opening, verification
from langmem_isolated._storage.census import Census, Counted, Ended, drawn
from langmem_isolated._storage.cross_opening import CrossOpening
from langmem_isolated._storage.key_census import KeyCensus
from langmem_isolated._storage.orphans import TABLES, orphans
from langmem_isolated._storage.table_shapes import differences
from langmem_isolated._storage.verification import Flaw
from langmem_isolated.errors import (
    AuditIsOff,
    DatabaseCorrupt,
    DatabaseError,
    KeyDestroyed,
    KeyringError,
    MemoryLocked,
    RecordDoesNotOpen,
    RecordError,
)
from langmem_isolated.lifecycle.audit.checks import verified as audited
from langmem_isolated.lifecycle.verification.canary_places import is_canary
from langmem_isolated.lifecycle.verification.confidence import Coverage
from langmem_isolated.lifecycle.verification.report import (
    MOST_FINDINGS,
    Tallies,
    VerificationReport,
)
from langmem_isolated.lifecycle.verification.wrapped_stores import WrappedStores

if TYPE_CHECKING:
    from langmem_isolated._storage.scoped_database import ScopedDatabase

_NOTHING: Counter[Kind] = Counter()
_LOOKS = 4
OTHERS = 8
"""Each sampled record is tried with the keys of so many other scopes."""
_OF_ALL = "of one user alone was asked: it is about the whole installation"
_ASPECTS = {"rows": "records", "records": "records", "counts": "counts", "references": "references"}


class VerificationRun:
    """One walk, of all scopes or of one user's.

    Args:
        context: What the memory stands on.
        user: Whose scopes; ``None`` for all.
        sample: Of how many scopes, drawn at random, records are opened; ``None`` for all.
        progress: Told how many scopes are done.
        chance: Draws the sample.
    """

    def __init__(
        self,
        context: MemoryContext,
        *,
        user: Owner | None = None,
        sample: int | None = None,
        progress: Callable[[int], object] = lambda _: None,
        chance: random.Random | None = None,
    ) -> None:
        self._context, self._user, self._sample = context, user, sample
        self._progress = progress
        self._chance = chance or random.SystemRandom()
        self._crossing = CrossOpening(OTHERS)
        self.tallies = Tallies()
        self._wrapped = WrappedStores(context, self.tallies["wrapped stores"])
        self.counts: Counter[Kind] = Counter()
        self.canaries: list[Counted] = []
        """Scopes that a run made which somebody killed, or one that runs now."""
        self._scopes = self._ended = self._locked = self._verified = 0
        self._began_at = datetime.now(UTC)
        self._coverage: Coverage | None = None

    def walk(self) -> None:
        """Look at tables, keys, orphans and scopes; what is wrong is in the tallies."""
        self._context.database.open()
        opened = self._context.keyring.installation.open(create=False)
        self._examine_row_level_security()
        if self._user is None:
            self._examine_tables()
        if opened is None:
            return
        database, key_store = self._context.database, self._context.keyring.key_store
        census = Census(database, key_store, opened)
        if self._user is None:
            self._examine_keys(
                KeyCensus(database, key_store, opened, self._context.keyring.tombstones)
            )
            self._examine_orphans()
            self._examine_audit()
        else:
            for name in ("tables", "key sets", "erasures", "orphans", "audit log"):
                self.tallies[name].not_checked = _OF_ALL
            self._meet_strangers(census, self._user)
        self._verify_all(self._counted(census))
        self._wrapped.finish(is_whole=self._user is None and self._coverage is None)

    def report(self) -> VerificationReport:
        """What was found, by now."""
        return VerificationReport(
            subject="installation" if self._user is None else "user",
            began_at=self._began_at,
            finished_at=datetime.now(UTC),
            scopes=self._scopes,
            verified=self._verified,
            locked=self._locked,
            ended=self._ended,
            coverage=self._coverage,
            counts={kind.label: self.counts[kind] for kind in Kind if self.counts[kind]},
            cross_opening_attempts=self._crossing.attempts,
            checks=self.tallies.as_checks(),
        )

    # --- of the whole installation

    def _examine_tables(self) -> None:
        tally = self.tallies["tables"]
        databases = {self._context.database: None, self._context.keyring.key_store: None}
        for database in databases:
            tally.examined += 1
            for table, problem in differences(database):
                tally.add(problem, place=table)

    def _examine_row_level_security(self) -> None:
        tally = self.tallies["row-level security"]
        if not self._context.database.is_postgres:
            tally.not_checked = "SQLite has none: whoever reads the file reads all of its rows"
            return
        found = row_level_security.status(self._context.database)
        if not found.is_enabled:
            tally.not_checked = "it is not enabled"
            return
        tally.examined = len(row_level_security.POLICIES)
        for table in found.tables_without:
            tally.add("it is not in force on a table", place=table)
        for table in found.tables_opened:
            tally.add("another policy than ours admits to rows of a table", place=table)
        if found.role_bypasses or found.role_runs_jobs:
            tally.not_checked = (
                "that a query without a scope is refused: the role that asked sees everybody's rows"
            )
        elif not found.refuses:
            tally.add("a query without a scope was not refused")

    def _examine_keys(self, census: KeyCensus) -> None:
        sets, ended = self.tallies["key sets"], self.tallies["erasures"]
        for flaw in census.flaws():
            tally = sets if flaw.what == "key set" else ended
            tally.add(f"a {flaw.what}: {flaw.reason}", place=flaw.place)
        sets.examined = census.sets + sets.found
        ended.examined = census.tombstones + census.erasures
        if census.foreign:
            sets.not_checked = (
                f"{census.foreign} sets of the key store are another installation's, or were "
                "changed: those that a scope here needs are checked with it"
            )

    def _examine_orphans(self) -> None:
        tally = self.tallies["orphans"]
        tally.examined = len(TABLES)
        for found in orphans(self._context.database):
            tally.add("rows of a scope that is not there", found.scope_id, found.table)

    def _examine_audit(self) -> None:
        tally = self.tallies["audit log"]
        try:
            with AdmissionToAll():
                tally.examined = audited(self._context).entries
        except AuditIsOff:
            tally.not_checked = "there is none"
        except RecordError as error:
            tally.add(f"it is not what was written ({type(error).__name__})")

    # --- of scopes

    def _counted(self, census: Census) -> Iterator[Counted]:
        tally = self.tallies["scopes"]
        for found in census.all() if self._user is None else census.of(self._user):
            if isinstance(found, Counted) and is_canary(found.owner, self._context):
                self.canaries.append(found)
                continue
            self._scopes += 1
            tally.examined += 1
            if isinstance(found, Counted):
                yield found
            elif isinstance(found, Ended):
                self._ended += 1
            else:
                tally.add(found.reason, found.scope_id.hex())

    def _meet_strangers(self, census: Census, user: Owner) -> None:
        """Have records of the user tried with the keys of some others."""
        principal = user.principal()
        for found in census.all():
            if isinstance(found, Counted) and found.owner.principal() != principal:
                self._cross(found.owner, is_stranger=True)
                if self._crossing.is_full:
                    return

    def _verify_all(self, found: Iterator[Counted]) -> None:
        scopes: Iterable[Counted] = found
        if self._sample is not None:
            # All rows are looked at first: the sample is of those that are in order.
            sample = drawn(found, self._sample, self._chance)
            scopes = sample.scopes
            if sample.of > len(sample.scopes):
                self._coverage = Coverage(len(sample.scopes), sample.of)
        for number, one in enumerate(scopes, start=1):
            self._verify(one.owner)
            self._progress(number)

    def _verify(self, owner: Owner) -> None:
        try:
            self._open_everything(owner)
            self._cross(owner)
            self._examine_elsewhere(owner)
        except KeyDestroyed:
            self._ended += 1
        except KeyringError as error:
            scope = self._digest(owner)
            self.tallies["scopes"].add(f"its keys cannot be had ({type(error).__name__})", scope)
        except RecordDoesNotOpen as error:
            # Not for one record: its rows are of later keys than there are.
            self.tallies["key sets"].add(error.reason, self._digest(owner))
        except DatabaseError as error:
            # A row of this scope that SQLite cannot hand out: text in it is none. Of what befalls
            # all scopes, as a server that is gone, the classes are others.
            if type(error) not in (DatabaseError, DatabaseCorrupt):
                raise
            self.tallies["records"].add("the database cannot read a row", self._digest(owner))

    def _open_everything(self, owner: Owner) -> None:
        records = self._context.operators(owner)
        try:
            counts = records.snapshot(verification.verify, _NOTHING)
            self._verified += 1
        except MemoryLocked:
            counts = self._tell_flaws(owner)
            self._locked += 1
        except RecordError:
            counts = self._tell_flaws(owner)
            self._verified += 1
        self.counts += counts
        for name in ("records", "counts", "references"):
            self.tallies[name].examined += _examined(name, counts)

    def _examine_elsewhere(self, owner: Owner) -> None:
        # A note that does not open is told of with the records.
        with suppress(RecordError):
            self._wrapped.examine(owner)

    def _tell_flaws(self, owner: Owner) -> Counter[Kind]:
        """Look at a scope again, to its end; what stays wrong is told."""
        for _ in range(_LOOKS):
            # Another life may have begun meanwhile, which only another object sees.
            records = self._context.operators(owner)
            nothing: tuple[Counter[Kind], Counter[str], list[Flaw]] = (Counter(), Counter(), [])
            counts, numbers, found = records.snapshot(verification.flaws, nothing, MOST_FINDINGS)
            if not numbers or not self._was_rotated(records, found):
                break
        records.refuse_if_erased()
        scope = self._digest(owner)
        for flaw in found:
            self.tallies[_ASPECTS[flaw.aspect]].add(
                f"{flaw.kind}: {flaw.reason}", scope, flaw.place
            )
        for aspect, number in (numbers - Counter(flaw.aspect for flaw in found)).items():
            self.tallies[_ASPECTS[aspect]].add("more of this scope", scope, count=number)
        return counts

    def _was_rotated(self, records: ScopedDatabase, found: list[Flaw]) -> bool:
        keys = records.find_keys()
        unknown = {flaw.key_id for flaw in found}
        return keys is not None and any(records.rotated_keys(keys, one) for one in unknown)

    def _cross(self, owner: Owner, *, is_stranger: bool = False) -> None:
        records = self._context.operators(owner)
        sampled = records.snapshot(cross_opening.sample, [], os.urandom(DIGEST_BYTES))
        keys = records.find_keys()
        if keys is None:
            return
        if not is_stranger:
            tally = self.tallies["cross-opening"]
            tally.examined += len(sampled)
            for one in self._crossing.tried(keys, sampled):
                place = f"{one.parent.hex()} {one.key.hex()}"
                tally.add(f"{one.kind.label}: it opens elsewhere", keys.scope_id.hex(), place)
        self._crossing.add(keys)

    def _digest(self, owner: Owner) -> str:
        directory = self._context.keyring.directory()
        return "" if directory is None else directory.scope_id_of(owner).hex()


_CONTAINERS = (Kind.SESSION, Kind.THREAD, Kind.COLLECTION)
_REFERRING = (Kind.CHECKPOINT, Kind.WRITE, Kind.DOCUMENT)


def _examined(name: str, counts: Counter[Kind]) -> int:
    """How many of what a scope has a check is about."""
    if name == "counts":
        return sum(counts[kind] for kind in _CONTAINERS)
    if name == "references":
        return sum(counts[kind] for kind in _REFERRING)
    return counts.total()
