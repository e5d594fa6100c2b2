"""Images as patches, bit for bit those of transformers' processor, in an eighth of the memory.

The image processor turns each image into floating-point numbers, twice over (the tower wants two
frames), and rescales, normalises and reorders those. A pixel has only 256 values: here bytes are
reordered and converted on the model's device, with a table that the processor itself has filled. A
noise image is put through both once; if they differ (another processor, another release), the
processor's numbers are used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image as images
from torch import Tensor

from modgap.models.casts import moved

if TYPE_CHECKING:
    from PIL.Image import Image


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
            levels = np.broadcast_to(np.arange(256, dtype=np.uint8), (3, 1, 256))
            levels = processor.rescale(levels, processor.rescale_factor)
            levels = processor.normalize(levels, processor.image_mean, processor.image_std)
            self._table = torch.from_numpy(np.array(levels[:, 0], dtype=np.float32))
        return Pixels(
            torch.from_numpy(pixels), (1, rows, columns), self._table, processor.temporal_patch_size
        )
