#!/usr/bin/env bash
# A run on several Slurm nodes: one Ray node per host, the driver on the first. From the project's folder, on storage
# that all nodes see and with its environment installed there:
#
#   sbatch deploy/slurm.sh --config configs/countdown_qwen3_4b.yaml run.directory=/shared/runs/first
#
# The arguments are those of jobs.train. The same command again goes on from the newest checkpoint, and so does the
# job by itself when Slurm has taken its nodes or its time is over. Of hosts that you share with others take whole
# ones: two Ray nodes on one host quarrel about ports.
#SBATCH --job-name=gps-ray
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
# Two minutes before the end, to this script alone: the step at hand ends and is checkpointed.
#SBATCH --signal=B:TERM@120
set -euo pipefail

if [[ -z ${SLURM_JOB_ID:-} ]]; then
  echo "deploy/slurm.sh: this is no Slurm job; submit it by 'sbatch deploy/slurm.sh ...'" >&2
  exit 2
fi
cd "${SLURM_SUBMIT_DIR:-.}"
if [[ ! -x deploy/ray_node.sh ]]; then
  echo "deploy/slurm.sh: submit it from the project's folder, here is no deploy/ray_node.sh: $PWD" >&2
  exit 2
fi
if [[ -x .venv/bin/ray ]]; then
  PATH=$PWD/.venv/bin:$PATH
fi

head_host=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 10000))
nodes=${SLURM_JOB_NUM_NODES:-1}
export RAY_ADDRESS=$head_host:$port RAY_AUTH_MODE=token
# The token lies in the home folder, which all nodes see.
ray get-auth-token --generate >/dev/null

# srun does not take over how many CPUs a task has, and Ray counts those of the whole host.
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}
cpus=--num-cpus=$SRUN_CPUS_PER_TASK

# Ray's nodes are Slurm steps of their own: the signal above reaches none of them before the driver has ended.
srun --overlap --nodes=1 --ntasks=1 --nodelist="$head_host" deploy/ray_node.sh head --port="$port" "$cpus" &
steps=($!)
if ((nodes > 1)); then
  srun --overlap --nodes=$((nodes - 1)) --ntasks=$((nodes - 1)) --exclude="$head_host" \
    deploy/ray_node.sh worker "$RAY_ADDRESS" "$cpus" &
  steps+=($!)
fi
trap 'kill -TERM "${steps[@]}" 2>/dev/null || true' EXIT

# A run that begins before all nodes have joined is told that the cluster is too small.
deploy/ray_node.sh wait "$RAY_ADDRESS" "$nodes"

python -m jobs.train --resume "$@" &
driver=$!
trap 'kill -TERM "$driver"' TERM INT
code=0
wait "$driver" || code=$?
# A trapped signal ends `wait` early; the driver still has its checkpoint to write.
while kill -0 "$driver" 2>/dev/null; do
  code=0
  wait "$driver" || code=$?
done
# 143: ended by SIGTERM, with a checkpoint; the same job goes on where it stopped.
if ((code == 143)) && [[ ${SLURM_RESTART_COUNT:-0} -lt 20 ]]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
