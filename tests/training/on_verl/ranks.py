"""One rank of verl's FSDP2 engine on CPU, for test_plugin.py: `python ranks.py RANK WORLD FOLDER`.

Reads FOLDER/jobs.pt (of each job its model, stage and every rank's rows), runs one update of each
with an engine of its own, and writes FOLDER/rank_N.pt. The last engine saves its checkpoint as
FOLDER/verl/global_step_1, and rank 0 the whole weights as FOLDER/weights.pt.
"""

from __future__ import annotations

import functools
import os
import sys
import types
from pathlib import Path
from typing import Any

import torch


def main(rank: int, world: int, folder: Path) -> None:
    os.environ |= {
        "VERL_ENGINE_VENDOR": "modgap",
        "RANK": str(rank),
        "WORLD_SIZE": str(world),
        "LOCAL_RANK": str(rank),
    }
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world
    )
    jobs = torch.load(folder / "jobs.pt", weights_only=False)
    engine: Any = None
    told = []
    for job in jobs:
        engine, loss_function = build(job)
        told.append(update(engine, loss_function, batch(job["rows"][rank], job["settings"]), world))
    torch.save(told, folder / f"rank_{rank}.pt")
    engine.save_checkpoint(str(folder / "verl" / "global_step_1" / "actor"), global_step=1)
    weights = {name: value.full_tensor() for name, value in engine.module.state_dict().items()}
    if rank == 0:
        torch.save(weights, folder / "weights.pt")
    torch.distributed.destroy_process_group()


def update(engine: Any, loss_function: Any, data: Any, world: int) -> dict[str, Any]:
    """One update, and what it told."""
    images = spy(engine)
    output = engine.train_batch(data, loss_function)
    from verl.utils.metric import Metric

    # verl also reports plain numbers.
    metrics = {key: x for key, x in output["metrics"].items() if isinstance(x, Metric)}
    gathered: list[Any] = [None] * world
    torch.distributed.all_gather_object(gathered, metrics)
    agreed = {key: float(Metric.aggregate_dp([each[key] for each in gathered])) for key in metrics}
    loss = torch.tensor(sum(output["loss"]))
    torch.distributed.all_reduce(loss)
    norm = float(output["metrics"]["grad_norm"])
    # Clipped by now: only their direction counts.
    parameters = engine.module.named_parameters()
    gradients = {name: p.grad.full_tensor() for name, p in parameters if p.grad is not None}
    return {
        "gradients": gradients if torch.distributed.get_rank() == 0 else None,
        "loss": float(loss) / world,
        "grad_norm": norm,
        "metrics": agreed,
        "images": images,
        "engine": type(engine).__name__,
    }


def build(job: dict[str, Any]) -> tuple[Any, Any]:
    """verl's engine and loss, from the configuration of the recipe's stage, as its TrainingWorker
    makes them.
    """
    from transformers import AutoConfig, Qwen2_5_VLModel, Qwen3VLModel
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
    from verl.utils.config import omega_conf_to_dataclass
    from verl.workers.engine import EngineRegistry
    from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead
    from verl.workers.utils.losses import ppo_loss

    from modgap.training.verl.config import Files, Model, stage_overrides
    from modgap.training.verl.plan import compose

    files = Files(("t.parquet",), "v.parquet", "verl", "metrics.jsonl", "tensorboard")
    overrides = stage_overrides(job["stage"], Model(job["model"]), files, gpus=job["world"])
    config = compose(overrides)
    actor = omega_conf_to_dataclass(config.actor_rollout_ref.actor)
    model = omega_conf_to_dataclass(config.actor_rollout_ref.model)
    # AutoProcessor needs torchvision, of which there is no CPU build; the engine takes positions
    # from it only.
    processor = types.SimpleNamespace(
        config=AutoConfig.from_pretrained(job["model"]),
        save_pretrained=model.tokenizer.save_pretrained,
        image_processor=Qwen2VLImageProcessorPil.from_pretrained(job["model"]),
    )
    of_type = {"qwen2_5_vl": Qwen2_5_VLModel, "qwen3_vl": Qwen3VLModel}
    own = of_type[processor.config.model_type]
    for name in ("get_rope_index", "get_vision_position_ids"):
        if hasattr(own, name):
            setattr(processor, name, types.MethodType(getattr(own, name), processor))
    model.processor = processor
    model.model_type = "language_model"
    settings = actor.engine
    settings.use_remove_padding, settings.use_fused_kernels = model.use_remove_padding, False
    actor.optim.total_training_steps = 10
    parts = {
        "model_config": model, "engine_config": settings, "optimizer_config": actor.optim,
        "checkpoint_config": actor.checkpoint,
    }  # fmt: skip
    if job.get("stock"):
        engine: Any = FSDPEngineWithLMHead(**parts)
    else:
        engine = EngineRegistry.new(model_type="language_model", backend=settings.strategy, **parts)
    engine.initialize()
    return engine, functools.partial(ppo_loss, config=actor)


def batch(rows: list[dict[str, Any]], settings: dict[str, Any]) -> Any:
    """This rank's rows as the V1 trainer hands them to the engine."""
    from tensordict import NonTensorData
    from verl.utils import tensordict_utils as tu

    data = tu.list_of_dict_to_tensordict(rows)
    places = [row["position_ids"] for row in rows]
    offsets = torch.tensor([0, *(place.shape[1] for place in places)]).cumsum(0)
    data["position_ids"] = torch.nested.nested_tensor_from_jagged(
        torch.cat(places, -1), offsets, jagged_dim=2
    )
    tokens = (
        "input_ids",
        "prompts",
        "responses",
        "response_mask",
        "loss_mask",
        "old_log_probs",
        "advantages",
        *(["ref_log_prob"] if "ref_log_prob" in rows[0] else []),
    )
    for key in tokens:  # rows of equal length would be stacked
        data[key] = torch.nested.as_nested_tensor([row[key] for row in rows], layout=torch.jagged)
    tu.assign_non_tensor(data, **settings)
    lengths = [
        len(row["input_ids"]) for row in rows
    ]  # of all ranks, so that it is no list of this rank's rows
    tu.assign_non_tensor(data, global_token_num=NonTensorData(lengths * 2))
    return data


def spy(engine: Any) -> list[int]:
    """How many images each pass of our engine encodes, noted as it runs."""
    from modgap.training.verl import forward

    images = list[int]()
    own = vars(forward).setdefault("_own", forward.encode_images)

    def noting(visual: Any, patches: Any, grids: Any, call: Any) -> Any:
        images.append(len(grids))
        return own(visual, patches, grids, call)

    forward.encode_images = noting
    return images


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
