"""From a model's name to a `Policy`.

One code path for the testbed model, folders, hubs and the original's aliases.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from modgap.core.errors import UserError, command_line, part
from modgap.core.files import read_text
from modgap.core.installation import not_installed, require
from modgap.core.progress import doing
from modgap.core.record import read_json
from modgap.models.folder import ADAPTER, ADAPTER_CONFIG, ADAPTER_WEIGHTS, has_adapter
from modgap.models.weights import Weights, check_weights, damaged, refuse_adapter, refuse_misfits

if TYPE_CHECKING:
    import torch

    from modgap.models.policy import Policy

MODEL_TYPE = "qwen2_5_vl"
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
    "image processor": ("preprocessor_config.json", "processor_config.json"),
}
# Weight files up to this size are hashed whole; of larger ones the header and three slices of every
# tensor are.
_HASH_WHOLE = 64 * 2**20
_SLICE = 4096


def tiny_folder() -> Path:
    """Where the bundled testbed model lies.

    Raises:
        UserError: This installation has none.
    """
    folder = Path(str(resources.files("modgap.models"))) / "tiny"
    if not (folder / "config.json").is_file():
        raise UserError(
            "the model 'tiny' is not part of this installation: make it with `modgap model"
            " pretrain --out DIR`, and give DIR/tiny."
        )
    return folder


def resolve(ref: str | Path) -> Path:
    """The local folder of a model; downloads what is on a hub.

    Args:
        ref: `tiny`, a local folder, a Hugging Face id, `modelscope:ORG/NAME`, or one of the
            original's aliases.

    Raises:
        UserError: There is no such model, or it cannot be loaded.
    """
    name = str(ref)
    if name == "tiny":
        return tiny_folder()
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
        near = get_close_matches(name.casefold(), ["tiny", *ALIASES], n=1)
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


def check_folder(folder: Path) -> None:
    """Refuse a folder that does not hold a Qwen2.5-VL.

    Raises:
        UserError: It holds no model, a part of one, or one of another kind.
    """
    check_files(folder)
    check_type(folder, _model_type(folder))
    for name in _SETTINGS:
        if (folder / name).is_file():
            read_json(folder / name, "copy the model again")


def check_type(name: Path | str, kind: Any) -> None:
    """Refuse a model of another type than Qwen2.5-VL.

    Raises:
        UserError: It is of another type.
    """
    if kind != MODEL_TYPE:
        raise UserError(
            f"{name} is a model of type {kind!r}: only {MODEL_TYPE!r} (Qwen2.5-VL) can be trained,"
            " or loaded with --engine hf; measure others with modgap eval --engine vllm, or served"
            " with --engine openai."
        )


def _model_type(folder: Path) -> Any:
    path = folder / "config.json"
    try:
        config = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON ({error}): copy the model again") from error
    return config.get("model_type") if isinstance(config, dict) else None


def check_model(folder: Path, as_is: bool = False, tokenizer: bool = True) -> Weights:
    """Refuse a folder that would not load as a Qwen2.5-VL, before its weights are read.

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
        embeddings = (name for name in weights.shapes if name.endswith("embed_tokens.weight"))
        embedding = next(embeddings, None)
        load_tokenizer(folder, None if embedding is None else weights.shapes[embedding][0])
    return weights


def check_for_vllm(folder: Path, args: Mapping[str, Any]) -> None:
    """Refuse a folder that vLLM would not load as the model it should be.

    Args:
        folder: A model of any kind; of a Qwen2.5-VL everything is checked.
        args: Arguments of `vllm.LLM`.

    Raises:
        UserError: See `check_files` and `check_model`.
    """
    if "tokenizer" not in args:
        check_files(folder)
    safetensors = "load_format" not in args and any(folder.glob("*.safetensors"))
    if safetensors and (folder / "config.json").is_file() and _model_type(folder) == MODEL_TYPE:
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
    freeze_vision: bool = False,
    gradient_checkpointing: bool = False,
    pixels: tuple[int, int] | None = None,
) -> Policy:
    """Load a Qwen2.5-VL.

    Args:
        ref: See `resolve`.
        device: CUDA if there is one, else CPU, by default.
        dtype: fp32 on a CPU and bf16 on a GPU by default.
        attn: Attention of transformers, `sdpa` by default.
        lora: Rank of LoRA adapters on the language model's linear layers; only these are trained
            then.
        freeze_vision: The vision tower is not trained.
        gradient_checkpointing: Recompute layers in the backward pass: less memory, more time.
        pixels: Least and most pixels of an image, instead of the processor's own.

    Raises:
        UserError: The model cannot be found, is damaged or of another kind.
    """
    folder = resolve(ref)
    where = check_device(device)
    doing(f"loading the model {folder.name}")
    weights = check_model(folder, tokenizer=False)

    import torch
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    from modgap.models.lora import add_lora
    from modgap.models.policy import Policy

    kind = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if isinstance(dtype, str) and not isinstance(kind, torch.dtype):
        raise UserError(f"unknown dtype {dtype!r}: choose from float32, bfloat16, float16")
    if kind is None:
        kind = torch.bfloat16 if where.type == "cuda" else torch.float32
    model = _load_model(weights, kind, attn or "sdpa", beside=lora is not None).to(where)
    _check_finite(model, folder)
    tokenizer = load_tokenizer(folder, model.get_input_embeddings().weight.shape[0])
    processor = Qwen2VLImageProcessorPil.from_pretrained(folder, local_files_only=True)
    if pixels is not None:
        processor.size = {"shortest_edge": pixels[0], "longest_edge": pixels[1]}
    if lora is not None:
        add_lora(model, lora)
    if gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return Policy(model, tokenizer, processor, source=folder, freeze_vision=freeze_vision)


