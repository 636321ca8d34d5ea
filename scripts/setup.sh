#!/usr/bin/env bash
# Installs what building and testing pg_trickle needs on a Debian 12 machine. Every step is skipped when already done.
#   Debian packages, cargo-pgrx, and PostgreSQL 18 built from Debian's source package.
#   PGTEST_VERSIONS="15 17 18" scripts/setup.sh   PostgreSQL 17 as well
set -euo pipefail

here=$(cd "$(dirname "$0")/.." && pwd)
source "$here/scripts/env.sh"

step() { printf '== %s\n' "$*"; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

packages=(
    build-essential pkg-config dpkg-dev ca-certificates bison flex perl
    libclang-dev clang libreadline-dev zlib1g-dev liblz4-dev libzstd-dev libssl-dev libxml2-dev
    postgresql-15 postgresql-server-dev-15 postgresql-15-wal2json
    chromium
)

apt_updated=
apt_update() {
    [ -n "$apt_updated" ] || as_root apt-get update -qq
    apt_updated=yes
}

install_packages() {
    local missing=() p
    for p in "${packages[@]}"; do
        dpkg-query -W -f='${db:Status-Status}\n' "$p" 2>/dev/null | grep -qx installed || missing+=("$p")
    done
    # Client-only machines carry an older minor of the client beside which the server does not install cleanly.
    [ ${#missing[@]} = 0 ] && return
    step "installing Debian packages: ${missing[*]}"
    apt_update
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# Only the programs: an installed package would run a Prometheus of its own.
unpack_prometheus() {
    [ -x "$PG_CACHE/prometheus/promtool" ] && return
    step "unpacking Debian's prometheus"
    as_root install -d -m 755 -o "$(id -un)" "$PG_CACHE"
    local work
    work=$(mktemp -d "$PG_CACHE/unpack.XXXXXX")
    trap "rm -rf '$work'" EXIT
    apt_update
    (cd "$work" && apt-get -qq -o APT::Sandbox::User= download prometheus && dpkg-deb -x prometheus_*.deb .)
    mkdir -p "$PG_CACHE/prometheus"
    mv "$work"/usr/bin/prometheus "$work"/usr/bin/promtool "$PG_CACHE/prometheus/"
    rm -rf "$work"
}

install_cargo_pgrx() {
    local have
    have=$(cargo pgrx --version 2>/dev/null || true)
    [ "$have" = "cargo-pgrx $PGRX_VERSION" ] && return
    step "installing cargo-pgrx $PGRX_VERSION (about four minutes)"
    cargo install --quiet cargo-pgrx --version "$PGRX_VERSION" --locked
}

# The mirror and its components come from the machine's own apt configuration; only the suite differs.
source_list_for() {
    local suite=$1 uri
    uri=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -v security | sort -u | head -n 1)
    [ -n "$uri" ] || { echo "no apt repository is configured on this machine" >&2; exit 1; }
    local keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    echo "deb-src [signed-by=$keyring] $uri $suite main"
}

build_postgres() {
    local major=$1 suite=$2 prefix=$PG_CACHE/pg$1
    [ -x "$prefix/bin/pg_config" ] && [ -e "$prefix/.complete" ] && return
    step "building PostgreSQL $major from the source package of Debian $suite (about three minutes)"
    as_root install -d -m 755 -o "$(id -un)" "$PG_CACHE"
    local work
    work=$(mktemp -d "$PG_CACHE/build.XXXXXX")
    trap "rm -rf '$work'" EXIT
    mkdir -p "$work"/{lists/partial,cache,src}
    source_list_for "$suite" >"$work/sources.list"
    local opts=(-o "Dir::Etc::SourceList=$work/sources.list" -o Dir::Etc::SourceParts=/dev/null
        -o "Dir::State::Lists=$work/lists" -o "Dir::Cache=$work/cache" -o APT::Sandbox::User=)
    apt-get "${opts[@]}" update -qq
    (cd "$work/src" && apt-get "${opts[@]}" source -qq --download-only "postgresql-$major")
    tar -C "$work/src" -xf "$work"/src/postgresql-"$major"_*.orig.tar.*[2z]
    (
        cd "$work"/src/postgresql-"$major"*/
        ./configure --quiet --prefix="$prefix" --without-icu --with-lz4 --with-zstd --with-openssl --with-libxml
        make -j"$(nproc)" -s world-bin >"$work/make.log" 2>&1 || { tail -n 40 "$work/make.log"; exit 1; }
        make -s install-world-bin >"$work/install.log" 2>&1
    )
    touch "$prefix/.complete"
    rm -rf "$work"
}

# The Debian suite whose source package a major version is built from; 15 is this machine's own package.
suite_of() {
    case $1 in
        17) echo trixie ;;
        18) echo forky ;;
        *) echo "no Debian suite is known for PostgreSQL $1" >&2; exit 1 ;;
    esac
}

register() {
    local major missing=() all=()
    for major in "${PG_VERSIONS[@]}"; do
        all+=("--pg$major" "$(pg_config_of "$major")")
        grep -qs "^pg$major" "$PGRX_HOME/config.toml" || missing+=("$major")
    done
    [ ${#missing[@]} = 0 ] && return
    step "registering PostgreSQL ${PG_VERSIONS[*]} with cargo-pgrx"
    cargo pgrx init "${all[@]}" >/dev/null
}

install_packages
unpack_prometheus
for major in "${PG_VERSIONS[@]}"; do
    [ "$major" = 15 ] || build_postgres "$major" "$(suite_of "$major")"
done
install_cargo_pgrx
register
