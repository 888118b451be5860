# The tools live in .venv, which the first target that needs it creates: `make book` is enough on a clean clone.
PYTHON ?= python3
BIN := .venv/bin

# The reader's shell must not matter: of its settings for the tools, none reaches them.
FOREIGN := PYTHON% PYTEST_% IPYTHON% JUPYTER% MPL% MATPLOTLIB% MYPY% RUFF_% OMP_%
unexport $(filter $(FOREIGN),$(.VARIABLES))
# By their specification relative paths count for nothing here.
unexport $(foreach name,$(filter XDG_%_HOME,$(.VARIABLES)),$(if $(filter /%,$($(name))),,$(name)))
export PYTHONUTF8 := 1
ifneq ($(shell test -w "$$HOME" && echo yes),yes)
export HOME := $(CURDIR)/.venv
endif
ifeq ($(wildcard tools/install.py),)
$(error Call make in the folder of its Makefile, or with -C)
endif

.DEFAULT_GOAL := help
.PHONY: help book pdf lecture lab test plain check notebooks experiment clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

book: .venv/.installed ## Build the book and say which page to open
	@$(BIN)/jupyter-book build . -W -n --keep-going
	@echo "Open $(CURDIR)/_build/html/index.html"

pdf: book ## Print the whole book into one PDF, with the Chromium of this machine; a few minutes
	@$(BIN)/python tools/pdf.py

lecture: .venv/.installed ## Write every figure as a file, and exercises apart from solutions, into _build/lecture
	@$(BIN)/python tools/lecture.py

lab: .venv/.installed ## Open the chapters in JupyterLab, with theorems and references drawn as in the book
	@$(BIN)/jupyter trust book/*.ipynb book/*/*.ipynb >/dev/null # else their sliders show as text until they are run
	@$(BIN)/jupyter lab --notebook-dir=book

test: .venv/.installed ## Run all tests, and every notebook cell against its stored output, one process a core
	@$(BIN)/pytest --nbval --numprocesses auto --dist loadfile --no-loadscope-reorder

plain: .venv/.installed ## Run every notebook once more, under the plainest arithmetic of a processor
	@ATEN_CPU_CAPABILITY=default MKL_CBWR=COMPATIBLE ONEDNN_MAX_CPU_ISA=SSE41 \
	  $(BIN)/pytest --nbval --numprocesses auto --dist loadfile --no-loadscope-reorder book

check: .venv/.installed ## Run what is quick: linters, types, unit tests, doctests, notebook hygiene
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy avo_lib
	@$(BIN)/python tools/notebooks.py check
	@$(BIN)/pytest --quiet tests avo_lib $(addprefix --ignore tests/book/test_,offline.py browser.py tips.py pdf.py)

notebooks: .venv/.installed ## Run the notebooks again in place; only one: make notebooks ONLY=book/annealing/avo.ipynb
	@$(BIN)/python tools/notebooks.py run $(ONLY)

experiment: .venv/.installed ## Train and evaluate all models of the report protocol again, into runs/results; two hours on two cores
	@$(BIN)/python -m avo_lib sweep --experiment report --seeds 0 1 2 --results runs/results

clean: ## Remove what was built, but not .venv
	@rm -rf _build .pytest_cache .mypy_cache .ruff_cache
	@find avo_lib book tests tools -name __pycache__ -prune -exec rm -rf {} +

.venv/.installed: ALWAYS # whether it is current is more than a matter of times: see there
	@command -v $(PYTHON) >/dev/null \
	  || { echo "There is no $(PYTHON): install Python 3.11 or newer, or name it, as in make PYTHON=python3.11 book" >&2; exit 1; }
	@$(PYTHON) tools/install.py

ALWAYS:
