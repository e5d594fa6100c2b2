"""summary.json: frozen keys, older files can be read, and a damaged one is one clear line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mathverse_data as made
import pytest
from asking import evaluate
from reported_runs import report_numbers
from written_runs import CONDITIONS, SAID, both, write_run, write_stage
from written_studies import write_studies

from modgap.analysis.results import ReportSummary, Summary, read_import_note, read_summary
from modgap.core.engine import Completion
from modgap.core.errors import UserError
from modgap.core.json_files import write_json
from modgap.core.record import RunFolder
from modgap.engines.judge import Judge
from modgap.engines.scripted import ScriptedEngine
from modgap.reporting.collect import collect
from modgap.reporting.page import build_report
from modgap.workflows.grade import grade_run
from modgap.workflows.problems import read_problems

VIEW = (
    "side n_problems n_samples correct wrong no_answer error accuracy ci_low ci_high truncated"
    " truncation_rate no_answer_rate error_rate mean_completion_tokens completion_tokens pass_at_k"
    " maj_at_k missing_samples absent_problems"
)
GAP = (
    "text_views vision_views n_problems text_accuracy text_ci_low text_ci_high vision_accuracy"
    " vision_ci_low vision_ci_high points ci_low ci_high degenerate p_value relative table"
    " p_vision_given_text p_text_given_vision"
)
PART = "n_problems text_accuracy vision_accuracy points ci_low ci_high degenerate p_value"
SHARES = "read_right misread share_misread ci_low ci_high"
READING = f"n_problems nothing_to_read unreadable {SHARES} values clauses"
BUCKET = "n_problems n_samples correct wrong no_answer error accuracy ci_low ci_high"
SEEDS = "value ci_low ci_high p_value seeds sd n_problems"
SEEDS_CHANGE = f"{SEEDS} p_holm p_pooled"

OF_VIEWS = {
    "views.*": VIEW, "views.*.completion_tokens": "p10 p50 p90",
    "gap": GAP, "gap.table": "both text_only vision_only neither",
    "leaky.*": PART, "types[]": f"type {PART} p_holm",
}  # fmt: skip
RUN = OF_VIEWS | {
    "": "mode n_problems samples_per_problem views gap leaky types reading pairable warnings "
        "judge sampling original",
    "reading": f"source {READING} solved", "reading.values": SHARES,
    "reading.clauses": "n read contradicted", "reading.solved": READING,
    "reading.solved.values": SHARES, "reading.solved.clauses": "n read contradicted",
    "original.*": "total correct none accuracy average_length pass_at_1",
}  # fmt: skip
"""Path -> the keys there, in order: of a run of PGPS9K's kind, graded in mode `paper`."""

SETS = {".overall": BUCKET, ".text": BUCKET, ".vision": BUCKET, ".versions.*": BUCKET}
RIGHT = dict.fromkeys((".overall", ".vision", ".text", ".versions.*"), "correct total")
MATHVERSE = OF_VIEWS | {
    "": "mode n_problems samples_per_problem views gap leaky types reading pairable mathverse "
    "warnings judge sampling",
    "judge": "judge asked samples consistent different unreadable failed waiting check",
    "judge.check": "samples seed unreadable failed table agreement kappa stages disagreements",
    "judge.check.table": "both_right rules_only judge_only both_wrong",
    "judge.check.stages.*": "samples agree",
    "judge.check.disagreements[]": "problem_id view sample answer gold stage rules judge",
    "mathverse": "overall text vision versions question_types subjects original",
    "mathverse.original": "overall vision text versions type",
    "mathverse.original.type.*": "overall vision text versions",
    **{f"mathverse{part}": keys for part, keys in SETS.items()},
    **{f"mathverse.original{part}": keys for part, keys in RIGHT.items()},
    **{f"mathverse.original.type.*{part}": keys for part, keys in RIGHT.items()},
    **{
        f"mathverse.{by}.*{part}": keys
        for by in ("question_types", "subjects")
        for part, keys in {"": "overall text vision versions gap", ".gap": PART, **SETS}.items()
    },
}  # fmt: skip
"""Of a run of MathVerse's, graded in mode `paper` with a judge."""

