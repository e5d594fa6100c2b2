"""Checkpoints with LoRA: what the adapters learned is there for whoever loads them, in whatever
type.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration

from modgap.core.engine import Completion, Request, Sampling
from modgap.core.errors import UserError
from modgap.core.prompt import Prompt
from modgap.engines import vllm
from modgap.engines.hf import HfEngine
from modgap.engines.vllm_start import adapter_arguments
from modgap.models.fingerprint import model_fingerprint
from modgap.models.folder import ADAPTER
from modgap.models.load import check_model, load_policy
from modgap.models.lora import merge_adapter, read_adapter, write_without_adapter
from modgap.models.policy import Policy
from modgap.testbed.build import Size, build_tiny
from modgap.training.verl import merge

SIZE = Size(
    text_width=128, text_layers=2, text_mlp=192, vision_width=128, vision_layers=2, vision_mlp=160
)
IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (224, 224, 3), dtype=np.uint8))
SCALE = 2e-4  # of B: a hundredth of the weights' own, as after some hundred steps at 1e-6


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In bf16, as real models are."""
    folder = build_tiny(
        tmp_path_factory.mktemp("models") / "fp32", ["Find AB = 12."] * 4, seed=1, size=SIZE
    )
    return load_policy(folder, device="cpu").save(folder.with_name("tiny"), torch.bfloat16)


def learn(policy: Policy, seed: int = 5) -> Policy:
    """Give the adapters that are trained what a training would: a small B."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
                if "lora_B" in name:
                    parameter.copy_(SCALE * torch.randn(parameter.shape, generator=rng))
    return policy


@pytest.fixture(scope="module")
def trained(tiny: Path) -> Policy:
    return learn(load_policy(tiny, device="cpu", dtype="bfloat16", lora=4))


@pytest.fixture(scope="module")
def checkpoint(trained: Policy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained.save(tmp_path_factory.mktemp("run") / "step_1")


def logits(model: Policy | Any, tokenizer_of: Policy) -> Tensor:
    """Of a plain call of transformers' model, whatever is injected into it."""
    prompt = tokenizer_of.encode(Prompt("Find AB."), IMAGE)
    model = model.model if isinstance(model, Policy) else model
    ids = torch.cat((prompt.input_ids, torch.arange(20, 60)))[None]
    with torch.no_grad():
        return model(
            input_ids=ids,
            pixel_values=prompt.pixel_values,
            image_grid_thw=prompt.image_grid_thw,
            mm_token_type_ids=(ids == tokenizer_of.model.config.image_token_id).int(),
        ).logits[0, len(prompt) - 1 :]


def exact(model: Policy | Any, like: Policy) -> Tensor:
    """Its logits computed in fp32: of two models that are the same, no rounding of activations
    makes a difference.
    """
    model = model.model if isinstance(model, Policy) else model
    return logits(copy.deepcopy(model).float(), like)


def lost(loaded: Policy | Any, trained: Policy, base: Policy) -> float:
    """The part of what training changed in the logits that is absent or different, by norm."""
    learned, found = (exact(one, base) - exact(base, base) for one in (trained, loaded))
    return float((found - learned).norm() / learned.norm())


@pytest.fixture(scope="module")
def base(tiny: Path) -> Policy:
    return load_policy(tiny, device="cpu", dtype="bfloat16")


def with_peft(folder: Path) -> Any:
    """As vLLM has it: the model without the adapter, and the adapter by PEFT."""
    from peft import PeftModel

    plain = folder.with_name("plain")
    write_without_adapter(folder, plain, torch.bfloat16)
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(plain)
    assert model.dtype == torch.bfloat16
    return PeftModel.from_pretrained(model, folder / ADAPTER)


LOADERS: dict[str, Callable[[Path], Any]] = {
    "hf on a CPU": lambda folder: load_policy(folder, device="cpu"),
    "hf in bf16": lambda folder: load_policy(folder, device="cpu", dtype="bfloat16"),
    "the next stage in fp32": lambda folder: load_policy(folder, device="cpu", lora=2),
    "the next stage in bf16": lambda folder: load_policy(
        folder, device="cpu", dtype="bfloat16", lora=8
    ),
    "the next stage without LoRA": lambda folder: load_policy(
        folder, device="cpu", dtype="float32"
    ),
    "transformers": Qwen2_5_VLForConditionalGeneration.from_pretrained,
    "base and adapter": with_peft,
}


@pytest.mark.parametrize("loader", LOADERS)
def test_nothing_that_was_learned_is_lost(
    loader: str, checkpoint: Path, trained: Policy, base: Policy
) -> None:
    assert lost(LOADERS[loader](checkpoint), trained, base) < 1e-3


