"""How fast `--engine vllm` is, and how much of that the original's way of asking loses: both on the
same engine.

python bench/vllm_speed.py --out bench_vllm [--models tiny,3b,7b] [--minutes 2] [--prompts 384]
[--samples 4]

Models: `tiny` is the testbed model with its own weights, on synthetic problems, whose responses it
ends itself; `3b` and `7b` are Qwen2.5-VL of the true shapes with random weights
(`load_format=dummy`: speed does not depend on the values), whose responses have lengths drawn from
a seeded long-tailed distribution (log-normal, about 330 tokens, cut at 1,536), the same for every
loop.

Loops, on one engine after another:

* `ours`: every sample is asked for at once, see `modgap.engines.vllm`;
* `chunks`: the original's loop (`inference.py` of its MathVerse evaluation): `LLM.generate` of 16
  prompts with all of their samples, and the next 16 when the last of them is done;
* `chunks16`: as `chunks`, with at most 16 samples at work, as the original sets `max_num_seqs`.

Tokens per second of `chunks` are those of whole chunks; a loop that is out of time ends after the
chunk it is in (`ours`: it is left, and only what was finished counts). Every loop has images of its
own: no cache helps a later one. Figures go to OUT/vllm_speed.json and OUT/vllm_speed.md after each
loop; a part that fails is named there.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cards import Cards
from PIL import Image, ImageDraw

from modgap.core.engine import Request, Sampling
from modgap.core.prompt import Prompt, evaluation_prompt
from modgap.datasets.synthetic import write_dataset
from modgap.engines.vllm import VllmEngine
from modgap.models.load import tiny_folder
from modgap.workflows.problems import read_problems

PIXELS = (256 * 28 * 28, 1280 * 28 * 28)
CHUNK, CHUNK_SEQS = 16, 16
LOOPS = ("ours", "chunks", "chunks16")

# Qwen2.5-VL as released: the language model's sizes, and whether its embeddings are tied.
SHAPES: dict[str, dict[str, Any]] = {
    "3b": {"hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36,
           "num_attention_heads": 16, "num_key_value_heads": 2, "vocab_size": 151936,
           "tie_word_embeddings": True},
    "7b": {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
           "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064,
           "tie_word_embeddings": False},
}  # fmt: skip
VISION = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16,
          "window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31]}  # fmt: skip


def write_shape(name: str, folder: Path) -> Path:
    """A model folder without weights: the true shape's config, the testbed model's tokenizer and
    processor.
    """
    from transformers import Qwen2_5_VLConfig

    tiny, shape = tiny_folder(), SHAPES[name]
    old = json.loads((tiny / "config.json").read_text())
    ids = {
        key: old[key]
        for key in (
            "image_token_id",
            "video_token_id",
            "vision_start_token_id",
            "vision_end_token_id",
        )
    }
    text = {
        **shape, "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "bos_token_id": None,
        "eos_token_id": 2,
        "rope_parameters": {
            "rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24],
        },
    }  # fmt: skip
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config={**VISION, "out_hidden_size": shape["hidden_size"]},
        tie_word_embeddings=shape["tie_word_embeddings"],
        architectures=["Qwen2_5_VLForConditionalGeneration"],
        dtype="bfloat16",
        **ids,
    )
    config.save_pretrained(folder)
    for file in tiny.iterdir():
        if file.suffix in (".json", ".jinja") and file.name not in (
            "config.json",
            "figures.json",
            "modgap.json",
        ):
            (folder / file.name).write_bytes(file.read_bytes())
    return folder


def draw(seed: int, side: int = 512) -> Image.Image:
    """A diagram of its own for each seed; 512 pixels are 324 image tokens."""
    rng = random.Random(seed)
    image = Image.new("RGB", (side, side), "white")
    pen = ImageDraw.Draw(image)
    points = [(rng.randrange(20, side - 20), rng.randrange(20, side - 20)) for _ in range(6)]
    for number, point in enumerate(points):
        pen.line([point, points[number - 1]], fill="black", width=2)
        pen.text(point, f"{'ABCDEF'[number]} {rng.randrange(100)}", fill="black")
    return image


def requests(count: int, samples: int, base: int) -> list[Request]:
    """Prompts of two views a problem, which share its image."""
    made: list[Request] = []
    for number in range(count // 2):
        image = (lambda seed: lambda: draw(seed))(base + number)
        words = ", ".join(
            f"{a}{b} = {(number * 7 + i) % 90}"
            for i, (a, b) in enumerate(zip("ABCDE", "BCDEF", strict=True))
        )
        for view, text in (
            ("full-text", f"In this problem, {words}. Find AC."),
            ("image-only", "Find AC."),
        ):
            prompt = Prompt(
                f"{text} Reason step by step. The final answer MUST BE put in \\boxed{{}}."
            )
            made.append(Request(f"p{base + number}", view, prompt, image, tuple(range(samples))))
    return made


def tiny_requests(count: int, samples: int, base: int) -> list[Request]:
    """Prompts of two views of synthetic problems, which the testbed model knows."""
    with tempfile.TemporaryDirectory() as name:
        write_dataset(Path(name), train=2, test=count // 2, seed=base)
        problems = [
            replace(p, image=p.image_bytes()) for p in read_problems("synthetic", Path(name))
        ]
    return [
        Request(
            f"p{base + number}",
            view,
            evaluation_prompt(problem, view),
            problem.open_image,
            tuple(range(samples)),
        )
        for number, problem in enumerate(problems)
        for view in ("full-text", "image-only")
    ]


def length(request: Request, sample: int) -> int:
    """Tokens of one response: log-normal with median 240 (mean about 330), 16 to 1,536; the same in
    every loop.
    """
    number = int(request.problem_id[1:]) % 100_000
    rng = random.Random(f"{number}/{request.view}/{sample}")
    return int(min(1536, max(16, rng.lognormvariate(math.log(240), 0.8))))


class Fixed(VllmEngine):
    """The engine with responses of given lengths, for weights that never end one."""

    def parameters(self, request: Request, sample: int, sampling: Sampling) -> Any:
        """As the engine's, but as long as `length` says; ids beyond the small tokenizer are not
        decoded.
        """
        parameters = super().parameters(request, sample, sampling)
        parameters.max_tokens, parameters.ignore_eos, parameters.detokenize = (
            length(request, sample),
            True,
            False,
        )
        return parameters


@dataclass
class Figures:
    """What one loop did.

    Attributes:
        model: Which model.
        loop: Which loop.
        seconds: How long.
        responses: Finished.
        tokens: Of those.
        prompt_tokens: Mean, image included.
        image_tokens: Mean.
        gpu: Mean utilisation in percent, twice a second, as NVML gives it; nothing where there is
            none.
        done: Whether all of its prompts were answered.
        error: Why there are no figures.
    """

    model: str
    loop: str
    seconds: float = 0.0
    responses: int = 0
    tokens: int = 0
    prompt_tokens: float = 0.0
    image_tokens: float = 0.0
    gpu: float | None = None
    done: bool = False
    error: str | None = None

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return self.tokens / self.seconds if self.seconds else 0.0


def ours(
    engine: VllmEngine, asked: Sequence[Request], sampling: Sampling, until: float
) -> Iterator[tuple[int, int, int]]:
    """Our loop: (tokens, prompt tokens, image tokens) of each response."""
    for done in engine.generate(asked, sampling):
        assert done.finish_reason != "error", done.error
        yield done.completion_tokens, done.prompt_tokens, done.image_tokens
        if time.perf_counter() > until:
            return


def chunks(
    engine: VllmEngine, asked: Sequence[Request], sampling: Sampling, until: float, seqs: int | None
) -> Iterator[tuple[int, int, int]]:
    """The original's loop: 16 prompts, wait for all, the next 16."""
    for start in range(0, len(asked), CHUNK):
        prompts, parameters, images = [], [], 0
        for request in asked[start : start + CHUNK]:
            assert request.image is not None
            prepared = engine._prepare(request, request.image())
            prompts += list(prepared.prompts)
            parameters += [
                engine.parameters(request, sample, sampling) for sample in request.samples
            ]
            images = prepared.image_tokens
        if seqs is None:
            outputs = engine.llm.generate(prompts, parameters, use_tqdm=False)
        else:
            outputs = list(_throttled(engine.llm.llm_engine, prompts, parameters, seqs, start))
        for output in outputs:
            yield len(output.outputs[0].token_ids), len(output.prompt_token_ids), images
        if time.perf_counter() > until:
            return


