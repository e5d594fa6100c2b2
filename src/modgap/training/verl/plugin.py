"""The contrastive KL inside verl 0.9.1, without a fork.

verl imports this module (`model.external_lib`).

    agent loop   here: verl's single-turn loop, which also tokenizes the text-free twin of the
                 prompt
    reward       (modgap.rewards) 1.0 for right and well formatted
    engine       here: such a row is forwarded a second time, as [text-free prompt | response], in
                 the same forward pass as its micro-batch; the loss is verl's own on the original
                 rows plus `kl_coef * KL`
    dropped      here: the mean reward of the groups that a step dropped becomes a metric
    images       here: the vision tower encodes each distinct image of a micro-batch once, also for
                 a twin and the other samples of a group

The twin is the parquet's column `contrastive_prompt` (contrastive stages); it has the images of the
prompt. Its token ids are passed in `extra_fields` to the actor. Without the column (other stages,
validation) the agent loop is verl's own.

Every rank runs one forward and one backward for each micro-batch, with or without an eligible row,
so FSDP's collectives stay synchronized. verl's loss functions get neither the model nor the batch,
so the KL needs an engine of its own.

Differences from the original, which patched verl's actor: the KL is averaged over the eligible
tokens of the whole mini-batch, on all ranks (`loss_mean=micro_batch` averages as the original does,
over each micro-batch on each GPU).

Legend: N rows of a micro-batch, E eligible ones, T response tokens.
"""

# verl has an environment of its own.
# pyright: reportMissingImports=false

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import verl.models.transformers.qwen2_vl as verl_qwen
from tensordict import NonTensorData, NonTensorStack, TensorDict
from torch import Tensor
from torch.nested import nested_tensor_from_jagged
from torch.nn.utils.rnn import pad_sequence
from verl.experimental.agent_loop.agent_loop import AgentLoopOutput, register
from verl.experimental.agent_loop.single_turn_agent_loop import SingleTurnAgentLoop
from verl.trainer.ppo.v1.replay_buffer import DAPO_FILTERED_REWARD_COUNTS_KEY, ReplayBuffer
from verl.utils import tensordict_utils as tu
from verl.utils.device import get_device_id
from verl.utils.metric import AggregationType, Metric
from verl.utils.transformers_compat import unpack_visual_output
from verl.workers.config import FSDPEngineConfig
from verl.workers.engine.base import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

from modgap.training.objective import contrastive_kl, eligible_rows
from modgap.training.verl.config import VENDOR
from modgap.training.verl.log import DROPPED_REWARD


@dataclass
class ContrastiveEngineConfig(FSDPEngineConfig):
    """verl's FSDP settings and ours, named as in a recipe.

    Attributes:
        kl_coef: Coefficient of the contrastive KL; 0 for a stage without it.
        kl_estimator: `k3` or `forward`.
        kl_clamp: `paper` or `none`.
        loss_mean: `mini_batch` (verl's own) or `micro_batch` (the original's), of the policy loss
            and of the KL.
    """

    kl_coef: float = 0.0
    kl_estimator: str = "k3"
    kl_clamp: str = "paper"
    loss_mean: str = "mini_batch"


