"""Row-level security: PostgreSQL itself refuses who forgot the scope, and who names another's."""

import re
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest

from langmem_isolated import IsolatedMemory, LocalRootKey
from langmem_isolated._database import row_level_security, schema
from langmem_isolated._database.admission import SETTING, Admission, array_literal
from langmem_isolated._database.database import Database
from langmem_isolated._database.roles import Roles
from langmem_isolated._database.row_level_security import POLICIES
from langmem_isolated._database.transactions import Transaction
from langmem_isolated.errors import DatabaseError, RowLevelSecurityError
from tests import served
from tests.command_line import run, words
from tests.conftest import ROOT_KEY, new_postgres_url
from tests.postgres import PostgresServer
from tests.served import ROLES, as_role

# What a statement without the setting is refused by: it is missing, or empty since it was local.
UNSET = (psycopg.errors.UndefinedObject, psycopg.errors.InvalidTextRepresentation)
# Tables of nobody's rows: ids, and where chains end.
OF_NOBODY = {"installation", "audit_chains"}
TABLES = sorted(schema.metadata.tables)
OF_SOMEBODY = [table for table in TABLES if table not in OF_NOBODY]
SPACE = schema.POSTGRES_SCHEMA


@pytest.fixture
def bound_url(postgres: PostgresServer, postgres_url: str) -> str:
    """A database under row-level security, by the application's role."""
    name = postgres_url.rpartition("/")[2]
    if not served.IS_BOUND:
        served.make_bound(postgres, name)
    return postgres.url(name, ROLES.application)


@pytest.fixture(scope="module")
def filled(postgres: PostgresServer) -> Iterator[IsolatedMemory]:
    """Two users who have written, one of whom was there before; under the application's role."""
    url = new_postgres_url(postgres)
    name = url.rpartition("/")[2]
    if not served.IS_BOUND:
        served.make_bound(postgres, name)
    bound = postgres.url(name, ROLES.application)
    with IsolatedMemory(
        bound,
        root_key=LocalRootKey(ROOT_KEY),
        row_level_security="required",
        jobs_url=as_role(bound, ROLES.sweeper),
    ) as memory:
        for user in ("alice", "bob"):
            scope = memory.scope(user_id=user, module_id="tutor")
            scope.chat_history("monday").add_user_message(f"I am {user}")
            scope.store().put(("facts",), "one", {"text": user})
        carol = memory.scope(user_id="carol", module_id="tutor")
        carol.chat_history("m").add_user_message("Hi")
        memory.erase_user("carol")
        yield memory


@pytest.fixture
def filled_url(filled: IsolatedMemory) -> str:
    return filled._database.url.render_as_string().replace("+psycopg", "")


@pytest.fixture
def application(filled_url: str) -> Iterator[psycopg.Connection]:
    """A connection of the application's role, for raw SQL."""
    with psycopg.connect(filled_url, autocommit=True) as connection:
        yield connection


def ids_of(memory: IsolatedMemory, user: str) -> frozenset[bytes]:
    records = memory.scope(user_id=user, module_id="tutor")._records
    records.keys()
    return frozenset(records.admission()._ids or ())


def admitted(connection: psycopg.Connection, ids: frozenset[bytes]) -> None:
    connection.execute("SELECT set_config(%s, %s, true)", [SETTING, array_literal(ids)])


def test_every_table_has_policies():
    assert set(POLICIES) == set(schema.metadata.tables)


@pytest.mark.parametrize("table", OF_SOMEBODY)
def test_a_statement_that_forgot_the_scope_is_an_error_and_no_empty_memory(
    filled: IsolatedMemory, application: psycopg.Connection, table: str
):
    statements = [
        f"SELECT * FROM {SPACE}.{table}",
        f"SELECT count(*) FROM {SPACE}.{table} WHERE false OR random() < 2",
        *([f"DELETE FROM {SPACE}.{table}"] if table != "audit" else []),
    ]

    for _ in range(2):
        for statement in statements:
            with pytest.raises(UNSET):
                application.execute(statement)
        with application.transaction():
            # Behind a transaction that had it, the setting is there, and empty.
            admitted(application, frozenset())


