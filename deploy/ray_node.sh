#!/usr/bin/env bash
# One node of a Ray cluster with token authentication, in the foreground; SIGTERM or Ctrl-C ends it.
#
#   deploy/ray_node.sh head                  # on the first host
#   deploy/ray_node.sh worker HEAD[:PORT]    # on every other one, before or after the head
#   deploy/ray_node.sh wait HEAD[:PORT] N    # on any of them: until N nodes are there
#
# Further arguments go to `ray start`, for instance --port=6380 or --num-gpus=4. All nodes need the same token, in
# ~/.ray/auth_token or where RAY_AUTH_TOKEN_PATH says; GPS_RAY_WAIT_S is how long anything is waited for.
set -euo pipefail

usage() {
  echo "usage: deploy/ray_node.sh head [options of ray start] | worker HEAD[:PORT] [options of ray start] | wait HEAD[:PORT] N" >&2
  exit 2
}

fail() {
  echo "deploy/ray_node.sh: $*" >&2
  exit 2
}

project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# A job's `python` is looked up on the PATH that the node was started with.
if [[ -x $project/.venv/bin/ray ]]; then
  PATH=$project/.venv/bin:$PATH
fi
command -v ray >/dev/null || fail "no ray on PATH; run 'make' in $project, or activate the environment that has it"

export RAY_AUTH_MODE=token
# Ray kills a stopped job after three seconds; a run wants to end its step and write a checkpoint.
export RAY_JOB_STOP_WAIT_TIME_S=${RAY_JOB_STOP_WAIT_TIME_S:-90}
token=${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}
if [[ -z ${RAY_AUTH_TOKEN:-} && ! -s $token ]]; then
  fail "no token in $token; make one on one host with 'ray get-auth-token --generate' and copy the file to the others"
fi

wait_s=${GPS_RAY_WAIT_S:-300}

# Ray gives up on a head that comes later than its workers, as happens where a scheduler starts all at once.
wait_for_head() {
  python3 - "$1" "$wait_s" <<'PYTHON' || fail "nobody answers at $1 after $wait_s s (GPS_RAY_WAIT_S); is the head up?"
import socket, sys, time

(host, port), end = sys.argv[1].rsplit(":", 1), time.monotonic() + float(sys.argv[2])
while True:
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
        break
    except OSError as error:
        if time.monotonic() > end:
            sys.exit(str(error))
        time.sleep(1)
PYTHON
}

wait_for_nodes() {
  python - "$1" "$2" "$wait_s" <<'PYTHON' || fail "the cluster at $1 is not whole after $wait_s s (GPS_RAY_WAIT_S)"
import sys, time

import ray

address, wanted, end = sys.argv[1], int(sys.argv[2]), time.monotonic() + float(sys.argv[3])
while True:
    try:
        ray.init(address=address, log_to_driver=False, logging_level="error")
        break
    except ConnectionError as error:  # this host's node has not joined yet
        if time.monotonic() > end:
            sys.exit(str(error))
        time.sleep(1)
while (alive := sum(node["Alive"] for node in ray.nodes())) < wanted:
    if time.monotonic() > end:
        sys.exit(f"{alive} of {wanted} nodes have joined")
    time.sleep(1)
print(f"{alive} nodes")
PYTHON
}

role=${1:-} address=${2:-}
[[ $address == *:* || $role == head ]] || address=$address:6379
case $role in
  head)
    shift
    exec ray start --head --port=6379 --dashboard-host=127.0.0.1 --disable-usage-stats --block "$@"
    ;;
  worker)
    [[ $# -ge 2 ]] || usage
    shift 2
    wait_for_head "$address"
    exec ray start --address="$address" --disable-usage-stats --block "$@"
    ;;
  wait)
    [[ $# -eq 3 ]] || usage
    wait_for_head "$address"
    wait_for_nodes "$address" "$3"
    ;;
  *) usage ;;
esac