@EngineRegistry.register(
    model_type="language_model", backend=["fsdp", "fsdp2"], device=["cuda", "cpu"], vendor=VENDOR
)
class ContrastiveEngine(FSDPEngineWithLMHead):
    """verl's FSDP engine with the contrastive KL."""

    def forward_backward_batch(
        self, data: TensorDict, loss_function: Any, forward_only: bool = False
    ) -> Any:
        """As verl's, after the tokens and micro-batches of both means are counted."""
        if not forward_only:
            rows = eligible(data) if self.engine_config.kl_coef else []
            tokens = torch.tensor(
                float(sum(_lengths(data["response_mask"])[i] for i in rows)), device=get_device_id()
            )
            torch.distributed.all_reduce(tokens, group=self.get_data_parallel_group())
            size = tu.get_non_tensor_data(data, "micro_batch_size_per_gpu", None)
            tu.assign_non_tensor(
                data, twin_tokens=tokens.item(), micro_batches=len(data) // size if size else 1
            )
        return super().forward_backward_batch(data, loss_function, forward_only)

    def forward_step(
        self, micro_batch: TensorDict, loss_function: Any, forward_only: bool
    ) -> tuple[Tensor, Any]:
        """As verl's, with twins of the eligible rows in the same pass and their KL in the loss."""
        if forward_only:
            return super().forward_step(micro_batch, loss_function, forward_only)
        config: ContrastiveEngineConfig = self.engine_config
        micro_batch = micro_batch.to(get_device_id())
        if config.loss_mean == "micro_batch":
            # verl divides by this and multiplies by the ranks. The result is the mean of the
            # micro-batches' own means.
            own = max(1.0, float(micro_batch["response_mask"].values().sum()))
            tokens = own * micro_batch["micro_batches"] * micro_batch["dp_size"]
            tu.assign_non_tensor(micro_batch, batch_num_tokens=tokens)
        if not config.kl_coef:
            return super().forward_step(micro_batch, loss_function, forward_only)
        rows = eligible(micro_batch)
        kept: dict[str, Tensor] = {}

        def with_kl(
            model_output: dict[str, Any], data: TensorDict, dp_group: Any = None
        ) -> tuple[Tensor, Any]:
            twins = _split(model_output, len(micro_batch), kept)
            loss, metrics = loss_function(
                model_output=dict(kept), data=micro_batch, dp_group=dp_group
            )
            kl, own = self._kl(kept["log_probs"], twins, micro_batch, rows)
            return loss + config.kl_coef * kl, metrics | own

        loss, output = super().forward_step(
            self._with_twins(micro_batch, rows), with_kl, forward_only
        )
        output["model_output"] = {key: value.detach() for key, value in kept.items()}
        return loss, output

    def _kl(
        self, full: Tensor, twins: Tensor | None, micro_batch: TensorDict, rows: list[int]
    ) -> tuple[Tensor, dict[str, Any]]:
        """The KL's part of the loss, and the metrics of this micro-batch.

        verl averages the loss over the ranks. The metrics are returned also without an eligible
        row: verl gathers them from every rank and expects the same names and number.
        """
        total, ranks = max(1.0, micro_batch["twin_tokens"]), micro_batch["dp_size"]
        config: ContrastiveEngineConfig = self.engine_config
        values = {
            "contrastive_kl": 0.0,
            "kl_clamped": 0.0,
            "eligible_rows": float(len(rows) * ranks),
        }
        loss = full.values().sum() * 0.0  # zero, but connected to the graph
        if twins is not None:
            lengths = [_lengths(micro_batch["responses"])[i] for i in rows]
            mask_ET = pad_sequence(
                [micro_batch["response_mask"][i].bool() for i in rows], batch_first=True
            )
            full_ET = _responses(full, rows, lengths)
            free_ET = _responses(twins, list(range(len(rows))), lengths)
            kl = contrastive_kl(full_ET, free_ET, config.kl_estimator, config.kl_clamp)  # type: ignore[arg-type]
            summed = torch.where(mask_ET, kl.kl_BT, 0.0).sum()
            own = mask_ET.sum() * micro_batch["micro_batches"]
            loss = summed / own if config.loss_mean == "micro_batch" else summed * ranks / total
            values["contrastive_kl"] = float(summed.detach()) * ranks / total
            values["kl_clamped"] = float((kl.clamped_BT & mask_ET).sum()) * ranks / total
        metrics = {key: Metric(AggregationType.SUM, value) for key, value in values.items()}
        return loss, metrics | {"contrastive_kl_coef": Metric(AggregationType.MEAN, config.kl_coef)}

    def _with_twins(self, micro_batch: TensorDict, rows: list[int]) -> TensorDict:
        """The model's inputs: the micro-batch, then [text-free prompt | response] of some rows."""
        if not rows:
            return micro_batch
        device = micro_batch["input_ids"].device
        fields = _items(micro_batch, "extra_fields")
        media = _items(micro_batch, "multi_modal_inputs")
        ids = [micro_batch["input_ids"].values()]
        places = [micro_batch["position_ids"].values()]
        for i in rows:
            prompt = torch.as_tensor(fields[i]["contrastive_prompt_ids"], device=device)
            ids.append(torch.cat([prompt, micro_batch["responses"][i]]))
            places.append(
                positions(self.model_config.processor, ids[-1], media[i].get("image_grid_thw"))
            )
        lengths = [*_lengths(micro_batch["input_ids"]), *(len(row) for row in ids[1:])]
        offsets = torch.tensor([0, *lengths], device=device).cumsum(0)
        out = TensorDict(batch_size=[len(lengths)])
        for key, value in micro_batch.items():
            if isinstance(value, NonTensorData):  # flags, and lists that are not per row
                out.set_non_tensor(key, value.data)
        temperature = micro_batch["temperature"]
        if isinstance(temperature, Tensor):
            out["temperature"] = torch.cat([temperature, temperature[rows]])
        out["input_ids"] = nested_tensor_from_jagged(torch.cat(ids), offsets)
        out["position_ids"] = nested_tensor_from_jagged(
            torch.cat(places, -1), offsets, jagged_dim=places[0].dim()
        )
        out["multi_modal_inputs"] = NonTensorStack(
            *map(NonTensorData, [*media, *(media[i] for i in rows)])
        )
        return out


