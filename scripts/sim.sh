#!/usr/bin/env bash
# Simulates large networks in one process and prints the tables of docs/benchmarks.md.
# XORFS_SIM_NODES sets the largest network that lookups are measured in (10000),
# XORFS_SIM_CHURN_NODES the network that blocks are kept in (200), XORFS_SIM_HOURS the simulated
# time of churn (24), XORFS_SIM_SEED the seed (1).
set -euo pipefail
# shellcheck source=scripts/env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
"$ROOT/scripts/setup.sh"
cd "$ROOT"

cargo test --locked --release -p xorfs-net --lib -- --ignored --nocapture simulation
