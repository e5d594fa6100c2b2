r"""Training data of the testbed model: problems, the vision head's targets, all token sequences.

The mixture has two kinds of tasks. The first is the problem in the words of `core.prompt` with the
worked solution as target, in the views full-text, image-only, text-only and transcribe (aligned
style) and, for a small share, as the paper's evaluation words it. The second is `labels`,
"label column row" for every text in the image: it teaches reading and is used nowhere else.

Problems are made by spawned processes before CUDA starts, and tokenized there, once.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from string import ascii_letters, ascii_uppercase, digits
from typing import TYPE_CHECKING, Any

import numpy as np

from modgap.core.problem import Problem
from modgap.core.processes import spread
from modgap.core.progress import doing, show
from modgap.core.prompt import Prompt, evaluation_prompt

if TYPE_CHECKING:
    from modgap.datasets.synthetic import SyntheticProblem
    from modgap.models.encode import Encoder
    from modgap.models.policy import Policy
    from modgap.testbed.build import Size
    from modgap.testbed.train import Corpus

SIDE = 224  # pixels of the image
CELL = 28  # pixels of a merged token of Qwen2.5-VL
CELLS = {"qwen2.5-vl": CELL, "qwen3-vl": 32}
"""Architecture -> pixels of a merged token."""
CHARACTERS = digits + ascii_letters + "°+-()./√π"
SLOTS = 8  # a cell's parts for characters: 4 columns by 2 rows; for vertices: its 4 patches
N_MARKS = SLOTS * len(CHARACTERS) + 4 * len(ascii_uppercase)
LABELS_REQUEST = "List the labels in the image, each with its column and row."
# Sequence name -> (view, style); `solution` and `places` are the targets.
PROMPTS = {
    "full-text": ("full-text", "aligned"),
    "image-only": ("image-only", "aligned"),
    "text-only": ("text-only", "aligned"),
    "transcribe": ("transcribe", "aligned"),
    "paper full-text": ("full-text", "paper"),
    "paper image-only": ("image-only", "paper"),
}
NAMES = (*PROMPTS, "labels", "solution", "places")
TASKS = {
    **{name: (name, "solution", name != "text-only") for name in PROMPTS},
    "labels": ("labels", "places", True),
}
# A small share of image tasks: with equal shares the gap closes (78% from text, 73% from the image
# after 4,500 steps).
MIXTURE = {
    "full-text": 0.62,
    "image-only": 0.13,
    "text-only": 0.12,
    "transcribe": 0.04,
    "paper full-text": 0.06,
    "paper image-only": 0.03,
}


@dataclass(frozen=True)
class Plan:
    """The plan of the data and the training.

    It is written to `plan.json`; a folder made with another plan is refused.

    Attributes:
        family: Of the problems: `geometry` or `charts`.
        arch: Architecture of the model, of `CELLS`.
        problems: Training problems.
        seed: Of the data, the weights and the batches. Held-out problems come from the generator's
            test split.
        levels: Difficulties.
        glyph_steps: Steps of the phase `glyphs`.
        glyph_lr: Its highest learning rate.
        mixture_steps: Steps of the phase `mixture`.
        mixture_lr: Its highest learning rate.
        batch: Rows a step.
        warmup: Steps of warm-up of both phases.
        marks_weight: Weight of the head's loss in the mixture.
        mixture: Task -> weight.
        fade: Share of the mixture's steps over which the listing of labels fades from half to 4% of
            the rows.
    """

    family: str = "geometry"
    arch: str = "qwen2.5-vl"
    problems: int = 200_000
    seed: int = 1
    levels: tuple[int, ...] = (1, 2, 3)
    glyph_steps: int = 700
    glyph_lr: float = 1.5e-3
    mixture_steps: int = 3500
    mixture_lr: float = 1e-3
    batch: int = 256
    warmup: int = 150
    marks_weight: float = 0.1
    mixture: dict[str, float] = field(default_factory=lambda: dict(MIXTURE))
    fade: float = 0.4

    @property
    def cell(self) -> int:
        """Pixels of a merged token."""
        return CELLS[self.arch]

    def make(self, seed: int, index: int, split: str = "train") -> SyntheticProblem:
        """A problem of the plan's family and levels."""
        from modgap.datasets.synthetic.families import FAMILIES

        return FAMILIES[self.family].make(seed, index, split, self.levels)