STUDY = {
    "": "runs changes training models sampling seeds warnings headline paper robustness",
    "robustness": "",
    "changes.*": "points ci_low ci_high p_value before after n_problems degenerate",
    "training.*[]": "stage after metrics",
    "headline": "title kicker answer lede", "paper[]": "caption head rows",
    "seeds[]": "model n_problems samples mode text_views vision_views rows controls notes",
    "seeds[].rows[]": "recipe seeds runs steps seconds text vision gap change",
    **{f"seeds[].rows[].{key}": SEEDS for key in ("text", "vision", "gap")},
    "seeds[].controls[]": "recipe control kind seeds change",
    **{f"seeds[].{part}[].change": "gap text vision" for part in ("rows", "controls")},
    **{f"seeds[].{part}[].change.{key}": SEEDS_CHANGE
       for part in ("rows", "controls") for key in ("gap", "text", "vision")},
}  # fmt: skip
"""Of several studies in one report with the paper's tables; what is below `runs` is that of each
run.
"""

BY_NAME = {
    "views", "leaky", "original", "pass_at_k", "versions", "question_types", "subjects", "stages",
    "type", "runs", "changes", "training", "models", "metrics",
}  # fmt: skip
"""What maps names to values: its keys are not frozen."""


def layout(value: Any, path: str = "") -> dict[str, str]:
    """Path of each object in a file -> its keys, in order; names are `*`, parts of a list `[]`."""
    found: dict[str, str] = {}
    if path.startswith("sampling"):  # by the names of settings
        return found
    if isinstance(value, list):
        for part in value:
            for where, keys in layout(part, f"{path}[]").items():
                assert found.setdefault(where, keys) == keys, f"{where} has two kinds of objects"
    if isinstance(value, dict):
        # MathVerse's figures of the original have fields, those of other runs are by view.
        named = path.rsplit(".", 1)[-1] in BY_NAME and path != "mathverse.original"
        if not named:
            found[path] = " ".join(value)
        for key, part in value.items():
            below = "*" if named else key
            for where, keys in layout(part, f"{path}.{below}" if path else below).items():
                assert found.setdefault(where, keys) == keys, f"{where} has two kinds of objects"
    return found


def whole_run(path: Path) -> RunFolder:
    """A run that has every part of a summary: types, leaky questions, lost and solved problems, a
    gap.
    """
    verdicts = {f"p{n}": both("cc", "cw" if n % 3 else "ww") for n in range(12)}
    said = {name: list(SAID.values())[n % 4] for n, name in enumerate(verdicts)}
    run = write_run(path, verdicts, said=said, conditions=CONDITIONS)
    rows = [
        row.model_copy(update={"type": "xy"[n % 2], "leaky": n % 2 == 0, "answer": "245"})
        for n, row in enumerate(run.problems().values())
    ]
    run.write_problems(rows)
    return run


@pytest.fixture(scope="module")
def pgps9k_run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    run = whole_run(tmp_path_factory.mktemp("runs") / "run")
    rows = list(run.responses())
    # Right from text, wrong in the image but for what was read there.
    with run.responses_path.open("w") as file:
        for row in rows:
            text = (
                row.response
                if row.view == "image-only" and row.problem_id != "p1"
                else SAID["right"]
            )
            file.write(row.model_copy(update={"response": text}).model_dump_json() + "\n")
    grade_run(run, "paper")
    return run


class Says:
    """A judge's engine that says the same of everything."""

    def generate(self, requests: Any, sampling: Any) -> Iterator[Completion]:
        for request in requests:
            yield Completion(request, 0, "1", finish_reason="stop", prompt_tokens=1,
                             completion_tokens=1, image_tokens=0, seed=0)  # fmt: skip


