"""An engine that needs no model: it looks the answer up, and is wrong one time in three."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from modgap.core.engine import Completion, Request, Sampling
from modgap.engines.scripted import ScriptedEngine


class Echo:
    """The answers of a data set, whose folder is the model's name."""

    def __init__(self, golds: dict[str, str]) -> None:
        self._golds = golds

    @classmethod
    def from_options(cls, model: str, options: Any) -> Echo:
        from modgap.workflows.problems import read_problems

        return cls({problem.id: problem.answer for problem in read_problems("pgps9k", Path(model))})

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
        def says(request: Request, sample: int) -> str:
            right = zlib.crc32(f"{request.problem_id} {request.view} {sample}".encode()) % 3
            gold = self._golds[request.problem_id]
            return f"<think>so</think> \\boxed{{{gold if right else 1}}}"

        return ScriptedEngine(says).generate(requests, sampling)