def _throttled(
    core: Any, prompts: Sequence[Any], parameters: Sequence[Any], seqs: int, start: int
) -> Iterator[Any]:
    """Continuous batching with at most `seqs` samples at work."""
    waiting = list(enumerate(zip(prompts, parameters, strict=True)))[::-1]
    while waiting or core.has_unfinished_requests():
        while waiting and core.get_num_unfinished_requests() < seqs:
            number, (prompt, one) = waiting.pop()
            core.add_request(f"throttled/{start}/{number}", prompt, one)
        yield from (output for output in core.step() if output.finished)


def measure(engine: VllmEngine, model: str, loop: str, args: argparse.Namespace) -> Figures:
    """One loop, bounded in time."""
    sampling = Sampling(temperature=0.6, max_tokens=256, seed=42)
    make = tiny_requests if model == "tiny" else requests
    asked = make(args.prompts, args.samples, 100_000 * (1 + LOOPS.index(loop)) + args.base)
    figures, gpu, seen = Figures(model, loop), Cards(), []
    started = time.perf_counter()
    until = started + 60 * (args.minutes if loop == "ours" else args.baseline_minutes)
    try:
        seqs = {"chunks": None, "chunks16": CHUNK_SEQS}
        run = (
            ours(engine, asked, sampling, until)
            if loop == "ours"
            else chunks(engine, asked, sampling, until, seqs[loop])
        )
        for one in run:
            seen.append(one)
            if loop == "ours":
                figures.seconds = time.perf_counter() - started
    except Exception as error:
        traceback.print_exc()
        figures.error = " ".join(str(error).split())[:300] or type(error).__name__
    figures.seconds = figures.seconds if loop == "ours" else time.perf_counter() - started
    figures.gpu = next(iter(gpu.mean()), None)
    figures.responses, figures.done = len(seen), len(seen) == args.prompts * args.samples
    if seen:
        figures.tokens = sum(one[0] for one in seen)
        figures.prompt_tokens, figures.image_tokens = (
            statistics.mean(one[i] for one in seen) for i in (1, 2)
        )
    return figures


