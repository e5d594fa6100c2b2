"""Reads logs of inspect_ai's tasks other than our own `modgap/gap`, `.eval` or `.json`.

Source: inspect_ai 0.3.100 and 0.3.285, `log/_log.py`, `scorer/_model.py`. A sample names its
problem by MathVerse's keys in its metadata, or by its id, which is MathVerse's `sample_index`
(with `--gt`). What the logs hide:

* A sample that failed leaves the log's status at "success" (`fail_on_error=False`).
* Older versions score a judge's reply without a grade as incorrect; only the explanation shows it.
* A sample that was halted by a limit, or edited as invalid, is scored as any other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from modgap.core.errors import UserError
from modgap.core.text import counted
from modgap.core.thinking import UnknownPart, message_text
from modgap.workflows import import_inspect
from modgap.workflows.logs.samples import Log, Sample, Verdict, outcome_of

NO_ANSWER = "is missing: the log has no output"
FAILED = "is missing: the sample failed"
INVALID = "was declared invalid in the log"
HALTED = "was halted by a limit"
FILTERED = "was filtered by the server"
ODD_PARTS = "has parts that are not text"
UNREAD = "is incorrect since the judge's reply has no grade"
UNSCORED = "is not there: the scorer gave none"
_NO_GRADE = "Grade not found in model output"
_LETTERS = {"C": 1.0, "I": 0.0, "P": 0.5, "N": 0.0}
_INDEXES = ("logs.json", "eval-set.json")
"""Files that inspect_ai writes beside its logs."""
_WORDS = {"yes": 1.0, "true": 1.0, "no": 0.0, "false": 0.0}


def read(paths: Sequence[Path], scorer: str | None = None) -> Log:
    """Read logs of one model.

    Args:
        paths: The logs, or folders of them.
        scorer: The scorer to take as the verdict, or `SCORER.KEY` of one that gives several values;
            by default the log's headline, else its first.

    Raises:
        UserError: A file is no log, is damaged, or has no such scorer; or the logs are of several
            models.
    """
    logs = [import_inspect.read_log(path) for path in log_files(paths)]
    models = {str(log.header["eval"]["model"]): log.path for log in logs}
    if len(models) > 1:
        said = ", ".join(f"{name} ({path})" for name, path in models.items())
        raise UserError(f"the logs are of several models: {said}; import each into its own --out.")
    found = Log(
        "inspect", [log.path for log in logs], next(iter(models)),
        digest="".join(log.digest for log in logs),
    )  # fmt: skip
    for log in logs:
        header = log.header
        if (status := header.get("status")) != "success":
            found.remarks.append(f"{log.path.name}: inspect_ai ended with the status {status!r}.")
        config = (header["eval"].get("model_generate_config") or {}) | (
            (header.get("plan") or {}).get("config") or {}
        )
        for name in ("temperature", "top_p", "max_tokens", "seed"):
            if config.get(name) is not None:
                found.settings.setdefault(name, config[name])
        name = scorer or _headline(header, log.samples)
        known = _scorers(log.samples)
        if scorer and scorer not in known:
            raise UserError(
                f"--scorer {scorer}: {log.path} has no such scorer; it has"
                f" {', '.join(known) or 'none'}."
            )
        if others := [other for other in known if other != name]:
            found.remarks.append(
                f"{log.path.name}: the verdicts are those of {name}; it also has"
                f" {', '.join(others)} (--scorer)."
            )
        found.scorer = ", ".join(dict.fromkeys([*filter(None, [found.scorer]), name]))
        epochs = (header["eval"].get("config") or {}).get("epochs") or 1
        wanted = {sample.get("id") for sample in log.samples}
        if missing := len(wanted) * epochs - len(log.samples):
            found.remarks.append(
                f"{log.path.name}: missing: {missing:,} of"
                f" {counted(len(wanted) * epochs, 'sample')}."
            )
        for sample in log.samples:
            found.samples.append(_sample(log.path, header, sample, name))
    return found


def log_files(paths: Iterable[Path]) -> list[Path]:
    """The logs among files and folders; a folder stands for those directly in it.

    Raises:
        UserError: A folder holds no log.
    """
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            found.append(path)
            continue
        logs = [
            file
            for file in sorted(path.iterdir())
            if file.suffix in (".eval", ".json") and file.name not in _INDEXES
        ]
        if not logs:
            raise UserError(f"{path} holds no .eval or .json file: is it a folder of inspect_ai's?")
        found += logs
    return found


def is_ours(path: Path) -> bool:
    """Whether a log is of the task `modgap/gap`, which records problems and views itself."""
    return import_inspect.KEY in import_inspect.read_metadata(path)


def _scorers(samples: Iterable[Mapping[str, Any]]) -> list[str]:
    """The scorers of a log, those with several values by each of them."""
    names: dict[str, None] = {}
    for sample in samples:
        for name, score in (sample.get("scores") or {}).items():
            value = score.get("value")
            keys = [f"{name}.{key}" for key in value] if isinstance(value, dict) else [name]
            names |= dict.fromkeys(keys)
    return list(names)


def _headline(header: Mapping[str, Any], samples: Iterable[Mapping[str, Any]]) -> str:
    known = _scorers(samples)
    headline = (header.get("results") or {}).get("headline") or {}
    name, score = headline.get("scorer"), headline.get("score")
    for wanted in (name, f"{name}.{score}"):
        if wanted in known:
            return str(wanted)
    return known[0] if known else ""


def _sample(
    path: Path, header: Mapping[str, Any], sample: Mapping[str, Any], scorer: str
) -> Sample:
    output = sample.get("output") or {}
    choice = (output.get("choices") or [{}])[0]
    stop, usage = choice.get("stop_reason") or "stop", output.get("usage") or {}
    ended = "length" if stop in ("max_tokens", "model_length") else "stop"
    fault = _fault(sample, output, choice, stop)
    text = ""
    if not fault:
        content = import_inspect.attached((choice.get("message") or {}).get("content"), sample)
        try:
            text = message_text(content, cut=ended == "length")
        except (UnknownPart, TypeError):
            fault = ODD_PARTS
    prompt, prefill = _prompt(sample)
    metadata: Mapping[str, Any] = sample.get("metadata") or {}
    about = {
        "sample_index": str(sample.get("id")),
        "answer": sample["target"] if isinstance(sample.get("target"), str) else "",
        **metadata,
    }
    return Sample(
        where=f"{path.name} {sample.get('id')} epoch {sample.get('epoch')}",
        about=about,
        task=str(header["eval"].get("task") or ""),
        number=int(sample.get("epoch") or 1) - 1,
        response=text,
        prompt=prompt,
        prefill=prefill,
        finish_reason=ended,
        prompt_tokens=usage.get("input_tokens") or 0,
        completion_tokens=usage.get("output_tokens") or 0,
        fault=fault,
        verdict=_verdict(sample, scorer),
    )


def _fault(
    sample: Mapping[str, Any], output: Mapping[str, Any], choice: Mapping[str, Any], stop: str
) -> str:
    if sample.get("error") or output.get("error"):
        return FAILED
    if sample.get("invalidation"):
        return INVALID
    if sample.get("limit"):
        return HALTED
    if not choice:
        return NO_ANSWER
    return FILTERED if stop == "content_filter" else ""


def _prompt(sample: Mapping[str, Any]) -> tuple[str | None, str]:
    """The texts of all turns before the answer, and how the assistant's turn was opened."""
    given = sample.get("input")
    if isinstance(given, str):
        return import_inspect.attached(given, sample), ""
    turns = [turn for turn in given or [] if isinstance(turn, dict)]
    prefill = ""
    if turns and turns[-1].get("role") == "assistant":
        prefill = _texts(turns.pop(), sample)
    if not turns:
        return None, prefill
    return "\n\n".join(_texts(turn, sample) for turn in turns), prefill


