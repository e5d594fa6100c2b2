"""The tables of a report, made once: the page, the terminal and Markdown show the same cells."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup, escape

from modgap.analysis.gap import GapChange
from modgap.analysis.results import ReportSummary, Summary, TypeGap
from modgap.core.text import interval, percent, signed
from modgap.core.view import PARTIAL, RENDERED

NOT_COMPARABLE = "differs in"
"""Head of the column that says what a run differs in from the one that it stands beside."""
LONG = 40
"""Characters from which on a cell of words may be broken."""
MEANINGS = {
    "full-text": "what it solves with everything given",
    "image-only": "what it solves when conditions are only in the image",
    "text-only": "whether it needs the image at all when the text says everything",
    "question-only": "what can be guessed from the question",
    "blank-image": "what can be guessed from the question and a blank image",
    "swapped-image": "whether a wrong image leads it astray when the text says everything",
    "partial-text": "what it solves when some of the conditions are in the image only",
    "rendered-text": "whether it reads the conditions as words in the image",
    "as-published": "the data set's own text, whatever it holds of the conditions",
    "transcribe": "image-only, asked to write the conditions down first",
    "own-transcription": "image-only, the answer opened for it to write the conditions itself",
    "true-transcription": "image-only, the true conditions already written in its answer",
    "corrupted-transcription": "image-only, the conditions with one number changed already in its"
    " answer: does it follow the words?",
    "full-text-transcription": "full-text, the true conditions already written in its answer",
    "text-dominant": "what it solves with everything written, and the diagram",
    "text-lite": "what it solves without words for what the diagram shows anyway",
    "vision-intensive": "whether it reads how things lie in the diagram",
    "vision-dominant": "whether it reads the conditions in the diagram",
    "vision-only": "whether it reads the question in the image, too",
}
"""View -> what its accuracy shows."""


def meaning(view: str) -> str:
    """What a view's accuracy shows; empty for a view from outside the package."""
    family = next((first for first in (RENDERED, PARTIAL) if view.startswith(first)), view)
    return MEANINGS.get(family, "")


@dataclass(frozen=True, slots=True)
class Table:
    """A table with its cells as they are shown.

    Attributes:
        caption: What the table says.
        head: Column names; the first `left` columns hold words and are aligned left.
        rows: The cells.
        left: How many columns hold words.
    """

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: int = 1

    def html(self) -> Markup:
        """The table as HTML, every cell escaped.

        With two columns of names, a new value in the first one starts a group.
        """
        head = "".join(
            f'<th scope="col"{self._class(i)}>{escape(name)}</th>'
            for i, name in enumerate(self.head)
        )
        body: list[str] = []
        for number, row in enumerate(self.rows):
            same = number > 0 and self.left > 1 and self.rows[number - 1][0] == row[0]
            start = ' class="first"' if self.left > 1 and not same and number else ""
            name = (
                f'<span class="visually-hidden">{escape(row[0])}</span>' if same else escape(row[0])
            )
            cells = [f'<th scope="row">{name}</th>']
            cells += [
                f"<td{self._class(i, cell)}>{escape(cell)}</td>" for i, cell in enumerate(row) if i
            ]
            body.append(f"<tr{start}>{''.join(cells)}</tr>")
        return Markup(
            '<div class="scroll" tabindex="0" role="group"'
            f' aria-label="{escape(self.caption)}"><table>'
            f"<caption>{escape(self.caption)}</caption>"
            f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
        )

    def _class(self, column: int, cell: str = "") -> str:
        return (
            ""
            if column >= self.left
            else ' class="l wrapcell"'
            if len(cell) > LONG
            else ' class="l"'
        )

    def noted(self, notes: Mapping[str, Sequence[str]]) -> Table:
        """The table with what each run differs in, where it has rows of such runs.

        Args:
            notes: Name of a run -> in words, what keeps it from being compared.
        """
        if self.head[0] != "run" or notes.keys().isdisjoint(row[0] for row in self.rows):
            return self
        rows = tuple((*row, "; ".join(notes.get(row[0], ()))) for row in self.rows)
        return replace(self, head=(*self.head, NOT_COMPARABLE), rows=rows)

    def markdown(self) -> str:
        """The table in GitHub's Markdown."""
        lines = [
            self.head,
            tuple("---" if i < self.left else "---:" for i in range(len(self.head))),
            *self.rows,
        ]
        rows = ("| " + " | ".join(map(_markdown_cell, line)) + " |" for line in lines)
        return "\n".join(rows) + "\n"


