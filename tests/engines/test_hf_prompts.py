"""The `hf` engine: prompts are encoded once and ahead, and a refused one costs only itself.

The bundled testbed model on synthetic problems, with transformers' own model as the oracle.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from modgap.core.engine import Request, Sampling
from modgap.core.options import EvalOptions
from modgap.core.problem import Problem
from modgap.core.prompt import Prompt, Style, evaluation_prompt
from modgap.core.view import get_view
from modgap.engines.hf import HfEngine
from modgap.models.decode import Generated
from modgap.models.encode import EncodedPrompt, Patches, pixel_values
from modgap.models.load import load_policy
from modgap.models.policy import Policy


def request(problem: Problem, view: str, samples: int = 1, image: Any = None) -> Request:
    image = (image or problem.open_image) if get_view(view).picture == "own" else None
    words = evaluation_prompt(problem, get_view(view), "aligned")
    return Request(problem.id, view, words, image, tuple(range(samples)))


# ---------------------------------------------------------------------- images


@pytest.mark.parametrize("style", ["paper", "paper-author", "aligned"])
def test_the_originals_pixel_limits_go_with_its_styles(
    style: Style, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modgap.engines.hf.paper_pixels", lambda folder: (7, 9))
    pixels = HfEngine.start("tiny", EvalOptions(style=style)).pixels
    assert (pixels == (7, 9)) == (style != "aligned")


def test_patches_are_the_processors_own_bits(policy: Policy) -> None:
    rng = np.random.default_rng(3)
    patches = Patches(policy.processor)
    shown = [
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        for width, height in ((224, 224), (336, 150), (61, 90), (700, 500))
    ]
    cut = [patches(image) for image in shown]
    out = policy.processor(images=shown, return_tensors="pt")
    assert patches.short
    assert torch.equal(pixel_values(cut), out["pixel_values"])
    assert [list(pixels.grid) for pixels in cut] == out["image_grid_thw"].tolist()


def test_a_processor_of_another_mind_is_obeyed(policy: Policy) -> None:
    processor = type(policy.processor)(**policy.processor.to_dict())
    patches = Patches(processor)
    image = Image.fromarray(
        np.random.default_rng(4).integers(0, 256, (150, 260, 3), dtype=np.uint8)
    )
    for change in (
        {"do_normalize": False},
        {"do_normalize": True},
        {"size": {"shortest_edge": 3136, "longest_edge": 20000}},
    ):
        for name, value in change.items():
            setattr(processor, name, value)
        made, expected = patches(image), processor(images=[image], return_tensors="pt")
        assert patches.short == processor.do_normalize
        assert torch.equal(pixel_values([made, made]), torch.cat([expected["pixel_values"]] * 2))


def test_a_diagram_is_opened_cut_and_seen_once_for_all_views(problems: list[Problem]) -> None:
    policy = load_policy("tiny", device="cpu")
    counts = {"opened": 0, "cut": 0, "seen": 0}
    tower, cutter = policy.visual.merger.forward, policy._encoder._patches

    def opener(problem: Problem) -> Any:
        def opened() -> Image.Image:
            counts["opened"] += 1
            return problem.open_image()

        return opened

    def cut(image: Image.Image) -> Any:
        counts["cut"] += 1
        return cutter(image)

    def seen(x: Tensor) -> Tensor:
        counts["seen"] += x.shape[0] // 256
        return tower(x)

    policy._encoder._patches, policy.visual.merger.forward = cut, seen  # type: ignore[assignment]
    openers = [opener(problem) for problem in problems[:3]]
    asked = [
        request(p, v, 1, o)
        for p, o in zip(problems, openers, strict=False)
        for v in ("full-text", "image-only")
    ]
    # A batch holds two responses of the four that the second window wants.
    made = list(HfEngine(policy, batch_size=2).generate(asked, Sampling(0.0, 4)))
    assert len(made) == 6 and counts == {"opened": 3, "cut": 3, "seen": 3}


# ---------------------------------------------------------------------- the engine


class Slow:
    """A policy that notes who encodes, and may be made to wait."""

    def __init__(self, faulty: str = "", error: type[Exception] = ValueError) -> None:
        self.encoded: list[str] = []
        self.threads: set[str] = set()
        self.generating, self.ahead = threading.Event(), threading.Event()
        self.faulty, self.error = faulty, error

    def encode(self, prompt: Prompt, image: object) -> EncodedPrompt:
        if prompt.text == self.faulty:
            raise self.error(f"cannot read {prompt.text}")
        self.threads.add(threading.current_thread().name)
        self.encoded.append(prompt.text)
        if self.generating.is_set():
            self.ahead.set()
        ids = torch.arange(4)
        return EncodedPrompt(ids, ids, 4)

    def keeping_features(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def generate(self, prompts: Any, seeds: Any, temperature: float, max_new_tokens: int) -> Any:
        self.generating.set()
        return [
            [Generated(torch.arange(2), "x", "stop", torch.zeros(2)) for _ in row] for row in seeds
        ]


def many(count: int) -> list[Request]:
    return [
        Request(f"p{n}", "text-only", Prompt(f"p{n}", has_image=False), None, (0,))
        for n in range(count)
    ]


def encoders() -> list[str]:
    return [
        thread.name for thread in threading.enumerate() if thread.name.startswith("modgap-encode")
    ]


def test_the_next_prompts_are_encoded_while_the_model_works() -> None:
    policy = Slow()
    completions = HfEngine(policy, batch_size=1).generate(many(40), Sampling())
    next(completions)
    assert policy.ahead.wait(20), "nothing was encoded once the model had begun"
    assert len(policy.encoded) < 40, "not more than a window ahead"
    assert sorted(c.request.problem_id for c in completions) == sorted(
        f"p{n}" for n in range(1, 40)
    )
    assert all(name.startswith("modgap-encode") for name in policy.threads) and not encoders()


@pytest.mark.parametrize("ahead", [True, False])
def test_a_prompt_that_is_refused_costs_only_itself(ahead: bool) -> None:
    asked = [replace(one, samples=(0, 2), image_name="the diagram a.png") for one in many(20)]
    made = list(HfEngine(Slow("p12"), batch_size=1, ahead=ahead).generate(asked, Sampling()))
    assert Counter((c.request.problem_id, c.sample) for c in made) == Counter(
        (one.problem_id, sample) for one in asked for sample in one.samples
    )
    failed = [c for c in made if c.finish_reason == "error"]
    assert [(c.request.problem_id, c.sample, c.text) for c in failed] == [
        ("p12", 0, ""),
        ("p12", 2, ""),
    ]
    assert {c.error for c in failed} == {"problem p12, the diagram a.png: cannot read p12"}


@pytest.mark.parametrize("ahead", [True, False])
def test_an_error_that_is_not_a_prompts_own_costs_nothing_that_comes_before_its_window(
    ahead: bool,
) -> None:
    made: list[str] = []
    with pytest.raises(RuntimeError, match=r"^cannot read p12$"):
        for completion in HfEngine(Slow("p12", RuntimeError), batch_size=1, ahead=ahead).generate(
            many(20), Sampling()
        ):
            made.append(completion.request.problem_id)
    assert made == [f"p{n}" for n in range(9)]
    assert not encoders()


def test_a_reader_who_stops_leaves_no_thread() -> None:
    """As Ctrl-C does: the thread ends at once, with most of its window not encoded."""
    policy = Slow()
    entered, going = threading.Event(), threading.Event()
    plain = policy.encode

    def slow(prompt: Prompt, image: object) -> EncodedPrompt:
        if prompt.text == "p5":
            entered.set()
            going.wait(20)
        return plain(prompt, image)

    policy.encode = slow  # type: ignore[method-assign]
    completions = HfEngine(policy, batch_size=1).generate(many(100), Sampling())
    next(completions)
    assert entered.wait(20)
    threading.Timer(0.05, going.set).start()
    with pytest.raises(KeyboardInterrupt):
        completions.throw(KeyboardInterrupt())  # type: ignore[attr-defined]
    assert not encoders() and "p8" not in policy.encoded
