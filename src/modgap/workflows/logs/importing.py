"""Makes a run of another tool's log: problems by id, responses, that tool's verdicts, our grades.

The tool's verdicts are kept as the grades of a mode of its name (`grades.lmms-eval.jsonl`), beside
ours in mode `strict`. Responses that the log does not hold as they were written, and verdicts that
it cannot tell from failures, are `error`; `import.json` names each of them.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modgap.analysis.results import IMPORT_NOTE, Summary
from modgap.core.errors import UserError, unknown
from modgap.core.json_files import write_json
from modgap.core.progress import Progress
from modgap.core.record import RunFolder
from modgap.core.rows import OUTCOMES, GradeRow, Key, Response
from modgap.core.text import counted
from modgap.workflows.fingerprints import fingerprint
from modgap.workflows.grade import grade_held
from modgap.workflows.logs.matching import Data, Matched, in_order
from modgap.workflows.logs.samples import Log, Sample
from modgap.workflows.requests import problem_row

READERS = {
    "lmms-eval": "modgap.workflows.logs.lmms_eval",
    "vlmevalkit": "modgap.workflows.logs.vlmevalkit",
    "inspect": "modgap.workflows.logs.inspect_log",
}
"""Tool -> the module that reads its logs, imported when it is used."""
NAMED = 3
"""The most samples that a warning names; `import.json` names all."""


@dataclass(frozen=True, slots=True)
class ImportedLog:
    """A run made of a log.

    Attributes:
        path: The run folder.
        log: What was read.
        summary: Of our grades.
        errors: What is wrong with responses -> the samples, each of which is `error`.
        verdict_errors: What is wrong with the tool's verdicts -> the samples.
        agreement: (the tool's outcome, ours) -> samples.
        warnings: What a reader must know, as in the summary.
    """

    path: Path
    log: Log
    summary: Summary
    errors: Mapping[str, Sequence[str]]
    verdict_errors: Mapping[str, Sequence[str]]
    agreement: Mapping[tuple[str, str], int]
    warnings: Sequence[str]


def import_logs(
    tool: str,
    files: Sequence[Path],
    out: Path,
    data: Data | None = None,
    *,
    scorer: str | None = None,
    given: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> ImportedLog:
    """Make a run of the logs of one model, and grade it in mode `strict`.

    Args:
        tool: `lmms-eval`, `vlmevalkit` or `inspect`.
        files: The logs, or folders of them.
        out: The run folder.
        data: What the logs are of; by default MathVerse as the rows describe it.
        scorer: Which of the tool's scores is its verdict, where it has several.
        given: The arguments as the user gave them, for the manifest.
        progress: Called as grading advances.

    Raises:
        UserError: A file is not of that tool, or is damaged; no row can be matched to a problem; or
            `out` holds another run.
    """
    log = _read(tool, files, scorer)
    data = data or Data()
    matched = Matched(log, data)
    resolved = _resolved(tool, log, matched, data.benchmark)
    run = RunFolder(out)
    with run.lock():
        run.start(
            "import", resolved, given, data_fingerprint=fingerprint(matched.problems),
            answers=log.digest,
        )  # fmt: skip
        run.note("sampling", dict(log.settings))
        run.check_responses({problem.id for problem in matched.problems})
        run.write_problems(problem_row(problem, "aligned") for problem in matched.problems)
        run.write_responses(_response(key, each) for key, each in matched.samples.items())
        verdicts = list(_verdicts(matched, tool))
        run.write_grades(verdicts, tool)
        errors = _by_cause(matched, lambda each: each.fault)
        lost = _by_cause(matched, lambda each: each.verdict.reason)
        warnings = _warnings(log, matched, errors, lost, resolved["samples"])
        note: dict[str, Any] = {
            "tool": tool,
            "files": [str(path.absolute()) for path in log.files],
            "scorer": log.scorer,
            "errors": errors,
            "verdict_errors": lost,
            "odd": matched.odd,
            "warnings": warnings,
        }
        write_json(run.path / IMPORT_NOTE, note)
        summary = grade_held(run, "strict", progress)
        agreement = _agreement(verdicts, run.grades())
        note["agreement"] = {f"{tool} {a}, ours {b}": n for (a, b), n in agreement.items()}
        write_json(run.path / IMPORT_NOTE, note)
    return ImportedLog(out, log, summary, errors, lost, agreement, warnings)


def _resolved(tool: str, log: Log, matched: Matched, benchmark: str) -> dict[str, Any]:
    """The arguments that the run is recognised by."""
    return {
        "model": log.model,
        "views": in_order({view for _, view, _ in matched.samples}),
        "samples": 1 + max(sample for _, _, sample in matched.samples),
        "problems": len(matched.problems),
        "benchmark": benchmark,
        "tool": tool,
        "scorer": log.scorer,
        **{name: log.settings.get(name) for name in ("temperature", "max_tokens")},
    }


def _read(tool: str, files: Sequence[Path], scorer: str | None) -> Log:
    if tool not in READERS:
        raise unknown("tool", tool, READERS)
    if not files:
        raise UserError(f"no file given: name the logs of {tool}.")
    for path in files:
        if not path.exists():
            raise UserError(f"{path} does not exist: name the logs of {tool}.")
    return importlib.import_module(READERS[tool]).read(files, scorer)


# ---- records -------------------------------------------------------------------------------------


def _response(key: Key, sample: Sample) -> Response:
    return Response(
        problem_id=key[0],
        view=key[1],
        sample=key[2],
        prompt=sample.prompt or "",
        response=sample.response.encode("utf-8", "replace").decode(),
        finish_reason="error" if sample.fault else sample.finish_reason,
        prompt_tokens=sample.prompt_tokens,
        completion_tokens=sample.completion_tokens,
        error=f"the response {sample.fault}" if sample.fault else None,
        prefill=sample.prefill,
    )


def _verdicts(matched: Matched, tool: str) -> Iterable[GradeRow]:
    golds = {problem.id: problem for problem in matched.problems}
    for (name, view, number), sample in matched.samples.items():
        verdict = sample.verdict
        if verdict.outcome is not None:
            yield GradeRow(
                problem_id=name,
                view=view,
                sample=number,
                outcome=verdict.outcome,
                answer=verdict.answer,
                gold=golds[name].gold_of(view),
                stage=verdict.by or tool,
                mode=tool,
                reason=f"the score {verdict.reason}" if verdict.reason else "",
            )


def _by_cause(matched: Matched, cause: Any) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for (name, view, number), sample in matched.samples.items():
        if why := cause(sample):
            found.setdefault(why, []).append(f"{name} {view} sample {number}")
    return found


def _agreement(theirs: Iterable[GradeRow], ours: Iterable[GradeRow]) -> dict[tuple[str, str], int]:
    by_key = {row.key: row.outcome for row in ours}
    found = {(a, b): 0 for a in OUTCOMES for b in OUTCOMES}
    for row in theirs:
        found[row.outcome, by_key[row.key]] += 1
    return {pair: count for pair, count in found.items() if count}


def _warnings(
    log: Log,
    matched: Matched,
    errors: Mapping[str, Sequence[str]],
    lost: Mapping[str, Sequence[str]],
    samples: int,
) -> list[str]:
    """What a reader must know, with how many samples it concerns."""
    found = [
        f"{_count(names, 'response')} {_are(names)} `error`, as each {what}: {_some(names)}."
        for what, names in errors.items()
    ]
    found += [
        f"{_count(names, 'score')} of {log.tool} {_are(names)} `error`, as each {what}:"
        f" {_some(names)}."
        for what, names in lost.items()
    ]
    found += [
        f"Rows ({len(rows):,}) that {what}: {_some(rows)}." for what, rows in matched.odd.items()
    ]
    cells = {key[:2] for key in matched.samples}
    if missing := len(cells) * samples - len(matched.samples):
        found.append(f"Missing: {missing:,} of {counted(len(cells) * samples, 'sample')}.")
    found += log.remarks
    if not any(sample.completion_tokens for sample in matched.samples.values()):
        found.append("The log does not say how many tokens a response has: they count as 0.")
    if not any(sample.prompt for sample in matched.samples.values()):
        found.append("The log does not hold the prompts.")
    return found


def _count(names: Sequence[str], what: str) -> str:
    return counted(len(names), what)


def _are(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _some(names: Sequence[str]) -> str:
    more = f" ... (all in {IMPORT_NOTE})" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
