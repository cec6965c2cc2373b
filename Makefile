# make demo   the three ways of answering on MicroSeek, in one table, with plots and a page
# make test   the whole suite, in two processes; make test WORKERS=8
# make micro  train the bundled micro models again, from another seed (some hours); make micro SEED=3
# Each sets itself up in the virtual environment $(VENV).
VENV ?= .venv
PYTHON ?= python3
SEED ?= 2
WORKERS ?= 2
INSTALLED = $(VENV)/.installed
TESTED = $(VENV)/.installed-test

.PHONY: demo test lint micro

demo: $(INSTALLED)
	rm -rf results/microseek
	@echo "Encoding the knowledge base, then answering MicroSeek's questions in six ways"
	$(VENV)/bin/comem-lmms memorize results/microseek/bank --batch_size 16
	$(VENV)/bin/lmms-eval --config examples/microseek.yaml
	$(VENV)/bin/comem-lmms report results/microseek --format html --baseline baseline --support \
		--plots results/microseek/plots > results/microseek/report.html
	$(VENV)/bin/comem-lmms explore results/microseek --out results/microseek/site
	$(VENV)/bin/comem-lmms report results/microseek --json results/microseek/summary.json --rows 6
	@echo "The same to look at: results/microseek/report.html, results/microseek/site/index.html, results/microseek/plots"

test: $(TESTED) lint
	OMP_NUM_THREADS=1 $(VENV)/bin/pytest --numprocesses $(WORKERS) --dist loadfile

lint: $(TESTED)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

micro: $(INSTALLED)
	$(VENV)/bin/python -m comem_lmms.training.micro results/micro-$(SEED) --seed $(SEED)

$(INSTALLED): pyproject.toml
	@echo "Installing into $(VENV): some 7 GB, some minutes"
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade pip
	$(VENV)/bin/python -m pip install --quiet --editable ".[plots]"
	touch $@

$(TESTED): $(INSTALLED)
	$(VENV)/bin/python -m pip install --quiet --editable ".[test]"
	touch $@
