# shellcheck shell=bash
# Nodes on loopback for scripts: start, mount, kill, and clean up after all of it.
# To be sourced after env.sh; the caller sets XORFS to the binary.
#
# Everything lives below one fresh directory, $WORK. `cleanup` runs on every way out: it
# unmounts, ends what was started here by process id, and removes $WORK. Nothing else is touched.

WORK=
NODE_PIDS=()
NODE_ADDRS=()
NODE_IDS=()
MOUNTS=()
CURRENT=

# Makes $WORK and sees to it that it goes away.
open_work() {
    WORK=$(mktemp -d "${TMPDIR:-/tmp}/xorfs-$1.XXXXXX")
    trap cleanup EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
}

# Runs a command so that a signal is answered at once, and not when the command ends.
run() {
    "$@" &
    CURRENT=$!
    local status=0
    wait "$CURRENT" || status=$?
    CURRENT=
    return "$status"
}

home_of() { printf '%s/node%s' "$WORK" "$1"; }
mount_of() { printf '%s/mnt%s' "$WORK" "$1"; }
log_of() { printf '%s/node%s.log' "$WORK" "$1"; }

# x N ARGS… : xorfs with the home of node N.
x() {
    local node=$1
    shift
    "$XORFS" --home "$(home_of "$node")" "$@"
}

# Prints why, with the end of a node's log, and leaves.
fail_node() {
    local node=$1
    shift
    say "--- the last lines of node $node's log:" >&2
    tail -n 20 "$(log_of "$node")" >&2 || true
    fail "$@"
}

# start_node N [ARGS…] : starts a daemon on a port that the system picks, waits until it listens.
start_node() {
    local node=$1 out line deadline
    shift
    out="$WORK/node$node.out"
    mkdir -p "$(home_of "$node")"
    : >"$out"
    "$XORFS" --home "$(home_of "$node")" daemon --listen 127.0.0.1:0 "$@" \
        >"$out" 2>"$(log_of "$node")" &
    NODE_PIDS[node]=$!
    deadline=$(($(now_ms) + 20000))
    until line=$(head -n 1 "$out") && [[ $line == "listening on "*" as "* ]]; do
        kill -0 "${NODE_PIDS[node]}" 2>/dev/null || fail_node "$node" "node $node ended at start"
        [ "$(now_ms)" -lt "$deadline" ] || fail_node "$node" "node $node did not start in 20 s"
        sleep 0.05
    done
    line=${line#listening on }
    NODE_ADDRS[node]=${line%% as *}
    NODE_IDS[node]=${line##* as }
}

# Waits until node N knows COUNT peers.
await_peers() {
    local node=$1 count=$2 deadline known
    deadline=$(($(now_ms) + 30000))
    while :; do
        known=$(x "$node" peers --json 2>/dev/null | grep -oE '[0-9a-f]{64}' |
            grep -vF "${NODE_IDS[node]}" | sort -u | wc -l) || true
        [ "$known" -lt "$count" ] || return 0
        [ "$(now_ms)" -lt "$deadline" ] ||
            fail_node "$node" "node $node knows $known peers after 30 s, not $count"
        sleep 0.1
    done
}

# Starts COUNT nodes; all but the first join the first. Returns when everybody knows everybody.
start_nodes() {
    local count=$1 node
    start_node 1
    for ((node = 2; node <= count; node++)); do
        start_node "$node" --join "${NODE_ADDRS[1]}"
    done
    for ((node = 1; node <= count; node++)); do
        await_peers "$node" "$((count - 1))"
    done
}

mount_node() {
    local node=$1 dir
    dir=$(mount_of "$node")
    mkdir -p "$dir"
    MOUNTS+=("$dir")
    run "$XORFS" --home "$(home_of "$node")" mount "$dir" ||
        fail_node "$node" "node $node could not mount $dir"
}

kill_node() {
    local node=$1 pid=${NODE_PIDS[$1]}
    kill -KILL "$pid"
    wait "$pid" 2>/dev/null || true
    unset "NODE_PIDS[$node]"
}

# A mount whose process is gone answers nobody, so it is taken off lazily.
unmount_dir() {
    local dir=$1
    grep -qF " $dir " /proc/self/mounts || return 0
    umount -l "$dir" 2>/dev/null || fusermount3 -u -z "$dir" 2>/dev/null ||
        say "could not unmount $dir" >&2
}

# Ends the nodes: politely at first, for good after five seconds.
end_nodes() {
    local pid deadline
    for pid in "${NODE_PIDS[@]}"; do kill -TERM "$pid" 2>/dev/null || true; done
    deadline=$(($(now_ms) + 5000))
    for pid in "${NODE_PIDS[@]}"; do
        while kill -0 "$pid" 2>/dev/null && [ "$(now_ms)" -lt "$deadline" ]; do sleep 0.05; done
        kill -KILL "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    NODE_PIDS=()
}

cleanup() {
    local status=$? dir
    # A second signal must not cut this short.
    trap '' INT TERM HUP
    trap - EXIT
    [ -z "$CURRENT" ] || kill "$CURRENT" 2>/dev/null || true
    for dir in "${MOUNTS[@]}"; do unmount_dir "$dir"; done
    end_nodes
    for dir in "${MOUNTS[@]}"; do unmount_dir "$dir"; done
    # Should a mount have survived all this, its files are not ours to delete.
    [ -z "$WORK" ] || rm -rf --one-file-system "$WORK"
    exit "$status"
}
