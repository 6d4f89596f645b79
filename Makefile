# Everything a developer or an operator types. `make` lists it.

PYTHON ?= python3
PORT ?= 8082
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Tests that kill and starve what they run get more of the machine.
FAULT_TESTS := tests/failure tests/chaos tests/drills

# An environment whose Python is gone (upgraded, moved) is made again.
BROKEN := $(shell test -x $(BIN)/python || rm -rf $(STAMP))

.DEFAULT_GOAL := help
.PHONY: help setup build run clean clean-data db-reset test test-simple test-tps test-setup test-status test-reset \
	test-clean test-multi test-multi-simple setup-multi status-multi reset-multi scenario test-redis-failure \
	test-redis-failure-real recovery-times restore-drill rolling-restart chaos protocol health health-detailed \
	pending logs logs-db logs-redis settle verify operate optimize-db monitor-db dev dev-setup check format bench \
	bench-quick bench-modes bench-operations bench-guarantees bench-observation bench-events bench-functions \
	slow-commit growth docker-up docker-down

# The end of some logs, all that is written from now on as well with FOLLOW=1.
define show
	@test -e $(firstword $(1)) || { echo "$(firstword $(1)) is not there: make run writes it"; exit 1; }
	@tail -n $(or $(TAIL),50) $(if $(filter 1 yes,$(FOLLOW)),-F) $(1)
endef

##@ Begin

help: ## list the targets by group
	@awk -F ':.*## ' '/^##@ / {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  make %-24s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

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

clean: ## remove the environment and caches; data stays
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find app bench tests -name __pycache__ -type d -prune -exec rm -rf {} +

clean-data: setup ## remove the private servers' data; refused while `make run` is up
	@$(BIN)/python -m app.run clean-data

db-reset: setup ## remove what make run keeps in .data/ and nothing else: CONFIRM=yes; refused while it runs
	@CONFIRM=$(CONFIRM) $(BIN)/python -m app.run db-reset

##@ Tests

test: setup ## run all tests on private servers, then the short TPS test
	@$(BIN)/python -m pytest -n 3 --dist loadfile $(addprefix --ignore ,$(FAULT_TESTS))
	@$(BIN)/python -m pytest -n 2 --dist loadfile $(FAULT_TESTS)
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

test-multi-simple: setup ## the same, by its other name
	@PORT=$(PORT) $(BIN)/python -m bench.load test-multi-simple $(OPTIONS)

setup-multi: setup ## open or top up MULTI001..005 on the running service
	@PORT=$(PORT) $(BIN)/python -m bench.load setup-multi

status-multi: setup ## show MULTI001..005
	@PORT=$(PORT) $(BIN)/python -m bench.load status-multi

reset-multi: setup ## bring MULTI001..005 back to their test balance
	@PORT=$(PORT) $(BIN)/python -m bench.load reset-multi

scenario: setup ## a load of any rate: make scenario SCENARIO="--rates 1000,3000 --seconds 60", --knee, --help
	@PORT=$(PORT) $(BIN)/python -m bench.load scenario $(SCENARIO)

##@ Failures and drills

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

chaos: setup ## faults under load and proof that nothing is wrong: SECONDS=20 SEEDS=1 SEED=..., or OPTIONS=--help
	@$(BIN)/python -m tests.chaos --seconds $(or $(SECONDS),20) --seeds $(or $(SEEDS),1) $(if $(SEED),--seed $(SEED)) $(OPTIONS)

protocol: setup ## search the protocol's model for a history that loses money (OPTIONS="--without tombstone")
	@$(BIN)/python -m tests.protocol $(OPTIONS)

##@ A running service

health: ## ask the running service how it is
	@curl -sS http://127.0.0.1:$(PORT)/health; echo

health-detailed: ## each component, the mode, the features, what operators have set
	@curl -sS http://127.0.0.1:$(PORT)/health/detailed; echo