def eligible(data: TensorDict) -> list[int]:
    """Rows that get a twin: score 1.0 before the overlong penalty, and a text-free prompt.

    verl's padding rows are excluded. A padding row copies the fields of a real one, but its
    response mask is empty and it has no image.
    """
    fields, lengths = _items(data, "extra_fields"), _lengths(data["response_mask"])
    masks = data["response_mask"].values().split(lengths)
    scores_N = torch.tensor(
        [float(f.get("reward_extra_info", {}).get("score", 0.0)) for f in fields]
    )
    good = eligible_rows(scores_N).tolist()
    rows: list[int] = []
    for i, row in enumerate(fields):
        padding = masks[i].sum() == 0
        if good[i] and row.get("contrastive_prompt_ids") and not padding:
            rows.append(i)
    return rows


def positions(processor: Any, input_ids: Tensor, grid: Tensor | None) -> Tensor:
    """Positions of one row, `[4, L]`, as in verl's agent loops: of text, then M-RoPE's three."""
    ids = input_ids.cpu()[None]
    kinds = (ids == processor.config.image_token_id).long()
    grid = None if grid is None else grid.cpu()
    rope, _ = processor.get_rope_index(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        mm_token_type_ids=kinds,
        image_grid_thw=grid,
    )
    return torch.cat([torch.arange(ids.shape[1])[None], rope[:, 0].long()]).to(input_ids.device)


def _items(data: TensorDict, key: str) -> list[dict[str, Any]]:
    """The values of a column that holds no tensors."""
    return [getattr(item, "data", item) or {} for item in data[key]]


def _lengths(nested: Any) -> list[int]:
    """The lengths of a nested tensor's rows."""
    return nested.offsets().diff().tolist()


def _responses(log_probs: Any, rows: list[int], lengths: list[int]) -> Tensor:
    """Log-probabilities of the response tokens of some rows, `[E, T]`.

    verl stores a token's log-probability at the position before it. The result is fp32: on a CPU
    verl's values are bf16, and `exp(d) - 1 - d` of two close bf16 values is noise.
    """
    ends = log_probs.offsets()[1:].tolist()
    values = log_probs.values().float()
    return pad_sequence(
        [values[ends[i] - n - 1 : ends[i] - 1] for i, n in zip(rows, lengths, strict=True)],
        batch_first=True,
    )


def _split(model_output: dict[str, Any], count: int, kept: dict[str, Tensor]) -> Any:
    """Put the first `count` rows of every output into `kept`; return the others' log-probabilities.

    Returns `None` if there are no others.
    """
    for key, value in model_output.items():
        offsets = value.offsets()
        end = int(offsets[count])
        kept[key] = nested_tensor_from_jagged(value.values()[:end], offsets[: count + 1])
    if len(offsets) == count + 1:
        return None
    return nested_tensor_from_jagged(
        model_output["log_probs"].values()[end:], offsets[count:] - end
    )


# Images


