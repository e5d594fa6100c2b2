"""Answers prompts with vLLM, in processes of its own.

It takes any model that vLLM serves and that has a chat template.
Where this differs from the original, which hands vLLM 16 prompts at a time and waits for the last
of them:

* every sample is a request of its own with its own seed, and there are always more of them in the
  queue than the model works on, so that its batch stays full to the end of the run;
* the samples of a prompt share its keys and values (prefix caching), and prompts that show the same
  image share its features: images are named by a digest of their pixels;
* images are decoded and resized in a thread, a bounded number of prompts ahead of the model;
* a response is handed over as soon as it is finished, and a prompt that cannot be asked costs only
  itself.

The prompt is built by the model's own chat template, as vLLM applies it, with two differences that
make it the same as the `hf` engine's: ChatML's default system turn is taken out where a prompt has
none, and a prefill follows the opening of the assistant's turn. A template that takes no system
turn is given none, which is reported and recorded. Unlike there, image tokens are not suppressed
when sampling (no trained model samples them).
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import math
import queue
import re
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modgap.core.engine import PLAIN, Completion, Engine, Request, Sampling, Start, sample_seed
from modgap.core.errors import UserError
from modgap.core.images import to_rgb
from modgap.core.installation import require
from modgap.core.progress import say, show
from modgap.core.prompt import of_paper
from modgap.core.thinking import opened_by
from modgap.core.turns import at_a_token, complete, refuses_system, system_words
from modgap.engines.vllm_start import FULL_PRECISION, Running, parse_engine_args, telling_args
from modgap.models.folder import ADAPTER, has_adapter, image_processor, paper_pixels, pixel_limits

if TYPE_CHECKING:
    from PIL.Image import Image

    from modgap.core.options import EvalOptions
    from modgap.core.prompt import Prompt

Take = Callable[[bool], Sequence[Request]]
"""Gives more requests. If it waits (`True`) and gives none, there are no more."""

# Prompts prepared ahead, with their resized images; samples in vLLM's queue beyond those that it
# works on.
_AHEAD = 32
_QUEUED = 256
# The number of prompts in a row that may fail for a reason which is not their own. A prompt that is
# refused for its own sake never ends a run: the same command asks only those again.
_MOST_REFUSED = 16
# Samples at the beginning whose log-probabilities are asked for, to find a broken model that gives
# NaN. Asking takes time.
_LOOKED_AT = 16
_PATIENCE_S, _POLL_S = 5.0, 1.0


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A prompt as vLLM takes it, or why there is none.

    Attributes:
        request: What it was made from.
        prompts: vLLM's input of each of its samples.
        image_tokens: Tokens of the image.
        error: Why it cannot be asked.
        own: Whether the prompt itself is the cause, so that others may be answered.
        opened: The `<think>` with which the chat template opened the assistant's turn.
        left_out: As of a `Completion`.
    """

    request: Request
    prompts: Sequence[Any] = ()
    image_tokens: int = 0
    error: str | None = None
    own: bool = True
    opened: str = ""
    left_out: tuple[str, ...] = ()


def load_engine(
    folder: Path, pixels: tuple[int, int] | None = None, args: Sequence[str] = ()
) -> Engine:
    """The `vllm` engine.

    An adapter in the folder is applied beside the weights, see `models/lora.py`.

    Args:
        folder: The model.
        pixels: Least and most pixels of an image.
        args: Arguments of `vllm.LLM` as `key=value`.

    Raises:
        UserError: vLLM cannot start.
    """
    dtype = parse_engine_args(args).get("dtype", "auto")
    if not has_adapter(folder) or dtype in FULL_PRECISION:
        return VllmEngine(folder, pixels=pixels, args=args)
    import torch

    from modgap.models.lora import write_without_adapter

    say(f"the adapter of {folder} is applied beside its weights, as in training")
    base = tempfile.TemporaryDirectory(prefix="modgap-base-")
    try:
        half = torch.float16 if dtype in ("half", "float16") else torch.bfloat16
        write_without_adapter(folder, Path(base.name), half)
    except OSError as error:
        raise UserError(
            f"the weights without their adapter cannot be written to {base.name} ({error}): set"
            " TMPDIR to a folder with room for them, or give --engine-arg dtype=float32."
        ) from error
    engine = VllmEngine(Path(base.name), pixels=pixels, args=args, adapter=folder / ADAPTER)
    for weights in Path(base.name).glob("*.safetensors"):
        weights.unlink()  # they are loaded; the other files may still be read
    weakref.finalize(engine, base.cleanup)
    return engine


