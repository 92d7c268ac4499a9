#!/bin/sh
# Make an environment from a hash-pinned lock: environment.sh PYTHON LOCK FOLDER
set -eu
cd "$(dirname "$0")/.."
python=$1 lock=$2 folder=$3
command -v "$python" >/dev/null || python=python3
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "error: Python 3.11 or newer is needed; on Debian 12: apt-get install python3 python3-venv" >&2
    exit 1
}
[ -x "$folder/bin/python" ] || "$python" -m venv "$folder" || {
    echo "error: python3-venv is missing; on Debian 12: apt-get install python3-venv" >&2
    exit 1
}
"$folder/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r "$lock"
