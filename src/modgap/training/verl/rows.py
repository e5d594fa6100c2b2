"""Rows of a batch of verl's as prompts, responses and twins, and their division into passes.

Samples of one prompt share a prompt object, so that a pass computes it once (`models/tree.py`). A
pass is filled up to a budget of tokens: each prompt and each twin counts once, and every response.

Legend: L tokens of a row, P of its prompt, T of its response.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from modgap.core.recipe import Stage
from modgap.models.encode import EncodedPrompt, Pixels, pixel_values
from modgap.models.tree import common_beginning
from modgap.training.pictures import as_bytes, pictured

Positions = Callable[[Tensor, Tensor | None], Tensor]
"""(ids `[L]`, grids `[images, 3]`) -> M-RoPE positions `[3, L]`."""


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One response and what it follows.

    Attributes:
        prompt: The same object for all samples of a prompt.
        response: `[T]`.
        twins: Number of a twin -> its prompt, for twins that are scored in the pass; the same
            object for all samples.
        twin_tokens: Number of a twin -> tokens of it after its common beginning with the prompt.
    """

    prompt: EncodedPrompt
    response: Tensor
    twins: Mapping[int, EncodedPrompt] = field(default_factory=dict[int, EncodedPrompt])
    twin_tokens: Mapping[int, int] = field(default_factory=dict[int, int])


def rows_of(data: Mapping[str, Any], table: Tensor) -> list[Row]:
    """The rows of a batch, without twins.

    Args:
        data: verl's columns: nested `input_ids` and `position_ids`, `response_mask` and
            `multi_modal_inputs`.
        table: What the image processor makes of each byte (`byte_table`).

    Raises:
        ValueError: A row has several images, or no response.
    """
    lengths, responses = lengths_of(data["input_ids"]), lengths_of(data["response_mask"])
    ids = data["input_ids"].values().cpu().split(lengths)
    places = data["position_ids"].values().cpu().split(lengths, dim=-1)
    media = items(data, "multi_modal_inputs")
    prompts: dict[bytes, list[EncodedPrompt]] = {}
    out: list[Row] = []
    for i, count in enumerate(responses):
        if not count:
            raise ValueError(f"row {i} of the batch has an empty response: nothing to train on")
        asked, response = ids[i][:-count], ids[i][-count:]
        alike = prompts.setdefault(asked.numpy().tobytes(), [])
        pixels = pixels_of(media[i], table)
        prompt = _same(alike, pixels)
        if prompt is None:
            key = None if pixels is None else f"row {i}"  # no other prompt has it
            own, after = places[i][1:, :-count], int(places[i][1, -count])
            prompt = EncodedPrompt(asked, own, after, pixels, key)
            alike.append(prompt)
        out.append(Row(prompt, response))
    return out


@dataclass(frozen=True, slots=True)
class Looks:
    """What is known of a model's prompts.

    Attributes:
        positions: Positions of a prompt.
        image_token: Id of the image's placeholder.
        table: What the image processor makes of each byte, for twins with other pictures.
    """

    positions: Positions
    image_token: int
    table: Tensor


def twins_of(
    data: Mapping[str, Any], rows: Sequence[Row], real: Sequence[bool], stage: Stage, looks: Looks
) -> list[tuple[EncodedPrompt | None, ...]]:
    """For each row its prompt of each of the stage's twins; `None` where it has none.

    Args:
        data: verl's columns, with `extra_fields`.
        rows: Its rows.
        real: Whether each is one that verl did not add as padding.
        stage: With terms.
        looks: Of the model.

    Raises:
        ValueError: A row lacks the words of a twin.
    """
    known: dict[tuple[Any, ...], EncodedPrompt] = {}
    out: list[tuple[EncodedPrompt | None, ...]] = []
    for row, own, fields in zip(rows, real, items(data, "extra_fields"), strict=True):
        if not own:
            out.append((None,) * len(stage.twins))
            continue
        found: list[EncodedPrompt] = []
        for twin in stage.twins:
            ids: tuple[int, ...] = ()
            if twin.view:
                written = fields.get("twin_prompt_ids") or {}
                if twin.view not in written:
                    raise ValueError(f"a row of the batch lacks the words of its twin {twin.view}")
                ids = tuple(written[twin.view])
            key = (id(row.prompt), ids, twin.shown)
            if key not in known:
                prompt = _twin_of(row.prompt, ids, looks) if twin.view else row.prompt
                if twin.picture != "own":
                    prompt = pictured(prompt, twin, looks.table)
                known[key] = prompt
            found.append(known[key])
        out.append(tuple(found))
    return out


def with_twins(row: Row, twins: Mapping[int, EncodedPrompt]) -> Row:
    """A row with the twins that are scored in its pass."""
    tokens: dict[int, int] = {}
    for k, twin in twins.items():
        shared = 0
        if row.prompt.image_key is not None and row.prompt.image_key == twin.image_key:
            shared = common_beginning([row.prompt.input_ids, twin.input_ids])
        tokens[k] = len(twin) - shared
    return replace(row, twins=dict(twins), twin_tokens=tokens)


def _same(alike: Sequence[EncodedPrompt], pixels: Pixels | None) -> EncodedPrompt | None:
    """The prompt that shows this image, or none."""
    for prompt in alike:
        shown = prompt.pixels
        if shown is None or pixels is None:
            if shown is pixels:
                return prompt
        elif shown.grid == pixels.grid and torch.equal(shown.data, pixels.data):
            return prompt
    return None


