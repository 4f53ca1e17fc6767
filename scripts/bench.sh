#!/usr/bin/env bash
# Copy-in, read-out, put and get beside a plain copy on the same disk in the same run.
#
# Prints a markdown table. BENCH_MIB sets the size (1024); the work directory is below TMPDIR,
# which must lie on the disk to be measured and hold about eight times that size. Absolute
# figures drift from run to run on shared machines, ratios in one run much less.
set -euo pipefail
# shellcheck source=scripts/env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
# shellcheck source=scripts/nodes.sh
source "$ROOT/scripts/nodes.sh"
# shellcheck source=scripts/measure.sh
source "$ROOT/scripts/measure.sh"

MIB=${BENCH_MIB:-1024}
[[ $MIB =~ ^[1-9][0-9]*$ ]] || fail "BENCH_MIB is a number of MiB, not '$MIB'"

# The plain copy, in milliseconds; every ratio is against the one of the same direction.
PLAIN_WRITE_MS=
PLAIN_READ_MS=

# row WHAT MS BASE_MS [PEAK] : one line of the table.
row() {
    local what=$1 ms=$2 base=$3 peak=${4:-}
    awk -v what="$what" -v mib="$MIB" -v ms="$ms" -v base="$base" -v peak="$peak" 'BEGIN {
        printf "| %s | %.0f | %.2f s | %.2f | %s |\n", what, mib * 1000 / ms, ms / 1000, ms / base, peak
    }'
}

# A link names sealed content, so it returns when the file is encrypted into blocks.
copy_until_sealed() {
    copy_synced "$1" "$2" && x 1 link "$2" >/dev/null
}

plain() {
    timed PLAIN_WRITE_MS copy_synced "$WORK/in.bin" "$WORK/plain.bin"
    row "plain copy, dd conv=fsync" "$PLAIN_WRITE_MS" "$PLAIN_WRITE_MS"
    drop_caches
    timed PLAIN_READ_MS read_all "$WORK/plain.bin"
    row "plain read, $COLD" "$PLAIN_READ_MS" "$PLAIN_READ_MS"
    rm "$WORK/plain.bin"
}

through_mount() {
    local nodes=$1 mnt ms
    mnt=$(mount_of 1)
    mount_node 1
    random_file "$WORK/in.bin" "$MIB"
    timed ms copy_synced "$WORK/in.bin" "$mnt/main/fsynced.bin"
    row "mount, $nodes: copy in, dd conv=fsync" "$ms" "$PLAIN_WRITE_MS" "$(peak_of 1)"
    random_file "$WORK/in.bin" "$MIB"
    timed ms copy_until_sealed "$WORK/in.bin" "$mnt/main/sealed.bin"
    row "mount, $nodes: copy in until sealed" "$ms" "$PLAIN_WRITE_MS" "$(peak_of 1)"
    if [ "$nodes" != "one node" ]; then
        timed ms x 1 sync
        row "mount, $nodes: then wait until replicated (both files)" "$ms" "$PLAIN_WRITE_MS" \
            "$(peak_of 1)"
    fi
    drop_caches
    timed ms read_all "$mnt/main/fsynced.bin"
    row "mount, $nodes: read out, $COLD" "$ms" "$PLAIN_READ_MS" "$(peak_of 1)"
    timed ms read_all "$mnt/main/fsynced.bin"
    row "mount, $nodes: read out, warm" "$ms" "$PLAIN_READ_MS" "$(peak_of 1)"
}

put_to() {
    local wait=$1
    x 1 put --wait "$wait" "$WORK/in.bin" >"$WORK/link"
}

by_command() {
    local nodes=$1 wait=$2 reader=$3 ms link
    random_file "$WORK/in.bin" "$MIB"
    timed ms put_to "$wait"
    link=$(cat "$WORK/link")
    row "put --wait $wait, $nodes" "$ms" "$PLAIN_WRITE_MS" "$(peak_of 1)"
    drop_caches
    timed ms x "$reader" get "$link" "$WORK/out.bin"
    row "get, $nodes, $COLD" "$ms" "$PLAIN_WRITE_MS" "$(peak_of "$reader")"
    cmp "$WORK/in.bin" "$WORK/out.bin" || fail "what get fetched differs"
    rm "$WORK/out.bin"
}

forget_nodes() {
    local dir
    for dir in "${MOUNTS[@]}"; do unmount_dir "$dir"; done
    MOUNTS=()
    end_nodes
    rm -rf --one-file-system "$WORK"/node*
}

main() {
    release_binary
    open_work bench
    random_file "$WORK/in.bin" "$MIB"

    say
    say "$MIB MiB of random bytes, $(nproc) cores, $(uname -sr), $(date -u +%F)"
    say
    say "| work | MiB/s | time | time / plain | peak memory of the node |"
    say "|---|---|---|---|---|"
    plain
    local count name
    for count in 1 5; do
        name="one node"
        [ "$count" -eq 1 ] || name="five nodes"
        start_nodes "$count"
        through_mount "$name"
        forget_nodes
        start_nodes "$count"
        by_command "$name" "$([ "$count" -eq 1 ] && echo sealed || echo replicated)" "$count"
        forget_nodes
    done
}

main
