"""Clock of the database: what the server shows, whatever this process takes for the time.

A clock of the application that was set back prolongs nothing that ends by this one. On SQLite there
is no server: it is the clock of the machine, as the library asks the system for it.
"""

import sqlalchemy as sa
from sqlalchemy import select

from langmem_isolated._database.transactions import Transaction

# Literal, for what is bound would be asked for as a parameter. SQLite counts days and fractions of
# them since noon of a day in 4714 BC; 2,440,587.5 were over when 1970 began. It shows milliseconds.
_SHOWN = {
    True: "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT)",
    False: "CAST((julianday('now') - 2440587.5) * 86400000000.0 AS INTEGER)",
}
_CLOCKS = {
    is_postgres: select(sa.literal_column(shown, sa.BigInteger))
    for is_postgres, shown in _SHOWN.items()
}


def database_now(transaction: Transaction) -> int:
    """Microseconds since 1970, UTC, by the database's clock, at the moment of the call."""
    row = transaction.row(_CLOCKS[transaction.is_postgres])
    assert row is not None
    return int(row[0])
