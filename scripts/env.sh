# shellcheck shell=bash
# What every script shares; to be sourced.
# The build directory lies outside the checkout, because RocksDB takes minutes to compile and
# must survive a fresh clone.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export ROOT
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/xorfs-target}"

# rustup installs here, and a shell opened before that does not know it yet.
if ! command -v cargo >/dev/null 2>&1 && [ -x "$HOME/.cargo/bin/cargo" ]; then
    PATH="$HOME/.cargo/bin:$PATH"
    export PATH
fi

say() { printf '%s\n' "$*"; }

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# Milliseconds since the epoch, without starting a process.
now_ms() { printf '%s' "$((${EPOCHREALTIME/[.,]/} / 1000))"; }

# "1.234 s" from milliseconds.
seconds() { printf '%d.%03d s' "$(($1 / 1000))" "$(($1 % 1000))"; }
