#!/bin/sh
# Lock every environment of the bench for Python 3.11 on Linux x86-64. Needs `uv` on PATH.
# Of the Triton wheel only the server binary is used, so its Python dependencies are left out.
set -eu
cd "$(dirname "$0")"
compile() {
    uv pip compile --quiet --generate-hashes --no-header --no-annotate --no-emit-index-url \
        --python-version 3.11 --python-platform x86_64-manylinux_2_35 "$@"
}
for name in ceiling grpc-client litserve mlserver models; do
    compile "$name.in" >"$name.lock"
done
# These hold models, and declare what made them: packages of several gigabytes.
compile --no-deps real-models.in >real-models.lock
{ compile triton.in; compile --no-deps triton-server.in; } >triton.lock