def input_embeds(
    model: Any,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    pixel_values: Tensor | None = None,
    pixel_values_videos: Tensor | None = None,
    image_grid_thw: Tensor | None = None,
    video_grid_thw: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Embed tokens and images, instead of verl's `_get_input_embeds`.

    Each distinct image is encoded once. For a micro-batch without images (verl's padding rows) the
    tower runs on a blank image, because the other ranks wait for it; verl 0.9.1 crashes there.
    """
    assert pixel_values_videos is None, "recipes have no videos"
    embeds = model.get_input_embeddings()(input_ids)
    if pixel_values is None:
        vision = model.config.vision_config
        side = vision.spatial_merge_size
        wide = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
        blank = embeds.new_zeros(side**2, wide)
        features, _ = unpack_visual_output(
            model.visual(blank, grid_thw=input_ids.new_tensor([[1, side, side]]))
        )
        return embeds + 0.0 * features.sum().to(embeds.dtype), attention_mask
    assert image_grid_thw is not None, "images come with their grids"
    pixels, grid, order = distinct_images(pixel_values, image_grid_thw)
    features, _ = unpack_visual_output(model.visual(pixels.type(model.visual.dtype), grid_thw=grid))
    sizes = (grid.prod(-1) // model.config.vision_config.spatial_merge_size**2).tolist()
    parts = features.split(sizes)
    images = torch.cat([parts[i] for i in order]).to(embeds.dtype)
    mask = input_ids == model.config.image_token_id
    if int(mask.sum()) != len(images):
        raise ValueError(f"{int(mask.sum())} image tokens, but {len(images)} image features")
    return embeds.masked_scatter(mask[..., None].expand_as(embeds), images), attention_mask


def distinct_images(pixel_values: Tensor, grid: Tensor) -> tuple[Tensor, Tensor, list[int]]:
    """The distinct images of a micro-batch.

    Args:
        pixel_values: Patches of all images, one after the other.
        grid: `[images, 3]`.

    Returns:
        Patches and grid of the distinct ones, and for each image which of them it is.
    """
    images = pixel_values.split(grid.prod(-1).tolist())
    firsts: list[int] = []
    order: list[int] = []
    for i, image in enumerate(images):
        for n, first in enumerate(firsts):
            if torch.equal(grid[first], grid[i]) and torch.equal(images[first], image):
                order.append(n)
                break
        else:
            order.append(len(firsts))
            firsts.append(i)
    return torch.cat([images[i] for i in firsts]), grid[firsts], order


verl_qwen._get_input_embeds = input_embeds


# Rewards

_sample = ReplayBuffer.sample


def sample(self: ReplayBuffer, *args: Any, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
    """As verl's, with the mean reward of the dropped groups as a metric.

    verl drops groups of equal rewards and reports their rewards to wandb only.
    """
    batch, metrics = _sample(self, *args, **kwargs)
    if groups := metrics.get(DAPO_FILTERED_REWARD_COUNTS_KEY):
        total = sum(value * count for value, count in groups.items())
        metrics[DROPPED_REWARD] = total / sum(groups.values())
    return batch, metrics


ReplayBuffer.sample = sample


# Agent loop


@register("modgap")
class TwinAgentLoop(SingleTurnAgentLoop):
    """One turn, and the ids of the text-free prompt."""

    async def run(
        self, sampling_params: dict[str, Any], priority: int = 0, **kwargs: Any
    ) -> AgentLoopOutput:
        """Sample one response; see verl."""
        output = await super().run(sampling_params, priority, **kwargs)
        if (twin := kwargs.get("contrastive_prompt")) is not None:
            messages = twin_messages(twin, kwargs["raw_prompt"])
            images = (output.multi_modal_data or {}).get("images")
            output.extra_fields["contrastive_prompt_ids"] = await self.ct_build_initial_tokens(
                messages, images=images
            )
        return output


def twin_messages(
    twin: Iterable[Mapping[str, Any]], raw_prompt: Iterable[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The twin's turns as messages for a chat template.

    Each `<image>` is replaced by an image of the prompt, in order.
    """
    images: list[Any] = []
    for message in raw_prompt:
        if not isinstance(message["content"], str):
            images += [part for part in message["content"] if part.get("type") == "image"]
    rest = iter(images)
    out: list[dict[str, Any]] = []
    for message in twin:
        content: list[Any] = []
        for text in re.split("(<image>)", message["content"]):
            if text == "<image>":
                content.append(next(rest))
            elif text:
                content.append({"type": "text", "text": text})
        out.append({"role": message["role"], "content": content})
    return out
