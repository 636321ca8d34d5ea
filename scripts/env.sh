# Where things are, for the other scripts to source. Nothing here does any work.
PGRX_VERSION=0.18.1
# Servers run as an ordinary user, so what they execute cannot live in root's home directory.
PG_CACHE=${PGTRICKLE_CACHE:-/var/cache/pg_trickle}
export PGRX_HOME=${PGRX_HOME:-$HOME/.pgrx}

pg_config_of() {
    case $1 in
        15) echo /usr/lib/postgresql/15/bin/pg_config ;;
        *) echo "$PG_CACHE/pg$1/bin/pg_config" ;;
    esac
}
