#!/usr/bin/env bash
# Evaluate on several devices: tools/dist_test.sh CONFIG CHECKPOINT DEVICES [arguments of test.py]
# On several machines, the same on each, with NNODES, NODE_RANK, MASTER_ADDR and MASTER_PORT set.
set -euo pipefail
config=${1:?CONFIG}; checkpoint=${2:?CHECKPOINT}; devices=${3:?number of devices per machine}
exec torchrun --nnodes "${NNODES:-1}" --node_rank "${NODE_RANK:-0}" --nproc_per_node "$devices" \
    --master_addr "${MASTER_ADDR:-127.0.0.1}" --master_port "${MASTER_PORT:-29500}" \
    "$(dirname "$0")/test.py" "$config" "$checkpoint" --launcher pytorch "${@:4}"
