#!/usr/bin/env bash
# Every GPU of one machine: as many replicas as fit, behind one port.
# server/recipes/multi_gpu.sh MODEL [--port 8000] [-- VLLM FLAGS]
# serve_vllm.py looks at the GPUs and chooses --tensor-parallel-size and --data-parallel-size;
# --tensor-parallel and --data-parallel overrule it. See what it chose with --print.
set -eu -o pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
exec .venv-vllm/bin/python server/serve_vllm.py --device cuda "$@"