def one_cell(text: str) -> str:
    """A text without line ends, which would break the rows of a table."""
    return " ".join(text.splitlines())


def _markdown_cell(text: str) -> str:
    # A backslash before the bar would escape the one that escapes it.
    return one_cell(text).replace("\\", "\\\\").replace("|", "\\|")


def modes(runs: Mapping[str, Summary]) -> dict[str, list[str]]:
    """How runs were graded -> their names; runs without a grade are left out."""
    found: dict[str, list[str]] = {}
    for name, summary in runs.items():
        if summary.mode:
            found.setdefault(summary.mode, []).append(name)
    return found


def p_text(value: float | None) -> str:
    """A p value: `0.031`, `<0.001`."""
    return "–" if value is None else "<0.001" if value < 0.001 else f"{value:.3f}"


def accuracy_table(runs: Mapping[str, Summary]) -> Table:
    """Accuracy of each view of each run, with all four counts and the denominator."""
    rows: list[tuple[str, ...]] = []
    for name, summary in runs.items():
        for view, row in summary.views.items():
            rows.append(
                (
                    name,
                    view,
                    percent(row.accuracy),
                    interval(row.ci_low, row.ci_high, 100),
                    *map(str, row.by_outcome()),
                    str(row.n_samples),
                    str(row.n_problems),
                    percent(row.truncation_rate),
                )
            )
    counts = ("correct", "wrong", "no answer", "error", "samples", "problems", "cut %")
    return Table(
        "Accuracy by view",
        ("run", "view", "accuracy %", "95% interval", *counts),
        tuple(rows),
        left=2,
    )


def passes_table(runs: Mapping[str, Summary]) -> Table | None:
    """pass@k and maj@k of each view; `None` where there is one sample a problem."""
    every: set[int] = set()
    for summary in runs.values():
        for row in summary.views.values():
            every.update(int(k) for k in row.pass_at_k)
    ks = sorted(every)
    if not ks or ks[-1] == 1:
        return None
    if len(ks) > 6:  # powers of two, and all
        ks = [k for k in ks if k & (k - 1) == 0 or k == ks[-1]]
    rows: list[tuple[str, ...]] = []
    for name, summary in runs.items():
        for view, row in summary.views.items():
            passes = [percent(row.pass_at_k.get(str(k))) for k in ks]
            tokens = f"{row.mean_completion_tokens:.0f}"
            rows.append((name, view, *passes, percent(row.maj_at_k), tokens))
    head = ("run", "view", *(f"pass@{k}" for k in ks), "majority", "mean tokens")
    return Table("With several samples a problem, percent", head, tuple(rows), left=2)


def sets_table(numbers: ReportSummary, *, narrow: bool = False) -> Table | None:
    """Every model of a study on every set that it was measured on, side by side.

    Args:
        numbers: Of the report.
        narrow: Only the gap and its change, for a terminal.
    """
    if not numbers.sets:
        return None
    sets = list(dict.fromkeys(name for row in numbers.sets.values() for name in row))
    columns = ("gap", "change") if narrow else ("text %", "image %", "gap", "change")
    rows: list[tuple[str, ...]] = []
    for model, on in numbers.sets.items():
        cells: list[str] = []
        for name in sets:
            run = on.get(name, "")
            gap, change = numbers.runs[run].gap if run else None, numbers.changes.get(run)
            sides = (
                (percent(gap.text_accuracy), percent(gap.vision_accuracy)) if gap else ("–",) * 2
            )
            cells += () if narrow else sides
            cells += [signed(gap.points) if gap else "–", signed(change.points) if change else ""]
        rows.append((model, *cells))
    head = [f"{name}: {column}" for name in sets for column in columns]
    caption = "The same models on every set: gap in points, and its change against the first run"
    return Table(caption, ("model or recipe", *head), tuple(rows))


