"""The processor of any vision-language model: tokenizer, image processor and chat template.

transformers' `AutoProcessor` also makes a video processor, which needs torchvision. Here the
model's processor class is put together from its tokenizer and its image processor alone, with the
image processor that works on PIL images where there is one: images then have the same numbers on
every machine, whether torchvision is installed or not.
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any

from modgap.core.errors import UserError, part
from modgap.core.json_files import read_json
from modgap.core.progress import show
from modgap.models.folder import image_processor, quiet

_NAMES = ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json")
_VIDEO = "video_processor"
_OTHERWISE = "measure the model with --engine vllm, or served with --engine openai"


def load_processor(folder: Path, kind: str, pixels: tuple[int, int] | None = None) -> Any:
    """The processor of a model folder.

    Args:
        folder: The model.
        kind: Its `model_type`.
        pixels: Least and most pixels of an image, instead of the processor's own.

    Raises:
        UserError: It cannot be made here; the message says what is missing.
    """
    from transformers.utils.import_utils import is_torchvision_available

    try:
        with quiet(warnings=True):
            processor = _assembled(_class_of(folder, kind), folder)
    except UserError:
        raise
    except Exception as error:  # each class has its own errors for what it lacks
        if "torchvision" in _causes(error).lower() and not is_torchvision_available():
            raise UserError(
                f"the processor of {folder} (a {kind!r}) needs torchvision, which is not installed:"
                f" pip install torchvision, or {_OTHERWISE}."
            ) from error
        raise UserError(
            f"the processor of {folder} (a {kind!r}) cannot be made"
            f" ({type(error).__name__}: {part(error)[:200]}): install what it needs, copy the files"
            f" that are not weights from the base model's folder, or {_OTHERWISE}."
        ) from error
    for name in ("tokenizer", "image_processor"):
        if getattr(processor, name, None) is None:
            raise UserError(
                f"the processor of {folder} (a {kind!r}) has no {name.replace('_', ' ')}:"
                f" {_OTHERWISE}."
            )
    if pixels is not None:
        _limit(processor.image_processor, pixels, kind)
    return processor


def _causes(error: BaseException | None) -> str:
    """What an error and those behind it say."""
    said = ""
    while error is not None:
        said += f"{error} "
        error = error.__cause__ or error.__context__
    return said


def _class_of(folder: Path, kind: str) -> Any:
    """The class of a folder's processor: the one that its files name, else that of its type."""
    import transformers
    from transformers.models.auto.processing_auto import (
        PROCESSOR_MAPPING_NAMES,  # pyright: ignore[reportPrivateImportUsage]
    )

    names: list[Any] = []
    for file in _NAMES:
        if (folder / file).is_file():
            names.append(read_json(folder / file, "copy the model again").get("processor_class"))
    for name in (*names, PROCESSOR_MAPPING_NAMES.get(kind)):
        found = getattr(transformers, name, None) if isinstance(name, str) else None
        if isinstance(found, type):
            return found
    raise UserError(
        f"{folder} names no processor that transformers {transformers.__version__} has, and it has"
        f" none for models of type {kind!r}: copy processor_config.json from the base model's"
        f" folder, or {_OTHERWISE}."
    )


def _assembled(made: Any, folder: Path) -> Any:
    """An object of a processor class without its video processor, from a folder's files."""
    from transformers import AutoFeatureExtractor, AutoTokenizer

    attributes: list[str] = made.get_attributes()
    parts: dict[str, Any] = {}
    for name in attributes:
        if name == "tokenizer":
            parts[name] = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        elif name == "image_processor":
            parts[name] = _image_processor(folder)
        elif name == "feature_extractor":
            parts[name] = AutoFeatureExtractor.from_pretrained(folder, local_files_only=True)
        elif name == _VIDEO:
            parts[name] = None
        else:
            raise UserError(f"the processor of {folder} has a {name}: {_OTHERWISE}.")

    def check(self: Any, name: str, value: Any) -> Any:
        return None if name == _VIDEO else made.check_argument_for_proper_class(self, name, value)

    # The same name: some releases compare it.
    without = type(
        made.__name__,
        (made,),
        {"check_argument_for_proper_class": check, "__module__": made.__module__},
    )
    module = sys.modules.get(made.__module__) or inspect.getmodule(made)
    if getattr(module, "num2words", ...) is None:  # SmolVLM's, which counts a video's frames
        module.num2words = str  # type: ignore[union-attr]
    said, _ = made.get_processor_dict(folder, local_files_only=True)
    taken = inspect.signature(made.__init__).parameters
    settings = {k: v for k, v in said.items() if k in taken and k not in attributes}
    processor = without(**parts, **settings)
    # From here on it is asked for images and text alone.
    without.get_attributes = classmethod(lambda _: [a for a in attributes if a != _VIDEO])
    return processor


def _image_processor(folder: Path) -> Any:
    """The image processor, on PIL images where the installed release has one of that kind.

    By its own name, because the auto class of releases before 5.20 needs torchvision whatever it
    loads.
    """
    import transformers

    named = str(image_processor(folder).get("image_processor_type") or "")
    pil: Any = getattr(transformers, f"{named.removesuffix('Pil').removesuffix('Fast')}Pil", None)
    if named and pil is not None and not getattr(pil, "is_dummy", False):
        return pil.from_pretrained(folder, local_files_only=True)
    return transformers.AutoImageProcessor.from_pretrained(
        folder, local_files_only=True, backend="pil"
    )


def _limit(processor: Any, pixels: tuple[int, int], kind: str) -> None:
    """Set the least and most pixels of an image, where the processor has such limits."""
    size: Any = getattr(processor, "size", None) or {}
    longest = size.get("longest_edge") if isinstance(size, dict) else size.longest_edge
    if getattr(processor, "merge_size", None) and longest:
        processor.size = {"shortest_edge": pixels[0], "longest_edge": pixels[1]}
    else:
        show(
            f"modgap: a {kind!r} sizes images in its own way: the pixel limits of the paper's style"
            " do not apply",
            error=True,
        )
