"""A PostgreSQL that takes itself for a Citus cluster, and what a cluster asks of statements.

Citus itself is in no package source. Its catalogue and its functions are stood in for, so that our
detection, the printed script and the doctor run as they do there; that every statement can be sent
to one shard is read from the statements themselves, by a parser of PostgreSQL's SQL.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
import sqlglot
from sqlglot import exp

from langmem_isolated._database.distribution import SHARD_KEY, placement_of, script
from langmem_isolated._database.schema import metadata
from langmem_isolated._database.statements import CompiledStatements
from tests import served

# Citus' own names and columns, as of 14.0.
_CATALOGUE = """
SET allow_system_table_mods = on;
INSERT INTO pg_extension VALUES (999999, 'citus', 10, 11, false, '14.0-1', NULL, NULL);
CREATE TABLE pg_catalog.pg_dist_partition (logicalrelid regclass PRIMARY KEY, partmethod "char",
    partkey text, colocationid integer, repmodel "char");
CREATE TABLE pg_catalog.told_workers (command text);
CREATE FUNCTION pg_catalog.create_reference_table(table_name regclass) RETURNS void
    LANGUAGE sql AS $$ INSERT INTO pg_dist_partition VALUES (table_name, 'n', NULL, 1, 't') $$;
CREATE FUNCTION pg_catalog.create_distributed_table(table_name regclass, distribution_column text,
    distribution_type text DEFAULT 'hash', colocate_with text DEFAULT 'default') RETURNS void
    LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO pg_dist_partition SELECT table_name, 'h', distribution_column,
            CASE colocate_with WHEN 'none' THEN nextval('pg_catalog.groups') ELSE
                (SELECT colocationid FROM pg_dist_partition
                    WHERE logicalrelid = colocate_with::regclass AND partmethod = 'h') END, 's';
    END $$;
CREATE SEQUENCE pg_catalog.groups START 2;
CREATE FUNCTION pg_catalog.run_command_on_workers(command text) RETURNS void
    LANGUAGE sql AS $$ INSERT INTO told_workers VALUES (command) $$;
