# The tools live in .venv, which the first target that needs it creates: `make book` is enough on a clean clone.
PYTHON ?= python3
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help book test check notebooks experiment clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

book: .venv/.installed ## Build the book and say which page to open
	@$(BIN)/jupyter-book build . -W -n --keep-going
	@echo "Open $(CURDIR)/_build/html/index.html"

test: .venv/.installed ## Run all tests, and every notebook cell against its stored output, one process a core
	@$(BIN)/pytest --nbval --numprocesses auto --dist loadfile --no-loadscope-reorder

check: .venv/.installed ## Run what is quick: linters, types, unit tests, doctests, notebook hygiene
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy avo_lib
	@$(BIN)/python tools/notebooks.py check
	@$(BIN)/pytest --quiet tests avo_lib --ignore tests/book/test_offline.py --ignore tests/book/test_browser.py

notebooks: .venv/.installed ## Run the notebooks again in place and normalise them
	@$(BIN)/python tools/notebooks.py run

experiment: .venv/.installed ## Train and evaluate all models of the report protocol again, into runs/results; an hour and a half on two cores
	@$(BIN)/python -m avo_lib sweep --experiment report --seeds 0 1 2 --results runs/results

clean: ## Remove what was built, but not .venv
	@rm -rf _build .pytest_cache .mypy_cache .ruff_cache
	@find avo_lib book tests tools -name __pycache__ -prune -exec rm -rf {} +

.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "$(PYTHON) is missing or older than 3.11: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	  || { echo "$(PYTHON) has no venv module: on Debian and Ubuntu install the package python3-venv" >&2; exit 1; }
	@$(PYTHON) -m venv .venv
	@echo "Installing into .venv, which takes a few minutes ..."
	@$(BIN)/python -m pip install --quiet --editable '.[book,test]' --constraint constraints.txt
	@touch $@