class VllmEngine:
    """The `vllm` engine.

    Args:
        folder: The model, a Hugging Face folder.
        pixels: Least and most pixels of an image, instead of the processor's own.
        args: Arguments of `vllm.LLM` as `key=value`; values that are JSON are read as such.
        adapter: The folder of a LoRA adapter that is applied to the model, in PEFT's format.

    Attributes:
        in_flight: Samples that vLLM is given at once.
        llm: The `vllm.LLM`.

    Raises:
        UserError: An argument is unknown, vLLM is not installed or it cannot start; the message has
            the remedy.
    """

    continues = True  # a started turn of the assistant's
    _adapter: Path | None = None

    def __init__(
        self,
        folder: Path,
        *,
        pixels: tuple[int, int] | None = None,
        args: Sequence[str] = (),
        adapter: Path | None = None,
    ) -> None:
        self._running = Running(folder, pixels, parse_engine_args(args), adapter)
        self._adapter = adapter
        self.llm: Any = self._running.llm
        most: int = self.llm.llm_engine.vllm_config.scheduler_config.max_num_seqs
        self.in_flight = most + min(most, _QUEUED)
        self._asked = self._refused = 0
        # By whether the prompt has an image, see `chat.Dialect`.
        self._takes_system = {True: True, False: True}

    @classmethod
    def start(cls, model: str | Path, options: EvalOptions) -> Start:
        """How it starts; the model is found and checked, not loaded. Raises `UserError`."""
        from modgap.models.fingerprint import model_fingerprint
        from modgap.models.load import check_for_vllm, resolve

        require("vllm", "give --engine hf")
        folder, args = resolve(model), telling_args(options.engine_args)
        check_for_vllm(folder, args)
        pixels = paper_pixels(folder) if of_paper(options.wording) else None
        identity: dict[str, Any] = {"model_fingerprint": model_fingerprint(folder)}
        if args:  # omitted when empty: older manifests lack this key and must still resume
            identity["engine_args"] = args
        known = (
            None
            if "mm_processor_kwargs" in args
            else pixels or pixel_limits(image_processor(folder))
        )
        return Start(
            functools.partial(load_engine, folder, pixels, options.engine_args),
            folder,
            identity,
            known,
        )

    @staticmethod
    def check_options(options: EvalOptions) -> None:
        """Refuse arguments that are not `key=value`. Raises `UserError`."""
        parse_engine_args(options.engine_args)

    @staticmethod
    def accelerators(options: EvalOptions) -> int:
        """How many accelerators one engine takes: tensor times pipeline parallel size."""
        given = parse_engine_args(options.engine_args)
        sizes = (given.get(name, 1) for name in ("tensor_parallel_size", "pipeline_parallel_size"))
        return math.prod(size for size in sizes if isinstance(size, int) and size > 0)

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
        """Every wanted sample of every request, each as soon as it is finished."""
        parts = iter([requests])
        return self.stream(lambda wait: next(parts, ()), sampling)

    def stream(self, take: Take, sampling: Sampling) -> Iterator[Completion]:
        """As `generate`, of requests that `take` gives while it works.

        A thread drives vLLM, because its client waits forever for a process that was killed.

        Raises:
            UserError: vLLM's process died, or nothing can be asked for a reason that is not the
                prompts'; what was finished before has been yielded.
        """
        results: queue.SimpleQueue[Completion | BaseException | None] = queue.SimpleQueue()
        stopped = threading.Event()
        work = (take, sampling, results.put, stopped)
        thread = threading.Thread(target=self._drive, args=work, name="modgap-vllm", daemon=True)
        thread.start()
        dead = 0
        try:
            while True:
                try:
                    item = results.get(timeout=_POLL_S)
                except queue.Empty:
                    dead += self._running.dead()
                    if dead < 2:  # at the first time its error may still be on the way
                        continue
                    item = RuntimeError(
                        "it was killed; where memory ran short, the system does that"
                    )
                if isinstance(item, BaseException):
                    raise self._running.failure(item) from None
                if item is None:
                    return
                yield item
        finally:
            stopped.set()
            thread.join(_PATIENCE_S)

    def _drive(
        self,
        take: Take,
        sampling: Sampling,
        emit: Callable[[Completion | BaseException | None], None],
        stopped: threading.Event,
    ) -> None:
        """Keep vLLM's queue filled and take what is finished, in a thread.

        An error or `None` is emitted last.
        """
        engine, feed = self.llm.llm_engine, _Feed(take, self._prepare)
        under_way: dict[str, tuple[_Prepared, int]] = {}
        try:
            samples = self._samples(feed, under_way)
            while not stopped.is_set():
                while len(under_way) < self.in_flight and (item := next(samples)) is not None:
                    if failed := self._add(*item, sampling, under_way):
                        emit(failed)
                if not under_way:
                    return emit(None)
                for output in engine.step():
                    if output.finished and (found := under_way.pop(output.request_id, None)):
                        emit(_completion(output, *found, sampling))
        except BaseException as error:
            emit(error)
        finally:
            feed.stop()
            if under_way:
                with contextlib.suppress(Exception):  # vLLM's process may be dead
                    engine.abort_request(list(under_way))

    def _add(
        self,
        prepared: _Prepared,
        number: int,
        sampling: Sampling,
        under_way: dict[str, tuple[_Prepared, int]],
    ) -> Completion | None:
        """Ask for one sample; returns its record if it cannot be asked for, else `None`."""
        request, sample = prepared.request, prepared.request.samples[number]
        error, own = prepared.error, prepared.own
        seed = sample_seed(sampling.seed, request.problem_id, request.view, sample)
        if error is None:
            self._asked += 1
            name = f"{self._asked}/{request.problem_id}/{request.view}/{sample}"
            try:
                parameters = self.parameters(request, sample, sampling)
            except ValueError as wrong:
                raise _not_the_prompts(_words(wrong)) from None
            try:
                self.llm.llm_engine.add_request(
                    name, prepared.prompts[number], parameters, **self._lora()
                )
            except ValueError as refused:  # too long, most of all
                error, own = _words(refused), _is_own(refused)
            else:
                under_way[name] = (prepared, sample)
                self._refused = 0
                return None
        self._refused += number == 0 and not own
        if self._refused >= _MOST_REFUSED:
            raise _not_the_prompts(error)
        return Completion(request, sample, "", "error", 0, 0, seed, error=error)

    def _lora(self) -> dict[str, Any]:
        """What asks for the adapter."""
        if self._adapter is None:
            return {}
        from vllm.lora.request import LoRARequest  # pyright: ignore[reportMissingImports]

        return {"lora_request": LoRARequest("adapter", 1, str(self._adapter))}

    def parameters(self, request: Request, sample: int, sampling: Sampling) -> Any:
        """The `vllm.SamplingParams` of one sample.

        Nothing else of the model's generation config is taken.
        """
        from vllm import SamplingParams  # pyright: ignore
        from vllm.sampling_params import RequestOutputKind  # pyright: ignore[reportMissingImports]

        return SamplingParams(
            temperature=sampling.temperature,
            max_tokens=sampling.max_tokens,
            # 63 bits, which vLLM takes.
            seed=sample_seed(sampling.seed, request.problem_id, request.view, sample),
            output_kind=RequestOutputKind.FINAL_ONLY,
            logprobs=0 if self._asked <= _LOOKED_AT else None,  # 0: of the sampled token alone
            **PLAIN,
        )

    def _samples(
        self, feed: _Feed, under_way: dict[str, Any]
    ) -> Iterator[tuple[_Prepared, int] | None]:
        """The samples of the prepared prompts, in order.

        `None` if none is ready yet, or there are no more. It waits for one only if nothing is under
        way.
        """
        while True:
            prepared = feed.get(wait=not under_way)
            if prepared is None:
                yield None
                continue
            for number in range(len(prepared.request.samples)):
                yield prepared, number

    def close(self) -> None:
        """End vLLM's processes and free the GPU's memory."""
        self.llm = None
        self._running.close()

    def _prepare(self, request: Request, image: Image | None) -> _Prepared:
        """A request as vLLM takes it.

        It is called only in the feed's thread, so that vLLM's image cache sees one order.
        """
        asked = request.prompt
        shown = asked if self._takes_system[image is not None] else replace(asked, system=None)
        try:
            prompt = self._render(shown, image)
        except Exception as error:  # jinja2's own, or what vLLM makes of it
            if shown.system is None or not refuses_system(str(error)):
                raise
            self._takes_system[image is not None] = False
            show(f"modgap: {system_words('the chat template', image is not None)}", error=True)
            shown = replace(asked, system=None)
            prompt = self._render(shown, image)
        opened = ""
        if isinstance(prompt.get("prompt"), str):  # a few tokenizers (Mistral's) give tokens only
            asked = at_a_token(asked, self._ids)
            request = replace(request, prompt=asked)
            prompt["prompt"] = complete(prompt["prompt"], replace(shown, prefill=asked.prefill))
            opened = "" if asked.prefill else opened_by(prompt["prompt"])
        elif asked.without_prefill:
            return self._prepare(replace(request, prompt=asked.in_user_turn()), image)
        elif asked.prefill:
            raise UserError("this model's tokenizer takes no prefill: choose another --style.")
        # Rendered anew for each sample: the image is found in vLLM's cache, and is not sent to its
        # process again.
        renderer = self.llm.llm_engine.renderer
        prompts = [
            renderer.render_cmpl([dict(prompt)], renderer.default_chat_tok_params)[0]
            for _ in request.samples
        ]
        spans = (prompts[0].get("mm_placeholders") or {}).get("image", ()) if prompts else ()
        image_tokens = sum(span.get_num_embeds() for span in spans)
        left_out = () if shown.system == asked.system else ("system",)
        return _Prepared(request, prompts, image_tokens, opened=opened, left_out=left_out)

    def _ids(self, text: str) -> list[int]:
        return self.llm.get_tokenizer().encode(text, add_special_tokens=False)

    def _render(self, prompt: Prompt, image: Image | None) -> Any:
        """A prompt through the model's chat template."""
        from vllm.renderers import ChatParams  # pyright: ignore[reportMissingImports] - an extra

        params = ChatParams(
            chat_template=getattr(self.llm, "chat_template", None),
            chat_template_kwargs={
                "add_generation_prompt": True,
                "continue_final_message": False,
                "tokenize": False,
            },
        )
        return self.llm.llm_engine.renderer.render_messages(messages(prompt, image), params)[1]