def _load_model(weights: Weights, dtype: torch.dtype, attn: str, beside: bool) -> Any:
    """The model of a folder that was checked.

    Args:
        weights: Its weights.
        dtype: What they are cast to.
        attn: Attention of transformers.
        beside: Apply the folder's adapter beside the weights in fp32, too, because another one
            will be trained.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import GenerationConfig, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    from modgap.models import lora
    from modgap.models.folder import quiet

    folder, adapter = weights.folder, {}
    if has_adapter(folder) and (beside or dtype != torch.float32):
        adapter = lora.read_adapter(folder / ADAPTER)
    config = Qwen2_5_VLConfig.from_pretrained(folder, local_files_only=True)
    try:
        with quiet(warnings=True), weights.opened() as slices:
            loaded: Any = Qwen2_5_VLForConditionalGeneration.from_pretrained(
                None,
                config=config,
                state_dict=lora.taken_out(slices, adapter, dtype),
                dtype=dtype,
                attn_implementation=attn,
                output_loading_info=True,
            )
    except SafetensorError as error:
        raise damaged(folder, error) from error
    model, report = loaded
    refuse_misfits(folder, report, len(model.state_dict()))
    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    if adapter:
        lora.apply(model, adapter)
    return model


def _check_finite(model: Any, folder: Path) -> None:
    """Refuse a model that can only give NaN. Raises `UserError`."""
    if broken := [name for name, p in model.named_parameters() if not bool(p.isfinite().all())]:
        raise UserError(
            f"{len(broken)} of the weights in {folder} hold NaN or infinity as {model.dtype}"
            f" ({broken[0]}), so that the model gives NaN: copy the model again, or take the last"
            " checkpoint before it broke"
        )


def model_fingerprint(folder: str | Path) -> str:
    """16 hex digits that change with the config, the tokenizer or the weights of a model folder.

    Of a file above 64 MB only the header and three slices of every tensor are read: 4 KB at its
    start, middle and end (in formats other than safetensors, of every thousandth of the file). So
    it stays cheap, and training that changes a whole tensor, as merged LoRA adapters do, is still
    detected.
    """
    digest = hashlib.sha256()
    folder = Path(folder)
    processor = next((name for name in _PARTS["image processor"] if (folder / name).is_file()), "")
    names = ["config.json", "tokenizer.json", processor]
    weights = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    adapter = [folder / ADAPTER / name for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS)]
    for path in [*(folder / name for name in names), *weights, *adapter]:
        if not path.is_file():
            continue
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}:".encode())
        with path.open("rb") as file:
            if size <= _HASH_WHOLE:
                digest.update(file.read())
            else:
                for start, length in _slices(file, size):
                    file.seek(start)
                    digest.update(file.read(length))
    return digest.hexdigest()[:16]


def _slices(file: BinaryIO, size: int) -> Iterator[tuple[int, int]]:
    """Start and length of what is hashed of a large safetensors file.

    These are its header and three slices of each tensor.
    """
    head = int.from_bytes(file.read(8), "little")
    try:
        if head > min(size, 100 * 2**20):  # the format's own limit
            raise ValueError
        tensors = json.loads(file.read(head))
        spans = sorted(
            tuple(about["data_offsets"])
            for name, about in tensors.items()
            if name != "__metadata__"
        )
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError):  # not safetensors
        step = max(_SLICE, size // 1000)
        spans, head = [(at, min(at + step, size)) for at in range(0, size, step)], -8
    else:
        yield 0, 8 + head
    for begin, end in spans:
        last = max(begin, end - _SLICE)
        for start in sorted({begin, (begin + last) // 2, last}):
            yield 8 + head + start, min(_SLICE, end - start)
