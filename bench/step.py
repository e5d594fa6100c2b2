r"""The update phase of the local engine: plain, contrastive, the naive two-forward form, and each
trick off; with `--recipes` each recipe's update over plain DAPO's.

python bench/step.py [--model tiny|3b] [--image-tokens N] [--minutes M] [--json FILE]
python bench/step.py --recipes [NAME ...] [--model tiny|3b] [--minutes M] [--json FILE]
    prints Markdown

One mini-batch of groups of 5 responses, half of the rows correct; every variant computes its
gradients, interleaved round by round, and is timed to the end of its backward passes (the
optimizer's step, the same for all, is left out). Ratios are medians over the rounds of a variant's
time over plain's, or over contrastive's, in the same round. On a GPU the time is the clock's, on a
CPU process time. Before that, the gradient of each variant is held against that of the form that it
must equal: `gradient` is the largest difference of any parameter over that gradient's own largest
number. A variant that runs out of memory continues with half of its rows a pass.

What the names mean: *shared* is what the engine does. *ordinary* is a plain step in which every row
has its own prompt and image. *naive* is transformers' own model on padded rows, logits of all
positions, and for the contrastive form each row twice, image and all, in one graph a micro-batch
(of half as many rows: it holds two graphs).
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from made import MODELS, SHAPES_MADE, Memory, machine, make_policy, noise, write

from modgap.core.prompt import contrastive_prompt, training_prompt
from modgap.core.recipe import Settings, Stage
from modgap.datasets.synthetic.write import write_dataset
from modgap.models import layers, scoring, tree
from modgap.models.policy import Policy
from modgap.training import terms, update
from modgap.training.known_model import known_model
from modgap.training.objective import divergence, policy_loss, row_weights, weighted_sum
from modgap.training.plan import Lengths, cost, gpu
from modgap.training.rollout import Batch
from modgap.training.update import computing, gradients, old_logprobs, pieces

Variant = Callable[[int], Any]  # with this number of rows a pass


@contextlib.contextmanager
def swapped(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def made_batch(policy: Policy, groups: int, samples: int, tokens: int, scratch: Path) -> Batch:
    """Groups of random responses of equal length to synthetic problems, every second row right."""
    from modgap.datasets import pgps9k

    write_dataset(scratch, 0, groups, seed=1, workers=1)
    torch.manual_seed(0)
    size: Any = policy.processor.size
    side = int(size["longest_edge"] ** 0.5) // 28 * 28
    prompts, twins = [], []
    for number, problem in enumerate(pgps9k.read(scratch)):
        shown = noise(side, number)
        full = policy.encode(training_prompt(problem, "full-text", contrastive=True), shown)
        twin = policy.encode(contrastive_prompt(problem), shown)
        prompts += [full] * samples
        twins += [(twin,)] * samples
    rows = groups * samples
    responses = [torch.randint(10, 600, (tokens,)) for _ in range(rows)]
    advantages = torch.tensor([0.9 if row % 2 == 0 else -0.9 for row in range(rows)])
    return Batch(prompts, twins, ["full-text"] * rows, responses, advantages, advantages > 0)


def apart(batch: Batch) -> Batch:
    """The same rows, each with a prompt, a twin and an image of its own."""
    own = [replace(p, image_key=f"{p.image_key} of row {i}") for i, p in enumerate(batch.prompts)]
    twins = [
        (replace(t, image_key=f"{t.image_key} of row {i}, again"),)
        for i, (t,) in enumerate(batch.twins)
    ]
    return replace(batch, prompts=own, twins=twins)


class WholeHead(Policy):
    """A policy whose LM head is put on every position, prompts and images included."""

    @classmethod
    def of(cls, policy: Policy) -> WholeHead:
        other = cls.__new__(cls)
        other.__dict__ = policy.__dict__
        return other

    @property
    def decoder(self) -> Any:
        return Headed(super().decoder, self.model.lm_head)

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden


class Headed:
    """A decoder with the head on it."""

    def __init__(self, decoder: Any, head: Any) -> None:
        self._decoder, self._head = decoder, head

    def __getattr__(self, name: str) -> Any:
        return getattr(self._decoder, name)

    def norm(self, x: torch.Tensor) -> torch.Tensor:
        return self._head(self._decoder.norm(x))


def naive(policy: Policy, batch: Batch, settings: Settings, contrastive: bool, micro: int) -> None:
    """transformers' forward on padded rows, each with its image; the twin is a second forward in
    the same graph.
    """
    for parameter in policy.parameters():
        parameter.grad = None
    lengths_B = torch.tensor([len(y) for y in batch.responses])
    weights_B = row_weights(lengths_B).to(policy.device)
    kl_weights_B = row_weights(lengths_B, counted_B=batch.right_B).to(policy.device)
    advantages_B = batch.advantages_B.to(policy.device)

    def logps(
        prompts: list[Any], responses: list[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        rows = [torch.cat((p.input_ids, y)) for p, y in zip(prompts, responses, strict=True)]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        real = torch.nn.utils.rnn.pad_sequence(
            [torch.ones_like(row) for row in rows], batch_first=True
        )
        image = policy.model.config.image_token_id
        logits = policy.model(
            input_ids=ids.to(policy.device), attention_mask=real.to(policy.device), use_cache=False,
            pixel_values=torch.cat([p.pixel_values for p in prompts]).to(policy.device),
            image_grid_thw=torch.cat([p.image_grid_thw for p in prompts]).to(policy.device),
            mm_token_type_ids=(ids == image).long().to(policy.device),
        ).logits  # fmt: skip
        every = policy.token_logps(logits[:, :-1], settings.temperature)
        every = every.gather(-1, ids[:, 1:, None].to(policy.device))[..., 0]
        out = [
            row[len(p) - 1 : len(p) - 1 + len(y)]
            for row, p, y in zip(every, prompts, responses, strict=True)
        ]
        mask = torch.nn.utils.rnn.pad_sequence(
            [torch.ones_like(y).bool() for y in responses], batch_first=True
        )
        return torch.nn.utils.rnn.pad_sequence(out, batch_first=True), mask.to(policy.device)

    with computing(policy), policy.weights_cast():
        for rows in pieces(range(len(batch)), micro):
            responses = [batch.responses[i] for i in rows]
            full_BT, mask_BT = logps([batch.prompts[i] for i in rows], responses)
            found = policy_loss(full_BT, full_BT.detach(), advantages_B[rows])
            loss = weighted_sum(found.loss_BT, weights_B[rows], mask_BT)
            if contrastive:
                free_BT, _ = logps([batch.twins[i][0] for i in rows], responses)
                kl = divergence(full_BT.detach(), free_BT, "k3", clamp=10.0)
                loss = loss + settings.kl_coef * weighted_sum(
                    kl.value_BT, kl_weights_B[rows], mask_BT
                )
            loss.backward()


def ordinary(policy: Policy, batch: Batch, settings: Settings, micro: int) -> None:
    """A plain step of our own model code in which every row has its own prompt and image, all in
    one graph.
    """
    for parameter in policy.parameters():
        parameter.grad = None
    weights_B = row_weights(torch.tensor([len(y) for y in batch.responses])).to(policy.device)
    advantages_B = batch.advantages_B.to(policy.device)
    with computing(policy), policy.weights_cast():
        for rows in pieces(range(len(batch)), micro):
            prompts, responses = (
                [batch.prompts[i] for i in rows],
                [batch.responses[i] for i in rows],
            )
            features = policy.image_features(prompts)
            logps_BT, _, mask_BT = policy.logprobs(
                prompts, responses, features, settings.temperature
            )
            found = policy_loss(logps_BT, logps_BT.detach(), advantages_B[rows])
            weighted_sum(found.loss_BT, weights_B[rows], mask_BT).backward()


def variants(policy: Policy, batch: Batch, settings: Settings) -> dict[str, tuple[Variant, str]]:
    """Name -> (what to run, the variant whose gradient it must have)."""
    plain, kl = "plain, shared", "contrastive, shared"
    own = apart(batch)
    twins_apart = replace(
        batch, twins=[(replace(t, image_key=f"{t.image_key} again"),) for (t,) in batch.twins]
    )
    counted = replace(batch, right_B=torch.ones_like(batch.right_B))

    def run(
        micro: int, given: Batch = batch, contrastive: bool = True, of: Policy = policy
    ) -> None:
        gradients(of, given, Stage(("full-text",), contrastive, settings), micro)

    def two_passes(micro: int) -> None:
        with swapped(update, "twins_together", lambda *_: False):
            run(micro)

    def prompts_apart(contrastive: bool) -> Variant:
        """Each row with its own prompt in the language model, images still shared."""
        plant = tree.plant

        def planted(prompts: Any, responses: Any, image_token: int) -> Any:
            own = [replace(prompt, image_key=f"{i}") for i, prompt in enumerate(prompts)]
            return plant(own, responses, image_token)

        def work(micro: int) -> None:
            with swapped(tree, "plant", planted):
                run(micro, contrastive=contrastive)

        return work

    def by_spans(micro: int, contrastive: bool = True) -> None:
        with swapped(layers, "fits", lambda *_: False):
            run(micro, contrastive=contrastive)

    def unchunked(micro: int) -> None:
        with swapped(scoring, "_CHUNK", 2**60):
            run(micro)

    def every_row(micro: int) -> None:
        def weights(lengths: Any, mean: Any, size: Any, rows: Any = None) -> torch.Tensor:
            return row_weights(lengths, mean, size, None if rows is None else batch.right_B)

        with swapped(terms, "row_weights", weights):
            run(micro, counted)

    def old_forward(micro: int) -> None:
        run(micro, replace(batch, old_logps=old_logprobs(policy, batch, settings, micro)))

    whole = WholeHead.of(policy)
    on_gpu = {
        "contrastive without: attention in one kernel": (by_spans, kl),
        "plain without: attention in one kernel": (lambda m: by_spans(m, False), plain),
    }
    return {
        plain: (lambda m: run(m, contrastive=False), plain),
        "plain, ordinary": (lambda m: ordinary(policy, own, settings, m), plain),
        kl: (run, kl),
        "contrastive, naive two-forward": (
            lambda m: naive(policy, batch, settings, True, max(1, m // 2)),
            kl,
        ),
        "contrastive, two passes": (two_passes, kl),
        "contrastive without: image shared by the two prompts": (lambda m: run(m, twins_apart), kl),
        "contrastive without: prompt shared by a group": (prompts_apart(True), kl),
        "plain without: prompt shared by a group": (prompts_apart(False), plain),
        "contrastive without: anything shared": (lambda m: run(m, own), kl),
        "contrastive without: correct rows only": (every_row, kl),
        "contrastive without: no old log-prob forward": (old_forward, kl),
        "contrastive without: head on responses only": (lambda m: run(m, of=whole), kl),
        "contrastive without: logits in chunks": (unchunked, kl),
        "plain, naive": (lambda m: naive(policy, batch, settings, False, m), plain),
        **(on_gpu if policy.device.type == "cuda" else {}),
    }


def gradient_difference(policy: Policy, expected: dict[str, torch.Tensor]) -> float:
    worst = 0.0
    for name, parameter in policy.model.named_parameters():
        if parameter.grad is not None:
            largest = float(expected[name].abs().max())
            worst = max(
                worst, float((parameter.grad - expected[name]).abs().max()) / max(largest, 1e-12)
            )
    return worst


def median_ratio(times: dict[str, list[float]], name: str, base: str) -> float | None:
    pairs = list(zip(times[name], times.get(base, []), strict=False))
    return statistics.median(a / b for a, b in pairs) if pairs else None


def table(
    times: dict[str, list[float]],
    peaks: dict[str, float],
    exact: dict[str, float],
    sizes: dict[str, int],
) -> tuple[dict, list[str]]:
    rows: dict[str, dict[str, Any]] = {}
    lines = [
        (
            "| | s a step | over plain | over contrastive | over ordinary plain | peak GiB | rows a"
            " pass | gradient |"
        ),
        "|" + " --- |" * 8,
    ]
    for name, values in times.items():
        error = "" if name not in exact else f"{exact[name]:.0e}"
        if not values:
            rows[name] = {"seconds": None, "gradient_difference": exact.get(name)}
            why = "no time left" if sizes[name] else "out of memory"
            lines.append(f"| {name} | {why} | | | | | {sizes[name]} | {error} |")
            continue
        bases = {
            "plain": "plain, shared",
            "contrastive": "contrastive, shared",
            "ordinary": "plain, ordinary",
        }
        ratios = {key: median_ratio(times, name, base) for key, base in bases.items()}
        rows[name] = {
            "seconds": statistics.median(values), "rounds": len(values), "least": min(values),
            "most": max(values), **{f"over_{key}": value for key, value in ratios.items()},
            "peak_gib": peaks.get(name), "rows_of_a_pass": sizes[name],
            "gradient_difference": exact.get(name),
        }  # fmt: skip
        shown = " | ".join("" if value is None else f"{value:.2f}x" for value in ratios.values())
        lines.append(
            f"| {name} | {statistics.median(values):.3f} | {shown} | {peaks.get(name, 0):.2f} |"
            f" {sizes[name]} | {error} |"
        )
    return rows, lines


TARGETS = (
    ("contrastive over plain", "contrastive, shared", "plain, shared", {256: 1.35, 1024: 1.15}),
    (
        "contrastive over naive two-forward",
        "contrastive, shared",
        "contrastive, naive two-forward",
        {256: 0.7, 1024: 0.6},
    ),
    (
        "contrastive over ordinary plain",
        "contrastive, shared",
        "plain, ordinary",
        {256: 1.0, 1024: 1.0},
    ),
)


def flops_of(model: str, batch: Batch, samples: int, settings: Settings) -> dict[str, float]:
    """FLOPs of a contrastive step by phase, as the dry run counts them: what rows share is counted
    once. `update` alone is the plain step's.
    """
    shape = known_model("tiny").shape if model == "tiny" else SHAPES_MADE[model]
    assert shape is not None
    full, twin, tokens = batch.prompts[0], batch.twins[0][0], len(batch.responses[0])
    lengths = Lengths(full.image_tokens, len(full), len(twin), tokens, tokens)
    groups = len(batch) // samples
    settings = replace(
        settings, samples_per_prompt=samples, prompts_per_step=groups, mini_batch=groups
    )
    return cost(Stage(("full-text",), True, settings), shape, lengths, gpu("H200")).flops


def verdicts(
    times: dict[str, list[float]], peaks: dict[str, float], image: int, flops: float
) -> list[str]:
    """The targets, which are set for 256 and 1,024 image tokens of the 3B shape on an H200, and
    what was measured.
    """
    lines = ["", "| target | at 256 / 1,024 | here |", "| --- | --- | --- |"]
    for title, name, base, bounds in TARGETS:
        if (got := median_ratio(times, name, base)) is not None:
            bound = bounds[256 if image < 640 else 1024]
            words = "met" if got <= bound else "missed"
            lines.append(f"| {title} | {bounds[256]}x / {bounds[1024]}x | {got:.2f}x, {words} |")
    lines.append(f"| contrastive over plain, by FLOPs | | {flops:.2f}x |")
    if peaks.get("plain, shared") and "contrastive, shared" in peaks:
        got = peaks["contrastive, shared"] / peaks["plain, shared"]
        lines.append(
            f"| peak memory over plain | 1.1x | {got:.2f}x, {'met' if got <= 1.1 else 'missed'} |"
        )
    return lines


def timed(
    work: Variant,
    policy: Policy,
    memory: Memory,
    sizes: dict[str, int],
    name: str,
    clock: Callable[[], float],
) -> float | None:
    """Seconds of a variant; out of memory it is tried again with half of its rows a pass, as the
    engine does.
    """
    while sizes[name]:
        try:
            policy.model.zero_grad(set_to_none=True)
            with memory.watching():
                start = clock()
                work(sizes[name])
                if policy.device.type == "cuda":
                    torch.cuda.synchronize()
                return clock() - start
        except torch.OutOfMemoryError:
            sizes[name] //= 2
        # Outside of the handler: the exception held the frames, and with them the memory.
        policy.model.zero_grad(set_to_none=True)
        gc.collect()
        torch.cuda.empty_cache()
        print(f"{name}: out of memory, now {sizes[name]} rows a pass", flush=True)
    return None


def main() -> None:
    import tempfile

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    gpu = torch.cuda.is_available()
    parser.add_argument("--model", choices=MODELS, default="tiny")
    parser.add_argument("--device", default="cuda" if gpu else "cpu")
    parser.add_argument(
        "--image-tokens", type=int, help="a square number; 64 for tiny, 256 for others by default"
    )
    parser.add_argument("--groups", type=int, default=4)
    parser.add_argument("--samples", type=int, default=5)
    parser.add_argument(
        "--tokens",
        type=int,
        help="of a response; 64 for tiny (its mean), 400 for others by default",
    )
    parser.add_argument(
        "--micro", type=int, help="rows of a forward pass; all for tiny, a group by default"
    )
    parser.add_argument(
        "--checkpointing", action="store_true", help="compute layers again in the backward pass"
    )
    parser.add_argument(
        "--only", nargs="*", help="variants whose name contains one of these (and the three bases)"
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=3,
        help="nothing begins after that but the first two rounds",
    )
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", type=Path, help="written after every round, with a .md beside it")
    parser.add_argument(
        "--profile",
        type=Path,
        help="torch's profile of one plain and one contrastive step, at the end",
    )
    parser.add_argument(
        "--recipes",
        nargs="*",
        help="each of these recipes' update over plain DAPO's, beside the ratio of FLOPs; every"
        " recipe with a term of its own if none is named",
    )
    given = parser.parse_args()
    began = time.monotonic()
    small = given.model == "tiny"
    image = given.image_tokens or (64 if small else 256)
    tokens = given.tokens or (64 if small else 400)
    micro = given.micro or (given.groups * given.samples if small else given.samples)
    policy = make_policy(given.model, given.device, image, given.checkpointing)
    on_gpu = policy.device.type == "cuda"
    if given.recipes is not None:
        from recipe_step import compare

        compare(given, policy, tokens, micro, began)
        return
    with tempfile.TemporaryDirectory() as scratch:
        batch = made_batch(policy, given.groups, given.samples, tokens, Path(scratch))
    settings = Settings(micro_batch=micro, max_response_tokens=tokens)
    found = variants(policy, batch, settings)
    if given.only is not None:
        bases = ("plain, shared", "plain, ordinary", "contrastive, shared")
        found = {
            k: v for k, v in found.items() if k in bases or any(word in k for word in given.only)
        }
    about = machine(given.device) | {
        "model": given.model, "parameters": policy.count_parameters(),
        "image_tokens": batch.prompts[0].image_tokens, "prompt_tokens": len(batch.prompts[0]),
        "twin_tokens": len(batch.twins[0][0]), "response_tokens": tokens, "groups": given.groups,
        "samples": given.samples, "micro_batch": micro, "checkpointing": given.checkpointing,
        "weights": str(policy.dtype), "computed_in": "bfloat16" if on_gpu else "float32",
    }  # fmt: skip
    needed = flops_of(given.model, batch, given.samples, settings)
    flops = 1 + needed["twins"] / needed["update"]
    memory = Memory(given.device)
    times: dict[str, list[float]] = {name: [] for name in found}
    peaks, exact, sizes = dict[str, float](), dict[str, float](), dict.fromkeys(found, micro)
    clock = time.perf_counter if on_gpu else time.process_time
    expected: dict[str, dict[str, torch.Tensor]] = {}
    lines: list[str] = []
    for number in range(-1, given.rounds):  # the first one warms up, and compares gradients
        for name, (work, equals) in found.items():
            if not sizes[name]:
                continue
            if time.monotonic() - began > 60 * given.minutes and number > 0:
                break
            took = timed(work, policy, memory, sizes, name, clock)
            if took is None:
                continue
            if number >= 0:
                times[name].append(took)
                peaks[name] = max(peaks.get(name, 0.0), memory.peak)
            elif not on_gpu or policy.count_parameters() < 10**9:
                if equals == name:
                    grads = {
                        k: p.grad for k, p in policy.model.named_parameters() if p.grad is not None
                    }
                    expected[name] = {
                        k: g.cpu().clone() for k, g in grads.items()
                    }  # off the GPU, not to be counted
                    exact[name] = 0.0
                elif equals in expected:
                    policy_side = {k: v.to(policy.device) for k, v in expected[equals].items()}
                    exact[name] = gradient_difference(policy, policy_side)
            off = f", gradient off by {exact[name]:.0e}" if number < 0 and name in exact else ""
            print(
                f"[{time.monotonic() - began:.0f} s] round {number}: {name} {took:.3f} s{off}",
                flush=True,
            )
        rows, lines = table(times, peaks, exact, sizes)
        lines = [
            ", ".join(f"{k} {v}" for k, v in about.items()),
            "",
            *lines,
            *verdicts(times, peaks, image, flops),
        ]
        write(given.json, about, rows, lines)
        if time.monotonic() - began > 60 * given.minutes and number >= 0:
            break
    print("\n" + "\n".join(lines))
    if given.profile:
        names = ("plain, shared", "contrastive, shared")
        given.profile.write_text(
            "\n\n".join(f"{name}\n{profiled(*found[name], sizes[name])}" for name in names)
        )


def profiled(work: Variant, _: str, micro: int) -> str:
    """Where the time of one step goes, by kernels."""
    from torch.profiler import ProfilerActivity, profile

    gpu = torch.cuda.is_available()
    with profile(
        activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]
    ) as seen:
        work(micro)
    by = "self_cuda_time_total" if gpu else "self_cpu_time_total"
    return seen.key_averages().table(sort_by=by, row_limit=40, max_name_column_width=90)


if __name__ == "__main__":
    main()
