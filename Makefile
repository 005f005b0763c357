# `make help` lists the targets. A fresh machine needs only Python (3.11 or newer), make and git: everything else goes
# into virtual environments in this folder, one for each Python version (make test PYTHON=python3.13).

# The first Python that is new enough, unless one is named.
ifndef PYTHON
PYTHON := $(shell for p in python3 python3.13 python3.14 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done; true)
endif
# Where it really is: behind pyenv's and other tools' shims, a name may mean another Python in another folder.
INTERPRETER := $(if $(PYTHON),$(shell $(PYTHON) -c 'import sys; print(sys.executable)' 2>/dev/null))
VERSION := $(if $(INTERPRETER),$(shell $(INTERPRETER) -c 'import sys; print("%d.%d" % sys.version_info[:2])'))

# The Python of template.yaml's Runtime, which makes the bytecode in the artifacts.
RUNTIME_PYTHON ?= $(shell for p in python3.13 $(HOME)/.pyenv/versions/3.13*/bin/python3.13 \
	$(PYENV_ROOT)/versions/3.13*/bin/python3.13; do $$p -c '' 2>/dev/null && echo $$p && break; done; true)

DEV := .venv-$(VERSION)
LOCAL := .venv-local-$(VERSION)
SAM := .venv-sam-$(VERSION)
AUDIT := .venv-audit-$(VERSION)
RELEASE := .venv-release-$(VERSION)
AGENTS := .venv-agents-$(VERSION)
DOCS := .venv-docs-$(VERSION)
BIN := $(DEV)/bin
LOCKS := infra/locks

CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/landfall
UV_VERSION := 0.13.9
UV := $(CACHE)/uv-$(UV_VERSION)/bin/uv

# Imports are compiled once, not by each process: functions start four times faster.
export PYTHONDONTWRITEBYTECODE :=
# uv finds packages where pip does on this machine, and trusts what the machine trusts.
export UV_PYTHON_DOWNLOADS := never
export UV_SYSTEM_CERTS := true
export UV_LINK_MODE := copy
# SAM sends no telemetry.
export SAM_CLI_TELEMETRY := 0
ifdef PIP_INDEX_URL
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
endif
ifdef PIP_FIND_LINKS
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
endif

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo run smoke test unit check compat servers agents chaos fuzz simulate bench sam-local rie artifacts release docs style template lint audit \
	iam tables format lock clean distclean check-runtime-python check-python

help: ## list all targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{ printf "  make %-10s %s\n", $$1, $$2 }'

demo: $(LOCAL)/.installed ## two Destinations become Ready, on a bucket and on Git (KEEP=1 leaves it running, VERBOSE=1)
	@$(LOCAL)/bin/python -m infra.local demo $(if $(KEEP),--keep) $(if $(VERBOSE),--verbose)

run: $(LOCAL)/.installed ## run the deployment on this machine for the cluster of KUBECONFIG, until Ctrl-C (CONTEXT=…, RESYNC=seconds, VERBOSE=1)
	@$(LOCAL)/bin/python -m infra.local run $(if $(CONTEXT),--context $(CONTEXT)) \
		$(if $(RESYNC),--resync-seconds $(RESYNC)) $(if $(VERBOSE),--verbose)

smoke: $(LOCAL)/.installed ## check a deployed stack, deliver one document and write a report (STACK=…, STORE=… or BUCKET=…; CONTEXT=…)
	@test -n "$(STACK)" || { echo "name the stack: make smoke STACK=landfall STORE=default" >&2; exit 2; }
	@$(LOCAL)/bin/python -m infra.smoke '$(STACK)' $(if $(STORE),--store '$(STORE)') $(if $(BUCKET),--bucket '$(BUCKET)') \
		$(if $(ENDPOINT),--endpoint '$(ENDPOINT)') $(if $(SECRET),--secret '$(SECRET)') $(if $(PREFIX),--path '$(PREFIX)') \
		$(if $(CLUSTER),--cluster '$(CLUSTER)') $(if $(CONTEXT),--context '$(CONTEXT)') \
		$(if $(NAMESPACE),--namespace '$(NAMESPACE)') $(if $(FORWARDER),--forwarder '$(FORWARDER)') \
		$(if $(SECONDS),--seconds '$(SECONDS)') $(if $(OUTPUT),--output '$(OUTPUT)')

setup: $(DEV)/.installed $(LOCAL)/.installed $(SAM)/.installed $(RELEASE)/.installed ## create all virtual environments now, not when a target needs them

# One worker for each core, each with its own servers: kinds and roles of a kube-apiserver are shared by all its tests.
# WORKERS=0 runs tests in one process. More than four would need much memory.
PYTEST = $(BIN)/python -m pytest -n $(or $(WORKERS),auto) --maxprocesses 4

test: $(SAM)/.installed $(RELEASE)/.installed servers ## run all tests (PYTEST_ARGS="tests/contract -x", WORKERS=2)
	@$(PYTEST) $(PYTEST_ARGS)

