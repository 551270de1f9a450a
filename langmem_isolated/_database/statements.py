"""Statement cache: SQL compiled once, and inserts of a dialect made when first asked for."""

from collections import defaultdict
from collections.abc import Callable
from importlib import import_module
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import BindParameter, Dialect, Executable, Table, bindparam

from langmem_isolated._database.dialects import AnyDialect, Postgres

_Compiled = tuple[str, list[str]]
_OfProcess = WeakKeyDictionary[Executable, _Compiled]

# By the kind of dialect. A memory's first call needs 20 statements, a millisecond each: who opens
# another over a database of the same kind finds them here.
_of_process: dict[type, _OfProcess] = defaultdict(WeakKeyDictionary)

# The largest LIMIT that both databases take as an integer of four bytes.
NO_LIMIT = 2**31 - 1


class CompiledStatements:
    """The statements of one database in its driver's words, each compiled once in a process.

    What a database was asked is kept in a plain dictionary: a weak one looks up slower.
    """

    __slots__ = ("_sqlalchemy", "dialect", "is_postgres", "known")

    def __init__(self, sqlalchemy: Dialect, dialect: AnyDialect) -> None:
        self._sqlalchemy = sqlalchemy
        self.dialect = dialect
        self.known: dict[Executable, _Compiled] = {}
        self.is_postgres = isinstance(dialect, Postgres)

    def compiled(self, statement: Executable) -> _Compiled:
        """The driver's text of a statement, and its parameters in their order."""
        try:
            return self.known[statement]
        except KeyError:
            others = _of_process[type(self.dialect)]
            found = others.get(statement) or others.setdefault(statement, self._compile(statement))
            return self.known.setdefault(statement, found)

    def _compile(self, statement: Executable) -> _Compiled:
        compiled = statement.compile(  # type: ignore[attr-defined]
            dialect=self.dialect.compiles_for(self._sqlalchemy),
            render_schema_translate=self.is_postgres,
            **self.dialect.translation,
        )
        return str(compiled), compiled.positiontup


class InsertsByDialect(dict[bool, Any]):
    """Inserts by whether it is PostgreSQL, each made when it is first asked for.

    What the other database needs is not imported: for PostgreSQL that takes 20 ms.

    Args:
        table: Where to insert.
        make: Makes the statement of the dialect's own insert into ``table``.
    """

    def __init__(self, table: Table, make: Callable[[Any], Any]) -> None:
        super().__init__()
        self._table = table
        self._make = make

    def __missing__(self, is_postgres: bool) -> Any:
        dialect = import_module(f"sqlalchemy.dialects.{'postgresql' if is_postgres else 'sqlite'}")
        return self.setdefault(is_postgres, self._make(dialect.insert(self._table)))


def insert_if_absent(table: Table, *columns: str) -> InsertsByDialect:
    """By whether it is PostgreSQL: the loser of a race writes nothing and reads again."""
    values: dict[str, BindParameter[Any]] = {column: bindparam(column) for column in columns}
    primary_key = [column.name for column in table.primary_key]
    return InsertsByDialect(
        table,
        lambda insert: insert.values(values).on_conflict_do_nothing(index_elements=primary_key),
    )
