#!/usr/bin/env bash
# Installs what building and running xorfs needs, without asking anything.
#
# On Debian and Ubuntu missing packages are installed with apt-get (through sudo when not root).
# On any other system it prints what to install and stops. Costs milliseconds when all is there.
# With --bench, also the tools beside which scripts/bench-import.sh measures.
set -euo pipefail
# shellcheck source=scripts/env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

FOR=${1:-}
case $FOR in "" | --bench) ;; *) fail "setup.sh takes nothing or --bench, not '$FOR'" ;; esac

# package | command that it must bring ("-" where it is a library) | why
needs() {
    cat <<'LIST'
g++|c++|compiles RocksDB, the embedded database that keeps the blocks
clang|clang|gives bindgen the compiler headers for RocksDB's bindings
libclang-dev|-|the library with which bindgen reads RocksDB's headers
fuse3|fusermount3|mounts a filesystem without being root
LIST
    [ "$FOR" != --bench ] || cat <<'LIST'
restic|restic|is measured beside xorfs
borgbackup|borg|is measured beside xorfs
gocryptfs|gocryptfs|is measured beside xorfs
LIST
}

# The oldest Rust that builds this workspace, from its one place.
rust_wanted() { sed -n 's/^rust-version = "\(.*\)"/\1/p' "$ROOT/Cargo.toml"; }

explain_rust() {
    cat >&2 <<TEXT
error: $1

Rust $(rust_wanted) or newer is needed. Install it with rustup (https://rustup.rs):

    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y

and run the same make command again. The cargo of most distributions is too old.
TEXT
    exit 1
}

check_rust() {
    command -v cargo >/dev/null 2>&1 || explain_rust "cargo is not installed"
    local have want
    have=$(cargo --version | sed -n 's/^cargo \([0-9.]*\).*/\1/p')
    want=$(rust_wanted)
    if [ "$(printf '%s\n%s\n' "$want" "$have" | sort -V | head -n 1)" != "$want" ]; then
        explain_rust "cargo $have is too old"
    fi
}

has_libclang() {
    [ -n "${LIBCLANG_PATH:-}" ] && return
    # Read whole: under pipefail, a grep that leaves early would fail the pipe.
    local cache
    cache=$(/sbin/ldconfig -p 2>/dev/null || ldconfig -p 2>/dev/null || true)
    [[ $cache == *libclang[-.][0-9s]* ]] || compgen -G '/usr/lib*/llvm*/lib*/libclang*.so*' >/dev/null
}

# Prints the packages that are missing, a line each.
missing_packages() {
    local package command why
    while IFS='|' read -r package command why; do
        if [ "$command" = "-" ]; then
            has_libclang || printf '%s|%s\n' "$package" "$why"
        else
            command -v "$command" >/dev/null 2>&1 || printf '%s|%s\n' "$package" "$why"
        fi
    done < <(needs)
}

install_with_apt() {
    local packages=("$@") as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null 2>&1 ||
            fail "not root and no sudo here; run as root: apt-get install ${packages[*]}"
        # Without a terminal nobody could type a password, so sudo must not wait for one.
        if [ -t 0 ]; then as_root=(sudo); else as_root=(sudo -n); fi
    fi
    "${as_root[@]}" apt-get update -q ||
        fail "apt-get update failed; run as root: apt-get install ${packages[*]}"
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -q -y --no-install-recommends "${packages[@]}" ||
        fail "apt-get could not install: ${packages[*]}"
}

main() {
    [ "$(uname -s)" = Linux ] || fail "xorfs mounts through the FUSE of Linux; this is $(uname -s)"
    local missing packages=()
    missing=$(missing_packages)
    if [ -n "$missing" ]; then
        say "xorfs needs these packages, which are not installed:"
        while IFS='|' read -r package why; do
            printf '  %-14s %s\n' "$package" "$why"
            packages+=("$package")
        done <<<"$missing"
        if [ ! -e /etc/debian_version ] || ! command -v apt-get >/dev/null 2>&1; then
            fail "this is neither Debian nor Ubuntu: install them under the names your system has" \
                "(Fedora: gcc-c++ clang clang-devel fuse3; Arch: gcc clang fuse3), then run again"
        fi
        install_with_apt "${packages[@]}"
        missing=$(missing_packages)
        [ -z "$missing" ] || fail "still missing after the installation: ${missing//$'\n'/, }"
    fi
    check_rust
}

main
