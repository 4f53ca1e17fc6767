#!/usr/bin/env bash
# Licences, advisories, duplicates and sources of the dependencies, as deny.toml says.
set -euo pipefail
# shellcheck source=scripts/env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
cd "$ROOT"

if ! cargo deny --version >/dev/null 2>&1; then
    fail "cargo-deny is not installed; install it with: cargo install --locked cargo-deny"
fi
cargo deny check
