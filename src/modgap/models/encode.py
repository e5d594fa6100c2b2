"""Prompts as the model takes them: ChatML tokens, image patches and M-RoPE positions.

Everything here is done once for a prompt, on the CPU. The chat is rendered by hand and equals what
Qwen2.5-VL's own template gives, token for token (a test checks it), with two differences.
`system=None` means no system turn (the template would add its default one; MathVerse's prompts have
none). Text that spells a special token (`<|image_pad|>`) is plain text.

Patches are bit for bit those of transformers' processor, in an eighth of the memory. The processor
turns each image into floating-point numbers, twice over (the tower wants two frames), and rescales,
normalises and reorders those. A pixel has only 256 values: here bytes are reordered and converted
on the model's device, with a table that the processor itself has filled. A noise image is put
through both once; if they differ (another processor, another release), the processor's numbers are
used.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image as images
from torch import Tensor

from modgap.core.errors import UserError
from modgap.core.images import to_rgb
from modgap.models.casts import moved

if TYPE_CHECKING:
    from PIL.Image import Image

    from modgap.core.prompt import Prompt


@dataclass(frozen=True, slots=True, eq=False)
class Pixels:
    """The patches of one image.

    Attributes:
        data: `[N, 3, 196]` uint8, one frame; without a table `[N, 1176]` fp32.
        grid: (frames, rows, columns) in patches.
        table: `[3, 256]` fp32, the number of each byte in each channel.
        frames: How often the frame is repeated in a patch.
    """

    data: Tensor
    grid: tuple[int, int, int]
    table: Tensor | None = None
    frames: int = 2


def pixel_values(shown: Sequence[Pixels], device: torch.device | str = "cpu") -> Tensor:
    """Patches of images as the tower takes them, one image after the other, `[N, 1176]` fp32."""
    first = shown[0]
    if any(pixels.table is not first.table for pixels in shown):
        return torch.cat([pixel_values([pixels], device) for pixels in shown])
    data = moved(torch.cat([pixels.data for pixels in shown]), device)
    if first.table is None:
        return data
    n, channels, size = data.shape
    table = moved(first.table.flatten(), device)
    offsets = torch.arange(0, table.numel(), 256, device=device).int()
    out = torch.empty(n, channels, first.frames, size, device=data.device)
    chunk = n if data.is_cuda else 256  # what fits into a CPU's cache
    for into, part in zip(out.split(chunk), data.split(chunk), strict=True):
        numbers = table.index_select(0, (part.int() + offsets[:, None]).flatten())
        into[:] = numbers.view(-1, channels, 1, size)
    return out.view(n, -1)


def byte_table(processor: Any) -> Tensor:
    """The number that an image processor makes of each byte, in each channel, `[3, 256]` fp32."""
    levels = np.broadcast_to(np.arange(256, dtype=np.uint8), (3, 1, 256))
    levels = processor.rescale(levels, processor.rescale_factor)
    levels = processor.normalize(levels, processor.image_mean, processor.image_std)
    return torch.from_numpy(np.array(levels[:, 0], dtype=np.float32))


class Patches:
    """Cuts images into the patches of Qwen2.5-VL.

    Args:
        processor: A `Qwen2VLImageProcessorPil`.

    Attributes:
        short: Whether the short way equals the processor; `None` before the first image.
    """

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self._table: Tensor | None = None
        self._settings: str | None = None
        self.short: bool | None = None

    def __call__(self, image: Image) -> Pixels:
        """The patches of an RGB image."""
        settings = repr(vars(self._processor))  # its sizes may be changed after it was created
        if settings != self._settings:
            self._settings, self.short, self._table = settings, None, None
        if self.short is None:
            self.short = self._agrees()
        return self._short(image) if self.short else self._long(image)

    def _long(self, image: Image) -> Pixels:
        out = self._processor(images=[image], return_tensors="pt")
        frames, rows, columns = out["image_grid_thw"][0].tolist()
        return Pixels(out["pixel_values"], (frames, rows, columns))

    def _agrees(self) -> bool:
        noise = np.random.default_rng(0).integers(0, 256, (61, 90, 3), dtype=np.uint8)
        image = images.fromarray(noise)
        try:
            short, long = self._short(image), self._long(image)
            return short.grid == long.grid and torch.equal(pixel_values([short]), long.data)
        except Exception:  # another release may have renamed anything: the processor still works
            return False

    def _short(self, image: Image) -> Pixels:
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

        processor = self._processor
        patch, merge, size = processor.patch_size, processor.merge_size, processor.size
        height, width = smart_resize(
            image.height, image.width, patch * merge, size["shortest_edge"], size["longest_edge"]
        )
        if (width, height) != image.size:
            image = image.resize((width, height), resample=int(processor.resample))
        rows, columns = height // patch, width // patch
        pixels = np.asarray(image).reshape(
            rows // merge, merge, patch, columns // merge, merge, patch, 3
        )
        pixels = pixels.transpose(0, 3, 1, 4, 6, 2, 5).reshape(rows * columns, 3, patch * patch)
        if self._table is None:
            self._table = byte_table(processor)
        return Pixels(
            torch.from_numpy(pixels), (1, rows, columns), self._table, processor.temporal_patch_size
        )


@dataclass(frozen=True, slots=True, eq=False)
class EncodedPrompt:
    """A prompt in tokens.

    Pass the same object for all samples of one prompt: they then share its computation.

    Attributes:
        input_ids: `[L]` int64, the image placeholder repeated for each merged token.
        position_ids: `[3, L]` int64, M-RoPE positions (time, row, column).
        next_position: Position of the first token after the prompt, the same on all three axes.
        pixels: The image's patches, or `None` without an image.
        image_key: Digest of the image; prompts that show the same image share their features.
        image_tokens: Tokens of the image, 0 without one.
        opened: As of a `Completion`; the chat that is rendered here opens nothing.
        left_out: As of a `Completion`; nothing is.
    """

    input_ids: Tensor
    position_ids: Tensor
    next_position: int
    pixels: Pixels | None = None
    image_key: str | None = None
    image_tokens: int = 0
    opened: str = ""
    left_out: tuple[str, ...] = ()

    def __len__(self) -> int:
        return self.input_ids.numel()

    @property
    def grid(self) -> tuple[int, int, int]:
        """(frames, rows, columns) of the image, in patches."""
        assert self.pixels is not None, "a prompt without an image has no grid"
        return self.pixels.grid

    @property
    def pixel_values(self) -> Tensor | None:
        """The input of transformers' model: `[patches, numbers]` float32; `None` without one."""
        return None if self.pixels is None else pixel_values([self.pixels])

    @property
    def image_grid_thw(self) -> Tensor | None:
        """The input of transformers' model: `[1, 3]` int64 (frames, rows, columns of patches).

        `None` without an image.
        """
        return None if self.pixels is None else torch.tensor([self.pixels.grid])


