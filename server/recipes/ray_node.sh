#!/usr/bin/env bash
# One model over several machines, on Ray. The same folder and .venv-vllm on each, with
# `pip install 'ray[default]'` in it.
#   on every other machine:  server/recipes/ray_node.sh join HEAD_ADDRESS
#   then on the first one:   NODES=2 GPUS=8 server/recipes/ray_node.sh serve MODEL
# A replica spans the machines: GPUS a machine hold a layer together (tensor parallel, over NVLink),
# and the machines hold the layers in turn (pipeline parallel, over the network).
set -eu -o pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
bin=.venv-vllm/bin
ray_port=${RAY_PORT:-6379}

case ${1:-} in
join)
    address=${2:?usage: ray_node.sh join HEAD_ADDRESS}
    exec "$bin/ray" start --address="$address:$ray_port" --block
    ;;
serve)
    model=${2:?usage: NODES=2 GPUS=8 ray_node.sh serve MODEL}
    nodes=${NODES:?how many machines} gpus=${GPUS:?how many GPUs on each}
    "$bin/ray" start --head --port="$ray_port"
    trap '"$bin/ray" stop' EXIT
    echo "Waiting for $nodes machines ..."
    "$bin/python" - "$nodes" <<'PYTHON'
import sys
import time

import ray

ray.init(address="auto")
while sum(node["Alive"] for node in ray.nodes()) < int(sys.argv[1]):
    time.sleep(2)
PYTHON
    "$bin/python" server/serve_vllm.py "$model" --device cuda --start-timeout 3600 \
        --host "${HOST:-127.0.0.1}" -- \
        --distributed-executor-backend ray \
        --tensor-parallel-size "$gpus" \
        --pipeline-parallel-size "$nodes" &
    server=$!
    # The server first, in order, then Ray below it.
    trap 'kill -TERM "$server" 2>/dev/null || true' INT TERM
    status=0
    wait "$server" || status=$?
    wait "$server" 2>/dev/null || true
    exit "$status"
    ;;
*)
    echo "usage: $0 join HEAD_ADDRESS | serve MODEL" >&2
    exit 2
    ;;
esac
