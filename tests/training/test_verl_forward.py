"""A pass of verl's actor over many rows gives what each row gives alone; verl is not needed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from modgap.core.prompt import Prompt
from modgap.core.recipe import Stage
from modgap.core.terms import Term
from modgap.models.load import load_policy, tiny_folder
from modgap.models.policy import Policy
from modgap.training.verl.forward import install, score
from modgap.training.verl.rows import Looks, Row, as_stored, rows_of, twins_of, with_twins


@pytest.fixture(scope="module")
def policy() -> Policy:
    policy = load_policy(tiny_folder(), device="cpu", dtype="float32")
    install(policy.model)
    return policy


def picture(n: int, side: int) -> Image.Image:
    image = Image.new("RGB", (side, side), "white")
    ImageDraw.Draw(image).line([(n * 29 % 190, 9), (150, n * 43 % 190)], fill="black", width=3)
    return image


def nested(rows: list[Tensor]) -> Any:
    offsets = torch.tensor([0, *(row.shape[-1] for row in rows)]).cumsum(0)
    return SimpleNamespace(values=lambda: torch.cat(rows, -1), offsets=lambda: offsets)


def batch(policy: Policy, asked: list[tuple[str, Image.Image | None]]) -> list[Row]:
    """Rows of these questions, through verl's columns; every second one has a twin."""
    ids, places, masks = list[Tensor](), list[Tensor](), list[Tensor]()
    media, fields = list[dict[str, Any]](), list[dict[str, Any]]()
    ends: dict[int, Tensor] = {}
    for i, (text, image) in enumerate(asked):
        prompt = policy.encode(Prompt(text, has_image=image is not None), image)
        twin = policy.encode(Prompt("Find x.", has_image=image is not None), image)
        response = torch.arange(40 + i, 45 + 2 * i)
        tail = torch.arange(len(response)).expand(3, -1) + prompt.next_position
        rope = torch.cat([prompt.position_ids, tail], 1)
        ids.append(torch.cat([prompt.input_ids, response]))
        places.append(torch.cat([torch.arange(rope.shape[1])[None], rope]))
        masks.append(torch.ones(len(response)))
        shown = {"pixel_values": prompt.pixel_values, "image_grid_thw": prompt.image_grid_thw}
        media.append({} if image is None else as_stored(shown, policy.bytes_seen))
        fields.append({"twin_prompt_ids": {"image-only": twin.input_ids.tolist()}})
        extended = torch.cat([twin.position_ids, torch.full((3, 1), twin.next_position)], 1)
        ends[len(twin.input_ids)] = extended
    data = {
        "input_ids": nested(ids), "position_ids": nested(places), "response_mask": nested(masks),
        "multi_modal_inputs": media, "extra_fields": fields,
    }  # fmt: skip
    rows = rows_of(data, policy.bytes_seen)
    looks = Looks(
        lambda ids, _: ends[len(ids) - 1], policy.model.config.image_token_id, policy.bytes_seen
    )
    terms = [Term("image-only")]
    if all(image is not None for _, image in asked):
        terms.append(Term(picture="masked", ratio=0.5))
    stage = Stage(("full-text",), terms=tuple(terms))
    found = twins_of(data, rows, [True] * len(rows), stage, looks)
    out = []
    for i, (row, twins) in enumerate(zip(rows, found, strict=True)):
        chosen = {k: twin for k, twin in enumerate(twins) if twin is not None and i % 2 == 0}
        out.append(with_twins(row, chosen))
    return out


SMALL, LARGE = 112, 196
CASES: dict[str, list[tuple[str, Image.Image | None]]] = {
    "two words, four images": [
        ("AB = 3. Find x.", picture(1, SMALL)), ("BC = 4. Find y.", picture(2, SMALL)),
        ("AB = 3. Find x.", picture(3, SMALL)), ("BC = 4. Find y.", picture(4, SMALL)),
    ],
    "one text, two sizes": [
        ("Find x.", picture(n, SMALL if n % 2 else LARGE)) for n in range(4)
    ],
    "samples of one prompt among others": [
        ("AB = 3.", picture(1, SMALL)), ("Find x.", None), ("AB = 3.", picture(1, SMALL)),
        ("AB = 5.", picture(1, SMALL)), ("Find x.", None),
    ],
    "no image": [("AB = 3.", None), ("BC = 4.", None)],
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_pass_gives_what_each_row_gives_alone(policy: Policy, name: str) -> None:
    rows = batch(policy, CASES[name])
    device = torch.device("cpu")

    def run(chosen: list[Row]) -> Tensor:
        return policy.model(run=lambda model: score(model, chosen, 0.8, device))[0]

    with torch.no_grad():
        together = run(rows)
        alone = [run([row]) for row in rows]
    parts = [logps.split(len(row.response)) for row, logps in zip(rows, alone, strict=True)]
    assert [len(part) for part in parts] == [1 + len(row.twins) for row in rows]
    # Rows, then those of the first twin, then those of the second.
    order = [part[k] for k in range(3) for part in parts if k < len(part)]
    torch.testing.assert_close(together, torch.cat(order), atol=2e-5, rtol=1e-4)


def test_entropies_and_gradients_reach_the_tower(policy: Policy) -> None:
    rows = batch(policy, CASES["two words, four images"])
    policy.model.zero_grad(set_to_none=True)
    logps, entropy = policy.model(run=lambda model: score(model, rows, 1.0, torch.device("cpu")))
    assert not entropy.requires_grad and bool((entropy > 0).all())
    logps.sum().backward()
    for module in (policy.visual, policy.decoder):
        assert all(p.grad is not None for p in module.parameters())
