# make demo and make test do all their own set-up; everything lives in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: setup trainers demo test faults soak check format bench map scale figures docs dist clean

setup: $(VENV)/.installed

# What the demo needs: the package with its command line, and the programs that lay slow links.
# The stamps follow what decides an installation, so that an edit of it installs again.
$(VENV)/.runs: pyproject.toml constraints.txt scripts/setup.sh scripts/debian.sh
	sh scripts/setup.sh "$(PYTHON)" "$(VENV)"
	@touch $@

$(VENV)/.installed: $(VENV)/.runs scripts/development.sh
	sh scripts/development.sh "$(VENV)"
	@touch $@

# What `gradwire.integrations` is tested with: half a gigabyte that the demo does not need.
trainers: $(VENV)/.trainers

$(VENV)/.trainers: $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check --no-warn-conflicts --constraint constraints.txt \
		--editable '.[trainers]'
	@touch $@

demo: $(VENV)/.runs
	$(BIN)/gradwire demo

test: trainers
	sh scripts/debian.sh chromium:chromium
	$(BIN)/python -m pytest -n auto -m "not story"
	$(BIN)/python -m pytest -m "story and not campaign"

# Every fault at every door with every method: about an hour on two cores, and no cell begins after that.
faults: trainers
	GRADWIRE_FAULTS=all $(BIN)/python -m pytest -n auto --timeout 3600 tests/faults/test_fuzz.py
	$(BIN)/python -m pytest -m campaign
	$(BIN)/python tests/faults/campaign.py --minutes 60

soak: setup
	$(BIN)/python tests/faults/soak.py --steps 10000 --minutes 90

check: trainers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup
	$(BIN)/python benchmarks/latest.py

map: setup
	$(BIN)/python benchmarks/map.py

scale: setup
	cd benchmarks && ../$(BIN)/python scale.py && ../$(BIN)/python scale_page.py

figures: setup
	$(BIN)/gradwire lab figure all --output docs/figures

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet --site-dir site
	@echo "site/index.html is built; its search wants a server: $(BIN)/python -m http.server --directory site"

dist: setup
	$(BIN)/python scripts/dist.py

clean:
	rm -rf $(VENV) dist site .pytest_cache .ruff_cache .hypothesis .import_linter_cache gradwire-report.* gradwire-bench.*
