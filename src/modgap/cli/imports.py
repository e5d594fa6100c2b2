"""The command `import`: answers that another program collected.

Parses first, imports late.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from modgap.cli.data import given
from modgap.core.errors import UsageError, UserError
from modgap.core.options import AllowOutside
from modgap.core.progress import show
from modgap.core.text import counted

if TYPE_CHECKING:
    from modgap.original.importing import Imported
    from modgap.workflows.logs.importing import ImportedLog
    from modgap.workflows.logs.matching import Data

Source = Literal["original", "lmms-eval", "vlmevalkit", "inspect"]


def import_answers(
    *folders: Path,
    out: Path,
    gt: Path | None = None,
    view: str | None = None,
    results_root: Path | None = None,
    scan_output: Path | None = None,
    benchmark: str | None = None,
    source: Annotated[Source, Parameter(name="--from")] = "original",
    scorer: str | None = None,
    allow_outside: AllowOutside = False,
) -> None:
    """Make a run of answers that another program collected, and grade it; needs no diagrams.

    The original repository's: for PGPS9K folders of qprob_N_attemptJ.txt, for MathVerse files
    *_generations.jsonl, scored or not. With --from the per-sample logs of another tool, whose
    verdicts are kept beside our grades; and any log of inspect_ai's task modgap/gap.


    ```
    modgap import answers_full_cond answers --gt PGPS9K/test.json --out runs/imported
    modgap import --from vlmevalkit outputs/MODEL --out runs/vlmevalkit
    ```

    Args:
        folders: Answer folders, or files of generations or folders of them; a model's kinds are the
            views of one run. Several models make several runs, OUT/MODEL. With --from the files of
            one model, or their folder: *_samples_*.jsonl and *_results.json of lmms-eval, .xlsx,
            .tsv or .json of VLMEvalKit, .eval or .json of inspect_ai.
        out: Run folder.
        gt: PGPS9K's test.json. Generations carry their gold answers; with MathVerse's own files
            (parquet or JSON) they get subjects, images and the problems without an answer as well.
            With --from the data set's own files: of MathVerse for logs whose rows do not say their
            problem, of any other benchmark always.
        view: Of all answer folders; if not given, one whose name has `full_cond` is full-text, any
            other image-only. With --from of rows that do not say their view.
        results_root: Also every folder below this one that holds answers.
        scan_output: Also write the original's figures of every folder to this text file, as its
            eval.py --scan-output does.
        benchmark: With --from, what the logs are of; mathverse if not given.
        source: Which program collected the answers: `original`, `lmms-eval`, `vlmevalkit` or
            `inspect`.
        scorer: Which score is the verdict, where a log has several.
        allow_outside: Links in these folders may lead out of them. Of a log: keep the places of the
            diagrams that it names, which a report then embeds.
    """
    from modgap.core.progress import progress_bars

    if source != "original":
        if results_root is not None or scan_output is not None:
            raise UsageError(
                "--results-root and --scan-output are for the original's answers: leave them out"
                f" with --from {source}."
            )
        from modgap.workflows.logs.matching import Data

        data = Data(gt, benchmark or "mathverse", view, allow_outside=allow_outside)
        return _import_logs(source, folders, out, data, scorer)
    if scorer is not None or benchmark is not None:
        raise UsageError("--scorer and --benchmark are for logs of other tools: give --from.")
    from modgap.original.import_mathverse import import_generations
    from modgap.original.import_pgps9k import import_answers as import_folders
    from modgap.original.mathverse import generation_files

    if files := generation_files(folders, results_root, allow_outside=allow_outside):
        if view is not None:
            raise UserError(
                f"--view {view}: generations say their versions themselves; leave it out."
            )
        with progress_bars() as bars:
            runs = import_generations(
                files, out, gt=gt, given=given(), progress=bars, allow_outside=allow_outside
            )
        _print_all(runs, scan_output, results_root)
        return
    if gt is None:
        raise UserError(
            "--gt is missing: answer folders need the data set's test.json; give --from for the"
            " logs of another tool."
        )
    with progress_bars() as bars:
        runs = import_folders(
            folders, gt, out, view=view, results_root=results_root, given=given(), progress=bars,
            allow_outside=allow_outside,
        )  # fmt: skip
    _print_all(runs, scan_output, results_root)


def _print_all(runs: Sequence[Imported], scan_output: Path | None, root: Path | None) -> None:
    from modgap.original.importing import print_imported, write_scan

    for run in runs:
        print_imported(run)
    if scan_output is not None:
        write_scan(runs, scan_output, root)
        show(f"the original's figures: {scan_output}")


def _import_logs(
    tool: str, files: Sequence[Path], out: Path, data: Data, scorer: str | None
) -> None:
    """Import logs of another tool; those of inspect_ai's task `modgap/gap` know our problems."""
    from modgap.core.progress import progress_bars
    from modgap.reporting.terminal import print_summary
    from modgap.workflows.import_inspect import import_log
    from modgap.workflows.logs.importing import import_logs
    from modgap.workflows.logs.inspect_log import is_ours, log_files

    if tool == "inspect":
        files = log_files(files)
    if tool == "inspect" and any(is_ours(path) for path in files):
        if len(files) != 1:
            raise UsageError(f"a log of modgap/gap makes a run of its own: {len(files)} are given.")
        if data.gt is not None or data.view is not None or scorer is not None:
            raise UsageError(
                "--gt, --view and --scorer: a log of modgap/gap has its problems itself."
            )
        with progress_bars() as bars:
            summary = import_log(
                files[0], out, given=given(), progress=bars, allow_outside=data.allow_outside
            )
        print_summary(summary, out.name)
        return
    with progress_bars() as bars:
        done = import_logs(tool, files, out, data, scorer=scorer, given=given(), progress=bars)
    _print_log(done)