unit: $(DEV)/.installed ## run the tests that need no servers, under a minute
	@$(PYTEST) tests/unit $(PYTEST_ARGS)

check: lint unit ## run before each commit: lint and unit

compat: servers ## run the tests that may differ on another Python (PYTHON=python3.11)
	@$(PYTEST) -m interpreter $(PYTEST_ARGS)

servers: $(DEV)/.installed ## build the servers for tests that are not in the cache yet
	@$(BIN)/python -m tests.servers.build

agents: servers $(AGENTS)/.installed ## build and install the agents once, and run the tests in which they apply what is written (PYTEST_ARGS="-k none")
	@$(BIN)/python -m tests.servers.build agents
	@$(PYTEST) tests/agents $(PYTEST_ARGS)

chaos: servers ## inject faults for ten minutes, and compare stores and statuses with a model (MINUTES=…, SEED=…)
	@$(BIN)/python -m tests.chaos --minutes $(or $(MINUTES),10) $(if $(SEED),--seed $(SEED))

fuzz: $(DEV)/.installed ## run operations in every order of events: pairs (BOUND=single, faults or double), then random ones (SCHEDULES=…, SEED=…)
	@$(BIN)/python -m tests.interleavings systematic --bound $(or $(BOUND),faults)
	@$(BIN)/python -m tests.interleavings fuzz --schedules $(or $(SCHEDULES),10000) --seed $(or $(SEED),0)

simulate: $(DEV)/.installed ## simulate a fleet in memory: time to Ready, and calls (DESTINATIONS=1000 LATENCIES="--store 0.05 --cold 3")
	@$(BIN)/python -m tests.interleavings simulate --destinations $(or $(DESTINATIONS),1000) $(LATENCIES)

bench: servers ## measure, and compare with peers (ONLY=name,name* ROUNDS=3; KRATIX_BIN=its manager); report: .landfall/bench/
	@$(BIN)/python -m tests.benchmarks --rounds $(or $(ROUNDS),3) $(if $(ONLY),--only '$(ONLY)')

sam-local: check-runtime-python $(LOCAL)/.installed $(SAM)/.installed ## invoke every function with sam local invoke, on Docker or podman (KEEP=1)
	@$(LOCAL)/bin/python -m infra.local sam-local --sam $(SAM)/bin/sam --python $(RUNTIME_PYTHON) $(if $(KEEP),--keep)

rie: check-runtime-python $(LOCAL)/.installed $(SAM)/.installed ## the same without containers (FUNCTION=write-canary EVENT=file ENV_VARS=file)
	@$(LOCAL)/bin/python -m infra.local rie --sam $(SAM)/bin/sam --python $(RUNTIME_PYTHON) \
		$(if $(FUNCTION),--function $(FUNCTION)) $(if $(EVENT),--event $(EVENT)) $(if $(ENV_VARS),--env-vars $(ENV_VARS))

artifacts: check-runtime-python ## build the functions' artifacts in .landfall/artifacts, and print their sizes (ARCHITECTURE=arm64)
	@$(RUNTIME_PYTHON) infra/artifacts.py --architecture $(or $(ARCHITECTURE),x86_64) .landfall/artifacts

release: check-runtime-python $(SAM)/.installed $(RELEASE)/.installed ## build dist/, the files of a release (IMAGE=the forwarder's, repository@sha256:digest)
	@$(SAM)/bin/python -m infra.release --python $(RUNTIME_PYTHON) --cyclonedx $(RELEASE)/bin/cyclonedx-py \
		$(if $(IMAGE),--image $(IMAGE)) dist

docs: $(DOCS)/.installed ## build the documentation as a site in .landfall/site; a dead link fails (SERVE=1 shows it while you write)
	@NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs $(if $(SERVE),serve,build) --config-file infra/site/mkdocs.yml

style: $(DEV)/.installed ## the part of lint that takes seconds: style and import layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

template: $(DEV)/.installed ## the part of lint that is about template.yaml
	$(BIN)/cfn-lint template.yaml

lint: style template ## check style, import layers, types and the template
	$(BIN)/mypy .

audit: $(SAM)/.installed $(AUDIT)/.installed ## validate the template as SAM does, and run a policy scanner
	@$(SAM)/bin/sam validate --lint
	@mkdir -p .landfall
	@$(SAM)/bin/python -m infra.deployment.transform > .landfall/transformed.json
	@$(AUDIT)/bin/checkov --config-file infra/deployment/checkov.yaml --file .landfall/transformed.json

iam: $(SAM)/.installed ## print each function's IAM permissions as a table
	@$(SAM)/bin/python -m infra.deployment.iam

