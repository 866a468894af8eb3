#!/usr/bin/env bash
# Train on a Slurm cluster:
#
#   tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR \
#       [options of tools/train.py]
#
# GPUS, GPUS_PER_NODE and CPUS_PER_TASK set the size of the job, SRUN_ARGS
# holds further options of srun, PYTHON chooses the interpreter, PORT the port
# where the processes meet: tools/train.py derives one from the job's number.
#
# Two minutes before its time is up, Slurm signals the run, which saves, ends
# with status 75, is queued again and goes on. Called directly, this script
# waits and queues it; under sbatch, it hands the job back to Slurm:
#
#   sbatch --requeue --signal=USR1@120 --open-mode=append ... \
#       tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR
#
# A node that fails makes Slurm queue a batch job again by itself: then this
# script adds --resume. A job that is cancelled saves as well, but is not
# queued again; the next start with its work dir goes on.
set -euo pipefail

if [ $# -lt 4 ]; then
    echo "usage: $0 PARTITION JOB_NAME CONFIG WORK_DIR" \
        "[options of tools/train.py]" >&2
    exit 2
fi
partition=$1
job_name=$2
config=$3
work_dir=$4
shift 4

gpus=${GPUS:-8}
gpus_per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
# Several options in one variable, to be split at the blanks.
read -r -a srun_args <<< "${SRUN_ARGS:-}"

if [ -n "${PORT:-}" ]; then
    export MASTER_PORT=$PORT  # srun hands it on
fi

resume=()
if [ "${SLURM_RESTART_COUNT:-0}" -gt 0 ]; then
    resume=(--resume)
fi

while true; do
    status=0
    srun \
        --partition="$partition" \
        --job-name="$job_name" \
        --gres="gpu:$gpus_per_node" \
        --ntasks="$gpus" \
        --ntasks-per-node="$gpus_per_node" \
        --cpus-per-task="${CPUS_PER_TASK:-5}" \
        --kill-on-bad-exit=1 \
        --signal=USR1@120 \
        ${srun_args[@]+"${srun_args[@]}"} \
        "${PYTHON:-python}" -u "$(dirname "$0")/train.py" "$config" \
        --work-dir "$work_dir" --launcher slurm "$@" \
        ${resume[@]+"${resume[@]}"} || status=$?
    # 75: tools/train.py was signalled and has saved. SIGTERM comes from
    # scancel, or from a preemption that queues the job itself.
    if [ "$status" -ne 75 ] ||
        ! grep -q '"signal": "SIGUSR1"' "$work_dir/preempted.json"; then
        exit "$status"
    fi
    if [ -n "${SLURM_JOB_ID:-}" ]; then
        echo "$0: queueing job $SLURM_JOB_ID again" >&2
        exec scontrol requeue "$SLURM_JOB_ID"
    fi
    echo "$0: queueing the run again" >&2
done
