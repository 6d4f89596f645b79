# Everything a developer or an operator types. `make` lists it.

PYTHON ?= python3
PORT ?= 8082
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# An environment whose Python is gone (upgraded, moved) is made again.
BROKEN := $(shell test -x $(BIN)/python || rm -rf $(STAMP))

.DEFAULT_GOAL := help
.PHONY: help setup build run test check format clean clean-data settle verify operate health health-detailed pending \
	bench bench-quick bench-modes bench-operations bench-guarantees bench-functions slow-commit growth chaos protocol test-redis-failure test-redis-failure-real recovery-times restore-drill rolling-restart docker-up docker-down \
	test-simple test-tps test-setup test-status test-reset test-clean \
	test-multi test-multi-simple setup-multi reset-multi status-multi scenario

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## make the environment in .venv (again only when the lock changed)

$(STAMP): requirements-dev.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/python || rm -rf $(VENV)
	@echo "making the environment in $(VENV) (once; about half a minute) ..."
	@$(PYTHON) -m venv $(VENV) \
		|| { echo "this Python cannot make environments; on Debian: apt-get install python3-venv"; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.lock
	@touch $@

build: setup ## make the environment and compile every module
	@$(BIN)/python -m compileall -q app subbalance

run: setup ## start the service with its own Redis and PostgreSQL, unless REDIS_URL / DATABASE_URL are set
	@PORT=$(PORT) exec $(BIN)/python -m app.run

test: setup ## run all tests on private servers, then the short TPS test
	@$(BIN)/python -m pytest
	@PORT=$(PORT) $(BIN)/python -m bench.load test-short

test-simple: setup ## the manual test and a first look at one account; report in reports/
	@PORT=$(PORT) $(BIN)/python -m bench.load test-simple $(OPTIONS)

test-tps: setup ## one account at 10, 30, 50, 100 TPS, balances checked; report in reports/
	@PORT=$(PORT) $(BIN)/python -m bench.load test-tps $(OPTIONS)

test-setup: setup ## open or top up ACC001 on the running service
	@PORT=$(PORT) $(BIN)/python -m bench.load test-setup

test-status: setup ## show ACC001
	@PORT=$(PORT) $(BIN)/python -m bench.load test-status

test-reset: setup ## bring ACC001 back to its test balance by one transaction
	@PORT=$(PORT) $(BIN)/python -m bench.load test-reset

test-clean: setup ## reset all test accounts and remove the load tests' reports
	@PORT=$(PORT) $(BIN)/python -m bench.load test-clean

test-multi: setup ## MULTI001..005 at 10 to 300 TPS, balances checked; report in reports/
	@PORT=$(PORT) $(BIN)/python -m bench.load test-multi $(OPTIONS)

test-multi-simple: setup ## the same
	@PORT=$(PORT) $(BIN)/python -m bench.load test-multi-simple $(OPTIONS)

setup-multi: setup ## open or top up MULTI001..005 on the running service
	@PORT=$(PORT) $(BIN)/python -m bench.load setup-multi

status-multi: setup ## show MULTI001..005
	@PORT=$(PORT) $(BIN)/python -m bench.load status-multi

reset-multi: setup ## bring MULTI001..005 back to their test balance
	@PORT=$(PORT) $(BIN)/python -m bench.load reset-multi

scenario: setup ## a load of any rate: make scenario SCENARIO="--rates 1000,3000 --seconds 60", --knee, --help
	@PORT=$(PORT) $(BIN)/python -m bench.load scenario $(SCENARIO)

check: setup ## linters, types and the layers of the architecture
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: setup ## format the code
	@$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format .

settle: setup ## settle what is pending now (needs DATABASE_URL and REDIS_URL, or `make run` in this checkout)
	@$(BIN)/python -m app.run settle

verify: setup ## prove that the books are right (needs DATABASE_URL and REDIS_URL, or `make run` in this checkout)
	@$(BIN)/python -m app.run verify

operate: setup ## an operator's act: make operate DO="read-only --reason upgrade"; DO=--help lists them
	@$(BIN)/python -m app.run operate $(or $(DO),status)

chaos: setup ## faults under load and proof that nothing is wrong: SECONDS=20 SEEDS=1 SEED=..., or OPTIONS=--help
	@$(BIN)/python -m tests.chaos --seconds $(or $(SECONDS),20) --seeds $(or $(SEEDS),1) $(if $(SEED),--seed $(SEED)) $(OPTIONS)

protocol: setup ## search the protocol's model for a history that loses money (OPTIONS="--without tombstone")
	@$(BIN)/python -m tests.protocol $(OPTIONS)

test-redis-failure: setup ## Redis becomes unreachable under load and comes back; report in reports/
	@$(BIN)/python -m tests.drills redis-failure $(OPTIONS)

test-redis-failure-real: setup ## the same with a Redis that is killed and started again
	@$(BIN)/python -m tests.drills redis-failure-real $(OPTIONS)

recovery-times: setup ## how long a dead Redis is felt, 20 rounds: bench/results/recovery.md
	@$(BIN)/python -m tests.drills recovery-times --rounds 20 $(OPTIONS)

restore-drill: setup ## restore backups taken under load, run the service on them, verify
	@$(BIN)/python -m tests.drills restore $(OPTIONS)

rolling-restart: setup ## two API processes are replaced under 100,000 requests and none fails; report in reports/
	@$(BIN)/python -m tests.drills rolling-restart $(OPTIONS)

bench: setup ## this service beside its rivals, one table, about 13 minutes: bench/results/compare.md; needs wrk
	@$(BIN)/python -m bench.compare $(OPTIONS)

bench-quick: setup ## the same in about 4 minutes, one short round of everything
	@$(BIN)/python -m bench.compare --quick $(OPTIONS)

bench-modes: setup ## throughput in mode postgres beside mode redis, balances checked; needs wrk
	@$(BIN)/python -m bench.compare modes $(OPTIONS)

slow-commit: setup ## throughput with commits delayed by 2 ms beside none; needs wrk
	@$(BIN)/python -m bench.compare slow-commit $(OPTIONS)

bench-operations: setup ## what transfers and groups cost beside single transactions; needs wrk
	@$(BIN)/python -m bench.compare operations $(OPTIONS)

bench-guarantees: setup ## what each guarantee costs: copies that do without one; needs wrk
	@$(BIN)/python -m bench.compare guarantees $(OPTIONS)

bench-functions: setup ## how long the hot functions take, one by one
	@$(BIN)/python -m pytest bench/speed --benchmark-enable $(OPTIONS)

growth: setup ## cost as things grow: make growth WHAT=accounts, or history, backlog, settlement, ...; needs wrk
	@$(BIN)/python -m bench.growth $(or $(WHAT),--help) $(OPTIONS)

health: ## ask the running service how it is
	@curl -s http://127.0.0.1:$(PORT)/health; echo

health-detailed: ## the same for each component
	@curl -s http://127.0.0.1:$(PORT)/health/detailed; echo

pending: ## what ACC001 has pending (or ACCOUNT=...)
	@curl -s http://127.0.0.1:$(PORT)/api/v1/pending/$(or $(ACCOUNT),ACC001); echo

docker-up: ## PostgreSQL, Redis and the service in containers
	docker compose up --build --detach --wait

docker-down: ## stop the containers; the data stays
	docker compose down

clean: ## remove the environment and caches; data stays
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find app bench tests -name __pycache__ -type d -prune -exec rm -rf {} +

clean-data: setup ## remove the private servers' data; refused while `make run` is up
	@$(BIN)/python -m app.run clean-data
