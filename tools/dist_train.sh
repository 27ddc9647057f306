#!/usr/bin/env bash
# Train on several devices: tools/dist_train.sh CONFIG DEVICES [arguments of train.py]
# On several machines, the same on each, with NNODES, NODE_RANK, MASTER_ADDR and MASTER_PORT set.
set -euo pipefail
config=${1:?CONFIG}; devices=${2:?number of devices per machine}
exec torchrun --nnodes "${NNODES:-1}" --node_rank "${NODE_RANK:-0}" --nproc_per_node "$devices" \
    --master_addr "${MASTER_ADDR:-127.0.0.1}" --master_port "${MASTER_PORT:-29500}" \
    "$(dirname "$0")/train.py" "$config" --launcher pytorch "${@:3}"