def mrope_positions(
    input_ids: Tensor, image_token: int, grid: tuple[int, int, int] | None, merge: int
) -> tuple[Tensor, int]:
    """M-RoPE positions of one prompt with at most one image, equal to the model's `get_rope_index`.

    Returns:
        Positions `[3, L]`, and the position of the first token after them.
    """
    length = input_ids.numel()
    if grid is None:
        return torch.arange(length).expand(3, length).contiguous(), length
    frames, rows, columns = grid[0], grid[1] // merge, grid[2] // merge
    start = int((input_ids == image_token).nonzero()[0])
    image = torch.stack(
        torch.meshgrid(
            torch.arange(frames), torch.arange(rows), torch.arange(columns), indexing="ij"
        )
    ).view(3, -1)
    after = start + max(rows, columns)
    tail = length - start - image.shape[1]
    parts = [
        torch.arange(start).expand(3, -1),
        image + start,
        (torch.arange(tail) + after).expand(3, -1),
    ]
    return torch.cat(parts, dim=1), after + tail


@dataclass
class Encoder:
    """Turns prompts and images into `EncodedPrompt`s.

    Attributes:
        tokenizer: The model's tokenizer.
        image_processor: Its image processor (PIL, so that no torchvision is needed).
        config: The model's config, for the ids of the special tokens.
        keep_images: How many processed images are cached, for the other views of a problem.
    """

    tokenizer: Any
    image_processor: Any
    config: Any
    keep_images: int = 64
    _images: OrderedDict[str, Pixels] = field(default_factory=OrderedDict, repr=False)

    def __post_init__(self) -> None:
        start, end = (
            self.tokenizer.convert_tokens_to_ids(name) for name in ("<|im_start|>", "<|im_end|>")
        )
        assert isinstance(start, int) and isinstance(end, int), (
            "a Qwen2.5-VL tokenizer has ChatML's tokens"
        )
        self._im_start, self._im_end = start, end
        self._patches = Patches(self.image_processor)

    def _text(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)[
            "input_ids"
        ]

    def image(self, image: Image) -> tuple[str, Pixels]:
        """Digest and patches of an image."""
        image = to_rgb(image)
        key = hashlib.blake2b(
            repr(image.size).encode() + image.tobytes(), digest_size=16
        ).hexdigest()
        if key not in self._images:
            self._images[key] = self._patches(image)
            while len(self._images) > self.keep_images:
                self._images.popitem(last=False)
        self._images.move_to_end(key)
        return key, self._images[key]

    def tokens(self, prompt: Prompt, merged: int = 0) -> list[int]:
        """Token ids of a prompt; its image, if it shows one, has `merged` merged tokens."""
        ids: list[int] = []
        if prompt.system is not None:
            ids += [
                self._im_start,
                *self._text(f"system\n{prompt.system}"),
                self._im_end,
                *self._text("\n"),
            ]
        ids.append(self._im_start)
        if prompt.has_image:
            ids += [*self._text("user\n"), self.config.vision_start_token_id]
            ids += [self.config.image_token_id] * merged
            ids += [self.config.vision_end_token_id, *self._text(prompt.text)]
        else:
            ids += self._text(f"user\n{prompt.text}")
        return [
            *ids,
            self._im_end,
            *self._text("\n"),
            self._im_start,
            *self._text(f"assistant\n{prompt.prefill}"),
        ]

    def __call__(self, prompt: Prompt, image: Image | None) -> EncodedPrompt:
        """Encode one prompt.

        Args:
            prompt: Its words.
            image: Its image; ignored where the prompt shows none.

        Raises:
            UserError: The prompt shows an image and none is given.
        """
        key = pixels = grid = None
        merge, merged = self.config.vision_config.spatial_merge_size, 0
        if prompt.has_image:
            if image is None:
                raise UserError(
                    f"this prompt shows an image and none is given: {prompt.text[:60]!r}..."
                )
            key, pixels = self.image(image)
            grid = pixels.grid
            merged = grid[0] * grid[1] * grid[2] // merge**2
        input_ids = torch.tensor(self.tokens(prompt, merged))
        positions, following = mrope_positions(input_ids, self.config.image_token_id, grid, merge)
        return EncodedPrompt(input_ids, positions, following, pixels, key, merged)