def test_a_prepared_statement_that_forgot_the_scope_is_refused_too(
    filled: IsolatedMemory, application: psycopg.Connection
):
    asked = f"SELECT * FROM {SPACE}.records WHERE scope_id = %s"
    with application.transaction():
        admitted(application, ids_of(filled, "alice"))
        for _ in range(12):
            application.execute(asked, [bytes(16)], prepare=True)

    for who in (bytes(16), *ids_of(filled, "alice")):
        with pytest.raises(UNSET):
            application.execute(asked, [who], prepare=True)


@pytest.mark.parametrize("table", OF_SOMEBODY)
def test_with_a_scope_only_its_rows_are_seen_changed_and_removed(
    filled: IsolatedMemory, application: psycopg.Connection, filled_url: str, table: str
):
    column = "scope_id" if "scope_id" in schema.metadata.tables[table].c else "principal"
    ids = ids_of(filled, "alice")
    with psycopg.connect(as_role(filled_url, "postgres")) as superuser:
        all_ids = superuser.execute(f"SELECT {column} FROM {SPACE}.{table}").fetchall()
    own = [one for (one,) in all_ids if one in ids]

    with application.transaction(force_rollback=True):
        admitted(application, ids)
        seen = application.execute(f"SELECT {column} FROM {SPACE}.{table}").fetchall()
        if table != "audit":
            changed = application.execute(f"UPDATE {SPACE}.{table} SET {column} = {column}")
            assert changed.rowcount == len(own)

    assert sorted(one for (one,) in seen) == sorted(own)
    if table not in ("tombstones", "erasures", "audit", "key_uses"):
        assert 0 < len(own) < len(all_ids)


@pytest.mark.parametrize("how", ["", " ON CONFLICT DO NOTHING"])
@pytest.mark.parametrize("table", ["records", "sessions", "scopes", "keys", "key_sets", "usage"])
def test_a_row_is_not_put_into_another_scope(
    filled: IsolatedMemory,
    application: psycopg.Connection,
    filled_url: str,
    table: str,
    how: str,
):
    columns = [column.name for column in schema.metadata.tables[table].columns]
    row = one_of_bob(filled, filled_url, table, ", ".join(columns))
    insert = f"INSERT INTO {SPACE}.{table} VALUES ({', '.join(['%s'] * len(columns))}){how}"

    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
        as_alice(filled, application, insert, row)


@pytest.mark.parametrize("table", ["records", "sessions", "scopes", "keys", "key_sets", "usage"])
def test_a_row_is_not_moved_into_another_scope(
    filled: IsolatedMemory, application: psycopg.Connection, filled_url: str, table: str
):
    names = schema.metadata.tables[table].c.keys()
    ids = [name for name in ("scope_id", "principal") if name in names]
    foreign = one_of_bob(filled, filled_url, table, ", ".join(ids))
    move = f"UPDATE {SPACE}.{table} SET {', '.join(f'{name} = %s' for name in ids)}"

    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
        as_alice(filled, application, move, foreign)


def one_of_bob(filled: IsolatedMemory, url: str, table: str, columns: str) -> list[Any]:
    """The columns of a row that is bob's and not alice's."""
    column = "scope_id" if "scope_id" in schema.metadata.tables[table].c else "principal"
    others = ids_of(filled, "bob") - ids_of(filled, "alice")
    with psycopg.connect(as_role(url, "postgres")) as superuser:
        row = superuser.execute(
            f"SELECT {columns} FROM {SPACE}.{table} WHERE {column} = ANY (%s) LIMIT 1",
            [list(others)],
        ).fetchone()
    assert row is not None
    return [*row]


