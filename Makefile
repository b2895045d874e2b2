# make demo: install, run the numbered notebooks on the embedded image set, name the figures.
# make test: install, linters, the site of docs/, tests, nbval over the notebooks. Both start from a bare clone.

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
SLOW := and not slow

.PHONY: demo test test-all unit lint docs ray tests nbval notebooks gpu lock

demo: .venv/installed
	$(BIN)/dc3 run params/demo.yaml

# Two jobs at once: Ray's tests, to which the quick checks give way; then the other tests, in two processes, beside the
# notebooks, which need one another.
test: .venv/installed
	$(MAKE) --jobs=2 ray lint docs
	$(MAKE) --jobs=2 tests nbval

# With the tests marked slow, and twenty times as many random examples.
test-all: .venv/installed
	$(MAKE) --jobs=2 ray lint docs SLOW=
	DC3_EXAMPLES=20 $(MAKE) --jobs=2 tests nbval SLOW=

# The quick ones, while you work.
unit: .venv/installed lint
	$(MAKE) tests SLOW="and not slow and not process"

lint: .venv/installed
	$(BIN)/ruff check .
	nice -n 19 $(BIN)/mypy
	$(BIN)/lint-imports

# The pages and the notebooks as they are committed, in site/html. A warning is an error, and so is a link that leads nowhere.
docs: .venv/installed
	nice -n 19 $(BIN)/sphinx-build --quiet --fail-on-warning --keep-going --fresh-env -c docs . site/html

# One thread a process: the processors are taken. The notebooks, one after the other, take longest: the tests give way to them.
tests: .venv/installed
	OMP_NUM_THREADS=1 nice -n 19 $(BIN)/python -m pytest -n 2 -m "not ray $(SLOW)" tests

ray: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "ray $(SLOW)" tests/test_engine.py tests/test_engine_faults.py

# Away from the runs and figures of the user, and without progress bars, which the committed outputs do not have either.
nbval: .venv/installed
	rm -rf .nbval
	DC3_HOME=$(CURDIR)/.nbval DC3_PROGRESS=0 DC3_HEADLESS=1 OMP_NUM_THREADS=1 \
		$(BIN)/python -m pytest --nbval --nbval-current-env notebooks

# Run the demo and keep its outputs in the committed notebooks.
notebooks: .venv/installed
	$(BIN)/dc3 run params/demo.yaml --force
	$(BIN)/dc3 keep-outputs demo

# What only a GPU can measure, in under ten minutes; call again to go on. DATA: CIFAR-10 as class folders, or as a zip by --pack.
gpu: .venv/installed
	$(BIN)/python benchmarks/gpu.py --data-dir "$(DATA)"

# The exact versions that were tried, from a fresh environment of what pyproject.toml asks for.
lock:
	rm -rf .lock-venv && $(PYTHON) -m venv .lock-venv
	.lock-venv/bin/pip install --quiet -e '.[test]'
	.lock-venv/bin/pip freeze --exclude-editable > constraints.txt
	rm -rf .lock-venv

.venv/installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "DC3 needs Python 3.11 or newer: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt -e '.[test]'
	touch $@