GRANT SELECT ON pg_dist_partition TO PUBLIC;
"""


def become_citus(url: str, *, distributed: bool = True) -> None:
    """Have a database of the tests take itself for a coordinator; its tables distributed or not."""
    with psycopg.connect(served.at_the_server(url), autocommit=True) as connection:
        connection.execute(_CATALOGUE)
        if distributed:
            connection.execute(script(30.0))


@contextmanager
def recorded() -> Iterator[list[str]]:
    """The text of every statement that transactions run, each once, in order."""
    found: list[str] = []
    compiled = CompiledStatements.compiled

    def noted(self: CompiledStatements, statement: Any) -> Any:
        sql, names = compiled(self, statement)
        if self.is_postgres and sql not in found:
            found.append(sql)
        return sql, names

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CompiledStatements, "compiled", noted)
        yield found


_WRITES = (exp.Insert, exp.Update, exp.Delete)
_QUERIES = (exp.Select, *_WRITES)
# A source of rows: the query that names it, and by what name.
_Source = tuple[int, str]


class Routing:
    """Whether a statement can be sent to one shard, and what keeps it from that.

    A table is routed if its ``scope_id`` equals a parameter, or that of a table that is routed, in
    the conditions of the query that names it. Conditions below OR or NOT do not count.
    """

    def __init__(self, sql: str) -> None:
        self._tree = sqlglot.parse_one(sql, dialect="postgres")
        self._bound: set[_Source] = set()
        self._equal: list[tuple[_Source, _Source]] = []
        for query in self._tree.find_all(*_QUERIES):
            for condition in _conditions(query):
                self._note(condition, query)
        for derived in self._tree.find_all(exp.Subquery, exp.CTE):
            self._derive(derived)
        while grown := {b for a, b in self._both_ways() if a in self._bound} - self._bound:
            self._bound |= grown

    def faults(self) -> Iterator[str]:
        """What a cluster would have to ask of several shards, or refuse."""
        for table in self._tree.find_all(exp.Table):
            if _placement(table) != "distributed":
                continue
            query = _query_of(table)
            if (
                isinstance(query, exp.Insert)
                and table.find_ancestor(exp.Schema, exp.Select)
                and (query.find(exp.Table) is table)
            ):
                yield from self._faults_of_insert(query, table)
            elif (id(query), table.alias_or_name) not in self._bound:
                yield f"{table.name} is not routed by its {SHARD_KEY}"
        if any(isinstance(cte.this, _WRITES) for cte in self._tree.find_all(exp.CTE)):
            yield "a common table expression writes"
        yield from self._other_faults()

    def tables(self) -> set[str]:
        """The tables of ours that it names."""
        named = (table.name for table in self._tree.find_all(exp.Table))
        return {name for name in named if name in metadata.tables}

    def _other_faults(self) -> Iterator[str]:
        placements = {placement_of(name) for name in self.tables()}
        if placements >= {"distributed", "local"}:
            yield "a table of the coordinator alone beside one with shards"
        for update in self._tree.find_all(exp.Update):
            if any(set_.this.name == SHARD_KEY for set_ in update.expressions):
                yield f"it updates {SHARD_KEY}"

    def _faults_of_insert(self, insert: exp.Insert, table: exp.Table) -> Iterator[str]:
        columns = [column.name for column in insert.this.expressions]
        at, source = columns.index(SHARD_KEY), insert.expression
        conflict = insert.args.get("conflict")
        if conflict and SHARD_KEY not in [key.name for key in conflict.args["conflict_keys"] or ()]:
            yield f"its conflict target lacks {SHARD_KEY}"
        if isinstance(source, exp.Values):
            for row in source.expressions:
                if not _is_parameter(row.expressions[at]):
                    yield f"{table.name} is given no parameter as its {SHARD_KEY}"
            return
        for query in _branches(source):
            given = query.expressions[at].unalias()
            name = self._source(given, query) if isinstance(given, exp.Column) else None
            if name is None or name not in self._bound:
                yield f"{table.name} takes its {SHARD_KEY} from no row of its shard"

    def _note(self, condition: exp.Expression, query: exp.Expression) -> None:
        if not isinstance(condition, exp.EQ):
            return
        sides = [_bare(condition.left), _bare(condition.right)]
        keys = [side for side in sides if isinstance(side, exp.Column) and side.name == SHARD_KEY]
        sources = [source for key in keys if (source := self._source(key, query))]
        if len(sources) == 1 and any(map(_is_parameter, sides)):
            self._bound.add(sources[0])
        elif len(sources) == 2:
            self._equal.append((sources[0], sources[1]))

    def _derive(self, derived: exp.Expression) -> None:
        """Note what a table in parentheses, or with a name, has as its ``scope_id``."""
        for query in _branches(derived.this):
            given = [one for one in query.expressions if one.alias_or_name == SHARD_KEY]
            for reader in self._tree.find_all(*_QUERIES):
                if given and derived.alias in _names(reader):
                    inner, outer = _bare(given[0].unalias()), (id(reader), derived.alias)
                    if _is_parameter(inner):
                        self._bound.add(outer)
                    elif isinstance(inner, exp.Column) and (of := self._source(inner, query)):
                        self._equal.append((of, outer))

    def _source(self, column: exp.Column, query: exp.Expression | None) -> _Source | None:
        """What a column belongs to: of the query, or of one around it."""
        while query is not None:
            if column.table in _names(query):
                return id(query), column.table
            query = query.find_ancestor(*_QUERIES)
        return None

    def _both_ways(self) -> Iterator[tuple[_Source, _Source]]:
        for one, other in self._equal:
            yield from ((one, other), (other, one))


def _query_of(table: exp.Table) -> exp.Expression:
    query = table.find_ancestor(*_QUERIES)
    assert query is not None
    return query


def _placement(table: exp.Table) -> str | None:
    return placement_of(table.name) if table.name in metadata.tables else None


def _names(query: exp.Expression) -> set[str]:
    """By what names a query itself knows sources of rows."""
    found: set[str] = set()
    for table in query.find_all(exp.Table, exp.Subquery):
        if table.find_ancestor(*_QUERIES) is query:
            found.add(table.alias_or_name)
    return found


def _conditions(query: exp.Expression) -> Iterator[exp.Expression]:
    """What must hold of every row: the parts of WHERE and of ON that stand between ANDs."""
    joins = [join.args.get("on") for join in query.args.get("joins") or []]
    # Of an UPDATE with FROM, and of a table that stands first, joins hang on the table.
    for table in query.find_all(exp.Table, exp.Subquery):
        if table.find_ancestor(*_QUERIES) is query:
            joins += [join.args.get("on") for join in table.args.get("joins") or []]
    where = query.args.get("where")
    for condition in (where and where.this, *joins):
        if condition is not None:
            yield from _conjuncts(condition)


def _conjuncts(condition: exp.Expression) -> Iterator[exp.Expression]:
    condition = condition.unnest()
    if isinstance(condition, exp.And):
        yield from _conjuncts(condition.left)
        yield from _conjuncts(condition.right)
    else:
        yield condition


def _branches(source: exp.Expression) -> Iterator[exp.Expression]:
    """The queries of a union, or the one."""
    source = source.unnest()
    if isinstance(source, exp.SetOperation):
        yield from _branches(source.left)
        yield from _branches(source.right)
    elif isinstance(source, exp.Select):
        yield source


def _bare(value: exp.Expression) -> exp.Expression:
    value = value.unnest()
    return _bare(value.this) if isinstance(value, exp.Cast) else value


def _is_parameter(value: exp.Expression) -> bool:
    return isinstance(_bare(value), exp.Parameter)