def say(text: str) -> None:
    """Print a line of progress."""
    show(text, error=True)


def to_problem(made: SyntheticProblem, name: str, split: str, index: int) -> Problem:
    """A synthetic problem as a `Problem`."""
    r: Any = made.record
    return Problem(
        id=name,
        question=r["text"],
        answer=r["answer"],
        image=made.png,
        structural=tuple(r["parsing_stru_seqs"]),
        semantic=tuple(r["parsing_sem_seqs"]),
        type=r["type"],
        split=split,
        index=index,
        solution=made.solution,
    )


def marks_of(made: SyntheticProblem, side: int = CELL) -> list[int]:
    """The head's targets: token * N_MARKS + feature, for each character and each point.

    Args:
        made: The problem.
        side: Pixels of a merged token.
    """
    from modgap.datasets.synthetic.draw import font

    def cell(x: float, y: float) -> tuple[int, float, float]:
        x, y = min(max(x, 0), SIDE - 1), min(max(y, 0), SIDE - 1)
        token = int(y // side) * (SIDE // side) + int(x // side)
        return token, (x % side) / side, (y % side) / side

    codes: list[int] = []
    for label in made.labels:
        ends = [font().getlength(label.text[:i]) for i in range(len(label.text) + 1)]
        for i, character in enumerate(label.text):
            if character not in CHARACTERS:
                continue
            x = label.x + label.w * (ends[i] + ends[i + 1]) / 2 / ends[-1]
            token, across, down = cell(x, label.y + label.h / 2)
            slot = int(down * 2) * 4 + int(across * 4)
            codes.append(token * N_MARKS + slot * len(CHARACTERS) + CHARACTERS.index(character))
    for name, (x, y) in made.pixels.items():
        if len(name) == 1 and name in ascii_uppercase:  # not the end of a bar
            token, across, down = cell(x, y)
            patch = int(down * 2) * 2 + int(across * 2)
            first = SLOTS * len(CHARACTERS) + patch * len(ascii_uppercase)
            codes.append(token * N_MARKS + first + ascii_uppercase.index(name))
    return sorted(set(codes))


def places_of(made: SyntheticProblem, side: int = CELL) -> str:
    """`label column row` of every text in patches (half of `side`), in reading order.

    A point's place is its vertex.
    """
    entries: list[tuple[int, int, str]] = []
    for label in made.labels:
        x, y = label.x + label.w / 2, label.y + label.h / 2
        if label.kind == "point":
            x, y = made.pixels.get(label.text, (x, y))
        entries.append((int(y // (side // 2)), int(x // (side // 2)), label.text))
    return ", ".join(f"{text} {column} {row}" for row, column, text in sorted(entries))


def texts_of(made: SyntheticProblem, side: int = CELL) -> dict[str, Prompt | str]:
    """All sequences of a problem: prompts, and targets as plain text; `side` as in `marks_of`."""
    problem = to_problem(made, "", "train", 0)
    out: dict[str, Prompt | str] = {
        name: evaluation_prompt(problem, view, "paper" if style == "paper" else "aligned")
        for name, (view, style) in PROMPTS.items()
    }
    return {
        **out,
        "labels": Prompt(LABELS_REQUEST),
        "solution": made.solution,
        "places": places_of(made, side),
    }


def _corpus_texts(plan: Plan, n: int) -> Iterator[str]:
    for index in range(n):
        for text in texts_of(plan.make(plan.seed, index), plan.cell).values():
            yield text.text if isinstance(text, Prompt) else text


_worker: dict[str, Any] = {}


def _start_worker(folder: Path, images: Path, plan: Plan) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _worker.update(encoder=_encoder(folder), images=np.load(images, mmap_mode="r+"), plan=plan)


def _encoder(folder: Path) -> Encoder:
    from transformers import AutoConfig, AutoTokenizer

    from modgap.models.encode import Encoder

    return Encoder(AutoTokenizer.from_pretrained(folder), None, AutoConfig.from_pretrained(folder))


def _make_chunk(span: tuple[int, int]) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """The problems of a span.

    Returns:
        Their marks, their tokens one after the other, and the lengths `[n, sequences]`.
    """
    from modgap.core.images import decode

    encoder, plan = _worker["encoder"], _worker["plan"]
    marks: list[np.ndarray] = []
    tokens: list[int] = []
    lengths = np.zeros((span[1] - span[0], len(NAMES)), np.int32)
    end = encoder.tokenizer.eos_token_id
    for row, index in enumerate(range(*span)):
        made = plan.make(plan.seed, index)
        _worker["images"][index] = np.asarray(decode(made.png).convert("L"))
        marks.append(np.array(marks_of(made, plan.cell), np.int32))
        texts = texts_of(made, plan.cell)
        for column, name in enumerate(NAMES):
            text = texts[name]
            if isinstance(text, Prompt):
                ids = encoder.tokens(text, (SIDE // plan.cell) ** 2)
            else:
                ids = [*encoder.tokenizer(text, add_special_tokens=False)["input_ids"], end]
            tokens += ids
            lengths[row, column] = len(ids)
    return marks, np.array(tokens, np.int16), lengths


def make_data(out: Path, plan: Plan, workers: int, size: Size | None = None) -> None:
    """Write the base model with random weights (`base/`), `images.npy` and `corpus.npz`."""
    from modgap.testbed.build import build_tiny

    if (out / "corpus.npz").exists():
        return
    begun = time.monotonic()
    corpus = _corpus_texts(plan, min(plan.problems, 1500))
    base = build_tiny(out / "base", corpus, plan.seed, size, plan.arch)
    images = out / "images.npy"
    shape = (plan.problems, SIDE, SIDE)
    np.lib.format.open_memmap(images, mode="w+", dtype=np.uint8, shape=shape).flush()
    chunk = max(1, min(500, plan.problems // workers))
    spans = [(at, min(at + chunk, plan.problems)) for at in range(0, plan.problems, chunk)]
    marks: list[np.ndarray] = []
    tokens: list[np.ndarray] = []
    lengths: list[np.ndarray] = []
    start = (base, images, plan)
    if workers > 1:
        parts = spread(_make_chunk, spans, workers, _start_worker, start)
    else:
        _start_worker(*start)
        parts = map(_make_chunk, spans)
    for number, part in enumerate(parts):
        doing(f"data: {spans[number][1]:,} of {plan.problems:,} problems")
        marks += part[0]
        tokens.append(part[1])
        lengths.append(part[2])
        if number % 50 == 49:
            say(
                f"data: {spans[number][1]} of {plan.problems} problems,"
                f" {time.monotonic() - begun:.0f} s"
            )
    padded = np.full((len(marks), max(map(len, marks))), -1, np.int32)
    for row, codes in enumerate(marks):
        padded[row, : len(codes)] = codes
    ends = np.cumsum(np.concatenate(lengths).ravel(), dtype=np.int64)
    temporary = out / "corpus.part.npz"
    np.savez(
        temporary,
        marks=padded,
        tokens=np.concatenate(tokens),
        ends=ends.reshape(len(marks), len(NAMES)),
    )
    temporary.replace(out / "corpus.npz")
    say(
        f"data: {plan.problems} problems in {time.monotonic() - begun:.0f} s, {ends[-1] / 1e6:.1f}"
        " M tokens"
    )


def load_data(out: Path, policy: Policy) -> Corpus:
    """The training data on the model's device."""
    import torch

    from modgap.testbed.train import Corpus

    arrays = np.load(out / "corpus.npz")
    device = policy.device
    ends = arrays["ends"]
    before = np.concatenate(([0], ends.ravel()[:-1])).reshape(ends.shape)
    start = np.concatenate((before, ends[:, -1:]), axis=1)
    flat = torch.from_numpy(arrays["tokens"]).to(device)
    first = flat[: int(ends[0, 0])].tolist()
    images = np.load(out / "images.npy", mmap_mode="r")
    on_device = torch.empty(images.shape, dtype=torch.uint8, device=device)
    for at in range(0, len(images), 10_000):
        on_device[at : at + 10_000] = torch.from_numpy(np.array(images[at : at + 10_000])).to(
            device
        )
    return Corpus(
        images=on_device,
        marks=torch.from_numpy(arrays["marks"]).to(device),
        n_marks=N_MARKS,
        flat=flat,
        start=torch.from_numpy(start).to(device),
        names=NAMES,
        tasks=TASKS,
        image_at=first.index(policy.model.config.image_token_id),
    )
