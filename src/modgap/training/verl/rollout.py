"""verl's single-turn agent loop, which also tokenizes the text-free twin of a prompt.

The twin is the parquet's column `contrastive_prompt` (contrastive stages); it has the images of the
prompt. Its token ids are passed in `extra_fields` to the actor, where `plugin.py` reads them.
Without the column (other stages, validation) this is verl's own loop.
"""

# verl has an environment of its own.
# pyright: reportMissingImports=false

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from verl.experimental.agent_loop.agent_loop import AgentLoopOutput, register
from verl.experimental.agent_loop.single_turn_agent_loop import SingleTurnAgentLoop


@register("modgap")
class TwinAgentLoop(SingleTurnAgentLoop):
    """One turn, and the ids of the text-free prompt."""

    async def run(
        self, sampling_params: dict[str, Any], priority: int = 0, **kwargs: Any
    ) -> AgentLoopOutput:
        """Sample one response; see verl."""
        output = await super().run(sampling_params, priority, **kwargs)
        if (twin := kwargs.get("contrastive_prompt")) is not None:
            messages = twin_messages(twin, kwargs["raw_prompt"])
            images = (output.multi_modal_data or {}).get("images")
            output.extra_fields["contrastive_prompt_ids"] = await self.ct_build_initial_tokens(
                messages, images=images
            )
        return output


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