def as_alice(
    filled: IsolatedMemory, application: psycopg.Connection, statement: str, values: list[Any]
) -> None:
    """Run a statement with the admission of alice's transactions."""
    with application.transaction():
        admitted(application, ids_of(filled, "alice"))
        application.execute(statement, values)


_DEFINER = (
    "CREATE FUNCTION pg_temp.all_of_it() RETURNS bigint LANGUAGE sql SECURITY DEFINER AS "
    f"'SELECT count(*) FROM {SPACE}.records'; SELECT pg_temp.all_of_it()"
)


@pytest.mark.parametrize(
    ("attack", "refused"),
    [
        (f"COPY {SPACE}.records FROM STDIN", psycopg.errors.FeatureNotSupported),
        (f"COPY {SPACE}.records TO STDOUT", UNSET),
        (f"TRUNCATE {SPACE}.records", psycopg.errors.InsufficientPrivilege),
        (f"ALTER TABLE {SPACE}.records DISABLE ROW LEVEL SECURITY", psycopg.errors.Error),
        (f"ALTER TABLE {SPACE}.records NO FORCE ROW LEVEL SECURITY", psycopg.errors.Error),
        (f"DROP POLICY langmem_0 ON {SPACE}.records", psycopg.errors.InsufficientPrivilege),
        (
            f"CREATE POLICY mine ON {SPACE}.records USING (true)",
            psycopg.errors.InsufficientPrivilege,
        ),
        (f"SET row_security = off; SELECT * FROM {SPACE}.records", psycopg.errors.Error),
        (f"SET ROLE {ROLES.owner}", psycopg.errors.InsufficientPrivilege),
        (f"SET ROLE {ROLES.sweeper}", psycopg.errors.InsufficientPrivilege),
        ("SET SESSION AUTHORIZATION postgres", psycopg.errors.InsufficientPrivilege),
        (f"CREATE VIEW {SPACE}.all_of_it AS SELECT 1", psycopg.errors.InsufficientPrivilege),
        (
            f"CREATE TEMP VIEW all_of_it AS SELECT * FROM {SPACE}.records; SELECT * FROM all_of_it",
            UNSET,
        ),
        (_DEFINER, UNSET),
        (f"INSERT INTO {SPACE}.installation VALUES (2, 1, 'x')", psycopg.errors.Error),
    ],
)
def test_what_goes_around_policies_is_refused(
    filled: IsolatedMemory, application: psycopg.Connection, attack: str, refused: Any
):
    def attempt() -> None:
        with application.cursor() as cursor:
            if attack.startswith("COPY"):
                with cursor.copy(attack) as copy:
                    copy.read() if "TO STDOUT" in attack else copy.write(b"")
            else:
                cursor.execute(attack)

    with pytest.raises(refused):
        attempt()


def test_nobody_but_an_upgrade_changes_the_row_of_the_installation(
    filled: IsolatedMemory, application: psycopg.Connection
):
    for attack in (
        f"UPDATE {SPACE}.installation SET directory_id = NULL",
        f"UPDATE {SPACE}.installation SET version = 9",
        f"DELETE FROM {SPACE}.installation",
    ):
        assert application.execute(attack).rowcount == 0


def test_the_owner_of_the_tables_is_bound_too(filled: IsolatedMemory, filled_url: str):
    with (
        psycopg.connect(as_role(filled_url, ROLES.owner), autocommit=True) as owner,
        pytest.raises(UNSET),
    ):
        owner.execute(f"SELECT * FROM {SPACE}.records")


def test_a_dump_is_taken_by_the_role_for_backups_and_by_no_other(
    filled: IsolatedMemory, filled_url: str
):
    with psycopg.connect(as_role(filled_url, ROLES.backup), autocommit=True) as backup:
        backup.execute("SET row_security = off")
        assert backup.execute(f"SELECT count(*) FROM {SPACE}.records").fetchone() != (0,)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            backup.execute(f"DELETE FROM {SPACE}.records")
    with psycopg.connect(as_role(filled_url, ROLES.owner), autocommit=True) as owner:
        owner.execute("SET row_security = off")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
            owner.execute(f"SELECT * FROM {SPACE}.records")


