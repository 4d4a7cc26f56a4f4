# Two commands matter: `make book` builds the site, `make test` runs every check. README.md gives the same without make.

PYTHON ?= python3
VENV := .venv
# Knows dependency groups; `pip freeze` leaves pip itself out of requirements.txt.
PIP := pip==26.3
BIN := $(VENV)/bin
JOBS ?= 2
PORT ?= 8000
NB ?= $(wildcard notebooks/*/*.ipynb notebooks/*.ipynb)
export OMP_NUM_THREADS := 1

.PHONY: help book test serve lab execute bench audit clean

help:
	@echo "make book      build the site into _build/html (no torch needed)"
	@echo "make test      install everything and run every check"
	@echo "make serve     show the built site on http://localhost:$(PORT)"
	@echo "make lab       open the notebooks in JupyterLab"
	@echo "make execute   re-run notebooks and store their outputs (NB=path for one)"
	@echo "make bench     measure speed and run the long experiments that have no result yet"
	@echo "make audit     the long form of every check"
	@echo "make clean     remove what building made (not the environment)"

# The environment. A stamp file says what it holds, so nothing is installed twice.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed, $(PYTHON) is `$(PYTHON) --version 2>&1`: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.book-installed: pyproject.toml requirements.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet $(PIP)
	$(BIN)/python -m pip install --quiet -c requirements.txt --group book
	@touch $@

$(VENV)/.all-installed: $(VENV)/.book-installed
	$(BIN)/python -m pip install --quiet -c requirements.txt --group test -e '.[bench,coursework]'
	@touch $@

book: $(VENV)/.book-installed
	$(BIN)/jupyter-book build . --all -W -n --keep-going --quiet
	@echo "The book: $(CURDIR)/_build/html/index.html"

test: $(VENV)/.all-installed book
	$(BIN)/ruff check .
	$(BIN)/mypy -p genimg_lib -p book.ext -p tools
	$(BIN)/pytest -n $(JOBS) --dist loadfile tests
	$(BIN)/pytest -n $(JOBS) --dist loadfile --nbval notebooks

serve:
	@test -f _build/html/index.html || { echo "There is no site yet: make book"; exit 1; }
	$(PYTHON) -m http.server $(PORT) --bind 127.0.0.1 --directory _build/html

lab: $(VENV)/.all-installed
	$(BIN)/jupyter lab notebooks

execute: $(VENV)/.all-installed
	$(BIN)/python tools/execute.py $(NB)

# Each run is skipped where its result file exists, so this can be stopped and taken up again.
bench: $(VENV)/.all-installed
	for k in 1 5 50; do $(BIN)/python -m bench.iwae_mnist $$k || exit 1; done
	$(BIN)/python -m bench.vae_speed
	for data in ring grid; do $(BIN)/python -m bench.toy_gans $$data || exit 1; done
	$(BIN)/python -m bench.glyph_modes
	$(BIN)/python -m bench.dcgan_ablation
	$(BIN)/python -m bench.scaling
	for row in "diagonal 200" "mingru 200" "mingru 600"; do $(BIN)/python -m bench.adding $$row || exit 1; done
	for task in adding copying; do $(BIN)/python -m bench.sweep $$task || exit 1; done
	$(BIN)/python -m bench.sweep_longer
	for method in lstm gru diagonal; do $(BIN)/python -m bench.sequential_mnist $$method || exit 1; done
	$(BIN)/python -m bench.scan_speed
	$(BIN)/python -m bench.binarised_mnist

audit: test
	$(BIN)/python tools/stale.py
	$(BIN)/python tools/mutation_score.py

clean:
	rm -rf _build .cache .pytest_cache .mypy_cache .ruff_cache