def _texts(turn: Mapping[str, Any], sample: Mapping[str, Any]) -> str:
    content = import_inspect.attached(turn.get("content"), sample)
    if isinstance(content, str):
        return content
    texts = [
        part.get("text", "")
        for part in content or []
        # Logs without images have the text "(Image)" instead.
        if isinstance(part, dict) and part.get("type") == "text" and part.get("text") != "(Image)"
    ]
    return "\n".join(texts)


def _verdict(sample: Mapping[str, Any], scorer: str) -> Verdict:
    scores: Mapping[str, Any] = sample.get("scores") or {}
    name, _, key = scorer.partition(".")
    score = scores.get(scorer) or scores.get(name)
    if score is None:
        return Verdict("error" if scorer else None, None, UNSCORED if scorer else "")
    value, explanation = score.get("value"), score.get("explanation") or ""
    if isinstance(value, dict):
        value = value.get(key)
    answer = score.get("answer")
    answer = answer if isinstance(answer, str) else None
    explanation = import_inspect.attached(explanation, sample)
    if str(explanation).startswith(_NO_GRADE):
        return Verdict("error", answer, UNREAD)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return Verdict("error", answer, UNSCORED)
    if isinstance(value, str):
        value = _LETTERS.get(value, _WORDS.get(value.casefold(), _number(value)))
    outcome, reason = outcome_of(value)
    judged = bool((score.get("metadata") or {}).get("grading"))
    return Verdict(outcome, answer, reason or "", "judge" if judged else "")


def _number(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text
