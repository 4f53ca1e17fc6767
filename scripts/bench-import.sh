#!/usr/bin/env bash
# Importing into a fresh home beside a plain copy and other tools on the same disk, in turns.
#
# Prints a markdown table of medians. BENCH_MIB sets the size of the large file (2048), BENCH_FILES
# the files of the tree (20000), BENCH_ROUNDS the rounds (3). The work directory is below TMPDIR
# and needs about four times BENCH_MIB. Of restic, borg and gocryptfs those are measured that are
# installed; scripts/setup.sh --bench installs them.
set -euo pipefail
# shellcheck source=scripts/env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
# shellcheck source=scripts/nodes.sh
source "$ROOT/scripts/nodes.sh"
# shellcheck source=scripts/measure.sh
source "$ROOT/scripts/measure.sh"

MIB=${BENCH_MIB:-2048}
FILES=${BENCH_FILES:-20000}
ROUNDS=${BENCH_ROUNDS:-3}
for number in "$MIB" "$FILES" "$ROUNDS"; do
    [[ $number =~ ^[1-9][0-9]*$ ]] || fail "BENCH_MIB, BENCH_FILES and BENCH_ROUNDS are numbers"
done

# Tools beside which we measure, where they are installed.
TOOLS=()

find_tools() {
    local tool missing=()
    for tool in restic borg gocryptfs; do
        if command -v "$tool" >/dev/null 2>&1; then TOOLS+=("$tool"); else missing+=("$tool"); fi
    done
    [ "${#missing[@]}" -eq 0 ] || say "not installed, so not measured: ${missing[*]}"
    export RESTIC_PASSWORD=benchmark BORG_PASSPHRASE=benchmark
    export RESTIC_CACHE_DIR="$WORK/cache" BORG_BASE_DIR="$WORK/borg"
}

# fresh_TOOL makes an empty repository, import_TOOL copies SOURCE into it, end_TOOL takes it away.
fresh_plain() { mkdir "$WORK/repo"; }
import_plain() {
    if [ -d "$1" ]; then cp -a "$1" "$WORK/repo/" && sync -f "$WORK/repo"; else
        copy_synced "$1" "$WORK/repo/in.bin"
    fi
}
end_plain() { rm -r "$WORK/repo"; }

fresh_xorfs() { start_node 1; }
import_xorfs() { x 1 put --wait sealed "$1" >"$WORK/link"; }
end_xorfs() { end_nodes && rm -r "$(home_of 1)"; }

fresh_restic() { restic init --quiet --repo "$WORK/repo"; }
import_restic() { restic backup --quiet --repo "$WORK/repo" "$1"; }
end_restic() { rm -r "$WORK/repo"; }

# It says at length how to keep a key that lives for seconds.
fresh_borg() { borg init --encryption repokey-blake2 "$WORK/repo" 2>"$WORK/borg.log"; }
import_borg() { borg create "$WORK/repo::{now:%s.%f}" "$1"; }
end_borg() { rm -r "$WORK/repo"; }

fresh_gocryptfs() {
    mkdir "$WORK/repo" "$WORK/plain"
    printf 'benchmark\n' >"$WORK/password"
    gocryptfs -q -init -passfile "$WORK/password" "$WORK/repo"
    gocryptfs -q -nosyslog -passfile "$WORK/password" "$WORK/repo" "$WORK/plain"
    MOUNTS+=("$WORK/plain")
}
import_gocryptfs() {
    if [ -d "$1" ]; then cp -a "$1" "$WORK/plain/" && sync -f "$WORK/plain"; else
        copy_synced "$1" "$WORK/plain/in.bin"
    fi
}
end_gocryptfs() {
    unmount_dir "$WORK/plain"
    MOUNTS=()
    rm -r "$WORK/repo" "$WORK/plain"
}

# What only we are asked: what reached the disk, and reading back.
look_closer() {
    local source=$1 before=$2 bytes ms
    bytes=$(du -sb "$source" | cut -f 1)
    note "written $3" "$((($(written_by 1) - before) * 1000 / bytes))"
    note "peak $3" "$(awk '/^VmHWM/ { print int($2 / 1024) }' "/proc/${NODE_PIDS[1]}/status")"
    [ "$3" = file ] || return 0
    x 1 cat "$(cat "$WORK/link")" >/dev/null
    timed ms x 1 cat "$(cat "$WORK/link")" >/dev/null
    note "read xorfs" "$ms"
    read_all "$source"
    timed ms read_all "$source"
    note "read plain" "$ms"
}

# one TOOL WHAT SOURCE : imports into a fresh repository, and the tree once more.
one() {
    local tool=$1 what=$2 source=$3 ms before=0
    "fresh_$tool" >/dev/null
    sync
    [ "$tool" != xorfs ] || before=$(written_by 1)
    timed ms "import_$tool" "$source"
    note "$what $tool" "$ms"
    [ "$tool" != xorfs ] || look_closer "$source" "$before" "$what"
    if [ "$what" = tree ] && [[ $tool == xorfs || $tool == restic || $tool == borg ]]; then
        timed ms "import_$tool" "$source"
        note "again $tool" "$ms"
    fi
    "end_$tool"
}

# row WHAT TOOL TITLE [OTHER] : a line of the table, with the time against the plain copy's.
row() {
    local ms base restic
    ms=$(median "$1 $2")
    [ -n "$ms" ] || return 0
    base=$(median "$1 plain")
    restic=$(median "$1 restic")
    awk -v title="$3" -v ms="$ms" -v base="${base:-0}" -v restic="${restic:-0}" -v all="${NOTED[$1 $2]}" '
        function ratio(a, b) { return a > 0 ? sprintf("%.2f", a / b) : "" }
        BEGIN {
            sub(/^ /, "", all); gsub(/ /, ", ", all)
            printf "| %s | %.2f s | %s | %s | %s |\n", title, ms / 1000, ratio(base, ms), ratio(restic, ms), all
        }'
}

table() {
    local tool
    say
    say "Medians of $ROUNDS round(s): $MIB MiB of random bytes, and a tree of $FILES files of about" \
        "9 KiB; $(nproc) cores, $(uname -sr), $(date -u +%F)"
    say
    say "| work | time | speed / plain | speed / restic | rounds in ms |"
    say "|---|---|---|---|---|"
    for tool in plain xorfs "${TOOLS[@]}"; do row file "$tool" "file: $tool"; done
    for tool in plain xorfs "${TOOLS[@]}"; do row tree "$tool" "tree: $tool"; done
    for tool in xorfs "${TOOLS[@]}"; do row again "$tool" "tree again, unchanged: $tool"; done
    row read plain "read the file back, warm: plain"
    row read xorfs "read the file back, warm: xorfs cat"
    say
    awk -v file="$(median "written file")" -v tree="$(median "written tree")" \
        -v peak="$(median "peak file")" -v treepeak="$(median "peak tree")" 'BEGIN {
        printf "Written to disk per byte imported: %.3f (file), %.3f (tree). ", file / 1000, tree / 1000
        printf "Peak memory of the daemon: %d MiB (file), %d MiB (tree).\n", peak, treepeak
    }'
}

main() {
    release_binary
    open_work bench
    find_tools
    random_file "$WORK/in.bin" "$MIB"
    source_tree "$WORK/tree" "$FILES"
    local round tool
    for ((round = 1; round <= ROUNDS; round++)); do
        for tool in plain xorfs "${TOOLS[@]}"; do
            one "$tool" file "$WORK/in.bin"
            one "$tool" tree "$WORK/tree"
        done
    done
    table
}

main