@pytest.fixture(scope="module")
def mathverse_run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("mathverse")
    golds = {row["problem_index"]: row["answer"] for row in made.rows(8)}

    def answer(request: Any, sample: int) -> str:
        right = request.view.startswith("text") and request.problem_id != "2"
        return f"\\boxed{{{golds[request.problem_id] if right else 'E'}}}"

    problems = read_problems("mathverse", made.write_set(folder / "data", 8))
    evaluate(
        problems,
        ScriptedEngine(answer),
        folder / "run",
        views=["text-lite", "vision-dominant"],
        samples=1,
    )
    run = RunFolder(folder / "run")
    grade_run(run, "paper", judge=Judge("one", lambda mode: Says()))  # type: ignore[arg-type]
    return run


def file_of(run: RunFolder) -> Any:
    return json.loads((run.path / "summary.json").read_text())


def test_the_keys_of_a_run_are_frozen(pgps9k_run: RunFolder) -> None:
    assert layout(file_of(pgps9k_run)) == RUN


def test_the_keys_of_a_run_of_mathverse_are_frozen(mathverse_run: RunFolder) -> None:
    assert layout(file_of(mathverse_run)) == MATHVERSE


def test_the_keys_of_a_study_are_frozen(tmp_path: Path) -> None:
    numbers = build_report(write_studies(tmp_path / "s", 2), tmp_path / "r.html", template="paper")
    write_json(tmp_path / "summary.json", numbers.model_dump(mode="json"))
    whole = json.loads((tmp_path / "summary.json").read_text())
    found = layout(
        {
            **whole,
            "runs": {},
            "robustness": {},
            "seeds": [table | {"rows": table["rows"][1:]} for table in whole["seeds"]],
        }
    )
    assert found == STUDY
    robust = next(iter(whole["robustness"].values()))
    assert list(robust) == ["variants", "survives", "sentence", "not_graded"]
    assert [list(variant) for variant in robust["variants"][:1]] == [
        ["name", "kind", "gap", "moved", "moved_low", "moved_high", "survives"]
    ]
    assert whole["seeds"][0]["rows"][0]["change"] is None  # the base model has the same keys
    assert list(whole["seeds"][0]["rows"][0]) == list(whole["seeds"][0]["rows"][1])
    assert ReportSummary.model_validate(whole) == numbers
    run = next(iter(whole["runs"].values()))
    assert (
        list(run) == RUN[""].split()[:-2]
    )  # `sampling` is beside the runs, `original` not computed anew


def test_what_is_not_there_has_no_key(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {"a": {"full-text": "cw"}, "b": {"full-text": "cc"}})
    grade_run(run)
    found = file_of(run)
    assert not {"mathverse", "original"} & set(found)
    assert (found["gap"], found["leaky"], found["types"], found["reading"], found["judge"]) == (
        None,
        {},
        [],
        None,
        None,
    )
    assert "paper" not in report_numbers([run.path]).model_dump(mode="json")


def test_a_file_reads_back_as_it_was_written(
    pgps9k_run: RunFolder, mathverse_run: RunFolder
) -> None:
    for run in (pgps9k_run, mathverse_run):
        assert read_summary(run.path).model_dump(mode="json") == file_of(run)


def test_a_summary_from_before_later_keys_can_be_read(
    pgps9k_run: RunFolder, tmp_path: Path
) -> None:
    old = file_of(pgps9k_run)
    for key in ("mode", "reading", "pairable", "judge", "sampling", "original"):
        del old[key]
    for view in old["views"].values():
        del view["absent_problems"]
    for gap in (old["gap"], *old["leaky"].values(), *old["types"]):
        del gap["degenerate"]
    write_json(tmp_path / "summary.json", old)
    summary = read_summary(tmp_path)
    assert (summary.mode, summary.judge, summary.reading, summary.original) == (
        "",
        None,
        None,
        None,
    )
    assert summary.views["full-text"].absent_problems == 0
    assert summary.gap is not None and not summary.gap.degenerate
    write_json(tmp_path / "summary.json", file_of(pgps9k_run) | {"later": {"key": 1}})
    assert read_summary(tmp_path) == read_summary(pgps9k_run.path)


