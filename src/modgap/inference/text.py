"""Language models without pictures: what a judge is. Greedy answers of a few tokens, batched.

Prompts go through the model's chat template with thinking switched off (`enable_thinking=False`, which Qwen3's template
knows and others ignore); as they are where there is none, or where raw completions are asked for (the original's way).
Text inside a prompt that looks like one of the template's own markers is defused before, in `core.prompt`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from modgap.core.engine import Completion, Request, Sampling
from modgap.core.errors import UserError
from modgap.core.prompt import Prompt

NO_THINKING = {"enable_thinking": False}
"""Arguments of the chat template."""
_CHUNK = 1024


def token_ids(tokenizer: Any, prompt: Prompt, raw: bool) -> list[int]:
    """A prompt as the model gets it."""
    if raw or not tokenizer.chat_template:
        return list(tokenizer(prompt.text)["input_ids"])
    messages = [{"role": "system", "content": prompt.system}] if prompt.system is not None else []
    messages.append({"role": "user", "content": prompt.text})
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **NO_THINKING)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _check_greedy(requests: Sequence[Request], sampling: Sampling) -> None:
    assert sampling.temperature == 0 and all(len(request.samples) == 1 for request in requests)


def _check_text(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} holds no model (no config.json): give a folder of a language model, or its hub id.")
    try:
        json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{folder / 'config.json'} is not valid JSON ({error}): copy the model again.") from None


class HfTextEngine:
    """A causal language model of transformers, in this process; for small judges, and without a server.

    Args:
        folder: The model, in Hugging Face form.
        batch_size: Prompts answered together; halved by itself when memory runs out.
        device: `cpu`, `cuda`, `cuda:1`; the best there is if not given.
        raw: Without the chat template.

    Raises:
        UserError: The folder holds no such model, or there is no such device.
    """

    def __init__(self, folder: Path, batch_size: int = 16, device: str | None = None, *, raw: bool = False) -> None:
        _check_text(folder)
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        name = device or ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, padding_side="left")
            # CPUs are slow or wrong in half precision.
            dtype = "auto" if name.startswith("cuda") else torch.float32
            self._model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
            self._model.to(name).eval()
        except (OSError, ValueError, KeyError, RuntimeError, AssertionError) as error:
            said = " ".join(str(error).split())[:200]
            raise UserError(
                f"{folder} cannot be loaded as a language model on {name} ({said}): give a text model such as "
                "Qwen/Qwen3-8B, or --judge-engine vllm, which takes any model that vLLM serves."
            ) from error
        self._batch_size = batch_size
        self._raw = raw

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
        """The greedy answer to each request, shortest prompts first."""
        _check_greedy(requests, sampling)
        encoded = [(request, token_ids(self._tokenizer, request.prompt, self._raw)) for request in requests]
        encoded.sort(key=lambda pair: len(pair[1]))
        while encoded:
            batch, rest = encoded[: self._batch_size], encoded[self._batch_size :]
            completions = self._answer(batch, sampling.max_tokens)
            if completions is None:
                continue  # with a smaller batch
            yield from completions
            encoded = rest

    def _answer(self, batch: list[tuple[Request, list[int]]], max_tokens: int) -> list[Completion] | None:
        """One batch; `None` where memory ran out and the batch size was lowered."""
        import torch

        padded = self._tokenizer.pad({"input_ids": [ids for _, ids in batch]}, return_tensors="pt")
        try:
            with torch.inference_mode():
                out = self._model.generate(
                    **padded.to(self._model.device), do_sample=False, max_new_tokens=max_tokens, temperature=None,
                    top_p=None, top_k=None, pad_token_id=self._tokenizer.pad_token_id,
                )  # fmt: skip
        except torch.OutOfMemoryError:
            if len(batch) == 1:
                raise UserError(
                    "the judge does not fit into the GPU's memory: free some, or take a smaller one."
                ) from None
            self._batch_size = max(1, len(batch) // 2)
            print(f"modgap: out of memory, the judge's batch size lowered to {self._batch_size}", file=sys.stderr)
            out = None
        if out is None:
            torch.cuda.empty_cache()
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
        text = self._tokenizer.decode(said, skip_special_tokens=True)
        reason = "length" if end is None else "stop"
        return Completion(request, request.samples[0], text, reason, len(ids), len(said), seed=0)


class VllmTextEngine:
    """Any model that vLLM serves, in this process, asked in words alone.

    Args:
        folder: The model, in Hugging Face form.
        options: Arguments of `vllm.LLM`.
        raw: Without the chat template.
    """

    def __init__(self, folder: Path, options: dict[str, Any] | None = None, *, raw: bool = False) -> None:
        _check_text(folder)
        from vllm import LLM  # pyright: ignore[reportMissingImports] - an extra

        try:
            # The five shots are in front of every question: their keys and values are made once.
            self._llm: Any = LLM(model=str(folder), **{"enable_prefix_caching": True, "seed": 0, **(options or {})})
        except Exception as error:  # vLLM raises many kinds; the last line says what is the matter
            said = (str(error).strip().splitlines() or [type(error).__name__])[-1][:300]
            raise UserError(
                f"vLLM could not start the judge {folder} ({said}): a smaller model, or --engine-arg "
                "gpu_memory_utilization=0.8 or max_model_len=4096, may fit."
            ) from error
        self._raw = raw

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
        """The greedy answer to each request; a thousand at a time, so that a kill costs at most so many."""
        from vllm import SamplingParams  # pyright: ignore[reportMissingImports] - an extra

        _check_greedy(requests, sampling)
        tokenizer = self._llm.get_tokenizer()
        params = SamplingParams(temperature=0.0, max_tokens=sampling.max_tokens)
        for start in range(0, len(requests), _CHUNK):
            chunk = requests[start : start + _CHUNK]
            prompts = [{"prompt_token_ids": token_ids(tokenizer, request.prompt, self._raw)} for request in chunk]
            for request, output in zip(chunk, self._llm.generate(prompts, params, use_tqdm=False), strict=True):
                best = output.outputs[0]
                reason = "length" if best.finish_reason == "length" else "stop"
                yield Completion(
                    request, request.samples[0], best.text, reason, len(output.prompt_token_ids), len(best.token_ids), 0
                )

    def close(self) -> None:
        """Give the GPU back."""
        import gc

        del self._llm
        gc.collect()
