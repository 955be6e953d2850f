# SPDX-License-Identifier: GPL-3.0-or-later
# Everything is made below .venv/, .state/ and build/; nothing else is touched.
SHELL := /bin/bash
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
COLLECTION := build/ansible_collections/holdfast/raft
INVENTORY ?= inventories/local.yml
# Where the nodes of this machine are, and the inventory with all that there may be.
STATE = $(or $(HOLDFAST_STATE_DIR),.state/local)
CLEAN_INVENTORY = $(if $(filter inventories/local.yml,$(INVENTORY)),inventories/local-grow.yml,$(INVENTORY))
# What `make dist` packs: one wheel set per Python, machine and C library.
TARGETS ?= $(foreach p,311 312 313 314,$(foreach m,x86_64 aarch64,cp$(p)-$(m)-glibc2.28))

export PATH := $(CURDIR)/$(BIN):$(PATH)
export ANSIBLE_CONFIG := $(CURDIR)/ansible.cfg
export ANSIBLE_COLLECTIONS_PATH := $(CURDIR)/build
export ANSIBLE_HOME := $(CURDIR)/.state/ansible
export PYTHONDONTWRITEBYTECODE := 1
export RUFF_CACHE_DIR := $(CURDIR)/.state/ruff
export MYPY_CACHE_DIR := $(CURDIR)/.state/mypy
export PYTEST_ADDOPTS := -p no:cacheprovider

.PHONY: help
help: ## Show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sort | awk -F':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

$(BIN)/.ready: requirements/dev.txt node/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "Python 3.11 or later is needed: sudo apt install python3 python3-venv, or make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "The venv module is missing: sudo apt install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements/dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -e ./node
	@touch $@

$(COLLECTION):
	@mkdir -p $(dir $@) && ln -sfn ../../.. $@

.PHONY: venv
venv: $(BIN)/.ready $(COLLECTION)

.PHONY: cluster
cluster: venv ## Build three nodes on this machine, or bring them up to date
	ansible-playbook -i $(INVENTORY) playbooks/build.yml

.PHONY: status
status: venv ## Show the cluster of this machine
	ansible-playbook -i $(INVENTORY) playbooks/status.yml

.PHONY: clean
clean: ## Stop the nodes of this machine and remove all they left
	@if [ -x $(BIN)/ansible-playbook ]; then \
	  if [ -d $(STATE) ]; then \
	    $(MAKE) --no-print-directory $(COLLECTION) && ansible-playbook -i $(CLEAN_INVENTORY) playbooks/clean.yml; \
	  fi; \
	fi
	@for state in $(sort $(STATE) $(wildcard .state/* .state/*/*/cluster)); do \
	  if ls $$state/run/*/state.json >/dev/null 2>&1; then \
	    echo "Nodes may run below $$state: stop them with 'make venv' and 'make clean HOLDFAST_STATE_DIR=$$state' before their data goes"; \
	    exit 1; \
	  fi; \
	done
	rm -rf .state build dist roles/node/files/holdfast-*.whl

.PHONY: distclean
distclean: clean ## Also remove the tools
	rm -rf $(VENV)

.PHONY: demo
demo: venv ## Build, fill, grow, shrink, snapshot, restore, restore into a new cluster, with progress
	$(BIN)/python tools/demo.py

.PHONY: check
check: venv ## Linters and types
	cd node && ../$(BIN)/ruff check . && ../$(BIN)/mypy && ../$(BIN)/lint-imports --no-cache
	ruff check plugins tests tools roles bench && ruff format --check plugins tests tools roles bench
	yamllint -s .
	ansible-lint --offline
	antsibull-changelog lint

.PHONY: test-unit
test-unit: venv ## Unit tests of node and collection
	cd node && ../$(BIN)/python -m pytest -q
	$(BIN)/python -m pytest -q -n 2 tests/unit

.PHONY: sim
sim: venv ## The consensus under 500 seeds of crashes, cuts, bad disks and torn writes
	cd node && ../$(BIN)/python -m tests.sim 1 500

.PHONY: mutants
mutants: venv ## Whether the simulator finds faults that are put in on purpose
	cd node && ../$(BIN)/python -m tests.sim.mutants

.PHONY: faults
faults: venv ## Real servers under kills, sleeps, cuts, bad disks and bad clocks; a million acknowledged writes under kill -9
	cd node && HOLDFAST_FAULTS=long ../$(BIN)/python -m pytest -q tests/faults
	cd node && ../$(BIN)/python -m tests.raft.kills 1000000

.PHONY: test-plays
test-plays: venv ## Whole plays on local nodes, AWX jobs, and the molecule scenario
	$(BIN)/python -m pytest -q -n 2 --dist loadfile tests/playbooks
	$(BIN)/python tools/molecule.py test

.PHONY: test
test: check test-unit test-plays ## Everything

.PHONY: dist
dist: venv ## The node's wheel, its archive for hosts without internet, and the Galaxy artefact, in dist/
	rm -f roles/node/files/holdfast-*.whl && mkdir -p dist
	SOURCE_DATE_EPOCH=1767225600 $(BIN)/pip wheel --quiet --no-deps -w roles/node/files ./node
	$(BIN)/python roles/node/files/build_archive.py --source node --cache dist $(TARGETS:%=--target=%)
	ansible-galaxy collection build --force --output-path dist

.PHONY: lock
lock: venv ## Resolve the dependencies anew
	tools/lock

.PHONY: bench
bench: venv ## Measure, side by side with what is installed of the peers
	$(BIN)/python -m bench
	$(BIN)/python -m bench.raft_layer
