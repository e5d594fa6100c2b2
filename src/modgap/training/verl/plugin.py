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

import asyncio
import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import verl.workers.engine.fsdp.transformer_impl as verl_fsdp
from tensordict import NonTensorData, TensorDict
from torch import Tensor
from torch.nested import nested_tensor_from_jagged
from torch.nn.utils.rnn import pad_sequence
from verl.experimental.agent_loop.agent_loop import AgentLoopOutput, register
from verl.experimental.agent_loop.single_turn_agent_loop import SingleTurnAgentLoop
from verl.trainer.ppo.v1.replay_buffer import DAPO_FILTERED_REWARD_COUNTS_KEY, ReplayBuffer
from verl.trainer.ppo.v1.trainer_base import PPOTrainer
from verl.utils import tensordict_utils as tu
from verl.utils.device import get_device_id
from verl.utils.metric import AggregationType, Metric
from verl.utils.seqlen_balancing import get_seqlen_balanced_partitions, log_seqlen_unbalance
from verl.workers.config import FSDPEngineConfig
from verl.workers.engine.base import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

from modgap.training.objective import divergence, right_rows
from modgap.training.verl.config import VENDOR
from modgap.training.verl.forward import install, score
from modgap.training.verl.log import DROPPED_REWARD
from modgap.training.verl.rows import Row, divide, items, lengths_of, rows_of


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

    def _build_module(self) -> Any:
        module = super()._build_module()
        install(module)
        return module

    def forward_backward_batch(
        self, data: TensorDict, loss_function: Any, forward_only: bool = False
    ) -> Any:
        """As verl's, in passes that count twins, after the tokens of the KL's mean are counted."""
        twins: list[int] = []
        if not forward_only:
            twins = eligible(data) if self.engine_config.kl_coef else []
            lengths = lengths_of(data["response_mask"])
            tokens = self._over_ranks(
                sum(lengths[i] for i in twins), torch.distributed.ReduceOp.SUM
            )
            tu.assign_non_tensor(data, twin_tokens=float(tokens))
        rows = rows_of(data, twins, self._positions)
        if tu.get_non_tensor_data(data, "use_dynamic_bsz", True):
            budget = tu.get_non_tensor_data(data, "max_token_len_per_gpu", None)
            passes = divide(
                rows, budget, lambda n: self._over_ranks(n, torch.distributed.ReduceOp.MAX)
            )
        else:
            size = tu.get_non_tensor_data(data, "micro_batch_size_per_gpu", None)
            passes = [list(range(at, at + size)) for at in range(0, len(rows), size)]
        tu.assign_non_tensor(data, micro_batches=len(passes))
        data["passes"], data["rows"] = NonTensorData(passes), NonTensorData(rows)
        return super().forward_backward_batch(data, loss_function, forward_only)

    def _over_ranks(self, count: int, operation: Any) -> int:
        """A count, summed or the largest over the data-parallel ranks."""
        total = torch.tensor(count, device=get_device_id())
        torch.distributed.all_reduce(total, op=operation, group=self.get_data_parallel_group())
        return int(total)

    def _positions(self, ids: Tensor, grids: Tensor | None) -> Tensor:
        """Positions of a twin, `[3, L]`, as in verl's agent loops."""
        processor = self.model_config.processor
        kinds = (ids == processor.config.image_token_id).long()
        places, _ = processor.get_rope_index(
            input_ids=ids[None],
            attention_mask=torch.ones_like(ids)[None],
            mm_token_type_ids=kinds[None],
            image_grid_thw=grids,
        )
        return places[:, 0].long()

    def prepare_model_inputs(self, micro_batch: TensorDict) -> tuple[dict[str, Any], Any]:
        """What to run inside the model."""
        temperature = torch.as_tensor(micro_batch["temperature"]).flatten().unique().tolist()
        if len(temperature) > 1:
            raise ValueError(f"rows of temperatures {temperature} in one pass: give them one")
        rows, device = micro_batch["rows"], micro_batch["input_ids"].device

        def run(model: Any) -> tuple[Tensor, Tensor]:
            return score(model, rows, temperature[0], device)

        return {"run": run}, None

    def prepare_model_outputs(
        self, output: tuple[Tensor, Tensor], output_args: Any, micro_batch: TensorDict, **_: Any
    ) -> dict[str, Any]:
        """As verl's, and `twins`: the log-probabilities of each twin's response."""
        offsets, mask = micro_batch["input_ids"].offsets(), micro_batch["response_mask"]
        lengths = lengths_of(mask)
        # verl stores a token's log-probability at the position before it.
        places: list[Tensor] = []
        for end, length in zip(offsets[1:].tolist(), lengths, strict=True):
            places.append(torch.arange(end - length - 1, end - 1))
        at, count = torch.cat(places).to(offsets.device), sum(lengths)

        def nested(values: Tensor) -> Any:
            flat = values.new_zeros(micro_batch["input_ids"].values().shape)
            return nested_tensor_from_jagged(flat.index_copy(0, at, values[:count]), offsets)

        out = {"log_probs": nested(output[0])}
        if tu.get_non_tensor_data(micro_batch, "calculate_entropy", False):
            out["entropy"] = nested(output[1])
        of_twins: list[int] = []
        for row, length in zip(micro_batch["rows"], lengths, strict=True):
            if row.twin is not None:
                of_twins.append(length)
        if of_twins:
            out["twins"] = output[0][count:].split(of_twins)
        return out

    def forward_step(
        self, micro_batch: TensorDict, loss_function: Any, forward_only: bool
    ) -> tuple[Tensor, Any]:
        """As verl's, with the twins' KL in the loss."""
        config: ContrastiveEngineConfig = self.engine_config
        if forward_only:
            return super().forward_step(micro_batch, loss_function, forward_only)
        if config.loss_mean == "micro_batch":
            # verl divides by this and multiplies by the ranks. The result is the mean of the
            # micro-batches' own means.
            own = max(1.0, float(micro_batch["response_mask"].values().sum()))
            tokens = own * micro_batch["micro_batches"] * micro_batch["dp_size"]
            tu.assign_non_tensor(micro_batch, batch_num_tokens=tokens)
        if not config.kl_coef:
            return super().forward_step(micro_batch, loss_function, forward_only)

        def with_kl(
            model_output: dict[str, Any], data: TensorDict, dp_group: Any = None
        ) -> tuple[Tensor, Any]:
            twins = model_output.pop("twins", ())
            loss, metrics = loss_function(model_output=model_output, data=data, dp_group=dp_group)
            kl, own = self._kl(model_output["log_probs"], twins, data)
            return loss + config.kl_coef * kl, metrics | own

        return super().forward_step(micro_batch, with_kl, forward_only)

    def _kl(
        self, full: Any, twins: Sequence[Tensor], micro_batch: TensorDict
    ) -> tuple[Tensor, dict[str, Any]]:
        """The KL's part of the loss, and the metrics of this micro-batch.

        verl averages the loss over the ranks. The metrics are returned also without an eligible
        row: verl gathers them from every rank and expects the same names and number.
        """
        total, ranks = max(1.0, micro_batch["twin_tokens"]), micro_batch["dp_size"]
        config: ContrastiveEngineConfig = self.engine_config
        rows: list[int] = []
        for i, row in enumerate(micro_batch["rows"]):
            if row.twin is not None:
                rows.append(i)
        values = {
            "contrastive_kl": 0.0,
            "kl_clamped": 0.0,
            "eligible_rows": float(len(rows) * ranks),
        }
        loss = full.values().sum() * 0.0  # zero, but connected to the graph
        if rows:
            ends, log_probs = full.offsets()[1:].tolist(), full.values()
            shown: list[Tensor] = []
            for i, twin in zip(rows, twins, strict=True):
                shown.append(log_probs[ends[i] - len(twin) - 1 : ends[i] - 1])
            mask_ET = pad_sequence(
                [micro_batch["response_mask"][i].bool() for i in rows], batch_first=True
            )
            full_ET = pad_sequence(shown, batch_first=True)
            free_ET = pad_sequence(list(twins), batch_first=True)
            clamp = 10.0 if config.kl_clamp == "paper" and config.kl_estimator == "k3" else None
            kl = divergence(full_ET.detach(), free_ET, config.kl_estimator, "rollout", clamp)  # type: ignore[arg-type]
            summed = torch.where(mask_ET, kl.value_BT, 0.0).sum()
            own = mask_ET.sum() * micro_batch["micro_batches"]
            loss = summed / own if config.loss_mean == "micro_batch" else summed * ranks / total
            values["contrastive_kl"] = float(summed.detach()) * ranks / total
            values["kl_clamped"] = float((kl.clamped_BT & mask_ET).sum()) * ranks / total
        metrics = {key: Metric(AggregationType.SUM, value) for key, value in values.items()}
        return loss, metrics | {"contrastive_kl_coef": Metric(AggregationType.MEAN, config.kl_coef)}