def test_merged_into_bf16_much_of_it_is_lost(
    checkpoint: Path, trained: Policy, base: Policy, tmp_path: Path
) -> None:
    """Why there is an adapter; and that this file would see it."""
    rounded = trained.save(tmp_path / "rounded", torch.bfloat16)
    assert not (rounded / ADAPTER).exists()
    for folder in (
        rounded,
        shutil.copytree(checkpoint, tmp_path / "alone", ignore=shutil.ignore_patterns(ADAPTER)),
    ):
        assert lost(load_policy(folder, device="cpu", dtype="bfloat16"), trained, base) > 0.3


def test_in_the_type_it_was_trained_in_it_is_the_same_to_the_bit(
    checkpoint: Path, trained: Policy, base: Policy
) -> None:
    again = load_policy(checkpoint, device="cpu", dtype="bfloat16")
    next_stage = load_policy(checkpoint, device="cpu", dtype="bfloat16", lora=3)
    assert torch.equal(logits(again, base), logits(trained, base))
    assert torch.equal(logits(next_stage, base), logits(trained, base)), (
        "a new adapter begins with nothing"
    )
    assert not torch.equal(logits(base, base), logits(trained, base))
    ours, theirs = again.model.state_dict(), base.model.state_dict()
    assert all(
        torch.equal(ours[name.replace("_proj.weight", "_proj.base_layer.weight")], value)
        for name, value in theirs.items()
        if "language_model.layers" in name and name.endswith("_proj.weight")
    )
    trainable = {name for name, p in next_stage.model.named_parameters() if p.requires_grad}
    assert trainable and all("lora_" in name and ".default." in name for name in trainable)


def test_greedy_answers_are_those_of_the_policy(checkpoint: Path, trained: Policy) -> None:
    asked = [
        Request(f"p{n}", "image-only", Prompt(f"Find AB = {n}."), lambda: IMAGE, (0,))
        for n in range(6)
    ]
    greedy = Sampling(temperature=0.0, max_tokens=12)

    def said(policy: Policy) -> dict[str, str]:
        return {c.request.problem_id: c.text for c in HfEngine(policy).generate(asked, greedy)}

    assert said(load_policy(checkpoint, device="cpu", dtype="bfloat16")) == said(trained)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_stages_add_up(dtype: str, checkpoint: Path, base: Policy, tmp_path: Path) -> None:
    """Three stages with adapters of other ranks each; the last one without."""
    at, total = checkpoint, 4
    for rank in (2, 5):
        policy = learn(load_policy(at, device="cpu", dtype=dtype, lora=rank), seed=rank)
        at, total = policy.save(tmp_path / f"rank{rank}"), total + rank
        for loader in ("hf in bf16", "transformers"):
            assert lost(LOADERS[loader](at), policy, base) < 1e-3
        assert next(iter(read_adapter(at / ADAPTER).values()))[0].shape[0] == total
    whole = load_policy(at, device="cpu", dtype="float32")
    assert not (whole.save(tmp_path / "whole") / ADAPTER).exists()
    assert lost(load_policy(tmp_path / "whole", device="cpu"), whole, base) < 1e-6
    whole.save(at)  # over a checkpoint with an adapter
    assert not (at / ADAPTER).exists()


