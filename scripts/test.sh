#!/usr/bin/env bash
# Runs every test: unit, property, simulation, and the integration tests that start real
# processes of the built binary. Arguments go to `cargo test` (e.g. scripts/test.sh -- crash).
set -euo pipefail
# shellcheck source=scripts/env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
"$ROOT/scripts/setup.sh"
cd "$ROOT"

# The binary and the tests are built by one command, so that both see the same features and no
# dependency is compiled twice; the integration tests find the binary beside themselves.
cargo build --locked --workspace --bins --tests
cargo test --locked --workspace "$@"
