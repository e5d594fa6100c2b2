"""Reads lmms-eval's per-sample logs: `*_samples_TASK.jsonl`, and `*_results.json` beside them.

Source: lmms-eval 0.7, `evaluator.py` (what a row holds), `loggers/evaluation_tracker.py` (how it is
written), `tasks/mathverse/utils.py` and `llm_judge/` (how it is scored). What they hide:

* A judge that cannot be reached scores 0. Only the calls that `*_results.json` counts show it: with
  fewer calls than rows, or no count at all, a 0 is not known to be a verdict.
* `doc_hash` is the same in every row, so rows are matched by MathVerse's ids, or by `doc_id` (the
  row in the tool's data) with `--gt`.
* With `-n 2` a row keeps the first response.
* The thinking is cut from `filtered_resps`; `resps` has it where the two differ.
* Models behind an API answer a failed request with an empty text.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from modgap.core.errors import UserError
from modgap.core.files import read_bytes
from modgap.workflows.logs.samples import Log, Sample, Verdict, outcome_of

EMPTY = "is empty with no token counted, which lmms-eval also writes for a failed request"
NO_TEXT = "is not one text (a task that compares likelihoods?)"
NO_SCORE = "is not there"
DEAD = "is 0 with no record that the judge answered, and lmms-eval scores a dead judge 0"
_SAMPLES = re.compile(r"(.+)_samples_(.+)\.jsonl")
_OF_A_ROW = (
    "doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "token_counts", "doc_hash",
    "input", "input_media", "submission", "prompt_hash", "target_hash",
)  # fmt: skip
_JUDGED = re.compile(r"gpt|judge|llm", re.IGNORECASE)


def read(paths: Sequence[Path], scorer: str | None = None) -> Log:
    """Read the logs of one model.

    Args:
        paths: Files `*_samples_*.jsonl` and `*_results.json`, or folders that hold them.
        scorer: The metric to take as the tool's verdict; by default the only one of each task, or
            the only one among those that `*_results.json` reports.

    Raises:
        UserError: A file is not lmms-eval's, or is damaged; there is no such metric, or there are
            several and none is named; or the files are of several models, or of several runs of one
            task.
    """
    files = list(_files(paths))
    digest = hashlib.sha256()
    samples: list[tuple[Path, str, list[Any]]] = []
    results: dict[tuple[Path, str], Mapping[str, Any]] = {}
    for path in files:
        data = read_bytes(path)
        digest.update(data)
        match = _SAMPLES.fullmatch(path.name)
        if match:
            samples.append((path, match[1], _lines(path, data)))
        else:
            results[path.parent, path.name.removesuffix("_results.json")] = _results(path, data)
    if not samples:
        raise UserError(
            f"{', '.join(map(str, paths))}: no *_samples_*.jsonl among these files, and only those"
            " hold responses; run lmms-eval with --log_samples."
        )
    log = Log("lmms-eval", files, _model(samples, results), digest=digest.hexdigest()[:16])
    _check_one_run(samples)
    counted = dict[int, _Judge]()
    for path, date, rows in samples:
        match = _SAMPLES.fullmatch(path.name)
        task = match[2] if match else ""
        result = results.get((path.parent, date))
        if result is None:
            log.remarks.append(
                f"{path.name} came without {date}_results.json: sampling settings and the judge's"
                " calls are not known."
            )
        judge = counted.setdefault(id(result), _Judge(result))
        settings = _settings(result, task)
        _merge(log.settings, settings)
        _repeats(log, task, len(rows), settings)
        metric = _metric(log, path, rows, scorer, _reported(result, task))
        for number, row in enumerate(rows, start=1):
            log.samples.append(
                _sample(f"{path.name} row {number}", row, task, judge, metric, settings)
            )
    return log


# ---- files ---------------------------------------------------------------------------------------


def _files(paths: Iterable[Path]) -> Iterable[Path]:
    for path in paths:
        if path.is_dir():
            below = sorted(path.rglob("*_samples_*.jsonl"))
            yield from below
            for folder in dict.fromkeys(file.parent for file in below):
                yield from sorted(folder.glob("*_results.json"))
        elif _SAMPLES.fullmatch(path.name) or path.name.endswith("_results.json"):
            yield path
        else:
            raise UserError(
                f"{path} is not a log of lmms-eval: give *_samples_*.jsonl and *_results.json, or"
                " their folder."
            )


def _lines(path: Path, data: bytes) -> list[Any]:
    rows: list[Any] = []
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"{path} line {number} is not valid JSON ({error}): fix or remove it."
            ) from None
        if not isinstance(row, dict) or "doc_id" not in row or "filtered_resps" not in row:
            raise UserError(
                f"{path} line {number} has no doc_id and filtered_resps: is it lmms-eval's?"
            )
        rows.append(row)
    if not rows:
        raise UserError(f"{path} holds no sample.")
    return rows


def _results(path: Path, data: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON ({error}): copy it again.") from None
    if isinstance(found, list):
        raise UserError(
            f"{path} is a submission file: it holds the rows of the last task only, since each task"
            " writes the same name; give *_samples_*.jsonl."
        )
    if not isinstance(found, dict) or "configs" not in found:
        raise UserError(f"{path} is not lmms-eval's *_results.json (it has no configs).")
    return found


def _check_one_run(samples: Sequence[tuple[Path, str, list[Any]]]) -> None:
    """Refuse files of several runs of one task: mixed rows would be the result of none of them."""
    known: dict[str, Path] = {}
    for path, date, _ in samples:
        task = path.name.removeprefix(f"{date}_samples_").removesuffix(".jsonl")
        other = known.setdefault(task, path)
        if other != path:
            raise UserError(
                f"{other} and {path} are two runs of the task {task}: give the files of one of"
                " them (each run's names begin with its date)."
            )


def _model(
    samples: Sequence[tuple[Path, str, list[Any]]],
    results: Mapping[tuple[Path, str], Mapping[str, Any]],
) -> str:
    """The model's name, from the results or else from the folder that lmms-eval names after it."""
    names: dict[str, Path] = {}
    for path, date, _ in samples:
        result = results.get((path.parent, date), {})
        names.setdefault(str(result.get("model_name") or path.absolute().parent.name), path)
    if len(names) > 1:
        said = ", ".join(f"{name} ({path})" for name, path in names.items())
        raise UserError(f"the logs are of several models: {said}; import each into its own --out.")
    return next(iter(names))


