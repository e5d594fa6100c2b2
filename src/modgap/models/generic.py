"""Any vision-language model that transformers loads, answering prompts.

The forward pass, the caches and the loop are transformers' own (`generate`), so that every family
works as its authors wrote it: sliding windows, linear attention, tiles, cross-attention. Two things
are ours. Tokens are drawn as in `decode.py`: a sample has a seed of its own, its log-probabilities
are recorded, and placeholders of images are never drawn. And the samples of a prompt are copies of
the processor's output, laid one whole batch after the other: every tensor of a processor has its
rows, patches or tiles in the order of the prompts, so that copies in that order are what the
processor itself would give for the repeated prompts.

Prompts of a batch are padded on the left. That a family answers the same with padding is not taken
for granted: the first padded batch is compared with its prompts alone, and if they differ, only
prompts of equal length share a batch from then on.

Legend: B rows (one response each), V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from modgap.core.errors import UserError
from modgap.core.progress import show
from modgap.core.thinking import CLOSE, OPEN
from modgap.models.decode import Generated, cut, doing_token, flat_seeds, pick, uniforms
from modgap.models.template import ChatTemplate

if TYPE_CHECKING:
    from PIL.Image import Image

    from modgap.core.prompt import Prompt

_PLACEHOLDERS = ("image", "video", "audio")
_TYPES = ("mm_token_type_ids", "token_type_ids")
# Kullback-Leibler divergence between the next tokens of a prompt alone and in a padded batch: what
# rounding explains, in fp32 and in half precision.
_SAME = {torch.float32: 1e-3}
_SAME_IN_HALF = 0.05


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """A prompt that the processor has taken.

    Attributes:
        text: Rendered, with one placeholder for the image.
        image: Its image.
        input_ids: `[L]` int64, those of the image included.
        image_tokens: Tokens of the image.
        types: `[L]`, what the processor says of each token beside its id, by name.
        opened: See `Rendered`.
        left_out: See `Rendered`.
    """

    text: str
    image: Image | None
    input_ids: Tensor
    image_tokens: int
    types: dict[str, Tensor]
    opened: str = ""
    left_out: tuple[str, ...] = ()

    def __len__(self) -> int:
        return self.input_ids.numel()

    @property
    def image_key(self) -> None:
        """Nothing: its image is encoded in each forward pass."""
        return None


class GenericModel:
    """A vision-language model with its processor, for answers alone.

    Args:
        model: Of transformers' auto class for images and text to text.
        processor: Its processor.
        name: What messages call it.
    """

    def __init__(self, model: Any, processor: Any, name: str) -> None:
        from transformers import GenerationConfig

        self.model, self.processor, self.name = model.eval(), processor, name
        self.tokenizer: Any = processor.tokenizer
        self._template = ChatTemplate(processor, name)
        config = model.config
        text = config.get_text_config()
        ids = {f"{what}_token_{form}" for what in _PLACEHOLDERS for form in ("id", "index")}
        found = {name: getattr(config, name, None) for name in ids}
        self.banned_token_ids = sorted(
            {i for i in found.values() if isinstance(i, int) and 0 <= i < text.vocab_size}
        )
        self._image_ids = self._ids_of_images(found)
        own = model.generation_config
        eos = own.eos_token_id if own.eos_token_id is not None else text.eos_token_id
        eos_ids = [*(eos if isinstance(eos, list) else [eos]), self.tokenizer.eos_token_id]
        self.eos_token_ids = sorted({i for i in eos_ids if i is not None})
        self.tokenizer.padding_side = "left"
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        # Nothing else of the model's generation config: see `core.engine.PLAIN`.
        model.generation_config = GenerationConfig(
            eos_token_id=self.eos_token_ids, pad_token_id=self.tokenizer.pad_token_id,
            bos_token_id=own.bos_token_id, decoder_start_token_id=own.decoder_start_token_id,
            do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
        )  # fmt: skip
        self._own_generation = own
        self._pads: dict[bool, bool] = {}  # by whether the prompts show an image
        known = self.tokenizer.added_tokens_decoder.items()
        hidden = {i for i, token in known if token.special and token.content not in (OPEN, CLOSE)}
        self._hidden = hidden | set(self.eos_token_ids)

    def _ids_of_images(self, of_config: dict[str, Any]) -> set[int]:
        """The ids that stand for an image: the config's own, else the processor's."""
        names = ("image_token_id", "image_token_index")
        if ids := {of_config[name] for name in names if isinstance(of_config[name], int)}:
            return ids
        token = getattr(self.processor, "image_token_id", None)
        return {token} if isinstance(token, int) else set()

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """The parameters' type."""
        return self.model.dtype

    def encode(self, prompt: Prompt, image: Image | None = None) -> Asked:
        """A prompt through the template and the processor, which counts its tokens.

        Raises:
            UserError: The prompt shows an image and none is given, or the processor shows none.
            ValueError: The processor does not take it.
        """
        from modgap.core.images import to_rgb

        if prompt.has_image and image is None:
            raise UserError(
                f"this prompt shows an image and none is given: {prompt.text[:60]!r}..."
            )
        shown = to_rgb(image) if image is not None and prompt.has_image else None
        rendered = self._template(prompt)
        made = self._processed([rendered.text], [shown])
        ids: Tensor = made["input_ids"][0]
        seen = sum(int((ids == i).sum()) for i in self._image_ids)
        if (seen > 0) != (shown is not None):
            raise UserError(
                f"the processor of {self.name} gives {seen} image tokens for a prompt"
                f" {'with' if shown else 'without'} an image: measure it with --engine vllm, or"
                " served with --engine openai."
            )
        types = {name: made[name][0] for name in _TYPES if name in made}
        return Asked(rendered.text, shown, ids, seen, types, rendered.opened, rendered.left_out)

    def keeping_features(self) -> AbstractContextManager[None]:
        """Nothing is cached here."""
        return nullcontext()

    def _inputs(self, prompts: Sequence[Asked]) -> Any:
        """The processor's output for prompts that all have an image, or all have none."""
        return self._processed([p.text for p in prompts], [p.image for p in prompts])

    def _processed(self, texts: Sequence[str], images: Sequence[Image | None]) -> Any:
        given: dict[str, Any] = {}
        if images[0] is not None:
            given["images"] = [[image] for image in images]
        bos = self.tokenizer.bos_token  # a template that writes it needs no second one
        if bos and texts[0].startswith(bos):
            given["add_special_tokens"] = False
        return self.processor(text=list(texts), return_tensors="pt", padding=True, **given)

    # ------------------------------------------------------------------ sampling

    def generate(
        self,
        prompts: Sequence[Asked],
        seeds: Sequence[Sequence[int]],
        temperature: float | None,
        max_new_tokens: int,
    ) -> list[list[Generated]]:
        """Sample responses.

        Args:
            prompts: The prompts.
            seeds: For each prompt the seeds of its samples, one sample each.
            temperature: 0 is greedy; 1 by default.
            max_new_tokens: Most tokens of a response.

        Returns:
            For each prompt its samples, in the order of their seeds.
        """
        temperature = 1.0 if temperature is None else temperature
        out: list[list[Generated]] = [[] for _ in prompts]
        for rows in self._batches(prompts):
            sampled = self._sample(
                [prompts[i] for i in rows], [seeds[i] for i in rows], temperature, max_new_tokens
            )
            for i, samples in zip(rows, sampled, strict=True):
                out[i] = [self._finish(tokens, logps) for tokens, logps in samples]
        return out

    def _batches(self, prompts: Sequence[Asked]) -> Iterator[list[int]]:
        """Prompts that can share a batch."""
        for pictured in (True, False):
            rows = [i for i, prompt in enumerate(prompts) if (prompt.image is not None) == pictured]
            lengths = sorted({len(prompts[i]) for i in rows})
            if len(lengths) > 1 and pictured not in self._pads:
                self._pads[pictured] = self._same_when_padded([prompts[i] for i in rows])
            if len(lengths) < 2 or self._pads[pictured]:
                if rows:
                    yield rows
                continue
            for length in lengths:
                yield [i for i in rows if len(prompts[i]) == length]

    def _same_when_padded(self, prompts: Sequence[Asked]) -> bool:
        """Whether the shortest prompt is answered the same alone and padded to the longest."""
        short, long = min(prompts, key=len), max(prompts, key=len)
        alone, padded = (self._next([short])[0], self._next([short, long])[0])
        difference = float((alone.exp() * (alone - padded)).nan_to_num(0.0).sum())
        if difference < _SAME.get(self.model.dtype, _SAME_IN_HALF):
            return True
        show(
            f"modgap: {self.name} answers otherwise when prompts are padded (its next token differs"
            f" by {difference:.2g} nats): only prompts of equal length are answered together",
            error=True,
        )
        return False

    def _next(self, prompts: Sequence[Asked]) -> Tensor:
        """Log-probabilities of the token after each prompt, `[B, V]`."""
        draw = _Draw(self, torch.zeros(len(prompts), 1), 1.0)
        self._run(self._on_device(self._inputs(prompts)), draw)
        assert draw.last is not None
        return draw.last

    def _sample(
        self,
        prompts: Sequence[Asked],
        seeds: Sequence[Sequence[int]],
        temperature: float,
        limit: int,
    ) -> list[list[tuple[Tensor, Tensor]]]:
        """Tokens and their log-probabilities for one batch."""
        most = max(len(row) for row in seeds)
        inputs = {
            name: _copied(value, most)
            for name, value in self._on_device(self._inputs(prompts)).items()
        }
        # `cut` and `flat_seeds` have a prompt's samples side by side, the rows here one whole batch
        # after the other.
        order = torch.arange(len(prompts) * most).view(len(prompts), most).T.flatten()
        noise = uniforms(flat_seeds(seeds), limit)[order]
        draw = _Draw(self, noise, temperature)
        self._run(inputs, draw)
        back = order.argsort()
        eos = torch.tensor(self.eos_token_ids)
        return cut(draw.tokens.cpu()[back], draw.logps.cpu()[back], draw.at, eos, seeds)

    def _on_device(self, inputs: Any) -> dict[str, Any]:
        moved: dict[str, Any] = {}
        for name, value in inputs.items():
            if isinstance(value, Tensor):
                floating = value.is_floating_point()
                value = value.to(self.device, self.model.dtype if floating else value.dtype)
            moved[name] = value
        return moved

    def _run(self, inputs: dict[str, Any], draw: _Draw) -> None:
        """Let transformers generate with our choice of tokens."""
        from transformers import LogitsProcessorList

        with torch.no_grad():
            self.model.generate(
                **inputs,
                logits_processor=LogitsProcessorList([draw]),  # pyright: ignore[reportArgumentType]
                max_new_tokens=draw.noise.shape[1],
            )

    def _finish(self, tokens: Tensor, logps: Tensor) -> Generated:
        stopped = int(tokens[-1]) in self.eos_token_ids
        shown = [i for i in tokens.tolist() if i not in self._hidden]
        text = self.tokenizer.decode(shown, skip_special_tokens=False)
        return Generated(tokens, text, "stop" if stopped else "length", logps)


