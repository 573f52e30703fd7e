#!/bin/bash
# convnet trained by two workers, each on a node of its own. From an environment that has
# gradzoo:
#
#   sbatch deploy/slurm-train.sh
#
# `runs`, here, and the home folder must be the same on all nodes. When a node fails Slurm
# queues the job again, which goes on from the newest checkpoint.
#SBATCH --job-name=convnet
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=4
#SBATCH --time=04:00:00
#SBATCH --signal=B:USR1@60
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

# A minute before its time is over, the job queues again.
trap 'scontrol requeue "$SLURM_JOB_ID"; exit' USR1

# Jobs that share nodes differ in the port, which is below those of outgoing connections.
port=$((10000 + SLURM_JOB_ID % 20000))
addresses=$(scontrol show hostnames "$SLURM_JOB_NODELIST" |
    sed "s/.*/\"&:$port\"/" | paste -sd, -)

# What each task runs.
# shellcheck disable=SC2329
worker() {
    task="{\"type\": \"worker\", \"index\": $SLURM_PROCID}"
    export TF_CONFIG="{\"cluster\": {\"worker\": [$addresses]}, \"task\": $task}"
    exec zoo train convnet --dataset mnist --output runs/convnet --every 200 --resume
}
export addresses
export -f worker

# Once, since all workers would write the same files.
zoo datasets prepare mnist

# When a worker dies, all are started again. Bash hears signals while it waits.
for _ in {1..10}; do
    srun --cpus-per-task="$SLURM_CPUS_PER_TASK" --kill-on-bad-exit=1 bash -c worker &
    wait $! && exit
done
exit 1
