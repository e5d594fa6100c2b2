"""The interface that sampling and scoring need of a model.

Sampling is in `decode.py` and `static.py`, scoring in `tree.py`; `policy.Policy` implements it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from modgap.models.encode import EncodedPrompt

Features = Sequence[Tensor | None]
"""For each prompt `[merged tokens, hidden]`, or `None` without an image.

With DeepStack (Qwen3-VL) the features of each further level lie beside the last ones:
`[merged tokens, (1 + levels) * hidden]`.
"""


class Placed(Protocol):
    """A model of transformers on a device.

    Attributes:
        model: The transformers model, for its config.
    """

    model: Any

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """The parameters' type."""
        ...


class DecoderModel(Placed, Protocol):
    """A model seen from its language model.

    Attributes:
        eos_token_ids: Tokens that end a response.
    """

    eos_token_ids: list[int]

    @property
    def decoder(self) -> Any:
        """The language model without its head."""
        ...

    def head(self, hidden: Tensor) -> Tensor:
        """Logits `[..., vocabulary]` of hidden states `[..., hidden]`."""
        ...

    def image_features(self, prompts: Sequence[EncodedPrompt]) -> list[Tensor | None]:
        """Features of each prompt's image."""
        ...

    def embed(self, prompts: Sequence[EncodedPrompt], features: Features) -> dict[str, Any]:
        """The decoder's inputs for padded prompts: embeddings `[B, L, hidden]` and the like."""
        ...

    def token_logps(self, logits: Tensor, temperature: float) -> Tensor:
        """Log-probabilities of logits / temperature, banned tokens at minus infinity."""
        ...