def _copied(value: Any, times: int) -> Any:
    """A processor's value for all samples: the whole batch, so many times over."""
    if isinstance(value, Tensor):
        return torch.cat([value] * times) if value.ndim else value
    return value * times if isinstance(value, list) else value


class _Draw:
    """Chooses the tokens: a logits processor of transformers.

    It returns scores that leave one token, so that transformers' own sampling takes it.

    Args:
        model: Whose tokens are drawn.
        noise: `[B, most new tokens]`, a uniform number for each token.
        temperature: 0 is greedy.

    Attributes:
        tokens: `[B, most new tokens]`.
        logps: Their log-probabilities.
        at: Tokens drawn so far.
        last: The log-probabilities of the last step, `[B, V]`.
    """

    def __init__(self, model: GenericModel, noise: Tensor, temperature: float) -> None:
        self.noise = noise.to(model.device)
        self.tokens = torch.zeros(noise.shape, dtype=torch.long, device=model.device)
        self.logps = torch.zeros(noise.shape, device=model.device)
        self.at, self.last = 0, None
        self._banned = torch.tensor(model.banned_token_ids, device=model.device, dtype=torch.long)
        self._temperature = temperature

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores `[B, V]` that are minus infinity except at the chosen token."""
        doing_token(self.at, self.noise.shape[1])
        logits = scores.float().index_fill(1, self._banned, -torch.inf)
        logps_BV = (logits / (self._temperature or 1.0)).log_softmax(-1)
        token = logps_BV.argmax(-1)
        if self._temperature > 0:
            token = pick(logps_BV, self.noise[:, self.at])
        self.tokens[:, self.at] = token
        self.logps[:, self.at] = logps_BV.gather(-1, token[:, None])[:, 0]
        self.at, self.last = self.at + 1, logps_BV
        return torch.full_like(scores, -torch.inf).scatter_(1, token[:, None], 0.0)
