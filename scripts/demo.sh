#!/usr/bin/env bash
# The main job of xorfs, shown for real: five nodes on loopback, a directory copied into the
# first one's mount, the first one killed, everything read back elsewhere and compared.
#
# Exits non-zero on any difference. Cleans up after itself, also when interrupted.
set -euo pipefail
# shellcheck source=scripts/env.sh
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
# shellcheck source=scripts/nodes.sh
source "$ROOT/scripts/nodes.sh"

RANDOM_MIB=64

# Rows of the final table: step|milliseconds|note
ROWS=()

# step TEXT : announces a step and starts its clock.
step() {
    STEP=$1
    STEP_START=$(now_ms)
    say "==> $STEP"
}

# ok [NOTE] : ends the step.
ok() {
    ROWS+=("$STEP|$(($(now_ms) - STEP_START))|${1:-}")
}

# "123 MiB/s" for bytes moved since the step began.
rate() {
    local ms=$(($(now_ms) - STEP_START))
    printf '%d MiB/s' "$(($1 * 1000 / 1048576 / (ms > 0 ? ms : 1)))"
}

print_table() {
    local row what ms note
    say
    printf '%-46s  %10s  %s\n' step time result
    printf '%-46s  %10s  %s\n' "$(printf '%.0s-' {1..46})" ---------- ----------------
    for row in "${ROWS[@]}"; do
        IFS='|' read -r what ms note <<<"$row"
        printf '%-46s  %10s  %s\n' "$what" "$(seconds "$ms")" "$note"
    done
}

# The project's own files, without what git ignores.
copy_project() {
    local into=$1
    mkdir -p "$into"
    if git -C "$ROOT" rev-parse --is-inside-work-tree >/dev/null 2>&1; then
        (cd "$ROOT" && git ls-files -z | while IFS= read -r -d '' file; do
            [ ! -e "$file" ] || printf '%s\0' "$file"
        done | tar --null -T - -cf -) | tar -xf - -C "$into"
    else
        tar -C "$ROOT" --exclude=./target --exclude=./.git -cf - . | tar -xf - -C "$into"
    fi
}

same() {
    run diff -r --no-dereference "$1" "$2" || fail "$3 differs from what was copied in"
}

build() {
    say "==> build (release; the first time RocksDB takes some minutes)"
    STEP="build in release" STEP_START=$(now_ms)
    cargo build --release --locked -p xorfs --manifest-path "$ROOT/Cargo.toml"
    XORFS="$CARGO_TARGET_DIR/release/xorfs"
    ok
}

main() {
    "$ROOT/scripts/setup.sh"
    [ -e /dev/fuse ] || fail "/dev/fuse is missing: load the kernel module with 'modprobe fuse'," \
        "or, in a container, pass it in (docker run --device /dev/fuse --cap-add SYS_ADMIN)"
    build
    open_work demo

    local source="$WORK/source" mnt1 mnt5 files bytes link
    mnt1=$(mount_of 1)
    mnt5=$(mount_of 5)
    copy_project "$source/project"
    head -c "${RANDOM_MIB}M" /dev/urandom >"$source/random.bin"
    files=$(find "$source/project" -type f | wc -l)
    bytes=$(du -sb "$source/project" | cut -f 1)

    step "start five nodes, each with a home of its own"
    start_nodes 5
    ok "first at ${NODE_ADDRS[1]}"

    step "mount the first and the fifth"
    mount_node 1
    mount_node 5
    ok

    step "copy the project's source tree in"
    mkdir "$mnt1/main/demo"
    run cp -a "$source/project" "$mnt1/main/demo/"
    ok "$files files, $((bytes / 1024)) KiB"

    step "copy a file of $RANDOM_MIB MiB in"
    run cp -a "$source/random.bin" "$mnt1/main/demo/"
    ok "$(rate $((RANDOM_MIB * 1048576)))"

    step "make a link of the directory"
    link=$(x 1 link "$mnt1/main/demo")
    [[ $link == xorfs:* ]] || fail "this is no link: $link"
    ok
    say "    $link"

    step "wait until everything is replicated"
    run "$XORFS" --home "$(home_of 1)" sync || fail_node 1 "sync did not finish"
    ok

    step "kill the first node (SIGKILL)"
    kill_node 1
    ok

    step "read all of it through the fifth mount"
    same "$source" "$mnt5/link/$link" "what the fifth mount shows"
    ok "identical, $(rate $((bytes + RANDOM_MIB * 1048576)))"

    step "xorfs get into a fresh directory"
    run "$XORFS" --home "$(home_of 3)" get "$link" "$WORK/fetched" || fail_node 3 "get failed"
    local fetched
    fetched=$(rate $((bytes + RANDOM_MIB * 1048576)))
    same "$source" "$WORK/fetched" "what get fetched"
    ok "identical, $fetched"

    print_table
    say
    say "All files are identical, and the node that wrote them is dead."
}

main
