"""Does what someone may do who has the database but not the keys: searches it, changes rows."""

import json
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database import schema
from langmem_isolated._database.database import Database
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._runtime.clock import now
from langmem_isolated._storage.sessions import reading
from langmem_isolated._storage.sessions.listing import session_digest
from langmem_isolated.errors import RecordDoesNotOpen

# Fewer bytes stand in any file by chance.
SHORTEST_BYTES = 8
# A database's page may cut a text in two, or zeros may follow half of it: it is searched in pieces.
PIECE_BYTES = 32

_FILES = ("", "-wal", "-shm", "-journal")
_records, _sessions_table = schema.records, schema.sessions


def is_searchable(text: str) -> bool:
    """Whether ``text`` is long enough to be found only where it stands."""
    return len(text.encode()) >= SHORTEST_BYTES


def pieces_of(texts: Iterable[str]) -> set[bytes]:
    """Each text as a database may hold it (UTF-8, UTF-16, JSON's escapes), in pieces of 8 to 32."""
    spellings = {
        spelt
        for text in texts
        for spelt in (text.encode(), text.encode("utf-16-le"), json.dumps(text)[1:-1].encode())
    }
    windows = (spelt[at : at + PIECE_BYTES] for spelt in spellings for at in _starts(len(spelt)))
    return {window for window in windows if len(window) >= SHORTEST_BYTES}


def _starts(length: int) -> set[int]:
    return {*range(0, length, PIECE_BYTES), max(0, length - PIECE_BYTES)}


def found_in(haystack: bytes, pieces: Iterable[bytes]) -> set[bytes]:
    """Those of ``pieces`` that stand in ``haystack``; in one pass, some 100 ns a byte."""
    by_start: dict[bytes, list[bytes]] = defaultdict(list)
    for piece in pieces:
        by_start[piece[:SHORTEST_BYTES]].append(piece)
    return {
        piece
        for at in range(len(haystack) - SHORTEST_BYTES + 1)
        for piece in by_start.get(haystack[at : at + SHORTEST_BYTES], ())
        if haystack.startswith(piece, at)
    }


def stored(database: Database) -> dict[str, bytes]:
    """All that the database keeps, by name: SQLite's files as they are, else each table's rows."""
    if not database.is_postgres and (path := _file_of(database)):
        files = [path.with_name(path.name + suffix) for suffix in _FILES]
        return {file.name: file.read_bytes() for file in files if file.exists()}
    return database.inspect(_all_rows)


def _file_of(database: Database) -> Path | None:
    name = database.inspect(lambda c: c.exec_driver_sql("PRAGMA database_list").all())[0][2]
    return Path(name) if name else None


def _all_rows(connection: Any) -> dict[str, bytes]:
    return {
        f"table {table.name}": b"\n".join(
            value if isinstance(value, bytes) else str(value).encode()
            for row in connection.execute(table.select())
            for value in row
        )
        for table in schema.metadata.sorted_tables
    }


def unprotected(pieces: set[bytes]) -> bytes:
    """An SQLite file that holds ``pieces`` as they are: what a search must be able to find."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE TABLE messages (content BLOB)")
        connection.executemany("INSERT INTO messages VALUES (?)", [(piece,) for piece in pieces])
        connection.commit()
        return connection.serialize()


class Rows(NamedTuple):
    """The rows of one session, as its owner's keys find them."""

    keys: ScopeKeys
    session_id: str

    @property
    def digest(self) -> bytes:
        """By what the tables know the session."""
        return session_digest(self.keys, self.session_id)

    @property
    def messages(self) -> Any:
        """Picks the rows of its messages."""
        column = _records.c
        return (
            (column.scope_id == self.keys.scope_id)
            & (column.kind == int(Kind.MESSAGE))
            & (column.parent == self.digest)
        )

    @property
    def session(self) -> Any:
        """Picks its own row."""
        column = _sessions_table.c
        return (
            (column.scope_id == self.keys.scope_id)
            & (column.kind == int(Kind.SESSION))
            & (column.digest == self.digest)
        )

    def message_keys(self, connection: Any) -> list[bytes]:
        """The sequence numbers of its messages, oldest first."""
        query = _records.select().with_only_columns(_records.c.key).where(self.messages)
        return list(connection.scalars(query.order_by(_records.c.key)))


Harm = Callable[[Any, Rows, Rows], None]


def read_after(database: Database, harm: Harm, victim: Rows, reader: Rows) -> int | str:
    """Let the reader load its session after ``harm``, in a transaction that is rolled back.

    Returns:
        How many messages it gets, or why it is refused.
    """

    def attempt(connection: Any) -> int | str:
        connection.exec_driver_sql("BEGIN")
        try:
            harm(connection, victim, reader)
            transaction = Transaction(database.statements, connection.connection.dbapi_connection)
            return len(reading.load(transaction, reader.keys, reader.session_id, now()).messages)
        except RecordDoesNotOpen as error:
            return error.reason
        finally:
            connection.exec_driver_sql("ROLLBACK")

    return database.inspect(attempt)


def leave_alone(_: Any, __: Rows, ___: Rows) -> None:
    """Do nothing: what a read gives then shows that the others fail for what they did."""


def move_message(connection: Any, victim: Rows, reader: Rows) -> None:
    """Put the victim's first message in the place of the reader's first."""
    taken, wanted = reader.message_keys(connection)[0], victim.message_keys(connection)[0]
    connection.execute(_records.delete().where(reader.messages, _records.c.key == taken))
    picked = victim.messages & (_records.c.key == wanted)
    _move(connection, _records, picked, **_messages_of(reader), key=taken)


def move_session(connection: Any, victim: Rows, reader: Rows) -> None:
    """Put the victim's whole session in the place of the reader's."""
    connection.execute(_records.delete().where(reader.messages))
    connection.execute(_sessions_table.delete().where(reader.session))
    row = {"scope_id": reader.keys.scope_id, "digest": reader.digest}
    _move(connection, _sessions_table, victim.session, **row)
    _move(connection, _records, victim.messages, **_messages_of(reader))


def _messages_of(reader: Rows) -> dict[str, bytes]:
    return {"scope_id": reader.keys.scope_id, "parent": reader.digest}


def _move(connection: Any, table: Any, picked: Any, **address: bytes) -> None:
    """Put rows at another address: a copy, and the rows deleted.

    Not an update of ``scope_id``, by which the rows have their shard: Citus refuses that.
    """
    found = [
        {**row, **address} for row in connection.execute(table.select().where(picked)).mappings()
    ]
    connection.execute(table.delete().where(picked))
    connection.execute(table.insert(), found)


def flip_bit(connection: Any, _: Rows, reader: Rows) -> None:
    """Change one bit of the reader's first message."""
    first = (reader.messages, _records.c.key == reader.message_keys(connection)[0])
    sealed = connection.scalar(_records.select().with_only_columns(_records.c.sealed).where(*first))
    changed = sealed[:-1] + bytes([sealed[-1] ^ 1])
    connection.execute(_records.update().where(*first).values(sealed=changed))


def cut_end(connection: Any, _: Rows, reader: Rows) -> None:
    """Remove the reader's newest message."""
    newest = reader.message_keys(connection)[-1]
    connection.execute(_records.delete().where(reader.messages, _records.c.key == newest))
