#!/usr/bin/env bash
# Runs tests, two files at a time, then those that look at what the whole machine holds.
#
# Up to MOST_AGAIN tests that failed beside another file run once more with nothing beside them, and
# the last lines name those that passed only then (docs/adr/0163-once-more-alone.md).
#
# usage: scripts/test.sh [arguments of pytest]; JOBS=1 for one file after the other, AGAIN=0 to fail at once
set -euo pipefail
cd "$(dirname "$0")/.."
readonly MOST_AGAIN=${AGAIN:-4}
# These look at what the whole machine holds, or fill its memory.
readonly ALONE=(tests/e2e/test_stateful.py tests/e2e/test_groups.py tests/scale/test_groups.py)
folder=$(mktemp -d /tmp/t.XXXXXX)
pytest=(.venv/bin/pytest -o "cache_dir=$folder/cache")
chosen=("$@")
[ $# != 0 ] || chosen=("${ALONE[@]/#/--ignore=}")

failed() {
    .venv/bin/python - "$folder/cache/v/cache/lastfailed" <<'PYTHON'
import json, pathlib, sys
file = pathlib.Path(sys.argv[1])
print(*(json.loads(file.read_text()) if file.exists() else {}), sep="\n")
PYTHON
}

# Exit status 1 says that tests failed; any other failure has nothing to try again.
status=0
"${pytest[@]}" --basetemp "$folder/a" --numprocesses "${JOBS:-2}" --dist loadfile \
    "${chosen[@]}" || status=$?
again=$(failed)
if [ "$status" = 1 ] && [ "$(wc -l <<<"$again")" -le "$MOST_AGAIN" ]; then
    "${pytest[@]}" --basetemp "$folder/b" --last-failed --last-failed-no-failures none
elif [ "$status" != 0 ]; then
    exit "$status"
fi
if [ $# = 0 ]; then
    "${pytest[@]}" --basetemp "$folder/c" "${ALONE[@]}"
fi
if [ -n "$again" ]; then
    printf 'passed only alone, which is a fault of the test or of Salver:\n%s\n' "$again"
fi
rm -rf "$folder"
