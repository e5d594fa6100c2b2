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
from modgap.core.problem import Problem, Shown
from modgap.core.progress import Progress
from modgap.core.record import OUTCOMES, GradeRow, Key, Response, RunFolder, write_json
from modgap.core.view import ALL_VIEWS, VERSIONS
from modgap.datasets import mathverse
from modgap.grading.mathverse import grader_of, question_type_of
from modgap.workflows.evaluate import fingerprint, problem_row
from modgap.workflows.grade import grade_held
from modgap.workflows.logs.samples import Log, Sample

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
    *,
    gt: Path | None = None,
    scorer: str | None = None,
    given: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    allow_outside: bool = False,
) -> ImportedLog:
    """Make a run of the logs of one model, and grade it in mode `strict`.

    Args:
        tool: `lmms-eval`, `vlmevalkit` or `inspect`.
        files: The logs, or folders of them.
        out: The run folder.
        gt: MathVerse's files: they give the problems their subjects and images, and match rows
            that name their problem by `sample_index`, or by their position, only.
        scorer: Which of the tool's scores is its verdict, where it has several.
        given: The arguments as the user gave them, for the manifest.
        progress: Called as grading advances.
        allow_outside: The files of `gt` may lead out of their folder.

    Raises:
        UserError: A file is not of that tool, or is damaged; no row can be matched to a problem; or
            `out` holds another run.
    """
    if tool not in READERS:
        raise unknown("tool", tool, READERS)
    if not files:
        raise UserError(f"no file given: name the logs of {tool}.")
    for path in files:
        if not path.exists():
            raise UserError(f"{path} does not exist: name the logs of {tool}.")
    log: Log = importlib.import_module(READERS[tool]).read(files, scorer)
    matched = _Matched(log, gt, allow_outside=allow_outside)
    samples = 1 + max(key[2] for key in matched.samples)
    shown = {view for _, view, _ in matched.samples}
    resolved = {
        "model": log.model,
        "views": [view for view in ALL_VIEWS if view in shown],
        "samples": samples,
        "problems": len(matched.problems),
        "benchmark": "mathverse",
        "tool": tool,
        "scorer": log.scorer,
        **{name: log.settings.get(name) for name in ("temperature", "max_tokens")},
    }
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
        warnings = _warnings(log, matched, errors, lost, samples)
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


# ---- problems by id ------------------------------------------------------------------------------


class _Matched:
    """The samples of a log by our keys, and the problems that they answer.

    Args:
        log: The log.
        gt: MathVerse's files.
        allow_outside: These may lead out of their folder.

    Attributes:
        samples: Key -> sample; of a key that is there twice the first.
        problems: Those that have a sample.
        odd: What is left out or irregular -> the rows.
    """

    def __init__(self, log: Log, gt: Path | None, *, allow_outside: bool = False) -> None:
        self.odd: dict[str, list[str]] = {name: list(rows) for name, rows in log.odd.items()}
        self.samples: dict[Key, Sample] = {}
        index = None if gt is None else _Index(gt, allow_outside=allow_outside)
        for sample in log.samples:
            found = _own_key(sample) if index is None else index.find(sample)
            if found is None:
                self._say("match no problem and are left out", sample.where)
                continue
            key = (*found, sample.number)
            if key in self.samples:
                self._say("stand there twice, of which the first is taken", sample.where)
            else:
                self.samples[key] = sample
        if not self.samples:
            first = log.samples[0]
            needed = (
                "problem_index, problem_version, question_type and an answer; where a log lacks"
                " them, --gt with MathVerse's own files has them"
            )
            raise UserError(
                f"no row of {log.files[0]} names a problem of MathVerse's"
                + (f" ({first.where} is the first): a row needs {needed}." if gt is None else
                   f" that is in --gt {gt}: is it the same data set?")
            )  # fmt: skip
        if index is None:
            self.problems = self._described()
        else:
            used = {key[0] for key in self.samples}
            self.problems = [problem for problem in index.problems if problem.id in used]
            self._compare(index)

    def _say(self, what: str, where: str) -> None:
        self.odd.setdefault(what, []).append(where)

    def _described(self) -> list[Problem]:
        """The problems as the rows describe them; each version by its first row."""
        first: dict[str, dict[str, Mapping[str, Any]]] = {}
        for (name, view, _), sample in self.samples.items():
            known = first.setdefault(name, {}).setdefault(view, sample.about)
            if str(known.get("answer")) != str(sample.about.get("answer")):
                self._say("have another gold answer than the first row of their problem and view,"
                          " by which they are graded", sample.where)  # fmt: skip
        found: list[Problem] = []
        for index, (name, unsorted) in enumerate(first.items()):
            by_view = {view: unsorted[view] for view in ALL_VIEWS if view in unsorted}
            whole = next(iter(by_view.values()))
            metadata = whole.get("metadata")
            about: Mapping[str, Any] = metadata if isinstance(metadata, dict) else {}
            subject = str(about.get("subject") or "")
            found.append(
                Problem(
                    id=name,
                    question=_question(whole),
                    answer=str(whole.get("answer") or ""),
                    type=": ".join(filter(None, [subject, str(about.get("subfield") or "")])),
                    index=index,
                    shown={
                        view: Shown(
                            str(row.get("question") or ""),
                            _question(row),
                            str(row.get("answer") or ""),
                        )
                        for view, row in by_view.items()
                    },
                    grader=grader_of(question_type_of(str(whole["question_type"])) or ""),
                    views=tuple(by_view),
                    labels={"subject": subject} if subject else {},
                )
            )
        return found

    def _compare(self, index: _Index) -> None:
        """Say where the rows have another gold answer than the data set."""
        golds = {problem.id: problem for problem in index.problems}
        for (name, view, _), sample in self.samples.items():
            theirs = str(sample.about.get("answer") or "").strip()
            if theirs and not _same_text(theirs, golds[name].gold_of(view)):
                self._say("have another gold answer than --gt, by which they are graded",
                          sample.where)  # fmt: skip