def pooled_table(numbers: ReportSummary, *, narrow: bool = False) -> Table | None:
    """The gap of every model over all sets together, by problem.

    Args:
        numbers: Of the report.
        narrow: Only the gap and its change, for a terminal.
    """
    if not numbers.pooled:
        return None
    rows: list[tuple[str, ...]] = []
    for model, gap in numbers.pooled.items():
        change = gap.change
        changed = (
            (signed(change.points), interval(change.ci_low, change.ci_high)) if change else ("", "")
        )
        main = (signed(gap.points), interval(gap.ci_low, gap.ci_high))
        sides = () if narrow else (percent(gap.text_accuracy), percent(gap.vision_accuracy))
        more = () if narrow else (p_text(gap.p_value), signed(gap.mean_of_sets))
        count = str(gap.n_clusters)
        rows.append((model, ", ".join(gap.sets), count, *sides, *main, *more, *changed))
    sides = () if narrow else ("text %", "image %")
    more = () if narrow else ("p (sign flips)", "mean of sets")
    head = ("model or recipe", "sets", "problems", *sides, "gap", "95% interval", *more,
            "change", "95% interval")  # fmt: skip
    caption = "All sets together, by problem: gap in points, and its change against the first row"
    return Table(caption, head, tuple(rows), left=2)


def gap_table(
    runs: Mapping[str, Summary],
    changes: Mapping[str, GapChange] | None = None,
    *,
    several: bool = False,
) -> Table:
    """The gap of each run, and its change against the first one where that could be paired.

    With `several` sets, it is the first one on the same set.
    """
    rows: list[tuple[str, ...]] = []
    for name, summary in runs.items():
        gap = summary.gap
        if gap is None:
            continue
        row = (
            name,
            percent(gap.text_accuracy),
            percent(gap.vision_accuracy),
            signed(gap.points),
            interval(gap.ci_low, gap.ci_high),
            p_text(gap.p_value),
            str(gap.n_problems),
        )
        if changes:
            change = changes.get(name)
            row += (
                (signed(change.points), interval(change.ci_low, change.ci_high))
                if change
                else ("", "")
            )
        rows.append(row)
    head = ("run", "text %", "image %", "gap", "95% interval", "p (McNemar)", "problems")
    base = "the first run on the same set" if several else next(iter(runs), "")
    return Table(
        f"Gap in points{f'; change against {base}' if changes else ''}",
        (*head, "change", "95% interval") if changes else head,
        tuple(rows),
    )


def type_table(summary: Summary) -> Table:
    """The gap of each problem type."""
    return _by_label("type", summary.types)


def subject_table(summary: Summary) -> Table | None:
    """The gap of each subject, where the problems have several."""
    return _by_label("subject", summary.subjects) if summary.subjects else None


def _by_label(label: str, found: Sequence[TypeGap]) -> Table:
    rows = [
        (
            row.type or "(none)",
            str(row.n_problems),
            percent(row.text_accuracy),
            percent(row.vision_accuracy),
            signed(row.points),
            p_text(row.p_holm),
        )
        for row in found
    ]
    caption = "By problem type" if label == "type" else f"By {label}"
    head = (label, "problems", "text %", "image %", "gap", "p (Holm)")
    return Table(caption, head, tuple(rows))


