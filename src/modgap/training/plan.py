"""What a stage costs on the local engine, before anything is loaded: tokens, FLOPs, memory, seconds
a step.

`shape.py` bounds a stage on verl from its limits. Here lengths are those expected (`Lengths`), the
work is that of `update.py` and of `models/tree.py` (a group's prompt once, images once, the head on
responses only, twins for right rows only), and the machine's speed is measured in a moment on a CPU
or taken from a table for a GPU. Every assumption is printed. `bench/plan.py` holds the seconds
against a training.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from modgap.core.errors import UserError
from modgap.core.problem import Problem
from modgap.core.recipe import Recipe, Stage
from modgap.models.folder import model_notes
from modgap.training.dry_run import Amount, Costs, StagePlan, plan_lines, short
from modgap.training.known_model import known_model
from modgap.training.shape import GIB, Shape

MOST_ROWS = 2048
"""Most samples of a batch; as in `models/decode.py`."""
VOCABULARY = 152_000
"""Words of Qwen2.5-VL, for which the cost of picking one was measured."""
WAITING = "waiting for launches"
"""The phase in which a GPU has run out of kernels: its passes are short of rows."""
BEGINNING = 17
"""Tokens that a prompt and its twin begin with beside the image: the chat's first turns."""
PAIRS_OF_WORDS = (140, 100)
"""Tokens of a full-text prompt and of its text-free twin beside the image, chat turns and
instruction included.
"""

