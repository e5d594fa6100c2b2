"""From a model's name to a model that is loaded.

One code path for the testbed model, folders, hubs and the original's aliases.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modgap.core import registry
from modgap.core.errors import UserError, command_line, part
from modgap.core.files import read_text
from modgap.core.installation import not_installed, require
from modgap.core.json_files import read_json
from modgap.core.progress import doing, show
from modgap.core.prompt import Prompt
from modgap.models.folder import ADAPTER, BUNDLED, FAST, IMAGE_PROCESSOR, has_adapter
from modgap.models.weights import (
    Weights,
    check_weights,
    refuse_adapter,
)

if TYPE_CHECKING:
    import torch

    from modgap.models.generic import GenericModel
    from modgap.models.policy import Policy
    from modgap.models.template import ChatTemplate


ALIASES = {
    "qwen2_5_vl_3b": "Qwen/Qwen2.5-VL-3B-Instruct",
    "qwen2_5_vl_7b": "Qwen/Qwen2.5-VL-7B-Instruct",
    # These two names could not be checked offline.
    "qwen2_5_vl_3b_kl_curriculum": "yaogy/qwen2_5_vl_3b_kl_curriculum",
    "qwen2_5_vl_7b_kl_curriculum": "yaogy/qwen2_5_vl_7b_kl_curriculum",
}
_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]
# What a model needs beside config and weights: one of these files, which differ by tokenizer.
_PARTS = {
    "tokenizer": ("tokenizer.json", "tokenizer.model", "vocab.json", "tekken.json", "*.tiktoken"),
    "image processor": IMAGE_PROCESSOR,
}


def tiny_folder(name: str = "tiny") -> Path:
    """Where a bundled testbed model lies.

    Args:
        name: Of `BUNDLED`.

    Raises:
        UserError: This installation has none.
    """
    folder = Path(str(resources.files("modgap.models"))) / name
    if not (folder / "config.json").is_file():
        raise UserError(
            f"the model {name!r} is not part of this installation: make it with `modgap model"
            f" pretrain --out DIR{BUNDLED[name]}`, and give DIR/tiny."
        )
    return folder


def resolve(ref: str | Path) -> Path:
    """The local folder of a model; downloads what is on a hub.

    Args:
        ref: `tiny`, `tiny-charts`, a local folder, a Hugging Face id, `modelscope:ORG/NAME`, or one
            of the original's aliases.

    Raises:
        UserError: There is no such model, or it cannot be loaded.
    """
    name = str(ref)
    if name in BUNDLED:
        return tiny_folder(name)
    if Path(name).exists():
        return Path(name)
    if name.startswith("modelscope:"):
        return _from_modelscope(name.removeprefix("modelscope:"))
    name = ALIASES.get(name, name)
    check_name(name)
    require("huggingface-hub")
    from huggingface_hub import snapshot_download

    return _fetch(snapshot_download, name, "the Hugging Face hub")


def check_name(name: str) -> None:
    """Refuse what cannot be an id of a hub. Raises `UserError`."""
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        near = get_close_matches(name.casefold(), [*BUNDLED, *ALIASES], n=1)
        raise UserError(
            f"no model {name!r}: give 'tiny', a folder that exists, a Hugging Face id (ORG/NAME),"
            f" modelscope:ORG/NAME or one of {', '.join(sorted(ALIASES))}."
            + (f" Did you mean {near[0]!r}?" if near else "")
        )


def _from_modelscope(name: str) -> Path:
    try:
        from modelscope import snapshot_download  # pyright: ignore[reportMissingImports] - an extra
    except ImportError as error:
        raise UserError(f"the model 'modelscope:{name}': {not_installed('modelscope')}.") from error
    return _fetch(snapshot_download, name, "ModelScope")


def _fetch(download: Callable[..., str], name: str, where: str) -> Path:
    try:
        return Path(download(name, allow_patterns=_FILES))
    except Exception as error:
        reason = part((str(error).strip() or type(error).__name__).splitlines()[0])
        raise UserError(
            f"the model {name!r} is not a local folder and could not be fetched from {where}"
            f" ({reason}): check the name and the network, or give a local folder"
        ) from error


def check_files(folder: Path) -> None:
    """Refuse a folder that is not a whole model, of whatever kind, before anything is loaded.

    The error says how it becomes one.

    Raises:
        UserError: There is no config, tokenizer or image processor, or there is an adapter beside
            the weights.
    """
    if folder.is_file():
        raise UserError(f"{folder} is a file: give the folder of a model, or an id of the hub.")
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} {_instead_of_a_model(folder)}")
    refuse_adapter(folder)
    for what, names in _PARTS.items():
        if not any(any(folder.glob(name)) for name in names):
            raise UserError(
                f"{folder} has no {what} (no {names[0]}): copy all that is not weights from the"
                " base model's folder, the chat template included."
            )


def _instead_of_a_model(folder: Path) -> str:
    """What a folder without a config holds, and what to do."""
    if checkpoint := _checkpoint(folder):
        return f"is a training run, not a model: give its checkpoint, {checkpoint}"
    if (folder / "adapter_config.json").is_file():
        return (
            "is a LoRA adapter (no config.json): merge it into its base model, see"
            " docs/engines/any-checkpoint.md"
        )
    if any(
        any(folder.glob(f"{below}model_world_size_*_rank_*.pt"))
        for below in ("", "actor/", "global_step_*/actor/")
    ):
        return (
            "is a checkpoint of verl (no config.json):"
            f" {command_line('convert', folder, '--out', 'DIR')}, then give DIR"
        )
    return (
        "holds no model (no config.json): give a folder in Hugging Face form, or an id of the hub"
    )


_SETTINGS = (
    "generation_config.json", "preprocessor_config.json", "processor_config.json",
    "video_preprocessor_config.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json",
)  # fmt: skip
"""Files of a model that are one object each, of which transformers' own errors name no remedy."""


