#!/bin/bash
#SBATCH --job-name=modgap
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
# Several nodes: a Ray cluster for the time of the job. The model is a folder that every node sees.
#
#   sbatch examples/slurm_nodes.sh /shared/models/Qwen2.5-VL-7B runs/7b
set -euo pipefail

model=${1:?give a model folder that every node sees}
out=${2:?give a run folder}
export RAY_process_group_cleanup_enabled=true RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(openssl rand -hex 32)
export RAY_AUTH_TOKEN

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -1)
others=$((SLURM_NNODES - 1))
srun --overlap --nodes=1 --ntasks=1 -w "$head" ray start --head --port 6379 --block &
sleep 20
srun --overlap --nodes="$others" --ntasks="$others" --exclude "$head" \
  ray start --address "$head:6379" --block &
sleep 20
srun --overlap --nodes=1 --ntasks=1 -w "$head" \
  modgap eval --data "${DATA:-PGPS9K}" --model "$model" --out "$out" \
  --engine vllm --replicas $((8 * SLURM_NNODES)) --ray-address "$head:6379"
