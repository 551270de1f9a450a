"""Compiles statements once: the driver's text, and its parameters in their order."""

from sqlalchemy import Dialect, Executable

from langmem_isolated._database.dialects import AnyDialect, Postgres

_Compiled = tuple[str, list[str]]

# The largest LIMIT that both databases take as an integer of four bytes.
NO_LIMIT = 2**31 - 1


class CompiledStatements:
    """The statements of one database in its driver's words, each compiled at first use."""

    __slots__ = ("_compiled", "_sqlalchemy", "dialect", "is_postgres")

    def __init__(self, sqlalchemy: Dialect, dialect: AnyDialect) -> None:
        self._sqlalchemy = sqlalchemy
        self.dialect = dialect
        self._compiled: dict[Executable, _Compiled] = {}
        self.is_postgres = isinstance(dialect, Postgres)

    def compiled(self, statement: Executable) -> _Compiled:
        """The driver's text of a statement, and its parameters in their order."""
        try:
            return self._compiled[statement]
        except KeyError:
            compiled = statement.compile(  # type: ignore[attr-defined]
                dialect=self.dialect.compiles_for(self._sqlalchemy),
                render_schema_translate=self.is_postgres,
                **self.dialect.translation,
            )
            return self._compiled.setdefault(statement, (str(compiled), compiled.positiontup))
