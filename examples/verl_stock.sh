#!/usr/bin/env bash
# verl's own trainer with modgap's reward and modgap's data; nothing of verl is replaced.
#
#   modgap data prepare PGPS9K --out parquet --variant full-text
#   bash examples/verl_stock.sh
#
# Needs `pip install modgap` in the environment of verl 0.9.1, and 8 GPUs of 80 GB. The contrastive KL
# is not part of this: that is `modgap train kl --engine verl`.
set -euo pipefail

python3 -m verl.trainer.main_ppo \
  algorithm.adv_estimator=grpo \
  data.train_files="${TRAIN:-parquet/train.parquet}" \
  data.val_files="${TEST:-parquet/test.parquet}" \
  data.train_batch_size=512 \
  data.max_prompt_length=1024 \
  data.max_response_length=4096 \
  data.filter_overlong_prompts=True \
  data.image_key=images \
  actor_rollout_ref.model.path="${MODEL:-Qwen/Qwen2.5-VL-7B-Instruct}" \
  actor_rollout_ref.model.enable_gradient_checkpointing=True \
  actor_rollout_ref.actor.strategy=fsdp2 \
  actor_rollout_ref.actor.optim.lr=1e-6 \
  actor_rollout_ref.actor.ppo_mini_batch_size=128 \
  actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=4 \
  actor_rollout_ref.actor.use_kl_loss=False \
  actor_rollout_ref.actor.clip_ratio_low=0.2 \
  actor_rollout_ref.actor.clip_ratio_high=0.28 \
  actor_rollout_ref.rollout.name=vllm \
  actor_rollout_ref.rollout.n=5 \
  actor_rollout_ref.rollout.tensor_model_parallel_size=1 \
  actor_rollout_ref.rollout.gpu_memory_utilization=0.6 \
  actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=8 \
  reward.custom_reward_function.path=pkg://modgap.rewards \
  reward.custom_reward_function.name=compute_score \
  +reward.custom_reward_function.reward_kwargs.tolerance=relative \
  trainer.n_gpus_per_node=8 \
  trainer.nnodes=1 \
  trainer.total_training_steps=200 \
  trainer.save_freq=40 \
  trainer.logger='[console]' \
  "$@"