def test_the_fingerprint_changes_with_the_adapter(checkpoint: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(checkpoint, tmp_path / "copy")
    assert model_fingerprint(copied) == model_fingerprint(checkpoint)
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        before = model_fingerprint(copied)
        data = bytearray((copied / ADAPTER / name).read_bytes())
        data[-3] ^= 1
        (copied / ADAPTER / name).write_bytes(data)
        assert model_fingerprint(copied) != before


def test_whatever_the_adapter_it_is_the_model_that_the_weights_are(
    checkpoint: Path, trained: Policy, base: Policy, tmp_path: Path
) -> None:
    """It is taken out and put back: another's changes only the rounding."""
    other = shutil.copytree(checkpoint, tmp_path / "other")
    path = other / ADAPTER / "adapter_model.safetensors"
    save_file(
        {name: torch.randn_like(value) * 1e-3 for name, value in load_file(path).items()}, path
    )
    assert torch.equal(
        exact(load_policy(other, device="cpu"), base),
        exact(load_policy(checkpoint, device="cpu"), base),
    )
    assert lost(load_policy(other, device="cpu", dtype="bfloat16"), trained, base) > 1e-3
    assert torch.allclose(
        exact(load_policy(other, device="cpu", dtype="bfloat16"), base),
        exact(trained, base),
        atol=0.02,
    )


def edited(**changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / ADAPTER / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return edit


def tensors(change: Callable[[str, Tensor], tuple[str, Tensor]]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / ADAPTER / "adapter_model.safetensors"
        save_file(dict(change(name, value) for name, value in load_file(path).items()), path)

    return edit


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (edited(use_dora=True), "cannot be merged here .use_dora=True"),
        (edited(lora_alpha=0), "cannot be merged here .lora_alpha=0"),
        (edited(modules_to_save=["lm_head"]), "cannot be merged here .modules_to_save"),
        (tensors(lambda n, t: (n.replace("layers", "blocks"), t)), "changes .*blocks"),
        (tensors(lambda n, t: (n, t[:, :-1].contiguous() if "lora_A" in n else t)),
         "does not fit .* its layers"),
        (tensors(lambda n, t: (n.replace(".layers.1.", ".layers.7."), t)),
         "does not fit .*layers.7.*absent"),
        (lambda f: (f / ADAPTER / "adapter_model.safetensors").unlink(), "cannot be read"),
        (lambda f: (f / ADAPTER / "adapter_config.json").write_text("{"), "cannot be read"),
    ],
)  # fmt: skip
def test_a_damaged_adapter_is_named(
    fault: Callable[[Path], None], words: str, checkpoint: Path, tmp_path: Path
) -> None:
    damaged = shutil.copytree(checkpoint, tmp_path / "damaged")
    fault(damaged)
    for load in (
        lambda: check_model(damaged),
        lambda: write_without_adapter(damaged, tmp_path / "plain", torch.bfloat16),
    ):
        with pytest.raises(UserError, match=words) as error:
            load()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("scaling", ["alpha", "rslora"])
def test_an_adapter_of_others_is_merged_into_its_model(
    scaling: str, tiny: Path, base: Policy, trained: Policy, checkpoint: Path, tmp_path: Path
) -> None:
    """As verl's merger leaves it: the model that was started from, and `lora_adapter/` with a
    scaling of its own.
    """
    adapter = tmp_path / "lora_adapter"
    shutil.copytree(checkpoint / ADAPTER, adapter)
    config = json.loads((adapter / "adapter_config.json").read_text())
    own = (
        {"lora_alpha": 8} if scaling == "alpha" else {"lora_alpha": 8, "use_rslora": True}
    )  # times 2, times 4
    (adapter / "adapter_config.json").write_text(
        json.dumps({**config, **own, "target_modules": ["q_proj"]})
    )
    path = adapter / "adapter_model.safetensors"
    times = 2 if scaling == "alpha" else 4
    save_file({n: v / times if "lora_B" in n else v for n, v in load_file(path).items()}, path)
    out = tmp_path / "merged"
    merge_adapter(tiny, adapter, out)
    check_model(out)
    for dtype in ("float32", "bfloat16"):
        assert lost(load_policy(out, device="cpu", dtype=dtype), trained, base) < 1e-3


def test_what_verl_trained_with_lora_is_in_what_is_converted(
    tiny: Path,
    base: Policy,
    trained: Policy,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """verl's own merger, which is not here, leaves the model that was started from and the adapter
    below it.
    """

    def verls_merger(command: list[str], log: Path, environment: object) -> int:
        target = Path(command[command.index("--target_dir") + 1])
        shutil.copytree(tiny, target)
        shutil.copytree(checkpoint / ADAPTER, target / "lora_adapter")
        log.touch()
        return 0

    monkeypatch.setattr(merge, "require", lambda: None)
    monkeypatch.setattr(merge, "watched", verls_merger)
    actor = tmp_path / "global_step_3" / "actor"
    (actor / "huggingface").mkdir(parents=True)
    (actor / "huggingface" / "config.json").touch()
    torch.save({}, actor / "model_world_size_1_rank_0.pt")
    with pytest.raises(UserError, match="the adapter of a LoRA training"):
        merge.merge(tmp_path, tmp_path / "out")
    out = merge.merge(tmp_path, tmp_path / "out", merge_adapter=merge_adapter)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["global_step_3", "out"]
    assert not (out / "lora_adapter").exists() and "LoRA merged" in (out / "README.md").read_text()
    check_model(out)
    assert lost(load_policy(out, device="cpu", dtype="bfloat16"), trained, base) < 1e-3


# vLLM


class Started:
    """Stands for `VllmEngine`: what it would have been started on."""

    def __init__(
        self, folder: Path, *, pixels: Any, args: Sequence[str], adapter: Path | None = None
    ) -> None:
        self.folder, self.adapter = folder, adapter
        self.state = load_file(folder / "model.safetensors")
        self.config = json.loads((folder / "config.json").read_text())


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm, "VllmEngine", Started)


def test_vllm_gets_the_model_without_the_adapter_and_the_adapter(
    started: None, checkpoint: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    engine: Any = vllm.load_engine(checkpoint)
    before = load_file(tiny / "model.safetensors")
    assert engine.state.keys() == before.keys()
    assert all(torch.equal(engine.state[name], before[name]) for name in before)
    assert engine.adapter == checkpoint / ADAPTER and engine.config["dtype"] == "bfloat16"
    assert adapter_arguments(engine.folder, engine.adapter, {}) == {
        "enable_lora": True,
        "max_loras": 1,
        "max_lora_rank": 8,
    }
    left = {path.name for path in engine.folder.iterdir()}
    assert (
        "tokenizer.json" in left
        and "chat_template.jinja" in left
        and "model.safetensors" not in left
    )
    del engine
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_vllm_in_another_type(dtype: str, started: None, checkpoint: Path) -> None:
    engine: Any = vllm.load_engine(checkpoint, args=[f"dtype={dtype}"])
    if dtype == "float32":  # exact as it is
        assert engine.folder == checkpoint and engine.adapter is None
        assert adapter_arguments(checkpoint, None, {"dtype": dtype}) == {}
    else:
        assert engine.state["model.embed_tokens.weight"].dtype == torch.float16
        with pytest.raises(UserError, match=r"vllm\.load_engine"):
            adapter_arguments(checkpoint, None, {"dtype": dtype})


def test_other_models_go_to_vllm_as_they_are(started: None, tiny: Path) -> None:
    engine: Any = vllm.load_engine(tiny)
    assert (
        engine.folder == tiny and engine.adapter is None and adapter_arguments(tiny, None, {}) == {}
    )


def test_ranks_that_vllm_has_not(checkpoint: Path, tmp_path: Path) -> None:
    adapter = shutil.copytree(checkpoint / ADAPTER, tmp_path / ADAPTER)
    config = json.loads((adapter / "adapter_config.json").read_text())
    for rank, most in ((1, 8), (16, 16), (17, 32), (129, 256), (512, 512)):
        (adapter / "adapter_config.json").write_text(json.dumps({**config, "r": rank}))
        assert adapter_arguments(tmp_path, adapter, {})["max_lora_rank"] == most
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "r": 513}))
    with pytest.raises(UserError, match=r"rank 513 together.*dtype=float32"):
        adapter_arguments(tmp_path, adapter, {})


