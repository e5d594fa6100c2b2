"""Model folders whose weights do not fit: each is refused in one line before anything is written,
or loads whole.
"""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from asking import evaluate_model
from safetensors.torch import load_file, save_file
from torch import Tensor

from modgap.cli.main import main
from modgap.core.engine import Request, Sampling
from modgap.core.errors import UserError
from modgap.core.options import EvalOptions
from modgap.core.problem import Problem
from modgap.core.prompt import Prompt
from modgap.engines.hf import HfEngine
from modgap.models.load import check_for_vllm, check_model, load_policy
from modgap.models.weights import INDEX
from modgap.testbed.build import Size, build_tiny

State = dict[str, Tensor]
SIZE = Size(
    text_width=128, text_layers=2, text_mlp=192, vision_width=128, vision_layers=2, vision_mlp=160
)
PROBLEM = Problem(id="p", question="What is 1?", answer="1")
FILE = "model.safetensors"
UP = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny(
        tmp_path_factory.mktemp("models") / "tiny", ["Find AB = 12."] * 4, seed=1, size=SIZE
    )


@pytest.fixture
def folder(tiny: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny, tmp_path / "model")


def rewrite(folder: Path, change: Callable[[State], State]) -> None:
    save_file(change(load_file(folder / FILE)), folder / FILE, metadata={"format": "pt"})


