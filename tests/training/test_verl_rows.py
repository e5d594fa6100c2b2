"""Rows of verl's batch as prompts, responses and twins, and their division into passes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from modgap.core.recipe import Stage
from modgap.core.terms import Term
from modgap.models.encode import EncodedPrompt
from modgap.training.verl.rows import (
    Looks,
    Row,
    as_stored,
    divide,
    rows_of,
    tokens_of,
    twins_of,
    with_twins,
)


def nested(rows: Sequence[Tensor]) -> Any:
    offsets = torch.tensor([0, *(row.shape[-1] for row in rows)]).cumsum(0)
    return SimpleNamespace(values=lambda: torch.cat(list(rows), -1), offsets=lambda: offsets)


def image(seed: int) -> dict[str, Any]:
    pixels = torch.rand(4, 6, generator=torch.Generator().manual_seed(seed))
    return {"pixel_values": pixels, "image_grid_thw": torch.tensor([[1, 2, 2]])}


def data(media: Sequence[dict[str, Any]], prompts: Sequence[Sequence[int]]) -> dict[str, Any]:
    ids = [torch.tensor([*prompt, 90 + i]) for i, prompt in enumerate(prompts)]
    return {
        "input_ids": nested(ids),
        "position_ids": nested([torch.arange(len(row)).expand(4, -1) for row in ids]),
        "response_mask": nested([torch.ones(1) for _ in ids]),
        "multi_modal_inputs": media,
        "extra_fields": [{"twin_prompt_ids": {"image-only": [1, 2, 3]}} for _ in ids],
    }


def positions(ids: Tensor, grids: Tensor | None) -> Tensor:
    return torch.arange(len(ids)).expand(3, -1)


TABLE = torch.linspace(-1.8, 2.2, 256).expand(3, -1) * torch.tensor([[1.0], [0.9], [1.1]])
LOOKS = Looks(positions, 3, TABLE)
KL = Stage(("full-text",), contrastive=True)


def test_samples_of_a_prompt_share_it_and_its_twin() -> None:
    a, b = image(1), image(2)
    media = [a, image(1), b, a, {}, {}]
    given = data(media, [[1, 2, 4]] * 3 + [[1, 2, 5]] + [[1, 2, 4]] * 2)
    rows = rows_of(given, TABLE)
    objects = [id(row.prompt) for row in rows]
    assert [objects.index(each) for each in objects] == [0, 0, 2, 3, 4, 4]
    assert [row.response.tolist() for row in rows] == [[90 + i] for i in range(6)]
    assert rows[0].prompt.next_position == 3
    found = [own[0] for own in twins_of(given, rows, [True] * 4 + [False] * 2, KL, LOOKS)]
    assert found[0] is found[1] is not found[2] and found[4] is None
    assert found[0] is not None and found[0].next_position == 3
    assert found[0].image_key == rows[0].prompt.image_key
    with_own = with_twins(rows[0], {0: found[0]})
    assert with_own.twins[0] is found[0] and with_own.prompt is rows[0].prompt


def test_a_twin_whose_words_are_missing_is_named() -> None:
    given = data([image(1)], [[1, 2, 4]])
    stage = Stage(("full-text",), terms=(Term("text-only"),))
    with pytest.raises(ValueError, match="lacks the words of its twin text-only"):
        twins_of(given, rows_of(given, TABLE), [True], stage, LOOKS)


def test_prompts_of_the_same_words_are_told_apart_by_their_images() -> None:
    media = [image(1), image(2), image(3), image(4)]
    rows = rows_of(data(media, [[1, 2], [1, 3], [1, 2], [1, 3]]), TABLE)
    assert len({id(row.prompt) for row in rows}) == 4
    assert len({row.prompt.image_key for row in rows}) == 4


def test_an_empty_response_is_refused() -> None:
    empty = data([{}, {}], [[1, 2], [1, 3]])
    empty["response_mask"] = nested([torch.ones(1), torch.ones(0)])
    with pytest.raises(ValueError, match="row 1 of the batch has an empty response"):
        rows_of(empty, TABLE)


def test_a_row_with_two_images_is_refused() -> None:
    two = {"pixel_values": torch.rand(8, 6), "image_grid_thw": torch.tensor([[1, 2, 2]] * 2)}
    with pytest.raises(ValueError, match="a prompt with 2 images"):
        rows_of(data([two], [[1, 2]]), TABLE)


def processed(seed: int) -> dict[str, Any]:
    """What an image processor makes of random bytes: each frame twice."""
    random = torch.Generator().manual_seed(seed)
    levels = torch.randint(0, 256, (4, 3, 1, 196), generator=random)
    numbers = TABLE[torch.arange(3)[:, None, None], levels].expand(-1, -1, 2, -1).reshape(4, -1)
    return {"pixel_values": numbers, "image_grid_thw": torch.tensor([[1, 2, 2]])}


def test_images_are_stored_as_bytes_and_come_back_as_they_were() -> None:
    media = [processed(1), processed(2), processed(1)]
    stored = [as_stored(own, TABLE) for own in media]
    assert all("pixel_values" not in own for own in stored)
    size = stored[0]["pixel_bytes"].numel()
    assert size * 8 == media[0]["pixel_values"].nbytes
    rows = rows_of(data(stored, [[1, 2]] * 3), TABLE)
    assert rows[0].prompt is rows[2].prompt is not rows[1].prompt
    for row, own in zip(rows, media, strict=True):
        assert row.prompt.pixel_values is not None
        torch.testing.assert_close(row.prompt.pixel_values, own["pixel_values"])


@pytest.mark.parametrize("what", ["between two bytes", "frames that differ", "two images"])
def test_images_that_are_no_bytes_are_stored_as_they_are(what: str) -> None:
    media = processed(1)
    values = media["pixel_values"].clone()
    if what == "between two bytes":
        values += (TABLE[0, 1] - TABLE[0, 0]) / 2
    elif what == "frames that differ":
        values[0, 196:392] += 1.0
    else:
        media["image_grid_thw"] = torch.tensor([[1, 1, 2]] * 2)
    media["pixel_values"] = values
    assert as_stored(media, TABLE) == media


def prompt(tokens: int) -> EncodedPrompt:
    ids = torch.arange(tokens)
    return EncodedPrompt(ids, ids.expand(3, -1), tokens)


def made(rng: random.Random) -> list[Row]:
    rows: list[Row] = []
    for _ in range(rng.randint(1, 6)):
        shared, twin = prompt(rng.randint(5, 40)), prompt(30)
        for _ in range(rng.randint(1, 5)):
            response = torch.arange(rng.randint(1, 50))
            with_twin = rng.random() < 0.5
            rows.append(Row(shared, response, *(({0: twin}, {0: 10}) if with_twin else ())))
    rng.shuffle(rows)
    return rows


@pytest.mark.parametrize("seed", range(30))
def test_every_row_is_in_one_pass_within_the_budget(seed: int) -> None:
    rng = random.Random(seed)
    rows, budget = made(rng), rng.randint(1, 400)
    passes = divide(rows, budget)
    assert sorted(i for each in passes for i in each) == list(range(len(rows)))
    for each in passes:
        assert len(each) == 1 or tokens_of([rows[i] for i in each]) <= budget


@pytest.mark.parametrize("seed", range(30))
def test_a_rank_makes_as_many_passes_as_the_others(seed: int) -> None:
    rng = random.Random(seed)
    rows = made(rng)
    needed = len(divide(rows, 150))
    wanted = rng.randint(needed, len(rows))
    passes = divide(rows, 150, lambda n: max(n, wanted))
    assert len(passes) == wanted and all(passes)
    assert sorted(i for each in passes for i in each) == list(range(len(rows)))


def test_a_group_that_fits_is_not_cut_and_counts_its_prompt_once() -> None:
    shared, twin = prompt(100), prompt(60)
    group = [Row(shared, torch.arange(10), {0: twin}, {0: 20}) for _ in range(3)]
    assert tokens_of(group) == 100 + 30 + 20 + 30
    other = [Row(prompt(100), torch.arange(10)) for _ in range(2)]
    mixed = [group[0], other[0], group[1], other[1], group[2]]
    assert divide(mixed, 250) == [[0, 2, 4], [1, 3]]


def test_passes_are_about_equal() -> None:
    rows = [Row(prompt(10), torch.arange(30)) for _ in range(9)]
    assert [len(each) for each in divide(rows, 320)] == [5, 4]
