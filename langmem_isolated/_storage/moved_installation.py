"""Moved installation: its tables in another database, and the row that opens them there, last."""

from collections import Counter
from collections.abc import Callable

from sqlalchemy import Select, bindparam, delete, insert, select

from langmem_isolated._database import schema
from langmem_isolated._database.admission import AdmissionToAll
from langmem_isolated._database.database import Database
from langmem_isolated._database.table_copies import TableCopy
from langmem_isolated._database.transactions import Row, Transaction
from langmem_isolated._storage.installation import ids_of
from langmem_isolated.errors import MoveRefused

# Of the database, what others refer to before them. The keys are in the key store.
DATA_TABLES = (
    TableCopy(schema.scopes, is_updated=True),
    *map(
        TableCopy,
        (
            schema.key_uses, schema.sessions, schema.records, schema.usage,
            schema.erasures, schema.audit, schema.audit_chains,
        ),
    ),
)  # fmt: skip
_SELECT = select(schema.installation)
_DELETE = delete(schema.installation)
_COLUMNS = [column.name for column in schema.installation.c]
_INSERT = insert(schema.installation).values({name: bindparam(name) for name in _COLUMNS})
_ANY = [
    select(select(table).exists())
    for table in (schema.scopes, schema.erasures, schema.audit_chains)
]

Told = Callable[[int], object]


class MovedInstallation:
    """Where an installation moves to.

    Until it is published the database has no directory key, so no memory opens it: what is half
    there is found by nobody but the next run.

    Args:
        source: Where it is.
        target: Where it is to be.
        told: After each page, how many rows were put so far.
    """

    def __init__(self, source: Database, target: Database, told: Told) -> None:
        self._source, self._target, self._told = source, target, told
        self.put = Counter[str]()
        """How many rows were put, by table."""

    def refuse_what_is_there(self, *, has_begun: bool) -> None:
        """Expect a database that is unused, or that such a move has begun.

        Args:
            has_begun: Whether the keys of the installation are where it moves to.

        Raises:
            MoveRefused: It is another installation's, or this one's, which would be lost.
        """
        own, (there, directory_id) = ids_of(self._source)[0], ids_of(self._target)
        if there == own:
            raise MoveRefused("This installation is there already; what came since would be lost.")
        if directory_id is not None:
            raise MoveRefused("Another installation is there.")
        if not has_begun and any(map(self._has, _ANY)):
            raise MoveRefused("There is something of another installation, without its keys.")

    def _has(self, any_row: Select[bool]) -> bool:
        with AdmissionToAll():
            return self._target.read(Transaction.rows, any_row)[0][0] in (True, 1)

    def make_equal(self, *, is_new: bool) -> int:
        """Make every table what it is at the source, in one state; how many rows differed.

        Args:
            is_new: Whether nothing is there: then nothing is looked for that is to be removed.
        """
        with AdmissionToAll():
            return self._source.snapshot(self._equal, is_new)

    def _equal(self, source: Transaction, is_new: bool) -> int:
        differed = 0
        if not is_new:
            # What refers to others goes first, what they refer to comes first.
            differed = sum(self._cleared(source, table) for table in reversed(DATA_TABLES))
            if not differed:
                return 0
        return differed + sum(self._filled(source, table) for table in DATA_TABLES)

    def _cleared(self, source: Transaction, table: TableCopy) -> int:
        return sum(sum(table.clear(page, self._target)) for page in table.pages(source))

    def _filled(self, source: Transaction, table: TableCopy) -> int:
        before = self.put[table.name]
        for page in table.pages(source):
            self.put[table.name] += table.fill(page, self._target)
            self._told(self.put.total())
        return self.put[table.name] - before

    def publish(self, prove: Callable[[], object]) -> None:
        """Have the database be the installation, if it opens as such.

        Args:
            prove: Opens it, or raises.
        """
        former = self._target.write(_replaced, self._source.read(Transaction.row, _SELECT))
        try:
            prove()
        except BaseException:
            self._target.write(_replaced, former)
            raise


def _replaced(transaction: Transaction, row: Row | None) -> Row | None:
    former = transaction.row(_SELECT)
    transaction.execute(_DELETE)
    if row is not None:
        transaction.execute(_INSERT, **dict(zip(_COLUMNS, row, strict=True)))
    return former
