# `make demo` and `make test` do all the set-up themselves; they need Python 3.11 or newer and Java 17 or newer.
SHELL := /bin/bash
VENV := .venv
PY := $(VENV)/bin/python
MOTORPOOL := $(VENV)/bin/motorpool
DEMO := demo
IMAGES := 2000
# Two files at a time: much of a test is waiting for Spark.
PYTEST_ARGS ?= -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: help demo test test-slow test-all notebooks setup check lint package clean

help:
	@echo "make demo       a sample case through the main job, and where to look"
	@echo "make test       the tests of every behaviour, in minutes (GPU tests need a GPU)"
	@echo "make test-slow  the rest: programs started and killed, clusters, runs stopped at every write"
	@echo "make test-all   both"
	@echo "make lint       ruff and mypy"
	@echo "make notebooks  the demo, then the notebooks and the answers in docs/sql.md anew"
	@echo "make package    dist/motorpool.zip for spark-submit --py-files, and a wheel"
	@echo "make clean      remove the virtual environment, the demo and build products"

demo: setup
	rm -rf $(DEMO)
	$(MOTORPOOL) sample $(DEMO)/case --images $(IMAGES) --seed 1
	$(MOTORPOOL) run --conf conf/sample.yaml --set case.path=$(DEMO)/case --set lake.path=$(DEMO)/lake

test: setup
	$(PY) -m pytest -rs -m "not slow" $(PYTEST_ARGS)
	@echo "Left out: tests marked slow (see pyproject.toml). 'make test-slow' runs them, 'make test-all' everything."

test-slow: setup
	$(PY) -m pytest -rs -m slow $(PYTEST_ARGS)

test-all: setup
	$(PY) -m pytest -rs $(PYTEST_ARGS)

notebooks: demo
	$(MOTORPOOL) run --conf notebooks/study.yaml --set case.path=$(DEMO)/case --set lake.path=$(DEMO)/lake
	MOTORPOOL_LAKE=$(DEMO)/lake MOTORPOOL_IMAGES=$(DEMO)/case/raw_data $(PY) notebooks/build.py

setup: check $(VENV)/.installed

check:
	@bash .ci/check-tools.sh

$(VENV)/.installed: setup.py constraints.txt
	$${PYTHON:-python3} -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[spark,report,dev]'
	touch $@

lint: setup
	$(PY) -m ruff check . && $(PY) -m ruff format --check . && $(PY) -m mypy

package: setup
	mkdir -p dist && rm -f dist/motorpool.zip
	cd lib && ../$(PY) -m zipfile -c ../dist/motorpool.zip motorpool
	$(PY) -m build --wheel --outdir dist . >/dev/null

clean:
	rm -rf $(VENV) $(DEMO) build dist