def _question(about: Mapping[str, Any]) -> str:
    return str(about.get("question_for_eval") or about.get("question") or "")


def _same_text(a: str, b: str) -> bool:
    """Whether two gold answers are the same text, or the same number in other digits."""
    if a.strip() == b.strip():
        return True
    try:
        return float(a) == float(b)
    except ValueError:
        return False


def _view(about: Mapping[str, Any]) -> str | None:
    version = str(about.get("problem_version") or "").strip().casefold()
    return next((view for name, view in VERSIONS.items() if name.casefold() == version), None)


def _own_key(sample: Sample) -> tuple[str, str] | None:
    """The problem and view that a row names, if it also says how to grade it."""
    name, view = str(sample.about.get("problem_index") or "").strip(), _view(sample.about)
    kind = question_type_of(str(sample.about.get("question_type") or ""))
    if not name or view is None or kind is None:
        return None
    return name, view


class _Index:
    """MathVerse's rows by every name that a log may give them.

    Args:
        path: Its files.
        allow_outside: They may lead out of their folder.
    """

    def __init__(self, path: Path, *, allow_outside: bool) -> None:
        self.path = path
        self.problems = list(mathverse.read(path, allow_outside=allow_outside))
        self._rows = mathverse.rows_in_order(path, allow_outside=allow_outside)
        self._keys = {(row.problem, row.view) for row in self._rows}
        self._by_sample = {row.sample: (row.problem, row.view) for row in self._rows if row.sample}

    def find(self, sample: Sample) -> tuple[str, str] | None:
        """The problem and view of a row: by problem and version, else by sample, else by position.

        Raises:
            UserError: It has only a position, and the row there has another answer.
        """
        about, view = sample.about, _view(sample.about)
        name = str(about.get("problem_index") or "").strip()
        if name and view is not None:
            return (name, view) if (name, view) in self._keys else None
        if by_sample := self._by_sample.get(str(about.get("sample_index") or "").strip()):
            return by_sample
        return self._at(sample)

    def _at(self, sample: Sample) -> tuple[str, str] | None:
        task = sample.task.casefold().replace("_", "-")
        views = [view for view in VERSIONS.values() if view in task]
        rows = [row for row in self._rows if not views or row.view in views]
        if not 0 <= sample.position < len(rows):
            return None
        row = rows[sample.position]
        answer = str(sample.about.get("answer") or "")
        words = row.question.strip()
        asked = sample.prompt is None or words in sample.prompt
        if not _same_text(answer, row.answer) or not asked:
            raise UserError(
                f"{sample.where} names its problem by its position only, and row"
                f" {sample.position + 1} of --gt {self.path} (problem {row.problem}, {row.view}) is"
                f" another: its answer is {row.answer!r}, the log's {answer!r}; give the data in"
                " the order in which the tool read it."
            )
        return row.problem, row.view


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


def _verdicts(matched: _Matched, tool: str) -> Iterable[GradeRow]:
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


def _by_cause(matched: _Matched, cause: Any) -> dict[str, list[str]]:
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
    matched: _Matched,
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
    found += [f"{_count(rows, 'row')} {what}: {_some(rows)}." for what, rows in matched.odd.items()]
    cells = {key[:2] for key in matched.samples}
    if missing := len(cells) * samples - len(matched.samples):
        found.append(f"{missing:,} of {len(cells) * samples:,} samples are missing.")
    found += log.remarks
    if not any(sample.completion_tokens for sample in matched.samples.values()):
        found.append("The log does not say how many tokens a response has: they count as 0.")
    if not any(sample.prompt for sample in matched.samples.values()):
        found.append("The log does not hold the prompts.")
    return found


def _count(names: Sequence[str], what: str) -> str:
    return f"{len(names):,} {what}{'s' * (len(names) != 1)}"


def _are(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _some(names: Sequence[str]) -> str:
    more = f" ... (all in {IMPORT_NOTE})" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
