#!/bin/sh
# Sees to the shared Python library that Triton's Python backend loads, or says in one line that it is missing:
# libpython.sh VENV [fetch]. With `fetch` a missing one is taken from Debian's package into VENV, without being root.
set -eu
venv=$1
short=$("$venv/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')

found() {
    "$venv/bin/python" -c 'import sys; from aiwm.daemon.engines.triton_install import find_libpython as find; sys.exit(not find())'
}

fetch() {
    command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || return 1
    folder="$venv/share/aiwm/libpython"
    mkdir -p "$folder"
    (cd "$folder" && apt-get download -qq "libpython$short" 2>/dev/null && dpkg-deb -x libpython*.deb . && rm libpython*.deb)
}

found && exit 0
if [ "${2-}" = fetch ] && fetch && found; then
    echo "setup: libpython$short was taken from Debian's package into $venv, for Triton" >&2
    exit 0
fi
echo "setup: libpython$short.so.1.0 is missing, Triton cannot run Python models without it: apt-get install libpython$short" >&2
exit 1
