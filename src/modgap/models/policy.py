"""A Qwen2.5-VL or Qwen3-VL as a policy: encode prompts, see images, score responses, sample.

Differences from calling transformers' model: images pass through the tower in one batch
(`vision.py`) and their features can be reused; positions are computed once for each prompt
(`encode.py`); samples of one prompt share its computation, both in sampling (`decode.py`) and in
scoring (`tree.py`); only response tokens pass through the LM head.

The ids of image and video placeholders are banned: minus infinity before the softmax, in sampling
**and** in scoring, so that the probabilities that are trained are those that were sampled from. A
real model gives them almost no probability.

Legend: B rows (one response each), T response tokens, V vocabulary, L prompt tokens, C channels.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from modgap.models.casts import Casts, moved
from modgap.models.decode import Generated, batches, evaluating, rows_at_once, sample_batch
from modgap.models.decoder import Features
from modgap.models.encode import EncodedPrompt, Encoder, Pixels, byte_table, pixel_values
from modgap.models.files import save_folder
from modgap.models.parts import freeze
from modgap.models.scoring import chosen_logps, padded
from modgap.models.static import StaticSampler, wanted
from modgap.models.tree import tree_hidden
from modgap.models.vision import encode_images

if TYPE_CHECKING:
    from PIL.Image import Image

    from modgap.core.prompt import Prompt


class Policy:
    """A loaded model with its tokenizer and image processor.

    Args:
        model: A `Qwen2_5_VLForConditionalGeneration` or `Qwen3VLForConditionalGeneration`; LoRA
            adapters, if any, are injected into it.
        tokenizer: Its tokenizer.
        image_processor: Its image processor.
        source: The folder it was loaded from, for the files that `save` copies.
        frozen: Parts that are not trained, see `parts.py`; without tower and merger the features of
            images carry no gradient.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        image_processor: Any,
        source: Path | None = None,
        frozen: Collection[str] = (),
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.processor = image_processor
        self.source = source
        freeze(model, frozen)
        self._vision_frozen = {"tower", "merger"} <= set(frozen)
        # On an H100 or H200 torch prefers cuDNN's attention. It plans each new size anew, for tens
        # of milliseconds, and prompts and responses rarely have a size seen before. Disabled for
        # the whole process: a layer that is recomputed in the backward pass must use the same
        # kernel.
        torch.backends.cuda.enable_cudnn_sdp(False)
        self._encoder = Encoder(tokenizer, image_processor, model.config)
        defaults = model.generation_config
        eos = defaults.eos_token_id
        ids = [*(eos if isinstance(eos, list) else [eos]), tokenizer.eos_token_id]
        self.eos_token_ids: list[int] = sorted({i for i in ids if i is not None})
        self.banned_token_ids: list[int] = [
            model.config.image_token_id,
            model.config.video_token_id,
        ]
        self.default_temperature: float = (
            defaults.temperature if defaults.temperature is not None else 1.0
        )
        self.default_max_new_tokens: int | None = defaults.max_new_tokens
        self._bans: dict[tuple[torch.device, int, tuple[int, ...]], Tensor] = {}
        self._casts = Casts(model)
        self._static: StaticSampler | None = None
        self._features: dict[str | None, Tensor] | None = None  # kept while evaluating

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """The parameters' type."""
        return self.model.dtype

    @property
    def visual(self) -> Any:
        """The vision tower."""
        return self.model.model.visual

    @property
    def decoder(self) -> Any:
        """The language model without its head."""
        return self.model.model.language_model

    def head(self, hidden: Tensor) -> Tensor:
        """Logits of hidden states."""
        return self.model.lm_head(hidden)

    def parameters(self) -> Iterator[nn.Parameter]:
        """The parameters that are trained."""
        return (p for p in self.model.parameters() if p.requires_grad)

    # ------------------------------------------------------------------ prompts

    def encode(self, prompt: Prompt, image: Image | None = None) -> EncodedPrompt:
        """A prompt in tokens, patches and positions, on the CPU; cheap.

        Encode a prompt once and pass the same object for all its samples.
        """
        return self._encoder(prompt, image)

    @property
    def bytes_seen(self) -> Tensor:
        """What the image processor makes of each byte in each channel, `[3, 256]` fp32."""
        return byte_table(self.processor)

    def image_features(self, prompts: Sequence[EncodedPrompt]) -> list[Tensor | None]:
        """Features of each prompt's image, in one pass of the tower over the distinct images.

        Returns:
            For each prompt its `Features`. Prompts that show
            the same image get the same tensor. Differentiable where gradients are on and the tower
            is not frozen.
        """
        by_key: dict[str | None, Tensor] = self._features if self._features is not None else {}
        unique: dict[str | None, Pixels] = {}
        for prompt in prompts:
            if prompt.pixels is not None and prompt.image_key not in by_key:
                unique[prompt.image_key] = prompt.pixels
        if unique:
            pixels = pixel_values(list(unique.values()), self.device)
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self._vision_frozen):
                features = encode_images(self.visual, pixels, [p.grid for p in unique.values()])
            by_key.update(zip(unique, features, strict=True))
        return [by_key[p.image_key] if p.pixels is not None else None for p in prompts]

    @contextmanager
    def keeping_features(self) -> Iterator[None]:
        """Inside, features of images are cached, for evaluation: the weights must not change."""
        self._features = {}
        try:
            yield
        finally:
            self._features = None

    def embed(self, prompts: Sequence[EncodedPrompt], features: Features) -> dict[str, Any]:
        """The decoder's inputs for P prompts with their images, padded on the right.

        Embeddings `[P, S, C]` and positions `[3, P, S]`; with DeepStack also where images lie,
        `[P, S]`, and what is added there.
        """
        width = max(map(len, prompts))
        ids = torch.zeros(len(prompts), width, dtype=torch.long)
        positions = torch.zeros(3, len(prompts), width, dtype=torch.long)
        is_image = torch.zeros(len(prompts), width, dtype=torch.bool)
        for i, prompt in enumerate(prompts):
            ids[i, : len(prompt)] = prompt.input_ids
            positions[:, i, : len(prompt)] = prompt.position_ids
            if features[i] is not None:
                is_image[i, : len(prompt)] = prompt.input_ids == self.model.config.image_token_id
        embeds = self.decoder.embed_tokens(moved(ids, self.device))
        inputs: dict[str, Any] = {"position_ids": moved(positions, self.device)}
        seen = [f for f in features if f is not None]
        if seen:
            at = moved(is_image.flatten().nonzero()[:, 0], self.device)
            image, *deep = torch.cat(seen).to(embeds.dtype).split(embeds.shape[-1], dim=-1)
            embeds = embeds.flatten(0, 1).index_copy(0, at, image).view(embeds.shape)
            if deep:
                inputs["visual_pos_masks"] = moved(is_image, self.device)
                inputs["deepstack_visual_embeds"] = deep
        return {"inputs_embeds": embeds, **inputs}

    # ------------------------------------------------------------------ scoring

    def weights_cast(self) -> AbstractContextManager[None]:
        """Inside, autocast finds the linear layers' weights cast; see `casts.Casts`.

        Not the LM head's where gradients are on: it is used chunk by chunk in one pass.
        """
        leave = self.model.lm_head if torch.is_grad_enabled() else None
        return self._casts.shown(self.device.type, leave)

    def token_logps(self, logits: Tensor, temperature: float) -> Tensor:
        """Log-probabilities in fp32 of logits / temperature, the banned ids at minus infinity."""
        key = (logits.device, logits.shape[-1], tuple(self.banned_token_ids))
        if key not in self._bans:  # cached: a copy from the CPU makes a GPU wait
            ban = torch.zeros(key[1], device=key[0])
            self._bans[key] = ban.index_fill(
                0, torch.tensor(key[2], dtype=torch.long, device=key[0]), -torch.inf
            )
        # The vocabulary is large: one pass in fp32 that casts, divides and bans.
        return torch.add(self._bans[key], logits, alpha=1 / temperature).log_softmax(-1)

    def logprobs(
        self,
        prompts: Sequence[EncodedPrompt],
        responses: Sequence[Tensor],
        features: Features,
        temperature: float = 1.0,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities of responses, with gradient.

        Args:
            prompts: B prompts. Rows that are given the same object share its computation.
            responses: B token sequences `[T_i]`, with the token that ended them.
            features: B images' features, from `image_features`.
            temperature: What logits are divided by, as in sampling.

        Returns:
            Log-probabilities `[B, T]` and entropies `[B, T]` in fp32, zero on padding, and the mask
            `[B, T]` (bool).
        """
        hidden_NC = self._response_hidden(prompts, responses, features)
        targets_N = moved(torch.cat([r.cpu() for r in responses]), self.device)
        logps_N, entropy_N = chosen_logps(
            lambda hidden: self.token_logps(self.head(hidden), temperature),
            hidden_NC,
            targets_N,
            self.model.config.text_config.vocab_size,
        )
        (logps_BT, entropy_BT), mask_BT = padded(responses, self.device, logps_N, entropy_N)
        return logps_BT, entropy_BT, mask_BT

    def distributions(
        self,
        prompts: Sequence[EncodedPrompt],
        responses: Sequence[Tensor],
        features: Features,
        temperature: float = 1.0,
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities in fp32 of the whole vocabulary, and the mask.

        Returns:
            Log-probabilities `[B, T, V]` (zero on padding) and the mask `[B, T]`.
        """
        hidden_NC = self._response_hidden(prompts, responses, features)
        (logps_BTV,), mask_BT = padded(
            responses, self.device, self.token_logps(self.head(hidden_NC), temperature)
        )
        return logps_BTV, mask_BT

    def _response_hidden(
        self, prompts: Sequence[EncodedPrompt], responses: Sequence[Tensor], features: Features
    ) -> Tensor:
        """Hidden states `[N, C]` that predict the N response tokens, row by row."""
        assert all(response.numel() for response in responses), (
            "a response has at least the token that ended it"
        )
        return tree_hidden(self, prompts, responses, features)

    # ------------------------------------------------------------------ sampling

    def evaluating(self) -> AbstractContextManager[None]:
        """Inside, no gradients and no dropout; afterwards the earlier mode is restored."""
        return evaluating(self.model)

    def generate(
        self,
        prompts: Sequence[EncodedPrompt],
        seeds: Sequence[Sequence[int]],
        temperature: float | None = None,
        max_new_tokens: int | None = None,
        max_rows: int | None = None,
        graphs: bool | None = None,
    ) -> list[list[Generated]]:
        """Sample responses.

        Args:
            prompts: The prompts.
            seeds: For each prompt the seeds of its samples, one sample each.
            temperature: 0 is greedy; the model's own by default.
            max_new_tokens: Most tokens of a response; the model's own by default.
            max_rows: Most samples in one batch; never more than memory allows.
            graphs: Take the steps of `static.py`, on a GPU as CUDA graphs; by default on a GPU, see
                `static.wanted`.

        Returns:
            For each prompt its samples, in the order of their seeds.
        """
        assert len(prompts) == len(seeds), "one list of seeds for each prompt"
        temperature = self.default_temperature if temperature is None else temperature
        limit = max_new_tokens or self.default_max_new_tokens or 1024
        spare = self._static.spare if self._static is not None else 0
        rows = rows_at_once(self, max(map(len, prompts), default=1), limit, spare)
        rows = min(max_rows, rows) if max_rows else rows
        out: list[list[Generated]] = [[] for _ in prompts]
        graphs = wanted(self.device) if graphs is None else graphs
        with self.evaluating(), self.weights_cast():
            for batch in batches([len(prompt) for prompt in prompts], seeds, rows):
                chunk = [seeds[i][at : at + rows] for i, at in batch]
                sampled = self._sample(
                    [prompts[i] for i, _ in batch], chunk, temperature, limit, graphs
                )
                for (i, _), row in zip(batch, sampled, strict=True):
                    out[i] += [self._finish(tokens, logps) for tokens, logps in row]
        if self._static is not None and self._static.is_large:
            self.let_go()
        return out

    def let_go(self) -> bool:
        """Free the memory that is kept between rollouts; returns whether there was any."""
        held, self._static = self._static is not None, None
        return held

    def __getstate__(self) -> dict[str, Any]:
        """The state without graphs and copies of weights: a copied policy makes its own."""
        return {**self.__dict__, "_static": None, "_casts": Casts(self.model)}

    def _sample(
        self,
        prompts: Sequence[EncodedPrompt],
        seeds: Sequence[Sequence[int]],
        temperature: float,
        limit: int,
        graphs: bool,
    ) -> list[list[tuple[Tensor, Tensor]]]:
        sampled = None
        if graphs:
            if self._static is None or self._static.device != self.device:
                self._static = StaticSampler(self)
            sampled = self._static.sample(prompts, seeds, temperature, limit)
        if sampled is not None:
            return sampled
        return sample_batch(self, prompts, seeds, temperature, limit)

    def _finish(self, tokens: Tensor, logps: Tensor) -> Generated:
        stopped = int(tokens[-1]) in self.eos_token_ids
        text = self.tokenizer.decode(tokens[:-1] if stopped else tokens, skip_special_tokens=True)
        return Generated(tokens, text, "stop" if stopped else "length", logps)

    # ------------------------------------------------------------------ files

    def count_parameters(self, trainable: bool = False) -> int:
        """Number of parameters, tied ones once."""
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad or not trainable)

    def save(self, folder: str | Path, dtype: torch.dtype | None = None) -> Path:
        """Write a Hugging Face folder that `from_pretrained` and vLLM load.

        LoRA is merged into the weights, and its adapter is written as well.

        Args:
            folder: Where; existing files are overwritten.
            dtype: Type of the weights; by default the policy's own, so that loading gives the same
                bits back, and fp32 with LoRA; a lower one rounds away some of what adapters
                learned, see `lora.py`.
        """
        return save_folder(
            Path(folder), self.model, self.tokenizer, self.processor, self.source, dtype
        )
