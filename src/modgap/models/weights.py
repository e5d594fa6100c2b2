"""The weights of a model folder: their files and names, and whether they fit the folder's model.

Transformers loads almost any folder: a missing weight gets random numbers, an unknown weight is
dropped, and a LoRA adapter beside the weights is applied to them. Here each of these is an error,
and it is raised before a weight is read: names and shapes are in the headers of the files, and
transformers reports how they fit a model without memory (device `meta`), with its own conversion of
older layouts.

Trainers' wrappers leave their names in those of the weights (`module.` of DDP, `_orig_mod.` of
`torch.compile`, `base_model.model.` of PEFT). These are left out while reading.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Generator, Iterable, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from modgap.core.errors import UserError, part
from modgap.core.files import read_text
from modgap.core.progress import show
from modgap.models.folder import ADAPTER_CONFIG, ADAPTER_WEIGHTS

CONVERT = "see docs/engines/any-checkpoint.md"
_SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
# Parts of a name that a wrapper adds, anywhere in it or (_BEGINNINGS) at its start.
_WRAPPERS = {
    "module",
    "_orig_mod",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
    "_fpw_module",
    "_forward_module",
}
_BEGINNINGS = ("base_model.model.", "pretrained_model.")
_ADAPTERS = re.compile(r"\.base_layer\.|\.lora_|\.modules_to_save\.|\.original_module\.")
# Weights that the model does not have (a value head, for example): up to this share of the model's
# own they are only reported.
_FOREIGN = 0.1
_NAMED = 3
_EMBEDDING, _HEAD = "embed_tokens.weight", "lm_head.weight"
_FLOATS = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True, slots=True)
class Weights:
    """Where a folder's weights are.

    Attributes:
        folder: The folder.
        places: The file of each weight and its name there, by its name without wrappers.
        shapes: By the same name.
        wrappers: The names of wrappers that were left out.
        coded: Types of the weights that are not plain floating-point numbers, by the same name.
    """

    folder: Path
    places: Mapping[str, tuple[Path, str]]
    shapes: Mapping[str, tuple[int, ...]]
    wrappers: tuple[str, ...]
    coded: Mapping[str, str] = field(default_factory=dict[str, str])

    @contextmanager
    def opened(self) -> Generator[dict[str, Any]]:
        """Inside, slices of all weights (`slice[:]` reads one), by name."""
        from safetensors import safe_open

        with ExitStack() as stack:
            files = {
                path: stack.enter_context(safe_open(path, framework="pt"))
                for path, _ in self.places.values()
            }
            yield {
                name: files[path].get_slice(stored) for name, (path, stored) in self.places.items()
            }


def refuse_adapter(folder: Path) -> None:
    """Refuse an adapter beside whole weights: transformers would apply it, vLLM would not.

    Raises `UserError`.
    """
    if not any((folder / name).is_file() for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS)):
        return
    others = [*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")]
    if all(path.name == ADAPTER_WEIGHTS for path in others):
        raise UserError(f"{folder} is a LoRA adapter: merge it into its base model, {CONVERT}")
    raise UserError(
        f"{folder} holds a LoRA adapter beside whole weights, and does not say whether they contain"
        f" it: remove the adapter_* files if they do, else merge it, {CONVERT}"
    )


def weight_files(folder: Path) -> list[Path]:
    """The files that hold a folder's weights.

    Raises:
        UserError: There are none, some of them are missing, or there is an adapter beside them.
    """
    shards = sorted(
        path for path in folder.glob("*.safetensors") if re.search(r"-\d+-of-\d+$", path.stem)
    )
    single = folder / _SINGLE
    refuse_adapter(folder)
    if (folder / INDEX).is_file():
        named = _indexed(folder)
        if missing := [name for name in named if not (folder / name).is_file()]:
            raise UserError(
                f"{folder} lacks {len(missing)} of the {len(named)} weight files in its index"
                f" ({_some(missing)}): copy the model again"
            )
        if single.is_file() and named != [_SINGLE]:
            raise _two_sets(folder, named)
        return [folder / name for name in named]
    if single.is_file() and shards:
        raise _two_sets(folder, [path.name for path in shards])
    if single.is_file():
        return [single]
    if shards:
        raise UserError(
            f"{folder} holds {len(shards)} weight files ({_some(path.name for path in shards)}) but"
            f" no {INDEX}: copy it from where the files are from"
        )
    if bins := sorted(
        path.name
        for path in folder.glob("*.bin")
        if path.name.startswith(("pytorch_model", "model"))
    ):
        raise UserError(
            f"{folder} holds its weights as {bins[0]}, not as safetensors: convert them, {CONVERT}"
        )
    others = [path.name for path in sorted(folder.glob("*.safetensors"))]
    names = f"no {_SINGLE}, only {_some(others)}" if others else "no *.safetensors"
    raise UserError(f"{folder} holds no weights ({names}): copy or convert the model again")


def _two_sets(folder: Path, others: Iterable[str]) -> UserError:
    """The error for two sets of weights: transformers and vLLM would each load another one."""
    return UserError(
        f"{folder} holds two sets of weights, {_SINGLE} and {_some(others)}: remove the older one"
    )


def _indexed(folder: Path) -> list[str]:
    """The files that an index names."""
    path = folder / INDEX
    try:
        files = set(json.loads(read_text(path))["weight_map"].values())
        return sorted(str(file) for file in files)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path} is not an index of weights ({error!r}): copy the model again"
        ) from error


def find_weights(folder: Path) -> Weights:
    """Read the headers of a folder's weight files.

    Raises:
        UserError: A file is missing or damaged, or the weights are those of a LoRA training that
            was not merged.
    """
    from safetensors import SafetensorError, safe_open

    stored: dict[str, tuple[Path, tuple[int, ...]]] = {}
    types: dict[str, str] = {}
    for path in weight_files(folder):
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - it is not a mapping
                    slice_ = file.get_slice(name)
                    stored[name] = (path, tuple(slice_.get_shape()))
                    types[name] = slice_.get_dtype()
        except SafetensorError as error:
            raise damaged(folder, error) from error
    if inner := sorted(name for name in stored if _ADAPTERS.search(name)):
        raise UserError(
            f"the weights in {folder} are those of a LoRA training, adapters beside the layers"
            f" ({_some(inner)}): merge them, {CONVERT}"
        )
    names = _without_wrappers(stored)
    if len(set(names.values())) < len(names):
        twice = sorted(name for name in names if list(names.values()).count(names[name]) > 1)
        raise UserError(f"{folder} holds the same weights twice ({_some(twice)}): keep one of them")
    wrappers = {wrapper for name in names for wrapper in _difference(name, names[name])}
    return Weights(
        folder,
        {names[name]: (path, name) for name, (path, _) in stored.items()},
        {names[name]: shape for name, (_, shape) in stored.items()},
        tuple(sorted(wrappers)),
        {names[name]: kind for name, kind in types.items() if kind not in _FLOATS},
    )


def damaged(folder: Path, error: Exception) -> UserError:
    """The error for a file that is not a whole safetensors file."""
    return UserError(
        f"the weights in {folder} are cut off or damaged ({error}): copy the model again"
    )


def _without_wrappers(stored: Iterable[str]) -> dict[str, str]:
    """Each name as the model has it."""
    names = {name: name for name in stored}
    for name in names:
        short = ".".join(part for part in name.split(".") if part not in _WRAPPERS)
        while begins := [begin for begin in _BEGINNINGS if short.startswith(begin)]:
            short = short.removeprefix(begins[0])
        names[name] = short
    # A module with the whole model as its attribute `model`, as in Lightning.
    while any(short.startswith("model.model.") for short in names.values()):
        names = {name: short.removeprefix("model.") for name, short in names.items()}
    return names


def _difference(name: str, short: str) -> list[str]:
    """What was left out of a name."""
    parts, kept = name.split("."), short.split(".")
    return sorted({part for part in parts if parts.count(part) > kept.count(part)})


def config_and_class(folder: Path) -> tuple[Any, Any]:
    """A folder's config, and the class of transformers for images and text to text.

    Raises:
        UserError: The config does not describe such a model.
    """
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    try:
        config: Any = AutoConfig.from_pretrained(folder, local_files_only=True)
        model_class: Any = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)]
    except Exception as error:  # validation has errors of its own, and a class may lack a library
        raise UserError(
            f"{folder / 'config.json'} does not describe a model that transformers loads here"
            f" ({part(error)[:200]}): copy the model again, or install what it names"
        ) from error
    # Of several classes for one type the first is the one with a head.
    return config, model_class[0] if isinstance(model_class, tuple) else model_class


def check_weights(folder: Path, as_is: bool = False) -> Weights:
    """Refuse a model whose weights are incomplete, before they are read.

    Oddities that do no harm are only reported.

    Args:
        folder: The model, of a type that transformers has.
        as_is: It is read by others, who do not leave out the names of wrappers.

    Raises:
        UserError: See `weight_files`, `find_weights` and `refuse_misfits`.
    """
    weights = find_weights(folder)
    if weights.wrappers:
        left_out = (
            f"the names of the weights in {folder} hold those of wrappers"
            f" ({', '.join(weights.wrappers)})"
        )
        if as_is:
            raise UserError(
                f"{left_out}, which only --engine hf leaves out: save the model anew, {CONVERT}"
            )
        _say(f"{left_out}: these are left out")
    import torch
    import transformers

    from modgap.models.folder import quiet

    config, model_class = config_and_class(folder)
    if getattr(config, "quantization_config", None):
        return weights  # the quantization method has its own names
    if weights.coded:
        name, kind = next(iter(weights.coded.items()))
        raise UserError(
            f"{folder} stores {len(weights.coded)} of its weights as {kind} ({name}), and its"
            " config.json has no quantization_config to read them by: give the unquantized"
            f" model, {CONVERT}"
        )
    empty = {name: torch.empty(shape, device="meta") for name, shape in weights.shapes.items()}
    configs = (config, config.get_text_config())
    tied = any(getattr(each, "tie_word_embeddings", False) for each in configs)
    embedding = next((name for name in empty if name.endswith(_EMBEDDING)), None)
    head = next((name for name in empty if name.endswith(_HEAD)), None)
    if tied and embedding and head:
        with weights.opened() as slices:
            if not torch.equal(slices[head][:], slices[embedding][:]):
                raise UserError(
                    f"{folder} has an lm_head of its own, but its config.json says"
                    " tie_word_embeddings=true: set it to false if the head was trained, else"
                    f" remove {head} from the weights"
                )
        del empty[head]  # tying compares the two, which weights without memory do not allow
    try:
        with quiet(warnings=True):
            loaded: Any = model_class.from_pretrained(
                None,
                config=config,
                state_dict=empty,
                device_map={"": "meta"},
                dtype=torch.float32,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    except Exception as error:  # a config of another release, or one that contradicts itself
        raise UserError(
            f"transformers {transformers.__version__} cannot make the model that"
            f" {folder / 'config.json'} describes ({type(error).__name__}: {part(error)[:200]}):"
            f" install the release that its transformers_version names, or copy the model again"
        ) from error
    refuse_misfits(folder, loaded[1], len(loaded[0].state_dict()))
    return weights


def refuse_misfits(folder: Path, report: Mapping[str, Collection[Any]], count: int) -> None:
    """Raise an error for misfits in transformers' loading report.

    Args:
        folder: The folder.
        report: What `from_pretrained` returns with `output_loading_info`.
        count: How many weights the model has.

    Raises:
        UserError: Some are missing or of another shape, or many are not the model's.
    """
    missing, foreign = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
    others = f"; not the model's: {len(foreign)} in it ({_some(foreign)})" if foreign else ""
    if missing:
        raise UserError(
            f"{folder} lacks {len(missing)} of the {count} weights of its model"
            f" ({_some(missing)}){others}: copy the model again or save it whole, {CONVERT}"
        )
    if wrong := sorted(report["mismatched_keys"]):
        name, has, wants = wrong[0]
        raise UserError(
            f"the config.json of {folder} says another shape for {len(wrong)} of its weights"
            f" ({name}: {tuple(has)}, not {tuple(wants)}): copy config.json and weights of the same"
            " model"
        )
    if len(foreign) > _FOREIGN * count:
        raise UserError(
            f"{folder} holds {len(foreign)} weights that are not its model's ({_some(foreign)}):"
            " give the folder of one model alone"
        )
    if foreign:
        _say(f"{folder} holds weights that are not its model's and are not used ({_some(foreign)})")


@cache
def _say(text: str) -> None:
    """Print a line once per process: a folder is checked before a run and when it is loaded."""
    show(f"modgap: {text}", error=True)


def _some(names: Iterable[str]) -> str:
    every = list(names)
    more = f" and {len(every) - _NAMED} more" if len(every) > _NAMED else ""
    return ", ".join(every[:_NAMED]) + more