def check_folder(folder: Path, trains: str = "") -> None:
    """Refuse a folder that does not hold a vision-language model.

    Args:
        folder: The model.
        trains: The engine that is to train it, which takes fewer types.

    Raises:
        UserError: It holds no model, a part of one, or one of another kind.
    """
    check_files(folder)
    if trains:
        check_type(folder, model_type(folder), trains)
    elif not is_fast(folder):
        _check_known(folder, model_type(folder))
    for name in _SETTINGS:
        if (folder / name).is_file():
            read_json(folder / name, "copy the model again")


def check_type(name: Path | str, kind: Any, engine: str) -> None:
    """Refuse a model of a type that an engine does not train.

    Raises:
        UserError: It is of another type.
    """
    types = registry.TRAINING_ENGINES.entry(engine).types
    if not types or kind in types:
        return
    others = [
        f"--engine {other} trains it"
        for other, entry in registry.TRAINING_ENGINES.items()
        if kind in entry.types
    ]
    remedy = "; ".join(others) or "measure others with modgap eval --engine hf or vllm"
    raise UserError(
        f"{name} is a model of type {kind!r}, which --engine {engine} does not train: it trains"
        f" {', '.join(types)}; {remedy}."
    )


def _check_known(folder: Path, kind: Any) -> None:
    """Refuse a model that the installed transformers does not load as a vision-language model.

    Raises `UserError`.
    """
    import transformers
    from transformers import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    other = "measure it with --engine vllm, or served with --engine openai"
    if kind not in CONFIG_MAPPING:
        raise UserError(
            f"{folder} is a model of type {kind!r}, which transformers"
            f" {transformers.__version__} does not have: install a newer transformers, take a"
            f" checkpoint in transformers' own format (its name often ends in -HF), or {other}."
        )
    if kind not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        raise UserError(
            f"{folder} is a model of type {kind!r}, which transformers"
            f" {transformers.__version__} does not load as a model of images and text: give a"
            f" vision-language model, or {other}."
        )