def test_an_operation_of_ours_without_an_admission_is_told_so(filled: IsolatedMemory):
    asked = schema.records.select()

    with pytest.raises(RowLevelSecurityError, match="rls status"):
        filled._database.read(Transaction.rows, asked)
    with pytest.raises(RowLevelSecurityError), Admission():
        filled._database.write(Transaction.rows, asked)


def test_a_role_that_is_not_bound_is_refused_at_the_start(bound_url: str, root_key: LocalRootKey):
    superuser = as_role(bound_url, "postgres")

    with (
        pytest.raises(RowLevelSecurityError, match="does not bind the role"),
        IsolatedMemory(superuser, root_key=root_key),
    ):
        pass


def test_a_table_that_lost_its_policy_or_its_force_is_noticed_at_the_start(
    bound_url: str, root_key: LocalRootKey
):
    with psycopg.connect(as_role(bound_url, "postgres"), autocommit=True) as superuser:
        superuser.execute(f"ALTER TABLE {SPACE}.keys NO FORCE ROW LEVEL SECURITY")
        superuser.execute(f"DROP POLICY langmem_0 ON {SPACE}.sessions")

    with (
        pytest.raises(RowLevelSecurityError, match="not in force on keys, sessions"),
        IsolatedMemory(bound_url, root_key=root_key),
    ):
        pass


@pytest.mark.parametrize(
    ("table", "policy"),
    [
        ("sessions", "CREATE POLICY reports ON {} FOR SELECT USING (true)"),
        ("records", "CREATE POLICY reports ON {} USING (created_at > 0)"),
        ("keys", "CREATE POLICY reports ON {} TO langmem_app USING (principal IS NOT NULL)"),
        ("sessions", "ALTER POLICY langmem_0 ON {} USING (true)"),
        ("usage", "ALTER POLICY langmem_0 ON {} WITH CHECK (true)"),
        ("keys", "ALTER POLICY langmem_jobs ON {} TO PUBLIC"),
    ],
)
def test_a_policy_that_admits_to_more_is_noticed_at_the_start(
    bound_url: str, root_key: LocalRootKey, table: str, policy: str
):
    with psycopg.connect(as_role(bound_url, "postgres"), autocommit=True) as superuser:
        superuser.execute(policy.format(f"{SPACE}.{table}"))

    with (
        pytest.raises(RowLevelSecurityError, match=f"other policies .* rows of {table}: drop"),
        IsolatedMemory(bound_url, root_key=root_key),
    ):
        pass


def test_policies_that_only_narrow_or_are_for_others_are_served(
    bound_url: str, root_key: LocalRootKey
):
    with psycopg.connect(as_role(bound_url, "postgres"), autocommit=True) as superuser:
        superuser.execute(f"CREATE POLICY a ON {SPACE}.keys AS RESTRICTIVE USING (true)")
        superuser.execute(f"CREATE POLICY b ON {SPACE}.usage TO {ROLES.backup} USING (true)")

    with IsolatedMemory(bound_url, root_key=root_key, row_level_security="required") as memory:
        scope = memory.scope(user_id="alice", module_id="tutor")
        scope.chat_history("monday").add_user_message("Hi")
        assert len(scope.chat_history("monday").messages) == 1


def test_where_it_is_required_a_database_without_is_not_served(
    database_url: str, root_key: LocalRootKey
):
    if served.IS_BOUND:
        pytest.skip("every database has it in this run")
    with (
        pytest.raises(RowLevelSecurityError, match="is required"),
        IsolatedMemory(database_url, root_key=root_key, row_level_security="required"),
    ):
        pass


