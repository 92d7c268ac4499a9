#!/bin/sh
# Measure Salver beside its ceiling and its peers; all arguments go to `python -m bench`.
# The harness needs the standard library only; each server gets an environment of its own.
set -eu
cd "$(dirname "$0")/.."
python=.venv/bin/python
[ -x "$python" ] || python=$(command -v python3.11 || command -v python3)
exec "$python" -m bench "$@"
