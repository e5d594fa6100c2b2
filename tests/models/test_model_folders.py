"""Folders of models: which are whole, what names them, and when memory runs out."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from asking import evaluate_model
from safetensors.torch import save_file
from tiny_models import TEXT, picture
from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration

from modgap.core.engine import Request, Sampling
from modgap.core.errors import UserError
from modgap.core.options import EvalOptions
from modgap.core.problem import Problem
from modgap.core.prompt import Prompt
from modgap.engines.hf import HfEngine
from modgap.models import fingerprint
from modgap.models.decode import Generated
from modgap.models.encode import EncodedPrompt
from modgap.models.fingerprint import model_fingerprint
from modgap.models.load import check_folder, check_model, load_policy, resolve
from modgap.models.policy import Policy


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saved_models_load_bit_equal(policy: Policy, tmp_path: Path, dtype: torch.dtype) -> None:
    saved = policy.save(tmp_path / "saved", dtype=dtype)
    plain = Qwen2_5_VLForConditionalGeneration.from_pretrained(saved)
    again = load_policy(saved, device="cpu", dtype=dtype)
    assert plain.dtype == dtype
    for (name, a), b, c in zip(
        policy.model.state_dict().items(),
        plain.state_dict().values(),
        again.model.state_dict().values(),
        strict=True,
    ):
        assert torch.equal(a.to(dtype), b) and torch.equal(b, c), name
    assert AutoTokenizer.from_pretrained(saved).get_vocab() == policy.tokenizer.get_vocab()
    prompt = again.encode(Prompt(TEXT), picture(224, 224, 0))
    assert torch.equal(
        prompt.input_ids, policy.encode(Prompt(TEXT), picture(224, 224, 0)).input_ids
    )
    assert (again.default_temperature, again.default_max_new_tokens) == (0.6, 256)
    assert model_fingerprint(saved) == model_fingerprint(
        policy.save(tmp_path / "twin", dtype=dtype)
    )


def test_bad_models_are_named_in_one_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "model_type": "llama"}))
    empty = tmp_path / "empty"
    empty.mkdir()
    for act, words in (
        (lambda: check_folder(other), "llama"),
        (lambda: check_folder(empty), "config.json"),
        (lambda: resolve("no_such_model"), "qwen2_5_vl_3b"),
        (lambda: resolve("modelscope:a/b"), r"pip install .*\[modelscope\]"),
        (lambda: load_policy(folder, dtype="float99"), "float99"),
        (lambda: load_policy(folder, device="cpu").encode(Prompt("x")), "none is given"),
    ):
        with pytest.raises(UserError, match=words) as error:
            act()
        assert "\n" not in str(error.value)


def test_a_folder_as_transformers_5_saves_it_is_a_whole_model(folder: Path, tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    shutil.copytree(folder, saved)
    processor = json.loads((saved / "preprocessor_config.json").read_text())
    (saved / "preprocessor_config.json").unlink()
    (saved / "processor_config.json").write_text(json.dumps({"image_processor": processor}))
    policy, before = load_policy(saved, device="cpu"), model_fingerprint(saved)
    assert policy.encode(Prompt("x"), picture(224, 224, 0)).grid == (1, 16, 16)
    (saved / "processor_config.json").write_text(
        json.dumps({"image_processor": {**processor, "patch_size": 28}})
    )
    assert model_fingerprint(saved) != before


def test_fingerprint_changes_with_the_weights(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    assert model_fingerprint(copy) == model_fingerprint(folder)
    weights = next(copy.glob("*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert model_fingerprint(copy) != model_fingerprint(folder)


@pytest.mark.parametrize("changed", ["a", "b", "c"])
def test_the_fingerprint_of_large_weights_sees_every_tensor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    monkeypatch.setattr(fingerprint, "_HASH_WHOLE", 1000)
    tensors = {name: torch.zeros(40_000, dtype=torch.bfloat16) for name in "abc"}
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
        weights = tensors | (
            {changed: torch.ones(40_000, dtype=torch.bfloat16)} if name == "three" else {}
        )
        save_file(weights, tmp_path / name / "model.safetensors")
    one, two, three = (model_fingerprint(tmp_path / name) for name in ("one", "two", "three"))
    assert one == two != three


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model-00001-of-00002.bin"])
@pytest.mark.parametrize("place", [0, 100_000, 199_999])
def test_a_large_file_that_is_no_safetensors_has_a_fingerprint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, place: int
) -> None:
    monkeypatch.setattr(fingerprint, "_HASH_WHOLE", 1000)
    path, data = tmp_path / name, bytearray(b"\xff" * 200_000)
    path.write_bytes(data)
    before = model_fingerprint(tmp_path)
    data[place] = 0
    path.write_bytes(data)
    assert model_fingerprint(tmp_path) != before


@pytest.mark.parametrize("stages", [[""], ["stage1", "stage2", "stage10"]])
def test_a_training_run_given_as_a_model_names_its_checkpoint(
    tmp_path: Path, stages: list[str]
) -> None:
    for stage in stages:
        (tmp_path / stage / "checkpoints" / "best").mkdir(parents=True)
    best = tmp_path / stages[-1] / "checkpoints" / "best"
    with pytest.raises(UserError, match=f"is a training run.*{best}$"):
        check_folder(tmp_path)


@pytest.mark.parametrize(
    ("lacks", "has", "words"),
    [
        ("config.json", "adapter_config.json", "is a LoRA adapter.*merge it into its base model"),
        ("config.json", "model_world_size_8_rank_0.pt", "is a checkpoint of verl.*modgap convert"),
        (
            "config.json",
            "global_step_5/actor/model_world_size_8_rank_0.pt",
            "is a checkpoint of verl.*modgap convert",
        ),
        ("config.json", "notes.txt", "holds no model"),
        (
            "tokenizer.json",
            "chat_template.jinja",
            "has no tokenizer.*copy all that is not weights from the base model",
        ),
        (
            "preprocessor_config.json",
            "",
            "has no image processor.*copy all that is not weights from the base model",
        ),
    ],
)
def test_what_a_trainer_left_that_is_no_whole_model_is_named_with_what_to_do(
    folder: Path, tmp_path: Path, lacks: str, has: str, words: str
) -> None:
    left = tmp_path / "left"
    shutil.copytree(folder, left)
    (left / lacks).unlink()
    if has:
        (left / has).parent.mkdir(parents=True, exist_ok=True)
        (left / has).touch()
    asked = EvalOptions(views="question-only")
    with pytest.raises(UserError, match=f"{left} {words}") as error:
        evaluate_model(
            [Problem(id="p", question="What is 1?", answer="1")], left, tmp_path / "run", asked
        )
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists(), (
        "before anything is loaded or written"
    )


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "mps", "meta", "cpu:x", ""])
def test_a_device_that_is_none_is_named_with_the_choices(folder: Path, device: str) -> None:
    with pytest.raises(
        UserError, match=f"device '{device}' is not available here.*choose from cpu"
    ):
        load_policy(folder, device=device)


class Cramped:
    """A policy with memory for so many rows; remembers what it was asked for."""

    def __init__(self, rows: int) -> None:
        self.rows, self.asked, self.nested = rows, [], False

    def encode(self, prompt: Prompt, image: object) -> EncodedPrompt:
        ids = torch.arange(len(prompt.text))
        return EncodedPrompt(ids, ids, len(ids))

    def keeping_features(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def generate(
        self, prompts: object, seeds: list[list[int]], temperature: float, max_new_tokens: int
    ) -> object:
        self.nested |= sys.exc_info()[0] is not None
        self.asked.append(sum(map(len, seeds)))
        if self.asked[-1] > self.rows:
            raise torch.OutOfMemoryError("made up")
        return [
            [Generated(torch.arange(3), str(seed), "stop", torch.zeros(3)) for seed in group]
            for group in seeds
        ]


@pytest.mark.parametrize("rows", [pytest.param(1, marks=pytest.mark.slow), 3, 5, 16])
def test_out_of_memory_splits_until_it_fits_and_loses_no_sample(rows: int) -> None:
    asked = [
        Request(f"p{n}", "text-only", Prompt("x" * n, has_image=False), None, tuple(range(5)))
        for n in range(1, 9)
    ]
    policy = Cramped(rows)
    made = list(HfEngine(policy, batch_size=64).generate(asked, Sampling(seed=3)))
    whole = list(HfEngine(Cramped(64), batch_size=64).generate(asked, Sampling(seed=3)))
    said = {(c.request.problem_id, c.sample): c.text for c in made}
    assert said == {(c.request.problem_id, c.sample): c.text for c in whole}
    assert len(made) == len(whole) == 40
    assert not policy.nested, "a failed call's tensors would live on while the next one runs"


def test_the_batch_size_follows_what_ran_out_of_memory() -> None:
    """20 rows are asked for of a batch size of 1000: once they fail, no batch has more than 10."""
    asked = [
        Request(f"p{n}", "text-only", Prompt("x", has_image=False), None, (0, 1)) for n in range(10)
    ]
    policy = Cramped(10)
    engine = HfEngine(policy, batch_size=1000)
    assert len(list(engine.generate(asked, Sampling()))) == 20
    assert len(list(engine.generate(asked, Sampling()))) == 20
    assert policy.asked[0] == 20 and max(policy.asked[1:]) <= 10


def test_out_of_memory_with_one_response_says_what_helps() -> None:
    request = Request("p7", "text-only", Prompt("x", has_image=False), None, (0,))
    with pytest.raises(UserError, match=r"single response.*p7.*--max-tokens"):
        list(HfEngine(Cramped(0)).generate([request], Sampling()))


@pytest.mark.parametrize("text", ["", "[]", "5", "[" * 100_000, "\xff"])
@pytest.mark.parametrize(
    "name", ["generation_config.json", "preprocessor_config.json", "tokenizer_config.json"]
)
def test_a_damaged_file_of_settings_is_named(
    folder: Path, tmp_path: Path, name: str, text: str
) -> None:
    shutil.copytree(folder, tmp_path / "model")
    (tmp_path / "model" / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=rf"{name} is .*: copy the model again\."):
        check_model(tmp_path / "model")
