# Every target is one script, so that each can also be run, read and tested on its own.
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-long sim lint audit bench

help: ## say what each target does
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install what the build needs (Debian and Ubuntu), or say what is missing
	@scripts/setup.sh

demo: ## build, start five nodes, copy in, kill the first, read back and compare
	@scripts/demo.sh

test: ## run all tests
	@scripts/test.sh

test-long: ## run all tests, with the long campaigns: hundreds of crashes, large churn
	@XORFS_TEST_LONG=1 scripts/test.sh

sim: ## simulate large networks (10,000 nodes, churn, partition) and print tables
	@scripts/sim.sh

lint: ## rustfmt, clippy with warnings as errors, tidy checks, shellcheck
	@scripts/lint.sh

audit: ## licences and advisories of the dependencies, by cargo-deny
	@scripts/audit.sh

bench: ## measure imports beside other tools, and nodes and mounts beside a plain copy
	@scripts/bench-import.sh
	@scripts/bench.sh
