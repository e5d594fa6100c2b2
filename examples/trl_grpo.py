"""TRL's GRPOTrainer with modgap's reward, on the testbed model.

python examples/trl_grpo.py --out runs/trl            # 2 steps; a CPU is enough
modgap eval --benchmark synthetic --views text-only --model runs/trl --limit 50 --out runs/trl-eval

The prompts are those of the view `text-only`, so that a tokenizer is all that TRL needs. To train
on diagrams, give the data set a column `image` and `processing_class` the model's `AutoProcessor`
(which needs torchvision).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

from datasets import Dataset
from modgap import load_problems
from modgap.core.prompt import training_prompt
from modgap.models.load import resolve
from modgap.rewards import gap_reward


def train(out: Path, steps: int = 2, problems: int = 8) -> list[dict[str, Any]]:
    """Train some steps and save the model.

    Args:
        out: Folder for the model, in Hugging Face form.
        steps: Optimizer steps.
        problems: Training problems.

    Returns:
        TRL's log, one entry a step.
    """
    folder, gpu = resolve("tiny"), torch.cuda.is_available()
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype="float32")
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    rows = [
        {
            "prompt": [{"role": "user", "content": training_prompt(problem, "text-only").text}],
            "answer": problem.answer,  # `gap_reward` finds the column `answer`
        }
        for problem in load_problems(benchmark="synthetic", split="train", limit=problems)
    ]
    trainer = GRPOTrainer(
        model=model,
        processing_class=tokenizer,
        reward_funcs=gap_reward,
        train_dataset=Dataset.from_list(rows),
        args=GRPOConfig(
            output_dir=str(out / "trl"),
            max_steps=steps,
            per_device_train_batch_size=8,
            num_generations=4,
            max_completion_length=128,
            learning_rate=1e-5,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            use_cpu=not gpu,
            bf16=gpu,
        ),
    )
    trainer.train()
    trainer.save_model(str(out))
    for file in folder.iterdir():
        # What TRL does not write: the image processor and the chat template.
        if file.suffix in (".json", ".jinja") and not (out / file.name).exists():
            (out / file.name).write_bytes(file.read_bytes())
    return trainer.state.log_history


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2)
    given = parser.parse_args()
    for entry in train(given.out, given.steps):
        if "reward" in entry:
            print(f"reward {entry['reward']:.3f}")
