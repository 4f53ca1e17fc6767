#!/usr/bin/env bash
# Formatting, clippy with warnings as errors, the tidy checks, and shellcheck where it is there.
set -euo pipefail
# shellcheck source=scripts/env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
"$ROOT/scripts/setup.sh"
cd "$ROOT"

cargo fmt --all --check
cargo clippy --locked --workspace --all-targets -- -D warnings
cargo test --locked -p xorfs-tests --test it tidy
if command -v shellcheck >/dev/null 2>&1; then
    shellcheck --external-sources --source-path="$ROOT" scripts/*.sh .ci/run
else
    say "shellcheck is not installed: the scripts were not checked"
fi
