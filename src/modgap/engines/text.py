"""Language models without images, for judges: greedy answers of a few tokens, in batches.

Prompts go through the model's chat template with thinking switched off (`enable_thinking=False`,
which Qwen3's template knows and others ignore). Without a template, or if raw completions are
wanted (the original's way), they are sent unchanged. A `<think>` with which the template ends is
put before the answer, so that truncated thinking does not count as a verdict. Text inside a prompt
that looks like one of the template's own markers is made harmless earlier, in `core.prompt`.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modgap.core.engine import Completion, Request, Sampling
from modgap.core.errors import UserError
from modgap.core.files import read_text
from modgap.core.installation import require
from modgap.core.options import JudgeOptions
from modgap.core.progress import show
from modgap.core.prompt import Prompt
from modgap.core.thinking import opened_by
from modgap.engines.judge import Judge
from modgap.engines.vllm import VllmEngine, _Prepared, messages
from modgap.engines.vllm_start import telling_args
from modgap.grading.judge import JudgeMode
from modgap.models.memory import BatchSize, OutOfMemory

if TYPE_CHECKING:
    from PIL.Image import Image

NO_THINKING = {"enable_thinking": False}
"""Arguments of the chat template."""
_TAIL = 16  # tokens at the end of a prompt that are searched for a `<think>`


def token_ids(tokenizer: Any, prompt: Prompt, raw: bool) -> list[int]:
    """The token ids that the model gets for a prompt."""
    if raw or not tokenizer.chat_template:
        return list(tokenizer(prompt.text)["input_ids"])
    messages = [{"role": "system", "content": prompt.system}] if prompt.system is not None else []
    messages.append({"role": "user", "content": prompt.text})
    text = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True, **NO_THINKING
    )
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _check_greedy(requests: Sequence[Request], sampling: Sampling) -> None:
    assert sampling.temperature == 0 and all(len(request.samples) == 1 for request in requests)


def _check_text(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise UserError(
            f"{folder} holds no model (no config.json): give a folder of a language model, or its"
            " hub id."
        )
    # transformers would apply the adapter, whether or not it is merged already.
    if (folder / "adapter_config.json").is_file():
        raise UserError(
            f"{folder} holds a LoRA adapter beside whole weights: merge it, or remove the adapter_*"
            " files."
        )
    try:
        json.loads(read_text(folder / "config.json"))
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{folder / 'config.json'} is not valid JSON ({error}): copy the model again."
        ) from None


def hf_judge(options: JudgeOptions) -> Judge:
    """The judge of a model folder, answered by transformers. Raises `UserError`."""
    from modgap.models.load import resolve

    require("torch", "give the URL of a server")
    folder = resolve(options.judge or "")

    def start(mode: JudgeMode) -> HfTextEngine:
        return HfTextEngine(folder, options.batch_size, options.device, raw=mode == "paper")

    return Judge(_judge_name("hf", options, folder), start, options.max_tokens)


def vllm_judge(options: JudgeOptions) -> Judge:
    """The judge of a model folder, answered by vLLM. Raises `UserError`."""
    from modgap.models.load import resolve

    require("vllm", "give --judge-engine hf, or a URL")
    folder = resolve(options.judge or "")

    def start(mode: JudgeMode) -> VllmTextEngine:
        return VllmTextEngine(folder, options.engine_args, raw=mode == "paper")

    name = _judge_name("vllm", options, folder, telling_args(options.engine_args))
    return Judge(name, start, options.max_tokens)


def _judge_name(
    engine: str, options: JudgeOptions, folder: Path, args: Mapping[str, Any] | None = None
) -> str:
    """What identifies a judge: its engine, model, and whatever can change its answers."""
    from modgap.models.fingerprint import model_fingerprint

    details = [model_fingerprint(folder)]
    details += [f"{key}={json.dumps(value)}" for key, value in (args or {}).items()]
    return f"{engine}:{options.judge} ({', '.join(details)})"


class HfTextEngine:
    """A causal language model of transformers, in this process: small judges without a server.

    Args:
        folder: The model, in Hugging Face form.
        batch_size: Prompts answered together; halved by itself when memory runs out.
        device: `cpu`, `cuda`, `cuda:1`; by default the best available one.
        raw: Without the chat template.

    Raises:
        UserError: The folder holds no such model, or there is no such device.
    """

    def __init__(
        self, folder: Path, batch_size: int = 16, device: str | None = None, *, raw: bool = False
    ) -> None:
        _check_text(folder)
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        name = device or ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, padding_side="left")
            # CPUs are slow or wrong in half precision.
            dtype = "auto" if name.startswith("cuda") else torch.float32
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder, dtype=dtype, output_loading_info=True
            )
            self._model: Any = loaded[0].to(name).eval()
        except (OSError, ValueError, KeyError, RuntimeError, AssertionError) as error:
            said = " ".join(str(error).split())[:200]
            raise UserError(
                f"{folder} cannot be loaded as a language model on {name} ({said}): give a text"
                " model such as Qwen/Qwen3-8B, or --judge-engine vllm, which takes any model that"
                " vLLM serves."
            ) from error
        if lacking := sorted(loaded[1]["missing_keys"]):
            raise UserError(
                f"{folder} lacks {len(lacking)} of the weights of its model"
                f" ({', '.join(lacking[:3])}), which would be random: copy the judge's model again."
            )
        self._rows = BatchSize(batch_size, functools.partial(show, "modgap:", error=True))
        self._raw = raw

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
        """The greedy answer to each request, shortest prompts first."""
        _check_greedy(requests, sampling)
        encoded = [
            (request, token_ids(self._tokenizer, request.prompt, self._raw)) for request in requests
        ]
        encoded.sort(key=lambda pair: len(pair[1]))
        while encoded:
            batch, rest = encoded[: self._rows.size], encoded[self._rows.size :]
            completions = self._answer(batch, sampling.max_tokens)
            if completions is None:
                continue  # with a smaller batch
            yield from completions
            encoded = rest

    def _answer(
        self, batch: list[tuple[Request, list[int]]], max_tokens: int
    ) -> list[Completion] | None:
        """One batch; `None` if memory ran out and the batch size was lowered."""
        import torch

        padded = self._tokenizer.pad({"input_ids": [ids for _, ids in batch]}, return_tensors="pt")

        def answers() -> Any:
            with torch.inference_mode():
                return self._model.generate(
                    **padded.to(self._model.device),
                    do_sample=False,
                    max_new_tokens=max_tokens,
                    # None: a model's own settings would only cause warnings about greedy decoding.
                    temperature=None,
                    top_p=None,
                    top_k=None,
                    pad_token_id=self._tokenizer.pad_token_id,
                )

        out = None
        with contextlib.suppress(OutOfMemory):
            out = self._rows.attempt(answers)
        if out is None:
            self._rows.halve(
                len(batch),
                "out of memory, the judge's batch size lowered to {rows}",
                "the judge does not fit into the GPU's memory: free some, or take a smaller one.",
            )
            return None
        return [
            self._completion(request, ids, row[padded["input_ids"].shape[1] :].tolist())
            for (request, ids), row in zip(batch, out, strict=True)
        ]

    def _completion(self, request: Request, ids: list[int], new: list[int]) -> Completion:
        stops = self._model.generation_config.eos_token_id
        stops = {stops} if isinstance(stops, int) else set(stops or ())
        end = next((n for n, token in enumerate(new) if token in stops), None)
        said = new if end is None else new[:end]
        opened = opened_by(self._tokenizer.decode(ids[-_TAIL:]))
        text = opened + self._tokenizer.decode(said, skip_special_tokens=True)
        reason = "length" if end is None else "stop"
        return Completion(
            request, request.samples[0], text, reason, len(ids), len(said), seed=0, opened=opened
        )


class VllmTextEngine(VllmEngine):
    """Any model that vLLM serves, in its own processes, asked with text only.

    The five shots precede every question; vLLM's prefix cache computes their keys and values once.

    Args:
        folder: The model, in Hugging Face form.
        args: As for `VllmEngine`.
        raw: Without the chat template.
    """

    def __init__(self, folder: Path, args: Sequence[str] = (), *, raw: bool = False) -> None:
        super().__init__(folder, args=args)
        self._raw = raw

    def _prepare(self, request: Request, image: Image | None) -> _Prepared:
        from vllm.renderers import ChatParams  # pyright: ignore[reportMissingImports] - an extra

        assert image is None
        renderer = self.llm.llm_engine.renderer
        if self._raw or not has_template(self.llm):
            given = {"prompt": request.prompt.text}
            return _Prepared(
                request, renderer.render_cmpl([given], renderer.default_cmpl_tok_params)
            )
        params = ChatParams(
            chat_template=getattr(self.llm, "chat_template", None),
            chat_template_kwargs={
                "add_generation_prompt": True,
                "continue_final_message": False,
                "tokenize": False,
            }
            | NO_THINKING,
        )
        _, prompt = renderer.render_messages(messages(request.prompt, None), params)
        shown = prompt.get("prompt")
        opened = opened_by(shown) if isinstance(shown, str) else ""
        return _Prepared(
            request, renderer.render_cmpl([prompt], renderer.default_chat_tok_params), opened=opened
        )


def has_template(llm: Any) -> bool:
    """Whether a model of vLLM has a chat template.

    A base model has none; it continues the pattern of the shots by itself.
    """
    return bool(
        getattr(llm, "chat_template", None) or getattr(llm.get_tokenizer(), "chat_template", None)
    )