def eligible(data: TensorDict) -> list[int]:
    """Rows that get a twin: score 1.0 before the overlong penalty, and a text-free prompt.

    verl's padding rows are excluded. A padding row copies the fields of a real one, but its
    response mask is empty and it has no image.
    """
    fields, lengths = items(data, "extra_fields"), lengths_of(data["response_mask"])
    masks = data["response_mask"].values().split(lengths)
    scores_N = torch.tensor(
        [float(f.get("reward_extra_info", {}).get("score", 0.0)) for f in fields]
    )
    good = right_rows(scores_N).tolist()
    rows: list[int] = []
    for i, row in enumerate(fields):
        padding = masks[i].sum() == 0
        if good[i] and row.get("contrastive_prompt_ids") and not padding:
            rows.append(i)
    return rows


_prepare = verl_fsdp.prepare_micro_batches


def micro_batches(data: TensorDict, **named: Any) -> tuple[list[TensorDict], Any]:
    """The passes of a batch as our engine divided it."""
    if tu.get_non_tensor_data(data, "passes", None) is None:
        return _prepare(data, **named)
    passes: list[list[int]] = data["passes"]
    rows: list[Row] = data["rows"]
    out: list[TensorDict] = []
    for chosen in passes:
        out.append(tu.index_select_tensor_dict(data, chosen))
        out[-1]["rows"] = NonTensorData([rows[i] for i in chosen])
    return out, passes


