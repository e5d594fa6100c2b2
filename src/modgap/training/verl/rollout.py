"""verl's single-turn agent loop, which also tokenizes the text-free twin of a prompt.

The twin is the parquet's column `contrastive_prompt` (contrastive stages); it has the images of the
prompt. Its token ids are passed in `extra_fields` to the actor, where `plugin.py` reads them.
Without the column (other stages, validation) this is verl's own loop.
"""

# verl has an environment of its own.
# pyright: reportMissingImports=false

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
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
    parts: Sequence[Any]
    images = [
        part
        for message in raw_prompt
        for part in (message["content"] if not isinstance(message["content"], str) else [])
        if part.get("type") == "image"
    ]
    rest = iter(images)
    out: list[dict[str, Any]] = []
    for message in twin:
        parts = [text for text in re.split("(<image>)", message["content"]) if text]
        content = [
            next(rest) if text == "<image>" else {"type": "text", "text": text} for text in parts
        ]
        out.append({"role": message["role"], "content": content})
    return out
