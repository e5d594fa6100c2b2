"""The cost of a step on the local engine before the model is loaded: tokens, FLOPs, memory, time.

From a model's shape (`shape.py`), expected lengths (`Lengths`) and the work of `update.py` and
`models/tree.py`: a group's prompt once, images once, the head on responses only, twins for right
rows only. The machine's speed is measured on a CPU (in less than a second) and taken from a table
for a GPU. Every assumption is printed. `bench/plan.py` compares the seconds with a training.
"""

from __future__ import annotations

import functools
import math
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from modgap.core.errors import UserError
from modgap.core.problem import Problem
from modgap.core.recipe import OF_THE_KL, Recipe, Settings, Stage
from modgap.core.terms import places_of
from modgap.core.text import counted
from modgap.core.view import get_view
from modgap.models.folder import model_notes
from modgap.training.dry_run import Amount, Costs, StagePlan, plan_lines, short
from modgap.training.known_model import known_model
from modgap.training.shape import GIB, Shape

MOST_ROWS = 2048
"""Most samples of a batch; as in `models/decode.py`."""
TOGETHER = 2048
"""Tokens of the prompts whose images pass the tower together; as in `update.py`."""
VOCABULARY = 152_000
"""Vocabulary of Qwen2.5-VL, for which the cost of choosing a token was measured."""
WAITING = "waiting for launches"
"""The time in which a GPU waits for kernels, because its passes have too few rows."""
BEGINNING = 17
"""Tokens beside the image that a prompt and its twin both start with: the chat's first turns."""
PLAIN_PATH = (
    "rough: this model takes the plain path, whose rows are computed one by one and padded to the"
    " longest response; its speed was not measured on a GPU"
)
PAIRS_OF_WORDS = (140, 100)
"""Tokens beside the image of a full-text prompt and of its text-free twin.

Chat turns and instruction are included.
"""

# Part of a GPU's name -> FLOP/s in bf16 without sparsity, bytes/s, usable GiB of its memory.
_GPUS = {
    "H200": (989e12, 4.8e12, 139),
    "H100": (989e12, 3.35e12, 79),
    "A100": (312e12, 2.0e12, 79),
    "L40S": (362e12, 0.86e12, 44),
    "L40": (181e12, 0.86e12, 44),
    "4090": (165e12, 1.0e12, 23),
    "L4": (121e12, 0.3e12, 22),
}
_ADAPTED = 2.1
"""Times as long a layer takes on a GPU with an adapter beside each product, to train and to sample
(3B shape, rank 64, on an H200)."""
_READING = 1 / 2
"""The share of a memory's bandwidth at which sampling reads keys and values, fitted to three
rollouts with responses of up to 2,048 tokens (3B shape, LoRA, on an H200)."""
_REFILLS = 0.25
"""Further draws of a step in the mean where two fifths of the groups or more are mixed, see
`rollout.draw_size`."""


@dataclass(frozen=True, slots=True)
class Machine:
    """The speed of one device.

    Attributes:
        name: For a reader.
        flops: FLOP/s of large matrix products.
        bandwidth: Bytes/s of its memory.
        reach: The share of `flops` that training reaches.
        decode_reach: The share of `flops` that sampling reaches, with its small products.
        layer_seconds: The least time of one layer in one decode step, for any number of rows.
        bytes: Bytes of a number in computation.
        token_seconds: Time of a decode step beside its layers: choosing tokens out of `VOCABULARY`.
        pass_seconds: Time to launch a layer's kernels in a forward and backward pass.
        phase_seconds: Fixed time of a rollout and of an update, for any size of model.
        replayed_seconds: `layer_seconds` where steps are replayed as CUDA graphs.
        memory: Bytes of its memory, if known.
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
    """The expected lengths of a step.

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
    """The cost of a step.

    Attributes:
        prompt_tokens: Prompt tokens that are trained on; a group's prompt counts once.
        response_tokens: Response tokens that are trained on.
        flops: Phase -> FLOPs.
        seconds: Phase -> seconds.
        memory: Part -> bytes.
    """

    prompt_tokens: float
    response_tokens: float
    flops: dict[str, float]
    seconds: dict[str, float]
    memory: dict[str, float]


