"""Makes a run of the log of inspect_ai's task `modgap/gap` (`workflows.inspect_task`).

inspect_ai need not be installed: a `.json` log is one JSON object, an `.eval` log a zip archive
with a member for each sample, which newer versions compress with Zstandard.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import struct
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import ValidationError

from modgap.analysis.results import IMPORT_NOTE, Summary
from modgap.core.errors import UserError
from modgap.core.files import read_bytes
from modgap.core.json_files import write_json
from modgap.core.progress import SILENT, Progress
from modgap.core.record import RunFolder
from modgap.core.rows import ProblemRow, Response
from modgap.core.text import counted
from modgap.core.thinking import UnknownPart, message_text
from modgap.workflows.grade import grade_held

KEY = "modgap"
"""The metadata that the task writes; `workflows.inspect_task` has the same name for it."""
_ZSTANDARD = 93
_MOST_BYTES = 512 << 20
_STOPPED: dict[str, str] = {"max_tokens": "length", "model_length": "length"}
_FAILED = ("content_filter",)


@dataclass(frozen=True, slots=True)
class Log:
    """One log.

    Attributes:
        path: Its file.
        header: The log without its samples.
        samples: What was asked and answered.
        digest: Of the file's content.
    """

    path: Path
    header: Mapping[str, Any]
    samples: Sequence[Mapping[str, Any]]
    digest: str

    @property
    def task(self) -> Mapping[str, Any]:
        """What the task recorded of itself.

        Raises:
            UserError: Another task's log.
        """
        found = (self.header["eval"].get("metadata") or {}).get(KEY)
        if not isinstance(found, dict):
            raise UserError(
                f"{self.path} is the log of the task {self.header['eval'].get('task')!r}, which"
                " records no views: run `inspect eval modgap/gap`, and import that log."
            )
        return found


def import_log(
    file: Path,
    out: Path,
    *,
    given: Mapping[str, Any] | None = None,
    progress: Progress = SILENT,
    allow_outside: bool = False,
) -> Summary:
    """Make a run of a log and grade it in mode `strict`.

    Args:
        file: The log, `.eval` or `.json`.
        out: The run folder.
        given: The arguments as the user gave them, for the manifest.
        progress: Called as grading advances.
        allow_outside: Keep the places of diagrams that the log names, which a report then embeds.

    Returns:
        The summary of the run.

    Raises:
        UserError: The file is no log, or another task's; or `out` holds another run.
    """
    log = read_log(file)
    task, plan = log.task, (log.header.get("plan") or {}).get("config") or {}
    resolved = {
        "model": log.header["eval"]["model"],
        "views": task["views"],
        "samples": task["samples"],
        "style": task["style"],
        "problems": task["problems"],
        "benchmark": task["benchmark"],
        "temperature": plan.get("temperature", "model"),
        "max_tokens": plan.get("max_tokens"),
    }
    problems, responses = _rows(log)
    run = RunFolder(out)
    with run.lock():
        run.start(
            "import", resolved, given, data_fingerprint=task["fingerprint"], answers=log.digest
        )
        run.check_responses(problems)
        run.write_problems(
            row if allow_outside else row.model_copy(update={"image": None})
            for row in problems.values()
        )
        run.write_responses(responses)
        write_json(run.path / IMPORT_NOTE, {"warnings": _warnings(log, responses)})
        return grade_held(run, "strict", progress)


def _rows(log: Log) -> tuple[dict[str, ProblemRow], list[Response]]:
    """The problems and the responses, in the order of the log."""
    problems: dict[str, ProblemRow] = {}
    responses: list[Response] = []
    for sample in log.samples:
        try:
            recorded = sample["metadata"][KEY]
            problem = ProblemRow.model_validate(recorded["problem"])
            problems.setdefault(problem.id, problem)
            responses.append(_response(sample, problem.id, recorded))
        except (KeyError, TypeError, ValidationError) as error:
            name = f"{sample.get('id')!r}, epoch {sample.get('epoch')}"
            raise UserError(
                f"{log.path}: the sample {name} is not as the task modgap/gap writes it"
                f" ({type(error).__name__}: {' '.join(str(error).split())[:200]})."
            ) from None
    return problems, sorted(responses, key=lambda row: row.key)


def _response(sample: Mapping[str, Any], problem_id: str, recorded: Mapping[str, Any]) -> Response:
    """One sample as a response; one that failed, or was filtered, is an `error`."""
    output = sample.get("output") or {}
    choice = (output.get("choices") or [{}])[0]
    stop, failure = choice.get("stop_reason") or "stop", sample.get("error")
    why = (failure or {}).get("message") or output.get("error")
    if not why and not choice:
        why = "the log has no answer"
    if stop in _FAILED:
        why = why or f"stopped by the server: {stop}"
    text, ended = "", _STOPPED.get(stop, "stop")
    if not why:
        content = attached((choice.get("message") or {}).get("content"), sample)
        try:
            text = message_text(content, cut=ended == "length")
        except (UnknownPart, TypeError) as error:
            why = str(error)
    usage = output.get("usage") or {}
    opened = [turn for turn in sample["input"] if turn.get("role") == "assistant"]
    prefill = opened[-1]["content"] if opened else ""
    return Response(
        problem_id=problem_id,
        view=recorded["view"],
        sample=int(sample["epoch"]) - 1,
        prompt=recorded["prompt"],
        response=text,
        finish_reason="error" if why else ended,  # pyright: ignore[reportArgumentType]
        prompt_tokens=usage.get("input_tokens") or 0,
        completion_tokens=usage.get("output_tokens") or 0,
        error=" ".join(str(why).split())[:500] if why else None,
        prefill=prefill if isinstance(prefill, str) else "",
    )


def attached(value: Any, sample: Mapping[str, Any]) -> Any:
    """Content with the texts that inspect_ai keeps apart put back."""
    attachments: Mapping[str, str] = sample.get("attachments") or {}
    if isinstance(value, str) and value.startswith("attachment://"):
        return attachments.get(value.removeprefix("attachment://"), value)
    if isinstance(value, list):
        return [attached(part, sample) for part in value]
    if isinstance(value, dict):
        return {name: attached(part, sample) for name, part in value.items()}
    return value


def _warnings(log: Log, responses: Iterable[Response]) -> list[str]:
    """What a reader must know: the log's own end, and answers that are missing or failed."""
    found: list[str] = []
    if (status := log.header.get("status")) != "success":
        found.append(f"inspect_ai ended with the status {status!r}.")
    rows = list(responses)
    if failed := sum(row.finish_reason == "error" for row in rows):
        found.append(
            f"`error`, as they failed in the log: {failed:,} of {counted(len(rows), 'sample')}."
        )
    wanted = len({(row.problem_id, row.view) for row in rows}) * int(log.task["samples"])
    if missing := wanted - len(rows):
        found.append(f"Missing from the log: {missing:,} of {counted(wanted, 'sample')}.")
    return found


