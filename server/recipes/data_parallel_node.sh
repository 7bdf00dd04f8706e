#!/usr/bin/env bash
# Replicas on several machines behind the first one's port, without Ray.
#   NODES=2 GPUS=8 HEAD=10.0.0.1 RANK=0 server/recipes/data_parallel_node.sh MODEL   (first machine)
#   NODES=2 GPUS=8 HEAD=10.0.0.1 RANK=1 server/recipes/data_parallel_node.sh MODEL   (the second)
# The model must fit on one GPU. VLLM_API_KEY must be set on the first machine.
set -eu -o pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
model=${1:?usage: NODES=2 GPUS=8 HEAD=ADDRESS RANK=0 data_parallel_node.sh MODEL}
nodes=${NODES:?} gpus=${GPUS:?} head=${HEAD:?} rank=${RANK:?}
parallel=(
    --data-parallel-size $((nodes * gpus))
    --data-parallel-size-local "$gpus"
    --data-parallel-address "$head"
    --data-parallel-rpc-port "${RPC_PORT:-13345}"
)
if [ "$rank" -eq 0 ]; then
    exec .venv-vllm/bin/python server/serve_vllm.py "$model" --device cuda \
        --host "${HOST:-127.0.0.1}" --start-timeout 3600 -- "${parallel[@]}"
fi
# No port of its own: it lends its GPUs to the first machine. All flags that shape the model must
# be those of the first one.
exec .venv-vllm/bin/python -m vllm.entrypoints.cli.main serve "$model" --headless \
    --data-parallel-start-rank $((rank * gpus)) "${parallel[@]}" \
    --enable-prefix-caching --max-logprobs 128 --logprobs-mode raw_logprobs \
    --generation-config vllm --scheduling-policy priority
