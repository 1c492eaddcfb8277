# Copyright (c) 2026 White Cross pgops contributors
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Two commands matter: 'make demo' and 'make test'. Paths are relative, so that a folder with a space works.

SHELL := /bin/sh
.DEFAULT_GOAL := help
# The first Python that is new enough; 'make demo PYTHON=/opt/python3.12/bin/python3' names another.
# Never that of a venv which is active now: it may be the very .venv that has to be made anew.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import sys; sys.version_info < (3, 11) and sys.exit(1); print(sys._base_executable)' 2>/dev/null && break; done)
# More workers than cores: a test waits for half of its time.
# Hundreds of processes start: without byte code each would compile its modules again.
PYTEST = env -u PYTHONDONTWRITEBYTECODE .venv/bin/python -m pytest -n 4 --dist worksteal

.NOTPARALLEL:

# Installs a lock into .venv once: the marks name the folder (scripts of a venv know their path), the Python, and the lock's checksum.
define install
	@"$(or $(PYTHON),false)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	  || { echo "Python 3.11 or later with venv is needed; install python3 and python3-venv." >&2; exit 1; }
	@made="$$PWD $$("$(PYTHON)" -c 'import sys; print(*sys.version.split())')"; want="$$(cksum $(1))"; \
	{ [ "$$(cat .venv/made 2>/dev/null)" = "$$made" ] && .venv/bin/python -c '' 2>/dev/null; } || rm -rf .venv; \
	[ "$$(cat .venv/$(1).installed 2>/dev/null)" = "$$want" ] || { \
	  echo "Installing $(1) into .venv ..."; \
	  "$(PYTHON)" -m venv .venv && printf '%s\n' "$$made" > .venv/made \
	  && .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(1) \
	  && echo "$$want" > .venv/$(1).installed; }
endef

.PHONY: help demo stop clean test test-all lint schema lock packages packages-all image venv venv-test

help:  ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1|/p' $(MAKEFILE_LIST) | while IFS='|' read -r name text; do printf '  make %-10s %s\n' "$$name" "$$text"; done

demo: venv  ## migrate an embedded PostgreSQL with data, end to end (ENV=local|staging, ROWS=2000000)
	@.venv/bin/python demo/run.py

stop:  ## stop the demo's PostgreSQL
	@[ -z "$(PYTHON)" ] || "$(PYTHON)" demo/run.py --stop

clean:  ## remove what demo and test made in this folder: .venv, .local, caches
	@[ -z "$(PYTHON)" ] || "$(PYTHON)" demo/run.py --clean
	@rm -rf .venv .local .ansible build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -not -path './collections/*' -prune -exec rm -rf {} +

test: packages venv-test image  ## lint, unit, integration and Molecule tests; at most 25 minutes on 2 cores
	@$(PYTEST) -m 'not slow'

test-all: packages-all venv-test image  ## the same and the long ones: more majors, long faults, sequelize-cli and prisma
	@$(PYTEST)

lint: venv-test  ## ruff, mypy --strict, yamllint, ansible-lint (production profile)
	@.venv/bin/python tests/setup/lint.py

schema: venv-test  ## write docs/schema.md and docs/order.md anew from sql/migrations, the tables of docs/preflight.md from sql/preflight, the form of docs/checklist.md
	@.venv/bin/python tests/setup/schema_pages.py
	@.venv/bin/python tests/setup/preflight_page.py
	@.venv/bin/python tests/setup/checklist_page.py

lock: venv-test  ## write requirements.lock and requirements-test.lock anew from the direct pins
	@.venv/bin/python tests/setup/lock.py

packages:  ## install the system packages that 'make test' needs (as root)
	@tests/setup/packages.sh

# The same and those of 'make test-all': node, npm and a browser.
packages-all:
	@tests/setup/packages.sh all

image: packages venv-test  ## build the image of the test hosts with podman
	@.venv/bin/python tests/image/build.py

venv:
	$(call install,requirements.lock)

venv-test:
	$(call install,requirements-test.lock)
