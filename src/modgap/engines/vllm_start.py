"""How vLLM starts and what its failures mean.

Here are its arguments, its log, its processes, and one clear line for each failure.
vLLM runs the model in a process of its own and tells what went wrong only in its log, so that log
goes to a file, which is read when something fails and removed when all went well. The process would
also outlive a killed parent and keep the GPU's memory, so that the same command could not resume: a
guard ends it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import json
import logging
import multiprocessing
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import IO, Any

from modgap.core import processes
from modgap.core.errors import UserError
from modgap.core.installation import not_installed
from modgap.core.json_files import read_json
from modgap.core.progress import show
from modgap.models.folder import ADAPTER_CONFIG, has_adapter, image_processor

# Arguments that we pass ourselves, and the option that sets each.
_OURS = {"model": "--model", "mm_processor_kwargs.min_pixels": "--style paper"}
# Arguments that change only speed, memory or logging: a run may resume with others. `seed` is among
# them because each sample has its own. max_model_len is not, because it ends responses.
_SPEED = re.compile(
    r"gpu_memory_utilization|kv_cache_memory_bytes|swap_space|cpu_offload_\w+|kv_offloading_\w+|block_size|seed"
    r"|max_num_\w+|max_long_partial_prefills|long_prefill_token_threshold|max_parallel_loading_workers"
    r"|limit_mm_per_prompt|mm_processor_cache_\w+|mm_encoder_tp_mode|skip_mm_profiling|mm_shm_\w+"
    r"|enforce_eager|compilation_config|optimization_level|cudagraph_\w+|cuda_graph_sizes|max_cudagraph_capture_size"
    r"|(tensor|pipeline|data)_parallel_\w+|enable_expert_parallel|distributed_executor_backend"
    r"|disable_custom_all_reduce|enable_prefix_caching|prefix_caching_hash_algo|enable_chunked_prefill"
    r"|async_scheduling|scheduling_policy|stream_interval|attention_backend|disable_log_\w+|show_hidden_metrics\w*"
    r"|use_tqdm_on_load|download_dir|safetensors_load_strategy|ray_workers_use_nsight"
)
FULL_PRECISION = ("float32", "float")
"""Types of vLLM in which merged weights are exact."""
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
_TAIL = 200_000
_LONGEST = 300


def parse_engine_args(args: Sequence[str]) -> dict[str, Any]:
    """Arguments of `vllm.LLM` from `key=value`.

    Args:
        args: Values that are JSON are read as such (`0.8`, `true`, `{"image": 2}`); all others are
            strings.

    Raises:
        UserError: One is not `key=value`, is given twice, or cannot be set by the user.
    """
    parsed: dict[str, Any] = {}
    for arg in args:
        key, sign, text = arg.partition("=")
        key = key.strip().lstrip("-").replace("-", "_")
        if not sign or not key.isidentifier():
            raise UserError(
                f"--engine-arg {arg!r}: write it as key=value, e.g. gpu_memory_utilization=0.8."
            )
        if key in parsed:
            raise UserError(
                f"--engine-arg {key} is given twice: {parsed[key]!r} and {text!r}; keep one."
            )
        if key in _OURS:
            raise UserError(f"--engine-arg {key}: give {_OURS[key]} instead.")
        try:
            parsed[key] = json.loads(text)
        except ValueError:
            # Python's spelling of these three values is accepted, too.
            parsed[key] = {"True": True, "False": False, "None": None}.get(text.strip(), text)
    return parsed


def telling_args(args: Sequence[str]) -> dict[str, Any]:
    """Those of the arguments that can change answers, by name.

    They are a part of what identifies a run, or a judge.

    Raises:
        UserError: As `parse_engine_args`.
    """
    return {
        key: value
        for key, value in sorted(parse_engine_args(args).items())
        if not _SPEED.fullmatch(key)
    }


def check_names(args: Iterable[str], known: Iterable[str]) -> None:
    """Refuse arguments that vLLM does not have.

    Raises `UserError`, which lists similar names.
    """
    names = sorted(known)
    for arg in args:
        if arg not in names:
            near = get_close_matches(arg, names, n=5, cutoff=0.5)
            near += [name for name in names if arg in name and name not in near][: 5 - len(near)]
            hint = (
                f"near it: {', '.join(near)}"
                if near
                else "see the engine arguments in vLLM's documentation"
            )
            raise UserError(f"--engine-arg {arg}: vLLM has no such argument; {hint}.")


def pixel_arguments(folder: Path, pixels: tuple[int, int] | None) -> dict[str, int]:
    """The image processor's arguments for the least and the most pixels.

    Empty if it takes no such limits.

    Args:
        folder: The model.
        pixels: Least and most pixels; `None` leaves the processor its own.
    """
    if pixels is None:
        return {}
    config = image_processor(folder)
    size = config.get("size") or {}
    if {"min_pixels", "max_pixels"} <= config.keys() or {
        "shortest_edge",
        "longest_edge",
    } <= size.keys():
        return {"min_pixels": pixels[0], "max_pixels": pixels[1]}
    show(
        "modgap: this model's image processor has no pixel limits: images are sized its own way",
        error=True,
    )
    return {}


def adapter_arguments(
    folder: Path, adapter: Path | None, given: Mapping[str, Any]
) -> dict[str, Any]:
    """What lets vLLM apply a LoRA adapter.

    Args:
        folder: The model.
        adapter: The adapter's folder, if there is one.
        given: Arguments of `vllm.LLM` as the user gave them.

    Raises:
        UserError: vLLM cannot apply it; or one was merged into the model, whose weights would be
            rounded.
    """
    if adapter is None:
        if has_adapter(folder) and given.get("dtype") not in FULL_PRECISION:
            raise UserError(
                f"{folder} holds a LoRA adapter merged into its weights, which vLLM would round:"
                " start it with modgap.engines.vllm.load_engine, which applies the adapter beside"
                " them, or give dtype=float32."
            )
        return {}
    rank = read_json(adapter / ADAPTER_CONFIG, "copy the checkpoint again").get("r")
    if not isinstance(rank, int):
        raise UserError(f"{adapter / ADAPTER_CONFIG} names no rank: copy the checkpoint again.")
    most = next((most for most in _RANKS if most >= rank), None)
    if most is None:
        raise UserError(
            f"the adapters in {adapter} have rank {rank} together, and vLLM takes at most"
            f" {_RANKS[-1]}: give --engine-arg dtype=float32, which needs none, or --engine hf."
        )
    return {"enable_lora": True, "max_loras": 1, "max_lora_rank": most}


def explain(error: BaseException | None, log: str, *, running: bool = False) -> str:
    """What went wrong, and the remedy, in one line.

    Args:
        error: What vLLM raised here, which often only says that its process failed.
        log: What that process wrote.
        running: Whether it had started.
    """
    said = f"{log}\n{error or ''}"
    if said_of_memory := _of_memory(said, running):
        return said_of_memory
    if re.search(
        r"Failed to infer device type|No CUDA GPUs are available|no NVIDIA driver", said, re.I
    ):
        return "vLLM finds no accelerator here: give --engine hf, which runs on a CPU, too."
    if match := re.search(
        r"(max_model_len \(\d+\) is greater than the derived max_model_len[^\n.]*)", said
    ):
        return f"{_short(match[1])}: give a smaller --engine-arg max_model_len, or none."
    if re.search(r"finished its\s+bootstrapping phase", said):
        return (
            "vLLM starts processes, which import your script: put what starts it under if __name__"
            ' == "__main__":.'
        )
    cause = _cause(error, log)
    if re.search(
        r"are not supported for now|no vLLM implementation|Cannot find model module", said
    ):
        return f"vLLM does not serve this model ({cause}): give --engine hf, or another model."
    if running:
        return (
            f"vLLM's process ended while it ran ({cause}). Finished work is kept: give the command"
            " again."
        )
    return f"vLLM could not start ({cause}): correct --model or --engine-arg, or give --engine hf."


def _of_memory(said: str, running: bool) -> str:
    """What went wrong with the memory of a GPU, and the remedy; empty if it was something else."""
    when = "while it ran" if running else "at the start"
    again = " Finished work is kept: give the command again, with it" if running else ""
    # A run cannot be resumed with these.
    other = "" if running else ", max_model_len=8192, or a smaller model"
    if match := re.search(
        r"Free memory on device[^\n]*?\(([\d.]+)/([\d.]+) GiB\) on startup is less", said
    ):
        free, total = (float(number) for number in match.groups())
        share = max(0.05, int(100 * free / total - 2) / 100)
        return (
            f"other processes hold the GPU's memory ({free:.1f} of {total:.1f} GiB free): end them"
            f" (nvidia-smi names them) or give --engine-arg gpu_memory_utilization={share:.2f}."
        )
    if match := re.search(
        r"max seq len\s+\((\d+)\).*?estimated maximum model length is (\d+)", said, re.S
    ):
        return (
            f"the KV cache is too small for max_model_len {match[1]}: give --engine-arg"
            f" max_model_len={match[2]} or less, or a higher gpu_memory_utilization."
        )
    if re.search(
        r"No available memory for the cache blocks|Cannot auto-fit max_model_len|max seq len\s+\(",
        said,
    ):
        return (
            "no memory is left for the KV cache: give --engine-arg gpu_memory_utilization=0.95,"
            " max_num_batched_tokens=4096, or tensor_parallel_size=2 where there are two GPUs; or a"
            " smaller model."
        )
    if re.search(
        r"CUDA (error: )?out of memory|OutOfMemoryError|Cannot allocate memory|MemoryError", said
    ):
        return (
            f"vLLM ran out of memory {when}.{again or ' Remedy:'} --engine-arg"
            " gpu_memory_utilization=0.8 or max_num_seqs=64, tensor_parallel_size=2 where there"
            f" are two GPUs{other}."
        )
    return ""


def _cause(error: BaseException | None, log: str) -> str:
    """The first error of the log that is not one about another, or what was raised here."""
    lines = re.findall(
        r"(?:^|\s)((?:[A-Za-z_][\w.]*)?(?:Error|Exception|Interrupt|Exit): [^\n]+)", log
    )
    own = [line for line in lines if not re.search(r"Engine ?[cC]ore|root cause|cancelled", line)]
    if own:
        return _short(own[-1])
    if error is not None and not re.search(r"root cause", str(error)):
        text = re.sub(
            r"\d+ validation errors? for \w+|\[type=[^\]]*\]|For further information[^\n]*",
            " ",
            str(error),
        )
        return _short(f"{type(error).__name__}: {text}")
    return (
        "no cause in its log: it may have been killed, as the system does where memory runs short"
    )


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


class Running:
    """A started `vllm.LLM`, its log and the guard of its processes.

    Args:
        folder: The model.
        pixels: Least and most pixels of an image.
        given: Arguments of `vllm.LLM` as the user gave them; ours are defaults.
        adapter: The folder of a LoRA adapter of the model.

    Attributes:
        llm: The `vllm.LLM`.

    Raises:
        UserError: vLLM is not installed or cannot start; one line says why and what to do.
    """

    def __init__(
        self,
        folder: Path,
        pixels: tuple[int, int] | None,
        given: Mapping[str, Any],
        adapter: Path | None = None,
    ) -> None:
        self._closed = self._failed = False
        before = set(multiprocessing.active_children())
        mark = processes.new_mark()
        handle, name = tempfile.mkstemp(prefix="modgap-vllm-", suffix=".log")
        self._log, self._log_path = os.fdopen(handle, "ab", buffering=0), Path(name)
        self._guard = processes.start_guard(mark)
        show(
            f"modgap: starting vLLM, which takes a minute or two (its log: {name})",
            error=True,
        )
        try:
            with _output_to(self._log), _marking(mark):
                self.llm = self._start(
                    folder, pixels, {**adapter_arguments(folder, adapter, given), **given}
                )
        except BaseException as error:
            failure = self.failure(error, running=False)
            self.close()
            raise failure from None
        self._processes = set(multiprocessing.active_children()) - before

    def _start(self, folder: Path, pixels: tuple[int, int] | None, given: Mapping[str, Any]) -> Any:
        if not (folder / "config.json").is_file():
            raise UserError(
                f"{folder} holds no model (no config.json): give a Hugging Face folder or id."
            )
        # No telemetry is sent, and tokenizers need no threads of their own beside vLLM's.
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        # A forked process would keep the guard's pipe open, and the state of threads that it does
        # not have.
        os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
        try:
            import vllm  # pyright: ignore[reportMissingImports] - an extra
            from vllm.platforms import current_platform  # pyright: ignore[reportMissingImports]
        except ModuleNotFoundError as error:
            if error.name != "vllm":
                raise UserError(
                    f"vLLM cannot be imported (no module named {error.name!r}): install it again."
                ) from None
            raise UserError(f"{not_installed('vllm')}.") from None
        # pyright takes engines/vllm.py for the package `vllm` where that is not installed.
        engine_args: Any = vllm.EngineArgs  # pyright: ignore[reportAttributeAccessIssue]
        llm: Any = vllm.LLM  # pyright: ignore[reportAttributeAccessIssue]
        known = {field.name for field in dataclasses.fields(engine_args)}
        known |= {
            name
            for name, p in inspect.signature(llm).parameters.items()
            if p.kind is not p.VAR_KEYWORD
        }
        check_names(given, known)
        if not current_platform.device_type:
            raise UserError(explain(None, "Failed to infer device type"))
        arguments: dict[str, Any] = {
            "max_model_len": -1,  # the model's own, or as much of it as the KV cache holds
            "limit_mm_per_prompt": {"image": 1, "video": 0},
            "enable_prefix_caching": True,  # a prompt's samples share its keys and values
            "seed": 0,  # each sample has its own
            **given,
        }
        if limits := pixel_arguments(folder, pixels):
            arguments["mm_processor_kwargs"] = {
                **limits,
                **(given.get("mm_processor_kwargs") or {}),
            }
        try:
            return llm(model=str(folder), **arguments)
        finally:
            _quieten(self._log)

    def dead(self) -> bool:
        """Whether a process of vLLM has ended."""
        return any(not process.is_alive() for process in self._processes)

    def failure(self, error: BaseException, *, running: bool = True) -> BaseException:
        """What to raise for what vLLM raised: a `UserError`, but an interrupt stays what it is."""
        if isinstance(error, UserError) or not isinstance(error, Exception):
            return error
        self._failed = True
        with self._log_path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
            log = file.read().decode(errors="replace")
        return UserError(f"{explain(error, log, running=running)} vLLM's log: {self._log_path}")

    def close(self) -> None:
        """End vLLM's processes and free the GPU's memory; the log is kept if a message named it."""
        if self._closed:
            return
        self._closed = True
        engine = getattr(getattr(self, "llm", None), "llm_engine", None)
        if engine is not None:
            # Shutting down a process that has died already raises an error.
            with contextlib.suppress(Exception):
                engine.engine_core.shutdown()
            with contextlib.suppress(Exception):
                engine.renderer.shutdown()
            del self.llm
        self._guard.kill()
        self._guard.wait()
        self._log.close()
        if not self._failed:
            self._log_path.unlink(missing_ok=True)


@contextlib.contextmanager
def _marking(mark: str) -> Iterator[None]:
    """Give a mark to the processes that are started meanwhile."""
    before = os.environ.get(processes.MARK)
    os.environ.update(processes.with_mark(mark))
    try:
        yield
    finally:
        if before is None:
            del os.environ[processes.MARK]
        else:
            os.environ[processes.MARK] = before


@contextlib.contextmanager
def _output_to(log: IO[bytes]) -> Iterator[None]:
    """Send what this process and those it starts write to a file.

    Progress bars and our own messages still go to the terminal. The file descriptors are changed,
    because processes that start meanwhile inherit them.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    saved, ours = [os.dup(1), os.dup(2)], sys.stderr
    try:
        with os.fdopen(os.dup(2), "w", buffering=1, encoding="utf-8", errors="replace") as terminal:
            if ours.isatty():
                sys.stderr = terminal
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            yield
    finally:
        with contextlib.suppress(ValueError, OSError):
            sys.stdout.flush()  # what is still buffered belongs to vLLM, too
        sys.stderr = ours
        for number, fd in enumerate(saved, start=1):
            os.dup2(fd, number)
            os.close(fd)


def _quieten(log: IO[bytes]) -> None:
    """Send the rest of what vLLM says in this process to its log, too."""
    stream = os.fdopen(os.dup(log.fileno()), "w", buffering=1, encoding="utf-8", errors="replace")
    for handler in logging.getLogger("vllm").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setStream(stream)
