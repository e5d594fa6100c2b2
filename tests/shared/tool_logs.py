"""Logs of other tools, written here in the shape that their own code gives them."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

VERSIONS = ("Text Dominant", "Vision Only")


def problem(number: int, version: str, answer: str = "5") -> dict[str, Any]:
    """MathVerse's fields of one row: problem `number` in a version."""
    asked = f"What is x of figure {number}?"
    return {
        "sample_index": str(2 * number - 1 + VERSIONS.index(version)),
        "problem_index": str(number),
        "problem_version": version,
        "question": "" if version == "Vision Only" else asked,
        "answer": answer,
        "question_type": "free-form",
        "metadata": {"split": "testmini", "subject": "Plane Geometry", "subfield": "Length"},
        "query_wo": f"Answer. {asked}",
        "query_cot": f"Think. {asked}",
        "question_for_eval": asked,
    }


def lmms_row(
    number: int, response: str, score: float, *, version: str = "Text Dominant", **more: Any
) -> dict[str, Any]:
    """A row of `*_samples_*.jsonl`."""
    about = problem(number, version)
    submission = {**about, "prediction": response.strip(), "true_false": score == 1}
    return {
        "doc_id": number - 1, "target": about["answer"], "filtered_resps": response,
        "token_counts": [{"input_tokens": 20, "output_tokens": len(response.split())}],
        "doc_hash": "74234e98", "gpt_eval_score": score, "submission": submission,
        "input": about["query_wo"], **more,
    }  # fmt: skip


def write_lmms(
    folder: Path,
    rows: Sequence[Mapping[str, Any]],
    *,
    task: str = "mathverse_testmini_text_dominant",
    calls: int | None = None,
    **config: Any,
) -> Path:
    """A samples file and its results; `calls` of the judge are as many as rows by default."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / f"20261130_080000_samples_{task}.jsonl").write_text(lines)
    calls = len(rows) if calls is None else calls
    counts = {"n_api_calls": calls}
    usage = {"by_task": {task: counts}, "by_source": {"judge": counts}} if calls else {}
    generation = {"max_new_tokens": 1024, "temperature": 0.7, "do_sample": True}
    results = {
        "configs": {task: {"generation_kwargs": generation, "repeats": 1, **config}},
        "config": {"gen_kwargs": ""},
        "usage": usage,
        "n-samples": {task: {"original": len(rows), "effective": len(rows)}},
        "model_name": "scripted",
        "lmms_eval_version": "0.7.3",
    }
    (folder / "20261130_080000_results.json").write_text(json.dumps(results))
    return folder


def kit_row(number: int, prediction: Any, **more: Any) -> dict[str, Any]:
    """A row of VLMEvalKit's file of predictions."""
    about = problem(number, "Text Dominant")
    return {"index": number - 1, **about, "metadata": str(about["metadata"]),
            "prediction": prediction, **more}  # fmt: skip


def write_tsv(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """A table as pandas writes it with `quoting=QUOTE_ALL`; `None` is an empty cell."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(
            file, list(rows[0]), delimiter="\t", quoting=csv.QUOTE_ALL, lineterminator="\n"
        )
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_xlsx(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """A sheet; texts are stored as texts, whatever they begin with."""
    from openpyxl import Workbook

    path.parent.mkdir(parents=True, exist_ok=True)
    book = Workbook()
    sheet = book.active
    assert sheet is not None
    for line, values in enumerate([list(rows[0]), *([*row.values()] for row in rows)], start=1):
        for column, value in enumerate(values, start=1):
            if value is not None:
                cell = sheet.cell(line, column, value)
                if isinstance(value, str):
                    cell.data_type = "s"
    book.save(path)
    return path


def inspect_sample(
    number: int, text: str, *, epoch: int = 1, version: str = "Text Dominant", **more: Any
) -> dict[str, Any]:
    """A sample of a log of inspect_ai."""
    about = problem(number, version)
    kept = ("problem_index", "problem_version", "question_type", "question_for_eval")
    metadata = {name: about[name] for name in kept}
    return {
        "id": about["sample_index"], "epoch": epoch, "target": about["answer"],
        "input": [{"role": "user", "content": [{"type": "text", "text": about["query_cot"]},
                                               {"type": "text", "text": "(Image)"}]}],
        "output": {"choices": [{"message": {"content": text}, "stop_reason": "stop"}],
                   "usage": {"input_tokens": 9, "output_tokens": 3}},
        "scores": {"match": {"value": "C", "answer": text}},
        "metadata": metadata, **more,
    }  # fmt: skip


def write_inspect(path: Path, samples: Sequence[Mapping[str, Any]], **config: Any) -> Path:
    """A log as one JSON object."""
    evaluation = {"task": "mathverse_mini", "model": "mockllm/model", "config": config}
    log = {
        "version": 2, "status": "success", "eval": evaluation,
        "plan": {"config": {"temperature": 0.7, "max_tokens": 512}}, "samples": samples,
    }  # fmt: skip
    path.write_text(json.dumps(log))
    return path
