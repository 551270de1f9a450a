"""Query plans: how SQLite goes about a statement."""

import sqlalchemy as sa

from langmem_isolated import IsolatedMemory


def query_plan(memory: IsolatedMemory, statement: sa.Executable) -> list[str]:
    """The steps that SQLite takes for a statement, without what it is asked for in each."""
    sql, names = memory._database.statements.compiled(statement)
    rows = memory._database.inspect(
        lambda connection: connection.exec_driver_sql(
            f"EXPLAIN QUERY PLAN {sql}", tuple(0 for _ in names)
        ).all()
    )
    return [str(row[-1]).split(" (")[0] for row in rows]
