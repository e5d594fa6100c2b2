"""A stage of a recipe -> the configuration of verl 0.9.1: one pure function.

Does not import verl, so a plan can be printed anywhere. `sections.py` has the keys,
`checks.py` the checks that verl does not make, `plan.py` runs verl's own checks on the result.

Differences from the original's scripts (a patched verl 0.5): renamed keys
(`reward.reward_manager`, `reward.custom_reward_function`,
`reward.reward_kwargs.overlong_buffer_cfg`; 0.9.1 silently ignores the old ones, so they are
refused here); FSDP2; the weights of the rollout engine are freed while the model is updated
(`free_cache_engine`); validation on problems held out of train. Refills have no bound, as in the
original.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from modgap.core.errors import UserError
from modgap.core.recipe import Settings, Stage
from modgap.training.plan import teachers_of
from modgap.training.shape import GIB, Shape
from modgap.training.verl import sections
from modgap.training.verl.checks import (
    ACTOR,
    MODEL,
    ROLLOUT,
    Model,
    Overrides,
    check_overrides,
    check_supported,
)
from modgap.training.verl.cost import (
    Layout,
    live_twins,
    longest_row,
    vllm_fits,
    vllm_share,
    with_budget,
)
from modgap.training.verl.sections import Files, read_terms

GPU_GIB = 80.0
"""Memory of a GPU in a plan, and where it is not known."""


def place(
    stage: Stage,
    shape: Shape | None,
    gpus: int,
    a_node: int,
    gpu_gib: float,
    given: Mapping[str, Any],
) -> Layout:
    """How a stage is distributed over GPUs.

    Weights and optimizer stay on a GPU if vLLM has room beside them.

    Args:
        stage: The stage, its settings resolved.
        shape: Of the model; without it everything that can leave a GPU does.
        gpus: All GPUs.
        a_node: GPUs of a node: vLLM's engines do not reach over nodes.
        gpu_gib: Memory of a GPU.
        given: verl's keys that the user set; the rest follows them.
    """
    if shape is None:
        return Layout(gpus, params_offload=True, optimizer_offload=True, checkpointing=True)
    parallel = given.get(f"{ROLLOUT}.tensor_model_parallel_size")
    if not isinstance(parallel, int) or parallel < 1:
        parallel = 1
        while (
            2.0 * shape.parameters / parallel > gpu_gib * GIB / 3
            and a_node % (2 * parallel) == 0
            and shape.heads % (2 * parallel) == 0
        ):
            parallel *= 2
    share = given.get(f"{ROLLOUT}.gpu_memory_utilization")
    share = float(share) if isinstance(share, int | float) else None
    fsdp_size = given.get(f"{ACTOR}.fsdp_config.fsdp_size", 0)
    found = Layout(
        gpus,
        tensor_parallel=parallel,
        fsdp_size=fsdp_size if isinstance(fsdp_size, int) else 0,
    )
    for params, moments in ((False, False), (False, True), (True, True)):
        found = replace(
            found,
            params_offload=bool(given.get(f"{ACTOR}.fsdp_config.param_offload", params)),
            optimizer_offload=bool(given.get(f"{ACTOR}.fsdp_config.optimizer_offload", moments)),
        )
        if vllm_fits(stage, shape, found, gpu_gib, share):
            break
    if share is None:
        share = vllm_share(stage, shape, found, gpu_gib)
    found = replace(found, gpu_memory=share)
    if given.get(f"{ROLLOUT}.free_cache_engine") is False:
        gpu_gib *= 1.0 - share
    tokens = given.get(f"{ACTOR}.ppo_max_token_len_per_gpu")
    again = given.get(f"{MODEL}.enable_gradient_checkpointing")
    return with_budget(
        stage,
        shape,
        found,
        gpu_gib,
        tokens if isinstance(tokens, int) and tokens > 0 else None,
        again if isinstance(again, bool) else None,
    )


def stage_overrides(
    stage: Stage,
    model: Model,
    files: Files,
    *,
    name: str = "stage",
    gpus: int = 8,
    train_rows: int | None = None,
    gpu_gib: float | None = GPU_GIB,
) -> Overrides:
    """The configuration of one stage, as differences from verl's `ppo_trainer`.

    Args:
        stage: The stage, its settings resolved.
        model: The model that it starts from.
        files: Where it reads and writes.
        name: The experiment's name in logs.
        gpus: GPUs of a node, unless `verl.trainer.n_gpus_per_node` says so.
        train_rows: Rows of the training files, if known.
        gpu_gib: Memory of a GPU; `None` if it is not known, then 80 is assumed.

    Returns:
        Key to value, `stage.passed` applied last.

    Raises:
        UserError: The configuration cannot work; one line with the remedy.
    """
    check_supported(stage)
    passed = {key.lstrip("+"): (key, _parse(value)) for key, value in stage.passed}
    gpus, nodes = _gpus_and_nodes(passed, gpus)
    given = {name: value for name, (_, value) in passed.items()}
    spread = place(stage, model.shape, gpus * nodes, gpus, gpu_gib or GPU_GIB, given)
    micro, dynamic = _passes(stage, gpus * nodes)
    if not dynamic and micro * longest_row(stage) > spread.tokens:
        spread = replace(spread, checkpointing=True)
    out: Overrides = {
        **sections.algorithm(stage),
        **sections.data(stage, files),
        **sections.model(model, spread),
        **sections.actor(stage, spread, micro, dynamic),
        **sections.rollout(stage, spread, micro),
        **sections.workers(gpus),
        **sections.reward(stage),
        **sections.trainer(stage, files, name, gpus, nodes),
    }
    if teachers_of(stage):
        out |= sections.reference(stage, spread, micro, dynamic)
    out |= sections.lora(stage.settings.lora_rank)
    names = {key.lstrip("+"): key for key in out}
    for key, (written, value) in passed.items():
        out[names.get(key, written)] = value
    check_overrides(model, out, train_rows)
    return out


def _gpus_and_nodes(passed: Mapping[str, tuple[str, Any]], gpus: int) -> tuple[int, int]:
    """GPUs of a node and nodes: those that the user set, or `gpus` of one node."""
    _, gpus = passed.get("trainer.n_gpus_per_node", ("", gpus))
    _, nodes = passed.get("trainer.nnodes", ("", 1))
    if not all(isinstance(count, int) and count >= 1 for count in (gpus, nodes)):
        raise UserError(
            f"verl needs a GPU: trainer.n_gpus_per_node={gpus}, trainer.nnodes={nodes}; give whole"
            " numbers of at least 1."
        )
    return gpus, nodes


def _passes(stage: Stage, gpus: int) -> tuple[int, bool]:
    """Rows of a pass on one of all GPUs, and whether passes are filled by tokens instead."""
    s = stage.settings
    rows_a_gpu = max(1, s.mini_batch * s.samples_per_prompt // gpus)
    # The default of 32 rows, and 0 for all rows, are for the local engine. Without an own number,
    # passes of a fixed number of rows have as many as the original's.
    own = s.micro_batch not in (0, Settings().micro_batch)
    micro = s.micro_batch if own else math.gcd(2 if stage.twins else 4, rows_a_gpu)
    return micro, s.loss_mean == "mini_batch" and not own


def layout(overrides: Overrides) -> Layout:
    """How a configuration distributes a stage over GPUs, for the estimate."""
    tokens, rows = overrides[f"{ACTOR}.ppo_max_token_len_per_gpu"], 0
    if not overrides[f"{ACTOR}.use_dynamic_bsz"]:
        row = overrides["data.max_prompt_length"] + overrides["data.max_response_length"]
        twins = 1 + live_twins(read_terms(overrides[f"+{ACTOR}.fsdp_config.terms"]))
        rows = overrides[f"{ACTOR}.ppo_micro_batch_size_per_gpu"]
        tokens = rows * row * twins
    return Layout(
        gpus=overrides["trainer.n_gpus_per_node"] * overrides["trainer.nnodes"],
        tokens=tokens,
        tensor_parallel=overrides[f"{ROLLOUT}.tensor_model_parallel_size"],
        gpu_memory=overrides[f"{ROLLOUT}.gpu_memory_utilization"],
        cache_freed=overrides[f"{ROLLOUT}.free_cache_engine"],
        params_offload=overrides[f"{ACTOR}.fsdp_config.param_offload"],
        optimizer_offload=overrides[f"{ACTOR}.fsdp_config.optimizer_offload"],
        checkpointing=overrides[f"{MODEL}.enable_gradient_checkpointing"],
        rows=rows,
        fsdp_size=overrides.get(f"{ACTOR}.fsdp_config.fsdp_size", 0),
    )


def notes(stage: Stage, model: Model, overrides: Overrides) -> list[str]:
    """Notes for the reader on a stage on this engine; none of them is an error."""
    s, out = stage.settings, list[str]()
    if s.dynamic_sampling and s.max_refills != math.inf:
        out.append(
            f"max_refills={s.max_refills:g} is the local engine's: verl samples again until a step"
            " is full"
        )
    if (tokens := model.image_tokens(model.max_pixels)) >= s.max_prompt_tokens:
        out.append(
            f"the processor makes up to {tokens} tokens of an image: problems whose prompt is"
            f" longer than max_prompt_tokens={s.max_prompt_tokens} are left out"
        )
    if teachers_of(stage):
        gib = f", {4.0 * model.shape.parameters / GIB:.0f} GiB" if model.shape else ""
        out.append(
            f"verl keeps the frozen teacher in the hosts' memory{gib}; its layers visit the GPU"
        )
    spread = layout(overrides)
    if not spread.rows:
        out.append(
            f"passes are filled up to {spread.tokens:,} tokens; micro_batch is the local engine's,"
            " unless it is given as another number than 32"
        )
    elif s.loss_mean == "micro_batch":
        out.append(
            f"loss_mean=micro_batch averages over passes of {spread.rows} rows; with"
            " loss_mean=mini_batch passes are filled by tokens, which is faster"
        )
    if s.mini_batch % spread.gpus:
        out.append(
            f"mini_batch={s.mini_batch} is not a multiple of {spread.gpus} GPUs: groups are cut,"
            " and their prompts computed several times"
        )
    return out


def to_hydra(overrides: Mapping[str, Any]) -> list[str]:
    """The overrides as Hydra's command line takes them."""
    return [f"{key}={_written(value)}" for key, value in overrides.items()]


def _parse(text: str) -> Any:
    """The value of `--set verl.KEY=text`: number, flag, `null`, list, mapping or text.

    Raises:
        UserError: It begins like a list or a mapping and is none.
    """
    if text in ("True", "true"):
        return True
    if text in ("False", "false"):
        return False
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    if text == "null" or text[:1] in ("[", "{"):
        # Hydra's lists and mappings are YAML's, but for the space after a colon. As values they
        # survive `verl.json`.
        import yaml

        try:
            return yaml.safe_load(re.sub(r"(\w):(?=\S)", r"\1: ", text))
        except yaml.YAMLError as error:
            raise UserError(
                f"cannot read {text!r}: write a list as [a,b], a mapping as {{a:1,b:2}}."
            ) from error
    return text


def _written(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, Mapping):
        pairs = cast("Mapping[str, Any]", value).items()
        return f"{{{','.join(f'{key}:{_written(item)}' for key, item in pairs)}}}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{','.join(_written(item) for item in value)}]"
    if isinstance(value, str) and not re.fullmatch(r"[A-Za-z_./-][\w./-]*", value):
        escaped = value.replace("\\", "\\\\").replace("'", "\\'")
        return f"'{escaped}'"
    return str(value)
