"""Roles: the SQL that makes PostgreSQL roles with no more rights than each needs."""

from typing import NamedTuple

from langmem_isolated._database import schema
from langmem_isolated._database.row_level_security import JOBS_ROLE, quoted

_CHANGES = "SELECT, INSERT, UPDATE, DELETE"
_READS = "SELECT"
_SPACE = schema.POSTGRES_SCHEMA


class Roles(NamedTuple):
    """Names of the roles of one database."""

    owner: str = "langmem_owner"
    """Owns the tables: makes and upgrades them, and enables row-level security. Serves nobody."""
    application: str = "langmem_app"
    """Serves: one scope at a time."""
    sweeper: str = JOBS_ROLE
    """Runs operators' jobs over all scopes."""
    backup: str = "langmem_backup"
    """Reads all there is, past every policy, as ``pg_dump`` needs it; writes nothing."""

    def script(self) -> str:
        """The statements that make the roles and give them their rights, for ``psql``.

        Run by a superuser, or by who may make roles with BYPASSRLS, in the database itself, before
        the tables are made or after. How the roles log in is the operator's to say: ``ALTER ROLE …
        PASSWORD``, or ``pg_hba.conf``. Nobody is given TRUNCATE, which no policy refuses. Run
        again, it changes nothing.
        """
        return "\n".join((*self._roles(), *self._rights(), *self._tables())) + "\n"

    def _roles(self) -> list[str]:
        names = dict.fromkeys((self.owner, self.application, self.sweeper), "")
        names[self.backup] = " BYPASSRLS"
        return [
            f"DO $$ BEGIN CREATE ROLE {quoted(name)} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE"
            f"{right}; EXCEPTION WHEN duplicate_object THEN NULL; END $$;"
            for name, right in names.items()
        ]

    def _rights(self) -> list[str]:
        everyone = ", ".join(map(quoted, (self.application, self.sweeper, self.backup)))
        return [
            f"CREATE SCHEMA IF NOT EXISTS {_SPACE};",
            f"ALTER SCHEMA {_SPACE} OWNER TO {quoted(self.owner)};",
            f"REVOKE ALL ON SCHEMA {_SPACE} FROM PUBLIC;",
            f"GRANT USAGE ON SCHEMA {_SPACE} TO {everyone};",
        ]

    def _tables(self) -> list[str]:
        owner, given = quoted(self.owner), "IN SCHEMA {} GRANT {} ON TABLES TO {};"
        rights = {self.application: _CHANGES, self.sweeper: _CHANGES, self.backup: _READS}
        return [
            *(
                f"ALTER TABLE IF EXISTS {_SPACE}.{t} OWNER TO {owner};"
                for t in schema.metadata.tables
            ),
            *(
                f"GRANT {right} ON ALL TABLES IN SCHEMA {_SPACE} TO {quoted(role)};"
                for role, right in rights.items()
            ),
            *(
                f"ALTER DEFAULT PRIVILEGES FOR ROLE {owner} "
                f"{given.format(_SPACE, right, quoted(role))}"
                for role, right in rights.items()
            ),
        ]
