"""Which of our problems, and in which view, a row of another tool's log answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from modgap.core import registry
from modgap.core.errors import UsageError, UserError
from modgap.core.problem import Problem, Shown
from modgap.core.rows import Key
from modgap.core.view import ALL_VIEWS, VERSIONS, get_view
from modgap.datasets import mathverse
from modgap.grading.mathverse import NAME, grader_of, question_type_of
from modgap.workflows.logs.samples import Log, Sample
from modgap.workflows.problems import load_problems

_NAMES = ("problem_id", "problem_index", "sample_index", "question_id", "id", "index", "pid")
"""Where a row may have the id of its problem, in the order in which they are tried."""


@dataclass(frozen=True, slots=True)
class Data:
    """What logs are of.

    Attributes:
        gt: The data set's files. They give the problems their subjects and images, and match rows
            that name their problem by another id, or by their position, only. MathVerse's rows
            often say all that is needed without them.
        benchmark: The data set.
        view: The view of rows that do not say theirs.
        allow_outside: The files may lead out of their folder.
    """

    gt: Path | None = None
    benchmark: str = NAME
    view: str | None = None
    allow_outside: bool = False


OTHER_GOLD = "names a problem of the data that has another gold answer"
OTHER_QUESTION = "names a problem of the data that has another question"
OTHER_THAN_FIRST = "has another gold answer than the first row of its problem and view"
"""Why a row that names a problem is not about it: an `error`, as its grade would mean nothing."""


def in_order(views: Iterable[str]) -> list[str]:
    """Names of views, each once, in the order of our tables."""
    found = set(views)
    return [view for view in ALL_VIEWS if view in found] + sorted(found - ALL_VIEWS.keys())


class Matched:
    """The samples of a log by our keys, and the problems that they answer.

    Args:
        log: The log.
        data: What it is of.

    Attributes:
        samples: Key -> sample; of a key that is there twice the first.
        problems: Those that have a sample.
        odd: What is left out or irregular -> the rows.
    """

    def __init__(self, log: Log, data: Data) -> None:
        self.odd: dict[str, list[str]] = {name: list(rows) for name, rows in log.odd.items()}
        self.samples: dict[Key, Sample] = {}
        index = _index_of(data)
        for sample in log.samples:
            found = _own_key(sample, data) if index is None else index.find(sample)
            if found is None:
                self._say("match no problem and are left out", sample.where)
                continue
            key = (*found, sample.number)
            if key in self.samples:
                self._say("stand there twice, of which the first is taken", sample.where)
            else:
                self.samples[key] = sample
        if not self.samples:
            raise _nothing(log, data)
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
        for key, sample in list(self.samples.items()):
            name, view, _ = key
            known = first.setdefault(name, {}).setdefault(view, sample.about)
            if str(known.get("answer")) != str(sample.about.get("answer")):
                self._refuse(key, OTHER_THAN_FIRST)
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

    def _compare(self, index: _Index | _Others) -> None:
        """Refuse the rows that have another gold answer or question than the data set."""
        golds = {problem.id: problem for problem in index.problems}
        for key, sample in list(self.samples.items()):
            problem, view = golds[key[0]], key[1]
            theirs = str(sample.about.get("answer") or "").strip()
            if theirs and not _same_text(theirs, problem.gold_of(view)):
                self._refuse(key, OTHER_GOLD)
            elif _asks_another(sample, problem, view):
                self._refuse(key, OTHER_QUESTION)

    def _refuse(self, key: Key, why: str) -> None:
        """A row that names a problem and is about another one: neither grade means anything."""
        sample = self.samples[key]
        verdict = replace(sample.verdict, outcome="error", reason=why)
        self.samples[key] = replace(
            sample, fault=why, verdict=sample.verdict if sample.verdict.outcome is None else verdict
        )


def _asks_another(sample: Sample, problem: Problem, view: str) -> bool:
    """Whether a row's own question is not the problem's, in its words or in its prompt."""
    ours = {
        _plain(text)
        for text in (problem.question, problem.question_of(view), _words(problem, view))
        if text.strip()
    }
    theirs = {
        _plain(str(sample.about.get(name) or "")) for name in ("question", "question_for_eval")
    } - {""}
    said = [*theirs, *filter(None, [_plain(sample.prompt or "")])]
    return bool(ours and theirs) and not any(
        mine in text or text in mine for mine in ours for text in said
    )


def _words(problem: Problem, view: str) -> str:
    shown = problem.shown.get(view)
    return (shown.words if shown else None) or ""


def _plain(text: str) -> str:
    """Letters and digits alone: tools change white space and marks."""
    return "".join(filter(str.isalnum, text.casefold()))


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


def _nothing(log: Log, data: Data) -> UserError:
    """That no row could be matched, and what a row needs."""
    head = f"no row of {log.files[0]} names a problem of {data.benchmark}"
    if data.gt is not None:
        return UserError(f"{head} that is in --gt {data.gt}: is it the same data set?")
    return UserError(
        f"{head} ({log.samples[0].where} is the first): a row needs problem_index, problem_version,"
        " question_type and an answer; where a log lacks them, --gt with the data set's own files"
        " has them."
    )


def _view(sample: Sample, default: str | None, known: Iterable[str]) -> str | None:
    """The view that a row says itself, else its task, else the one that the user gave."""
    for name in ("problem_version", "view"):
        words = str(sample.about.get(name) or "").strip().casefold()
        said = "-".join(words.replace("_", " ").split())
        if said in known:
            return said
    if default is not None:
        return get_view(default).name
    task = sample.task.casefold().replace("_", "-")
    named = [view for view in known if view in task]
    return named[0] if len(named) == 1 else None


def _own_key(sample: Sample, data: Data) -> tuple[str, str] | None:
    """The problem and view that a row of MathVerse names, if it also says how to grade it."""
    name = str(sample.about.get("problem_index") or "").strip()
    view = _view(sample, data.view, VERSIONS.values())
    kind = question_type_of(str(sample.about.get("question_type") or ""))
    if not name or view is None or kind is None:
        return None
    return name, view


def _index_of(data: Data) -> _Index | _Others | None:
    """What finds the problems of rows; `None` where the rows describe them."""
    if data.benchmark == NAME:
        return None if data.gt is None else _Index(data)
    return _Others(data)


class _Others:
    """The problems of a data set other than MathVerse, which a row names by id or position.

    Args:
        data: The data set.
    """

    def __init__(self, data: Data) -> None:
        if data.gt is None and not registry.DATASETS.entry(data.benchmark).own_data:
            raise UsageError(
                f"--gt is missing: logs name problems of {data.benchmark} only; give the data set's"
                " folder or file."
            )
        self._data = data
        self.problems = load_problems(data.gt, data.benchmark, allow_outside=data.allow_outside)
        self._by_id = {problem.id: problem for problem in self.problems}

    def find(self, sample: Sample) -> tuple[str, str] | None:
        """The problem and view of a row.

        Raises:
            UserError: It does not say its view; or it has only a position, and the problem there
                has another answer.
        """
        ids = [str(sample.about.get(name) or "").strip() for name in _NAMES]
        problem = next((self._by_id[name] for name in ids if name in self._by_id), None)
        if problem is None and 0 <= sample.position < len(self.problems):
            problem = self.problems[sample.position]
            answer = str(sample.about.get("answer") or "")
            if not _same_text(answer, problem.answer):
                raise UserError(
                    f"{sample.where} names its problem by its position only, and problem"
                    f" {sample.position + 1} of {self._data.benchmark} ({problem.id}) is another:"
                    f" its answer is {problem.answer!r}, the log's {answer!r}; give the data in the"
                    " order in which the tool read it as --gt."
                )
        if problem is None:
            return None
        view = _view(sample, self._data.view, ALL_VIEWS)
        if view is None:
            raise UserError(
                f"{sample.where} does not say its view, nor does the task {sample.task!r}: give"
                f" --view, such as image-only or full-text."
            )
        return (problem.id, view) if problem.has_view(view) else None


class _Index:
    """MathVerse's rows by every name that a log may give them.

    Args:
        data: Its files.
    """

    def __init__(self, data: Data) -> None:
        assert data.gt is not None
        self.path, self._default = data.gt, data.view
        self.problems = list(mathverse.read(data.gt, allow_outside=data.allow_outside))
        self._rows = mathverse.rows_in_order(data.gt, allow_outside=data.allow_outside)
        self._keys = {(row.problem, row.view) for row in self._rows}
        self._by_sample = {row.sample: (row.problem, row.view) for row in self._rows if row.sample}

    def find(self, sample: Sample) -> tuple[str, str] | None:
        """The problem and view of a row: by problem and version, else by sample, else by position.

        Raises:
            UserError: It has only a position, and the row there has another answer.
        """
        about, view = sample.about, _view(sample, self._default, VERSIONS.values())
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
            differs = f"its answer is {row.answer!r}, the log's {answer!r}"
            if _same_text(answer, row.answer):
                differs = "its question does not stand in the log's prompt"
            raise UserError(
                f"{sample.where} names its problem by its position only, and row"
                f" {sample.position + 1} of --gt {self.path} (problem {row.problem}, {row.view}) is"
                f" another: {differs}; give the data in the order in which the tool read it."
            )
        return row.problem, row.view
