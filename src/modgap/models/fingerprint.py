"""What identifies a model folder in a run's manifest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from modgap.models.folder import ADAPTER, ADAPTER_CONFIG, ADAPTER_WEIGHTS, IMAGE_PROCESSOR

# Weight files up to this size are hashed whole; of larger ones the header and three slices of every
# tensor are.
_HASH_WHOLE = 64 * 2**20
_SLICE = 4096


def model_fingerprint(folder: str | Path) -> str:
    """16 hex digits that change with the config, the tokenizer or the weights of a model folder.

    Of a file above 64 MB only the header and three slices of every tensor are read: 4 KB at its
    start, middle and end (in formats other than safetensors, of every thousandth of the file). So
    it stays cheap, and training that changes a whole tensor, as merged LoRA adapters do, is still
    detected.
    """
    digest = hashlib.sha256()
    folder = Path(folder)
    processor = next((name for name in IMAGE_PROCESSOR if (folder / name).is_file()), "")
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
