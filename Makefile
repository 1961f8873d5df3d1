# Every target does its own set-up, and CI runs exactly `make lint` and `make test`.

CARGO ?= cargo
# A file of topologies/, or none for the default one.
TOPOLOGY ?=

# Of `make chaos`; without a seed each run has another one, which it prints.
SECONDS ?= 600
SEED ?=
# `large`, or nothing.
SCALE ?=
# Of `make propagation`.
CHANGES ?= 500
# Of `make upgrade`: a commit, or none for the first one that handed over.
FROM ?=
# Of `make package`: a program, or none for a release build.
PROGRAM ?=

# Says once why nothing happens for minutes.
FIRST_BUILD = [ -e target/debug/causeway ] || echo "The first build takes minutes (CONTRIBUTING.md says how many); cargo shows how far it is."

.PHONY: help demo play test lint fmt package bench chaos autobahn propagation upgrade simulate fuzz bench-scale

help: ## Lists the targets.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

demo: ## Runs a whole federation in one process and shows a failover. TOPOLOGY=topologies/x.yaml picks the file.
	@$(FIRST_BUILD)
	@$(CARGO) build --bin causeway
	@$(CARGO) run --quiet --bin causeway -- demo $(TOPOLOGY)

play: ## The same, left running: its dashboard, mesh DNS and admin APIs, with their addresses. Ctrl-C ends it.
	@$(FIRST_BUILD)
	@$(CARGO) build --bin causeway
	@$(CARGO) run --quiet --bin causeway -- demo --serve --fast $(TOPOLOGY)

test: ## All tests: plain cargo test, then the namespace tier with real clients and servers.
	@$(FIRST_BUILD)
	@CARGO="$(CARGO)" tests/run

simulate: ## Simulates zone sync: SEEDS=1000 SEED_START=0 runs many seeds, SEED=n shows everything that happens in one.
	CARGO_PROFILE_DEV_OPT_LEVEL=2 $(CARGO) run --quiet --bin simulate -- $(if $(SEED),--seed $(SEED),--seeds $(or $(SEEDS),1000) --start $(or $(SEED_START),0))

lint: ## Formatting, clippy, and what may be in the dependency tree.
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	$(CARGO) clippy -p causeway --no-default-features --lib --bins -- -D warnings
	tests/lint/deny

fmt: ## Formats the code.
	$(CARGO) fmt --all

package: ## A Debian package, an image and Kubernetes manifests, with digests, in target/package. PROGRAM=… takes one that is built already.
	@CARGO="$(CARGO)" PROGRAM="$(PROGRAM)" packaging/all

chaos: ## Six zones under faults and registration load. SECONDS=600 SEED=n SCALE=large (10,000 services, 20,000 instances, a zone of three gateways).
	SCALE=$(SCALE) tests/namespaces/run --chaos $(SECONDS) $(SEED)

propagation: ## How long a change takes to every zone; fails when the 99th percentile is over a round trip and 100 ms. CHANGES=500 SEED=n.
	STRICT=1 tests/namespaces/run --propagation $(CHANGES) $(SEED)

upgrade: ## Hands over to an older program and back, ten times, under load. FROM=COMMIT, or the first one that handed over, which is built anew.
	@CARGO="$(CARGO)" tests/upgrade $(FROM)

autobahn: ## The Autobahn suite for WebSocket through two gateways, beside the same without (x86_64; takes packages of Debian 11).
	tests/namespaces/run --autobahn

bench: ## The clean-link table beside haproxy and Envoy. ROUNDS=5 SECONDS_EACH=4 CONTENDERS="..." (root; see tests/README.md).
	tests/bench/run

bench-scale: ## What 1,000 zones of 1,000 exports cost: memory, bytes, round trips, time. ZONES= EXPORTS= CHANGES= ROUNDS=
	$(CARGO) bench -p causeway-zone-sync --bench scale

fuzz: ## Fuzzes every decoder for a minute each and keeps what adds coverage. SECONDS_EACH=60 PARALLEL=2 (needs a C++ compiler).
	tests/fuzz/run
