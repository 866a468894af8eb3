#!/usr/bin/env bash
# All figures of one GPU, as tables and as JSON, in one go:
#
#     bash studies/benchmarks/gpu.sh [FOLDER]      (default: work_dirs/gpu)
#
# PYTHON, BATCH_SIZE (default 256) and WORKERS (default: all cores) may be set.
set -euo pipefail
cd "$(dirname "$0")/../.."
OUT=${1:-work_dirs/gpu}
PYTHON=${PYTHON:-python}
BATCH_SIZE=${BATCH_SIZE:-256}
WORKERS=${WORKERS:-$(nproc)}
"$PYTHON" -c 'import torch; torch.cuda.is_available() or exit(1)' || {
    echo "PyTorch ($PYTHON) finds no GPU, and these are figures of one." >&2
    exit 1
}
mkdir -p "$OUT"

run() {  # NAME SCRIPT ARGUMENTS...
    echo "== $1"
    "$PYTHON" "studies/benchmarks/$2.py" "${@:3}" --json "$OUT/$1.json" |
        tee "$OUT/$1.txt"
}

run step_time step_time --device cuda --amp --variants all --profile \
    --batch-size "$BATCH_SIZE" --rounds 20
run memory memory --device cuda --amp --variants all --batch-size "$BATCH_SIZE"
run teacher_cost teacher_cost --device cuda --model L \
    --batch-size "$BATCH_SIZE" --rounds 20
for STUDENT in s b; do
    run "end_to_end_$STUDENT" end_to_end \
        "configs/dmae/vit-${STUDENT}_dmae_in1k.py" --batch-size "$BATCH_SIZE" \
        --workers "$WORKERS" --iterations $((2 * WORKERS + 40)) \
        --step-iterations 20
done
