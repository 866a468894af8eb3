#!/usr/bin/env bash
# Train with several processes on this machine, one per GPU, or, on a machine
# without a GPU, on the CPU:
#
#   tools/dist_train.sh CONFIG GPUS [options of tools/train.py]
#
# On several machines, run it on each with NNODES, NODE_RANK, MASTER_ADDR (of
# the machine with rank 0) and PORT set, which is 29500 if it is not. On one
# machine, a port that is free is taken. PYTHON chooses the interpreter.
set -euo pipefail

if [ $# -lt 2 ]; then
    echo "usage: $0 CONFIG GPUS [options of tools/train.py]" >&2
    exit 2
fi
config=$1
gpus=$2
shift 2

if ! [[ $gpus =~ ^[1-9][0-9]*$ ]]; then
    echo "$0: GPUS must be a positive number, but is '$gpus'" >&2
    exit 2
fi

nnodes=${NNODES:-1}
node_rank=${NODE_RANK:-0}
python=${PYTHON:-python}
port=${PORT:-$((nnodes > 1 ? 29500 : 0))}
# The process of rank 0 listens at the port: 0 becomes one that is free.
if [ "$node_rank" = 0 ]; then
    port=$("$python" - "$port" <<'EOF'
import socket
import sys

given = sys.argv[1]
if not given.isdigit() or int(given) > 65535:
    sys.exit(f'PORT={given} is not a number from 1 to 65535')
with socket.socket() as listener:
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(('', int(given)))
        listener.listen()
    except OSError as error:
        sys.exit(f'port {given} cannot be had: {error.strerror}. Another run '
                 'may have it: set PORT to another number or, on one machine, '
                 'leave it out, and a free one is taken')
    print(listener.getsockname()[1])
EOF
    )
fi

exec "$python" -m torch.distributed.run \
    --nnodes="$nnodes" \
    --node_rank="$node_rank" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="$port" \
    --nproc_per_node="$gpus" \
    "$(dirname "$0")/train.py" "$config" --launcher pytorch "$@"
