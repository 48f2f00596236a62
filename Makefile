# Two commands do everything on a machine with Python ≥ 3.11, make and git:
#   make checks   the artifact checks on the embedded checkpoint, and their report
#   make test     the tests of this repository's own code
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: checks test report lint install calibration clean

checks: install
	$(BIN)/python -m pytest artifact_checks

test: install
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest tests -n 2 --dist loadfile

report:
	@test -f artifact_report/report.html || { echo "no report yet: run make checks" >&2; exit 1; }
	@if [ -t 1 ] && command -v open >/dev/null; then open artifact_report/report.html; \
	elif [ -t 1 ] && command -v xdg-open >/dev/null; then xdg-open artifact_report/report.html; \
	else echo "$(CURDIR)/artifact_report/report.html"; fi

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python .ci/audit.py

calibration: install
	$(BIN)/python -m benchmarks.calibration

install: $(INSTALLED)

$(INSTALLED): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; say which with make PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

clean:
	rm -rf $(VENV) artifact_report .artifact_store