def _own_accuracy(done: ImportedLog) -> str:
    """The tool's own accuracy; with unknown verdicts, its bounds."""
    counts: dict[str, int] = dict.fromkeys(("correct", "wrong", "no_answer", "error"), 0)
    for (theirs, _), count in done.agreement.items():
        counts[theirs] += count
    total, right, unknown = sum(counts.values()), counts["correct"], counts["error"]
    low, high = 100 * right / total, 100 * (right + unknown) / total
    if not unknown:
        return f"accuracy by {done.log.tool}: {low:.1f}% of {counted(total, 'sample')}"
    return (
        f"accuracy by {done.log.tool}: {low:.1f}% to {high:.1f}% of {counted(total, 'sample')},"
        f" with {counted(unknown, 'score')} unknown"
    )


def _print_log(done: ImportedLog) -> None:
    """The log's source, how many samples are errors and why, both verdicts, and our numbers."""
    from rich.console import Console

    from modgap.core.rows import OUTCOMES
    from modgap.reporting import tables as t
    from modgap.reporting.terminal import as_rich, print_summary

    log = done.log
    read = f"{counted(len(log.samples), 'row')} of {log.tool}"
    show(f"{done.path}: {log.model or 'model not named'}, {read}")
    for path in log.files:
        show(f"  from {path}")
    count = sum(map(len, done.errors.values()))
    lost = sum(map(len, done.verdict_errors.values()))
    show(f"errors: {counted(count, 'response')}, {counted(lost, 'score')} of {log.tool}")
    for what, kinds in (("response", done.errors), ("score", done.verdict_errors)):
        for why, names in kinds.items():
            show(f"  {len(names):6,} {what}{'s' * (len(names) != 1)}: {why}")
    if done.agreement:
        show(_own_accuracy(done))
        rows = [
            (f"{log.tool}: {theirs.replace('_', ' ')}",
             *(f"{done.agreement.get((theirs, ours), 0):,}" for ours in OUTCOMES))
            for theirs in OUTCOMES
            if any(pair[0] == theirs for pair in done.agreement)
        ]  # fmt: skip
        head = (f"score {log.scorer}", *(f"ours: {name.replace('_', ' ')}" for name in OUTCOMES))
        console = Console()
        table = t.Table("Samples by both verdicts", head, tuple(rows), left=1)
        console.print(as_rich(table, plain=not console.is_terminal))
        if unread := done.agreement.get(("correct", "no_answer")):
            show(
                f"right by {log.tool} and without an answer by our rules, which is not right:"
                f" {unread:,} of {counted(sum(done.agreement.values()), 'response')}; did the"
                " prompt ask for a box?"
            )
    show("Graded strict (the run's grades and summary):")
    print_summary(done.summary, done.path.name)
