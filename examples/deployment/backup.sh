#!/bin/sh
# A copy of a SQLite database each day, by VACUUM INTO, without a byte of what was deleted; old ones
# go. With the database and the root key in the environment, from cron:
#   17 3 * * * sh backup.sh /backups 30
set -eu
folder=$1
days=${2:-30}
langmem-isolated backup "$folder/memory-$(date -u +%Y-%m-%d).db" --json
# Behind the copy: where it fails, the former ones stay.
find "$folder" -maxdepth 1 -type f -name 'memory-????-??-??.db' -mtime "+$days" -delete
