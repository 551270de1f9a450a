#!/bin/sh
# Gives the roles of roles.sql their passwords, from the secrets; run by PostgreSQL's image once.
set -eu
secrets=${SECRETS:-/run/secrets}
for role in owner sweeper app; do
  # Quoted by psql, and read by it: no argument of a process has the password, and no log of the
  # server.
  psql --quiet --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" <<SQL
SET log_statement = 'none';
\\set password \`cat "$secrets/${role}_password"\`
ALTER ROLE langmem_$role PASSWORD :'password';
SQL
done
# Nobody else may so much as connect.
psql --quiet --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" \
  --command "REVOKE ALL ON DATABASE \"$POSTGRES_DB\" FROM PUBLIC" \
  --command "GRANT CONNECT ON DATABASE \"$POSTGRES_DB\" TO langmem_owner, langmem_sweeper, langmem_app, langmem_backup"
