# `make` alone prints what there is. Every target does all the set-up that it needs.

# Pinned packages: onedl (requirements.txt) or official (requirements-official.txt).
STACK ?= onedl
VENV ?= .venv$(if $(filter-out onedl,$(STACK)),-$(STACK))
quoted = '$(subst ','\'',$1)'
PY := $(call quoted,$(VENV)/bin/python)

# The first interpreter that the pinned stacks exist for.
QUALIFIES := import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))
ifeq ($(origin PYTHON),undefined)
PYTHON := $(firstword $(foreach name,python3.11 python3.12 python3.10 python3,\
	$(shell $(name) -c '$(QUALIFIES)' >/dev/null 2>&1 && echo $(name))))
endif
CHOSEN := $(if $(filter command,$(origin PYTHON)),--python-chosen)

# The comparisons of make bench.
BENCH ?= configs/benchmarks.yml

# One thread: on a machine that does something else as well, OpenMP threads spin for each other and
# the tests take ten times as long.
THREADS ?= 1
# Processes for the tests: half of them each, and whoever is done first takes over from the other.
JOBS ?= 2
PYTEST := OMP_NUM_THREADS=$(THREADS) MMTOKEN_CONFIGS='$(CONFIGS)' \
	$(PY) -m pytest -q -m 'not slow and not gpu' -n $(JOBS) --dist worksteal \
	$(if $(CONFIGS),$(wildcard tests/$(CONFIGS)) tests/contracts)

.PHONY: help setup demo test check bench

help:
	@echo 'make demo    train, evaluate and draw a small pose estimator'
	@echo '             (TASK=detection: a Mask R-CNN, TASK=segmentation: a segmentor)'
	@echo 'make test    run the fast tests, in about 8 minutes (JOBS=2 THREADS=1)'
	@echo '             (CONFIGS=PAPER: only tests/PAPER and the contracts, for its configs)'
	@echo 'make check   format, lint, documented arguments, then the fast tests'
	@echo 'make bench   our backbones next to plain ones: time, memory, multiply-adds (THREADS=1)'
	@echo
	@echo 'Each first sets up what it needs in VENV=.venv with PYTHON=python3.11 (3.10 to 3.12),'
	@echo 'from requirements.txt (STACK=official: requirements-official.txt in .venv-official).'
	@echo 'This compiles for 6 to 48 minutes the first time on a machine, and once only:'
	@echo 'wheels are kept in MMTOKEN_WHEEL_CACHE (~/.cache/mmtoken/wheels).'

setup:
	@$(call quoted,$(PYTHON)) -c '$(QUALIFIES)' || { echo 'set-up: MMToken needs Python 3.10 to' \
		'3.12, got PYTHON='$(call quoted,$(or $(PYTHON),none on PATH))'; install one (Debian: apt-get' \
		'install python3.11 python3.11-venv python3.11-dev) or name another:' \
		'make PYTHON=/path/to/python3.11' >&2; exit 1; }
	@$(call quoted,$(PYTHON)) tools/setup_env --venv $(call quoted,$(VENV)) \
		--stack $(call quoted,$(STACK)) $(CHOSEN)

demo: setup
	$(PY) tools/demo.py $(if $(TASK),--task $(TASK))

test: setup
	$(PYTEST)

check: setup
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m pydoclint.main -q projects tools
	$(PYTEST)

bench: setup
	OMP_NUM_THREADS=$(THREADS) $(PY) tools/analysis/bench.py $(call quoted,$(BENCH))
