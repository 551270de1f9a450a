"""Engines of SQLAlchemy: a dialect's connections in a pool of ours."""

from typing import cast

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import URL

from langmem_isolated._database.connection_pool import ConnectionPool
from langmem_isolated._database.dialects import AnyDialect, Postgres
from langmem_isolated._database.files import make_private


def engine_of(url: URL, dialect: AnyDialect, pool_size: int, timeout: float) -> Engine:
    """An engine whose connections are as ``dialect`` wants them.

    Args:
        url: As the driver takes it.
        dialect: What the database wants.
        pool_size: Connections; fewer where the dialect can have no more.
        timeout: Seconds to wait for one.
    """
    engine = create_engine(
        url,
        poolclass=ConnectionPool,
        isolation_level="AUTOCOMMIT",
        max_overflow=0,
        pool_timeout=timeout,
        # The connection used last has its pages and prepared statements warm.
        pool_use_lifo=True,
        # A transaction ends before its connection goes back, or the connection does not.
        pool_reset_on_return=None,
        hide_parameters=True,
        **dialect.engine_options(pool_size),
    )
    if dialect.translation:
        engine = engine.execution_options(**dialect.translation)
    event.listen(engine, "connect", lambda raw, _: dialect.prepare(raw))
    if isinstance(dialect, Postgres):
        event.listen(engine, "do_connect", dialect.connect)
        event.listen(engine, "checkout", dialect.pre_ping)
        cast("ConnectionPool", engine.pool).is_usable = dialect.is_usable
    else:
        event.listen(engine, "do_connect", make_private)
    return engine