def is_fast(folder: Path) -> bool:
    """Whether a folder's model has a forward pass of our own: its type has one, plain weights."""
    config = _config(folder)
    return config.get("model_type") in FAST and not config.get("quantization_config")


def model_type(folder: Path) -> Any:
    """The `model_type` of a folder's config. Raises `UserError` where that is no JSON."""
    return _config(folder).get("model_type")


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        config = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON ({error}): copy the model again") from error
    return config if isinstance(config, dict) else {}


def check_model(folder: Path, as_is: bool = False, tokenizer: bool = True) -> Weights:
    """Refuse a folder that would not load as its model, before its weights are read.

    Args:
        folder: The model.
        as_is: Others read it, see `check_weights`.
        tokenizer: Its own one is used.

    Raises:
        UserError: See `check_folder` and `check_weights`; or an adapter or the tokenizer does not
            fit the weights.
    """
    check_folder(folder)
    weights = check_weights(folder, as_is)
    if has_adapter(folder):
        from modgap.models.lora import check_adapter, read_adapter

        check_adapter(read_adapter(folder / ADAPTER), weights.shapes, folder)
    if tokenizer:
        shapes = weights.shapes.items()
        rows = [shape[0] for name, shape in shapes if name.endswith("embed_tokens.weight")]
        load_tokenizer(folder, max(rows, default=None))
    return weights


def check_for_vllm(folder: Path, args: Mapping[str, Any]) -> None:
    """Refuse a folder that vLLM would not load as the model it should be.

    Args:
        folder: A model of any kind; of one with a forward pass of our own everything is checked.
        args: Arguments of `vllm.LLM`.

    Raises:
        UserError: See `check_files` and `check_model`.
    """
    if "tokenizer" not in args:
        check_files(folder)
    safetensors = "load_format" not in args and any(folder.glob("*.safetensors"))
    if safetensors and (folder / "config.json").is_file() and model_type(folder) in FAST:
        check_model(folder, as_is=True, tokenizer="tokenizer" not in args)