verl_fsdp.prepare_micro_batches = micro_batches


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


# Groups

_balance_batch = PPOTrainer._balance_batch


def balance_batch(
    self: PPOTrainer, batch: Any, metrics: dict[str, Any], *args: Any, **kwargs: Any
) -> Any:
    """As verl's, but a group stays on one rank and in one mini-batch, so that a pass can share it.

    Mini-batches have the groups in the order of sampling, with any number of ranks. A batch that
    verl filled up with padding, or whose groups do not divide, stays as verl balanced it.
    """
    order = {key: i for i, key in enumerate(batch.keys)}
    batch = _balance_batch(self, batch, metrics, *args, **kwargs)
    if set(batch.keys) != set(order):
        return batch
    config = self.config.actor_rollout_ref
    size = config.actor.ppo_mini_batch_size * config.rollout.n
    ranks = max(self.actor_rollout_wg._dispatch_info["actor"]) + 1
    lengths = [tag["seq_len"] for tag in batch.tags]
    indices = sorted(range(len(batch.keys)), key=lambda i: order[batch.keys[i]])
    groups: dict[str, list[int]] = {}
    for i in indices:
        groups.setdefault(batch.keys[i].split("_")[0], []).append(i)
    parts = whole_groups(list(groups.values()), lengths, size, ranks)
    if parts is not None:
        batch.reorder([i for part in parts for i in part])
        metrics |= log_seqlen_unbalance(lengths, parts, prefix="global_seqlen")
    return batch


