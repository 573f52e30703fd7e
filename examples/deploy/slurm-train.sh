#!/bin/bash
# Trains convnet with two workers on two nodes. In an environment that has gradzoo:
#
#   sbatch examples/deploy/slurm-train.sh
#
# All nodes must share the working directory, which receives `runs`, and the home
# directory. If a node fails, Slurm requeues the job, which resumes from the newest
# checkpoint.
#SBATCH --job-name=convnet
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=4
#SBATCH --time=04:00:00
#SBATCH --signal=B:USR1@60
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

# Requeues the job a minute before its time limit.
trap 'scontrol requeue "$SLURM_JOB_ID"; exit' USR1

# Jobs on the same node need different ports. These are below the ephemeral ports.
port=$((10000 + SLURM_JOB_ID % 20000))
addresses=$(scontrol show hostnames "$SLURM_JOB_NODELIST" |
    sed "s/.*/\"&:$port\"/" | paste -sd, -)

# Runs in each task.
# shellcheck disable=SC2329
worker() {
    task="{\"type\": \"worker\", \"index\": $SLURM_PROCID}"
    export TF_CONFIG="{\"cluster\": {\"worker\": [$addresses]}, \"task\": $task}"
    exec zoo train convnet --dataset mnist --output runs/convnet --every 200 --resume
}
export addresses
export -f worker

# Once for all workers, which would otherwise write the same files.
zoo datasets prepare mnist

# Starts all workers again if one fails. In the background, since Bash handles signals
# only while it waits.
for _ in {1..10}; do
    srun --cpus-per-task="$SLURM_CPUS_PER_TASK" --kill-on-bad-exit=1 bash -c worker &
    wait $! && exit
done
exit 1