class _Feed:
    """Prepares prompts in a thread, a bounded number of them ahead."""

    def __init__(self, take: Take, prepare: Callable[[Request, Image | None], _Prepared]) -> None:
        self._take, self._prepare = take, prepare
        self._ready: queue.Queue[_Prepared | BaseException | None] = queue.Queue(_AHEAD)
        self._stopped = threading.Event()
        self._over = False
        self._thread = threading.Thread(target=self._work, name="modgap-vllm", daemon=True)
        self._thread.start()

    def get(self, wait: bool) -> _Prepared | None:
        """The next prompt.

        `None` if it is not ready yet and need not be waited for, or if there are no more.
        """
        if self._over:
            return None
        try:
            item = self._ready.get(block=wait)
        except queue.Empty:
            return None
        if isinstance(item, BaseException):
            raise item
        self._over = item is None
        return item

    def stop(self) -> None:
        """End the thread; what is prepared is dropped."""
        self._stopped.set()
        # The thread may be waiting for requests; it takes none of them any more.
        self._thread.join(_PATIENCE_S)

    def _work(self) -> None:
        last: tuple[Any, Image | None] = (None, None)
        try:
            while requests := self._take(True):
                for request in requests:
                    if self._stopped.is_set():
                        return
                    prepared, last = self._one(request, last)
                    self._put(prepared)
            self._put(None)
        except BaseException as error:
            self._put(error)

    def _put(self, item: _Prepared | BaseException | None) -> None:
        while not self._stopped.is_set():
            with contextlib.suppress(queue.Full):
                return self._ready.put(item, timeout=0.1)

    def _one(
        self, request: Request, last: tuple[Any, Image | None]
    ) -> tuple[_Prepared, tuple[Any, Image | None]]:
        """One prompt; views of a problem come side by side, and their image is decoded once."""
        try:
            if request.image is not None and request.image != last[0]:
                last = (request.image, to_rgb(request.image()))
        except Exception as error:
            return _Prepared(request, error=_words(request.refusal(error))), last
        try:
            return self._prepare(request, last[1] if request.image is not None else None), last
        except Exception as error:
            if type(error).__name__ == "ChatTemplateResolutionError":
                raise UserError(
                    "this model has no chat template: give an instruction-tuned model, or a"
                    " template with --engine-arg chat_template=FILE."
                ) from None
            own = _is_own(error)
            return (
                _Prepared(request, error=_words(request.refusal(error) if own else error), own=own),
                last,
            )


