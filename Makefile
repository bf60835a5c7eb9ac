# Everything a person does here. `make` alone lists it.
SHELL := /bin/bash
.DEFAULT_GOAL := help
py := .venv/bin
PYTEST_ARGS ?=
LOCKED_EXTRAS := --extra deep --extra sklearn --extra s3 --extra hdfs --extra dev

.PHONY: help setup demo test check lint audit audit-or-warn unit spark cluster-test torch peers peers-lock bench lock dist clean

help:  ## show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup:  ## create .venv from the hash-locked requirements (3-4 minutes the first time, nothing afterwards)
	@scripts/bootstrap

demo: setup  ## run the digits pipeline from raw data to a registered, scored model and its report
	@$(py)/sparkml run digits --env local

test: lint  ## set-up, lint, types, import contracts and all tests
	@$(py)/pytest $(PYTEST_ARGS)

check: lint audit-or-warn unit  ## lint, types, import contracts, known vulnerabilities and the unit tests, in under a minute

lint: setup  ## ruff, mypy --strict and the import contracts
	@$(py)/ruff check .
	@$(py)/ruff format --check --quiet .
	@$(py)/mypy
	@$(py)/lint-imports

audit: setup  ## known vulnerabilities of the locked versions (OSV); without a network it fails, `make check` only warns
	@$(py)/python scripts/audit.py

audit-or-warn: setup
	@$(py)/python scripts/audit.py --or-warn

unit: setup  ## only the unit tests (no JVM)
	@$(py)/pytest -q tests/unit

spark: setup  ## only the tests on a real local Spark
	@$(py)/pytest -q tests/spark

cluster-test: setup  ## only the tests on a real cluster (HDFS, YARN, standalone, S3), which they start and stop
	@$(py)/pytest tests/cluster

torch: setup  ## install the PyTorch extra (3 GB the first time) and run its tests
	@$(py)/uv pip install --python $(py)/python --compile-bytecode --require-hashes --quiet -r scripts/torch.lock.txt
	@$(py)/pytest -q tests/torch tests/contracts -k "torch or Torch"

peers: setup  ## environments of the other linear models that `make bench` measures, in .peers (2 GB); it installs what is missing, too
	@$(py)/python scripts/bench/peers/environments.py

peers-lock: setup  ## resolve these environments anew and write their lock files (review the diff)
	@$(py)/python scripts/bench/peers/environments.py --lock

bench: setup  ## every benchmark of scripts/bench, QUICK=1 for small sizes
	@$(py)/python scripts/bench/run_all.py $(if $(QUICK),--quick)

dist: setup  ## wheel for spark-submit --py-files, in dist/
	@$(py)/python -m build --wheel --no-isolation --outdir dist .

lock: setup  ## resolve the dependencies anew and write the lock files (review the diff)
	@$(py)/uv pip compile pyproject.toml $(LOCKED_EXTRAS) --universal --generate-hashes --no-emit-index-url --no-emit-find-links \
		--python-version 3.11 --custom-compile-command "make lock" --upgrade --quiet -o requirements.lock
	@sed -n 's/^torch = \["\(.*\)"\]/\1/p' pyproject.toml | $(py)/uv pip compile - --universal --generate-hashes \
		--no-emit-index-url --no-emit-find-links --python-version 3.11 --custom-compile-command "make lock" --upgrade --quiet \
		-c requirements.lock -o scripts/torch.lock.txt
	@echo uv | $(py)/uv pip compile - --universal --generate-hashes --no-emit-index-url --no-emit-find-links \
		--python-version 3.11 --custom-compile-command "make lock" --upgrade --quiet -o scripts/uv.lock.txt

clean:  ## remove build outputs and caches; the environment and the store stay
	@rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .audit_cache spark-warehouse
