"""Server versions: which engine serves, by what it says of itself."""

import re
from typing import NamedTuple

# Each by what its `version()` begins with, most peculiar first. Aurora DSQL says no more than that
# it is compatible with a version of PostgreSQL, which itself also says on what it runs.
_ENGINES = (
    ("CockroachDB", re.compile(r"CockroachDB\b.*? v(\d[\w.]*)")),
    ("YugabyteDB", re.compile(r"PostgreSQL [\d.]+-YB-([\d.]+)")),
    ("Aurora DSQL", re.compile(r"PostgreSQL (\d+)$")),
    ("PostgreSQL", re.compile(r"PostgreSQL (\d[\w.]*)")),
)


class ServerVersion(NamedTuple):
    """An engine that speaks PostgreSQL's protocol, and its version."""

    engine: str
    """``PostgreSQL``, ``CockroachDB``, ``YugabyteDB``, ``Aurora DSQL``, or ``unknown``."""
    version: str
    """Its own; of Aurora DSQL that of PostgreSQL which it is compatible with."""

    @classmethod
    def of(cls, text: str) -> "ServerVersion":
        """What the answer to ``SELECT version()`` says."""
        for engine, pattern in _ENGINES:
            if found := pattern.match(text.strip()):
                return cls(engine, found[1])
        return cls("unknown", "")