def with_keys(**changes: Any) -> str:
    """A small summary, changed."""
    return json.dumps(
        {"n_problems": 1, "samples_per_problem": 1, "views": {}, "gap": None} | changes
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "Invalid JSON"),
        ("{", "Invalid JSON"),
        ("\xff", "Invalid JSON"),
        ("[]", "should be an object"),
        ("null", "should be an object"),
        ("{}", "n_problems: Field required"),
        ('{"runs": {}, "changes": {}}', "n_problems: Field required"),
        ('{"mode": "strict", "judge": "gpt"}', "n_problems: Field required"),
        (
            json.dumps(
                {"n_problems": 1, "samples_per_problem": 1, "views": {"a": {}}, "gap": None}
            ),
            "views.a.side: Field",
        ),
        (
            json.dumps({"n_problems": "x", "samples_per_problem": 1, "views": {}, "gap": None}),
            "n_problems: Input should",
        ),
        (
            json.dumps({"n_problems": 1, "samples_per_problem": 1, "views": [], "gap": None}),
            "views: Input should be",
        ),
        (
            json.dumps({"n_problems": 1, "samples_per_problem": 1, "views": {}, "gap": {}}),
            "gap.text_views: Field",
        ),
    ],
)
def test_a_damaged_or_foreign_summary_is_one_line(content: str, words: str, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {"a": both("c", "w")})
    (run.path / "summary.json").write_bytes(content.encode("latin-1"))
    for act in (
        lambda: read_summary(run.path),
        lambda: build_report([run.path], tmp_path / "r.html"),
    ):
        with pytest.raises(UserError, match=words) as error:
            act()
        said = str(error.value)
        assert "\n" not in said and str(run.path / "summary.json") in said
        assert said.endswith(f"`modgap grade {run.path}` writes it again.")
    grade_run(run)
    assert Summary.model_validate(file_of(run)) == read_summary(run.path)


def test_what_is_absent_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file or directory"):
        read_summary(tmp_path)
    assert read_import_note(tmp_path).warnings == []


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("import.json", "{", "Invalid JSON"),
        ("import.json", '{"warnings": "all is well"}', "warnings: Input should be a valid array"),
        ("manifest.json", '{"resolved": []}', "resolved is not an object"),
        (
            "manifest.json",
            '{"kind": "train", "created": []}',
            "created: Input should be a valid string",
        ),
        (
            "manifest.json",
            '{"kind": "train", "fingerprints": {"data": [3]}}',
            "fingerprints.data: Input should be",
        ),
        ("manifest.json", "[]", "it is not an object"),
    ],
)
def test_other_files_that_a_report_reads_are_named_where_they_are_damaged(
    name: str, content: str, words: str, tmp_path: Path
) -> None:
    folder = write_run(tmp_path / "run", {"a": both("c", "w")}).path
    if "train" in content:
        folder = tmp_path / "stage1"
        write_stage(folder)
    (folder / name).write_text(content)
    with pytest.raises(UserError, match=words) as error:
        build_report([folder], tmp_path / "r.html")
    assert "\n" not in str(error.value) and name in str(error.value)


@pytest.mark.parametrize("step", ['"one"', "1.5", "null", "[1]"])
def test_a_step_that_is_no_whole_number_is_one_line(step: str, tmp_path: Path) -> None:
    (tmp_path / "stage1").mkdir()
    (tmp_path / "stage1" / "train_log.jsonl").write_text(
        f'{{"step": 1, "reward": 0}}\n{{"step": {step}}}\n'
    )
    with pytest.raises(UserError, match=r"train_log.jsonl: the step .* is not a whole number"):
        collect([tmp_path / "stage1"])


def test_a_manifest_of_another_program_does_not_stop_a_report(tmp_path: Path) -> None:
    write_run(tmp_path / "all" / "run", {"a": both("c", "w")})
    (tmp_path / "all" / "site").mkdir()
    (tmp_path / "all" / "site" / "manifest.json").write_text(
        '{"name": "app", "created": 1699999999, "icons": []}'
    )
    assert list(report_numbers([tmp_path / "all"]).runs) == ["run"]