def whole_groups(
    groups: list[list[int]], lengths: list[int], size: int, ranks: int
) -> list[list[int]] | None:
    """Each rank's rows, mini-batch after mini-batch, of about equal tokens in each mini-batch.

    Args:
        groups: The rows of each group, in the order of sampling.
        lengths: Tokens of each row.
        size: Rows of a mini-batch.
        ranks: The number of ranks.

    Returns:
        `None` if groups differ in size or do not divide into mini-batches and ranks.
    """
    n = len(groups[0])
    if any(len(group) != n for group in groups) or size % (n * ranks):
        return None
    a_batch = size // n
    parts: list[list[int]] = [[] for _ in range(ranks)]
    for at in range(0, len(groups), a_batch):
        tokens = [sum(lengths[i] for i in group) for group in groups[at : at + a_batch]]
        chosen = get_seqlen_balanced_partitions(tokens, k_partitions=ranks, equal_size=True)
        for part, own in zip(parts, chosen, strict=True):
            for group in own:
                part += groups[at + group]
    return parts


PPOTrainer._balance_batch = balance_batch


# Agent loop


_IDS: dict[tuple[Any, ...], asyncio.Future[list[int]]] = {}
"""Ids of the prompts that this worker saw last."""
_KEPT = 1000


@register("modgap")
class TwinAgentLoop(SingleTurnAgentLoop):
    """One turn, and the ids of the text-free prompt."""

    async def ct_build_initial_tokens(
        self, messages: list[dict[str, Any]], *args: Any, images: Any = None, **named: Any
    ) -> list[int]:
        """As verl's, which prepares the images each time, but once for the samples of a prompt.

        The ids depend on the words and on the sizes of the images: this loop has neither tools nor
        videos.
        """
        sizes = tuple(image.size for image in images or ())
        words = tuple((message["role"], _words(message["content"])) for message in messages)
        key = (words, sizes)
        if key not in _IDS:
            if len(_IDS) >= _KEPT:
                _IDS.pop(next(iter(_IDS)))
            # The samples of a prompt come together: the first one starts the work, all wait for it.
            work = super().ct_build_initial_tokens(messages, *args, images=images, **named)
            _IDS[key] = asyncio.ensure_future(work)
        try:
            return list(await asyncio.shield(_IDS[key]))
        except Exception:
            _IDS.pop(key, None)
            raise

    async def run(
        self, sampling_params: dict[str, Any], priority: int = 0, **kwargs: Any
    ) -> AgentLoopOutput:
        """Sample one response; see verl."""
        if self.rollout_config.name == "vllm":
            sampling_params = sampling_params | _only_ids()
        output = await super().run(sampling_params, priority, **kwargs)
        if (twin := kwargs.get("contrastive_prompt")) is not None:
            messages = twin_messages(twin, kwargs["raw_prompt"])
            images = (output.multi_modal_data or {}).get("images")
            output.extra_fields["contrastive_prompt_ids"] = await self.ct_build_initial_tokens(
                messages, images=images
            )
        return output


@functools.cache
def _only_ids() -> dict[str, Any]:
    """What tells vLLM to send a response once, at its end, and without its text.

    Otherwise its server decodes each token and wakes the agent loop for it: with 160 sequences this
    takes longer than the GPU's decode step. Nothing is aborted here, which such requests would
    delay: only verl's asynchronous trainers do so.
    """
    try:
        from vllm.sampling_params import RequestOutputKind  # pyright: ignore
    except ImportError:  # a stand-in, in tests without a GPU
        return {}
    return {"detokenize": False, "output_kind": RequestOutputKind.FINAL_ONLY}


def _words(content: Any) -> tuple[str, ...]:
    """The texts of a message, with a mark where an image is."""
    if isinstance(content, str):
        return (content,)
    return tuple(part.get("text", "") if part["type"] == "text" else "\0" for part in content)


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
