"""How fast a judge of Qwen3-8B's shape settles a MathVerse run: by vLLM in this process, and behind
`vllm serve`.

python bench/judge.py --out bench_judge [--problems 300] [--ways vllm,served] [--shape 8b|nano]
[--tokens 16]

The run is the testbed model's answers to made problems in MathVerse's schema, whose free-form gold
answers are words, so that rules decide nothing about them; --check of the answers that they do
decide are asked about as well. The judge has the true shape and random weights
(`load_format=dummy`: speed does not depend on the values), and a tokenizer trained on the
questions. What it writes is noise, so the run's grades must say `error` for it, never `wrong`.

Ways: `vllm` is `modgap grade RUN --judge FOLDER`; `served` the same with `--judge URL`;
`served-paper` as `served` with `--mode paper` (raw completions, 2 tokens); `hf` is for rehearsals
on a CPU; `none` makes the run and asks nobody, and a later command with the same --work takes it as
it is. Figures go to OUT/judge.json after each way.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
import urllib.request
from collections import Counter
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "shared"))

from mathverse_data import VERSIONS, rows, write_parquet

from modgap.core.options import EvalOptions, JudgeOptions
from modgap.core.record import RunFolder
from modgap.workflows.evaluate import evaluate
from modgap.workflows.grade import grade_run
from modgap.workflows.judging import make_judge
from modgap.workflows.problems import read_problems

WORDS = (
    "increasing",
    "an isosceles triangle",
    "they never meet",
    "the second quadrant",
    "Yes, by symmetry",
)
VOCABULARY = 151_936
# The language models as released: Qwen3-8B, and one that a CPU can run.
SHAPES: dict[str, dict[str, Any]] = {
    "8b": {"hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36,
           "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
           "max_position_embeddings": 40960},
    "nano": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
             "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 64,
             "max_position_embeddings": 8192},
}  # fmt: skip
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")
# ChatML with Qwen3's switch: with thinking off, the turn opens with an empty thought.
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor"
    " %}<|im_start|>assistant\n{% if enable_thinking is defined and enable_thinking is false"
    " %}<think>\n\n</think>\n\n{% endif %}"
)


def write_run(folder: Path, problems: int, samples: int) -> Path:
    """The testbed model's answers to a MathVerse whose free-form gold answers are words."""
    made = rows(problems, versions=VERSIONS)
    for row in made:
        if row["question_type"] == "free-form":
            row["answer"] = WORDS[int(row["problem_index"]) // 2 % len(WORDS)]
    read = read_problems("mathverse", write_parquet(folder / "testmini.parquet", made))
    options = EvalOptions(samples=samples, max_tokens=96, batch_size=512)
    evaluate(read, "tiny", folder / "run", options=options)
    return folder / "run"


def write_judge(shape: str, folder: Path, texts: Sequence[str], weights: bool) -> Path:
    """A Qwen3 of the given shape; its tokenizer has as many entries as the model has."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen3Config

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer, inner.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=2000, special_tokens=list(SPECIAL), initial_alphabet=alphabet
        ),
    )
    found = json.loads(inner.to_str())
    entries = found["model"]["vocab"]
    entries.update(
        {f"Ġx{number}": number for number in range(len(entries), VOCABULARY)}
    )  # read, never written
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(found)), eos_token="<|im_end|>",
        pad_token="<|endoftext|>", chat_template=TEMPLATE,
    )  # fmt: skip
    tokenizer.save_pretrained(folder)
    config = Qwen3Config(
        **SHAPES[shape], vocab_size=VOCABULARY, tie_word_embeddings=False,
        architectures=["Qwen3ForCausalLM"], dtype="bfloat16", bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    config.save_pretrained(folder)
    if weights:
        from transformers import Qwen3ForCausalLM

        Qwen3ForCausalLM(config).save_pretrained(folder)
    return folder


@contextmanager
def served(judge: Path, args: argparse.Namespace) -> Any:
    """`vllm serve` of the judge, on a free port of this machine; its process group ends with it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    extra = [
        f"--{key.replace('_', '-')}={value}"
        for key, value in (arg.split("=", 1) for arg in args.engine_arg)
    ]
    command = [
        sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", str(judge),
        "--load-format=dummy", "--host=127.0.0.1", f"--port={port}", "--served-model-name=judge",
        "--max-model-len=8192", *extra,
    ]  # fmt: skip
    with (args.out / "serve.log").open("w") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        until = time.monotonic() + 240
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError("vllm serve did not start: see serve.log") from None
                time.sleep(1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def ask(run: Path, mode: Any, options: JudgeOptions) -> dict[str, Any]:
    """Grade the run with a judge: what it took and what came of it."""
    marks: list[tuple[float, int]] = []
    started = time.perf_counter()
    summary = grade_run(
        RunFolder(run), mode, judge=make_judge(options), check=options.check, seed=options.seed,
        progress=lambda what, done, total:
        marks.append((time.perf_counter(), done)) if what == "judging" else None,
    )  # fmt: skip
    judged, asked = summary.judge, marks[1:]
    assert judged is not None and judged.check is not None
    # From when the engine was up and the first answer came, hence without that answer.
    seconds = asked[-1][0] - asked[0][0]
    grades = [json.loads(line) for line in (run / "grades.jsonl").read_text().splitlines()]
    return {
        "asked": judged.asked,
        "questions_per_s": round((asked[-1][1] - asked[0][1]) / seconds, 1),
        "seconds": round(seconds, 2),
        "with_start_and_rules_s": round(time.perf_counter() - started, 1),
        **judged.model_dump(
            include={"samples", "consistent", "different", "unreadable", "failed", "waiting"}
        ),
        "check": judged.check.model_dump(include={"samples", "unreadable", "failed", "table"}),
        "outcomes_of_stage_judge": Counter(
            grade["outcome"] for grade in grades if grade["stage"] == "judge"
        ),
    }


def main() -> None:
    """Make the run and the judge, and ask it in every way."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, help="where run and judge are made; OUT if not given")
    parser.add_argument("--problems", type=int, default=300)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--ways", default="vllm,served,served-paper")
    parser.add_argument("--shape", choices=tuple(SHAPES), default="8b")
    parser.add_argument(
        "--check", type=int, default=2000, help="answers that rules decided to ask about"
    )
    parser.add_argument("--tokens", type=int, default=16, help="how many the judge may write")
    parser.add_argument(
        "--engine-arg", action="append", default=[], help="key=value for vLLM; repeatable"
    )
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server ends, too
    args.out.mkdir(parents=True, exist_ok=True)
    work = args.work or args.out
    run = write_run(work / "made", args.problems, args.samples)
    if args.ways == "none":
        return
    (run / "judge.jsonl").unlink(missing_ok=True)
    texts = (work / "made/run/problems.jsonl").read_text().splitlines()
    from modgap.core.prompt import judge_prompt

    texts = [judge_prompt(text[:300], "12", "increasing").text for text in texts[:200]]
    judge = write_judge(
        args.shape, work / "made/judge", texts, weights="hf" in args.ways.split(",")
    )
    from transformers import AutoTokenizer

    words = AutoTokenizer.from_pretrained(judge)(texts)["input_ids"]
    figures: dict[str, Any] = {
        "shape": args.shape,
        "tokens": args.tokens,
        "ways": {},
        "prompt_tokens_about": round(sum(map(len, words)) / len(words)),
    }
    common: dict[str, Any] = {"max_tokens": args.tokens, "check": args.check}
    dummy = ("load_format=dummy", "max_model_len=8192", *args.engine_arg)
    ways = args.ways.split(",")

    def note(way: str, mode: str, options: JudgeOptions) -> None:
        try:
            figures["ways"][way] = ask(run, mode, options)
        except Exception as error:
            traceback.print_exc()
            figures["ways"][way] = {"error": " ".join(str(error).split())[:400]}
        (args.out / "judge.json").write_text(json.dumps(figures, indent=1) + "\n")
        print(way, json.dumps(figures["ways"][way]), flush=True)

    if "hf" in ways:
        note("hf", "strict", JudgeOptions(str(judge), "hf", **common))
    if "vllm" in ways:
        note("vllm", "strict", JudgeOptions(str(judge), "vllm", engine_args=dummy, **common))
    if "served" in ways or "served-paper" in ways:
        with served(judge, args) as url:
            for way, mode in (("served", "strict"), ("served-paper", "paper")):
                if way in ways:
                    note(way, mode, JudgeOptions(url, concurrency=256, **common))


if __name__ == "__main__":
    main()
