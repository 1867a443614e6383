#!/bin/sh
# Build a current PgBouncer to measure against: distributions ship old ones, and prepared statements in
# transaction mode need 1.21 or newer. For Debian, Ubuntu and their relatives.
#
#   build_pgbouncer.sh [SOURCE [PREFIX]]
#
# SOURCE   a release's .tar.gz as a file or a URL, a Debian .dsc, the name of a suite ("trixie") whose
#          deb-src entry apt knows, or nothing for whatever deb-src entry is configured
# PREFIX   where bin/pgbouncer goes, $PWD/pgbouncer unless given
#
# Needs a C compiler, make, pkg-config and the headers of libevent and OpenSSL; they are installed with
# apt-get if something is missing and this runs as root. With c-ares' headers, DNS look-ups use it.
set -eu

source=${1:-}
prefix=${2:-$PWD/pgbouncer}
case $prefix in /*) ;; *) prefix=$PWD/$prefix ;; esac
case $source in /* | *://* | '') ;; *) [ ! -e "$source" ] || source=$PWD/$source ;; esac

if ! { command -v cc && command -v make && pkg-config --exists libevent libssl; } >/dev/null 2>&1; then
    if [ "$(id -u)" -ne 0 ]; then
        echo "install gcc make pkg-config libevent-dev libssl-dev libc-ares-dev first" >&2
        exit 1
    fi
    apt-get update -q
    apt-get install -q -y --no-install-recommends gcc make pkg-config libevent-dev libssl-dev libc-ares-dev
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

# Debian's patches, which are security fixes, are applied when dpkg-source is there, as it must be for a .dsc.
case $source in
    *.dsc)
        dpkg-source -x "$source" tree
        ;;
    *://*)
        if command -v curl >/dev/null; then curl -fsSL -o release.tar.gz "$source"; else wget -q -O release.tar.gz "$source"; fi
        mkdir tree && tar xzf release.tar.gz -C tree --strip-components=1
        ;;
    /*)
        mkdir tree && tar xzf "$source" -C tree --strip-components=1
        ;;
    *)
        chmod 755 "$work" # apt downloads as a user of its own
        apt-get source -q --download-only ${source:+--target-release "$source"} pgbouncer
        dpkg-source -x ./*.dsc tree
        ;;
esac

cd tree
if pkg-config --exists libcares; then cares=--with-cares; else cares=; fi
./configure --prefix="$prefix" --without-systemd $cares >configure.log 2>&1 || { tail -20 configure.log >&2; exit 1; }
make -j"$(getconf _NPROCESSORS_ONLN)" pgbouncer >make.log 2>&1 || { tail -20 make.log >&2; exit 1; }
install -D -m 755 pgbouncer "$prefix/bin/pgbouncer"
"$prefix/bin/pgbouncer" --version | head -1
echo "$prefix/bin/pgbouncer"
