#!/usr/bin/env bash
# Builds the extension for one PostgreSQL version and puts it into this checkout's own copy of that installation.
#   scripts/build.sh 15        PROFILE=dev scripts/build.sh 18
# Does nothing when the sources have not changed since the last time.
set -euo pipefail

here=$(cd "$(dirname "$0")/.." && pwd)
source "$here/scripts/env.sh"
cd "$here"

major=${1:?usage: scripts/build.sh PGMAJOR}
profile=${PROFILE:-release}
pg_config=$(pg_config_of "$major")
tree=$(tree_of "$major")
state=$here/target/pg_trickle
mkdir -p "$state"

fingerprint() {
    {
        echo "$profile $tree"
        "$pg_config" --version
        find src pg decoder apply engine monitoring $(ls -d sql 2>/dev/null) Cargo.toml Cargo.lock pg_trickle.control \
            -type f -not -path '*/target/*' -print0 | sort -z | xargs -0 sha256sum
    } | sha256sum
}

copy_installation() {
    local dir
    [ -e "$tree/.complete" ] && return
    rm -rf "$tree"
    for dir in --bindir --pkglibdir --sharedir; do
        dir=$("$pg_config" $dir)
        mkdir -p "$tree$dir"
        cp -a "$dir/." "$tree$dir/"
    done
    touch "$tree/.complete"
}

now=$(fingerprint)
if [ "$(cat "$state/built-$major" 2>/dev/null)" = "$now" ] && [ -e "$tree/.complete" ]; then
    exit 0
fi

printf '== building pg_trickle for PostgreSQL %s (%s)\n' "$major" "$profile"
umask 022
copy_installation
package=$state/package-$major
cargo pgrx package --pg-config "$pg_config" --profile "$profile" --no-default-features --features "pg$major" \
    --out-dir "$package" >"$state/build-$major.log" 2>&1 || { tail -n 60 "$state/build-$major.log" >&2; exit 1; }
"$here/scripts/update_script.sh" "$package$("$pg_config" --sharedir)/extension"
# A running server must keep the library that it has mapped: replace files, never write into them.
cp -a --remove-destination "$package/." "$tree/"
echo "$tree$("$pg_config" --bindir)" >"$state/bin-$major"
echo "$profile" >"$state/profile-$major"
echo "$now" >"$state/built-$major"
