#!/bin/sh
# Make .venv from a hash-pinned lock and install this checkout into it: environment.sh PYTHON LOCK
set -eu
cd "$(dirname "$0")/.."
python=$1 lock=$2
command -v "$python" >/dev/null || python=python3
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "error: Python 3.11 or newer is needed; on Debian 12: apt-get install python3 python3-venv" >&2
    exit 1
}
[ -x .venv/bin/python ] || "$python" -m venv .venv || {
    echo "error: python3-venv is missing; on Debian 12: apt-get install python3-venv" >&2
    exit 1
}
.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r "$lock"
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