def load_tokenizer(folder: Path, rows: int | None) -> Any:
    """A model's tokenizer.

    Args:
        folder: The model.
        rows: Rows of its embedding; `None` if unknown.

    Raises:
        UserError: It is damaged, or has tokens that the model does not know.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # errors of the Rust tokenizers have no class of their own
        said = " ".join(str(error).split())[:200]
        raise UserError(
            f"the tokenizer in {folder} cannot be loaded ({said}): copy it from the base model"
        ) from error
    largest = max(tokenizer.get_vocab().values(), default=0)
    if rows is not None and largest >= rows:
        raise UserError(
            f"the tokenizer in {folder} has tokens up to {largest}, its model only {rows} of them"
            f" (0 to {rows - 1}): copy the tokenizer that belongs to the weights"
        )
    return tokenizer


def _checkpoint(folder: Path) -> Path | None:
    """The best checkpoint of the last stage of a training run; `None` if it is not such a run."""
    found = [
        at
        for at in (folder / "checkpoints" / "best", *folder.glob("stage*/checkpoints/best"))
        if at.exists()
    ]
    numbers = {at: re.findall(r"\d+", at.relative_to(folder).parts[0]) for at in found}
    return max(found, key=lambda at: [int(number) for number in numbers[at]], default=None)


def check_device(device: str | torch.device | None) -> torch.device:
    """The device that a name means; without a name CUDA if available, else the CPU.

    Raises:
        UserError: There is no such device.
    """
    import torch

    name = str(device) if device is not None else "cuda" if torch.cuda.is_available() else "cpu"
    choices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    choices += [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    if name not in choices:
        why = "" if torch.cuda.is_available() else " (torch sees no GPU)"
        raise UserError(
            f"device {name!r} is not available here{why}: choose from {', '.join(choices)}."
        )
    return torch.device(name)


def load_policy(
    ref: str | Path,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    attn: str | None = None,
    lora: int | None = None,
    frozen: Collection[str] = (),
    gradient_checkpointing: bool = False,
    pixels: tuple[int, int] | None = None,
    plain: bool = False,
) -> Any:
    """Load a model that can be trained.

    Args:
        ref: See `resolve`.
        device: CUDA if there is one, else CPU, by default.
        dtype: fp32 on a CPU and bf16 on a GPU by default.
        attn: Attention of transformers, `sdpa` by default.
        lora: Rank of LoRA adapters on the language model's linear layers; only these are trained
            then.
        frozen: Parts that are not trained: tower, merger, language.
        gradient_checkpointing: Recompute layers in the backward pass: less memory, more time.
        pixels: Least and most pixels of an image, instead of the processor's own.
        plain: Take transformers' own forward pass where there is one of ours, too.

    Returns:
        A `Policy`, or for a type without a forward pass of our own a `PlainPolicy`.

    Raises:
        UserError: The model cannot be found, is damaged or of another kind.
    """
    folder = resolve(ref)
    where = check_device(device)
    doing(f"loading the model {folder.name}")
    check_folder(folder, trains="local")
    weights = check_model(folder, tokenizer=False)

    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    from modgap.models.lora import add_lora
    from modgap.models.plain import PlainPolicy
    from modgap.models.policy import Policy
    from modgap.models.processor import load_processor
    from modgap.models.read_weights import load_weights
    from modgap.models.template import ChatTemplate

    model = load_weights(weights, where, dtype, attn or "sdpa", beside=lora is not None)
    tokenizer = load_tokenizer(folder, model.get_input_embeddings().weight.shape[0])
    if lora is not None:
        add_lora(model, lora)
    if gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    fast = None
    if is_fast(folder) and not plain:
        images = Qwen2VLImageProcessorPil.from_pretrained(folder, local_files_only=True)
        if pixels is not None:
            images.size = {"shortest_edge": pixels[0], "longest_edge": pixels[1]}
        fast = Policy(model, tokenizer, images, source=folder, frozen=frozen)
        if model_type(folder) == FAST[0]:
            return fast
    processor = load_processor(folder, model_type(folder), pixels)
    # `Policy` writes the chat itself; models that always think have another one.
    if fast is not None and _writes_as(fast, ChatTemplate(processor, folder.name)):
        return fast
    return PlainPolicy(model, processor, folder, frozen)


def _writes_as(policy: Policy, template: ChatTemplate) -> bool:
    """Whether a policy's chat is that of the model's own template; says so if not."""
    probe = Prompt("Find AB.", has_image=False)
    if policy.tokenizer.decode(policy.encode(probe).input_ids) == template(probe).text:
        return True
    show(
        "modgap: this model's chat template is not the usual one: transformers' own forward pass"
        " is used, with its template",
        error=True,
    )
    return False


def load_generic(
    folder: Path,
    pixels: tuple[int, int] | None = None,
    device: str | torch.device | None = None,
) -> GenericModel:
    """Load any vision-language model, for answers.

    Args:
        folder: The model.
        pixels: Least and most pixels of an image, instead of the processor's own.
        device: CUDA if there is one, else CPU, by default.

    Raises:
        UserError: It is damaged, or cannot be loaded here.
    """
    where = check_device(device)
    doing(f"loading the model {folder.name}")
    check_folder(folder)

    import torch

    from modgap.models.generic import GenericModel
    from modgap.models.processor import load_processor
    from modgap.models.read_weights import load_weights

    processor = load_processor(folder, model_type(folder), pixels)
    model = load_weights(check_model(folder, tokenizer=False), where)
    # As in `Policy`: cuDNN plans each new size anew.
    torch.backends.cuda.enable_cudnn_sdp(False)
    return GenericModel(model, processor, folder.name)
