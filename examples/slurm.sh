#!/bin/bash
#SBATCH --job-name=modgap
#SBATCH --nodes=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@60
# One node: evaluate a model on all of its GPUs.
#
#   sbatch examples/slurm.sh Qwen/Qwen2.5-VL-7B-Instruct runs/7b
#
# SLURM sends TERM a minute before the time is over: modgap then ends its processes, and the same job
# resumes. `exec` makes modgap the process that gets the signal.
set -euo pipefail

model=${1:?give a model}
out=${2:?give a run folder}

exec modgap eval --data "${DATA:-PGPS9K}" --model "$model" --out "$out" \
  --engine vllm --replicas "${SLURM_GPUS_ON_NODE:-1}"
