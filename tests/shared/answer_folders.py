"""Answer folders as the original writes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from folders import record, write_folder

FULL, IMAGE = "new_9k_m_full_cond_max4096_n4_tmp_0.6_bs16", "new_9k_m_4096_tmp_0.6"


def write_answers(folder: Path, answers: Mapping[str, str | bytes]) -> Path:
    folder.mkdir(parents=True)
    for name, text in answers.items():
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def gold_file(folder: Path, **golds: str) -> Path:
    records = {
        f"prob_{name.removeprefix('p')}": record(answer=gold) for name, gold in golds.items()
    }
    return write_folder(folder, test=records, diagrams={}) / "test.json"


def both_views(tmp_path: Path) -> list[Path]:
    """Two attempts each at problems 1 and 2 in both views; strictly, 3 of 4 are right from text and
    1 of 4 else.
    """
    texts = {
        "qprob_1_attempt0.txt": "\\boxed{25}",
        "qprob_1_attempt1.txt": "\\boxed{25.004}",
        "qprob_2_attempt0.txt": "\\boxed{7.1}",  # within 1%, not within 0.005
        "qprob_2_attempt1.txt": "\\boxed{7.07}",
    }
    images = {
        "qprob_1_attempt0.txt": "no box",
        "qprob_1_attempt1.txt": "\\boxed{24}",
        "qprob_2_attempt0.txt": "",
        "qprob_2_attempt1.txt": "π \\boxed{7.07°}",
    }
    return [write_answers(tmp_path / FULL, texts), write_answers(tmp_path / IMAGE, images)]