@pytest.mark.slow
@pytest.mark.gpu
@pytest.mark.timeout(900)
def test_vllm_answers_as_the_adapters_did(tmp_path: Path) -> None:
    """On a GPU in bf16: an adapter that changes many greedy answers, by vLLM and by `hf`; the base
    by vLLM.
    """
    pytest.importorskip("vllm", reason="vLLM is not installed: pip install 'modgap[vllm]'")
    from modgap.core.prompt import evaluation_prompt
    from modgap.datasets.synthetic import write_dataset
    from modgap.workflows.problems import read_problems

    policy = load_policy("tiny", device="cuda", lora=8)
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(3e-2 * torch.randn(parameter.shape, generator=rng))
    folder = policy.save(tmp_path / "checkpoint")
    write_dataset(tmp_path / "data", train=2, test=60, seed=3)
    asked = [
        Request(p.id, view, evaluation_prompt(p, view), p.open_image, (0,))
        for p in read_problems("synthetic", tmp_path / "data")
        for view in ("full-text", "image-only")
    ]
    greedy = Sampling(temperature=0.0, max_tokens=80)

    def said(engine: Any) -> dict[tuple[str, str], Completion]:
        return {(c.request.problem_id, c.request.view): c for c in engine.generate(asked, greedy)}

    answers = {
        "policy": said(HfEngine(policy)),
        "hf": said(HfEngine(load_policy(folder, device="cuda"))),
    }
    args = [
        "enforce_eager=true",
        "max_num_seqs=32",
        "max_model_len=2048",
        "gpu_memory_utilization=0.3",
    ]
    for name, path in (("vllm", folder), ("base", load_policy("tiny").source)):
        assert path is not None
        engine: Any = vllm.load_engine(path, args=args)
        answers[name] = said(engine)
        engine.close()
    same = {
        name: sum(one[key].text == answers["policy"][key].text for key in one) / len(asked)
        for name, one in answers.items()
    }
    print(same)
    assert same["hf"] >= 0.9 and same["vllm"] >= 0.85 and same["base"] <= 0.7
