# Two commands for everybody: `make demo` and `make test`. Both do their own set-up.
PYTHON ?= python3.11
UV_VERSION := 0.13.9
BIN := .venv/bin
STAMP := .venv/.ready

# Quiet, and the same everywhere, whatever the user's shell has set.
export RAY_USAGE_STATS_ENABLED := 0
export PYTHONUNBUFFERED := 1

.PHONY: setup demo browser test test-all test-s3 test-chaos check format bench lock clean

setup: $(STAMP)

# Runs again only when the pinned packages change: a second `make demo` needs no network.
$(STAMP): requirements.lock pyproject.toml tools/setup.sh tools/apt.sh
	@PYTHON="$(PYTHON)" UV_VERSION="$(UV_VERSION)" bash tools/setup.sh
	@touch $(STAMP)

demo: $(STAMP)
	@$(BIN)/python jobs/demo.py $(if $(AUDIO),--audio "$(AUDIO)")

# For the tests of reports, which are left out without it.
browser:
	@bash tools/browser.sh

# In two processes; see pytest_xdist_make_scheduler in tests/conftest.py.
test: $(STAMP)
	@$(BIN)/python -m pytest -n 2 --durations 20

test-all: $(STAMP)
	@$(BIN)/python -m pytest -m ""

# The end-to-end tests against a real S3 server instead of moto's.
test-s3: $(STAMP)
	@AUDIOCLF_TEST_S3=1 $(BIN)/python -m pytest tests/e2e -k s3

# Ten minutes of kills; AUDIOCLF_TEST_S3=1 makes them happen before a real S3 server.
test-chaos: $(STAMP)
	@$(BIN)/python -m pytest -m heavy -s tests/e2e/test_chaos.py

check: $(STAMP)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/basedpyright --level error
	@$(BIN)/lint-imports

format: $(STAMP)
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .

bench: $(STAMP)
	@missed=; for file in benchmarks/bench_*.py; do echo "== $$file"; $(BIN)/python $$file || missed="$$missed $$file"; \
		done; [ -z "$$missed" ] || { echo "missed:$$missed"; exit 1; }

lock: $(STAMP)
	@$(BIN)/uv pip compile --quiet --generate-hashes --no-emit-index-url --no-header --upgrade \
		--python-version 3.11 --group dev pyproject.toml --output-file requirements.lock

clean:
	rm -rf .venv demo build