tables: $(SAM)/.installed $(DEV)/.installed ## regenerate the tables of docs/security.md
	@$(SAM)/bin/python -m infra.deployment.iam | $(BIN)/python -m infra.deployment.tables iam docs/security.md
	@$(BIN)/python -m tests.servers.build kube-apiserver
	@$(BIN)/python -m tests.infra.can_i | $(BIN)/python -m infra.deployment.tables rbac docs/security.md

format: $(DEV)/.installed ## format the code, and fix what ruff can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The functions' lock comes first; what only the demo or the tests need must fit to it.
COMPILE = $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	--no-emit-index-url $(UPGRADE)
lock: $(UV) ## resolve pyproject.toml into infra/locks (UPGRADE=--upgrade takes newer versions)
	@echo "Resolving pyproject.toml"
	@$(COMPILE) pyproject.toml -o $(LOCKS)/requirements.txt
	@$(COMPILE) pyproject.toml --extra cli --group local -c $(LOCKS)/requirements.txt -o $(LOCKS)/requirements-local.txt
	@$(COMPILE) --group forwarder -c $(LOCKS)/requirements.txt -o $(LOCKS)/requirements-forwarder.txt
	@$(COMPILE) pyproject.toml --extra cli --group dev -c $(LOCKS)/requirements-local.txt -c $(LOCKS)/requirements-forwarder.txt -o $(LOCKS)/requirements-dev.txt
	@$(COMPILE) --group sam -o $(LOCKS)/requirements-sam.txt
	@$(COMPILE) --group audit -o $(LOCKS)/requirements-audit.txt
	@$(COMPILE) --group release -o $(LOCKS)/requirements-release.txt
	@$(COMPILE) --group docs -o $(LOCKS)/requirements-docs.txt
	@$(COMPILE) --group agents -o $(LOCKS)/requirements-agents.txt
	@$(COMPILE) --group emulation -o $(LOCKS)/requirements-emulation.txt

clean: ## delete caches and results
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .aws-sam .landfall dist
	find functions infra shared tests -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## delete the virtual environments too
	rm -rf .venv-*

$(DEV)/.installed: $(LOCKS)/requirements-dev.txt | check-python $(UV)
	$(call install,$(DEV),$<)

$(LOCAL)/.installed: $(LOCKS)/requirements-local.txt | check-python $(UV)
	$(call install,$(LOCAL),$<)

$(SAM)/.installed: $(LOCKS)/requirements-sam.txt | check-python $(UV)
	$(call install,$(SAM),$<)

$(AUDIT)/.installed: $(LOCKS)/requirements-audit.txt | check-python $(UV)
	$(call install,$(AUDIT),$<)

$(RELEASE)/.installed: $(LOCKS)/requirements-release.txt | check-python $(UV)
	$(call install,$(RELEASE),$<)

$(DOCS)/.installed: $(LOCKS)/requirements-docs.txt | check-python $(UV)
	$(call install,$(DOCS),$<)

$(AGENTS)/.installed: $(LOCKS)/requirements-agents.txt | check-python $(UV)
	$(call install,$(AGENTS),$<)

# Make an environment hold exactly what a lock says. $(1): the environment, $(2): the lock.
define install
@echo "Installing $(2) into $(1)"
@test -x $(1)/bin/python || $(UV) venv --quiet --python $(INTERPRETER) $(1)
@VIRTUAL_ENV=$(1) $(UV) pip sync --quiet --require-hashes --compile-bytecode $(2)
@touch $@
endef

# uv, pinned, outside the tree: in a few seconds it does what takes pip a minute.
$(UV): | check-python
	@echo "Installing uv $(UV_VERSION) into $(CACHE)"
	@mkdir -p $(CACHE)
	@$(INTERPRETER) -m venv $(CACHE)/uv-$(UV_VERSION) >/dev/null 2>&1 \
		&& $(CACHE)/uv-$(UV_VERSION)/bin/python -m pip install --quiet uv==$(UV_VERSION) \
		|| $(INTERPRETER) -m pip install --quiet --target $(CACHE)/uv-$(UV_VERSION) uv==$(UV_VERSION) \
		|| { echo "uv cannot be installed: is the network there, and does $(PYTHON) have pip?" \
			"(Debian and Ubuntu: apt-get install python3-venv)" >&2; exit 1; }

check-runtime-python:
	@test -n "$(RUNTIME_PYTHON)" || { echo "the functions run on Python 3.13, and none is here: install it" \
		"(pyenv install 3.13), or name it: make … RUNTIME_PYTHON=/path/to/python3.13" >&2; exit 1; }

check-python:
	@test -n "$(VERSION)" || { echo "Landfall needs Python 3.11 or newer, and" \
		"$(if $(PYTHON),$(PYTHON) cannot be run,none is on the PATH): install it, or name it: make … PYTHON=python3.13" >&2; exit 1; }
	@$(INTERPRETER) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Landfall needs Python 3.11" \
		"or newer, and $(PYTHON) is $(VERSION): name another: make … PYTHON=python3.13" >&2; exit 1; }
