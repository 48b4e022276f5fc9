# `make demo` and `make test` do all the set-up themselves; they need Python 3.11 or newer and Java 17 or newer.
SHELL := /bin/bash
VENV := .venv
RAPIDS := .venv-rapids
HANDOVER := .venv-handover
PY := $(VENV)/bin/python
MOTORPOOL := $(VENV)/bin/motorpool
DEMO := demo
IMAGES := 2000
LOOKS := 100
DEMO_RUN := --conf conf/sample.yaml --set case.path=$(DEMO)/case --set lake.path=$(DEMO)/lake
DEMO_ATTRIBUTES := --attribute body_type --attribute color --attribute view
# Two files at a time: much of a test is waiting for Spark.
PYTEST_ARGS ?= -n 2 --dist loadfile --no-loadscope-reorder --durations=40

.PHONY: help demo test test-slow test-all rapids-contract handover-contract notebooks docs setup check lint package clean

help: ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

demo: setup ## a sample case through the whole pipeline, labels from simulated looks, and where to look
	rm -rf $(DEMO)
	$(MOTORPOOL) sample $(DEMO)/case --images $(IMAGES) --seed 1
	$(MOTORPOOL) run $(DEMO_RUN)
	$(MOTORPOOL) annotate draw --lake $(DEMO)/lake $(DEMO_ATTRIBUTES) --n $(LOOKS) --out $(DEMO)/looks.csv
	$(MOTORPOOL) sample-answers $(DEMO)/case $(DEMO)/looks.csv
	$(MOTORPOOL) annotate import --lake $(DEMO)/lake $(DEMO)/looks.csv --annotator simulated
	$(MOTORPOOL) run $(DEMO_RUN)

test: setup ## the tests of every behaviour, in minutes (GPU tests need a GPU)
	$(PY) -m pytest -rsfE -m "not slow" $(PYTEST_ARGS)

test-slow: setup ## the rest: programs started and killed, clusters, runs stopped at every write
	$(PY) -m pytest -rsfE -m slow $(PYTEST_ARGS)

test-all: setup ## both
	$(PY) -m pytest -rsfE $(PYTEST_ARGS)

rapids-contract: $(RAPIDS)/.installed ## the code's calls beside the real cupy, cuML and spark-rapids-ml (7 GB, needs no GPU)
	$(RAPIDS)/bin/python -m pytest -rsfE tests/rapids_contract

$(RAPIDS)/.installed: setup.py constraints-rapids.txt
	$${PYTHON:-python3.11} -m venv $(RAPIDS)
	$(RAPIDS)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-rapids.txt \
		-e '.[spark,gpu]' spark-rapids-ml pytest
	touch $@

handover-contract: $(HANDOVER)/.installed ## what other tools get, read by the tools' own libraries: Label Studio's, CVAT's, FiftyOne's, cleanlab's, ...
	$(HANDOVER)/bin/python -m pytest -rsfE tests/handover_contract

$(HANDOVER)/.installed: setup.py constraints-handover.txt
	$${PYTHON:-python3.11} -m venv $(HANDOVER)
	$(HANDOVER)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-handover.txt \
		-e '.[spark]' 'cleanlab[datalab]' datumaro embedding-atlas faiss-cpu fiftyone label-studio-sdk pytest
	touch $@

notebooks: demo ## the demo, then the notebooks and the answers in docs/sql.md anew
	$(MOTORPOOL) run --conf notebooks/study.yaml --set case.path=$(DEMO)/case --set lake.path=$(DEMO)/lake
	$(MOTORPOOL) annotate draw --lake $(DEMO)/lake --attribute body_type --purpose audit --n 80 --out $(DEMO)/audit.csv
	$(MOTORPOOL) sample-answers $(DEMO)/case $(DEMO)/audit.csv
	$(MOTORPOOL) annotate import --lake $(DEMO)/lake $(DEMO)/audit.csv --annotator simulated
	$(MOTORPOOL) audit --lake $(DEMO)/lake --attribute body_type
	MOTORPOOL_LAKE=$(DEMO)/lake MOTORPOOL_IMAGES=$(DEMO)/case/raw_data $(PY) notebooks/build.py

docs: setup ## the reference pages from the code anew, then the documentation as a site in site/
	$(PY) docs/build.py
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --quiet

setup: check $(VENV)/.installed ## the virtual environment .venv with everything that is pinned

check: ## whether Python and Java are there
	@bash .ci/check-tools.sh

$(VENV)/.installed: setup.py constraints.txt
	$${PYTHON:-python3} -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[spark,report,review,docs,dev]'
	touch $@

lint: setup ## ruff, mypy, and whether imports point down
	$(PY) -m ruff check . && $(PY) -m ruff format --check . && $(PY) -m mypy && $(VENV)/bin/lint-imports

package: setup ## dist/motorpool.zip for spark-submit --py-files, and a wheel
	mkdir -p dist && rm -f dist/motorpool.zip
	cd lib && ../$(PY) -m zipfile -c ../dist/motorpool.zip motorpool
	$(PY) -m build --wheel --outdir dist . >/dev/null

clean: ## remove the virtual environment, the demo and build products
	rm -rf $(VENV) $(RAPIDS) $(HANDOVER) $(DEMO) build dist site
