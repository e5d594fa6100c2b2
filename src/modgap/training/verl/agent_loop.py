"""verl's single-turn agent loop, which also tokenizes the words of twins; images kept as bytes."""

# verl has an environment of its own.
# pyright: reportMissingImports=false

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import PrivateAttr
from verl.experimental.agent_loop.agent_loop import AgentLoopOutput, register
from verl.experimental.agent_loop.single_turn_agent_loop import SingleTurnAgentLoop

from modgap.training.verl.rows import as_stored, byte_table

_IDS: dict[tuple[Any, ...], asyncio.Future[list[int]]] = {}
"""Ids of the prompts that this worker saw last."""
_KEPT = 1000


@register("modgap")
class TwinAgentLoop(SingleTurnAgentLoop):
    """One turn, and the ids of the prompts of twins."""

    async def ct_build_initial_tokens(
        self, messages: list[dict[str, Any]], *args: Any, images: Any = None, **named: Any
    ) -> list[int]:
        """As verl's, which prepares the images each time, but once for the samples of a prompt.

        The ids depend on the words and on the sizes of the images: this loop has neither tools nor
        videos.
        """
        sizes = tuple(image.size for image in images or ())
        words = tuple((message["role"], _words(message["content"])) for message in messages)
        key = (words, sizes)
        if key not in _IDS:
            if len(_IDS) >= _KEPT:
                _IDS.pop(next(iter(_IDS)))
            # The samples of a prompt come together: the first one starts the work, all wait for it.
            work = super().ct_build_initial_tokens(messages, *args, images=images, **named)
            _IDS[key] = asyncio.ensure_future(work)
        try:
            return list(await asyncio.shield(_IDS[key]))
        except Exception:
            _IDS.pop(key, None)
            raise

    async def run(
        self, sampling_params: dict[str, Any], priority: int = 0, **kwargs: Any
    ) -> AgentLoopOutput:
        """Sample one response; see verl."""
        sampled = await super().run(sampling_params, priority, **kwargs)
        output = StoredOutput.model_construct(sampled.model_fields_set, **dict(sampled))
        output._table = byte_table(self.processor.image_processor)
        images = (output.multi_modal_data or {}).get("images")
        turns: dict[str, Any] = {}
        if (twin := kwargs.get("contrastive_prompt")) is not None:
            turns["image-only"] = twin
        if written := kwargs.get("twin_prompts"):
            told = json.loads(written)
            output.extra_fields["rollout_view"] = told["view"]
            for view, words in told["twins"].items():
                turns[view] = [{"role": "user", "content": words}]
        ids: dict[str, list[int]] = {}
        for view, turn in turns.items():
            messages = twin_messages(turn, kwargs["raw_prompt"])
            shown = any(_IMAGE in _words(message["content"]) for message in messages)
            ids[view] = await self.ct_build_initial_tokens(
                messages, images=images if shown else None
            )
        if ids:
            output.extra_fields["twin_prompt_ids"] = ids
        return output


class StoredOutput(AgentLoopOutput):
    """A response whose row is kept until the update as it is needed there.

    verl's worker asks for the row's fields, adds its own to them, and gives them to the
    TransferQueue.
    """

    _table: Any = PrivateAttr()

    def as_dict(self) -> dict[str, Any]:
        """The fields of the row, see verl."""
        return StoredFields(super().as_dict(), self._table)


class StoredFields(dict[str, Any]):
    """Fields of a row: images as bytes (`rows.as_stored`), and not a second time in its messages.

    Args:
        fields: What is known of the row.
        table: What the image processor makes of each byte.
    """

    def __init__(self, fields: Mapping[str, Any], table: Any) -> None:
        super().__init__(fields)
        self._table = table

    def __setitem__(self, key: str, value: Any) -> None:
        if key == "multi_modal_inputs":
            value = as_stored(value, self._table)
        elif key == "raw_prompt":  # for reward models, which recipes do not have
            value = [{**turn, "content": _shown(turn["content"])} for turn in value]
        super().__setitem__(key, value)

    def update(self, fields: Mapping[str, Any]) -> None:  # type: ignore[override]
        """As a dictionary's, but through `__setitem__`."""
        for key, value in fields.items():
            self[key] = value


def _shown(content: Any) -> Any:
    """A message's content with a mark in the place of each image."""
    if isinstance(content, str):
        return content
    return [part if part["type"] == "text" else {"type": part["type"]} for part in content]


_IMAGE = "\0"
"""Stands for an image among the texts of a message."""


def _words(content: Any) -> tuple[str, ...]:
    """The texts of a message, with a mark where an image is."""
    if isinstance(content, str):
        return (content,)
    return tuple(part.get("text", "") if part["type"] == "text" else _IMAGE for part in content)


def twin_messages(
    twin: Iterable[Mapping[str, Any]], raw_prompt: Iterable[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The twin's turns as messages for a chat template.

    Each `<image>` is replaced by an image of the prompt, in order.
    """
    images: list[Any] = []
    for message in raw_prompt:
        if not isinstance(message["content"], str):
            images += [part for part in message["content"] if part.get("type") == "image"]
    rest = iter(images)
    out: list[dict[str, Any]] = []
    for message in twin:
        content: list[Any] = []
        for text in re.split("(<image>)", message["content"]):
            if text == "<image>":
                content.append(next(rest))
            elif text:
                content.append({"type": "text", "text": text})
        out.append({"role": message["role"], "content": content})
    return out
