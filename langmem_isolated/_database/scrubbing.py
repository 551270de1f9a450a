"""Scrubbing: a SQLite file without a byte of what was removed from it."""

from sqlalchemy import Connection, exc

_TRUNCATE = "PRAGMA wal_checkpoint(TRUNCATE)"
_SIZE = "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()"
# For readers to end; whoever reads longer is not waited for.
_TRUNCATE_WAIT = "PRAGMA busy_timeout = 1000"


def scrubbed(connection: Connection, most_bytes: int | None) -> bool:
    """Write what lives anew and empty the log; whether that is done. See `Database.scrub`."""
    if most_bytes is not None and connection.exec_driver_sql(_SIZE).scalar_one() > most_bytes:
        return False
    try:
        connection.exec_driver_sql("VACUUM")
    except exc.OperationalError:
        # Somebody writes for longer than one waits, or the disk has no room for a second file.
        return False
    return _truncated(connection)


def _truncated(connection: Connection) -> bool:
    wait = connection.exec_driver_sql("PRAGMA busy_timeout").scalar_one()
    connection.exec_driver_sql(_TRUNCATE_WAIT)
    try:
        busy, *_ = connection.exec_driver_sql(_TRUNCATE).one()
    except exc.OperationalError:
        # Somebody else truncates it, or a snapshot is being read.
        return False
    finally:
        connection.exec_driver_sql(f"PRAGMA busy_timeout = {int(wait)}")
    return bool(busy == 0)
