#!/usr/bin/env bash
# One server a GPU, and vllm-router before them that keeps a session on one of them.
# GPUS=4 VLLM_API_KEY=... server/recipes/replicas.sh MODEL
# Needs: .venv-vllm (server/install-vllm cuda) with `pip install vllm-router` in it.
set -eu -o pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
model=${1:?usage: replicas.sh MODEL}
gpus=${GPUS:-$(nvidia-smi -L | grep -c ^GPU)}
first=${FIRST_PORT:-8001}
port=${PORT:-8000}
bin=.venv-vllm/bin

children=()
end() {
    trap - EXIT INT TERM
    [ ${#children[@]} -eq 0 ] || kill -TERM "${children[@]}" 2>/dev/null || true
    wait
}
trap end EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

urls=()
for ((gpu = 0; gpu < gpus; gpu++)); do
    CUDA_VISIBLE_DEVICES=$gpu "$bin/python" server/serve_vllm.py "$model" \
        --device cuda --port $((first + gpu)) &
    children+=($!)
    urls+=("http://127.0.0.1:$((first + gpu))")
done

# A run sends X-Session-ID, and all requests with one value go to one replica. `cache_aware`, the
# default, would compare token-id prompts by their length alone.
"$bin/vllm-router" \
    --host "${HOST:-127.0.0.1}" --port "$port" \
    --policy consistent_hash \
    --worker-urls "${urls[@]}" \
    --worker-startup-timeout-secs 1800 &
children+=($!)

echo "icm-client label ROWS -o labels.jsonl --endpoint http://127.0.0.1:$port"
# Whoever ends first, replica or router, ends all.
wait -n
