# Two commands, each with all its own set-up (a virtual environment in .venv; Python 3.11 or newer is all it takes):
#
#   make run     train the reference model on real text, with the sidecar beside it (about a minute on two cores)
#   make test    the whole test suite
#
# Variables:
#   PYTHON          the interpreter to start from                      make run PYTHON=python3.12
#   ARGS            more options for the trainer                       make run ARGS="--steps 50"
#   TORCH_PIP_ARGS  where pip gets torch, e.g. a CPU-only build        make run TORCH_PIP_ARGS="--index-url URL"
#   PIP_ARGS        options for pip's other installs                   make test PIP_ARGS="--no-index --find-links DIR"
#   PYTEST_ARGS     options for pytest                                 make test PYTEST_ARGS="-k launch"

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
BIN = $(CURDIR)/$(VENV)/bin
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: run test lint clean

run: $(VENV)/.run
	PATH="$(BIN):$$PATH" WANDB_MODE="$${WANDB_MODE:-offline}" sidecar run --sink wandb -- python -m trainer pretrain $(ARGS)

test: $(VENV)/.test
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/.test
	$(BIN)/python -m ruff check .
	$(BIN)/python -m mypy

clean:
	rm -rf $(VENV)

# Each stamp is written only after its step has worked, so an interrupted set-up is done again.
$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is not Python 3.11 or newer"; echo "fix: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 2; }
	@echo "setting up $(VENV) (once)"
	@$(PYTHON) -m venv $(VENV) || \
		{ echo "error: $(PYTHON) cannot make virtual environments"; echo "fix: install its venv module (Debian: apt-get install python3-venv)"; exit 2; }
	@touch $@

$(VENV)/.torch: $(VENV)/.created
	$(PIP) $(TORCH_PIP_ARGS) "$(TORCH)" numpy
	@touch $@

$(VENV)/.run: $(VENV)/.torch pyproject.toml
	$(PIP) $(PIP_ARGS) --editable '.[trainer]'
	@touch $@

$(VENV)/.test: $(VENV)/.torch pyproject.toml
	$(PIP) $(PIP_ARGS) --editable '.[test]'
	@touch $@ $(VENV)/.run