pending: setup ## what is pending, count and sum by account; of one, entry by entry: ACCOUNT=ACC001
ifdef ACCOUNT
	@curl -sS http://127.0.0.1:$(PORT)/api/v1/pending/$(ACCOUNT); echo
else
	@$(BIN)/python -m app.run pending
endif

logs: ## the end of the API's and the worker's log (TAIL=50, FOLLOW=1)
	$(call show,.data/api.log .data/worker.log)

logs-db: ## the same of the private PostgreSQL
	$(call show,.data/postgres/postgres.log)

logs-redis: ## the same of the private Redis
	$(call show,.data/redis/redis.log)

settle: setup ## settle what is pending now (needs DATABASE_URL and REDIS_URL, or `make run` in this checkout)
	@$(BIN)/python -m app.run settle

verify: setup ## prove that the books are right (needs DATABASE_URL and REDIS_URL, or `make run` in this checkout)
	@$(BIN)/python -m app.run verify

operate: setup ## an operator's act: make operate DO="read-only --reason upgrade"; DO=--help lists them
	@$(BIN)/python -m app.run operate $(or $(DO),status)

optimize-db: setup ## build indexes that are missing, ANALYZE, VACUUM where much is dead; writers go on
	@$(BIN)/python -m app.run optimize-db

monitor-db: setup ## use of indexes, sizes, dead rows, cache, slow statements
	@$(BIN)/python -m app.run monitor-db

##@ Development

dev: setup ## make run, and begin again whenever a file of app/, lua/ or sql/ changes
	@PORT=$(PORT) exec $(BIN)/python -m app.run dev

dev-setup: setup ## the environment, and a git hook that runs make check before each commit
	@hook="$$(git rev-parse --git-path hooks)/pre-commit"; mkdir -p "$$(dirname "$$hook")"; \
	if test -e "$$hook" && ! grep -q 'no-print-directory check' "$$hook"; then echo "$$hook is yours and stays"; exit 1; fi; \
	printf '#!/bin/sh\nexec make --no-print-directory check\n' > "$$hook" && chmod +x "$$hook" && echo "$$hook runs make check; remove it to be without"

check: setup ## linters, types and the layers of the architecture
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: setup ## format the code
	@$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format .

##@ Measurements

bench: setup ## this service beside its rivals, one table, about 13 minutes: bench/results/compare.md; needs wrk
	@$(BIN)/python -m bench.compare $(OPTIONS)

bench-quick: setup ## the same in about 4 minutes, one short round of everything
	@$(BIN)/python -m bench.compare --quick $(OPTIONS)

bench-modes: setup ## throughput in mode postgres beside mode redis, balances checked; needs wrk
	@$(BIN)/python -m bench.compare modes $(OPTIONS)

bench-operations: setup ## what transfers, holds and groups cost beside single transactions; needs wrk
	@$(BIN)/python -m bench.compare operations $(OPTIONS)

bench-guarantees: setup ## what each guarantee costs: copies that do without one; needs wrk
	@$(BIN)/python -m bench.compare guarantees $(OPTIONS)

bench-observation: setup ## what it costs to count and time; needs wrk
	@$(BIN)/python -m bench.compare observation $(OPTIONS)

bench-events: setup ## what the stream of events costs at full load; needs wrk
	@$(BIN)/python -m bench.compare events $(OPTIONS)

bench-functions: setup ## how long the hot functions take, one by one
	@$(BIN)/python -m pytest bench/speed --benchmark-enable $(OPTIONS)

slow-commit: setup ## throughput with commits delayed by 2 ms beside none; needs wrk
	@$(BIN)/python -m bench.compare slow-commit $(OPTIONS)

growth: setup ## cost as things grow: make growth WHAT=accounts, or history, backlog, settlement, ...; needs wrk
	@$(BIN)/python -m bench.growth $(or $(WHAT),--help) $(OPTIONS)

##@ Containers

docker-up: ## PostgreSQL, Redis and the service in containers
	docker compose up --build --detach --wait

docker-down: ## stop the containers; the data stays
	docker compose down
