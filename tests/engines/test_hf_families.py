"""The `hf` engine on small random models of many families.

Each is written with the files of its hub checkpoints, and loaded as users load them.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from family_checks import (
    WORDS,
    asked,
    check_batches,
    check_copies,
    check_fast,
    check_greedy,
    check_odd_images,
)
from model_families import FAMILIES, Sizes, build_family
from tiny_models import picture
from transformers.utils.import_utils import is_torchvision_available

from modgap.core.engine import Request, Sampling
from modgap.core.errors import UserError
from modgap.core.options import EvalOptions
from modgap.core.prompt import Prompt
from modgap.engines.hf import HfEngine, load_engine
from modgap.models.folder import FAST
from modgap.models.generic import GenericModel
from modgap.models.load import check_folder, check_model, load_generic, load_policy

NEED_TORCHVISION = ("mistral3",)
OTHER = Sizes(width=96, layers=4, vision_width=96, vision_layers=3, vocabulary=520, seed=3)
# Wider heads than the width holds, all of which share one head of keys; other patches and ties.
SHARED = Sizes(
    64, layers=2, vision_layers=2, vocabulary=530, seed=2, head=64, heads=4, sharing=4, patch=12
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("families")


def made(folders: Path, name: str) -> Path:
    folder = folders / name
    return folder if folder.exists() else build_family(name, folder)


def loaded(folder: Path) -> GenericModel:
    """The model; skips where this release of transformers wants torchvision for its processor."""
    try:
        return load_generic(folder, device="cpu")
    except UserError as error:
        if is_torchvision_available() or "needs torchvision" not in str(error):
            raise
        pytest.skip(str(error))


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in NEED_TORCHVISION])
def test_a_family_is_answered_as_transformers_answers_it(folders: Path, name: str) -> None:
    model = loaded(made(folders, name))
    check_batches(model)
    check_copies(model)
    check_greedy(model)
    assert model._pads == {True: True}


@pytest.mark.parametrize("name", ["internvl", "gemma3", "llava_onevision", "smolvlm", "glm4v"])
def test_other_sizes_of_a_family_are_answered(tmp_path: Path, name: str) -> None:
    model = loaded(build_family(name, tmp_path / name, OTHER))
    check_odd_images(model)


@pytest.mark.skipif(is_torchvision_available(), reason="torchvision is installed")
@pytest.mark.parametrize("name", NEED_TORCHVISION)
def test_a_processor_that_needs_torchvision_is_refused(folders: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"pip install torchvision.*--engine vllm") as error:
        HfEngine.start(made(folders, name), EvalOptions())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("size", [Sizes(), SHARED], ids=["usual", "shared"])
@pytest.mark.parametrize("name", FAST)
def test_the_fast_path_and_transformers_own_draw_the_same_samples(
    tmp_path: Path, name: str, size: Sizes
) -> None:
    folder = build_family(name, tmp_path / name, size)
    policy, generic = load_policy(folder, device="cpu"), load_generic(folder, device="cpu")
    lengths = [
        [(len(prompt), prompt.image_tokens) for prompt in asked(m)] for m in (policy, generic)
    ]
    assert lengths[0] == lengths[1]
    check_fast(policy, generic)


def test_what_the_template_opens_and_leaves_out_is_recorded(folders: Path, tmp_path: Path) -> None:
    opens = made(folders, "qwen3_5")
    refuses = shutil.copytree(made(folders, "llava"), tmp_path / "refuses")
    (refuses / "chat_template.jinja").write_text(
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
        "{% endif %}" + FAMILIES["llava"].template
    )
    drops = shutil.copytree(refuses, tmp_path / "drops")
    (drops / "chat_template.jinja").write_text(
        "{% for m in messages if m['role'] == 'user' %}{% for p in m['content'] %}"
        "{{ '<image>' if p['type'] == 'image' else p['text'] }}{% endfor %}{% endfor %}"
    )
    strings = shutil.copytree(refuses, tmp_path / "strings")
    (strings / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + ' ' }}{% endfor %}"
    )
    request = Request("p1", "full-text", Prompt(WORDS), lambda: picture(90, 60, 0), (0,))
    found = {}
    for folder in (opens, refuses, drops, strings):
        (done,) = load_engine(folder, None, "cpu", 4).generate([request], Sampling(0.8, 4))
        assert done.error is None and done.image_tokens > 0
        found[folder.name] = (done.opened, done.left_out)
    assert found == {
        "qwen3_5": ("<think>\n", ()), "refuses": ("", ("system",)), "drops": ("", ("system",)),
        "strings": ("", ()),
    }  # fmt: skip


def test_a_model_that_always_thinks_is_asked_with_its_own_template(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(made(folders, "qwen3_vl"), tmp_path / "thinking")
    template = json.loads((folder / "chat_template.json").read_text())["chat_template"]
    thinks = template.replace("assistant\\n'", "assistant\\n<think>\\n'")
    assert thinks != template
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": thinks}))
    request = Request("p1", "full-text", Prompt(WORDS), lambda: picture(90, 60, 0), (0,))
    (done,) = load_engine(folder, None, "cpu", 4).generate([request], Sampling(0.8, 4))
    assert done.opened == "<think>\n" and done.text.startswith("<think>\n")
    assert capsys.readouterr().err.count("is not the usual one") == 1
    (usual,) = load_engine(made(folders, "qwen3_vl"), None, "cpu", 4).generate(
        [request], Sampling(0.8, 4)
    )
    assert usual.opened == "" and "usual" not in capsys.readouterr().err


def test_a_template_that_loses_the_words_or_the_image_is_refused(
    folders: Path, tmp_path: Path
) -> None:
    for number, template in enumerate(("Hello", "{{ messages[-1]['content'][1]['text'] }}")):
        folder = shutil.copytree(made(folders, "llava"), tmp_path / str(number))
        (folder / "chat_template.jinja").write_text(template)
        model = load_generic(folder, device="cpu")
        with pytest.raises(UserError, match="chat template of"):
            model.encode(Prompt(WORDS, system=None), picture(90, 60, 0))
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match="has no chat template"):
        load_generic(folder, device="cpu")


def test_text_that_spells_a_special_token_costs_only_its_prompt(folders: Path) -> None:
    asking = [
        Request(str(n), "text-only", Prompt(text, has_image=False), None, (0,))
        for n, text in enumerate(("Find AB.", "Find <image> AB.", "<think> Find AC. </think>"))
    ]
    engine = load_engine(made(folders, "llava"), None, "cpu", 4)
    done = {d.request.problem_id: d.error for d in engine.generate(asking, Sampling(0.8, 3))}
    assert done["0"] is None and done["2"] is None
    assert "spells '<image>'" in str(done["1"])


def test_a_family_that_padding_changes_is_answered_by_length(
    folders: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = load_generic(made(folders, "llava"), device="cpu")
    inputs = GenericModel._inputs

    def unmasked(self: GenericModel, prompts: object) -> object:
        out = inputs(self, prompts)  # type: ignore[arg-type]
        out["attention_mask"] = out["attention_mask"].fill_(1)  # padding is seen
        return out

    monkeypatch.setattr(GenericModel, "_inputs", unmasked)
    check_batches(model)
    assert model._pads == {True: False}
    assert capsys.readouterr().err.count("equal length") == 1


def test_what_is_no_vision_language_model_here_is_named(folders: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(made(folders, "llava"), tmp_path / "other")
    config = json.loads((folder / "config.json").read_text())
    for change, words in (
        ({"model_type": "internvl_chat"}, "does not have.*-HF"),
        ({"model_type": "llama"}, "does not load as a model of images and text"),
        ({"text_config": {**config["text_config"], "num_attention_heads": 3}}, "not describe"),
        ({"vision_config": {**config["vision_config"], "hidden_act": "no"}}, "cannot make"),
        ({"text_config": {**config["text_config"], "hidden_size": 256}}, "shape"),
        ({"text_config": {**config["text_config"], "num_hidden_layers": 5}}, "lacks"),
        (
            {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
            "quantized weights.*bitsandbytes",
        ),
    ):
        (folder / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(UserError, match=words) as error:
            check_folder(folder)
            check_model(folder)
            load_generic(folder, device="cpu")
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="--engine local does not train"):
        load_policy(made(folders, "gemma3"), device="cpu")
