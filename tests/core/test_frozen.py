"""Values that runs made by earlier versions carry: their fingerprints and the lines of
problems.jsonl.

A run resumes only if they are the same today, and an older report is read by them. The expected
values were written by the version before `Problem.shown`; they must never change.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mathverse_data as made
import pytest
from folders import record, write_folder

from modgap.core.problem import Problem, split_grader
from modgap.core.record import RunFolder
from modgap.core.rows import ProblemRow
from modgap.training.setup import digest
from modgap.workflows.fingerprints import fingerprint
from modgap.workflows.problems import read_problems
from modgap.workflows.requests import problem_row

# Two pictures of one pixel, byte by byte: the values must not depend on how a version of Pillow
# writes PNG.
_HEAD = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGN"
WHITE = base64.b64decode(_HEAD + "4//8/AAX+Av4N70a4AAAAAElFTkSuQmCC")
BLACK = base64.b64decode(_HEAD + "gYGAAAAAEAAH2FzhVAAAAAElFTkSuQmCC")

CHOICES = "\nChoices:\nA:40°\nB:60°"
# Version -> its own words, its whole question, its gold answer and its picture.
VERSIONS: dict[str, tuple[str, str, str, bytes]] = {
    "Vision Only": ("", "In the figure AB = 7. Find x." + CHOICES, "B", BLACK),
    "Text Only": ("AB = 7. Find x." + CHOICES, "AB = 7. Find x." + CHOICES, "B", b""),
    "Text Dominant": (
        "In the figure AB = 7. Find x." + CHOICES,
        "In the figure AB = 7. Find x." + CHOICES,
        "B",
        WHITE,
    ),
    "Vision Intensive": ("Find x." + CHOICES, "Find x." + CHOICES, "A", WHITE),
}


def _row(problem: str, version: str, kind: str, number: int) -> dict[str, Any]:
    words, whole, gold, picture = VERSIONS[version]
    return {
        "sample_index": str(number),
        "problem_index": problem,
        "problem_version": version,
        "question": words,
        "question_for_eval": whole,
        "image": {"bytes": picture, "path": f"{number}.png"} if picture else "",
        "answer": gold if kind == "multi-choice" else "3.5",
        "question_type": kind,
        "metadata": {
            "split": "testmini",
            "source": "Own",
            "subject": "Plane Geometry",
            "subfield": "Angle",
        },
    }


def _mathverse(
    folder: Path, versions: tuple[str, ...] = tuple(VERSIONS), *, parquet: bool = False
) -> list[Problem]:
    kinds = (("1", "multi-choice"), ("2", "free-form"))
    asked = [(name, version, kind) for name, kind in kinds for version in versions]
    rows = [_row(*about, number) for number, about in enumerate(asked, start=1)]
    write = made.write_parquet if parquet else made.write_json
    return read_problems(
        "mathverse", write(folder / f"testmini.{'parquet' if parquet else 'json'}", rows)
    )


def _pgps9k(folder: Path) -> list[Problem]:
    records = {
        "prob_1": record(),
        "prob_2": record(diagram="b.png", text="AB = 7, find \\angle 1.", answer="1.5"),
    }
    write_folder(folder / "set", test=records, diagrams={"img_1.png": WHITE, "b.png": BLACK})
    return read_problems("pgps9k", folder / "set")


def _pairs(folder: Path) -> list[Problem]:
    (folder / "p.png").write_bytes(WHITE)
    prompts = {"image-only": "Find x.", "full-text": "AB = 7. Find x.", "question-only": "x?"}
    lines = [
        {"id": "p1", "image": "p.png", "answer": "25", "prompts": prompts},
        {
            "id": "p2",
            "answer": "2",
            "question": "Find y = 2.",
            "type": "Line",
            "prompts": {"text-only": "Find y."},
        },
    ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return read_problems("pairs", folder / "pairs.jsonl")


SETS: dict[str, Callable[[Path], list[Problem]]] = {
    "pgps9k": _pgps9k,
    "pairs": _pairs,
    "mathverse": _mathverse,
    "mathverse, parquet": lambda folder: _mathverse(folder, tuple(VERSIONS)[::2], parquet=True),
    "mathverse, text only": lambda folder: _mathverse(folder, ("Text Only",)),
}
# Data set -> fingerprint of an evaluation's problems, digest of a training's, lines of
# problems.jsonl.
FROZEN: dict[str, tuple[str, str, list[str]]] = {
    "pgps9k": (
        "03c3e70a40bfdabd",
        "2dda5c4cbcee8664",
        [
            (
                '{"id":"prob_1","answer":"25.000","question":"Find x.","type":"Line'
                ' Segment","leaky":false,"image":"FOLDER/set/Diagram_Visual/img_1.png",'
                '"conditions":["B is on line AC","AB = 7","BC ='
                ' x"],"question_type":"","subject":"","views":[],"questions":{},"answers":{}}'
            ),
            r'{"id":"prob_2","answer":"1.5","question":"AB = 7, find \\angle 1.","type":"Line'
            r' Segment",'
            '"leaky":true,"image":"FOLDER/set/Diagram_Visual/b.png","conditions":["B is on line'
            ' AC",'
            '"AB = 7","BC ='
            ' x"],"question_type":"","subject":"","views":[],"questions":{},"answers":{}}',
        ],
    ),
    "pairs": (
        "42fd446959074297",
        "4cd560b567fc1810",
        [
            (
                '{"id":"p1","answer":"25","question":"Find'
                ' x.","type":"","leaky":false,"image":"FOLDER/p.png",'
                '"conditions":[],"question_type":"","subject":"","views":[],"questions":{},"answers":{}}'
            ),
            (
                '{"id":"p2","answer":"2","question":"Find y ='
                ' 2.","type":"Line","leaky":true,"image":null,'
                '"conditions":[],"question_type":"","subject":"","views":[],"questions":{},"answers":{}}'
            ),
        ],
    ),
    "mathverse": (
        "b59a7351b3fb8fed",
        "4626864c916b948e",
        [
            r'{"id":"1","answer":"B","question":"In the figure AB = 7. Find'
            r' x.\nChoices:\nA:40°\nB:60°",'
            '"type":"Plane Geometry:'
            ' Angle","leaky":false,"image":"FOLDER/images/1.png","conditions":[],'
            '"question_type":"multi-choice","subject":"Plane Geometry","views":["text-dominant",'
            '"vision-intensive","vision-only","text-only"],'
            r'"questions":{"vision-intensive":"Find x.\nChoices:\nA:40°\nB:60°",'
            r'"text-only":"AB = 7. Find'
            r' x.\nChoices:\nA:40°\nB:60°"},"answers":{"vision-intensive":"A"}}',
            r'{"id":"2","answer":"3.5","question":"In the figure AB = 7. Find'
            r' x.\nChoices:\nA:40°\nB:60°",'
            '"type":"Plane Geometry:'
            ' Angle","leaky":false,"image":"FOLDER/images/5.png","conditions":[],'
            '"question_type":"free-form","subject":"Plane Geometry","views":["text-dominant",'
            '"vision-intensive","vision-only","text-only"],'
            r'"questions":{"vision-intensive":"Find x.\nChoices:\nA:40°\nB:60°",'
            r'"text-only":"AB = 7. Find x.\nChoices:\nA:40°\nB:60°"},"answers":{}}',
        ],
    ),
    "mathverse, parquet": (
        "d27db1b515d7bc11",
        "f2ca2647e0ccd971",
        [
            r'{"id":"1","answer":"B","question":"In the figure AB = 7. Find'
            r' x.\nChoices:\nA:40°\nB:60°",'
            '"type":"Plane Geometry: Angle","leaky":false,"image":"FOLDER/testmini.parquet#1",'
            '"conditions":[],"question_type":"multi-choice","subject":"Plane Geometry",'
            '"views":["text-dominant","vision-only"],"questions":{},"answers":{}}',
            r'{"id":"2","answer":"3.5","question":"In the figure AB = 7. Find'
            r' x.\nChoices:\nA:40°\nB:60°",'
            '"type":"Plane Geometry: Angle","leaky":false,"image":"FOLDER/testmini.parquet#3",'
            '"conditions":[],"question_type":"free-form","subject":"Plane Geometry",'
            '"views":["text-dominant","vision-only"],"questions":{},"answers":{}}',
        ],
    ),
    "mathverse, text only": (
        "32c608319c94464a",
        "c6968ec3ad47fedd",
        [
            r'{"id":"1","answer":"B","question":"AB = 7. Find x.\nChoices:\nA:40°\nB:60°",'
            '"type":"Plane Geometry: Angle","leaky":false,"image":null,"conditions":[],'
            '"question_type":"multi-choice","subject":"Plane'
            ' Geometry","views":["text-only"],"questions":{},'
            '"answers":{}}',
            r'{"id":"2","answer":"3.5","question":"AB = 7. Find x.\nChoices:\nA:40°\nB:60°",'
            '"type":"Plane Geometry: Angle","leaky":false,"image":null,"conditions":[],'
            '"question_type":"free-form","subject":"Plane'
            ' Geometry","views":["text-only"],"questions":{},'
            '"answers":{}}',
        ],
    ),
}


def lines_of(folder: Path, problems: list[Problem]) -> list[str]:
    """The lines of problems.jsonl; the place of the data set is `FOLDER`."""
    run = RunFolder(folder / "run")
    run.path.mkdir()
    run.write_problems(problem_row(problem, "aligned") for problem in problems)
    text = (run.path / "problems.jsonl").read_text(encoding="utf-8")
    return text.replace(str(folder.resolve()), "FOLDER").splitlines()


@pytest.mark.parametrize("name", SETS)
def test_fingerprints_and_rows_of_earlier_runs_are_kept(tmp_path: Path, name: str) -> None:
    problems = SETS[name](tmp_path)
    assert (fingerprint(problems), digest(problems), lines_of(tmp_path, problems)) == FROZEN[name]


@pytest.mark.parametrize("name", SETS)
def test_recorded_problems_are_read_and_written_again_as_they_were(
    tmp_path: Path, name: str
) -> None:
    run, text = RunFolder(tmp_path), "".join(f"{line}\n" for line in FROZEN[name][2])
    (tmp_path / "problems.jsonl").write_text(text, encoding="utf-8")
    run.write_problems(run.problems().values())
    assert (tmp_path / "problems.jsonl").read_text(encoding="utf-8") == text


@pytest.mark.parametrize(
    ("grader", "recorded"),
    [("", ""), ("mathverse:free-form", "free-form"), ("mine", "mine:"), ("mine:a:b", "mine:a:b")],
)
def test_a_grader_is_recorded_under_the_key_of_the_first_runs(
    tmp_path: Path, grader: str, recorded: str
) -> None:
    run = RunFolder(tmp_path)
    run.write_problems([ProblemRow(id="p", answer="1", grader=grader)])
    assert json.loads((tmp_path / "problems.jsonl").read_text())["question_type"] == recorded
    assert split_grader(run.problems()["p"].grader) == split_grader(grader)
