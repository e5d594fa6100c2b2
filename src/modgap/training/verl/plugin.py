"""A stage's objective terms inside verl 0.9.1, without a fork.

verl imports this module (`model.external_lib`).

    agent loop   (agent_loop.py) verl's single-turn loop, which also tokenizes the words of twins;
                 images are kept as bytes until the update
    reward       (modgap.rewards, or `reward.py` here) 1.0 for right and well formatted
    engine       here: a row is forwarded a second time, as [twin | response]: in the same pass if
                 the twin has a gradient, else before the passes and without one; the loss is verl's
                 own on the original rows, with advantages that terms may have changed, plus what
                 terms add
    dropped      here: the mean reward of the groups that a step dropped becomes a metric
    images       here: the vision tower encodes each distinct image of a micro-batch once, also for
                 a twin and the other samples of a group

The words of twins are the parquet's columns `contrastive_prompt` (the text-free twin) and
`twin_prompts` (any other); a twin has the images of the prompt, or pictures that are made from
their patches. Its token ids are passed in `extra_fields` to the actor. Without these columns (other
stages, validation) the agent loop is verl's own. A frozen teacher is verl's reference policy: its
engine, which is this one, scores the twins in the place of the rows.

Every rank runs the same number of passes, with or without a row of a term, so FSDP's collectives
stay synchronized. verl's loss functions get neither the model nor the batch, so terms need an
engine of their own.

Differences from the original, which patched verl's actor: a term is averaged over its tokens of the
whole mini-batch, on all ranks (`loss_mean=micro_batch` averages as the original does, over each
micro-batch on each GPU).
"""

# verl has an environment of its own.
# pyright: reportMissingImports=false

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
import verl.workers.engine.fsdp.transformer_impl as verl_fsdp
from tensordict import NonTensorData, TensorDict
from torch import Tensor
from torch.nested import nested_tensor_from_jagged
from verl.trainer.ppo.v1.replay_buffer import DAPO_FILTERED_REWARD_COUNTS_KEY, ReplayBuffer
from verl.trainer.ppo.v1.trainer_base import PPOTrainer
from verl.utils import tensordict_utils as tu
from verl.utils.device import get_device_id, get_device_name
from verl.utils.metric import AggregationType, Metric
from verl.utils.seqlen_balancing import get_seqlen_balanced_partitions, log_seqlen_unbalance
from verl.workers.config import FSDPEngineConfig
from verl.workers.engine.base import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

from modgap.core.recipe import Settings, Stage
from modgap.training.terms import metrics_of
from modgap.training.verl import agent_loop as agent_loop  # registers itself
from modgap.training.verl.forward import install, score
from modgap.training.verl.log import DROPPED_REWARD
from modgap.training.verl.objective import Ranks, RankTerms
from modgap.training.verl.rows import (
    Looks,
    Row,
    byte_table,
    divide,
    lengths_of,
    rows_of,
    twins_of,
)
from modgap.training.verl.sections import VENDOR, read_terms


@dataclass
class TermsEngineConfig(FSDPEngineConfig):
    """verl's FSDP settings and ours.

    Attributes:
        terms: The stage's objective terms as JSON (`config.written_terms`); empty without any.
        policy_loss: Whether the policy loss is part of the objective.
        loss_mean: `mini_batch` (verl's own) or `micro_batch` (the original's), of the policy loss
            and of the terms.
        reference: Whether this is the frozen teacher: it scores twins instead of the rows.
    """

    terms: str = ""
    policy_loss: bool = True
    loss_mean: str = "mini_batch"
    reference: bool = False

    @property
    def stage(self) -> Stage:
        """The objective as a stage; its views are those of the rows."""
        settings = Settings(loss_mean=self.loss_mean)  # type: ignore[arg-type]
        return Stage(
            (), settings=settings, terms=read_terms(self.terms), policy_loss=self.policy_loss
        )


