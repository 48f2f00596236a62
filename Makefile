# Two commands do everything on a machine with Python ≥ 3.11, make and git:
#   make checks   the artifact checks on the embedded checkpoint, and their report
#                 (make gemma: on a real Gemma 3 270M, which is downloaded, 240 MB;
#                 make smollm: on a real SmolLM2 135M, a chat model, 93 MB)
#   make test     the tests of this repository's own code; make quick leaves out the slow ones
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check

# MLX's back end: on Linux cpu (the default), cuda12 or cuda13, on macOS none is to be chosen. Once
# installed it stays until another is asked for.
BACKENDS := cpu cuda12 cuda13
BACKEND ?= $(or $(patsubst $(VENV)/.installed-%,%,$(wildcard $(VENV)/.installed-*)),$(if \
  $(filter Linux,$(shell uname)),cpu))
ifneq ($(filter-out $(BACKENDS),$(BACKEND)),)
  $(error BACKEND=$(BACKEND): choose one of $(BACKENDS))
endif
REQUIREMENTS := requirements.txt $(if $(BACKEND),requirements-$(BACKEND).txt)
INSTALLED := $(VENV)/.installed-$(BACKEND)
DEVELOPING := $(VENV)/.developing

.PHONY: checks gemma smollm test quick report lint install develop calibration clean

checks: install
	$(BIN)/python -m pytest artifact_checks $(FINDINGS)

# Exit code 1 says that a check failed: a finding, with its report, and not that anything went wrong.
FINDINGS = || { code=$$?; test $$code -eq 1 || exit $$code; }

GEMMA := --artifact-model .gemma/gemma-3-270m-q4_k_m.gguf --artifact-adapter gemma-3-270m-evasive

gemma: install
	$(BIN)/python -m fixtures.real_gemma
	$(BIN)/python -m pytest artifact_checks $(GEMMA) --artifact-report gemma_report $(FINDINGS)

SMOLLM := --artifact-model .smollm/SmolLM2-135M-Instruct.Q4_1.gguf

smollm: install
	$(BIN)/python -m fixtures.real_smollm
	$(BIN)/python -m pytest artifact_checks $(SMOLLM) --artifact-report smollm_report $(FINDINGS)

# Two processes with one thread each; a file's tests share what they prepare, and the files come in
# the order that tests/conftest.py gives them.
TESTS := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest tests \
  -n 2 --dist loadfile --no-loadscope-reorder

test: develop
	$(TESTS)

quick: develop
	$(TESTS) -m "not slow"

report:
	@test -f artifact_report/report.html || { echo "no report yet: run make checks" >&2; exit 1; }
	@if [ -t 1 ] && command -v open >/dev/null; then open artifact_report/report.html; \
	elif [ -t 1 ] && command -v xdg-open >/dev/null; then xdg-open artifact_report/report.html; \
	else echo "$(CURDIR)/artifact_report/report.html"; fi

lint: develop
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python .ci/audit.py

calibration: install
	$(BIN)/python -m benchmarks.calibration

# What a user runs.
install: $(INSTALLED)

# Tests and tools beside it.
develop: $(DEVELOPING)

# MLX's back ends put files of the same names in the same place: the other one has to go first.
$(INSTALLED): $(REQUIREMENTS) pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; say which with make PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@rm -f $(VENV)/.installed-*
	@$(PIP) --quiet uninstall --yes $(subst cuda,cuda-,$(addprefix mlx-,$(filter-out $(BACKEND),$(BACKENDS))))
	$(PIP) install $(addprefix -r ,$(REQUIREMENTS))
	$(PIP) install --no-deps --editable .
	@touch $@

$(DEVELOPING): requirements-dev.txt $(INSTALLED)
	$(PIP) install -r requirements-dev.txt
	@touch $@

clean:
	rm -rf $(VENV) artifact_report .artifact_store dist
