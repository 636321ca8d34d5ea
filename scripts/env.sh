# Where things are, for the other scripts to source. Nothing here does any work.
PGRX_VERSION=0.18.1
# Servers run as an ordinary user, so what they execute cannot live in root's home directory.
PG_CACHE=${PGTRICKLE_CACHE:-/var/cache/pg_trickle}
export PGRX_HOME=${PGRX_HOME:-$HOME/.pgrx}

# The major versions that are built and tested.
read -ra PG_VERSIONS <<<"${PGTEST_VERSIONS:-15 18}"

pg_config_of() {
    case $1 in
        15) echo /usr/lib/postgresql/15/bin/pg_config ;;
        *) echo "$PG_CACHE/pg$1/bin/pg_config" ;;
    esac
}

# PostgreSQL finds its files relative to its executable, so a copy of an installation is an installation. Each
# checkout has its own, with its own build of the extension in it: nobody needs root, nobody overwrites another's.
tree_of() {
    echo "$PG_CACHE/trees/$(echo -n "$here" | cksum | cut -d ' ' -f 1)/$1"
}
