"""Database errors: what drivers and servers say, in our words and without what they quote."""

from langmem_isolated.errors import (
    DatabaseCorrupt,
    DatabaseError,
    DatabaseFull,
    DatabaseLocked,
    DatabaseReadOnly,
    DatabaseUnreachable,
    RowLevelSecurityError,
)

# By class of SQLSTATE, or the whole of it where the class is too wide (PostgreSQL, appendix A).
_POSTGRES_ERRORS: dict[str, type[DatabaseError]] = {
    "08": DatabaseUnreachable,
    "28": DatabaseUnreachable,
    "3D": DatabaseUnreachable,
    "57P": DatabaseUnreachable,
    # Whether the statement was done is not known.
    "40003": DatabaseUnreachable,
    "40": DatabaseLocked,
    "55P03": DatabaseLocked,
    "53100": DatabaseFull,
    "53": DatabaseUnreachable,
    "25006": DatabaseReadOnly,
    "42501": DatabaseReadOnly,
    # A policy met no setting, or an empty one: no statement of ours reads an array from text.
    "42704": RowLevelSecurityError,
    "22P02": RowLevelSecurityError,
    "42P01": DatabaseCorrupt,
    "42703": DatabaseCorrupt,
    # Not XX000: an error inside the server, as of Citus when a worker dies under a statement.
    "XX001": DatabaseCorrupt,
    "XX002": DatabaseCorrupt,
}
_NO_SERVER = "Are host, port, user, password and database right, and does the server run?"


class Conflict(DatabaseError):
    """A unique constraint or foreign key refused a row; for the operation's caller to explain."""

    def __init__(self, foreign_key: bool) -> None:
        super().__init__(f"The database refused a row by one of its constraints. {self.advice}")
        self.foreign_key = foreign_key


def explained(kind: type[DatabaseError] | None, what: str) -> DatabaseError:
    """An error of a kind, with what it advises."""
    found = kind or DatabaseError
    return found(f"{' '.join(what.split())}. {found.advice}")


def translated(error: BaseException, *, is_distributed: bool) -> Exception:
    """An error of the driver, or of the server, in our words and without what it quotes."""
    told: str | None = getattr(error, "sqlstate", None)
    state = told or "08000"
    if state in ("23505", "23503"):
        return Conflict(foreign_key=state == "23503")
    kind = next((_POSTGRES_ERRORS[key] for key in _POSTGRES_ERRORS if state.startswith(key)), None)
    if state == "42501" and _is_of_policy(error):
        kind = RowLevelSecurityError
    if state == "XX000" and is_distributed:
        kind = DatabaseUnreachable  # a worker went away, and the statement with it
    # The detail line of a server error quotes rows; the primary line does not.
    primary = getattr(getattr(error, "diag", None), "message_primary", None) or str(error)
    # Without the driver's own advice, a question: ours follows.
    met = "; ".join(line for line in primary.splitlines() if "Is the server running" not in line)
    told_kind = explained(kind, f"PostgreSQL: {met}{f' (SQLSTATE {told})' if told else ''}")
    # A state that the driver itself knows none for: no connection was made.
    return told_kind if told else type(told_kind)(f"{told_kind} {_NO_SERVER}")


def _is_of_policy(error: BaseException) -> bool:
    """Whether a policy refused a row; by where the server says so, whatever its language."""
    function = getattr(getattr(error, "diag", None), "source_function", None)
    return function in ("ExecWithCheckOptions", "check_enable_rls")
