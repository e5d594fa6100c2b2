"""inspect_ai: a log of our task becomes a run, and the task asks what `modgap eval` asks."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modgap.cli.main import main
from modgap.core.errors import UserError
from modgap.core.record import RunFolder
from modgap.datasets.synthetic import write_dataset
from modgap.workflows.fingerprints import fingerprint
from modgap.workflows.import_inspect import import_log, read_log
from modgap.workflows.problems import load_problems

# Written by inspect_ai 0.3.285 itself: 3 synthetic problems, 2 views, 2 epochs, a scripted model.
LOG = Path(__file__).parents[1] / "fixtures" / "inspect" / "gap.eval"


def as_json(path: Path, change: Callable[[dict[str, Any]], None] = lambda log: None) -> Path:
    """The log in the other format, changed."""
    log = read_log(LOG)
    whole = {**log.header, "samples": [dict(sample) for sample in log.samples]}
    whole = json.loads(json.dumps(whole))
    change(whole)
    path.write_text(json.dumps(whole))
    return path


def test_a_log_becomes_a_run(tmp_path: Path) -> None:
    summary = import_log(LOG, tmp_path / "run")
    assert summary.gap is not None
    assert (summary.views["full-text"].accuracy, summary.gap.n_problems) == (1.0, 3)
    assert summary.gap.points == pytest.approx(100 * 2 / 3)
    rows = list(RunFolder(tmp_path / "run").responses())
    assert len({row.key for row in rows}) == 12
    assert [row.finish_reason for row in rows].count("length") == 1
    assert {row.completion_tokens for row in rows} == {9}
    assert import_log(LOG, tmp_path / "run") == summary  # the same command again


def test_both_formats_and_both_compressions_say_the_same(tmp_path: Path) -> None:
    with zipfile.ZipFile(LOG) as archive:
        assert {info.compress_type for info in archive.infolist()} == {93}
    first = import_log(LOG, tmp_path / "zstandard")
    assert import_log(as_json(tmp_path / "log.json"), tmp_path / "json") == first
    log = read_log(LOG)
    with zipfile.ZipFile(tmp_path / "log.eval", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("header.json", json.dumps(dict(log.header)))
        for number, sample in enumerate(log.samples):
            archive.writestr(f"samples/{number}.json", json.dumps(sample))
    assert import_log(tmp_path / "log.eval", tmp_path / "deflate") == first


def test_what_failed_is_an_error_and_is_said(tmp_path: Path) -> None:
    def break_some(log: dict[str, Any]) -> None:
        log["status"] = "error"
        log["samples"][0] |= {"error": {"message": "the server\nwent away"}, "output": {}}
        log["samples"][1]["output"]["choices"][0]["stop_reason"] = "content_filter"
        del log["samples"][2]

    summary = import_log(as_json(tmp_path / "log.json", break_some), tmp_path / "run")
    assert sum(view.error for view in summary.views.values()) == 2
    said = " ".join(summary.warnings)
    assert "status 'error'" in said and "2 of 11" in said and "1 of 12" in said
    errors = [row.error for row in RunFolder(tmp_path / "run").responses() if row.error]
    assert "the server went away" in errors


def test_reasoning_and_attachments_are_put_back(tmp_path: Path) -> None:
    def rewrite(log: dict[str, Any]) -> None:
        first, second = log["samples"][:2]
        first["output"]["choices"][0]["message"]["content"] = [
            {"type": "reasoning", "reasoning": "It is 1."},
            {"type": "text", "text": "\\boxed{2}"},
        ]
        second["attachments"] = {"abc": "\\boxed{3}"}
        second["output"]["choices"][0]["message"]["content"] = "attachment://abc"

    import_log(as_json(tmp_path / "log.json", rewrite), tmp_path / "run")
    texts = {row.response for row in RunFolder(tmp_path / "run").responses()}
    assert {"<think>It is 1.</think>\\boxed{2}", "\\boxed{3}"} <= texts


def test_places_of_diagrams_come_from_a_log_only_if_allowed(tmp_path: Path) -> None:
    import_log(LOG, tmp_path / "run")
    assert {row.image for row in RunFolder(tmp_path / "run").problems().values()} == {None}
    import_log(LOG, tmp_path / "trusted", allow_outside=True)
    assert None not in {row.image for row in RunFolder(tmp_path / "trusted").problems().values()}


def test_another_log_does_not_resume_the_run(tmp_path: Path) -> None:
    import_log(LOG, tmp_path / "run")
    with pytest.raises(UserError, match="answers was"):
        import_log(as_json(tmp_path / "log.json"), tmp_path / "run")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"PK not a zip", "is not a log"),
        (b"{", "is not a log"),
        (b"[]", "is not a log"),
        (b'{"eval": {"model": "m"}}', "no samples"),
        (b'{"eval": {"model": "m", "task": "mine"}, "samples": [{}]}', "the task 'mine'"),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "log").write_bytes(content)
    with pytest.raises(UserError, match=words) as refused:
        import_log(tmp_path / "log", tmp_path / "run")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("more", "words"),
    [(["--gt", "x"], "--gt"), ([str(LOG)], "2 are given")],
)
def test_options_of_other_imports_are_refused(
    tmp_path: Path, more: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "run")]
    assert main(["import", "--from", "inspect", str(LOG), *more, *out]) == 2
    assert words in capsys.readouterr().err


def test_the_task_asks_what_eval_asks_and_its_log_is_read_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("inspect_ai")
    from inspect_ai import eval as run_task  # pyright: ignore[reportMissingImports]
    from inspect_ai.model import (  # pyright: ignore[reportMissingImports]
        ModelOutput,
        ModelUsage,
        get_model,
    )

    from modgap.workflows.inspect_task import gap

    write_dataset(tmp_path / "data", 0, 2, 5)
    task = gap(data=str(tmp_path / "data"), samples=1)
    right = {sample.metadata["modgap"]["prompt"]: sample.target for sample in task.dataset}

    def reply(messages: list[Any], *_: Any) -> Any:
        words = messages[-1].content[-1].text
        answer = right[words] if "In this problem" in words else "-1"
        output = ModelOutput.from_content("mockllm/model", f"\\boxed{{{answer}}}")
        output.usage = ModelUsage(input_tokens=1, output_tokens=1, total_tokens=2)
        return output

    model = get_model("mockllm/model", custom_outputs=reply)
    (log,) = run_task(task, model=model, log_dir=str(tmp_path / "logs"), display="none")
    assert log.status == "success"
    assert log.results.scores[0].metrics["modality_gap"].value == 100.0
    location = Path(log.location.removeprefix("file://"))
    assert main(["import", "--from", "inspect", str(location), "--out", str(tmp_path / "r")]) == 0
    assert "gap 100.0 points" in capsys.readouterr().out
    manifest = RunFolder(tmp_path / "r").manifest()
    problems = load_problems(str(tmp_path / "data"))
    assert manifest["fingerprints"]["data_fingerprint"] == fingerprint(problems)
