"""What is attacked: data sets, runs, trainings and studies, all sound, made once."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from functools import cached_property
from pathlib import Path
from typing import Any

from modgap.cli.main import main

SHARED = Path(__file__).resolve().parents[2] / "tests" / "shared"
sys.path.append(str(SHARED))

ECHO = f"{Path(__file__).with_name('echo.py')}:Echo"
TRAINING = (
    "steps=2", "prompts_per_step=2", "samples_per_prompt=2", "mini_batch=2", "micro_batch=2",
    "max_response_tokens=8", "overlong_buffer=2", "save_every=1", "eval_every=1",
    "validation_problems=2", "max_refills=0",
)  # fmt: skip


class Material:
    """Sound folders, each made when it is first asked for.

    Args:
        root: Where they are; nothing changes them afterwards.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)

    @cached_property
    def data(self) -> Path:
        """A data set in PGPS9K's layout, 6 problems to train and 4 to test."""
        return self._drawn("data", 3)

    @cached_property
    def other_data(self) -> Path:
        """Another one with the same ids."""
        return self._drawn("other_data", 4)

    def _drawn(self, name: str, seed: int) -> Path:
        from modgap.datasets.synthetic.write import write_dataset

        write_dataset(self.root / name, 6, 4, seed=seed, workers=1)
        return self.root / name

    @cached_property
    def pairs(self) -> Path:
        """The test problems as JSONL, with their images beside."""
        folder = self.root / "pairs"
        folder.mkdir()
        lines: list[str] = []
        for name, record in json.loads((self.data / "test.json").read_text()).items():
            image = self.data / "Diagram_Visual" / record["diagram"]
            (folder / record["diagram"]).write_bytes(image.read_bytes())
            words = ", ".join(record["parsing_sem_seqs"])
            prompts = {"full-text": f"{words}. {record['text']}", "image-only": record["text"]}
            row = {"id": name, "image": record["diagram"], "answer": record["answer"]}
            lines.append(json.dumps(row | {"prompts": prompts, "type": record["type"]}) + "\n")
        (folder / "problems.jsonl").write_text("".join(lines))
        return folder

    @cached_property
    def mathverse(self) -> Path:
        """Both parquet files of MathVerse."""
        import mathverse_data

        return mathverse_data.write_set(self.root / "mathverse", 3)

    @cached_property
    def mathverse_json(self) -> Path:
        """The JSON form."""
        import mathverse_data

        folder = self.root / "mathverse_json"
        folder.mkdir()
        rows = mathverse_data.rows(3, versions=mathverse_data.VERSIONS)
        mathverse_data.write_json(folder / "testmini.json", rows)
        return folder

    def evaluation(self, out: Path, data: Path | None = None, **more: Any) -> list[str]:
        """The command of an evaluation that needs no model."""
        data = data or self.data
        options = {"data": data, "model": data, "engine": ECHO, "out": out, "samples": 2} | more
        return ["eval", *(part for k, v in options.items() for part in (f"--{k}", str(v)))]

    @cached_property
    def run(self) -> Path:
        """An evaluation, graded, with charts."""
        return self._made("run", self.evaluation(self.root / "run"))

    @cached_property
    def other_run(self) -> Path:
        """An evaluation of other problems with the same ids, with another seed."""
        return self._made(
            "other_run", self.evaluation(self.root / "other_run", self.other_data, seed=7)
        )

    @cached_property
    def imported(self) -> Path:
        """A run of the original's answers."""
        return self._made("imported", self.importing(self.root / "imported"))

    @cached_property
    def answers(self) -> list[Path]:
        """The original's answer folders."""
        import answer_folders

        return answer_folders.both_views(self.root / "answers")

    @cached_property
    def golds(self) -> Path:
        """The data set of these answers."""
        import answer_folders

        return answer_folders.gold_file(self.root / "golds", p1="25.000", p2="7.070")

    def importing(self, out: Path) -> list[str]:
        """The command that imports them."""
        return ["import", *map(str, self.answers), "--gt", str(self.golds), "--out", str(out)]

    @cached_property
    def generations(self) -> Path:
        """A file of generations of MathVerse, as the original's script writes them."""
        import mathverse_data

        rows = mathverse_data.rows(3, versions=mathverse_data.VERSIONS)
        lines = [
            {key: row[key] for key in ("sample_index", "problem_index", "problem_version",
                                       "question", "answer", "question_type", "metadata",
                                       "question_for_eval")}
            | {"model_answer": f"so \\boxed{{{row['answer']}}}"}
            for row in rows
        ]  # fmt: skip
        path = self.root / "generations" / "m_generations.jsonl"
        path.parent.mkdir()
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return path

    @cached_property
    def judged(self) -> Path:
        """A run of MathVerse's problems that a judge has not seen."""
        import judge_server

        run = judge_server.write_run(self.root / "judged")
        quietly(["grade", str(run.path)])
        return run.path

    @cached_property
    def study(self) -> Path:
        """A study of three recipes, with made-up verdicts."""
        import written_studies

        return written_studies.write_studies(self.root / "studies", 2)[0].parent

    @cached_property
    def cells(self) -> Path:
        """The folder of a report's cells.json."""
        folder = self.root / "cells"
        folder.mkdir()
        quietly(["report", str(self.study), "--out", str(folder / "r.html"), "--figures"])
        (path,) = folder.rglob("cells.json")
        (folder / "kept").mkdir()
        return path.rename(folder / "kept" / "cells.json").parent

    @cached_property
    def tiny(self) -> Path:
        """A very small Qwen2.5-VL with random weights."""
        from tiny_training import PROBLEMS, SIZE

        from modgap.core.prompt import training_prompt
        from modgap.testbed.build import build_tiny

        words = [training_prompt(problem, "full-text").text for problem in PROBLEMS]
        return build_tiny(self.root / "tiny", words, seed=3, size=SIZE)

    def training(self, out: Path) -> list[str]:
        """The command of a training of two steps."""
        sets = [part for setting in TRAINING for part in ("--set", setting)]
        return ["train", "full-text", "--data", str(self.data), "--model", str(self.tiny), "--out",
                str(out), "--device", "cpu", *sets]  # fmt: skip

    @cached_property
    def trained(self) -> Path:
        """Such a training."""
        return self._made("trained", self.training(self.root / "trained"))

    def _made(self, name: str, command: list[str]) -> Path:
        quietly(command)
        return self.root / name


def quietly(command: list[str]) -> str:
    """Run a command that must succeed; returns what it printed."""
    with (
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as err,
    ):
        status = main(command)
    if status:
        raise RuntimeError(f"{command}: {err.getvalue()}")
    return out.getvalue()