def lengths_of(
    stage: Stage,
    least: int = 0,
    most: int = 0,
    response: float | None = None,
    side: int = 28,
    image: int = 0,
) -> Lengths:
    """The expected lengths of a stage.

    Args:
        stage: The stage, its settings resolved.
        least: Fewest pixels of an image, if the model's folder has a limit.
        most: Most pixels.
        response: Mean tokens of the model's responses, if its folder has them; at most 90% of the
            limit is used.
        side: Of an image token, in pixels.
        image: Tokens of any image, where they do not depend on its size.
    """
    pixels = 256 * 28 * 28
    if most and not least <= pixels <= most:
        pixels = (least + most) // 2
    s = stage.settings
    image = image or pixels // side**2
    full, free = (min(image + words, s.max_prompt_tokens) for words in PAIRS_OF_WORDS)
    views = [full if view == "full-text" else free for view in stage.views]
    mixed = 0.5 if s.dynamic_sampling else 1.0
    limit = s.max_response_tokens
    mean, longest = limit / 2, limit
    if response is not None:
        mean, longest = min(response, 0.9 * limit), min(2 * response, limit)
    return Lengths(image, sum(views) // len(views), free, mean, longest, mixed)


@dataclass(frozen=True, slots=True)
class TwinWork:
    """One twin of an objective, as the estimate counts it.

    Attributes:
        place: Where it is scored, as in `core.terms.places_of`; `whole` for `full_vocab`.
        tokens: Of its prompt.
        before: Of these, tokens that a pass shares with the rollout's prompt.
        share: Share of the responses that get one.
        sees: Whether it has an image of its own.
        teacher: The weights that score it.
    """

    place: str
    tokens: int
    before: int
    share: float
    sees: bool
    teacher: str = "live"


def twin_works(stage: Stage, lengths: Lengths, together: bool = True) -> list[TwinWork]:
    """The twins of a stage; one that is scored twice comes twice."""
    places = places_of(stage.objective, together)
    out: list[TwinWork] = []
    for twin in stage.twins:
        using = [term for term in stage.objective if term.scored == twin]
        shares = {"right": lengths.right, "wrong": 1 - lengths.right, "all": 1.0}
        share = min(1.0, sum(shares[rows] for rows in {term.rows for term in using}))
        tokens = lengths.prompt
        if twin.view:
            view = get_view(twin.view)
            words = PAIRS_OF_WORDS[0 if view.conditions else 1]
            tokens = min(lengths.image + words, stage.settings.max_prompt_tokens)
            tokens = lengths.twin if not view.conditions else tokens
            tokens -= lengths.image if view.picture == "none" else 0
        other = twin.picture != "own"
        other = other or not stage.scores_rollouts  # then it is alone in its passes
        shared = 0 if other else min(beginning(lengths), tokens - 1)
        for place in sorted(places.get(twin, ())):
            before = shared if place == "live" else 0
            sees = other or place == "still"
            out.append(TwinWork(place, tokens, before, share, sees, twin.teacher))
        if any(term.estimator == "full_vocab" for term in using):
            out.append(TwinWork("whole", tokens, 0, share, other, twin.teacher))
    return out


def teachers_of(stage: Stage) -> int:
    """Copies of the trained weights that score twins."""
    return len({twin[4:] for twin in stage.twins if twin.teacher != "live"})


def rows_at_most(stage: Stage) -> int:
    """Rows of an update's passes."""
    everything = stage.settings.mini_batch * stage.settings.samples_per_prompt
    return min(stage.settings.micro_batch or everything, everything)


def beginning(lengths: Lengths) -> int:
    """Tokens that a prompt and its twin have in common."""
    return min(lengths.image + BEGINNING, lengths.twin - 1)


def branch(shape: Shape, before: float, prompt: float, response: float, samples: float) -> float:
    """FLOPs of a prompt and its samples in a tree, after `before` tokens counted elsewhere."""

    def seen(past: float, tokens: float) -> float:
        return 4.0 * shape.layers * shape.wide * tokens * (past + tokens / 2)

    linear = 2.0 * shape.layers * shape.layer * (prompt + samples * response)
    pairs = seen(before, prompt) + samples * seen(before + prompt, response)
    return linear + pairs + head(shape, samples * response)


def group_work(shape: Shape, lengths: Lengths, prompt: float, before: int, rows: float) -> float:
    """FLOPs of a prompt and its samples in one forward pass; on the plain path row by row.

    There a row repeats the prompt and is padded to the longest response.
    """
    if shape.shared:
        return branch(shape, before, prompt - before, lengths.response, rows)
    padding = 2.0 * shape.layers * shape.layer * (lengths.longest - lengths.response)
    return rows * (branch(shape, 0, prompt, lengths.response, 1) + padding)


def head(shape: Shape, tokens: float) -> float:
    """FLOPs of the LM head."""
    return 2.0 * shape.vocab * shape.hidden * tokens


def flops_of(stage: Stage, shape: Shape, lengths: Lengths) -> tuple[dict[str, float], float]:
    """FLOPs of a step by phase, and those of the rollout's prompts among them."""
    s, n = stage.settings, stage.settings.samples_per_prompt
    groups, drawn = s.prompts_per_step, s.prompts_per_step / lengths.mixed
    again = _passes(stage)
    see = shape.see(lengths.image)
    alone = 1 if shape.shared else n  # how often a prompt and its image are computed
    group = group_work(shape, lengths, lengths.prompt, 0, n)
    layers = 2.0 * shape.layers * shape.layer
    seen = 2.0 * shape.layers * shape.wide * lengths.prompt**2
    prefill = alone * drawn * (layers * lengths.prompt + seen + see)
    mean_past = lengths.prompt + lengths.response / 2
    token = layers + head(shape, 1) + 4.0 * shape.layers * shape.wide * mean_past
    update = groups * (again * group + (1.0 if s.sees_frozen else again) * alone * see)
    flops = {
        "rollout": prefill + drawn * n * lengths.response * token,
        "update": update if stage.scores_rollouts else 0.0,
    }
    batches = groups // s.mini_batch
    if batches > 1 and stage.policy_loss:
        flops["old log-probs"] = (batches - 1) * s.mini_batch * (group + alone * see)
    twins = sum(
        _twin_flops(stage, shape, lengths, work)
        for work in twin_works(stage, lengths, rows_at_most(stage) > 1)
    )
    if any(term.trajectory is not None for term in stage.objective):
        twins += group + alone * see
    return flops | ({"twins": groups * twins} if twins else {}), prefill


def _passes(stage: Stage) -> float:
    """Forward passes' worth of an update: forward, backward to inputs and to weights.

    And forward again with checkpointing. With an adapter the weights have no gradient.
    """
    return 3.0 + stage.settings.gradient_checkpointing - bool(stage.settings.lora_rank)


def _twin_flops(stage: Stage, shape: Shape, lengths: Lengths, work: TwinWork) -> float:
    """FLOPs of one twin of a group."""
    n = stage.settings.samples_per_prompt
    # Without gradient once; the scores are kept for no backward pass.
    times = 1.0 if work.place == "still" else _passes(stage)
    seen = min(times, 1.0) if stage.settings.sees_frozen else times
    images = float(work.sees) if shape.shared else n * work.share
    found = times * group_work(shape, lengths, work.tokens, work.before, n * work.share)
    found += seen * images * shape.see(lengths.image)
    if work.place == "whole":  # and the rollout's own distributions
        found += group_work(shape, lengths, lengths.prompt, 0, n * work.share)
    return found


def _adapted(settings: Settings, machine: Machine) -> bool:
    """Whether adapters cost time beside their FLOPs, which was measured on a GPU only."""
    return bool(settings.lora_rank) and machine.bytes == 2


def cost(stage: Stage, shape: Shape, lengths: Lengths, machine: Machine) -> Cost:
    """The expected cost of a step of a stage."""
    s, n = stage.settings, stage.settings.samples_per_prompt
    groups, rows = s.prompts_per_step, s.prompts_per_step / lengths.mixed * n
    batches, again = groups // s.mini_batch, _passes(stage)
    flops, prefill = flops_of(stage, shape, lengths)
    works = twin_works(stage, lengths, rows_at_most(stage) > 1)
    trained = trained_parameters(stage, shape)
    slower = _ADAPTED if _adapted(s, machine) else 1.0
    rate = machine.flops * machine.reach / slower
    seconds = {phase: count / rate for phase, count in flops.items()}
    rows_of_pass, _, images = largest_pass(stage, lengths, shared=shape.shared)
    live = sum(work.share for work in works if work.place == "live")
    layers_passed = math.ceil(groups * n * (1 + live) / rows_of_pass) * shape.layers
    layers_passed += math.ceil(groups / images) * shape.vision_layers
    for work in works:
        if work.place != "live":
            passed = math.ceil(groups * n * work.share / rows_of_pass) * shape.layers
            layers_passed += passed / 3 if work.place == "still" else passed
    computing = seconds["update"] + seconds.get("twins", 0.0)
    if (idle := layers_passed * machine.pass_seconds * again / 3 - computing) > 0:
        seconds[WAITING] = idle
    seconds["update"] += batches * machine.phase_seconds
    rolled = math.ceil(rows / rows_sampled(stage, shape, lengths, machine))  # batches
    refilled = s.dynamic_sampling and s.max_refills > 0 and lengths.mixed < 1
    rolled += _REFILLS if refilled else 0.0
    calls = rolled * lengths.longest
    decode = (flops["rollout"] - prefill) / machine.flops / machine.decode_reach
    read = calls * shape.language * machine.bytes / machine.bandwidth
    layer = machine.replayed_seconds or machine.layer_seconds
    if machine.replayed_seconds:
        # A step reads all that its batch has room for, which doubles: 2/3 of it in the mean.
        seen = lengths.longest * (2 / 3 * lengths.longest + lengths.prompt / n)
        read += rows * seen * kept_of_token(shape, machine) / machine.bandwidth / _READING
    of_layers = shape.layers * slower * layer
    overhead = calls * (of_layers + machine.token_seconds * shape.vocab / VOCABULARY)
    launches = rolled * (shape.layers + shape.vision_layers) * machine.pass_seconds / 3
    begin = max(prefill / machine.flops / machine.reach, launches)
    seconds["rollout"] = begin + max(decode, read) + overhead + machine.phase_seconds
    # AdamW and the norm read or write 36 bytes for each parameter.
    seconds["optimizer"] = batches * trained * 36 / machine.bandwidth
    return Cost(
        prompt_tokens=groups * lengths.prompt,
        response_tokens=groups * n * lengths.response,
        flops=flops,
        seconds=seconds,
        memory=memory(stage, shape, lengths, machine, trained),
    )


def largest_pass(
    stage: Stage, lengths: Lengths, *, shared: bool = True
) -> tuple[float, float, float]:
    """Rows, tokens and images of an update's largest forward pass.

    Not `shared`: on the plain path, whose rows have each a prompt and an image, padded.
    """
    s, rows = stage.settings, rows_at_most(stage)
    if not shared:
        return rows, rows * (lengths.prompt + lengths.longest), rows
    group = min(rows, s.samples_per_prompt)
    works = twin_works(stage, lengths, rows > 1)
    apart = any(work.place in ("later", "whole") for work in works)
    twins = own = pictures = 0.0
    for work in works:
        if work.place == "live":
            twins += group * work.share
            own += work.tokens - work.before
            pictures += work.sees
    groups = max(1.0, rows // (group + twins))
    tokens = groups * (lengths.prompt + own + (group + twins) * lengths.response)
    # Where groups are split, or twins have passes of their own, the vision tower runs over all
    # images before the passes.
    images = min(rows, s.mini_batch)
    if not (apart or rows < s.samples_per_prompt):
        images = max(groups, min(images, TOGETHER // lengths.prompt))
    return groups * (group + twins), tokens, images * (1 + pictures)


def kept_of_token(shape: Shape, machine: Machine) -> float:
    """Bytes of a token's keys and values."""
    return 2.0 * shape.layers * shape.kv_heads * shape.head * machine.bytes


def rows_sampled(stage: Stage, shape: Shape, lengths: Lengths, machine: Machine) -> float:
    """Samples of one batch of a rollout, as in `models/decode.py` once the moments exist."""
    if machine.bytes == 4:
        return 64
    each = (
        kept_of_token(shape, machine) * (lengths.prompt + stage.settings.max_response_tokens)
        + 40.0 * shape.vocab
    )
    weights, copies = weight_bytes(stage, shape, machine)
    state = weights + copies + 8.0 * trained_parameters(stage, shape)  # with the moments
    free = math.inf if machine.memory is None else max(0.0, machine.memory - state)
    return max(1.0, min(MOST_ROWS, free / 3 // each))


def weight_bytes(stage: Stage, shape: Shape, machine: Machine) -> tuple[float, float]:
    """Bytes of the weights, and of the copies of them in the type of the computation.

    Trained weights are fp32. Below an adapter the others keep the type of the computation.
    """
    trained = trained_parameters(stage, shape)
    if stage.settings.lora_rank:
        return machine.bytes * shape.parameters + 4.0 * trained, machine.bytes * float(trained)
    return 4.0 * shape.parameters, machine.bytes * float(shape.parameters)


def memory(
    stage: Stage, shape: Shape, lengths: Lengths, machine: Machine, trained: int
) -> dict[str, float]:
    """The parts of an update's peak memory, in bytes."""
    s = stage.settings
    rows, tokens, images = largest_pass(stage, lengths, shared=shape.shared)
    # Of the MLP: gate, up and their product.
    layer = machine.bytes * (8 * (shape.hidden + shape.wide) + 3 * shape.intermediate)
    patches = lengths.image * shape.merge**2 * images
    block = machine.bytes * (16 * shape.vision_hidden + 3 * shape.vision_intermediate)
    if s.gradient_checkpointing:
        kept = tokens * (machine.bytes * shape.hidden * shape.layers + layer)
        seen = patches * (machine.bytes * shape.vision_hidden * shape.vision_layers + block)
    else:
        kept, seen = tokens * layer * shape.layers, patches * block * shape.vision_layers
    weights, copies_of_weights = weight_bytes(stage, shape, machine)
    parts = {
        "weights, gradients, AdamW": weights + 12.0 * trained,
        "activations": kept + (0.0 if s.sees_frozen else seen),
        "logits": 12.0 * min(rows * lengths.response * shape.vocab, 2**28),
    }
    if copies := teachers_of(stage):
        parts["teachers' weights"] = 4.0 * trained * copies
    if any(term.estimator == "full_vocab" for term in stage.objective):
        # The distributions of a pass on both sides, their softmax and its gradient.
        parts["logits"] = 24.0 * rows_at_most(stage) * lengths.response * shape.vocab
    if machine.bytes == 2:
        parts["bf16 copies of weights"] = copies_of_weights
    if machine.replayed_seconds:
        drawn = s.prompts_per_step / lengths.mixed * s.samples_per_prompt
        at_once = min(rows_sampled(stage, shape, lengths, machine), drawn)
        tokens = at_once * (lengths.prompt / s.samples_per_prompt + lengths.longest)
        graphs = kept_of_token(shape, machine) * tokens + 40.0 * at_once * shape.vocab
        # Larger ones are freed after each rollout.
        if machine.memory is None or graphs <= machine.memory / 12:
            parts["graphs of sampling"] = graphs
    return parts


def machine_here(shape: Shape, asked: str | None = None, replays: bool = True) -> Machine:
    """The device that a training would use here, or the GPU that is asked for.

    Without a GPU and without `asked`, an H200 is assumed for a large model.

    Args:
        shape: Of the model.
        asked: A GPU of the table.
        replays: Whether a GPU replays the steps of sampling as CUDA graphs.

    Raises:
        UserError: `asked` is not in the table.
    """
    import torch

    if asked:
        found = gpu_asked(asked)
    elif torch.cuda.is_available():
        found = gpu(torch.cuda.get_device_name())
        found = replace(found, memory=float(torch.cuda.get_device_properties().total_memory))
    elif shape.parameters > 5e8:
        found = gpu("H200 (assumed: there is no GPU here, and --gpu names none)")
    else:
        return this_cpu(shape)
    return found if replays else replace(found, replayed_seconds=None)


def gpu_asked(name: str) -> Machine:
    """The GPU that `--gpu` names.

    Raises:
        UserError: It is not in the table.
    """
    found = gpu(name)
    if found.name != name:
        near = get_close_matches(name.upper(), _GPUS, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise UserError(f"--gpu {name} is not known here: give one of {', '.join(_GPUS)}.{hint}")
    return found


def gpu(name: str) -> Machine:
    """A GPU by its name; one that is not in the table is assumed to be an A100."""
    words = re.split(r"[^A-Z0-9]+", re.sub(r"(?i)RTX|GTX|NVIDIA|GEFORCE", " ", name).upper())
    key = next((key for key in _GPUS if key in words), None)
    flops, bandwidth, gib = _GPUS[key or "A100"]
    known = "" if key else ", not in the table: speed of an A100"
    return Machine(
        name=f"{name}{known}",
        flops=flops,
        bandwidth=bandwidth,
        reach=0.4,
        decode_reach=0.2,
        layer_seconds=1e-3,
        bytes=2,
        token_seconds=1e-3,
        pass_seconds=3e-3,
        phase_seconds=0.02,
        replayed_seconds=1.2e-4,
        memory=gib * GIB,
    )


@functools.cache
def this_cpu(shape: Shape) -> Machine:
    """This CPU with torch's threads; matrix products and copies are timed for 0.6 s, once."""
    import torch

    a, b = torch.randn(512, shape.hidden), torch.randn(shape.hidden, shape.intermediate)
    big = torch.randn(1 << 23)
    product, copy = _quickest(lambda: a @ b), _quickest(lambda: big + 1)
    return Machine(
        name=f"this CPU, {counted(torch.get_num_threads(), 'thread')}",
        flops=2.0 * a.numel() * b.shape[1] / product,
        bandwidth=2.0 * 4 * big.numel() / copy,
        reach=0.6,
        decode_reach=0.3,
        layer_seconds=3e-4,
        bytes=4,
    )


def _quickest(work: Callable[[], object], seconds: float = 0.3) -> float:
    """Seconds of one call; the fastest of several, to exclude other load on the machine."""
    work()
    best, end = math.inf, time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


def with_rows(stage: Stage, rows: int) -> Stage:
    """The stage with the given number of rows of a pass."""
    return replace(stage, settings=replace(stage.settings, micro_batch=rows))


def too_large(parts: Mapping[str, float], machine: Machine) -> bool:
    """Whether an update's memory leaves less than a tenth of the machine's free."""
    return machine.memory is not None and sum(parts.values()) > 0.9 * machine.memory


def fitting(stage: Stage, shape: Shape, lengths: Lengths, machine: Machine) -> int:
    """The largest number of rows of a pass that fits, at most all rows; 0 if none fits."""
    everything = stage.settings.mini_batch * stage.settings.samples_per_prompt
    trained = trained_parameters(stage, shape)

    def fits(rows: int) -> bool:
        return not too_large(
            memory(with_rows(stage, rows), shape, lengths, machine, trained), machine
        )

    def largest(rows: int) -> tuple[float, float, float]:
        return largest_pass(with_rows(stage, rows), lengths, shared=shape.shared)

    most = next((rows for rows in range(everything, 0, -1) if fits(rows)), 0)
    # Passes have whole groups: with groups of 5, a limit of 9 rows gives the same pass as one of 5.
    while most > 1 and largest(most - 1) == largest(most):
        most -= 1
    return most


def remedy(stage: Stage, shape: Shape, lengths: Lengths, machine: Machine) -> str:
    """What would make one row fit: each setting that suffices alone, or all of them together."""
    changes = {"gradient_checkpointing": True, "lora_rank": 16, "freeze_vision": True}
    left = {name: value for name, value in changes.items() if not getattr(stage.settings, name)}
    if "language" in stage.settings.frozen:
        left = {"gradient_checkpointing": True} if "gradient_checkpointing" in left else {}

    def fits(changed: Mapping[str, object]) -> bool:
        settings: Any = changed
        changed_stage = replace(stage, settings=replace(stage.settings, **settings))
        return fitting(changed_stage, shape, lengths, machine) > 0

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
    """Parameters that have gradients and moments of their own."""
    if rank := stage.settings.lora_rank:
        kv = shape.head * shape.kv_heads
        sides = 2 * (shape.hidden + shape.wide) + 2 * (shape.hidden + kv)
        sides += 3 * (shape.hidden + shape.intermediate)
        return rank * shape.layers * sides
    # A frozen tower with a trained merger, or the other way round, counts as trained: the tower's
    # activations are most of what it costs.
    frozen = shape.vision if stage.settings.sees_frozen else 0
    if "language" in stage.settings.frozen:
        frozen += shape.parameters - shape.vision
    return shape.parameters - frozen


def duration(seconds: float) -> str:
    """Minutes, or hours from two hours on."""
    hours = seconds / 3600
    return f"{short(seconds / 60)} min" if hours < 2 else f"{short(hours)} h"


def costs(stage: Stage, shape: Shape, lengths: Lengths, machine: Machine) -> Costs:
    """The cost and its assumptions, for a reader."""
    c, s = cost(stage, shape, lengths, machine), stage.settings
    seconds = sum(c.seconds.values())
    guess = "as the model says of itself"
    if 2 * lengths.response == s.max_response_tokens:
        guess = "half the limit"
    remark = (
        f"; {counted(s.steps, 'step')} {duration(seconds * s.steps)}, validation and checkpoints"
        " not counted"
    )
    return Costs(
        f"a step, expected: {counted(s.prompts_per_step * s.samples_per_prompt, 'response')}"
        f" trained on, {c.prompt_tokens:,.0f} prompt and {c.response_tokens:,.0f} response tokens",
        (
            Amount("FLOPs a step", c.flops),
            Amount("memory", {name: value / GIB for name, value in c.memory.items()}, "GiB"),
            Amount("time a step", c.seconds, "s", remark),
        ),
        f"{assumed(stage, lengths, guess)}; {machine.name}: {machine.flops:.2g} FLOP/s, of which"
        f" training reaches {machine.reach:.0%} and sampling {machine.decode_reach:.0%}, and"
        f" {machine.bandwidth:.2g} bytes/s"
        + (
            f"; layers with an adapter take {_ADAPTED:g} times as long"
            if _adapted(s, machine)
            else ""
        ),
        tuple(_notes(stage, shape, lengths, machine, c)),
    )


def assumed(stage: Stage, lengths: Lengths, guess: str = "") -> str:
    """The lengths and shares that an estimate assumes, for a reader.

    Args:
        stage: The stage.
        lengths: Its expected lengths.
        guess: Where the length of a response is from.
    """
    twins = dict.fromkeys(str(work.tokens) for work in twin_works(stage, lengths))
    groups = f"{lengths.mixed:.0%} of groups with mixed rewards"
    parts = [
        f"prompts of {lengths.prompt} tokens ({lengths.image} of them the image)",
        f"twins of {' and '.join(twins)}" if twins else "",
        f"responses of {lengths.response:.0f}{guess and f' ({guess})'}",
        groups if stage.settings.dynamic_sampling else "every group kept",
        f"{lengths.right:.0%} of their responses right",
    ]
    return ", ".join(filter(None, parts))


def _notes(stage: Stage, shape: Shape, lengths: Lengths, machine: Machine, c: Cost) -> list[str]:
    """Notes on prompts that are too long, on the plain path, and on memory.

    Of memory: too little for the rows of a pass, or enough for more and faster.
    """
    words = [] if shape.shared else [PLAIN_PATH]
    if lengths.image + min(PAIRS_OF_WORDS) > stage.settings.max_prompt_tokens:
        words.append(
            f"an image takes about {lengths.image:,} tokens: prompts longer than"
            f" max_prompt_tokens={stage.settings.max_prompt_tokens:,} are left out, so give more"
        )
    return words + _memory_notes(stage, shape, lengths, machine, c)


def _memory_notes(
    stage: Stage, shape: Shape, lengths: Lengths, machine: Machine, c: Cost
) -> list[str]:
    now, most = rows_at_most(stage), fitting(stage, shape, lengths, machine)
    by_micro_batch = stage.settings.loss_mean == "micro_batch"
    if machine.memory and too_large(c.memory, machine):
        note = (
            f"the memory is too much for {machine.memory / GIB:.0f} GiB"
            f" ({machine.name.split(' (')[0]}): "
        )
        if not most:
            note += remedy(stage, shape, lengths, machine)
        else:
            note += f"a pass of {counted(most, 'row')} fits (micro_batch={most})"
        if most and by_micro_batch:
            note += ", which changes the loss (loss_mean=micro_batch)"
        return [note]
    if most > now and not by_micro_batch:  # with loss_mean=micro_batch the loss would change
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

    Raises:
        UserError: `gpu` is not in the table.
    """
    if gpu is not None:
        gpu_asked(gpu)  # before torch is imported, which takes seconds
    from modgap.models.static import replays

    known = known_model(model)
    machine = None
    if known.shape:  # the plain path has no CUDA graphs
        machine = machine_here(known.shape, gpu, replays() and known.shape.shared)
    typical = model_notes(Path(known.path)).get("response_tokens")
    stages: list[StagePlan] = []
    for stage in recipe.stages:
        settings = [
            f"{name.replace('reward_', 'reward.')} = {value}"
            for name, value in stage.in_force.items()
            if name not in OF_THE_KL  # they are with their term
        ]
        expected = None
        if known.shape is not None and machine is not None:
            shape, limits = known.shape, (known.min_pixels, known.max_pixels)
            side = shape.patch * shape.merge
            lengths = lengths_of(stage, *limits, typical, side, shape.image_tokens)
            expected = costs(stage, shape, lengths, machine)
        stages.append(StagePlan(stage, settings, expected))
    return plan_lines(recipe, model, stages)
