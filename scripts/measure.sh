# shellcheck shell=bash
# What the benchmarks share: timing a command, medians over rounds, and files to move.
# To be sourced after nodes.sh, whose `run` lets a signal end a measurement at once.

# Sets XORFS to a release build: the one that XORFS_BIN names, else ours, built here.
release_binary() {
    XORFS=${XORFS_BIN:-}
    [ -z "$XORFS" ] || return 0
    "$ROOT/scripts/setup.sh"
    cargo build --release --locked -p xorfs --manifest-path "$ROOT/Cargo.toml"
    # shellcheck disable=SC2034 # read by nodes.sh
    XORFS="$CARGO_TARGET_DIR/release/xorfs"
}

# timed VARIABLE COMMAND… : runs it and stores its milliseconds.
timed() {
    local -n into=$1
    local start
    shift
    start=$(now_ms)
    run "$@" || fail "failed: $*"
    into=$(($(now_ms) - start))
    [ "$into" -gt 0 ] || into=1
}

# Empties the page cache where we may; COLD says in the table where we may not.
COLD="cold"
drop_caches() {
    sync
    # shellcheck disable=SC2034 # read by whoever sources this
    if ! { echo 3 >/proc/sys/vm/drop_caches; } 2>/dev/null; then COLD="not cold: not root"; fi
}

# random_file FILE MIB
random_file() { head -c "${2}M" /dev/urandom >"$1"; }

copy_synced() { dd if="$1" of="$2" bs=1M conv=fsync status=none; }

read_all() { dd if="$1" of=/dev/null bs=1M status=none; }

# Peak resident memory of node N's daemon since it started.
peak_of() { awk '/^VmHWM/ { printf "%d MiB", $2 / 1024 }' "/proc/${NODE_PIDS[$1]}/status"; }

# Bytes that node N's daemon has had written to a disk so far, as the kernel counts them.
written_by() { awk '/^write_bytes/ { print $2 }' "/proc/${NODE_PIDS[$1]}/io"; }

# note NAME VALUE : remembers a figure of this round. Several rounds make a median.
declare -A NOTED
note() { NOTED[$1]="${NOTED[$1]:-} $2"; }

# median NAME : the middle one of what was noted; nothing where nothing was.
median() {
    local values
    read -ra values <<<"${NOTED[$1]:-}"
    [ "${#values[@]}" -gt 0 ] || return 0
    printf '%s\n' "${values[@]}" | sort -n | sed -n "$(((${#values[@]} + 1) / 2))p"
}

# source_tree DIR COUNT : files of about 9 KiB each, the same ones every time, in folders of 100.
# Words repeat as they do in sources, so it compresses about as well.
source_tree() {
    local dir=$1 count=$2 folder
    for ((folder = 0; folder * 100 < count; folder++)); do mkdir -p "$dir/folder-$folder"; done
    awk -v dir="$dir" -v count="$count" '
        function draw(below) { seed = (seed * 16807) % 2147483647; return seed % below }
        BEGIN {
            seed = 20261120
            for (i = 0; i < 8192; i++) word[i] = sprintf("%x", draw(16777216) * 1 + i)
            for (n = 0; n < count; n++) {
                file = dir "/folder-" int(n / 100) "/file-" n ".txt"
                lines = 20 + draw(300)
                for (l = 0; l < lines; l++)
                    print word[draw(8192)], word[draw(8192)], word[draw(8192)], word[draw(8192)],
                        word[draw(8192)], word[draw(8192)], word[draw(8192)], word[draw(8192)] > file
                close(file)
            }
        }'
}
