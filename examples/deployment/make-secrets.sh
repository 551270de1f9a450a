#!/bin/sh
# Makes the secrets that compose.yaml mounts: passwords, a token and the root key. Run it once, as
# root, so that each file can be given to the user of the container that reads it. Keep a copy of
# langmem_root_key elsewhere: without it nothing can be read.
set -eu
umask 077
folder=${1:-$(dirname "$0")/secrets}
# Fails where it is there: a root key must not be replaced.
mkdir "$folder"
cd "$folder"

random() { head -c "$1" /dev/urandom | base64; }

random 32 > langmem_root_key
random 24 | tr '+/' '-_' > postgres_password
for role in owner sweeper app; do
  random 24 | tr '+/' '-_' > "${role}_password"
  printf 'postgres:5432:memory:langmem_%s:%s\n' "$role" "$(cat "${role}_password")" > "${role}_pgpass"
done
# The admin page asks for one user as the application does, and for everybody as the sweeper does.
cat app_pgpass sweeper_pgpass > admin_pgpass
random 32 | tr '+/' '-_' > admin_token
chmod 0400 ./*
# The numeric users of our image and of PostgreSQL's.
chown 10001:10001 langmem_root_key admin_token ./*_pgpass
chown 999:999 ./*_password