@EngineRegistry.register(
    model_type="language_model", backend=["fsdp", "fsdp2"], device=["cuda", "cpu"], vendor=VENDOR
)
class TermsEngine(FSDPEngineWithLMHead):
    """verl's FSDP engine with the objective terms of a stage."""

    _own: RankTerms | None = None

    def _build_module(self) -> Any:
        module = super()._build_module()
        install(module)
        return module

    def forward_backward_batch(
        self, data: TensorDict, loss_function: Any, forward_only: bool = False
    ) -> Any:
        """As verl's, in passes that count twins, after the twins without gradient are scored."""
        config: TermsEngineConfig = self.engine_config
        stage, rows = config.stage, rows_of(data, self._table)
        self._own = None
        ranks = Ranks(
            torch.distributed.get_world_size(self.get_data_parallel_group()), self._over_ranks
        )
        if config.reference:
            rows = self._reference_rows(data, rows, stage)
        elif stage.objective and not forward_only:
            self._own = RankTerms(stage, data, rows, self._looks(), ranks, self._device())
            rows = self._own.rows
        if tu.get_non_tensor_data(data, "use_dynamic_bsz", True):
            budget = tu.get_non_tensor_data(data, "max_token_len_per_gpu", None)
            passes = divide(rows, budget, lambda n: int(self._over_ranks(n, "max")))
        else:
            size = tu.get_non_tensor_data(data, "micro_batch_size_per_gpu", None)
            passes = [list(range(at, at + size)) for at in range(0, len(rows), size)]
        tu.assign_non_tensor(data, micro_batches=len(passes))
        if self._own is not None:
            self._own.weigh(passes)
            self._score_still(self._own, data)
        data["passes"], data["rows"] = NonTensorData(passes), NonTensorData(rows)
        return super().forward_backward_batch(data, loss_function, forward_only)

    def _device(self) -> torch.device:
        return torch.empty(0, device=get_device_id()).device

    @functools.cached_property
    def _table(self) -> Tensor:
        """What the image processor makes of each byte.

        One object: images are put together where theirs is the same.
        """
        return byte_table(self.model_config.processor.image_processor)

    def _looks(self) -> Looks:
        token = self.model_config.processor.config.image_token_id
        return Looks(self._positions, token, self._table)

    def _reference_rows(self, data: TensorDict, rows: list[Row], stage: Stage) -> list[Row]:
        """The rows after their frozen twin's prompt; verl's padding stays as it is."""
        k = next(k for k, twin in enumerate(stage.twins) if twin.teacher == "frozen")
        lengths = lengths_of(data["response_mask"])
        masks = data["response_mask"].values().cpu().split(lengths)
        real = [bool(mask.any()) for mask in masks]
        found = twins_of(data, rows, real, stage, self._looks())
        out: list[Row] = []
        for row, twins in zip(rows, found, strict=True):
            twin = twins[k]
            out.append(row if twin is None else Row(twin, row.response))
        return out

    def _score_still(self, own: RankTerms, data: TensorDict) -> None:
        """Score twins without gradient, and what the factors of whole responses follow from."""
        terms = own.terms
        for number in sorted(terms.still):
            asked = own.still_rows(number)
            if terms.twins[number].teacher == "frozen":
                lengths = lengths_of(data["response_mask"])
                scored = data["ref_log_prob"].values().float().split(lengths)
                terms.scores[number] = {i: scored[i] for i, _ in asked}
                continue
            scored = self._score([row for _, row in asked], data, own.rows[0])
            terms.scores[number] = {i: x for (i, _), x in zip(asked, scored, strict=True)}
        if terms.has_factors:
            plain = [Row(row.prompt, row.response) for row in own.rows]
            rollout = self._score(plain, data, plain[0])
            own.set_factors(rollout)

    def _score(self, rows: list[Row], data: TensorDict, spare: Row) -> list[Tensor]:
        """Log-probabilities of rows without gradient.

        Every rank makes as many passes as the one that needs most; `spare` stands in where a rank
        has no rows left.
        """
        size = len(rows)
        if tu.get_non_tensor_data(data, "use_dynamic_bsz", True):
            budget = tu.get_non_tensor_data(data, "max_token_len_per_gpu", None)
            passes = divide(rows, budget) if rows else []
        else:
            step = tu.get_non_tensor_data(data, "micro_batch_size_per_gpu", None)
            passes = [list(range(at, min(at + step, size))) for at in range(0, size, step)]
        out: list[Tensor] = [torch.empty(0)] * size
        dtype, kind = getattr(self, "_autocast_dtype", torch.bfloat16), get_device_name()
        cast = torch.autocast(kind, dtype=dtype, enabled=dtype != torch.float32)
        temperature = _temperature(data)
        device = self._device()
        for n in range(int(self._over_ranks(len(passes), "max"))):
            chosen = passes[n] if n < len(passes) else []
            part = [rows[i] for i in chosen] or [Row(spare.prompt, spare.response)]
            run = functools.partial(score, rows=part, temperature=temperature, device=device)
            with torch.no_grad(), cast:
                logps, _ = self.module(run=run, use_cache=False)
            pieces = logps.float().split([len(row.response) for row in part])
            for i, piece in zip(chosen, pieces, strict=False):
                out[i] = piece
        return out

    def _over_ranks(self, value: float, way: str) -> float:
        """The sum, the largest or the smallest of a number over the data-parallel ranks."""
        operation = getattr(torch.distributed.ReduceOp, way.upper())
        total = torch.tensor(float(value), dtype=torch.float64, device=get_device_id())
        torch.distributed.all_reduce(total, op=operation, group=self.get_data_parallel_group())
        return float(total)

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
        rows, device = micro_batch["rows"], micro_batch["input_ids"].device
        temperature = _temperature(micro_batch)
        run = functools.partial(score, rows=rows, temperature=temperature, device=device)
        return {"run": run}, None

    def prepare_model_outputs(
        self, output: tuple[Tensor, Tensor], output_args: Any, micro_batch: TensorDict, **_: Any
    ) -> dict[str, Any]:
        """As verl's, and with terms `responses`.

        These are the log-probabilities of each response after its prompt, then of each twin's.
        """
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
        if self._own is not None:
            out["responses"] = output[0]
        return out

    def forward_step(
        self, micro_batch: TensorDict, loss_function: Any, forward_only: bool
    ) -> tuple[Tensor, Any]:
        """As verl's, with the terms in the loss."""
        config: TermsEngineConfig = self.engine_config
        if forward_only:
            return super().forward_step(micro_batch, loss_function, forward_only)
        if config.loss_mean == "micro_batch":
            # verl divides by this and multiplies by the ranks. The result is the mean of the
            # micro-batches' own means.
            own = max(1.0, float(micro_batch["response_mask"].values().sum()))
            tokens = own * micro_batch["micro_batches"] * micro_batch["dp_size"]
            tu.assign_non_tensor(micro_batch, batch_num_tokens=tokens)
        if self._own is None:
            return super().forward_step(micro_batch, loss_function, forward_only)
        part, stage = self._own.of_pass(micro_batch["chosen"]), config.stage

        def with_terms(
            model_output: dict[str, Any], data: TensorDict, dp_group: Any = None
        ) -> tuple[Tensor, Any]:
            flat = model_output.pop("responses")
            loss, advantages = part.loss(flat, data["advantages"])
            if advantages is not None:
                data = data.copy()
                data["advantages"] = advantages
            policy, metrics = loss_function(model_output=model_output, data=data, dp_group=dp_group)
            # Its metrics are wanted without the loss, too.
            loss = loss + (policy if config.policy_loss else 0.0 * policy)
            told = part.metrics().items()
            own = {key: Metric(AggregationType.SUM, value) for key, value in told}
            for names, term in zip(metrics_of(stage.all_terms), stage.all_terms, strict=True):
                own[f"{names[0]}_coef"] = Metric(AggregationType.MEAN, term.coef)
            return loss, metrics | own

        return super().forward_step(micro_batch, with_terms, forward_only)


def _temperature(data: TensorDict) -> float:
    """The one temperature of the rows."""
    found = torch.as_tensor(data["temperature"]).flatten().unique().tolist()
    if len(found) > 1:
        raise ValueError(f"rows of temperatures {found} in one pass: give them one")
    return found[0]


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
        out[-1]["chosen"] = NonTensorData(list(chosen))
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
