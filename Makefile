# Everything needed is set up in .venv by the first target that is called; a second call is fast.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check --no-input
# The constraints pin torch among others: an unpinned one pulls gigabytes.
INSTALL := PIP_CONSTRAINT=constraints.txt $(PIP) install
# Half as many again as there are cores: tests of processes wait for one another a third of their time. Bytecode is kept,
# or every process that a test starts would compile the package again.
WORKERS = $$(($$(getconf _NPROCESSORS_ONLN) * 3 / 2))
PYTEST := env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest

.PHONY: demo test long faults check docs wheel bench clean
.DELETE_ON_ERROR:

demo: $(VENV)/.installed
	@$(BIN)/splitcom demo

test: $(VENV)/.installed-dev
	@$(PYTEST) -n $(WORKERS) --dist worksteal

long: $(VENV)/.installed-dev
	@$(PYTEST) -n $(WORKERS) --dist worksteal -m slow --hypothesis-profile=default

faults: $(VENV)/.installed-dev
	@$(PYTEST) tests/faults -m ""

check: $(VENV)/.installed-dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

docs: $(VENV)/.installed-dev
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build && echo "site/index.html"

wheel: $(VENV)/.created
	@$(PIP) wheel --no-deps --wheel-dir dist . && ls dist/splitcom-*.whl

# traffic.py looks at a run that it is given.
bench: $(VENV)/.installed
	@for script in $(filter-out benchmarks/traffic.py,$(wildcard benchmarks/*.py)); do echo "== $$script"; $(BIN)/python $$script || exit 1; done

clean:
	rm -rf $(VENV) site dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/.created: Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "SplitCom needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V). Set PYTHON=/path/to/python3.11"; exit 1; }
	@echo "Setting up $(VENV) (once, about a minute) ..."
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.created pyproject.toml constraints.txt
	@$(INSTALL) --editable . 2> $(VENV)/install.log || { cat $(VENV)/install.log; echo "Set-up failed; \"make clean\" removes what it left."; exit 1; }
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@$(INSTALL) --editable '.[dev]' 2> $(VENV)/install.log || { cat $(VENV)/install.log; echo "Set-up failed; \"make clean\" removes what it left."; exit 1; }
	@touch $@

%_pb2.py: %.proto
	@$(BIN)/python -m grpc_tools.protoc -I $(dir $<) --python_out=$(dir $<) --pyi_out=$(dir $<) $<