def write(out: Path, all_figures: Sequence[Figures], notes: dict[str, Any]) -> None:
    """Both files, anew."""
    ours_rate = {f.model: f.rate for f in all_figures if f.loop == "ours"}
    rows = [
        "| model | loop | responses | s | responses/s | tokens/s | GPU % | ours is |"
        " prompt tokens (image) |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for f in all_figures:
        if f.error:
            rows.append(f"| {f.model} | {f.loop} | failed: {f.error} | | | | | | |")
            continue
        ratio = (
            f"{ours_rate[f.model] / f.rate:.2f}x"
            if f.loop != "ours" and f.rate and ours_rate.get(f.model)
            else ""
        )
        gpu = "" if f.gpu is None else f"{f.gpu:.0f}"
        rows.append(
            f"| {f.model} | {f.loop} | {f.responses}{'' if f.done else ' (out of time)'} |"
            f" {f.seconds:.1f} | {f.responses / max(f.seconds, 1e-9):.1f} | {f.rate:.0f} | {gpu} |"
            f" {ratio} | {f.prompt_tokens:.0f} ({f.image_tokens:.0f}) |"
        )
    out.mkdir(parents=True, exist_ok=True)
    (out / "vllm_speed.md").write_text("\n".join(rows) + f"\n\n{json.dumps(notes)}\n")
    figures = [{**asdict(f), "tokens_per_second": f.rate} for f in all_figures]
    (out / "vllm_speed.json").write_text(json.dumps({"figures": figures, "notes": notes}, indent=1))


def main() -> None:
    """Measure every model with every loop."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--models", default="tiny,3b,7b")
    parser.add_argument("--loops", default=",".join(LOOPS))
    parser.add_argument("--minutes", type=float, default=2.0, help="most minutes of `ours`")
    parser.add_argument(
        "--baseline-minutes", type=float, default=1.0, help="most minutes of another loop"
    )
    parser.add_argument("--prompts", type=int, default=384)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument(
        "--engine-arg", action="append", default=[], help="key=value for vllm.LLM; repeatable"
    )
    parser.set_defaults(base=0)
    args = parser.parse_args()
    import vllm  # pyright: ignore[reportMissingImports] - an extra

    notes: dict[str, Any] = {"vllm": vllm.__version__, "engine_args": args.engine_arg,
                             "prompts": args.prompts, "samples": args.samples}  # fmt: skip
    everything: list[Figures] = []
    for model in args.models.split(","):
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            try:
                if model == "tiny":
                    engine = VllmEngine(tiny_folder(), args=args.engine_arg)
                else:
                    given = ["load_format=dummy", "max_model_len=4096", *args.engine_arg]
                    engine = Fixed(write_shape(model, Path(folder)), pixels=PIXELS, args=given)
            except Exception as error:
                traceback.print_exc()
                everything.append(Figures(model, "start", error=" ".join(str(error).split())[:400]))
                write(args.out, everything, notes)
                continue
            notes[f"{model} started in s"] = round(time.perf_counter() - started, 1)
            notes[f"{model} in flight"] = engine.in_flight
            warm = argparse.Namespace(prompts=8, samples=1, baseline_minutes=0.5, base=50_000)
            measure(engine, model, "chunks", warm)  # kernels are compiled for the first shapes
            for loop in args.loops.split(","):
                everything.append(measure(engine, model, loop, args))
                write(args.out, everything, notes)
                print((args.out / "vllm_speed.md").read_text(), flush=True)
            engine.close()


if __name__ == "__main__":
    main()