def _twin_of(prompt: EncodedPrompt, ids: Sequence[int], looks: Looks) -> EncodedPrompt:
    shown = looks.image_token in ids
    pixels, key = (prompt.pixels, prompt.image_key) if shown else (None, None)
    grids = None if pixels is None else torch.tensor([pixels.grid])
    # One token more: its position is where a response begins.
    places = looks.positions(torch.tensor([*ids, 0]), grids)
    own, after = places[:, :-1], int(places[0, -1])
    return EncodedPrompt(torch.tensor(ids), own, after, pixels, key)


def byte_table(processor: Any) -> Tensor:
    """The number that an image processor makes of each byte, in each channel, `[3, 256]` fp32."""
    mean, std = (torch.tensor(x)[:, None] for x in (processor.image_mean, processor.image_std))
    return (torch.arange(256) * processor.rescale_factor - mean) / std


def as_stored(media: Mapping[str, Any], table: Tensor) -> dict[str, Any]:
    """A row's images as they are kept until the update: bytes of one frame.

    verl keeps the processor's numbers for each sample of a prompt: fp32, each frame twice. Bytes
    are an eighth of that. Numbers that do not follow from bytes stay as they are.

    Args:
        media: What the processor made of the row's images.
        table: What it makes of each byte.
    """
    values, grids = media.get("pixel_values"), media.get("image_grid_thw")
    if values is None or grids is None or len(grids) != 1 or values.shape[1] % 6:
        return dict(media)
    numbers = Pixels(values.cpu(), (1, 1, len(values)))
    stored = as_bytes(numbers, table)
    again = pixel_values([replace(numbers, data=stored, table=table)])
    if not torch.allclose(again, numbers.data.float(), rtol=0.0, atol=1e-3):
        return dict(media)
    kept = {key: value for key, value in media.items() if key != "pixel_values"}
    return kept | {"pixel_bytes": stored}


def pixels_of(media: Mapping[str, Any], table: Tensor) -> Pixels | None:
    """The image of a row, or none.

    Args:
        media: Of the row, as verl or `as_stored` has it.
        table: What the image processor makes of each byte.

    Raises:
        ValueError: The row has several images.
    """
    grids = media.get("image_grid_thw")
    if grids is None or not len(grids):
        return None
    if len(grids) > 1:
        raise ValueError(f"a prompt with {len(grids)} images: recipes train on one image a prompt")
    frames, rows, columns = grids[0].tolist()
    if (stored := media.get("pixel_bytes")) is not None:
        return Pixels(stored.cpu(), (frames, rows, columns), table)
    return Pixels(media["pixel_values"].cpu(), (frames, rows, columns))


def items(data: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    """The values of a column that holds no tensors."""
    return [getattr(item, "data", item) or {} for item in data[key]]


def lengths_of(nested: Any) -> list[int]:
    """The lengths of a nested tensor's rows."""
    return nested.offsets().diff().tolist()


# Passes


def divide(
    rows: Sequence[Row], budget: int, agree: Callable[[int], int] = lambda n: n
) -> list[list[int]]:
    """Divide rows into passes of about equal tokens.

    Rows of a group are next to each other, so a pass ends within at most one group.

    Args:
        rows: The rows of this rank.
        budget: Most tokens of a pass. A row that alone has more is a pass of its own.
        agree: From the passes that this rank needs to the number that all ranks make: FSDP's
            collectives wait for every rank. At most as many as there are rows.

    Returns:
        The indices of each pass's rows; every row once.
    """
    first: dict[int, int] = {}
    for i, row in enumerate(rows):
        first.setdefault(id(row.prompt), i)
    order = sorted(range(len(rows)), key=lambda i: first[id(rows[i].prompt)])
    count = agree(len(_fill(rows, order, budget)))
    # The smallest budget with that many passes makes them equal and needs the least memory.
    low, high = 0, max(budget, tokens_of(rows))
    while high - low > 1:
        middle = (low + high) // 2
        if len(_fill(rows, order, middle)) <= count:
            high = middle
        else:
            low = middle
    passes = _fill(rows, order, high)
    while len(passes) < count:
        largest = max(passes, key=len)
        at, half = passes.index(largest), len(largest) // 2
        passes[at : at + 1] = [largest[:half], largest[half:]]
    return passes


def tokens_of(rows: Sequence[Row]) -> int:
    """Tokens of a pass over these rows."""
    seen: set[int] = set()
    return sum(_added(row, seen) for row in rows)


def _added(row: Row, seen: set[int]) -> int:
    """Tokens that a row adds to a pass with the prompts that were seen; they become seen."""
    total = len(row.response)
    if id(row.prompt) not in seen:
        total += len(row.prompt)
    seen.add(id(row.prompt))
    for k, twin in row.twins.items():
        total += len(row.response) + (0 if id(twin) in seen else row.twin_tokens[k])
        seen.add(id(twin))
    return total


def _fill(rows: Sequence[Row], order: Sequence[int], budget: int) -> list[list[int]]:
    """Passes filled one after the other."""
    passes: list[list[int]] = []
    seen, used = set[int](), 0
    for i in order:
        added = _added(rows[i], seen)
        if not passes or used + added > budget:
            passes.append([])
            seen, used = set[int](), 0
            added = _added(rows[i], seen)
        passes[-1].append(i)
        used += added
    return passes