def untied(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(
        path.read_text().replace('"tie_word_embeddings": true', '"tie_word_embeddings": false')
    )


def shard(folder: Path, index: bool = True) -> list[Path]:
    """Cut the weights into two files."""
    state = load_file(folder / FILE)
    (folder / FILE).unlink()
    places: dict[str, str] = {}
    for number, names in enumerate((sorted(state)[::2], sorted(state)[1::2]), start=1):
        file = f"model-{number:05}-of-00002.safetensors"
        save_file({name: state[name] for name in names}, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(names, file)
    if index:
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return sorted(folder.glob("model-*.safetensors"))


def named(rule: Callable[[str], str]) -> Callable[[Path], None]:
    return lambda folder: rewrite(
        folder, lambda state: {rule(name): value for name, value in state.items()}
    )


def without(part: str) -> Callable[[Path], None]:
    return lambda folder: rewrite(
        folder, lambda state: {n: v for n, v in state.items() if part not in n}
    )


def also(more: Callable[[State], State]) -> Callable[[Path], None]:
    return lambda folder: rewrite(folder, lambda state: {**state, **more(state)})


def renamed(folder: Path, old: str, new: str) -> None:
    (folder / old).rename(folder / new)


def lacks_a_shard(folder: Path) -> None:
    shard(folder)[1].unlink()


def has_another_shard(folder: Path) -> None:
    """The second file is of a download that stopped early: it has not all that the index says."""
    path = shard(folder)[1]
    state = load_file(path)
    save_file({name: state[name] for name in list(state)[:-2]}, path)


def has_two_sets(folder: Path) -> None:
    whole = (folder / FILE).read_bytes()
    shard(folder)
    (folder / FILE).write_bytes(whole)


def has_another_tokenizer(folder: Path) -> None:
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    rows = load_file(folder / FILE)["model.embed_tokens.weight"].shape[0]
    token = {**tokenizer["added_tokens"][-1], "id": rows, "content": "<|new|>"}
    path.write_text(json.dumps({**tokenizer, "added_tokens": [*tokenizer["added_tokens"], token]}))


def has_its_own_head(folder: Path) -> None:
    rewrite(
        folder, lambda state: {**state, "lm_head.weight": state["model.embed_tokens.weight"] + 1}
    )


def beside(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 8, "lora_alpha": 16}')


def as_bin(folder: Path) -> None:
    torch.save(load_file(folder / FILE), folder / "pytorch_model.bin")
    (folder / FILE).unlink()


def cut_off(folder: Path) -> None:
    data = (folder / FILE).read_bytes()
    (folder / FILE).write_bytes(data[: len(data) // 2])


def has_a_torn_index(folder: Path) -> None:
    shard(folder)
    (folder / INDEX).write_text("[1]")


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "one weight": (
        without(UP),
        r"lacks 1 of the \d+ weights of its model \(.*layers\.1\.mlp\.up_proj\.weight\)",
    ),
    "a layer": (without("layers.1."), r"lacks 12 of the \d+ weights"),
    "the tower": (without("visual"), r"lacks \d+ of the \d+ weights of its model \(model\.visual"),
    "the language model": (without("model.layers"), r"lacks 24 of the"),
    "an untied head": (untied, r"lacks 1 of .*lm_head\.weight"),
    "the embedding": (without("embed_tokens"), r"lacks 2 of .*embed_tokens"),
    "an unknown prefix": (named(lambda n: f"policy.{n}"),
                          r"lacks \d+ of .*not the model's: \d+ in it \(policy\."),
    "flat parameters": (lambda f: rewrite(f, lambda s: {"_flat_param": s[UP].flatten()}),
                        r"lacks .*_flat_param"),
    "other shapes": (lambda f: rewrite(f, lambda s: {**s, UP: s[UP][:-8]}),
                     r"another shape for 1 of its weights .* \(184, 128\)"),
    "two models": (also(lambda s: {f"teacher.{n}": v.clone() for n, v in s.items()}),
                   "not its model's .*teacher"),
    "adapters inside": (
        also(lambda s: {f"base_model.model.{UP[:-7]}.lora_A.default.weight": s[UP].clone()}),
        "LoRA training.*merge",
    ),
    "layers of adapters": (named(lambda n: n.replace("up_proj.", "up_proj.base_layer.")),
                           "LoRA training.*merge"),
    "an adapter beside": (beside, "holds a LoRA adapter beside whole weights"),
    "a shard": (lacks_a_shard, r"lacks 1 of the 2 weight files .*model-00002-of-00002"),
    "a part of a shard": (has_another_shard, r"lacks 2 of the \d+ weights"),
    "the index": (lambda f: shard(f, index=False),
                  r"holds 2 weight files .* but no model\.safetensors\.index"),
    "sense in the index": (has_a_torn_index, "is not an index of weights"),
    "one set": (has_two_sets, "holds two sets of weights"),
    "one set, without an index": (lambda f: (has_two_sets(f), (f / INDEX).unlink()),
                                  "holds two sets of weights"),
    "all but an adapter": (lambda f: (beside(f), (f / FILE).unlink()),
                           "is a LoRA adapter: merge it"),
    "safetensors": (as_bin, r"holds its weights as pytorch_model\.bin"),
    "any": (lambda f: (f / FILE).unlink(), r"holds no weights \(no \*\.safetensors\)"),
    "the usual name": (lambda f: renamed(f, FILE, "model.fp16.safetensors"),
                       r"no weights \(no model\.safetensors"),
    "half of it": (cut_off, "cut off or damaged"),
    "its tokenizer": (has_another_tokenizer,
                      r"the tokenizer in .* has tokens up to \d+, its model only \d+"),
    "a tokenizer": (lambda f: (f / "tokenizer.json").write_text("{}"),
                    "tokenizer in .* cannot be loaded"),
    "tied weights": (
        has_its_own_head,
        "has an lm_head of its own, but its config.json says tie_word_embeddings=true",
    ),
    "one name each": (also(lambda s: {f"module.{UP}": s[UP].clone()}),
                      "holds the same weights twice"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_what_does_not_fit_is_named_before_anything_is_written(
    fault: str, folder: Path, tmp_path: Path
) -> None:
    change, words = FAULTS[fault]
    change(folder)
    asked = EvalOptions(views="question-only", samples=1, max_tokens=4, device="cpu")
    for load in (
        lambda: evaluate_model([PROBLEM], folder, tmp_path / "run", asked),
        lambda: load_policy(folder, "cpu"),
    ):
        with pytest.raises(UserError, match=words) as error:
            load()
        assert "\n" not in str(error.value) and str(folder) in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "fault", ["a layer", "an unknown prefix", "an adapter beside", "a shard", "its tokenizer"]
)
def test_vllm_is_not_started_on_what_does_not_fit(fault: str, folder: Path) -> None:
    change, words = FAULTS[fault]
    change(folder)
    with pytest.raises(UserError, match=words):
        check_for_vllm(folder, {})


def test_what_vllm_reads_by_itself_is_left_to_it(folder: Path) -> None:
    as_bin(folder)
    check_for_vllm(folder, {})
    (folder / "pytorch_model.bin").unlink()
    check_for_vllm(folder, {"load_format": "dummy"})


@pytest.mark.parametrize("command", ["train full-text", "study --recipes full-text"])
def test_training_starts_on_nothing_that_does_not_fit(
    command: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    without("visual")(folder)
    assert (
        main(["data", "synth", "--out", str(tmp_path / "data"), "--train", "4", "--test", "2"]) == 0
    )
    given = [
        "--data",
        str(tmp_path / "data"),
        "--model",
        str(folder),
        "--out",
        str(tmp_path / "run"),
        "--device",
        "cpu",
    ]
    assert main([*command.split(), *given]) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("modgap: ") and "lacks" in said and "model.visual" in said
    assert not (tmp_path / "run").exists()


def new_layout(name: str) -> str:
    """As transformers 5 has them in memory, and TRL and others write them."""
    inner = name.removeprefix("model.")
    return f"model.{name}" if name.startswith("visual") else f"model.language_model.{inner}"


PREFIXES: dict[str, Callable[[str], str]] = {
    "module": lambda n: f"module.{n}",
    "_orig_mod": lambda n: f"_orig_mod.{n}",
    "base_model": lambda n: f"base_model.model.{n}",
    "_fsdp_wrapped_module": lambda n: n.replace("mlp.", "_fsdp_wrapped_module.mlp."),
    "_checkpoint_wrapped_module": lambda n: "_fsdp_wrapped_module." + n.replace(
        ".self_attn.", "._fsdp_wrapped_module._checkpoint_wrapped_module.self_attn."
    ),
    "_orig_mod, base_model, module": lambda n: f"module._orig_mod.base_model.model.{new_layout(n)}",
    "module, pretrained_model": lambda n: f"pretrained_model.module.{n}",
    "_forward_module": lambda n: f"_forward_module.model.{new_layout(n)}",
    "model": lambda n: f"model.{new_layout(n)}",
}  # fmt: skip


@pytest.mark.parametrize("wrappers", PREFIXES)
def test_names_of_wrappers_are_left_out_and_it_is_said(
    wrappers: str, tiny: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named(PREFIXES[wrappers])(folder)
    assert_same(folder, tiny)
    said = capsys.readouterr().err
    assert (
        said.count("\n") == 1
        and all(f"{name}" in said for name in wrappers.split(", "))
        and str(folder) in said
    )
    with pytest.raises(UserError, match="only --engine hf leaves out"):
        check_for_vllm(folder, {})


@functools.cache
def loaded(tiny: Path) -> State:
    """The weights of a model that no test changes."""
    return load_policy(tiny, device="cpu").model.state_dict()


def assert_same(folder: Path, tiny: Path) -> None:
    ours, theirs = load_policy(folder, device="cpu").model.state_dict(), loaded(tiny)
    assert ours.keys() == theirs.keys() and all(
        torch.equal(ours[name], theirs[name]) for name in theirs
    )


LAYOUTS: dict[str, Callable[[Path], object]] = {
    "transformers 5": named(new_layout),
    "shards": shard,
    "an index of one file": (
        lambda f: (f / INDEX).write_text(json.dumps({"weight_map": {UP: FILE}}))
    ),
    "the head as well": also(lambda s: {"lm_head.weight": s["model.embed_tokens.weight"].clone()}),
    "rotary buffers": also(
        lambda s: {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}
    ),
    "others' files": lambda f: (f / "optimizer.bin").write_bytes(b"x"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_that_others_write_load_as_they_are(layout: str, tiny: Path, folder: Path) -> None:
    LAYOUTS[layout](folder)
    assert_same(folder, tiny)
    check_for_vllm(folder, {})


def test_a_value_head_is_named_and_not_used(
    tiny: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    also(
        lambda s: {
            "v_head.summary.weight": torch.ones(1, 128),
            "v_head.summary.bias": torch.ones(1),
        }
    )(folder)
    assert_same(folder, tiny)
    assert "are not used (v_head.summary.bias, v_head.summary.weight)" in capsys.readouterr().err


def test_nothing_of_the_weights_is_read_to_check_them(folder: Path) -> None:
    """Their bytes may be anything: only the headers count."""
    path = folder / FILE
    head = int.from_bytes(path.read_bytes()[:8], "little") + 8
    path.write_bytes(path.read_bytes()[:head] + b"\xff" * (path.stat().st_size - head))
    check_model(folder)


# NaN


@pytest.mark.parametrize(
    ("value", "dtype"), [(float("nan"), "float32"), (float("inf"), "float32"), (1e5, "float16")]
)
def test_weights_that_are_no_numbers_are_said_to_give_nan(
    value: float, dtype: str, folder: Path
) -> None:
    rewrite(folder, lambda s: {**s, UP: s[UP].index_fill(0, torch.tensor([3]), value)})
    with pytest.raises(
        UserError, match=r"1 of the weights in .* NaN .*up_proj.*the model gives NaN"
    ):
        load_policy(folder, device="cpu", dtype=dtype)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("graphs", [False, True])
def test_a_model_that_gives_nan_is_said_to(folder: Path, temperature: float, graphs: bool) -> None:
    """Its weights are numbers; what comes of them is too large."""
    policy = load_policy(folder, device="cpu")
    prompts = [
        policy.encode(Prompt(text, has_image=False)) for text in ("Find AB.", "Find AC, or BC.")
    ]
    rest = {"temperature": temperature, "max_new_tokens": 4, "graphs": graphs}
    with torch.no_grad():
        policy.decoder.norm.weight.fill_(3e38)
    with pytest.raises(
        UserError, match=r"the model gives NaN, or numbers too large for torch\.float32"
    ):
        policy.generate(prompts, [[0], [1, 2]], **rest)


def test_one_prompt_that_gives_nan_costs_only_itself(folder: Path) -> None:
    policy = load_policy(folder, device="cpu")
    policy.head = broken_for(policy.head, row=1)  # type: ignore[method-assign]
    asked = [
        Request(
            f"p{n}", "question-only", Prompt("Find AB."[: n + 5], has_image=False), None, (0, 1)
        )
        for n in (0, 1)
    ]
    done = list(
        HfEngine(policy, batch_size=8).generate(asked, Sampling(temperature=0.8, max_tokens=3))
    )
    assert [(c.request.problem_id, c.finish_reason == "error") for c in done] == [
        ("p0", False), ("p0", False), ("p1", True), ("p1", True),
    ]  # fmt: skip
    assert all(c.error == "the model gives NaN for this prompt" and not c.text for c in done[2:])


def broken_for(head: Callable[[Tensor], Tensor], row: int) -> Callable[[Tensor], Tensor]:
    """A head that gives NaN for half of the rows of a batch of two prompts."""

    def broken(hidden: Tensor) -> Tensor:
        logits = head(hidden)
        half = logits.shape[0] // 2
        logits[row * half : (row + 1) * half] = float("nan")
        return logits

    return broken


def test_weights_that_are_stored_as_integers_are_refused(folder: Path) -> None:
    rewrite(folder, lambda state: state | {UP: state[UP].to(torch.int8)})
    with pytest.raises(
        UserError, match=f"stores 1 of its weights as I8 .{UP}.*quantization_config"
    ):
        check_model(folder)
