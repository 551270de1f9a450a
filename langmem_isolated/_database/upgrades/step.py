"""Step of an upgrade: frozen SQL that takes the tables from one version to the next."""

from dataclasses import dataclass

from langmem_isolated._database.schema import POSTGRES_SCHEMA

_SQLITE = {"@bytes": "BLOB", "@schema.": "", "@clustered": " WITHOUT ROWID"}
_POSTGRES = {"@bytes": "BYTEA", "@schema.": f"{POSTGRES_SCHEMA}.", "@clustered": ""}


@dataclass(frozen=True, slots=True)
class Step:
    """What is done in one transaction, in which the version is moved, too.

    Steps run without the root key: what they write is not sealed, and stands under no MAC.
    """

    version: int
    """The one that it leads to."""
    what: str
    """What it does, as one line for operators."""
    sqlite: tuple[str, ...]
    """Its statements on SQLite."""
    postgresql: tuple[str, ...]
    """Its statements on PostgreSQL, with the schema written out."""
    rewrites_rows: bool = False
    """Whether it takes longer the more there is, and writers wait meanwhile."""

    @classmethod
    def of_both(
        cls, version: int, what: str, script: str, *, rewrites_rows: bool = False
    ) -> "Step":
        """A step that is the same on both databases.

        Args:
            version: The one that it leads to.
            what: What it does.
            script: Statements that end with ``;``, in which ``@bytes`` is the type of bytes,
                ``@schema.`` stands before a table's name, and ``@clustered`` behind tables that
                have no number for each row.
            rewrites_rows: See :attr:`rewrites_rows`.
        """
        sqlite, postgresql = (_statements(script, words) for words in (_SQLITE, _POSTGRES))
        return cls(version, what, sqlite, postgresql, rewrites_rows)

    def statements(self, dialect: str) -> tuple[str, ...]:
        """What is run on ``"sqlite"`` or ``"postgresql"``."""
        return self.sqlite if dialect == "sqlite" else self.postgresql


def _statements(script: str, words: dict[str, str]) -> tuple[str, ...]:
    for word, meant in words.items():
        script = script.replace(word, meant)
    return tuple(one.strip() for one in script.split(";") if one.strip())