def test_what_else_row_level_security_may_be_is_refused(root_key: LocalRootKey):
    with pytest.raises(ValueError, match="another str"):
        IsolatedMemory("sqlite://", root_key=root_key, row_level_security="on")  # type: ignore[arg-type]
    with pytest.raises(DatabaseError, match="same PostgreSQL database"):
        IsolatedMemory("sqlite://", root_key=root_key, jobs_url="sqlite://")


def test_jobs_over_all_scopes_want_a_role_of_their_own(bound_url: str, root_key: LocalRootKey):
    init = getattr(IsolatedMemory.__init__, "__wrapped__", IsolatedMemory.__init__)
    memory = IsolatedMemory.__new__(IsolatedMemory)
    init(memory, bound_url, root_key=root_key)
    jobs: list[Callable[[], object]] = [memory.sweep, memory.stats]
    with memory:
        alice = memory.scope(user_id="alice", module_id="tutor")
        alice.chat_history("monday").add_user_message("Hi")
        for job in jobs:
            with pytest.raises(RowLevelSecurityError, match="jobs_url"):
                job()
        assert alice.stats().total.messages == 1
        receipt = memory.erase_user("alice")
        assert receipt.is_finished
        assert receipt.horizon == "open"
        assert receipt.store_hash_before == receipt.store_hash_after == ""


def test_operators_jobs_run_under_the_role_for_jobs(filled: IsolatedMemory):
    dave = filled.scope(user_id="dave", module_id="tutor")
    dave.chat_history("monday").add_user_message("Hi")
    assert filled.stats().total.messages == 3
    assert filled.sweep().is_done
    assert filled.erase_user("dave").store_hash_before


def test_commands_enable_tell_and_disable(postgres: PostgresServer, postgres_url: str):
    if served.IS_BOUND:
        pytest.skip("it is enabled in this run")
    url = postgres_url
    with psycopg.connect(url, autocommit=True) as superuser:
        superuser.execute(run("schema", "roles").stdout)
    owner, application = (as_role(url, role) for role in (ROLES.owner, ROLES.application))

    assert run("rls", "status", "--database", application).exit_code == 0
    assert run("rls", "enable", "--database", application).exit_code == 1
    enabled = run("rls", "enable", "--database", owner)
    assert enabled.exit_code == 0, enabled.output
    told = words(run("rls", "status", "--database", application).stdout)
    assert "in force for this role yes" in told
    assert f"roles of jobs {ROLES.sweeper}" in told
    assert run("rls", "status", "--database", url).exit_code == 1
    examined = run("doctor", "--database", application)
    assert examined.exit_code == 0, examined.output
    warned = [line for line in examined.stdout.splitlines() if re.search(r" (warn|fail) ", line)]
    # The server of the tests does not wait for the disk, and nothing was stored yet.
    assert [line.split()[:2] for line in warned] == [["database:", "fsync"], ["root", "key"]]
    assert run("rls", "disable", "--database", owner).exit_code == 0
    with closing(Database(application)) as database:
        assert not row_level_security.status(database).is_enabled


def test_the_script_of_roles_may_be_run_again_and_names_what_it_is_given(
    postgres: PostgresServer, postgres_url: str
):
    script = Roles(application='a "strange" name').script()

    with psycopg.connect(served.at_the_server(postgres_url), autocommit=True) as superuser:
        superuser.execute(script)
        superuser.execute(script)
        superuser.execute('DROP OWNED BY "a ""strange"" name"; DROP ROLE "a ""strange"" name"')
    assert "TRUNCATE" not in script


def test_a_role_that_is_not_there_is_not_given_jobs(bound_url: str):
    with (
        closing(Database(as_role(bound_url, ROLES.owner))) as database,
        pytest.raises(RowLevelSecurityError, match="is not there"),
    ):
        row_level_security.enable(database, jobs_role="nobody_at_all")
    with pytest.raises(DatabaseError, match="is SQLite"):
        row_level_security.enable(Database("sqlite://"))