def _settings(result: Mapping[str, Any] | None, task: str) -> dict[str, Any]:
    """How a task was sampled: its own settings under those of the command line."""
    config = (result or {}).get("configs", {}).get(task) or {}
    kwargs = dict(config.get("generation_kwargs") or {})
    given = (result or {}).get("config", {}).get("gen_kwargs")
    if isinstance(given, dict):
        kwargs |= given
    found: dict[str, Any] = {}
    for ours, theirs in (
        ("temperature", ("temperature",)),
        ("top_p", ("top_p",)),
        ("max_tokens", ("max_new_tokens", "max_gen_toks", "max_tokens")),
    ):
        for name in theirs:
            if isinstance(kwargs.get(name), int | float):
                found[ours] = kwargs[name]
    if kwargs.get("do_sample") is False and not (isinstance(given, dict) and given):
        found["temperature"] = 0.0
    if isinstance(config.get("repeats"), int):
        found["repeats"] = config["repeats"]
    if version := (result or {}).get("lmms_eval_version"):
        found["version"] = version
    return found


def _merge(into: dict[str, Any], settings: Mapping[str, Any]) -> None:
    for name, value in settings.items():
        if name != "repeats":
            known = into.setdefault(name, value)
            if known != value:
                into[name] = sorted({*(known if isinstance(known, list) else [known]), value})


def _repeats(log: Log, task: str, rows: int, settings: Mapping[str, Any]) -> None:
    repeats = settings.get("repeats", 1)
    if repeats > 1:
        log.remarks.append(
            f"{task} was run with -n {repeats}, and a row keeps the first response:"
            f" the file lacks {rows * (repeats - 1):,} of {rows * repeats:,} responses."
        )


# ---- rows ----------------------------------------------------------------------------------------


class _Judge:
    """What a run's results say of its judge.

    Args:
        result: `*_results.json`; `None` where it is not known.
    """

    def __init__(self, result: Mapping[str, Any] | None) -> None:
        usage = (result or {}).get("usage") or {}
        sources = usage.get("by_source") or {}
        self._calls = (sources.get("judge") or {}).get("n_api_calls", 0)
        tasks = usage.get("by_task") or {}
        # The calls of a task are counted over all sources.
        alone = set(sources) <= {"judge"}
        self._by_task = {
            name: counts.get("n_api_calls", 0) for name, counts in tasks.items() if alone
        }
        counts = (result or {}).get("n-samples") or {}
        self._rows = {name: (each or {}).get("effective", 0) for name, each in counts.items()}

    def answered(self, task: str) -> bool:
        """Whether every row of a task is known to have a verdict of the judge."""
        if task in self._by_task:
            return 0 < self._rows.get(task, 0) <= self._by_task[task]
        return 0 < sum(self._rows.values()) <= self._calls


