"""A vision-language model that is trained through transformers' own forward pass.

Each row is a prompt with its image and a response, padded on the right. Nothing is shared: an image
passes the vision tower once for each row, and the samples of a prompt repeat its computation. It is
slower than `policy.Policy` by that, and gives the same numbers (the tests compare the two on a
Qwen2.5-VL). For the update a prompt of this path has no image of its own (`Asked.image_key`): the
gradient reaches the vision tower within the pass.

Legend: B rows (one response each), L tokens of the longest row, N response tokens, T tokens of the
longest response, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from modgap.core.errors import UserError
from modgap.models.casts import moved
from modgap.models.decode import Generated, batches, evaluating, rows_at_once
from modgap.models.decoder import Features
from modgap.models.files import save_folder
from modgap.models.folder import FAST
from modgap.models.generic import Asked, GenericModel
from modgap.models.parts import freeze
from modgap.models.scoring import chosen_logps, padded


class PlainPolicy(GenericModel):
    """A loaded model with its processor, to be trained.

    Args:
        model: Of transformers' auto class for images and text to text; LoRA adapters, if any, are
            injected into it.
        processor: Its processor.
        source: The folder it was loaded from, for the files that `save` copies.
        frozen: Parts that are not trained, see `parts.py`.
    """

    def __init__(
        self, model: Any, processor: Any, source: Path, frozen: Collection[str] = ()
    ) -> None:
        super().__init__(model, processor, source.name)
        self.source = source
        freeze(model, frozen)

    def parameters(self) -> Iterator[nn.Parameter]:
        """The parameters that are trained."""
        return (p for p in self.model.parameters() if p.requires_grad)

    @property
    def bytes_seen(self) -> Tensor:
        """Nothing: the patches of an image cannot be changed here. Raises `UserError`."""
        raise UserError(
            "a twin with a blank, masked or noised picture changes the patches of an image, which a"
            f" {self.model.config.model_type!r} does not show here ({self.name}): train a model of"
            f" type {', '.join(FAST)}, or leave out the term."
        )

    def weights_cast(self) -> AbstractContextManager[None]:
        """Nothing: autocast casts each weight at each use."""
        return nullcontext()

    def let_go(self) -> bool:
        """Nothing is kept between rollouts."""
        return False

    # ------------------------------------------------------------------ scoring

    def image_features(self, prompts: Sequence[Asked]) -> list[Tensor | None]:
        """`None` for each prompt: images are encoded in each forward pass."""
        return [None] * len(prompts)

    def token_logps(self, logits: Tensor, temperature: float) -> Tensor:
        """Log-probabilities in fp32 of logits / temperature, placeholders at minus infinity."""
        banned = torch.tensor(self.banned_token_ids, dtype=torch.long, device=logits.device)
        return (logits.float() / temperature).index_fill(-1, banned, -torch.inf).log_softmax(-1)

    def logprobs(
        self,
        prompts: Sequence[Asked],
        responses: Sequence[Tensor],
        features: Features,
        temperature: float = 1.0,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities of responses, with gradient; see `Policy.logprobs`."""
        hidden_NC = self._response_hidden(prompts, responses)
        targets_N = moved(torch.cat([r.cpu() for r in responses]), self.device)
        head = self.model.get_output_embeddings()
        logps_N, entropy_N = chosen_logps(
            lambda hidden: self.token_logps(head(hidden), temperature),
            hidden_NC,
            targets_N,
            self.model.config.text_config.vocab_size,
        )
        (logps_BT, entropy_BT), mask_BT = padded(responses, self.device, logps_N, entropy_N)
        return logps_BT, entropy_BT, mask_BT

    def distributions(
        self,
        prompts: Sequence[Asked],
        responses: Sequence[Tensor],
        features: Features,
        temperature: float = 1.0,
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities of the whole vocabulary, and the mask; see `Policy.distributions`."""
        hidden_NC = self._response_hidden(prompts, responses)
        logps_NV = self.token_logps(self.model.get_output_embeddings()(hidden_NC), temperature)
        (logps_BTV,), mask_BT = padded(responses, self.device, logps_NV)
        return logps_BTV, mask_BT

    def _response_hidden(self, prompts: Sequence[Asked], responses: Sequence[Tensor]) -> Tensor:
        """Hidden states `[N, C]` that predict the N response tokens, row by row."""
        width = max(len(p) + r.numel() for p, r in zip(prompts, responses, strict=True))
        names = sorted({name for prompt in prompts for name in prompt.types})
        rows = {name: torch.zeros(len(prompts), width, dtype=torch.long) for name in names}
        ids = torch.full((len(prompts), width), self.tokenizer.pad_token_id or 0)
        mask = torch.zeros(len(prompts), width, dtype=torch.long)
        scored: list[Tensor] = []
        for i, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
            start, end = len(prompt), len(prompt) + response.numel()
            ids[i, :start], ids[i, start:end] = prompt.input_ids, response.cpu()
            mask[i, :end] = 1
            for name, values in prompt.types.items():
                rows[name][i, :start] = values
            scored.append(torch.arange(start - 1, end - 1) + i * width)
        inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask, **rows}
        pictured = [prompt for prompt in prompts if prompt.image is not None]
        if pictured:
            made = self._inputs(pictured)
            inputs |= {k: v for k, v in made.items() if k not in inputs}
        hidden = self.model.model(**self._on_device(inputs), use_cache=False).last_hidden_state
        return hidden.flatten(0, 1)[moved(torch.cat(scored), self.device)]

    # ------------------------------------------------------------------ sampling

    def evaluating(self) -> AbstractContextManager[None]:
        """Inside, no gradients and no dropout; afterwards the earlier mode is restored."""
        return evaluating(self.model)

    def generate(
        self,
        prompts: Sequence[Asked],
        seeds: Sequence[Sequence[int]],
        temperature: float | None,
        max_new_tokens: int,
        max_rows: int | None = None,
    ) -> list[list[Generated]]:
        """Sample responses; see `GenericModel.generate`.

        `max_rows` is the most samples in one batch; by default what memory allows.
        """
        lengths = [len(prompt) for prompt in prompts]
        rows = max_rows or rows_at_once(self, max(lengths, default=1), max_new_tokens)
        out: list[list[Generated]] = [[] for _ in prompts]
        with self.evaluating():
            for batch in batches(lengths, seeds, rows):
                chunk = [seeds[i][at : at + rows] for i, at in batch]
                asked = [prompts[i] for i, _ in batch]
                sampled = super().generate(asked, chunk, temperature, max_new_tokens)
                for (i, _), samples in zip(batch, sampled, strict=True):
                    out[i] += samples
        return out

    # ------------------------------------------------------------------ files

    def save(self, folder: str | Path, dtype: torch.dtype | None = None) -> Path:
        """Write a Hugging Face folder; see `Policy.save`."""
        plain, self.model.generation_config = self.model.generation_config, self._own_generation
        try:
            return save_folder(
                Path(folder), self.model, self.tokenizer, self.processor.image_processor,
                self.source, dtype,
            )  # fmt: skip
        finally:
            self.model.generation_config = plain