# ---- files ---------------------------------------------------------------------------------------


def read_log(path: Path) -> Log:
    """Read a log of inspect_ai.

    Raises:
        UserError: The file does not exist, is damaged, or is no log.
    """
    try:
        data = read_bytes(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): give a log file.") from None
    digest = hashlib.sha256(data).hexdigest()[:16]
    try:
        if data.startswith(b"PK"):
            header, samples = _unzipped(data)
        else:
            header = json.loads(data)
            samples = header.pop("samples", None) or []
        if not isinstance(header, dict) or "model" not in header["eval"]:
            raise KeyError("eval")
    except (ValueError, KeyError, TypeError, zipfile.BadZipFile, OSError, struct.error) as error:
        raise UserError(
            f"{path} is not a log of inspect_ai, or is damaged ({type(error).__name__}: {error}):"
            " give its .eval or .json file."
        ) from None
    if not samples:
        raise UserError(f"{path} has no samples: was it written with log_samples=False?")
    return Log(path, header, samples, digest)


def read_metadata(path: Path) -> dict[str, Any]:
    """The metadata of a log's task; of an `.eval` log only its header is read.

    Raises:
        UserError: As `read_log`.
    """
    header: Any = None
    faults = (ValueError, KeyError, zipfile.BadZipFile, OSError, struct.error)
    with contextlib.suppress(*faults):  # `read_log` says what is wrong
        data = read_bytes(path)
        if data.startswith(b"PK"):
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                header = json.loads(_member(data, archive, "header.json"))
    if not isinstance(header, dict) or not isinstance(header.get("eval"), dict):
        header = read_log(path).header
    return header["eval"].get("metadata") or {}


def _unzipped(data: bytes) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The header and the samples of an `.eval` log."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = set(archive.namelist())
        if "header.json" not in names:
            raise ValueError("it has no header.json: the evaluation has not ended")
        header = json.loads(_member(data, archive, "header.json"))
        return header, list(_samples(data, archive, names))


def _samples(
    data: bytes, archive: zipfile.ZipFile, names: Iterable[str]
) -> Iterator[dict[str, Any]]:
    for name in sorted(names):
        if name.startswith("samples/") and name.endswith(".json"):
            yield json.loads(_member(data, archive, name))


def _member(data: bytes, archive: zipfile.ZipFile, name: str) -> bytes:
    """A member of the archive; Python before 3.14 reads no Zstandard, so pyarrow does."""
    info = archive.getinfo(name)
    if info.file_size > _MOST_BYTES:
        raise ValueError(f"{name} has {info.file_size / 1e6:,.0f} MB")
    if info.compress_type != _ZSTANDARD:
        return archive.read(name)
    # A local header is 30 bytes, the last four of which are the lengths of a name and of a field.
    start = info.header_offset
    lengths: tuple[int, int] = struct.unpack("<HH", data[start + 26 : start + 30])
    start += 30 + sum(lengths)
    packed = data[start : start + info.compress_size]
    with pa.CompressedInputStream(pa.BufferReader(packed), "zstd") as stream:
        return stream.read(info.file_size)
