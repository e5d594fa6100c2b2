"""Evaluation prompts equal those of the original's two PGPS9K scripts, to the letter.

The scripts are those of the checkout that `MODGAP_ORIGINAL` names: of either public original.
"""

from __future__ import annotations

import ast
import os
from pathlib import Path
from typing import Any

import pytest
from folders import CORNERS

from modgap.core.problem import Problem
from modgap.core.prompt import evaluation_prompt

SCRIPTS = {
    "full-text": "test-qwen-2d5-vl-fullcond-prompt.py",
    "image-only": "test-qwen-2d5-vl.py",
}


def words_of(script: Path) -> Any:
    """The original's `build_question_text`, with the functions that it calls."""
    tree = ast.parse(script.read_text())
    wanted = ("process_condition", "process_image_info", "build_question_text")
    parts = [
        node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in wanted
    ]
    space: dict[str, Any] = {"Dict": dict}
    exec(compile(ast.Module([*parts], []), script.name, "exec"), space)
    return space["build_question_text"]


@pytest.mark.parametrize("view", list(SCRIPTS))
def test_prompts_are_the_originals(view: str) -> None:
    if not (name := os.environ.get("MODGAP_ORIGINAL")):
        pytest.skip("MODGAP_ORIGINAL names no checkout of the original repository")
    build = words_of(Path(name) / "eval" / "pgps9k" / SCRIPTS[view])
    style = "paper-author" if "You should FIRST" in build(CORNERS["plain"]) else "paper"
    for record in CORNERS.values():
        problem = Problem(
            id="prob_1",
            question=record["text"],
            answer=record["answer"],
            structural=tuple(record["parsing_stru_seqs"]),
            semantic=tuple(record["parsing_sem_seqs"]),
        )
        assert evaluation_prompt(problem, view, style).text == build(record)
