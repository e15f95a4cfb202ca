# `make demo` and `make test` need nothing but Python 3.11 or newer: they set up .venv on their first call.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# A process for every core, up to eight; what a file's tests share is made once.
PYTEST := $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder
READY := $(VENV)/.ready
IMAGES := samples/images
RUN := $(BIN)/bdscan inspect --clean $(IMAGES)

.DEFAULT_GOAL := help
.PHONY: help demo test test-all lint check samples reference bench bench-cpu golden architecture vouched index rules picture clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "bdscan needs Python 3.11 or newer, and \`$(PYTHON)\` is not one"; \
	  echo "hint: make $(or $(MAKECMDGOALS),demo) PYTHON=python3.12"; exit 1; }
	@echo "setting up $(VENV) (the first time takes minutes: torch is large)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: $(READY) ## inspect both samples and write their reports to out/
	@mkdir -p out
	@for name in backdoored clean; do \
	  status=0; $(RUN) samples/models/$$name.pt --output out/$$name.html || status=$$?; \
	  case $$status in 0) meaning="clean";; 1) meaning="found";; 3) meaning="could not tell";; *) exit $$status;; esac; \
	  echo "samples/models/$$name.pt: exit status $$status ($$meaning), report in out/$$name.html"; \
	done

test: $(READY) ## all tests but the slow ones
	@$(PYTEST) -m "not slow"

test-all: $(READY) ## all tests
	@$(PYTEST)

lint: $(READY) ## formatting, lint and types
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

check: lint test ## formatting, lint, types and tests: what goes before a commit

samples: $(READY) ## draw the signs and train the twins again
	@$(BIN)/python -m samples.make

reference: $(READY) ## train clean nets on signs and measure how they score (MODELS=DIR CLEAN=DATA [ARCH=FILE.py]: and yours)
	@$(BIN)/python -m samples.reference out/reference
	@$(BIN)/bdscan bench reference --models out/reference --clean $(IMAGES) \
	  $(if $(MODELS),--models $(MODELS) --clean $(CLEAN)) $(if $(ARCH),--arch $(ARCH)) --results out/reference-results

bench: $(READY) ## count what is found among the samples, and how fast
	@$(BIN)/bdscan bench detect --models samples/models --clean $(IMAGES) --results out/bench

# The CPU tier of bench/README.md. One thread a process, so that sums come out alike however many cores there are.
TIER := out/cpu
PLANTS := badnets badnets:all_to_all=true blend lowfreq:amplitude=0.2 ftrojan:magnitude=60 sig adaptive_blend \
  bpp:levels=4 wanet:strength=1 label_consistent@0.05 trojannn
JOBS ?= 2

bench-cpu: $(READY) ## plant, inspect and purify small CIFAR-10 nets (CIFAR=cifar10:ROOT, JOBS=2)
	@test -n "$(CIFAR)" || { echo "say where the images are: make bench-cpu CIFAR=cifar10:ROOT"; exit 2; }
	@mkdir -p $(TIER)
	@$(BIN)/python bench/draw.py $(CIFAR) $(TIER)/look.npz=500 $(TIER)/clean.npz=2500 $(TIER)/test.npz=2000
	@OMP_NUM_THREADS=1 $(BIN)/bdscan bench plant --data $(CIFAR) --test $(TIER)/test.npz --images 10000 --epochs 10 --batch 32 \
	  --arch wrn-16-1 --normalize cifar10 $(PLANTS:%=--plant %) --rate 0.1 --controls 10 \
	  --models $(TIER)/models --results $(TIER)/results --jobs $(JOBS)
	@OMP_NUM_THREADS=1 $(BIN)/bdscan bench detect --models $(TIER)/models --clean $(TIER)/look.npz \
	  --results $(TIER)/results --jobs $(JOBS)
	@OMP_NUM_THREADS=1 $(BIN)/bdscan bench purify --models $(TIER)/models --clean $(TIER)/clean.npz --test $(TIER)/test.npz \
	  --method nba --results $(TIER)/results --jobs $(JOBS)
	@$(BIN)/bdscan bench table $(TIER)/results --output $(TIER)/tables.md --output $(TIER)/tables.html --output $(TIER)/results.json

golden: $(READY) ## accept the reports as they are now
	@BDSCAN_GOLDEN=write $(BIN)/python -m pytest tests/test_report.py

architecture: $(READY) ## draw picture and rooms of ARCHITECTURE.md from the imports
	@$(BIN)/python -m docs.architecture

vouched: $(READY) ## list the classes that pickled nets are made of, from the libraries here
	@$(BIN)/python -m docs.vouched_classes

rules: $(READY) ## write the constants of the verdict into docs/verdict.md
	@$(BIN)/python -m docs.rules

index: $(READY) ## list the libraries' classifiers by their tensors, from those that are here
	@$(BIN)/python -m docs.library_index

picture: $(READY) ## photograph the report of a sample for the README (needs chromium)
	@mkdir -p out
	@$(RUN) samples/models/backdoored.pt --exit-zero --output out/backdoored.html
	@$(BIN)/python -m docs.picture out/backdoored.html docs/report.png

clean: ## remove what was built, the environment too
	@rm -rf $(VENV) out build dist *.egg-info
