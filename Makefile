# make lab: everything that is needed, then JupyterLab at lesson 00.   make test: the same, then all tests.
# make calculators: all calculators as one page, without notebooks.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
WORKERS ?= 2
# Where torch comes from, if not from PyPI: TORCH_FROM='--index-url https://download.pytorch.org/whl/cpu'
TORCH_FROM ?=
TESTS := SIZING_RECORDED=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest
SHARED := -n $(WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: lab calculators update check test browser-test traces fuzz workshop slides hub-test quick nightly
.PHONY: notebook-test install-test bench rehearse record notebooks labs lint clean

# A learner works in work/, which git ignores: copies without outputs, made once and then followed.
lab: $(READY)
	$(BIN)/python -m sizing.course.lab

# Served to this machine alone; Ctrl-C ends it.
calculators: $(READY)
	$(BIN)/python -m sizing.calculators

# Whole files go to WORKERS processes, each with one thread, the longest first (tests/seconds.json,
# written by SIZING_SECONDS=1 make test); the browser alone, as it waits for pictures.
# SIZING_TRACES= takes every trace again.
test: $(READY) lint
	$(TESTS) $(SHARED) -m "not browser"
	$(TESTS) -m browser tests/browser
	@echo "Left to make nightly: traces anew, 10 000 fuzzed settings, every preset in each picture,"
	@echo "every lesson in a browser, notebooks live, twice and cell by cell, installations, a hub,"
	@echo "the newest packages."

# Every lesson opened in Chromium: no cell error, each control moved, keyboard, axe-core, themes, widths.
# LESSONS="05 11" takes some.
LESSONS ?= all
browser-test: $(READY)
	SIZING_BROWSER="$(LESSONS)" $(TESTS) -m browser tests/browser

# What `make test` finds in files, made anew: traces in tests/traces.jsonl, and every trace itself.
traces: $(READY)
	rm -f tests/traces.jsonl
	SIZING_TRACES_ADD=1 $(TESTS) $(SHARED)
	$(BIN)/python -m sizing.trace.store tests/traces.jsonl

# What a contributor runs before a commit: the core, the data, the course's rules; no torch model.
QUICK := data costs course floors run run_degrees hardware scaling plan launch hygiene
quick: $(READY)
	$(TESTS) $(SHARED) -m "not slow" $(QUICK:%=tests/test_%.py)

# Longer than a commit can wait for: every trace anew, each preset drawn, the whole fuzz, a hub, what
# is newest.
nightly: $(READY)
	SIZING_TRACES= SIZING_ALL=1 $(TESTS) $(SHARED)
	$(MAKE) fuzz browser-test notebook-test workshop slides
	$(MAKE) hub-test install-test
	$(BIN)/python tests/newest.py
	$(BIN)/python tests/newest.py --oldest

# Notebooks as learners run them: live, twice in a row, in another folder, cells out of order.
notebook-test: $(READY)
	$(BIN)/python tests/notebook_runs.py

# The README's steps without make, Dockerfile, Binder and Colab: each in a new clone and environment.
install-test: $(READY)
	$(BIN)/python tests/install.py

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: $(READY)
	$(BIN)/python bench/bench.py

# Every CUDA line on a machine without a GPU: Linux on x86-64 with gcc; 5 GB, once (see the file).
# Stopped, it goes on where it was. TORCH=2.11.0 is another torch, in an environment of its own,
# with a TRANSFORMERS of its time; it takes every fourth row of the memory table.
REHEARSAL := .venv-rehearsal$(TORCH:%=-%)
TRANSFORMERS ?= 5.17.0
SHARE := $(if $(TORCH),--every 4)
rehearse: $(REHEARSAL)/.ready
	$(REHEARSAL)/bin/python tests/rehearsal/rehearse.py $(SHARE)

# Three = signs: the CUDA build, not a "+cpu" one that pip may know as well.
OTHERS := $(if $(TORCH),-e 's/^(torch==).*/\1$(TORCH)/' -e 's/^(transformers==).*/\1$(TRANSFORMERS)/')
$(REHEARSAL)/.ready: requirements.txt
	$(PYTHON) -m venv $(REHEARSAL)
	sed -n -E $(OTHERS) -e 's/^torch==/torch===/p; /^(transformers|numpy|pandas|tqdm|psutil)==/p' $< \
		| $(REHEARSAL)/bin/python -m pip install --quiet --disable-pip-version-check -r /dev/stdin
	touch $@

# The newest course; what a learner wrote, in work/ and .learner/, stays.
update: $(READY)
	$(BIN)/python -m sizing.course.update
	$(MAKE) $(READY)
	$(BIN)/python -m sizing.course.copies

# Is this machine ready? Looks, installs nothing, needs no network; also before `make lab`.
check:
	@$$(test -x $(BIN)/python && echo $(BIN)/python || echo $(PYTHON)) sizing/course/preflight.py

# What an instructor takes along: workshop/README.md says how it is used.
workshop: $(READY)
	$(BIN)/python workshop/material.py build/workshop

slides: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r workshop/requirements-slides.txt
	$(BIN)/python workshop/slides.py build/workshop/slides notebooks/*.ipynb

# A JupyterHub with thirty learners on this machine, for real: as root on Linux; LEARNERS=3 is quick.
LEARNERS ?= 30
hub-test: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r workshop/hub/requirements-hub.txt
	$(BIN)/python workshop/hub/hub_test.py --learners $(LEARNERS)

# Ten thousand settings of the calculators, every field of every config, and what must always hold.
fuzz: $(READY)
	SIZING_FUZZ=10000 $(TESTS) tests/fuzz -n $(WORKERS)

# Measure every experiment on this machine; the rows go to data/measurements/<device>/.
record: $(READY)
	$(BIN)/python -m sizing.experiments record

# Execute the notebooks again, in recorded mode, and write their outputs.
notebooks: $(READY)
	$(BIN)/python -m sizing.course.notebooks execute notebooks/*.ipynb solutions/*.ipynb
	$(BIN)/python -m sizing.course.labs

# The labs from the solutions.
labs: $(READY)
	$(BIN)/python -m sizing.course.labs

$(READY): requirements.txt requirements-distributed.txt pyproject.toml jupyter/overrides.json
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name it: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	test -z "$(TORCH_FROM)" || $(BIN)/python -m pip install --quiet --disable-pip-version-check \
		$(TORCH_FROM) "$$(grep '^torch==' requirements.txt)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-distributed.txt || \
		echo "DeepSpeed could not be installed; its rows will say so."
	mkdir -p $(VENV)/share/jupyter/lab/settings
	cp jupyter/overrides.json $(VENV)/share/jupyter/lab/settings/overrides.json
	touch $@

clean:
	rm -rf $(VENV) build .pytest_cache .ruff_cache
