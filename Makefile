# `make demo` and `make test` set up all they need, on a Debian or Ubuntu machine with Python 3.11 or newer.

PYTHON := $(shell for p in python3.13 python3.12 python3.11 python3; do \
    command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DOCS_READY := $(VENV)/.docs-ready
BENCH_READY := $(VENV)/.bench-ready
ENGINE := $(VENV)/.engine-of-site
# Files of tests run side by side (pytest-xdist), in the order of testing/order.py: CALM as many as there are cores,
# REAL more, since tests with a real Consul wait most of the time.
CORES := $(shell nproc)
TESTS := $(BIN)/python -m pytest --dist loadfile --no-loadscope-reorder
CALM := $(TESTS) -n $(CORES)
REAL := $(TESTS) -n $(shell expr $(CORES) \* 3 / 2)

.PHONY: help setup demo demo-fleet demo-local site site-down test test-unit test-real test-parts test-arm64 chaos-fleet lint format docs bench soak fleet-bench counts fleet-model fleet-sim mutants release requirements clean

help:  ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' Makefile | expand -t 16

setup: $(READY)  ## virtual environment with all tools

$(READY): requirements/dev.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: apt-get install python3" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || tools/apt-install python3-venv
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: $(READY)  ## the main scenario from start to end, with explanations
	@CONSUL_BINARY=$$(tools/consul --newest) tools/with-parts --try-docker $(BIN)/python -m tools.demo

demo-fleet: $(READY)  ## a good and a bad change roll through 12 instances, without Docker, with explanations
	@CONSUL_BINARY=$$(tools/consul --newest) $(BIN)/python -m tools.demo_fleet

demo-local: $(READY)  ## a service configured from a file, without Consul or Docker
	@$(BIN)/python -m tools.demo_local

site: $(READY)  ## a complete example site, in containers: http://127.0.0.1:8080/
	@DOCKER_HOST=$$(tools/docker-engine start-for $(ENGINE)) && export DOCKER_HOST && \
	    CONSUL_BINARY=$$(tools/consul --newest) tools/with-parts $(BIN)/python -m tools.site up

site-down: $(READY)  ## stop the site, and the Docker engine if `make site` started it
	@DOCKER_HOST=$$(tools/docker-engine start-for $(ENGINE)) && export DOCKER_HOST && $(BIN)/python -m tools.site down
	@tools/docker-engine stop-for $(ENGINE)

test: lint docs-site test-unit test-real  ## style, pages, and all tests but the long ones (minutes)

test-unit: $(READY)  ## tests without Docker or Consul
	$(CALM) -m 'not consul and not docker'

test-real: $(READY)  ## tests with the real Consul and the real Docker engine, but the long ones
	tools/with-parts $(REAL) -m '(consul or docker) and not long and not parts'

test-parts: $(READY)  ## all other tests (an hour): roll-outs, images, the site, Ansible, chaos, Elasticsearch and Spark (Java), and with Consul 1.14 and Vault, built here (Go), all tests of Consul
	tools/apt-install mariadb-server-core mariadb-client-core
	CONSUL_BINARY=$$(tools/consul 1.14.5) VAULT_BINARY=$$(tools/vault 1.13.0) tools/with-parts --no-docker $(REAL) -m 'consul and not docker and not chaos'
	tools/with-parts $(REAL) -m 'long and not parts'
	tools/with-parts $(CALM) -m 'docker and parts'

chaos-fleet: $(READY)  ## roll-outs with all failures of docs/chaos-fleet.md over FLEET_INSTANCES=12, 40 or 200 instances (with 12: ten minutes)
	tools/with-parts --no-docker $(CALM) tests/chaos/test_fleet.py tests/chaos/test_fleet_auto.py tests/chaos/test_fleet_odd.py

ARM64 := tests/docker/test_bundle.py tests/docker/test_images.py tests/docker/test_users.py tests/docker/test_foreign.py
ARM64_PLAIN := tests/inits tests/e2e/test_plain_init.py tests/e2e/test_lifecycle.py

test-arm64: $(READY)  ## the life of a service, a plain init, images and the bundle on arm64, emulated (qemu) where the machine is none
	tools/with-parts --arch arm64 $(REAL) --dist load -m 'docker and not parts' -k 'not build_fails' $(ARM64)
	tools/with-parts --arch arm64 tools/with-bundle $(REAL) --dist load -k 'not tini and not dumb' $(ARM64_PLAIN)

lint: $(READY)  ## style, types, and the words of the pages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	tools/prose

format: $(READY)  ## put the code into the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(DOCS_READY)  ## pages and pictures made from the code and from a run of the tests and the demo
	$(BIN)/python -m tools.settings_page
	$(BIN)/python -m tools.doctor_page
	$(BIN)/python -m tools.tables
	SVCINIT_WRITE_TABLE=1 tools/with-parts --no-docker $(BIN)/python -m pytest -q tests/inits
	SVCINIT_WRITE_TABLE=1 tools/with-parts $(BIN)/python -m pytest -q tests/chaos tests/site
	$(BIN)/python -m tools.failures_page
	$(BIN)/python -m tools.terminal_picture docs/demo.svg make demo
	$(BIN)/python -m tools.terminal_picture docs/demo-fleet.svg make demo-fleet

.PHONY: docs-site
docs-site: $(DOCS_READY)  ## the pages as a site, in build/site; a link that leads nowhere is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

$(DOCS_READY): requirements/docs.txt $(READY)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/docs.txt
	@touch $@

bench: $(BENCH_READY)  ## start-up, memory and following, beside the peers; DOCS=1: the pages in docs/ are made of it. ONLY=peers: one table
	tools/with-parts --try-docker $(BIN)/python -m bench $(if $(ONLY),--only $(ONLY)) $(if $(DOCS),--docs)

soak: $(BENCH_READY)  ## 200 instances on a Consul cluster that is restarted and upgraded, for SOAK_MINUTES=30; DOCS=1 as for bench
	tools/with-parts --no-docker $(BIN)/python -m bench --only soak $(if $(DOCS),--docs)

fleet-bench: $(BENCH_READY)  ## roll-outs over FLEET_INSTANCES=200 real instances: times, costs, and the rows of docs/chaos-fleet.md (an hour); DOCS=1 as for bench
	tools/with-parts --no-docker $(BIN)/python -m bench --only fleet $(if $(DOCS),--docs)
	FLEET_INSTANCES=$${FLEET_INSTANCES:-200} SVCINIT_WRITE_TABLE=$(DOCS) tools/with-parts --no-docker \
	    $(BIN)/python -m pytest -q -s tests/chaos/test_fleet.py tests/chaos/test_fleet_auto.py tests/chaos/test_fleet_odd.py

$(BENCH_READY): requirements/bench.txt $(READY)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/bench.txt
	@tools/apt-install gcc musl-tools patchelf
	@touch $@

counts: $(READY)  ## modules, requests, system calls, instructions, memory beside bench/counts.json; WRITE=1: that is made of them
	@tools/with-parts --no-docker $(BIN)/python -m bench.counts $(if $(WRITE),--write)

fleet-model: $(READY)  ## all orders of the turns of up to 3 instances, and 10,000 random histories of a fleet (a quarter of an hour)
	FLEET_MODEL=full $(BIN)/python -m pytest -q -s tests/model
	FLEET_EXAMPLES=10000 $(BIN)/python -m pytest -q tests/unit/fleet/test_fleet_invariants.py

fleet-sim: $(READY)  ## roll-outs over up to 10,000 simulated instances, as a table
	$(BIN)/python -m tools.fleet_sim

mutants: $(READY)  ## put faults into lifecycle/ and processes/, one at a time; print those that no test notices (hours). NAMES='svcinit.lifecycle.stop*'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/mutants.txt
	tools/mutants $(NAMES)
	$(if $(NAMES),,$(BIN)/python -m tools.mutants_on_disk $(if $(SAMPLE),--sample $(SAMPLE)))

release: $(READY)  ## dist/ made ready and checked, for two architectures, with sums and bills of materials; nothing is tagged or published
	@tools/with-parts --arch arm64 $(BIN)/python -m tools.release amd64 arm64

requirements:  ## pin the newest versions that requirements/*.in allow, with hashes
	$(PYTHON) -m venv $(VENV)/pin && $(VENV)/pin/bin/pip install --quiet pip-tools
	for file in requirements/*.in images/*/*.in images/shared/*/*.in examples/*/*/*.in; do \
	    CUSTOM_COMPILE_COMMAND='make requirements' $(VENV)/pin/bin/pip-compile --quiet --upgrade --generate-hashes \
	    --allow-unsafe --strip-extras --no-emit-index-url --no-emit-trusted-host --no-emit-find-links \
	    --output-file $${file%.in}.txt $$file; done

clean:  ## remove what was made here (not the cache in ~/.cache/svcinit)
	rm -rf $(VENV) build dist bench/out .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