def leaky_table(runs: Mapping[str, Summary]) -> Table | None:
    """The gap where the question itself states a number or an equation, and where it does not."""
    rows: list[tuple[str, ...]] = []
    for name, summary in runs.items():
        for key, words in (("clean", "no condition"), ("leaky", "a number or an equation")):
            part = summary.leaky.get(key)
            if part:
                rows.append(
                    (
                        name,
                        words,
                        str(part.n_problems),
                        percent(part.text_accuracy),
                        percent(part.vision_accuracy),
                        signed(part.points),
                        interval(part.ci_low, part.ci_high),
                    )
                )
    if not any(row[1] != "no condition" for row in rows):
        return None
    head = ("run", "the question states", "problems", "text %", "image %", "gap", "95% interval")
    return Table(
        "Questions that give conditions away in every view, and the others",
        head,
        tuple(rows),
        left=2,
    )


def reading_table(runs: Mapping[str, Summary]) -> Table | None:
    """How the problems lost in the image were read, and those solved in both views beside them."""
    rows: list[tuple[str, ...]] = []
    for name, summary in runs.items():
        reading = summary.reading
        for part, words in (
            (reading, "lost in the image"),
            (reading and reading.solved, "solved in both"),
        ):
            if part and part.n_problems:
                values, clauses = part.values, part.clauses
                rows.append(
                    (
                        name,
                        words,
                        *map(
                            str, (part.n_problems, part.misread, part.read_right, part.unreadable)
                        ),
                        percent(part.share_misread),
                        interval(part.ci_low, part.ci_high, 100),
                        percent(values.share_misread),
                        interval(values.ci_low, values.ci_high, 100),
                        percent(clauses.read / clauses.n if clauses.n else None),
                    )
                )
    if not rows:
        return None
    counts = ("with conditions", "misread", "read right", "unreadable")
    shares = ("misread %", "95% interval", "numbers wrong %", "95% interval", "conditions read %")
    return Table(
        "How lost problems were read, and solved ones",
        ("run", "which", *counts, *shares),
        tuple(rows),
        left=2,
    )


def controls_table(runs: Mapping[str, Summary]) -> Table | None:
    """Accuracy of the controls between the gap's two views; `None` where no run has a control."""
    rows: list[tuple[str, ...]] = []
    for name, summary in runs.items():
        views = summary.views
        if any(row.side == "control" for row in views.values()):
            rows += [
                (
                    name,
                    view,
                    meaning(view),
                    percent(row.accuracy),
                    interval(row.ci_low, row.ci_high, 100),
                    str(row.n_problems),
                )
                for view, row in views.items()
            ]
    head = ("run", "view", "what it tells", "accuracy %", "95% interval", "problems")
    return (
        Table("Accuracy of every view, and what it tells", head, tuple(rows), left=3)
        if rows
        else None
    )


def every_table(numbers: ReportSummary) -> dict[str, Table]:
    """All tables that the numbers of a report have, by name."""
    runs = numbers.runs
    tables = {
        "sets": sets_table(numbers),
        "pooled": pooled_table(numbers),
        "accuracy": accuracy_table(runs),
        "gap": gap_table(runs, numbers.changes, several=bool(numbers.sets)),
        "passes": passes_table(runs),
        "leaky": leaky_table(runs),
        "reading": reading_table(runs),
        "controls": controls_table(runs),
        **{f"types-{name}": type_table(summary) for name, summary in runs.items()},
        **{f"subjects-{name}": subject_table(summary) for name, summary in runs.items()},
    }
    return {
        name: table.noted(numbers.differs or {})
        for name, table in tables.items()
        if table is not None and table.rows
    }


def as_markdown(tables: Iterable[Table | None]) -> str:
    """Several tables as one Markdown text."""
    shown = (table for table in tables if table is not None and table.rows)
    return "\n".join(f"**{one_cell(table.caption)}**\n\n{table.markdown()}" for table in shown)
