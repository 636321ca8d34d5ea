#!/usr/bin/env bash
# Completes the update script to the current version in a directory of extension files, with the version to start from: what changes in the tables is in
# sql/, all functions and views are those of the full script.
#   scripts/update_script.sh "$(pg_config --sharedir)/extension"
set -euo pipefail

dir=${1:?usage: scripts/update_script.sh DIRECTORY}
here=$(cd "$(dirname "$0")/.." && pwd)
update=pg_trickle--0.58.0--0.59.0.sql
{
    cat "$here/sql/$update"
    echo
    sed '1,/^-- End of the catalog\.$/d; /^\/\* <\/end connected objects> \*\/$/d' "$dir/pg_trickle--0.59.0.sql"
} >"$dir/.$update"
mv "$dir/.$update" "$dir/$update"
cp "$here/sql/pg_trickle--0.58.0.sql" "$dir/"
