# Each target sets up what it needs in $(VENV) once; a second call does only its job.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --constraint .ci/constraints.txt
MADE_FROM := setup.py pyproject.toml .ci/constraints.txt
TESTERS ?= 2
GATE_VERSIONS := 3.6.0 3.9.0

.PHONY: train compare claims test verify bench docs gate gpu lint clean

train: $(VENV)/models.done
	$(BIN)/python -m models fit

# Every system and baseline on digits, three seeds, side by side on one page.
compare: $(VENV)/models.done
	$(BIN)/python -m models compare --data digits

# What the papers claim, tested with full training.
claims: $(VENV)/dev.done
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m training -n $(TESTERS) --dist loadfile

# As many processes as TESTERS says, each with one thread: threads of several would wait for each other.
test: $(VENV)/dev.done
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow and not gpu and not training" -n $(TESTERS) --dist worksteal

verify: $(VENV)/verify.done
	$(BIN)/python -m otkernels.verify

bench: $(VENV)/dev.done
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks run
	$(BIN)/python -m benchmarks report

# The site, in docs/_build/html. DOCS_OPTIONS='-D plot_gallery=0' leaves the gallery's examples unrun.
docs: $(VENV)/docs.done
	OMP_NUM_THREADS=1 MPLBACKEND=Agg $(BIN)/python -m sphinx -q -n -W --keep-going $(DOCS_OPTIONS) docs docs/_build/html

# Compiles every public call, and every kernel for every target: with the pinned Triton, the oldest
# and the newest that are supported, and rewrites the register tables. Takes hours.
gate: $(VENV)/dev.done $(GATE_VERSIONS:%=$(VENV)/triton-%)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow -n $(TESTERS) --dist worksteal
	$(BIN)/python -m tests.compile_gate --update --jobs 2
	$(BIN)/python -m tests.sass --update --jobs 2
	PYTHONPATH=$(VENV)/triton-3.6.0 $(BIN)/python -m tests.sass --update --jobs 2
	for version in $(GATE_VERSIONS); do \
	  PYTHONPATH=$(VENV)/triton-$$version $(BIN)/python -m tests.compile_gate --update --jobs 2 \
	    || exit 1; \
	done

gpu: $(VENV)/dev.done
	$(BIN)/python -m benchmarks gpu --minutes 8 --out runs/gpu

lint: $(VENV)/dev.done
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

clean:
	rm -rf $(VENV) build dist runs *.egg-info .pytest_cache .ruff_cache .mypy_cache docs/_build docs/auto_gallery

# --- set-up -------------------------------------------------------------------------------------

$(VENV)/pip.done:
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/models.done: $(VENV)/pip.done $(MADE_FROM)
	$(PIP_INSTALL) --editable '.[models]'
	touch $@

$(VENV)/verify.done: $(VENV)/pip.done $(MADE_FROM)
	$(PIP_INSTALL) --editable '.[verify]'
	touch $@

$(VENV)/docs.done: $(VENV)/pip.done $(MADE_FROM)
	$(PIP_INSTALL) --editable '.[docs]'
	touch $@

$(VENV)/dev.done: $(VENV)/pip.done $(MADE_FROM)
	$(PIP_INSTALL) --editable '.[dev]'
	touch $@ $(VENV)/models.done $(VENV)/verify.done $(VENV)/docs.done

$(VENV)/triton-%: $(VENV)/pip.done
	rm -rf $@.part
	$(BIN)/python -m pip install --quiet --no-deps --target $@.part triton==$*
	mv $@.part $@
