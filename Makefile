# Everything runs in a virtual environment inside the checkout; nothing is installed outside it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test unit-edge unit-rest lint types check clean

# An edge, three simulated hosts in three regions behind their agents, and a real Moonlight client.
demo: $(VENV)/.ready
	$(BIN)/moonhost demo $(ARGS)

# Lint, strict types and every test; with ARGS only the tests that these name.
test: lint types
ifdef ARGS
	$(BIN)/python -m pytest $(ARGS)
else
	$(MAKE) --no-print-directory --jobs=2 --output-sync=target unit-edge unit-rest
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report
	$(BIN)/python -m pytest tests/e2e
endif

# Two halves that take about as long, each of them at home in one core.
unit-edge:
	COVERAGE_FILE=.coverage.edge $(BIN)/coverage run -m pytest tests/backends tests/proxy tests/revdial

unit-rest:
	COVERAGE_FILE=.coverage.rest $(BIN)/coverage run -m pytest tests \
		--ignore=tests/e2e --ignore=tests/backends --ignore=tests/proxy --ignore=tests/revdial

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.ready
	$(BIN)/mypy

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "moonhost needs Python 3.11 or newer; say which: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -m venv --clear $(VENV) \
		|| { echo "This Python cannot make virtual environments. On Debian: apt install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage build *.egg-info