def image_name(image: Image) -> str:
    """A name for an image by its pixels: the same image is processed, encoded and cached once."""
    return hashlib.blake2b(
        f"{image.mode}{image.size}".encode() + image.tobytes(), digest_size=16
    ).hexdigest()


def messages(prompt: Prompt, image: Image | None) -> list[dict[str, Any]]:
    """A prompt as chat messages of vLLM.

    The system turn, and the user turn with the image before the text.
    """
    content: list[dict[str, Any]] = []
    if image is not None:
        content.append({"type": "image_pil", "image_pil": image, "uuid": image_name(image)})
    content.append({"type": "text", "text": prompt.text})
    system = [] if prompt.system is None else [{"role": "system", "content": prompt.system}]
    return [*system, {"role": "user", "content": content}]


def _completion(output: Any, prepared: _Prepared, sample: int, sampling: Sampling) -> Completion:
    request, best = prepared.request, output.outputs[0]
    reason = best.finish_reason
    logprob = getattr(best, "cumulative_logprob", None)  # none where it was not asked for
    if logprob is not None and math.isnan(logprob):
        raise UserError(
            f"the model gives NaN in vLLM (problem {request.problem_id}, view {request.view}): its"
            " weights are broken, or it was made for another type: try --engine-arg dtype=float32."
        )
    done = Completion(
        request=request,
        sample=sample,
        text=(request.prompt.prefill or prepared.opened) + best.text,
        finish_reason=reason if reason in ("stop", "length") else "error",
        prompt_tokens=len(output.prompt_token_ids),
        completion_tokens=len(best.token_ids),
        image_tokens=prepared.image_tokens,
        seed=sample_seed(sampling.seed, request.problem_id, request.view, sample),
        opened=prepared.opened,
        left_out=prepared.left_out,
    )
    if reason in ("stop", "length"):
        return done
    return replace(done, text="", error=f"vLLM ended it: {reason}")


def _is_own(error: Exception) -> bool:
    """Whether a prompt was refused for what it is (its length, the shape of its image).

    vLLM has `ValueError` for that. That no prompt may have an image at all (`limit_mm_per_prompt`)
    is one, too, and not the prompt's fault.
    """
    if isinstance(error, UserError):  # one of ours, on the model
        return False
    return isinstance(error, ValueError) and not re.search(r"At most \d+ image", str(error))


def _not_the_prompts(error: str) -> UserError:
    return UserError(
        f"vLLM takes no prompt, and it is not the prompts' fault ({error}): correct --engine-arg,"
        " or give --engine hf."
    )


def _words(error: Exception | str) -> str:
    """What vLLM says of a prompt, in one line."""
    said = " ".join(str(error).split()) or type(error).__name__
    return said if len(said) <= 300 else said[:297] + "..."