def _sample(
    where: str,
    row: Mapping[str, Any],
    task: str,
    judge: _Judge,
    metric: str,
    settings: Mapping[str, Any],
) -> Sample:
    outcome, reason = outcome_of(row.get(metric))
    if metric and outcome is None:
        outcome, reason = "error", NO_SCORE
    if outcome == "wrong" and _JUDGED.search(metric) and not judge.answered(task):
        outcome, reason = "error", DEAD
    text = _response(row)
    counts = _counts(row)
    written = counts.get("output_tokens") or 0
    fault = ""
    if text is None:
        fault = NO_TEXT
    elif not text and not written:
        fault = EMPTY
    limit = settings.get("max_tokens")
    about = dict(row.get("doc") or {}) | dict(row.get("submission") or {})
    about.setdefault("answer", row.get("target"))
    return Sample(
        where=where,
        about=about,
        task=task,
        position=row["doc_id"] if isinstance(row["doc_id"], int) else -1,
        number=0,
        response=text or "",
        prompt=_prompt(row),
        finish_reason="length" if limit and written >= limit else "stop",
        prompt_tokens=counts.get("input_tokens") or 0,
        completion_tokens=written,
        fault=fault,
        verdict=Verdict(
            outcome, None, reason, "judge" if _JUDGED.search(metric) and outcome != "error" else ""
        ),
    )


def _metric(
    log: Log,
    path: Path,
    rows: Sequence[Mapping[str, Any]],
    scorer: str | None,
    reported: Sequence[str],
) -> str:
    """The metric of a task that is taken as the verdict; empty where it has none.

    Raises:
        UserError: There is no such metric, or there are several and none is named.
    """
    found = list(
        dict.fromkeys(
            name
            for row in rows
            for name, value in row.items()
            if name not in _OF_A_ROW and isinstance(value, int | float | bool)
        )
    )
    if scorer is not None and scorer not in found:
        raise UserError(
            f"--scorer {scorer}: {path} has no such metric; it has {', '.join(found) or 'none'}."
        )
    choices = [name for name in found if name in reported] or found
    if scorer is None and len(choices) > 1:
        raise UserError(
            f"{path} has several metrics, and any of them could be the verdict: name one with"
            f" --scorer: {', '.join(choices)}."
        )
    metric = scorer or next(iter(choices), "")
    if others := [name for name in found if name != metric]:
        log.remarks.append(
            f"{path.name}: the verdicts are those of {metric}; it also has {', '.join(others)}"
            " (--scorer)."
        )
    log.scorer = ", ".join(dict.fromkeys(filter(None, [*log.scorer.split(", "), metric])))
    return metric


def _reported(result: Mapping[str, Any] | None, task: str) -> list[str]:
    """The metrics of a task that `*_results.json` reports."""
    listed = ((result or {}).get("configs", {}).get(task) or {}).get("metric_list")
    each = [one.get("metric") for one in listed if isinstance(one, dict)] if listed else []
    means = ((result or {}).get("results", {}).get(task) or {}).keys()
    return [name for name in (*each, *(key.partition(",")[0] for key in means)) if name]


def _response(row: Mapping[str, Any]) -> str | None:
    """The response with its thinking; `None` where the row does not hold one text."""
    value = row.get("resps", row["filtered_resps"])
    while isinstance(value, list) and value and (len(value) == 1 or isinstance(value[0], str)):
        # Of several responses to one prompt the first is the one that was scored.
        value = value[0]
    return value if isinstance(value, str) else None


def _prompt(row: Mapping[str, Any]) -> str | None:
    """The text of the prompt; older versions keep it among the arguments of the request."""
    value = row.get("input")
    if value is None:
        value = row.get("arguments")
        while isinstance(value, list) and value:
            value = value[0]
    return value if isinstance(value, str) else None


def _counts(row: Mapping[str, Any]) -> Mapping[str, int]:
    counts = row.get("token_counts")
    first = counts[0] if isinstance(counts, list) and counts else None
    return first if isinstance(first, dict) else {}
