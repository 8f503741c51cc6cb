# The tasks of this project. `make` alone lists them; each one is a script that can be read and run by itself.

.DEFAULT_GOAL := help
.PHONY: help demo demo-traefik check test soak bench lint tools

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## Pay a request on this machine: no chain, no cluster, no network
	@cargo run --locked -- demo

demo-traefik: tools ## The same with Traefik, a chain, the official facilitator and a buyer SDK; Ctrl-C ends it
	@tests/parts/demo-traefik.sh

check: ## Format, lints, unit tests, integration tests in process
	@tests/parts/check.sh

test: ## Everything: tools, check, tests with real parts, both demos
	@tests/parts/test.sh

soak: ## make test at full counts (X402_SOAK=1); takes much longer
	@X402_SOAK=1 tests/parts/test.sh

bench: tools ## Measure speed and memory against peers in the same run
	@benches/run.sh

lint: ## Format, clippy, documentation, licences and duplicates of dependencies
	@tests/parts/lint.sh

tools: ## Install what tests and demos drive into ~/.cache/x402-verifier-tools (or X402_TOOLS_DIR)
	@tests/parts/phase.sh tools tests/parts/tools.sh