# Name in a GPU's own name -> FLOP/s in bf16 without sparsity, bytes/s, GiB of its memory that can
# be had.
_GPUS = {
    "H200": (989e12, 4.8e12, 139), "H100": (989e12, 3.35e12, 79), "A100": (312e12, 2.0e12, 79),
    "L40S": (362e12, 0.86e12, 44), "L40": (181e12, 0.86e12, 44), "4090": (165e12, 1.0e12, 23),
    "L4": (121e12, 0.3e12, 22),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Machine:
    """How fast one device is.

    Attributes:
        name: For a reader.
        flops: FLOP/s of large matrix products.
        bandwidth: Bytes/s of its memory.
        reach: The share of `flops` that training reaches.
        decode_reach: The share that sampling reaches, row by row short products.
        layer_seconds: What one layer of one decode step costs however few rows it has.
        bytes: Of a number in computation.
        token_seconds: What a decode step costs beside its layers: picking tokens, out of
            `VOCABULARY`.
        pass_seconds: What launching a layer's kernels takes in a forward and backward pass, beside
            their work.
        phase_seconds: What a rollout and an update take beside all that, however small the model.
        replayed_seconds: `layer_seconds` where steps are replayed as CUDA graphs.
        memory: Bytes that it has, where that is known.
    """

    name: str
    flops: float
    bandwidth: float
    reach: float
    decode_reach: float
    layer_seconds: float
    bytes: int
    token_seconds: float = 0.0
    pass_seconds: float = 0.0
    phase_seconds: float = 0.0
    replayed_seconds: float | None = None
    memory: float | None = None


@dataclass(frozen=True, slots=True)
class Lengths:
    """What a typical step looks like.

    Attributes:
        image: Tokens of an image.
        prompt: Tokens of a prompt, image included.
        twin: Tokens of its text-free twin, image included.
        response: Mean tokens of a response.
        longest: Tokens of the longest response of a batch.
        mixed: The share of groups whose rewards differ.
        right: The share of right responses among those of mixed groups.
    """

    image: int
    prompt: int
    twin: int
    response: float
    longest: float
    mixed: float = 0.5
    right: float = 0.5


@dataclass(frozen=True, slots=True)
class Cost:
    """What a step costs.

    Attributes:
        prompt_tokens: Of what is trained on; a group's prompt counts once.
        response_tokens: Of what is trained on.
        flops: Phase to FLOPs.
        seconds: Phase to seconds.
        memory: Part to bytes.
    """

    prompt_tokens: float
    response_tokens: float
    flops: dict[str, float]
    seconds: dict[str, float]
    memory: dict[str, float]


def lengths_of(
    stage: Stage, least: int = 0, most: int = 0, response: float | None = None
) -> Lengths:
    """What to expect of a stage.

    Args:
        stage: Its settings resolved.
        least: Fewest pixels of an image, if the model says so.
        most: Most pixels.
        response: Mean tokens of the model's responses, if it says so; those near the limit are cut.
    """
    pixels = 256 * 28 * 28
    if most and not least <= pixels <= most:
        pixels = (least + most) // 2
    s = stage.settings
    image = pixels // (28 * 28)
    full, free = (min(image + words, s.max_prompt_tokens) for words in PAIRS_OF_WORDS)
    views = [full if view == "full-text" else free for view in stage.views]
    mixed = 0.5 if s.dynamic_sampling else 1.0
    limit = s.max_response_tokens
    mean, longest = (
        (limit / 2, limit)
        if response is None
        else (min(response, 0.9 * limit), min(2 * response, limit))
    )
    return Lengths(image, sum(views) // len(views), free, mean, longest, mixed)


def with_twins(stage: Stage) -> bool:
    """Whether twins go through the policy's passes, behind what their prompts begin with; as in
    `update.py`.
    """
    s = stage.settings
    return (
        stage.contrastive
        and s.kl_coef > 0
        and s.kl_estimator != "full_vocab"
        and rows_at_most(stage) > 1
    )


def rows_at_most(stage: Stage) -> int:
    """Rows of an update's passes."""
    everything = stage.settings.mini_batch * stage.settings.samples_per_prompt
    return min(stage.settings.micro_batch or everything, everything)


def beginning(lengths: Lengths) -> int:
    """Tokens that a prompt and its twin have in common."""
    return min(lengths.image + BEGINNING, lengths.twin - 1)


def branch(shape: Shape, before: float, prompt: float, response: float, samples: float) -> float:
    """FLOPs of a prompt and its samples in a tree, behind so many tokens that are counted
    elsewhere.
    """

    def seen(past: float, tokens: float) -> float:
        return 4.0 * shape.layers * shape.hidden * tokens * (past + tokens / 2)

    linear = 2.0 * shape.layers * shape.layer * (prompt + samples * response)
    pairs = seen(before, prompt) + samples * seen(before + prompt, response)
    return linear + pairs + head(shape, samples * response)


def head(shape: Shape, tokens: float) -> float:
    """FLOPs of the LM head."""
    return 2.0 * shape.vocab * shape.hidden * tokens


def cost(stage: Stage, shape: Shape, lengths: Lengths, machine: Machine) -> Cost:
    """Expect what a step of a stage costs."""
    s, n = stage.settings, stage.settings.samples_per_prompt
    groups, drawn = s.prompts_per_step, s.prompts_per_step / lengths.mixed
    # Forward, and backward to inputs and to weights; under an adapter these have no gradient.
    again = 3.0 + s.gradient_checkpointing - bool(s.lora_rank)
    see = shape.see(lengths.image)
    group = branch(shape, 0, lengths.prompt, lengths.response, n)
    rows = drawn * n
    layers = 2.0 * shape.layers * shape.layer
    prefill = drawn * (
        layers * lengths.prompt + 2.0 * shape.layers * shape.hidden * lengths.prompt**2 + see
    )
    mean_past = lengths.prompt + lengths.response / 2
    each = layers + head(shape, 1) + 4.0 * shape.layers * shape.hidden * mean_past
    flops = {
        "rollout": prefill + rows * lengths.response * each,
        "update": groups * (again * group + (1.0 if s.freeze_vision else again) * see),
    }
    batches = groups // s.mini_batch
    if batches > 1:
        flops["old log-probs"] = (batches - 1) * s.mini_batch * (group + see)
    contrastive = stage.contrastive and s.kl_coef > 0
    if contrastive:
        before = (
            beginning(lengths) if with_twins(stage) else 0
        )  # in a pass of its own a twin has none to follow
        twins = branch(shape, before, lengths.twin - before, lengths.response, n * lengths.right)
        flops["contrastive"] = groups * again * twins

    trained = trained_parameters(stage, shape)
    seconds = {phase: count / machine.flops / machine.reach for phase, count in flops.items()}
    rows_of_pass, _, images = largest_pass(stage, lengths)
    together = with_twins(stage)
    trained_rows = groups * n * (1 + (lengths.right if together else 0.0))
    layers_passed = math.ceil(trained_rows / rows_of_pass) * shape.layers
    layers_passed += math.ceil(groups / images) * shape.vision_layers
    if contrastive and not together:
        layers_passed += math.ceil(groups * n * lengths.right / rows_of_pass) * shape.layers
    computing = seconds["update"] + seconds.get("contrastive", 0.0)
    if (idle := layers_passed * machine.pass_seconds * again / 3 - computing) > 0:
        seconds[WAITING] = idle
    seconds["update"] += batches * machine.phase_seconds
    rolled = math.ceil(rows / rows_sampled(stage, shape, lengths, machine))  # batches
    calls = rolled * lengths.longest
    decode = rows * lengths.response * each / machine.flops / machine.decode_reach
    read = calls * shape.language * machine.bytes / machine.bandwidth
    layer = machine.replayed_seconds or machine.layer_seconds
    overhead = calls * (shape.layers * layer + machine.token_seconds * shape.vocab / VOCABULARY)
    launches = rolled * (shape.layers + shape.vision_layers) * machine.pass_seconds / 3
    begin = max(prefill / machine.flops / machine.reach, launches)
    seconds["rollout"] = begin + max(decode, read) + overhead + machine.phase_seconds
    seconds["optimizer"] = (
        batches * trained * 36 / machine.bandwidth
    )  # AdamW and the norm, each number read or written
    return Cost(
        groups * lengths.prompt, groups * n * lengths.response,
        flops, seconds, memory(stage, shape, lengths, machine, trained),
    )  # fmt: skip


def largest_pass(stage: Stage, lengths: Lengths) -> tuple[float, float, float]:
    """Rows, tokens and images of an update's largest forward pass."""
    s, rows = stage.settings, rows_at_most(stage)
    group = min(rows, s.samples_per_prompt)
    apart = stage.contrastive and s.kl_coef > 0 and not with_twins(stage)
    right, own = 0.0, 0
    if with_twins(stage):
        right, own = group * lengths.right, lengths.twin - beginning(lengths)
    groups = max(1.0, rows // (group + right))
    tokens = groups * (lengths.prompt + own + (group + right) * lengths.response)
    # Where groups are split, or twins have passes of their own, all images are seen before the
    # passes.
    images = min(rows, s.mini_batch) if apart or rows < s.samples_per_prompt else groups
    return groups * (group + right), tokens, images


def kept_of_token(shape: Shape, machine: Machine) -> float:
    """Bytes of a token's keys and values."""
    return 2.0 * shape.layers * shape.kv_heads * (shape.hidden // shape.heads) * machine.bytes


def rows_sampled(stage: Stage, shape: Shape, lengths: Lengths, machine: Machine) -> float:
    """Samples of one batch of a rollout; as `models/decode.py` has it once the moments are there."""
    if machine.bytes == 4:
        return 64
    each = (
        kept_of_token(shape, machine) * (lengths.prompt + stage.settings.max_response_tokens)
        + 40.0 * shape.vocab
    )
    state = 6.0 * shape.parameters + 8.0 * trained_parameters(
        stage, shape
    )  # weights, their bf16 copies and moments
    free = math.inf if machine.memory is None else max(0.0, machine.memory - state)
    return max(1.0, min(MOST_ROWS, free / 6 // each))


def memory(
    stage: Stage, shape: Shape, lengths: Lengths, machine: Machine, trained: int
) -> dict[str, float]:
    """The parts of an update's peak, in bytes."""
    s = stage.settings
    rows, tokens, images = largest_pass(stage, lengths)
    # Of the MLP: gate, up and their product.
    layer = machine.bytes * (16 * shape.hidden + 3 * shape.intermediate)
    patches = lengths.image * shape.merge**2 * images
    block = machine.bytes * (16 * shape.vision_hidden + 3 * shape.vision_intermediate)
    if s.gradient_checkpointing:
        kept = tokens * (machine.bytes * shape.hidden * shape.layers + layer)
        seen = patches * (machine.bytes * shape.vision_hidden * shape.vision_layers + block)
    else:
        kept, seen = tokens * layer * shape.layers, patches * block * shape.vision_layers
    parts = {
        "weights, gradients, AdamW": 4.0 * shape.parameters + 12.0 * trained,
        "activations": kept + (0.0 if s.freeze_vision else seen),
        "logits": 12.0 * min(rows * lengths.response * shape.vocab, 2**28),
    }
    if machine.bytes == 2:
        parts["bf16 copies of weights"] = 2.0 * shape.parameters
    if machine.replayed_seconds:
        drawn = s.prompts_per_step / lengths.mixed * s.samples_per_prompt
        at_once = min(rows_sampled(stage, shape, lengths, machine), drawn)
        tokens = at_once * (lengths.prompt / s.samples_per_prompt + lengths.longest)
        graphs = kept_of_token(shape, machine) * tokens + 40.0 * at_once * shape.vocab
        if (
            machine.memory is None or graphs <= machine.memory / 12
        ):  # else they go after each rollout
            parts["graphs of sampling"] = graphs
    return parts


def machine_here(shape: Shape, asked: str | None = None, replays: bool = True) -> Machine:
    """The device that a training would take here, or the GPU that is asked for.

    Without either a large model gets an H200.

    Args:
        shape: Of the model.
        asked: A GPU of the table.
        replays: Whether a GPU replays the steps of sampling as CUDA graphs.

    Raises:
        UserError: The GPU that is asked for is not known.
    """
    import torch

    if asked:
        found = gpu(asked)
        if found.name != asked:
            raise UserError(f"--gpu {asked} is not known here: give one of {', '.join(_GPUS)}.")
    elif torch.cuda.is_available():
        found = gpu(torch.cuda.get_device_name())
        found = replace(found, memory=float(torch.cuda.get_device_properties().total_memory))
    elif shape.parameters > 5e8:
        found = gpu("H200 (assumed: there is no GPU here, and --gpu names none)")
    else:
        return this_cpu(shape)
    return found if replays else replace(found, replayed_seconds=None)


def gpu(name: str) -> Machine:
    """A GPU by its name; one that the table lacks is taken for an A100."""
    words = re.split(r"[^A-Z0-9]+", name.upper())
    key = next((key for key in _GPUS if key in words), None)
    flops, bandwidth, gib = _GPUS[key or "A100"]
    known = "" if key else ", not in the table: speed of an A100"
    return Machine(
        f"{name}{known}", flops, bandwidth, 0.4, 0.2, 1e-3, 2, 1e-3, 3e-3, 0.02, 1.2e-4, gib * GIB
    )


def this_cpu(shape: Shape) -> Machine:
    """This CPU with the threads that torch has: products and copies of the model's own sizes, timed
    in 0.6 s.
    """
    import torch

    a, b = torch.randn(512, shape.hidden), torch.randn(shape.hidden, shape.intermediate)
    big = torch.randn(1 << 23)
    product, copy = _quickest(lambda: a @ b), _quickest(lambda: big + 1)
    return Machine(
        f"this CPU, {torch.get_num_threads()} threads", 2.0 * a.numel() * b.shape[1] / product,
        2.0 * 4 * big.numel() / copy, 0.6, 0.3, 3e-4, 4,
    )  # fmt: skip


def _quickest(work: Callable[[], object], seconds: float = 0.3) -> float:
    """Seconds of one call, the least of several, so that what else the machine does hardly counts."""
    work()
    best, end = math.inf, time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


def with_rows(stage: Stage, rows: int) -> Stage:
    """The stage with so many rows of a pass."""
    return replace(stage, settings=replace(stage.settings, micro_batch=rows))


def too_large(parts: Mapping[str, float], machine: Machine) -> bool:
    """Whether an update's memory leaves less than a tenth of the machine's free."""
    return machine.memory is not None and sum(parts.values()) > 0.9 * machine.memory


def fitting(stage: Stage, shape: Shape, lengths: Lengths, machine: Machine) -> int:
    """The most rows of a pass that fit, no more than its groups have; 0 if not even one does."""
    everything = stage.settings.mini_batch * stage.settings.samples_per_prompt
    trained = trained_parameters(stage, shape)

    def fits(rows: int) -> bool:
        return not too_large(
            memory(with_rows(stage, rows), shape, lengths, machine, trained), machine
        )

    def largest(rows: int) -> tuple[float, float, float]:
        return largest_pass(with_rows(stage, rows), lengths)

    most = next((rows for rows in range(everything, 0, -1) if fits(rows)), 0)
    # Passes are of whole groups: of 9 rows with groups of 5, four are never there.
    while most > 1 and largest(most - 1) == largest(most):
        most -= 1
    return most


def remedy(stage: Stage, shape: Shape, lengths: Lengths, machine: Machine) -> str:
    """What else would make one row fit: each setting that does so alone, or all that are left."""
    changes = {"gradient_checkpointing": True, "lora_rank": 16, "freeze_vision": True}
    left = {name: value for name, value in changes.items() if not getattr(stage.settings, name)}

    def fits(changed: Mapping[str, object]) -> bool:
        settings: Any = changed
        return (
            fitting(
                replace(stage, settings=replace(stage.settings, **settings)),
                shape,
                lengths,
                machine,
            )
            > 0
        )

    def named(names: Iterable[str], between: str) -> str:
        return between.join(f"{name}={str(left[name]).lower()}" for name in names)

    if alone := [name for name, value in left.items() if fits({name: value})]:
        return f"not even one row a pass fits: try {named(alone, ' or ')}"
    if left and fits(left):
        return f"not even one row a pass fits: try {named(left, ' and ')}"
    return (
        "not even one row a pass fits, whatever the settings: take a smaller model or responses, or"
        " --engine verl"
    )


def trained_parameters(stage: Stage, shape: Shape) -> int:
    """Parameters that have gradients and moments of their own; an adapter's are few."""
    if stage.settings.lora_rank:
        return 0
    return shape.parameters - (shape.vision if stage.settings.freeze_vision else 0)


def duration(seconds: float) -> str:
    """Minutes, or hours where they are many."""
    return f"{seconds / 60:.2g} min" if seconds < 2 * 3600 else f"{seconds / 3600:,.0f} h"


def costs(stage: Stage, shape: Shape, lengths: Lengths, machine: Machine) -> Costs:
    """The cost and what it rests on, for a reader."""
    c, s = cost(stage, shape, lengths, machine), stage.settings
    seconds = sum(c.seconds.values())
    guess = (
        "half the limit"
        if 2 * lengths.response == s.max_response_tokens
        else "as the model says of itself"
    )
    remark = (
        f"; {s.steps} steps {duration(seconds * s.steps)}, validation and checkpoints not counted"
    )
    return Costs(
        f"a step, expected: {s.prompts_per_step * s.samples_per_prompt:,} responses trained on, "
        f"{c.prompt_tokens:,.0f} prompt and {c.response_tokens:,.0f} response tokens",
        (
            Amount("FLOPs a step", c.flops),
            Amount("memory", {name: value / GIB for name, value in c.memory.items()}, "GiB"),
            Amount("time a step", c.seconds, "s", remark),
        ),
        f"prompts of {lengths.prompt} tokens ({lengths.image} of them the image), twins of"
        f" {lengths.twin}, responses of {lengths.response:.0f} ({guess}), {lengths.mixed:.0%} of"
        f" groups with mixed rewards, {lengths.right:.0%} of their responses right; {machine.name}:"
        f" {machine.flops:.2g} FLOP/s, of which training reaches {machine.reach:.0%} and sampling"
        f" {machine.decode_reach:.0%}, and {machine.bandwidth:.2g} bytes/s",
        tuple(_notes(stage, shape, lengths, machine, c)),
    )


def _notes(stage: Stage, shape: Shape, lengths: Lengths, machine: Machine, c: Cost) -> list[str]:
    """Whether the memory is too small for the rows of a pass, or large enough for more, which are
    faster.
    """
    now, most = rows_at_most(stage), fitting(stage, shape, lengths, machine)
    by_micro_batch = stage.settings.loss_mean == "micro_batch"
    if machine.memory and too_large(c.memory, machine):
        note = (
            f"the memory is too much for {machine.memory / GIB:.0f} GiB"
            f" ({machine.name.split(' (')[0]}): "
        )
        note += (
            f"{most} rows a pass fit (micro_batch={most})"
            if most
            else remedy(stage, shape, lengths, machine)
        )
        if most and by_micro_batch:
            note += ", which changes the loss (loss_mean=micro_batch)"
        return [note]
    if most > now and not by_micro_batch:  # there it would be another loss
        wider = cost(with_rows(stage, most), shape, lengths, machine)
        seconds = sum(c.seconds.values())
        if (saved := seconds - sum(wider.seconds.values())) > 0.05 * seconds:
            gib = short(sum(wider.memory.values()) / GIB)
            return [f"{short(saved)} s less with micro_batch={most}, which takes {gib} GiB"]
    return []


def dry_run(
    recipe: Recipe,
    model: str,
    out: Path,
    *,
    problems: Sequence[Problem] | None = None,
    gpu: str | None = None,
) -> list[str]:
    """What `modgap train --dry-run` prints for the local engine.

    Args:
        recipe: Its settings resolved.
        model: Where it would start.
        out: Not used, as are `problems`: verl's plan needs them.
        problems: See `out`.
        gpu: What it is to run on; by default what is here.
    """
    from modgap.models.static import replays

    known = known_model(model)
    machine = machine_here(known.shape, gpu, replays()) if known.shape else None
    typical = model_notes(Path(known.path)).get("response_tokens")
    stages: list[StagePlan] = []
    for stage in recipe.stages:
        settings = [
            f"{name.replace('reward_', 'reward.')} = {value}"
            for name, value in asdict(stage.settings).items()
        ]
        expected = None
        if known.shape is not None and machine is not None:
            lengths = lengths_of(stage, known.min_pixels, known.max_pixels, typical)
            expected = costs(stage, known.shape, lengths, machine)
        stages.append(StagePlan(stage, settings, expected))
    return plan_lines(recipe, model, stages)
